//! One thread that asks: requests go out in bursts, each is known by its message identifier, and the time until
//! its answer is taken from when it was due.
//!
//! With a rate the load is open: request number k is due k / rate after the start, whatever the server does, so
//! that a pause of the server is seen by every request that was due within it (no coordinated omission). Without
//! one it is closed: the next request leaves when an answer has come.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use pushplane::clock::Clock;
use pushplane::id::{Endpoint, PushId};
use pushplane::net::{Listener, Port, Udp};
use pushplane::packet::{BURST_MAX, Burst, Class, FramePool, Tx};
use pushplane::reason::Reason;
use pushplane::wire::prp::{HeadBuilder, Header, Kind, parse};

use super::fleet::{Ask, Fleet, Mix};
use super::operator::APP;
use crate::common::Progress;
use crate::outcome::{Percentiles, Tally, histogram};

/// How long after the last answer, while some are due, the rest is given up.
const PATIENCE_NS: u64 = 5_000_000_000;
/// The longest wait for answers when none is due.
const WAIT: Duration = Duration::from_millis(1);
/// Requests are numbered from here on, so that no two of a server's life have one identifier.
const SLOT_BITS: u32 = 20;

/// What a PUSH's payload ends with, before the time at which it left: every tunnel keeps it at the end.
const MARK: &[u8; 8] = b"ppbench\n";
const PAYLOAD_BYTES: usize = 128;

/// Who pushes.
const SOURCE: PushId = PushId(0x1 << 124 | 77);

/// What a run is to do.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Requests; none: pushes alone.
    pub(super) mix: Option<Mix>,
    /// PUSHes to terminals that are bound.
    pub(super) pushes: Pushes,
    /// Requests a second; none: as fast as they are answered.
    pub(super) rate: Option<f64>,
    /// Requests on their way at once.
    pub(super) outstanding: usize,
    /// How long requests are sent; none: until every terminal has had its turn.
    pub(super) length: Option<Duration>,
}

/// What a run brought.
pub(super) struct Done {
    pub(super) tally: Tally,
    /// Answers while a snapshot was being written, and how long they took.
    pub(super) compacting: (u64, Percentiles),
    pub(super) pushed: Pushed,
    /// How long each answer took.
    pub(super) latency: Histogram<u64>,
    /// From the first request to the last answer.
    pub(super) ns: u64,
}

/// How PUSHes are sent.
#[derive(Clone, Copy)]
pub(super) enum Pushes {
    None,
    /// So many a second.
    Rate(f64),
    /// As fast as they arrive: so many on their way at once.
    Window(u64),
}

/// What became of PUSHes.
#[derive(Clone, Copy, Default)]
pub(super) struct Pushed {
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) latency: Percentiles,
}

/// The asking side of a socket.
pub(super) struct Load {
    port: Udp,
    burst: Burst,
    server: Endpoint,
    clock: Clock,
    /// Requests on their way, by the low bits of their identifiers.
    slots: Vec<Slot>,
    free: Vec<u32>,
    next: u64,
    head: HeadBuilder,
    /// Whether the server writes a snapshot at this moment.
    compacts: Arc<AtomicBool>,
}

struct Slot {
    message: u64,
    ask: Ask,
    due_ns: u64,
}

/// What a run counts while it goes on.
struct Count {
    tally: Tally,
    latency: Histogram<u64>,
    compacting: Histogram<u64>,
    late: Histogram<u64>,
    pushed: Pushed,
    deliveries: Histogram<u64>,
    last_ns: u64,
}

impl Load {
    /// Asks from the first of these sockets; on the others messages for terminals arrive.
    pub(super) fn new(
        listeners: Vec<Listener>,
        server: Endpoint,
        clock: Clock,
        compacts: Arc<AtomicBool>,
    ) -> Self {
        let burst = Burst::new(FramePool::new(4 * BURST_MAX, 1472));
        let port = Udp::new(listeners, &burst);
        let head = HeadBuilder::new(&Header::new(Kind::Push, PushId::NONE, PushId::NONE, 0));
        Self { port, burst, server, clock, slots: Vec::new(), free: Vec::new(), next: 1, head, compacts }
    }

    /// Asks until the plan is done and everything is answered or given up.
    pub(super) fn run(&mut self, fleet: &mut Fleet<'_>, plan: Plan, progress: &Progress) -> io::Result<Done> {
        self.make_room(plan.outstanding);
        let start = self.clock.now().mono_ns;
        let end = plan.length.map(|length| start + length.as_nanos() as u64);
        let mut count = Count {
            tally: Tally::default(),
            latency: histogram(),
            compacting: histogram(),
            late: histogram(),
            pushed: Pushed::default(),
            deliveries: histogram(),
            last_ns: start,
        };
        let mut more = true;
        // When something came last, or nothing was due.
        let mut heard_ns = start;
        loop {
            let now = self.clock.now().mono_ns;
            more &= end.is_none_or(|end| now < end);
            if more {
                more = self.ask(fleet, &plan, start, now, &mut count)?;
                self.push(fleet, &plan, start, now, &mut count.pushed)?;
            }
            let is_idle = self.free.len() == self.slots.len() && count.pushed.sent == count.pushed.delivered;
            heard_ns = if is_idle { now } else { heard_ns.max(count.last_ns) };
            if (is_idle && !more) || now > heard_ns + PATIENCE_NS {
                break;
            }
            self.port.recv(&mut self.burst, WAIT)?;
            self.hear(fleet, &mut count);
            progress.reach(count.tally.answered);
        }
        Ok(self.finish(start, count))
    }

    fn make_room(&mut self, outstanding: usize) {
        let none = |_| Slot { message: 0, ask: Ask { n: 0, kind: Kind::Register }, due_ns: 0 };
        self.slots = (0..outstanding.min(1 << SLOT_BITS)).map(none).collect();
        self.free = (0..self.slots.len() as u32).rev().collect();
    }

