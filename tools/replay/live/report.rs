//! What a live replay says at its end, and what of it is kept in files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use pushplane::reason::Reason;

use super::answers::{AnswerCounts, Answers};
use super::schedule::Timing;
use super::sender::Sent;
use super::source::Prepared;
use crate::common::grouped;
use crate::outcome::{Percentiles, Tally};
use crate::replay::report::{Contents, count};

/// Bounds of the table of lateness, nanoseconds.
const LATE_BOUNDS_NS: [u64; 6] = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// All of it; what is printed as JSON.
#[derive(serde::Serialize)]
pub(crate) struct Report {
    pub(crate) capture: String,
    pub(crate) server: String,
    pub(crate) timing: Timing,
    pub(crate) speed: Option<f64>,
    pub(crate) loops: u64,
    /// What the kernel was asked by.
    pub(crate) port: String,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    /// Messages that wanted no answer and had none.
    pub(crate) silent: u64,
    /// Answers beyond the first to a message.
    pub(crate) more_answers: u64,
    /// Datagrams that answered nothing that was sent.
    pub(crate) strange: u64,
    /// From when a message was sent to its answer; `latency` is from when it was due.
    pub(crate) service: Percentiles,
    /// Messages by how late they were.
    pub(crate) late_histogram: Vec<Within>,
    /// How late the last one was: what the whole run drifted by.
    pub(crate) drift_ns: u64,
    pub(crate) seconds: f64,
    /// Messages a second.
    pub(crate) rate: f64,
    /// Sends that the kernel had no room for at first.
    pub(crate) retried: u64,
    /// Messages that it refused.
    pub(crate) failed: u64,
    /// Datagrams that came back and that it dropped.
    pub(crate) kernel_drops: u64,
    /// Answers in the capture, which nobody asked for now.
    pub(crate) skipped_answers: u64,
    /// Why the run says nothing about the server; none when it is valid.
    pub(crate) invalid: Vec<String>,
    #[serde(flatten)]
    pub(crate) contents: Option<Contents>,
}

/// So many were no later than this, and later than the one before.
#[derive(serde::Serialize)]
pub(crate) struct Within {
    /// None: later than all others.
    within_ns: Option<u64>,
    count: u64,
}

/// What makes a run invalid.
pub(crate) struct Bounds {
    pub(crate) timed: bool,
    pub(crate) max_lag_ns: u64,
}

/// What the parts of a run make together.
pub(crate) fn tally(
    prepared: &Prepared,
    sent: &Sent,
    answers: &Answers,
    bounds: &Bounds,
) -> (Tally, Vec<String>) {
    let AnswerCounts { delivered, answered, dropped, lost, .. } = answers.counts;
    let mut invalid = Vec::new();
    let late = Percentiles::of(&sent.late);
    if bounds.timed && late.p99 > bounds.max_lag_ns {
        invalid.push(format!(
            "the sender could not keep the schedule: one message in a hundred was more than {} µs late, {} µs are \
             allowed",
            grouped(late.p99 / 1000),
            grouped(bounds.max_lag_ns / 1000)
        ));
    }
    if sent.sent < prepared.planned {
        let (sent, planned) = (grouped(sent.sent), grouped(prepared.planned));
        invalid.push(format!("{sent} of {planned} messages were sent"));
    }
    if sent.failed > 0 {
        let why = io::Error::from_raw_os_error(sent.first_error.unwrap_or(0));
        invalid.push(format!("the kernel refused {} messages, the first since {why}", grouped(sent.failed)));
    }
    if sent.kernel_drops > 0 {
        invalid.push(format!(
            "the kernel dropped {} datagrams that came back; raise net.core.rmem_max",
            grouped(sent.kernel_drops)
        ));
    }
    let dropped = Reason::ALL.iter().map(|reason| (reason.name(), dropped[reason.index()]));
    let tally = Tally {
        planned: prepared.planned,
        sent: sent.sent - sent.failed,
        delivered,
        answered,
        dropped: dropped.filter(|(_, count)| *count > 0).collect(),
        lost,
        late,
        latency: Percentiles::of(&answers.latency),
        valid: invalid.is_empty(),
        ..Tally::default()
    };
    (tally, invalid)
}

