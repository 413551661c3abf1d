//! `/metrics`: the counters and facts as Prometheus text, 0.0.4 or OpenMetrics.

use hyper::header::HeaderMap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::metrics::{Counters, ReportCounters};
use crate::reason::{Reason, Unanswered};
use crate::server::controller::Told;
use crate::server::{State, TableFacts};

/// The page as this asker takes it, and its content type.
pub(super) fn page(headers: &HeaderMap, state: &State) -> Result<(&'static str, String), std::fmt::Error> {
    let mut wanted = headers.get_all(hyper::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let text = metrics(state)?;
    if wanted.any(|value| value.contains(OPEN_METRICS)) {
        return Ok(("application/openmetrics-text; version=1.0.0; charset=utf-8", text));
    }
    Ok(("text/plain; version=0.0.4; charset=utf-8", prometheus_text(&text)))
}

/// What a scraper says that takes OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// OpenMetrics as the older Prometheus text (0.0.4), in which a counter is declared by its whole name and
/// an info is a gauge.
fn prometheus_text(open: &str) -> String {
    let suffix_of = |name: &str| {
        let kind = open.lines().find_map(|line| {
            let (declared, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            (declared == name).then_some(kind)
        });
        match kind {
            Some("counter") => "_total",
            Some("info") => "_info",
            _ => "",
        }
    };
    let line = |line: &str| {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let rest = if rest == "info" { "gauge" } else { rest };
                format!("# {what} {name}{} {rest}\n", suffix_of(name))
            }
            (Some("#"), ..) => String::new(),
            _ => format!("{line}\n"),
        }
    };
    open.lines().map(line).collect()
}

/// The whole page of `/metrics`. No label comes from a datagram.
fn metrics(state: &State) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::of(state)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    counters: Counters,
    /// Where RADIUS is listened to.
    reports: Option<ReportCounters>,
    facts: TableFacts,
    shards: usize,
    ready: bool,
    /// Bindings, and slots of the live tables in use and in all.
    live: [usize; 3],
    journal: Told,
}

impl Snapshot {
    fn of(state: &State) -> Self {
        Self {
            counters: state.counters(),
            reports: (!state.radius.each.is_empty()).then(|| state.radius.counters()),
            facts: state.facts().clone(),
            shards: state.boards.len(),
            ready: state.is_ready(),
            live: state.live(),
            journal: state.journal.read(),
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let c = &self.counters;
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(
                &format!("pushplane_{name}"),
                help,
                None,
                metric.metric_type(),
            )?)
        };
        counter("rx_datagrams", "Datagrams received", c.rx)?;
        counter("rx_bytes", "Bytes received", c.rx_bytes)?;
        counter("tx_datagrams", "Datagrams that the kernel took, copies and REJECTs included", c.tx)?;
        counter("tx_bytes", "Bytes sent", c.tx_bytes)?;
        counter("tx_failed", "Datagrams that the kernel refused", c.tx_failed)?;
        counter("tx_full", "Datagrams refused because the kernel had no room", c.tx_full)?;
        counter("tx_too_long", "Datagrams refused because they are too long for the way", c.tx_too_long)?;
        counter("tx_unreachable", "Datagrams refused for want of a way, or of a right", c.tx_unreachable)?;
        counter("rx_batches", "Receives, each of a datagram or of several as one", c.receives)?;
        counter("tx_batches", "Sends, each of a datagram or of several as one", c.sends)?;
        counter("tx_groups_refused", "Groups of datagrams that had to leave one by one", c.groups_refused)?;
        counter("rx_starved", "Receives that ended for want of a buffer", c.rx_starved)?;
        counter("rx_interrupted", "Receives that ended for want of a completion", c.rx_interrupted)?;
        counter("rx_errors", "Receives that failed", c.rx_errors)?;
        counter("delivered", "Messages sent to at least one terminal", c.delivered)?;
        counter("forwarded", "Messages sent to another Push server or to an asker only", c.forwarded)?;
        counter("answered", "Messages answered by this server", c.answered)?;
        counter("terminals_failed", "Terminals of a message that could not be served", c.terminals_failed)?;
        counter("copies_delivered", "Copies for members of groups sent to a terminal", c.copies_delivered)?;
        counter("copies_forwarded", "Copies sent to another Push server only", c.copies_forwarded)?;
        counter("copies_dropped", "Copies for members who could not be served", c.copies_dropped)?;
        counter("rejects", "REJECTs sent", c.rejects)?;
        counter("rejects_suppressed", "REJECTs over the limit of a source address", c.rejects_suppressed)?;
        counter("punted", "Messages handed to the controller", c.punted)?;
        counter("bursts", "Bursts worked on", c.bursts)?;
        counter(
            "kernel_rx_drops",
            "Datagrams that the kernel dropped before they were received",
            c.kernel_drops,
        )?;
        let journal = &self.journal;
        counter("journal_commits", "Commits of the journal, one fdatasync each", journal.commits)?;
        counter("journal_records", "Changes that became durable", journal.records)?;
        counter("journal_snapshots", "Snapshots of the journal", journal.snapshots)?;

