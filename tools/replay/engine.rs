//! The plane over the messages of a capture: bursts as a shard would take them, on the capture's clock,
//! every send a success.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use hdrhistogram::Histogram;
use pushplane::capture::push::Push;
use pushplane::clock::{Clock, Now};
use pushplane::config::{Limits, Policy};
use pushplane::id::{Endpoint, PushId};
use pushplane::metrics::Counters;
use pushplane::packet::{Burst, Done, FramePool};
use pushplane::plane::explain::{Sent, verdict_name};
use pushplane::plane::{NoTrace, Plane, Shared, Site, Verdict};
use pushplane::reason::Reason;
use pushplane::table::Tables;
use pushplane::wire::prp::Header;
use xxhash_rust::xxh3::Xxh3;

use crate::common;
use crate::outcome::{Percentiles, histogram};

/// What came within this time of the first is one burst, as a busy shard would find it.
const BURST_NS: u64 = 1_000_000;
/// Enough for a burst of users with many terminals.
const FRAMES: usize = 8192;

/// Runs the plane.
pub(super) struct Engine<'a> {
    tables: &'a Tables,
    site: Site,
    plane: Plane,
    burst: Burst,
    rows: Vec<Row>,
    /// When the burst began, and the capture.
    began_ns: u64,
    start_ns: Option<u64>,
    clock: Clock,
    latency: Histogram<u64>,
    digest: Xxh3,
    planned: u64,
    sent: u64,
    /// A line a message is wanted.
    verbose: bool,
    /// What this server sends from, itself or as a gateway's inner source.
    own: HashSet<Endpoint>,
}

/// What the burst does not hold of a message.
struct Row {
    time_ns: u64,
    frame_number: u64,
    from: Endpoint,
    destination: PushId,
}

/// What came out.
#[derive(serde::Serialize)]
pub(super) struct Outcome {
    /// Messages that the capture holds.
    pub(super) planned: u64,
    /// Messages that the engine was given.
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) forwarded: u64,
    pub(super) answered: u64,
    /// Messages by the name of the reason.
    pub(super) dropped: BTreeMap<&'static str, u64>,
    /// Datagrams that left, copies and REJECTs included.
    pub(super) tx: u64,
    pub(super) rejects: u64,
    /// Nanoseconds behind the schedule: offline there is none.
    pub(super) late: Percentiles,
    /// Nanoseconds of work a datagram.
    pub(super) latency: Percentiles,
    /// Everything planned was sent and is in exactly one counter.
    pub(super) valid: bool,
    /// Over every message's frame number, destination, verdict, reason and sends.
    pub(super) digest: String,
}

impl<'a> Engine<'a> {
    /// For the server that the tables are seen as.
    pub(super) fn new(tables: &'a Tables, verbose: bool) -> Self {
        let limits = Limits::default();
        let own = tables.own().map(|own| tables.server_address(own));
        let site = Site {
            policy: Policy::default(),
            listen: own.map(common::listen_of).unwrap_or_default(),
            datagram_max: limits.datagram_max,
            shard: 0,
            shared: Arc::new(Shared::new(&limits, 1, 0)),
        };
        let pool = FramePool::new(FRAMES, limits.datagram_max);
        let gateways = tables.image().to_rib_without_users().gateways;
        let inner = gateways.iter().flat_map(|gateway| [gateway.source_v4, gateway.source_v6]);
        let own = inner.chain([own]).flatten().collect();
        Self {
            tables,
            site,
            plane: Plane::new(FRAMES),
            burst: Burst::new(pool),
            rows: Vec::new(),
            began_ns: 0,
            start_ns: None,
            clock: Clock::start(),
            latency: histogram(),
            digest: Xxh3::new(),
            planned: 0,
            sent: 0,
            verbose,
            own,
        }
    }

    /// Messages so far.
    pub(super) const fn planned(&self) -> u64 {
        self.planned
    }

    /// Whether this server sent it, itself or as a gateway's inner source.
    pub(super) fn is_own(&self, from: Endpoint) -> bool {
        self.own.contains(&from)
    }

    /// One more message; lines about those that are decided go to `out`.
    pub(super) fn take(&mut self, push: &Push<'_>, out: &mut dyn Write) -> io::Result<()> {
        let late = push.time_ns.saturating_sub(self.began_ns) > BURST_NS;
        if self.burst.is_full() || (late && !self.rows.is_empty()) {
            self.flush(out)?;
        }
        if self.rows.is_empty() {
            // Time never goes back, even where the capture's does.
            self.began_ns = self.began_ns.max(push.time_ns);
            self.start_ns.get_or_insert(self.began_ns);
        }
        self.planned += 1;
        let listener = self.site.listen.iter().position(|own| own.is_ipv4() == push.from.is_ipv4());
        if self.burst.push_copy(push.bytes, push.from, listener.unwrap_or(0) as u8) {
            self.sent += 1;
            let destination = Header::read(push.bytes).map(|header| header.destination).unwrap_or_default();
            let (time_ns, frame_number, from) = (push.time_ns, push.frame_number, push.from);
            self.rows.push(Row { time_ns, frame_number, from, destination });
        }
        Ok(())
    }

