//! The controller's thread: gives a [`Controller`] a clock, sockets to answer from, and bursts to wait for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::Socket;

use super::super::radius::Parcel;
use super::super::{IDLE, StartError, State};
use super::Controller;
use super::answers::Answers;
use super::compact::{PART, Writer};
use crate::clock::{Clock, Now};
use crate::config::{Config, Limits};
use crate::control::{Report, Site};
use crate::journal::{Os, Recovery};
use crate::metrics::Counters;
use crate::plane::Shared;
use crate::table::Tables;
use crate::table::publish::{Guard, Reader, Watch};

/// How long the controller waits at most for a shard to finish a burst: far longer than one takes.
const BURST_NS: u64 = 200_000_000;

/// How long the controller sleeps at most while a snapshot is written or answers are sent: soon it has to hand on
/// or to count.
const SOON: Duration = Duration::from_millis(1);

/// How often commits begin at the most. One costs the CPU as much as ten requests or more, whatever is in it, and its
/// shards a glance at the tables' epoch: so what arrives soon after the last one waits for company. What arrives after
/// a pause does not.
const PACE: Duration = Duration::from_millis(1);

/// How long after a snapshot that could not be written the next is tried: the disk may be full.
const RETRY_NS: u64 = 60_000_000_000;

/// RADIUS packets taken in one turn, so many that the shards' requests do not wait for them.
const REPORTS_MAX: usize = 1024;

/// What the controller found when it started.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Bindings that hold again.
    pub bindings: usize,
    /// Sessions that the network told of and that still count.
    pub sessions: usize,
    /// What the journal held.
    pub journal: Recovery,
}

/// Everything that the controller's thread is given.
pub(in crate::server) struct Seat {
    controller: Controller,
    shared: Arc<Shared>,
    shards: Watch<Tables>,
    answers: Answers,
    /// By address of `radius.listen`: the listeners' sockets, to answer from.
    radius: Vec<UdpSocket>,
    state: Arc<State>,
    clock: Clock,
    /// Of a snapshot that is being written.
    writer: Option<Writer>,
    /// No other is begun before.
    compact_after_ns: u64,
    pace: Duration,
    /// When the last commit began.
    committed_ns: u64,
}

impl Seat {
    /// Replays the journal into the engine and the live tables.
    ///
    /// # Errors
    /// The journal cannot be had or is damaged, or holds more than the limits allow.
    pub(in crate::server) fn recover(
        config: &Config,
        seed: u64,
        shared: Arc<Shared>,
        (tables, shards): (&mut Reader<Tables>, Watch<Tables>),
        (sockets, radius): (Vec<Socket>, Vec<UdpSocket>),
        state: Arc<State>,
        clock: Clock,
    ) -> Result<(Self, Recovered), StartError> {
        let site = Site { listen: config.listen.clone(), policy: config.policy, limits: config.limits, seed };
        let feed = config.radius.clone();
        let (controller, journal) =
            Controller::recover_listening(Os, &config.state, site, feed, Arc::clone(&shared))?;
        let answers = Answers::start(sockets, state.shard_cpus.clone()).map_err(|error| {
            StartError(format!("answers cannot have a thread: {error}; raise the limit on processes"))
        })?;
        let mut seat = Self {
            controller,
            shared,
            shards,
            answers,
            radius,
            state,
            clock,
            writer: None,
            compact_after_ns: 0,
            pace: pace(&config.limits),
            committed_ns: 0,
        };
        seat.turn(tables);
        if seat.controller.is_poisoned() {
            let folder = config.state.join("journal");
            let folder = folder.display();
            return Err(StartError(format!("the journal {folder} cannot be written; look at the disk")));
        }
        let (bindings, sessions) = (seat.controller.bindings(), seat.controller.sessions());
        Ok((seat, Recovered { bindings, sessions, journal }))
    }

    /// The thread's whole life.
    pub(in crate::server) fn run(mut self, mut tables: Reader<Tables>) -> io::Result<()> {
        self.shared.wake_me();
        while !self.state.shards_ended.load(Ordering::Acquire) {
            let worked = self.turn(&mut tables);
            match self.rest() {
                Some(rest) => std::thread::sleep(rest),
                None if !worked => std::thread::park_timeout(self.pause()),
                None => {}
            }
        }
        // A snapshot that is still being made is given up: the next start has a longer journal to read.
        self.compact_after_ns = u64::MAX;
        let finished = self.writer.take().map(Writer::end);
        while self.turn(&mut tables) {}
        if let Some(Ok(finished)) = finished {
            self.controller.compacted(finished);
        }
        let now = self.clock.now();
        self.controller.give_up(&tables.enter(), now);
        self.answer(now);
        self.close()
    }

    /// How long there is nothing to do, unless something arrives.
    fn pause(&self) -> Duration {
        let left = self.controller.poll_timeout().map(|due| due.saturating_sub(self.clock.now().mono_ns));
        let soon = self.writer.is_some() || self.answers.are_under_way();
        let most = if soon { SOON } else { IDLE };
        left.map_or(most, |ns| Duration::from_nanos(ns).min(most))
    }

