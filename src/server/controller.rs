//! The controller's thread: the one writer of everything that changes while the server runs.
//!
//! ```text
//!  shards ─► rings ─► Engine ─► changes ─► journal: one commit a batch ─► live tables ─► replies ─► sockets
//!                       ▲
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

mod facts;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{SockAddr, Socket};

pub(super) use facts::{Facts, Told};

use super::{IDLE, StartError, State};
use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::control::{self, Engine, GroupPush, Outbox, Reply, Request};
use crate::id::Endpoint;
use crate::journal::{Finished, Journal, Options, Recovery};
use crate::metrics::Counters;
use crate::plane::{Punt, Shared};
use crate::reason::Reason;
use crate::table::publish::{Guard, Reader, Watch};
use crate::table::{Change, LiveWriter, Tables};
use crate::wire::prp::{HeadBuilder, Header, Kind};

/// Requests handled before what follows from them is made durable: a bound on memory and on how long the first
/// waits for the last.
const BATCH_MAX: usize = 4096;

/// Slots of the live tables that one request may take: a RELEASE of all devices leaves a tombstone for each.
const ROOM_MIN: usize = 600;

/// How long the controller waits at most for a shard to finish a burst: far longer than one takes.
const BURST_NS: u64 = 200_000_000;

/// What the controller found when it started.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Bindings that hold again.
    pub bindings: usize,
    /// What the journal held.
    pub journal: Recovery,
}

/// Who asked something.
#[derive(Clone, Copy)]
struct Asked {
    header: Header,
    from: Endpoint,
    listener: u8,
    key: Option<u32>,
}

/// The controller, before and while it has a thread.
pub(super) struct Controller {
    engine: Engine,
    /// None once it is closed.
    journal: Option<Journal>,
    writer: LiveWriter,
    shared: Arc<Shared>,
    shards: Watch<Tables>,
    /// By listener: the sockets that a shard receives on, to send from.
    sockets: Vec<Socket>,
    state: Arc<State>,
    clock: Clock,
    rejects: bool,
    counters: Counters,
    /// How many each shard's ring gave.
    taken: Vec<u64>,
    out: Outbox,
    /// The requests of this batch.
    asked: Vec<Asked>,
    generation: u64,
    snapshot: Option<JoinHandle<io::Result<Finished>>>,
    poisoned: bool,
}

impl Controller {
    /// Replays the journal into the engine and the live tables.
    ///
    /// # Errors
    /// The journal cannot be had or is damaged, or holds more than the limits allow.
    pub(super) fn recover(
        config: &Config,
        seed: u64,
        shared: Arc<Shared>,
        (tables, shards): (&mut Reader<Tables>, Watch<Tables>),
        sockets: Vec<Socket>,
        state: Arc<State>,
        clock: Clock,
    ) -> Result<(Self, Recovered), StartError> {
        let site = control::Site {
            listen: config.listen.clone(),
            policy: config.policy,
            limits: config.limits,
            seed,
        };
        let mut engine = Engine::new(site);
        let Some(mut writer) = shared.live_writer() else {
            return Err(StartError("the live tables have a writer already".to_owned()));
        };
        let folder = config.state.join("journal");
        let mut fault = None;
        let replay = |record: &[u8]| match Change::from_bytes(record) {
            Some(change) => {
                engine.restore(&change);
                if writer.apply(&change).is_err() {
                    fault.get_or_insert_with(|| full(config.limits.bindings));
                }
            }
            None => fault = fault.take().or_else(|| Some(unreadable(&folder))),
        };
        let options = Options { compact_bytes_min: config.limits.journal as u64, ..Options::default() };
        let (journal, recovery) = Journal::open(&folder, options, replay)
            .map_err(|error| StartError(format!("what terminals registered cannot be read: {error}")))?;
        if let Some(fault) = fault {
            return Err(StartError(fault));
        }
        let taken = vec![0; shared.punts().len()];
        let mut controller = Self {
            engine,
            journal: Some(journal),
            writer,
            shared,
            shards,
            sockets,
            state,
            clock,
            rejects: config.policy.rejects,
            counters: Counters::default(),
            taken,
            out: Outbox::default(),
            asked: Vec::with_capacity(BATCH_MAX),
            generation: 0,
            snapshot: None,
            poisoned: false,
        };
        controller.turn(tables);
        if controller.poisoned {
            let folder = folder.display();
            return Err(StartError(format!("the journal {folder} cannot be written; look at the disk")));
        }
        let bindings = controller.writer.live().len();
        Ok((controller, Recovered { bindings, journal: recovery }))
    }

    /// The thread's whole life.
    pub(super) fn run(mut self, mut tables: Reader<Tables>) -> io::Result<()> {
        self.shared.wake_me();
        while !self.state.shards_ended.load(Ordering::Acquire) {
            if !self.turn(&mut tables) {
                std::thread::park_timeout(self.pause());
            }
        }
        while self.turn(&mut tables) {}
        self.close()
    }

    /// How long there is nothing to do, unless something arrives.
    fn pause(&self) -> Duration {
        let due = self.engine.poll_timeout().filter(|_| !self.poisoned);
        let left = due.map(|due| due.saturating_sub(self.clock.now().mono_ns));
        left.map_or(IDLE, |ns| Duration::from_nanos(ns).min(IDLE))
    }

    /// Handles what is there; true when that was something.
    fn turn(&mut self, tables: &mut Reader<Tables>) -> bool {
        let now = self.clock.now();
        let tables = tables.enter();
        self.handle_new_tables(&tables, now);
        let worked = self.handle_requests(&tables, now);
        if !self.poisoned && self.engine.poll_timeout().is_some_and(|due| due <= now.mono_ns) {
            self.engine.handle_timeout(&tables, now, &mut self.out);
        }
        self.settle(&tables, now);
        self.compact();
        self.show();
        worked
    }