    /// Decides what waits.
    pub(super) fn flush(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let since_ns = self.began_ns - self.start_ns.unwrap_or(self.began_ns);
        let now = Now { mono_ns: 1_000_000_000 + since_ns, unix_ms: self.began_ns / 1_000_000 };
        let start = self.clock.now().mono_ns;
        self.plane.process(&self.site, self.tables, now, &mut self.burst, &mut NoTrace);
        let took = self.clock.now().mono_ns - start;
        let count = self.rows.len() as u64;
        self.latency.saturating_record_n((took / count).max(1), count);

        let rows = std::mem::take(&mut self.rows);
        for (at, row) in rows.iter().enumerate() {
            let verdict = self.plane.verdict(at);
            let sends = if matches!(verdict, Verdict::Drop(_)) { &[][..] } else { self.plane.sends(at) };
            let sends: Vec<Sent<'_>> = sends.iter().map(|send| Sent::of(self.tables, send)).collect();
            digest(&mut self.digest, row, verdict, &sends);
            if self.verbose {
                line(out, row, verdict, &sends)?;
            }
        }
        self.rows = rows;
        self.rows.clear();

        let burst = &mut self.burst;
        for tx in burst.tx.drain(..) {
            burst.done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno: 0 });
            burst.pool.put(tx.frame);
        }
        self.plane.ledger_mut().settle(&burst.done);
        burst.done.clear();
        burst.clear_rows();
        Ok(())
    }

    /// What came out of all messages.
    pub(super) fn outcome(&self) -> Outcome {
        let counters: &Counters = self.plane.ledger().counters();
        let dropped = Reason::ALL.iter().map(|reason| (reason.name(), counters.dropped[reason.index()]));
        Outcome {
            planned: self.planned,
            sent: self.sent,
            delivered: counters.delivered,
            forwarded: counters.forwarded,
            answered: counters.answered,
            dropped: dropped.filter(|(_, count)| *count > 0).collect(),
            tx: counters.tx,
            rejects: counters.rejects,
            late: Percentiles::default(),
            latency: Percentiles::of(&self.latency),
            valid: self.planned == self.sent
                && self.sent == counters.rx
                && counters.in_flight == 0
                && counters.unaccounted() == 0,
            digest: format!("{:032x}", self.digest.digest128()),
        }
    }
}

/// Adds a message: its frame number, its destination, the verdict's name, the reason's code, how many sends, and of each
/// its address and port, its way, the terminal and its private address. Numbers are little-endian.
fn digest(hash: &mut Xxh3, row: &Row, verdict: Verdict, sends: &[Sent<'_>]) {
    let reason = if let Verdict::Drop(reason) = verdict { reason.code() } else { 0 };
    hash.update(&row.frame_number.to_le_bytes());
    hash.update(&row.destination.to_bytes());
    hash.update(verdict_name(verdict).as_bytes());
    hash.update(&reason.to_le_bytes());
    hash.update(&(sends.len() as u32).to_le_bytes());
    for send in sends {
        for endpoint in [send.to, send.private.unwrap_or(Endpoint::NONE)] {
            hash.update(&endpoint.octets());
            hash.update(&endpoint.port().to_le_bytes());
        }
        hash.update(send.via.as_bytes());
        hash.update(&[send.device]);
    }
}

fn line(out: &mut dyn Write, row: &Row, verdict: Verdict, sends: &[Sent<'_>]) -> io::Result<()> {
    let nanoseconds = i128::from(row.time_ns);
    match jiff::Timestamp::from_nanosecond(nanoseconds) {
        Ok(time) => write!(out, "{time:.6}")?,
        Err(_) => write!(out, "{nanoseconds}")?,
    }
    write!(out, " #{} {} {} {}", row.frame_number, row.from, row.destination, verdict_name(verdict))?;
    if let Verdict::Drop(reason) = verdict {
        write!(out, " {reason}")?;
    }
    for send in sends {
        write!(out, " {}", send.to)?;
        match (send.gateway, send.server) {
            (Some(name), _) | (None, Some(name)) => write!(out, " ({name})")?,
            _ => {}
        }
    }
    writeln!(out)
}