    /// How long the next commit has to wait.
    fn rest(&self) -> Option<Duration> {
        let since = Duration::from_nanos(self.clock.now().mono_ns - self.committed_ns);
        self.pace.checked_sub(since).filter(|rest| !rest.is_zero())
    }

    /// Handles what is there; true when that was something.
    fn turn(&mut self, tables: &mut Reader<Tables>) -> bool {
        let now = self.clock.now();
        let tables = tables.enter();
        let heard = self.hear(&tables, now);
        let decided = self.controller.decide(&tables, now);
        if let Some(trouble) = self.controller.take_trouble() {
            self.state.poisoned.store(true, Ordering::SeqCst);
            self.state.trouble(trouble);
        }
        if decided.changed {
            self.committed_ns = now.mono_ns;
            self.await_shards(&tables);
        }
        self.spread(&tables, now);
        self.answer(now);
        let compacts = self.compact(now);
        self.show(self.controller.counters());
        decided.worked || heard || compacts
    }

    /// Takes what the RADIUS listeners found; true when that was something.
    fn hear(&mut self, tables: &Tables, now: Now) -> bool {
        let inboxes = &self.state.radius.each;
        let mut heard = false;
        for (listener, inbox) in (0..).zip(inboxes) {
            for _ in 0..REPORTS_MAX / inboxes.len() {
                let Some(Parcel { bytes, from, client }) = inbox.take() else { break };
                heard = true;
                self.controller.report(tables, &Report { bytes: &bytes, from, listener, client, now });
            }
        }
        heard
    }

    /// Waits until every burst has left that may not have seen the live tables as they are now.
    fn await_shards(&mut self, tables: &Guard<'_, Tables>) {
        self.shards.begin();
        let start = self.clock.now().mono_ns;
        while !self.shards.have_left(tables) && self.clock.now().mono_ns - start < BURST_NS {
            std::thread::yield_now();
        }
    }

    fn show(&self, counters: &Counters) {
        self.state.controller.show(counters);
        self.state.desk.show(counters.punted);
        self.state.journal.show(&self.controller.told());
        self.state.radius.controller.show(self.controller.report_counters());
    }

    /// Hands messages for groups to the fan-out.
    fn spread(&mut self, tables: &Tables, now: Now) {
        while let Some(push) = self.controller.poll_copies() {
            match self.state.desk.push(push) {
                None => self.controller.handed_on(),
                Some(push) => self.controller.refused(&push, tables, now),
            }
        }
    }

    /// Hands over what may leave, and counts what has.
    fn answer(&mut self, now: Now) {
        let may_leave = std::iter::from_fn(|| self.controller.poll_transmit(now));
        self.answers.send(may_leave.collect());
        self.count_sent();
    }

    fn count_sent(&mut self) {
        for (reply, has_left) in self.answers.sent() {
            self.controller.sent(&reply, has_left);
        }
        while let Some(answer) = self.controller.poll_report() {
            let to = SocketAddr::from(answer.to);
            let socket = self.radius.get(usize::from(answer.listener));
            let has_left = socket.is_some_and(|socket| socket.send_to(&answer.datagram, to).is_ok());
            self.controller.report_sent(has_left);
        }
    }

    /// Begins a snapshot when the journal has grown enough, hands on a part of it, and takes note of one that has
    /// ended. Whether there is more to hand on.
    fn compact(&mut self, now: Now) -> bool {
        if let Some(writer) = self.writer.take_if(|writer| writer.has_ended()) {
            match writer.end() {
                Ok(finished) => self.controller.compacted(finished),
                Err(error) => self.not_compacted(&error),
            }
        }
        match &mut self.writer {
            None if now.mono_ns < self.compact_after_ns => {}
            None => match self.controller.compaction().and_then(|new| new.map(Writer::start).transpose()) {
                Ok(writer) => self.writer = writer,
                Err(error) => self.not_compacted(&error),
            },
            Some(writer) if writer.is_hungry() => {
                writer.feed(self.controller.part(PART));
                return true;
            }
            Some(_) => {}
        }
        self.writer.as_ref().is_some_and(Writer::is_hungry)
    }

    fn not_compacted(&mut self, error: &io::Error) {
        self.controller.not_compacted();
        self.compact_after_ns = self.clock.now().mono_ns + RETRY_NS;
        self.state.trouble(format!("the journal could not be compacted: {error}"));
    }

    fn close(mut self) -> io::Result<()> {
        self.answers.finish();
        self.count_sent();
        self.controller.give_up_reports();
        self.state.radius.controller.show(self.controller.report_counters());
        let (counters, closed) = self.controller.close();
        self.state.controller.show(&counters);
        self.state.desk.show(counters.punted);
        closed
    }
}

/// As [`PACE`] says, but so often that rings shorter than usual do not fill meanwhile.
fn pace(limits: &Limits) -> Duration {
    let slots = limits.punts.min(limits.reports) as u64;
    PACE.min(Duration::from_micros(slots))
}