        let mut dropped = encoder.encode_descriptor(
            "pushplane_dropped",
            "Messages dropped, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            let count = ConstCounter::new(c.dropped[reason.index()]);
            count.encode(dropped.encode_family(&[("reason", reason.name())])?)?;
        }

        let mut gauge = |name: &str, help: &str, value: i64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(
                &format!("pushplane_{name}"),
                help,
                None,
                metric.metric_type(),
            )?)
        };
        gauge("unaccounted", "Received messages that are in no counter: always 0", c.unaccounted())?;
        gauge("in_flight", "Messages received and not yet in another counter", c.under_way() as i64)?;
        gauge("shards", "Shards", self.shards as i64)?;
        gauge("ready", "1 while the server takes work", i64::from(self.ready))?;
        gauge(
            "live_used",
            "Entries of the live tables, tombstones and lent Push IDs too",
            self.live[1] as i64,
        )?;
        gauge("live_size", "Entries that the live tables have room for", self.live[2] as i64)?;
        let journal = &self.journal;
        gauge(
            "journal_segment_bytes",
            "Bytes of the journal behind its last snapshot",
            journal.segment_bytes as i64,
        )?;
        gauge(
            "journal_snapshot_bytes",
            "Bytes of the journal's last snapshot",
            journal.snapshot_bytes as i64,
        )?;
        gauge("table_generation", "Which generation of the tables serves", self.facts.generation as i64)?;
        gauge("table_bytes", "Bytes of the image that serves", self.facts.image_bytes as i64)?;
        let huge = self.facts.pages.huge_bytes;
        gauge("table_huge_pages", "1 when the image lies on huge pages", i64::from(huge > 0))?;
        gauge("table_huge_page_bytes", "Bytes of the image that lie on huge pages", huge as i64)?;
        gauge("table_generations_retired", "Old generations not freed yet", self.facts.retired as i64)?;

        let mut entries = encoder.encode_descriptor(
            "pushplane_table_entries",
            "Rows of each table",
            None,
            MetricType::Gauge,
        )?;
        let tables = self.facts.tables.iter().filter_map(|(table, rows, _)| Some((*table, (*rows)?)));
        for (table, rows) in tables.chain([("live", self.live[0])]) {
            let count = ConstGauge::new(rows as i64);
            count.encode(entries.encode_family(&[("table", table)])?)?;
        }

        if let Some(reports) = &self.reports {
            encode_reports(&mut encoder, reports)?;
        }

        let digest = format!("{:032x}", self.facts.digest);
        let info = prometheus_client::metrics::info::Info::new(vec![("digest", digest)]);
        info.encode(encoder.encode_descriptor(
            "pushplane_table",
            "Digest of the tables that serve",
            None,
            info.metric_type(),
        )?)
    }
}

/// What became of Accounting-Requests.
fn encode_reports(encoder: &mut DescriptorEncoder<'_>, c: &ReportCounters) -> Result<(), std::fmt::Error> {
    let mut one = |name: &str, help: &str, metric: &dyn EncodeMetric| {
        let name = format!("pushplane_radius_{name}");
        metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)
    };
    one("requests", "Packets received", &ConstCounter::new(c.rx))?;
    one("tx_failed", "Answers that the kernel refused", &ConstCounter::new(c.tx_failed))?;
    one(
        "in_flight",
        "Requests that are neither answered nor dropped yet",
        &ConstGauge::new(c.under_way() as i64),
    )?;
    one("unaccounted", "Requests that are in no counter: always 0", &ConstGauge::new(c.unaccounted()))?;
    one("sessions", "Sessions that are under way", &ConstGauge::new(c.sessions as i64))?;
    let help = "Those of them whose subscriber is not known here";
    one("sessions_unknown", help, &ConstGauge::new(c.sessions_unknown as i64))?;

    let mut family = |name: &str, help: &str, label: &str, rows: &[(&str, u64)]| {
        let name = format!("pushplane_radius_{name}");
        let mut rows_of = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        rows.iter().try_for_each(|(value, count)| {
            ConstCounter::new(*count).encode(rows_of.encode_family(&[(label, *value)])?)
        })
    };
    let effects =
        [("applied", c.applied), ("late", c.late), ("repeated", c.repeated), ("ignored", c.ignored)];
    family("answered", "Requests answered, by what they changed", "effect", &effects)?;
    let dropped: Vec<_> = Unanswered::ALL.iter().map(|why| (why.name(), c.dropped[why.index()])).collect();
    family("dropped", "Packets not answered, by reason", "reason", &dropped)
}
