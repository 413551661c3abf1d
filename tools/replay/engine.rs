//! A whole server over the messages of a capture: bursts as a shard would take them, on the capture's clock, every
//! send a success.
//!
//! Messages of one millisecond are one burst, unless one could be the answer to another: then it comes in the next,
//! since it would never have been written before. What the controller handles is a burst of its own. For somebody
//! who wants to see the datagrams every message is, at the time of the burst that it would have been in: that
//! decides the same (`tests/commands/replay.rs`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use hdrhistogram::Histogram;
use pushplane::clock::{Clock, Now};
use pushplane::config::{Limits, Policy};
use pushplane::control::{self, GroupPush, Reply};
use pushplane::id::{Endpoint, PushId};
use pushplane::packet::{BURST_MAX, Burst, Done, FramePool};
use pushplane::plane::explain::Sent;
use pushplane::plane::{EXTRA, NoTrace, PUNT_BYTES_MAX, Plane, Shared, Site, Verdict};
use pushplane::reason::Reason;
use pushplane::table::Tables;
use pushplane::wire::prp::{Header, Kind, flag, set_destination};
use xxhash_rust::xxh3::Xxh3;

use super::control::Control;
use super::decision::{Decision, Way};
use super::messages::Message;
use crate::outcome::{Percentiles, histogram};

/// What came within this time of the first is one burst, as a busy shard would find it.
const BURST_NS: u64 = 1_000_000;
/// Enough for a burst of users with as many terminals as there can be.
const FRAMES: usize = BURST_MAX * 257;
/// What a copy for a member is longer than the message for the group.
const GROUP_ID_BYTES: usize = 20;
/// Where the monotonic clock starts: 0 means never.
const START_NS: u64 = 1_000_000_000;

/// The server that is replayed.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) listen: Vec<Endpoint>,
    pub(super) policy: Policy,
    pub(super) limits: Limits,
}

/// A datagram that left.
pub(super) struct Outgoing {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) bytes: Vec<u8>,
}

/// What somebody who watches sees beside the decision.
#[derive(Clone, Copy)]
pub(super) struct Detail<'a> {
    /// The message as it came, and where to.
    pub(super) bytes: &'a [u8],
    pub(super) to: Endpoint,
    /// What left, REJECTs and other answers included.
    pub(super) sent: &'a [Outgoing],
}

/// Hears of each message, in the capture's order.
pub(super) trait Watch<'t> {
    /// The detail is there when the engine was made for it.
    fn decided(&mut self, decision: &Decision<'t>, detail: Option<Detail<'_>>) -> io::Result<()>;
}

/// Runs the server.
pub(super) struct Engine<'t> {
    tables: &'t Tables,
    site: Site,
    plane: Plane,
    burst: Burst,
    /// Copies for the members of groups are made and counted apart.
    copies: Copies,
    control: Control<'t>,
    detailed: bool,
    rows: Vec<Decision<'t>>,
    verdicts: Vec<Verdict>,
    /// Where the only row of a detailed burst was sent to.
    to: Endpoint,
    bytes: Vec<u8>,
    sent: Vec<Outgoing>,
    /// What the burst holds, and how many; in detail it is taken one by one.
    class: Class,
    burst_rows: usize,
    /// When the burst began, and the capture.
    began_ns: u64,
    start_ns: Option<u64>,
    clock: Clock,
    tally: Counts,
    latency: Histogram<u64>,
    digest: Xxh3,
}

struct Copies {
    site: Site,
    plane: Plane,
    burst: Burst,
}

/// Which messages may share a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Whatever the shard does by itself and that answers nothing.
    Plain,
    /// Answers to what came before.
    Answer,
    /// For the controller.
    Alone,
}

impl Class {
    fn of(header: Option<&Header>) -> Self {
        let Some(header) = header else { return Self::Plain };
        match Kind::from_code(header.kind) {
            Some(Kind::Push) if header.flags & flag::GROUP != 0 => Self::Alone,
            Some(Kind::Push | Kind::Echo | Kind::Echoed) | None => Self::Plain,
            Some(Kind::Receipt) => Self::Answer,
            Some(_) => Self::Alone,
        }
    }
}