    /// Sends what is due and there is room for; false when there is nothing more to send.
    fn ask(
        &mut self,
        fleet: &mut Fleet<'_>,
        plan: &Plan,
        start: u64,
        now: u64,
        count: &mut Count,
    ) -> io::Result<bool> {
        let Some(mix) = plan.mix else { return Ok(true) };
        let mut more = true;
        for _ in 0..BURST_MAX {
            let due = plan.rate.map_or(now, |rate| start + (count.tally.planned as f64 / rate * 1e9) as u64);
            if due > now || self.free.is_empty() {
                break;
            }
            let Some(mut frame) = self.burst.pool.take() else { break };
            let Some(ask) = fleet.next(mix) else {
                self.burst.pool.put(frame);
                more = mix != Mix::New;
                break;
            };
            count.tally.planned += 1;
            let slot = self.free.pop().unwrap_or_default();
            let message = self.next << SLOT_BITS | u64::from(slot);
            self.next += 1;
            let filled = frame.fill(fleet.datagram(&ask, message));
            debug_assert!(filled, "a request is shorter than a frame");
            self.slots[slot as usize] = Slot { message, ask, due_ns: due };
            count.late.saturating_record(now - due);
            let (to, class) = (self.server, Class::Normal);
            self.burst.tx.push(Tx { frame, to, listener: 0, class, flow: slot, token: slot });
        }
        if !self.burst.tx.is_empty() {
            self.port.send(&mut self.burst)?;
            let done = self.burst.done.drain(..);
            count.tally.sent += done.filter(|done| done.errno == 0).count() as u64;
        }
        Ok(more)
    }

    /// Pushes what is due.
    fn push(
        &mut self,
        fleet: &mut Fleet<'_>,
        plan: &Plan,
        start: u64,
        now: u64,
        pushed: &mut Pushed,
    ) -> io::Result<()> {
        let due = match plan.pushes {
            Pushes::None => return Ok(()),
            Pushes::Rate(rate) => ((now - start) as f64 * rate / 1e9) as u64 + 1,
            Pushes::Window(window) => pushed.delivered + window,
        };
        let mut payload = [0x5A; PAYLOAD_BYTES];
        payload[PAYLOAD_BYTES - 16..][..8].copy_from_slice(MARK);
        payload[PAYLOAD_BYTES - 8..].copy_from_slice(&now.to_be_bytes());
        for _ in 0..BURST_MAX {
            if pushed.sent >= due {
                break;
            }
            let Some(to) = fleet.target() else { break };
            let header = Header { app: APP, ..Header::new(Kind::Push, to, SOURCE, self.next << SLOT_BITS) };
            let Ok(datagram) = self.head.restart(&header).datagram(&payload) else { break };
            let Some(mut frame) = self.burst.pool.take() else { break };
            let filled = frame.fill(&datagram);
            debug_assert!(filled, "a push is shorter than a frame");
            self.next += 1;
            pushed.sent += 1;
            self.burst.tx.push(Tx {
                frame,
                to: self.server,
                listener: 0,
                class: Class::Normal,
                flow: 0,
                token: 0,
            });
        }
        if !self.burst.tx.is_empty() {
            self.port.send(&mut self.burst)?;
            self.burst.done.clear();
        }
        Ok(())
    }

    /// Matches what has arrived with what was asked.
    fn hear(&mut self, fleet: &mut Fleet<'_>, count: &mut Count) {
        if self.burst.rows.is_empty() {
            return;
        }
        let now = self.clock.now().mono_ns;
        for row in &self.burst.rows {
            let Some(bytes) = row.frame.as_ref().map(|frame| frame.bytes()) else { continue };
            if let Some((rest, left)) = bytes.split_last_chunk::<8>()
                && row.listener > 0
                && rest.ends_with(MARK)
            {
                count.pushed.delivered += 1;
                count.deliveries.saturating_record(now.saturating_sub(u64::from_be_bytes(*left)));
                count.last_ns = now;
                continue;
            }
            let Ok(answer) = parse(bytes) else { continue };
            let message = answer.header.message;
            let at = message & ((1 << SLOT_BITS) - 1);
            let Some(slot) = self.slots.get_mut(at as usize).filter(|slot| slot.message == message) else {
                continue;
            };
            slot.message = 0;
            self.free.push(at as u32);
            count.last_ns = now;
            if matches!(answer.kind, Kind::Registered | Kind::Released) {
                count.tally.answered += 1;
                let took_ns = now.saturating_sub(slot.due_ns);
                count.latency.saturating_record(took_ns);
                if self.compacts.load(Ordering::Relaxed) {
                    count.compacting.saturating_record(took_ns);
                }
                fleet.acknowledged(&slot.ask);
            } else {
                let code = answer.options.reason(bytes).map_or(0, |(code, _)| code);
                let name = Reason::from_code(code).map_or("unknown", Reason::name);
                *count.tally.dropped.entry(name).or_default() += 1;
            }
        }
        self.burst.clear_rows();
    }

    fn finish(&mut self, start: u64, count: Count) -> Done {
        let Count { mut tally, latency, compacting, late, mut pushed, deliveries, last_ns } = count;
        pushed.latency = Percentiles::of(&deliveries);
        tally.lost = (self.slots.len() - self.free.len()) as u64;
        (tally.late, tally.latency) = (Percentiles::of(&late), Percentiles::of(&latency));
        tally.valid = tally.is_whole() && pushed.sent == pushed.delivered;
        let compacting = (compacting.len(), Percentiles::of(&compacting));
        Done { tally, compacting, pushed, latency, ns: last_ns - start }
    }
}
