//! The controller: the one writer of everything that changes while the server runs.
//!
//! ```text
//!  shards ─► rings ─► Engine ─► changes ─► journal: one commit a batch ─► live tables ─► replies ─► sockets
//!  RADIUS ───────────►┘ ▲
//!                     time
//! ```
//!
//! A batch is what has arrived while the one before was made durable: so the disk sets the pace, and each
//! fdatasync carries as many changes as there were requests meanwhile. Nothing is answered before it is durable,
//! every shard sees it, and every burst that may not have seen it has left: so who is told that an address is his
//! gets nothing any more that was meant for who had it before.
//!
//! A message for a group goes on to the fan-out, with its members as they are once everything before it is durable.
//!
//! A journal that failed is never written again, and an engine that counts on what was not written is not asked
//! again: from then on every request is rejected as `overloaded`, and the server says that it is not ready.
//!
//! [`Controller`] has neither thread nor clock nor socket: [`thread`] gives it all three in a server, the
//! simulator runs it on virtual time and over a disk that loses power.

mod answers;
mod compact;
mod facts;
mod replay;
mod reports;
pub(super) mod thread;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use compact::Compaction;
pub(super) use facts::Facts;
pub use facts::Told;

use super::StartError;
use crate::clock::Now;
use crate::config::Radius;
use crate::control::{Engine, GroupPush, Outbox, Reply, ReportAnswer, Request, Site};
use crate::id::Endpoint;
use crate::journal::{Disk, Finished, Journal, Options, Os, Recovery};
use crate::metrics::{Counters, ReportCounters};
use crate::plane::{Punt, Shared};
use crate::reason::Reason;
use crate::table::{Change, LiveWriter, Tables};
use crate::wire::prp::{HeadBuilder, Header, Kind};

/// Requests handled before what follows from them is made durable: a bound on memory and on how long the first
/// waits for the last.
const BATCH_MAX: usize = 4096;

/// Slots of the live tables that one request may take: a RELEASE of all devices leaves a tombstone for each.
const ROOM_MIN: usize = 600;

/// Who asked something.
#[derive(Clone, Copy, Debug)]
struct Asked {
    header: Header,
    from: Endpoint,
    listener: u8,
    key: Option<u32>,
}

/// The controller, over some disk. Whoever owns it calls [`Controller::decide`] when something was handed over or
/// [`Controller::poll_timeout`] is there, waits until every burst has left that had begun by then if tables
/// changed, hands on what [`Controller::poll_copies`] gives and sends what [`Controller::poll_transmit`] gives.
#[derive(Debug)]
pub struct Controller<D: Disk = Os> {
    engine: Engine,
    journal: Journal<D>,
    writer: LiveWriter,
    shared: Arc<Shared>,
    rejects: bool,
    counters: Counters,
    reports: ReportCounters,
    told: Told,
    /// How many each shard's ring gave.
    taken: Vec<u64>,
    out: Outbox,
    /// The requests of this batch.
    asked: Vec<Asked>,
    /// Of batches that are durable.
    replies: VecDeque<Reply>,
    copies: VecDeque<GroupPush>,
    report_answers: VecDeque<ReportAnswer>,
    generation: u64,
    poisoned: bool,
    trouble: Option<String>,
}

/// What [`Controller::decide`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decided {
    /// Something had been handed over.
    pub worked: bool,
    /// The live tables changed: a burst that began before may not have seen it.
    pub changed: bool,
}

impl<D: Disk> Controller<D> {
    /// Replays the journal in `state` into the engine and the live tables of `shared`, which nobody else
    /// writes. [`Controller::decide`] then makes it ready.
    ///
    /// # Errors
    /// The journal cannot be had or is damaged, or holds more than the limits allow.
    pub fn recover(
        disk: D,
        state: &Path,
        site: Site,
        shared: Arc<Shared>,
    ) -> Result<(Self, Recovery), StartError> {
        Self::recover_listening(disk, state, site, None, shared)
    }

    /// As [`Controller::recover`], to listen to RADIUS accounting as configured.
    ///
    /// # Errors
    /// As [`Controller::recover`].
    pub fn recover_listening(
        disk: D,
        state: &Path,
        site: Site,
        radius: Option<Radius>,
        shared: Arc<Shared>,
    ) -> Result<(Self, Recovery), StartError> {
        let (limits, rejects) = (site.limits, site.policy.rejects);
        let mut engine = Engine::new(site).with_feed(radius);
        let Some(mut writer) = shared.live_writer() else {
            return Err(StartError("the live tables have a writer already".to_owned()));
        };
        let folder = state.join("journal");
        let options = Options { compact_bytes_min: limits.journal as u64, ..Options::default() };
        let (journal, recovery, fault) = replay::replay(disk, &folder, options, &mut engine, &mut writer)
            .map_err(|error| StartError(format!("what terminals registered cannot be read: {error}")))?;
        match fault {
            Some(replay::Fault::Full) => return Err(StartError(full(limits.bindings))),
            Some(replay::Fault::Unknown) => return Err(StartError(unreadable(&folder))),
            None => {}
        }
        let taken = vec![0; shared.punts().len()];
        let controller = Self {
            engine,
            journal,
            writer,
            shared,
            rejects,
            counters: Counters::default(),
            reports: ReportCounters::default(),
            told: Told::default(),
            taken,
            out: Outbox::default(),
            asked: Vec::with_capacity(BATCH_MAX),
            replies: VecDeque::new(),
            copies: VecDeque::new(),
            report_answers: VecDeque::new(),
            generation: 0,
            poisoned: false,
            trouble: None,
        };
        Ok((controller, recovery))
    }