#[derive(Default)]
struct Counts {
    planned: u64,
    sent: u64,
    delivered: u64,
    forwarded: u64,
    answered: u64,
    dropped: [u64; Reason::COUNT],
    tx: u64,
    rejects: u64,
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
    /// Datagrams that left, copies, answers and REJECTs included.
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

impl<'t> Engine<'t> {
    /// For the server that the tables are seen as. `detailed`: somebody wants to see the datagrams.
    pub(super) fn new(tables: &'t Tables, setup: &Setup, detailed: bool) -> Self {
        let Setup { listen, policy, limits } = setup.clone();
        let shared = Arc::new(Shared::new(&limits, 1, 0));
        let site = Site {
            policy,
            listen: listen.clone(),
            datagram_max: limits.datagram_max,
            shard: 0,
            shared: Arc::clone(&shared),
        };
        let control_site = control::Site { listen, policy, limits, seed: 0 };
        let copies_max = limits.datagram_max.max(PUNT_BYTES_MAX + GROUP_ID_BYTES);
        Self {
            tables,
            plane: Plane::new(FRAMES),
            burst: Burst::new(FramePool::new(FRAMES, limits.datagram_max)),
            copies: Copies {
                site: Site { datagram_max: copies_max, ..site.clone() },
                plane: Plane::new(FRAMES),
                burst: Burst::new(FramePool::new(FRAMES, copies_max)),
            },
            control: Control::new(control_site, shared, tables).expect("the live tables are new"),
            site,
            detailed,
            rows: Vec::with_capacity(BURST_MAX),
            verdicts: Vec::with_capacity(BURST_MAX),
            to: Endpoint::NONE,
            bytes: Vec::new(),
            sent: Vec::new(),
            class: Class::Plain,
            burst_rows: 0,
            began_ns: 0,
            start_ns: None,
            clock: Clock::start(),
            tally: Counts::default(),
            latency: histogram(),
            digest: Xxh3::new(),
        }
    }

    /// One more message; `watch` hears of those that are decided.
    pub(super) fn take(&mut self, message: &Message<'_>, watch: &mut dyn Watch<'t>) -> io::Result<()> {
        let header = Header::read(message.bytes);
        let class = Class::of(header.as_ref());
        let is_late = message.time_ns.saturating_sub(self.began_ns) > BURST_NS;
        let is_next = is_late || self.burst_rows == BURST_MAX || class != self.class || class == Class::Alone;
        if is_next || self.detailed {
            self.flush(watch)?;
        }
        if is_next || self.burst_rows == 0 {
            // Time never goes back, even where the capture's does.
            self.began_ns = self.began_ns.max(message.time_ns);
            self.start_ns.get_or_insert(self.began_ns);
            (self.class, self.burst_rows) = (class, 0);
        }
        self.burst_rows += 1;
        self.tally.planned += 1;
        let listener = self.site.listen.iter().position(|own| *own == message.to);
        let of_family = || self.site.listen.iter().position(|own| own.is_ipv4() == message.from.is_ipv4());
        let listener = listener.or_else(of_family).unwrap_or(0) as u8;
        if self.burst.push_copy(message.bytes, message.from, listener) {
            self.tally.sent += 1;
            self.write_row(message, header.as_ref());
            if self.detailed {
                self.to = message.to;
                self.bytes.clear();
                self.bytes.extend_from_slice(message.bytes);
            }
        }
        Ok(())
    }

    /// The decision about a message, as far as it is known before it is made.
    fn write_row(&mut self, message: &Message<'_>, header: Option<&Header>) {
        let at = self.burst.rows.len() - 1;
        if self.rows.len() == at {
            self.rows.push(Decision {
                frame: 0,
                time_ns: 0,
                from: Endpoint::NONE,
                destination: PushId::NONE,
                kind: None,
                app: 0,
                verdict: Cow::Borrowed(""),
                reason: None,
                sends: Vec::new(),
                content: None,
            });
        }
        let row = &mut self.rows[at];
        (row.frame, row.time_ns, row.from) = (message.frame_number, message.time_ns, message.from);
        row.destination = header.map(|header| header.destination).unwrap_or_default();
        row.kind =
            header.and_then(|header| Kind::from_code(header.kind)).map(|kind| Cow::Borrowed(kind.name()));
        row.app = header.map_or(0, |header| header.app);
        row.sends.clear();
        row.content = None;
    }