    fn show(&self) {
        self.state.controller.show(&self.counters);
        self.state.desk.show(self.counters.punted);
        if let Some(journal) = &self.journal {
            self.state.journal.show(journal);
        }
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
        if self.poisoned || (takes_room && self.writer.room() < ROOM_MIN) {
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

    /// Makes durable what was decided, shows it to the shards, and only then answers.
    fn settle(&mut self, tables: &Guard<'_, Tables>, now: Now) {
        let mut out = std::mem::take(&mut self.out);
        if self.poisoned {
            return;
        }
        if let Err(why) = self.keep(&out.changes) {
            self.fail(&why, tables, now);
            return;
        }
        if !out.changes.is_empty() {
            self.await_shards(tables);
        }
        self.counters.answered += out.answered;
        for reason in out.dropped.drain(..) {
            self.counters.drop(reason);
        }
        self.counters.in_flight = self.engine.live().pending as u64;
        for push in out.copies.drain(..) {
            self.spread(push, tables, now);
        }
        for reply in out.replies.drain(..) {
            self.send(&reply, now);
        }
        out.changes.clear();
        out.answered = 0;
        self.out = out;
        self.asked.clear();
    }

    /// Waits until every burst has left that may not have seen the live tables as they are now.
    fn await_shards(&mut self, tables: &Guard<'_, Tables>) {
        self.shards.begin();
        let start = self.clock.now().mono_ns;
        while !self.shards.have_left(tables) && self.clock.now().mono_ns - start < BURST_NS {
            std::thread::yield_now();
        }
    }

    fn keep(&mut self, changes: &[Change]) -> Result<(), String> {
        let Some(journal) = &mut self.journal else { return Err("the journal is closed".to_owned()) };
        let appended = changes.iter().try_for_each(|change| journal.append(&change.to_bytes()).map(drop));
        appended.and_then(|()| journal.commit()).map_err(|error| error.to_string())?;
        self.state.journal.add_records(changes.len());
        changes.iter().try_for_each(|change| self.writer.apply(change)).map_err(|full| full.to_string())
    }

    /// Ends the engine's work for good: what it was asked in this batch, and what still waited for another server,
    /// is rejected.
    fn fail(&mut self, why: &str, tables: &Tables, now: Now) {
        self.poisoned = true;
        self.state.poisoned.store(true, Ordering::SeqCst);
        self.state.trouble(format!("registrations are refused until this server is started again: {why}"));
        self.drop_the_rest();
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
            self.send(&Reply { to: from, listener, datagram, is_reject: true }, now);
        }
    }

    /// Hands a message for a group to the fan-out.
    fn spread(&mut self, push: GroupPush, tables: &Tables, now: Now) {
        match self.state.desk.push(push) {
            None => self.counters.punted += 1,
            Some(push) => {
                self.counters.drop(Reason::Overloaded);
                let reject = push.reject(tables, Reason::Overloaded, now).filter(|_| self.rejects);
                if let Some(reject) = reject {
                    self.send(&reject, now);
                }
            }
        }
    }

    fn send(&mut self, reply: &Reply, now: Now) {
        if reply.is_reject && !self.shared.rejects().take(reply.to, now.mono_ns) {
            self.counters.rejects_suppressed += 1;
            return;
        }
        let to = SockAddr::from(std::net::SocketAddr::from(reply.to));
        let socket = self.sockets.get(usize::from(reply.listener));
        if socket.is_some_and(|socket| socket.send_to(&reply.datagram, &to).is_ok()) {
            self.counters.tx += 1;
            self.counters.tx_bytes += reply.datagram.len() as u64;
            self.counters.rejects += u64::from(reply.is_reject);
        } else {
            self.counters.tx_failed += 1;
        }
    }

    /// Begins a snapshot when the journal has grown enough, and takes note of one that is finished.
    fn compact(&mut self) {
        let Some(journal) = self.journal.as_mut().filter(|_| !self.poisoned) else { return };
        if let Some(job) = self.snapshot.take_if(|job| job.is_finished()) {
            match job.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended"))) {
                Ok(finished) => {
                    journal.finish_snapshot(finished);
                    self.state.journal.add_snapshot();
                }
                Err(error) => self.state.trouble(format!("the journal could not be compacted: {error}")),
            }
        }
        if self.snapshot.is_some() || !journal.should_compact() {
            return;
        }
        let mut snapshot = match journal.begin_snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.state.trouble(format!("the journal could not be compacted: {error}"));
                return;
            }
        };
        // As the engine is now: gathered here, written elsewhere.
        let records: Vec<Vec<u8>> = self.engine.changes().map(|change| change.to_bytes()).collect();
        let write = move || {
            records.iter().try_for_each(|record| snapshot.append(record))?;
            snapshot.finish()
        };
        match std::thread::Builder::new().name("compact".to_owned()).spawn(write) {
            Ok(job) => self.snapshot = Some(job),
            Err(error) => self.state.trouble(format!("the journal could not be compacted: {error}")),
        }
    }

    /// What was taken is finished; what waits for other servers is given up: its asker tries again.
    fn close(mut self) -> io::Result<()> {
        self.drop_the_rest();
        self.show();
        if let (Some(job), Some(journal)) = (self.snapshot.take(), &mut self.journal)
            && let Ok(Ok(finished)) = job.join()
        {
            journal.finish_snapshot(finished);
        }
        match self.journal.take().filter(|_| !self.poisoned) {
            Some(journal) => journal.close(),
            None => Ok(()),
        }
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
