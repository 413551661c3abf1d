//! The controller's thread: gives a [`Controller`] a clock, sockets to answer from, and bursts to wait for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{SockAddr, Socket};

use super::super::radius::Parcel;
use super::super::{IDLE, StartError, State};
use super::Controller;
use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::control::{Reply, Report, Site};
use crate::journal::{Finished, Os, Recovery};
use crate::metrics::Counters;
use crate::plane::Shared;
use crate::table::Tables;
use crate::table::publish::{Guard, Reader, Watch};

/// How long the controller waits at most for a shard to finish a burst: far longer than one takes.
const BURST_NS: u64 = 200_000_000;

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
    /// By listener: the sockets that a shard receives on, to send from.
    sockets: Vec<Socket>,
    /// By address of `radius.listen`: the listeners' sockets, to answer from.
    radius: Vec<UdpSocket>,
    state: Arc<State>,
    clock: Clock,
    snapshot: Option<JoinHandle<io::Result<Finished>>>,
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
        let mut seat = Self { controller, shared, shards, sockets, radius, state, clock, snapshot: None };
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
            if !self.turn(&mut tables) {
                std::thread::park_timeout(self.pause());
            }
        }
        while self.turn(&mut tables) {}
        self.close()
    }

    /// How long there is nothing to do, unless something arrives.
    fn pause(&self) -> Duration {
        let left = self.controller.poll_timeout().map(|due| due.saturating_sub(self.clock.now().mono_ns));
        left.map_or(IDLE, |ns| Duration::from_nanos(ns).min(IDLE))
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
            self.await_shards(&tables);
        }
        self.spread(&tables, now);
        self.answer(now);
        self.compact();
        self.show(self.controller.counters());
        decided.worked || heard
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

    fn answer(&mut self, now: Now) {
        while let Some(reply) = self.controller.poll_transmit(now) {
            let has_left = self.send(&reply);
            self.controller.sent(&reply, has_left);
        }
        while let Some(answer) = self.controller.poll_report() {
            let to = SocketAddr::from(answer.to);
            let socket = self.radius.get(usize::from(answer.listener));
            let has_left = socket.is_some_and(|socket| socket.send_to(&answer.datagram, to).is_ok());
            self.controller.report_sent(has_left);
        }
    }

    fn send(&self, reply: &Reply) -> bool {
        let to = SockAddr::from(SocketAddr::from(reply.to));
        let socket = self.sockets.get(usize::from(reply.listener));
        socket.is_some_and(|socket| socket.send_to(&reply.datagram, &to).is_ok())
    }

    /// Begins a snapshot when the journal has grown enough, and takes note of one that is finished.
    fn compact(&mut self) {
        if let Some(job) = self.snapshot.take_if(|job| job.is_finished()) {
            match job.join().unwrap_or_else(|_| Err(io::Error::other("its thread ended"))) {
                Ok(finished) => self.controller.compacted(finished),
                Err(error) => self.state.trouble(format!("the journal could not be compacted: {error}")),
            }
        }
        if self.snapshot.is_some() {
            return;
        }
        let spawned = self.controller.compaction().and_then(|compaction| {
            let Some(compaction) = compaction else { return Ok(None) };
            let job = move || compaction.write();
            std::thread::Builder::new().name("compact".to_owned()).spawn(job).map(Some)
        });
        match spawned {
            Ok(job) => self.snapshot = job,
            Err(error) => self.state.trouble(format!("the journal could not be compacted: {error}")),
        }
    }

    fn close(mut self) -> io::Result<()> {
        if let Some(Ok(Ok(finished))) = self.snapshot.take().map(JoinHandle::join) {
            self.controller.compacted(finished);
        }
        self.controller.give_up_reports();
        self.state.radius.controller.show(self.controller.report_counters());
        let (counters, closed) = self.controller.close();
        self.state.controller.show(&counters);
        self.state.desk.show(counters.punted);
        closed
    }
}