    /// Decides what waits.
    pub(super) fn flush(&mut self, watch: &mut dyn Watch<'t>) -> io::Result<()> {
        let rows = self.burst.rows.len();
        if rows == 0 {
            return Ok(());
        }
        let since_ns = self.began_ns - self.start_ns.unwrap_or(self.began_ns);
        let now = Now { mono_ns: START_NS + since_ns, unix_ms: self.began_ns / 1_000_000 };
        // What the controller sends by itself is nobody's.
        let unasked = self.control.advance(now)?;
        self.tally.tx += unasked.len() as u64;
        self.sent.clear();
        let start = self.clock.now().mono_ns;
        self.plane.process(&self.site, self.tables, now, &mut self.burst, &mut NoTrace);
        let took = self.clock.now().mono_ns - start;
        self.latency.saturating_record_n((took / rows as u64).max(1), rows as u64);

        for at in 0..rows {
            let row = &mut self.rows[at];
            let sends = self.plane.sends(at).iter().map(|send| Way::from(Sent::of(self.tables, send)));
            row.sends.extend(sends);
        }
        self.verdicts.clear();
        self.verdicts.extend((0..rows).map(|at| self.plane.verdict(at)));
        self.leave();
        if let Some(handled) = self.control.take(self.plane.ledger().counters().punted, now)? {
            let verdict = match &handled.copies {
                Some(push) => self.spread(push, now),
                None => handled.verdict,
            };
            handled.replies.into_iter().for_each(|reply| self.answer(reply));
            self.verdicts[0] = verdict;
        }
        self.tell(rows, watch)
    }

    /// Every send is a success.
    fn leave(&mut self) {
        let Self { burst, plane, site, sent, detailed, rows, .. } = self;
        let keep = *detailed;
        end(burst, plane, |token, from, to, bytes| {
            if keep {
                sent.push(Outgoing { from: site.listen[usize::from(from)], to, bytes: bytes.to_vec() });
                if token != EXTRA {
                    add_content(&mut rows[0], to, bytes);
                }
            }
        });
        burst.clear_rows();
    }

    /// Copies a message to the members of its group; the verdict on the whole is the best of theirs.
    fn spread(&mut self, push: &GroupPush, now: Now) -> Verdict {
        let Self { copies: Copies { site, plane, burst }, tables, rows, sent, detailed, .. } = self;
        let (from, listener) = push.came();
        let mut copy = push.copy.clone();
        let mut whole = Verdict::Drop(Reason::NotAttached);
        let (mut first_fault, mut missed) = (None, Vec::new());
        for members in push.members.chunks(BURST_MAX) {
            for member in members {
                set_destination(&mut copy, *member);
                burst.push_copy(&copy, from, listener);
            }
            plane.process_copies(site, tables, now, burst);
            for (at, member) in members.iter().enumerate() {
                let verdict = plane.verdict(at);
                if let Verdict::Drop(_) = verdict {
                    missed.push(*member);
                } else {
                    let sends = plane.sends(at).iter().map(|send| Way::from(Sent::of(tables, send)));
                    rows[0].sends.extend(sends);
                }
                whole = match (whole, verdict) {
                    (Verdict::Deliver, _) | (_, Verdict::Deliver) => Verdict::Deliver,
                    (Verdict::Forward, _) | (_, Verdict::Forward) => Verdict::Forward,
                    (_, fault) => *first_fault.get_or_insert(fault),
                };
            }
            end(burst, plane, |_, listener, to, bytes| {
                if *detailed {
                    let from = site.listen[usize::from(listener)];
                    sent.push(Outgoing { from, to, bytes: bytes.to_vec() });
                    add_content(&mut rows[0], to, bytes);
                }
            });
            burst.clear_rows();
        }
        let reply = match whole {
            Verdict::Drop(reason) => {
                let may = self.site.policy.rejects && self.site.shared.rejects().take(from, now.mono_ns);
                push.reject(self.tables, reason, now).filter(|_| may)
            }
            _ => push.receipt(self.tables, &missed, now),
        };
        if let Some(reply) = reply {
            self.answer(reply);
        }
        whole
    }