    /// Decides what was handed over and what time brought, makes it durable and shows it to the shards.
    pub fn decide(&mut self, tables: &Tables, now: Now) -> Decided {
        self.handle_new_tables(tables, now);
        let worked = self.handle_requests(tables, now);
        if !self.poisoned && self.engine.poll_timeout().is_some_and(|due| due <= now.mono_ns) {
            self.engine.handle_timeout(tables, now, &mut self.out);
        }
        Decided { worked, changed: self.settle(tables, now) }
    }

    /// When [`Controller::decide`] has something to do without being asked, on the monotonic clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.engine.poll_timeout().filter(|_| !self.poisoned)
    }

    /// The next message for the members of a group; then it wants to know by [`Controller::handed_on`] or
    /// [`Controller::refused`] what became of it.
    pub fn poll_copies(&mut self) -> Option<GroupPush> {
        self.copies.pop_front()
    }

    /// Somebody else makes the copies of a message.
    pub fn handed_on(&mut self) {
        self.counters.in_flight -= 1;
        self.counters.punted += 1;
    }

    /// There is no place for a message that is to be copied.
    pub fn refused(&mut self, push: &GroupPush, tables: &Tables, now: Now) {
        self.counters.in_flight -= 1;
        self.counters.drop(Reason::Overloaded);
        let reject = push.reject(tables, Reason::Overloaded, now).filter(|_| self.rejects);
        self.replies.extend(reject);
    }

    /// The next datagram to send, which is durable and seen by every shard; then it wants to know by
    /// [`Controller::sent`] whether it left. REJECTs beyond the limit of an address are left out.
    pub fn poll_transmit(&mut self, now: Now) -> Option<Reply> {
        loop {
            let reply = self.replies.pop_front()?;
            if !reply.is_reject || self.shared.rejects().take(reply.to, now.mono_ns) {
                return Some(reply);
            }
            self.counters.rejects_suppressed += 1;
        }
    }

    /// Counts a datagram that left, or could not.
    pub fn sent(&mut self, reply: &Reply, has_left: bool) {
        if has_left {
            self.counters.tx += 1;
            self.counters.tx_bytes += reply.datagram.len() as u64;
            self.counters.rejects += u64::from(reply.is_reject);
        } else {
            self.counters.tx_failed += 1;
        }
    }

    /// What was counted: every request taken is answered, dropped or in flight.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What became of the journal.
    pub fn told(&self) -> Told {
        let (segment_bytes, snapshot_bytes) = self.journal.disk_bytes();
        Told { commits: self.journal.commits(), segment_bytes, snapshot_bytes, ..self.told }
    }

    /// How many sessions of RADIUS accounting are under way.
    pub fn sessions(&self) -> usize {
        self.engine.live().sessions
    }

    /// How many bindings hold, those included whose validity has ended and that were not cleared yet.
    pub fn bindings(&self) -> usize {
        self.writer.live().len()
    }

    /// Whether the journal failed: then every request is rejected until the server is started again.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Why the journal failed, once.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    fn handle_new_tables(&mut self, tables: &Tables, now: Now) {
        if tables.generation() == self.generation || self.poisoned {
            return;
        }
        if self.generation == 0 {
            self.engine.restored(tables, now, &mut self.out);
        } else {
            self.engine.tables_changed(tables, now, &mut self.out);
        }
        self.generation = tables.generation();
    }

    fn handle_requests(&mut self, tables: &Tables, now: Now) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut left = BATCH_MAX;
        for (shard, ring) in shared.punts().iter().enumerate() {
            // No shard may keep the others waiting.
            let share = left.min(BATCH_MAX / shared.punts().len().max(1)).max(1);
            for _ in 0..share {
                let Some(punt) = ring.take(&mut self.taken[shard]) else { break };
                left = left.saturating_sub(1);
                self.handle(tables, &punt, now);
            }
        }
        left < BATCH_MAX
    }

    fn handle(&mut self, tables: &Tables, punt: &Punt, now: Now) {
        self.counters.taken += 1;
        let Some(header) = Header::read(punt.bytes()) else {
            self.counters.drop(Reason::Malformed);
            return;
        };
        let asked = Asked { header, from: punt.from, listener: punt.listener, key: punt.signed_by };
        let takes_room = matches!(Kind::from_code(header.kind), Some(Kind::Register | Kind::Release));
        if self.poisoned || (takes_room && !self.has_room()) {
            self.counters.drop(Reason::Overloaded);
            self.reject(tables, &asked, now);
            return;
        }
        self.asked.push(asked);
        let request = Request {
            bytes: punt.bytes(),
            from: punt.from,
            listener: punt.listener,
            signed_by: punt.signed_by,
            now,
        };
        self.engine.handle(tables, &request, &mut self.out);
    }

    /// Makes durable what was decided and shows it to the shards; whether that was something.
    fn settle(&mut self, tables: &Tables, now: Now) -> bool {
        let mut out = std::mem::take(&mut self.out);
        if self.poisoned {
            return false;
        }
        if let Err(why) = self.keep(&out.changes) {
            self.fail(&why, tables, now);
            return false;
        }
        self.counters.answered += out.answered;
        for reason in out.dropped.drain(..) {
            self.counters.drop(reason);
        }
        self.copies.extend(out.copies.drain(..));
        self.end_reports(out.reports.drain(..));
        self.counters.in_flight = (self.engine.live().pending + self.copies.len()) as u64;
        self.replies.extend(out.replies.drain(..));
        let changed = !out.changes.is_empty();
        out.changes.clear();
        out.answered = 0;
        self.out = out;
        self.asked.clear();
        changed
    }

    fn keep(&mut self, changes: &[Change]) -> Result<(), String> {
        let Self { journal, writer, told, .. } = self;
        let appended = changes.iter().try_for_each(|change| journal.append(&change.to_bytes()).map(drop));
        appended.and_then(|()| journal.commit()).map_err(|error| error.to_string())?;
        told.records += changes.len() as u64;
        changes.iter().try_for_each(|change| writer.apply(change)).map_err(|full| full.to_string())
    }

    /// Ends the engine's work for good: what it was asked in this batch, and what still waited for another server,
    /// is rejected.
    fn fail(&mut self, why: &str, tables: &Tables, now: Now) {
        self.poisoned = true;
        self.trouble = Some(format!("registrations are refused until this server is started again: {why}"));
        self.drop_the_rest();
        self.give_up_reports();
        for asked in std::mem::take(&mut self.asked) {
            self.reject(tables, &asked, now);
        }
    }

    /// Whatever was taken and is in no counter yet ends as `overloaded`.
    fn drop_the_rest(&mut self) {
        let Counters { taken, answered, punted, .. } = self.counters;
        let rest = taken - answered - punted - self.counters.dropped_total();
        self.counters.dropped[Reason::Overloaded.index()] += rest;
        self.counters.in_flight = 0;
    }

    fn reject(&mut self, tables: &Tables, asked: &Asked, now: Now) {
        let Asked { header, from, listener, key } = *asked;
        if !self.rejects || Kind::from_code(header.kind).is_some_and(Kind::is_answer) {
            return;
        }
        let mut head = HeadBuilder::new(&header.answer(Kind::Reject));
        head.reason(Reason::Overloaded);
        let key = key.and_then(|id| Some((id, tables.key(tables.key_index(id)?)?)));
        if let Some((id, _)) = key {
            head.auth(id, now.unix_ms);
        }
        let Ok(mut datagram) = head.datagram(&[]) else { return };
        let end = datagram.len();
        if key.is_none_or(|(_, key)| key.sign(&mut datagram, end)) {
            self.replies.push_back(Reply { to: from, listener, datagram, is_reject: true });
        }
    }

    /// Begins a snapshot of the state as it is now, when the journal has grown enough. Every [`Controller::part`] is
    /// to be written to it, and then it is to be finished, anywhere and at leisure: [`Controller::compacted`] wants to
    /// know, or [`Controller::not_compacted`].
    ///
    /// # Errors
    /// As the disk says; the journal goes on without.
    pub fn compaction(&mut self) -> io::Result<Option<Compaction<D>>> {
        if self.poisoned || !self.journal.should_compact() {
            return Ok(None);
        }
        let snapshot = self.journal.begin_snapshot()?;
        self.engine.begin_cut();
        Ok(Some(Compaction(snapshot)))
    }

    /// The next part of the state as it was when the snapshot began, so many bindings of it; `None` when that was
    /// all.
    pub fn part(&mut self, bindings: u32) -> Option<Vec<Change>> {
        self.engine.cut_some(bindings)
    }

    /// A snapshot is written.
    pub fn compacted(&mut self, finished: Finished) {
        self.journal.finish_snapshot(finished);
        self.told.snapshots += 1;
    }

    /// A snapshot was given up.
    pub fn not_compacted(&mut self) {
        self.engine.end_cut();
    }

    /// The server ends: what waits for other servers is given up, and who waits for it is told.
    pub fn give_up(&mut self, tables: &Tables, now: Now) {
        if !self.poisoned {
            self.engine.give_up(tables, now, &mut self.out);
            self.settle(tables, now);
        }
    }

    /// Ends it; returns what was counted.
    pub fn close(mut self) -> (Counters, io::Result<()>) {
        self.drop_the_rest();
        let closed = if self.poisoned { Ok(()) } else { self.journal.close() };
        (self.counters, closed)
    }
}

fn full(bindings: usize) -> String {
    format!("the journal holds more than limits.bindings = {bindings} allows; raise it")
}

fn unreadable(folder: &Path) -> String {
    format!(
        "the journal {} holds a record that this version does not know; start the version that wrote it",
        folder.display()
    )
}