/// The table of a histogram.
pub(crate) fn table(late: &Histogram<u64>) -> Vec<Within> {
    if late.is_empty() {
        return Vec::new();
    }
    let mut table = Vec::new();
    let mut below = 0;
    for bound in LATE_BOUNDS_NS {
        let upto = late.count_between(0, bound);
        table.push(Within { within_ns: Some(bound), count: upto - below });
        below = upto;
    }
    table.push(Within { within_ns: None, count: late.len() - below });
    table
}

impl Report {
    /// For people.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Tally { planned, sent, delivered, answered, dropped, lost, late, latency, valid, .. } =
            &self.tally;
        count(out, "messages planned", *planned)?;
        count(out, "sent", *sent)?;
        count(out, "delivered: a receipt came", *delivered)?;
        count(out, "answered otherwise", *answered)?;
        for (reason, dropped) in dropped {
            count(out, &format!("rejected: {reason}"), *dropped)?;
        }
        count(out, "lost: an answer was wanted and none came", *lost)?;
        count(out, "wanted no answer and had none", self.silent)?;
        for (what, some) in [
            ("further answers", self.more_answers),
            ("datagrams that answer nothing", self.strange),
            ("sends tried again", self.retried),
            ("refused by the kernel", self.failed),
            ("came back and were dropped by the kernel", self.kernel_drops),
            ("answers in the capture, left out", self.skipped_answers),
        ] {
            if some > 0 {
                count(out, what, some)?;
            }
        }
        if let Some(contents) = &self.contents {
            contents.print(out)?;
        }
        writeln!(
            out,
            "{:.3} s, {} messages a second, by {}",
            self.seconds,
            grouped(self.rate as u64),
            self.port
        )?;
        if !self.late_histogram.is_empty() {
            writeln!(out, "late, µs: {}; the last one {}", microseconds(late), micro(self.drift_ns))?;
            for Within { within_ns, count: some } in
                self.late_histogram.iter().filter(|within| within.count > 0)
            {
                match within_ns {
                    Some(bound) => count(out, &format!("up to {} µs late", grouped(bound / 1000)), *some)?,
                    None => count(out, "later", *some)?,
                }
            }
        }
        if latency.max > 0 {
            writeln!(out, "answered after, µs from when it was due: {}", microseconds(latency))?;
            writeln!(out, "answered after, µs from when it was sent: {}", microseconds(&self.service))?;
        }
        for why in &self.invalid {
            writeln!(out, "{why}")?;
        }
        writeln!(out, "{}", if *valid { "valid" } else { "INVALID" })
    }
}

fn micro(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}

fn microseconds(of: &Percentiles) -> String {
    let Percentiles { p50, p90, p99, p999, max } = *of;
    let parts = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
    parts.map(|(name, ns)| format!("{name} {}", micro(ns))).join(", ")
}

/// Keeps histograms as they are, for other programs: an HdrHistogram interval log, nanoseconds, a tag each.
pub(crate) fn keep(
    path: &Path,
    start: SystemTime,
    seconds: f64,
    histograms: &[(&str, &Histogram<u64>)],
) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut serializer = V2DeflateSerializer::new();
    let other = |error: &dyn std::fmt::Debug| io::Error::other(format!("{error:?}"));
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("pushplane; nanoseconds")
        .with_start_time(start)
        .begin_log_with(&mut file, &mut serializer)
        .map_err(|error| other(&error))?;
    for (name, histogram) in histograms {
        log.write_histogram(histogram, Duration::ZERO, Duration::from_secs_f64(seconds), Tag::new(name))
            .map_err(|error| other(&error))?;
    }
    file.flush()
}