    /// Something that the controller sends.
    fn answer(&mut self, reply: Reply) {
        let Reply { to, listener, datagram, is_reject } = reply;
        self.tally.tx += 1;
        self.tally.rejects += u64::from(is_reject);
        if !self.detailed {
            return;
        }
        if !is_reject && let Some(row) = self.rows.first_mut() {
            add_content(row, to, &datagram);
        }
        let from = self.site.listen[usize::from(listener)];
        self.sent.push(Outgoing { from, to, bytes: datagram });
    }

    /// Counts the rows and tells of them.
    fn tell(&mut self, rows: usize, watch: &mut dyn Watch<'t>) -> io::Result<()> {
        for (row, verdict) in self.rows[..rows].iter_mut().zip(&self.verdicts) {
            row.decide(*verdict);
            row.digest(&mut self.digest, *verdict);
            match verdict {
                Verdict::Deliver => self.tally.delivered += 1,
                Verdict::Forward => self.tally.forwarded += 1,
                Verdict::Drop(reason) => self.tally.dropped[reason.index()] += 1,
                Verdict::Answer | Verdict::Punt | Verdict::Query | Verdict::Pending => {
                    self.tally.answered += 1;
                }
            }
            let detail = Detail { bytes: &self.bytes, to: self.to, sent: &self.sent };
            watch.decided(row, Some(detail).filter(|_| self.detailed))?;
        }
        Ok(())
    }

    /// What came out of all messages.
    pub(super) fn outcome(&self) -> Outcome {
        let Counts { planned, sent, delivered, forwarded, answered, tx, rejects, .. } = self.tally;
        let dropped = Reason::ALL.iter().map(|reason| (reason.name(), self.tally.dropped[reason.index()]));
        let dropped: BTreeMap<_, _> = dropped.filter(|(_, count)| *count > 0).collect();
        let planes = [&self.plane, &self.copies.plane].map(|plane| plane.ledger().counters());
        let closed = planes[0].unaccounted() == 0 && planes.iter().all(|counters| counters.in_flight == 0);
        let ended = delivered + forwarded + answered + dropped.values().sum::<u64>();
        Outcome {
            planned,
            sent,
            delivered,
            forwarded,
            answered,
            dropped,
            tx: tx + planes.iter().map(|counters| counters.tx).sum::<u64>(),
            rejects: rejects + planes.iter().map(|counters| counters.rejects).sum::<u64>(),
            late: Percentiles::default(),
            latency: Percentiles::of(&self.latency),
            valid: planned == sent && sent == planes[0].rx && ended == sent && closed,
            digest: format!("{:032x}", self.digest.digest128()),
        }
    }
}

/// Hands a burst's datagrams to whoever looks, and settles them as sent.
fn end(burst: &mut Burst, plane: &mut Plane, mut look: impl FnMut(u32, u8, Endpoint, &[u8])) {
    for tx in burst.tx.drain(..) {
        look(tx.token, tx.listener, tx.to, tx.frame.bytes());
        burst.done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno: 0 });
        burst.pool.put(tx.frame);
    }
    plane.ledger_mut().settle(&burst.done);
    burst.done.clear();
}

/// Makes a datagram part of what a message's decision is compared by.
fn add_content(row: &mut Decision<'_>, to: Endpoint, bytes: &[u8]) {
    let mut hash = Xxh3::with_seed(row.content.unwrap_or(0));
    hash.update(&to.octets());
    hash.update(&to.port().to_le_bytes());
    hash.update(bytes);
    row.content = Some(hash.digest());
}
