//! The fan-out: copies messages for groups to their members.
//!
//! ```text
//!  shard ─► controller: who is in the group ─► Fanout ─► Plane::process_copies, a burst at a time ─► socket
//! ```
//!
//! A thread of its own, unpinned, with a plane, a pool of frames and a hold on the sockets: a group of a million
//! members takes nothing from the shards but the kernel's time. Groups take turns of one burst each, so a large one
//! does not delay a small one; the messages of one group keep their order.
//!
//! A message is in flight until its last copy has been decided, and counted once: delivered when a member was, else
//! forwarded, else dropped for the reason of the first copy. Copies are counted beside it.
//!
//! Costs what the same copies would cost a shard, 16 bytes a member of every message that waits, and one wait of the
//! controller for a burst more when an address changes hands.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use super::{IDLE, State};
use crate::clock::{Clock, Now};
use crate::control::{GroupPush, NAMED_MAX, Reply};
use crate::id::PushId;
use crate::metrics::{Board, Counters};
use crate::net::Port;
use crate::packet::{BURST_MAX, Burst, Class, Tx};
use crate::plane::{Account, EXTRA, Handoff, Origin, Plane, Site, Verdict};
use crate::reason::Reason;
use crate::table::Tables;
use crate::table::publish::Reader;
use crate::wire::prp::set_destination;

/// Messages that wait for their first copy, at most.
const WAITING_MAX: usize = 256;

/// Members that messages may wait for, at most, in sum: 64 MiB. One message is always taken.
const MEMBERS_MAX: usize = 4 << 20;

/// The way from the controller to the fan-out.
#[derive(Debug)]
pub(super) struct Desk {
    ring: Handoff<GroupPush>,
    thread: OnceLock<Thread>,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self { ring: Handoff::new(WAITING_MAX), thread: OnceLock::new() }
    }

    /// The controller's: leaves a message here, or gives it back when there is no place.
    pub(super) fn push(&self, push: GroupPush) -> Option<GroupPush> {
        self.ring.push(push).err()
    }

    /// The controller's: its counters say that it handed over so many.
    pub(super) fn show(&self, handed_over: u64) {
        self.ring.show(handed_over);
        self.wake();
    }

    /// Wakes whoever works here.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// From now on the calling thread is woken.
    fn wake_me(&self) {
        let _ = self.thread.set(std::thread::current());
    }
}

/// A message on its way to the members of a group.
#[derive(Debug)]
struct Round {
    push: GroupPush,
    /// Members who had their copy.
    done: usize,
    delivered: bool,
    forwarded: bool,
    /// Members whom nothing reached, the first of them.
    missed: Vec<PushId>,
    fault: Option<Reason>,
}

impl Round {
    const fn new(push: GroupPush) -> Self {
        Self { push, done: 0, delivered: false, forwarded: false, missed: Vec::new(), fault: None }
    }

    fn left(&self) -> &[PushId] {
        &self.push.members[self.done..]
    }

    fn note(&mut self, member: PushId, verdict: Verdict) {
        match verdict {
            Verdict::Deliver => self.delivered = true,
            Verdict::Drop(reason) => {
                self.fault.get_or_insert(reason);
                if self.missed.len() < NAMED_MAX {
                    self.missed.push(member);
                }
            }
            _ => self.forwarded = true,
        }
    }
}

/// Whoever makes the copies. Its owner calls [`Fanout::work`] as long as that says that there is more.
pub(super) struct Fanout<P> {
    port: P,
    burst: Burst,
    plane: Plane,
    site: Site,
    tables: Reader<Tables>,
    board: Arc<Board>,
    desk: Arc<Desk>,
    /// Groups with messages on their way, each with its messages in order.
    groups: VecDeque<(PushId, VecDeque<Round>)>,
    /// Members whom these messages still have to reach.
    waiting: usize,
    taken: u64,
    counters: Counters,
    later: Vec<Tx>,
}

impl<P: Port> Fanout<P> {
    pub(super) fn new(
        port: P,
        burst: Burst,
        site: Site,
        tables: Reader<Tables>,
        board: Arc<Board>,
        desk: Arc<Desk>,
    ) -> Self {
        let frames = burst.pool.capacity();
        Self {
            port,
            burst,
            plane: Plane::new(frames),
            site,
            tables,
            board,
            desk,
            groups: VecDeque::new(),
            waiting: 0,
            taken: 0,
            counters: Counters::default(),
            later: Vec::with_capacity(frames),
        }
    }

    /// Makes a burst of copies; true when there is more to do.
    ///
    /// # Errors
    /// What the port cannot recover from.
    pub(super) fn work(&mut self, now: Now) -> io::Result<bool> {
        self.take();
        if let Some((group, mut rounds)) = self.groups.pop_front() {
            if let Some(round) = rounds.front_mut() {
                self.send_copies(round, now)?;
                if round.left().is_empty() {
                    self.end(round, now)?;
                    rounds.pop_front();
                }
            }
            if !rounds.is_empty() {
                self.groups.push_back((group, rounds));
            }
        }
        self.show();
        Ok(!self.groups.is_empty())
    }

    /// What is waiting is given up, counted as `overloaded`.
    pub(super) fn close(&mut self) {
        loop {
            self.take();
            let Some((_, rounds)) = self.groups.pop_front() else { break };
            for round in rounds {
                self.waiting -= round.left().len();
                self.count(&round, Reason::Overloaded);
            }
        }
        self.show();
    }

    fn take(&mut self) {
        while self.waiting < MEMBERS_MAX
            && let Some(push) = self.desk.ring.take(&mut self.taken)
        {
            self.counters.taken += 1;
            self.counters.in_flight += 1;
            self.waiting += push.members.len();
            let group = push.group;
            let round = Round::new(push);
            match self.groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, rounds)) => rounds.push_back(round),
                None => self.groups.push_back((group, VecDeque::from([round]))),
            }
        }
    }

    fn send_copies(&mut self, round: &mut Round, now: Now) -> io::Result<()> {
        let (from, listener) = round.push.came();
        let first = round.done;
        for at in first..round.push.members.len().min(first + BURST_MAX) {
            set_destination(&mut round.push.copy, round.push.members[at]);
            if !self.burst.push_copy(&round.push.copy, from, listener) {
                break;
            }
            round.done += 1;
        }
        self.waiting -= round.done - first;
        let tables = self.tables.enter();
        self.plane.process_copies(&self.site, &tables, now, &mut self.burst);
        super::shard::send(&mut self.port, &mut self.burst, &mut self.later)?;
        drop(tables);
        self.burst.clear_rows();
        // Before the verdicts: those of copies that the kernel did not take say so then.
        self.settle();
        for (row, at) in (first..round.done).enumerate() {
            round.note(round.push.members[at], self.plane.verdict(row));
        }
        self.plane.ledger_mut().counters_mut().bursts += 1;
        Ok(())
    }

    fn settle(&mut self) {
        let tells = self.plane.settle(&mut self.burst);
        debug_assert!(!tells, "only copies and answers are sent here");
    }

    /// Counts a message whose copies have left, and tells its sender what there is to tell.
    fn end(&mut self, round: &Round, now: Now) -> io::Result<()> {
        let fault = round.fault.unwrap_or(Reason::NotAttached);
        self.count(round, fault);
        let tables = self.tables.enter();
        let reply = if round.delivered || round.forwarded {
            round.push.receipt(&tables, &round.missed, now)
        } else {
            let limiter = self.site.shared.rejects();
            let may = self.site.policy.rejects && limiter.take(round.push.came().0, now.mono_ns);
            self.counters.rejects_suppressed += u64::from(self.site.policy.rejects && !may);
            round.push.reject(&tables, fault, now).filter(|_| may)
        };
        drop(tables);
        let Some(Reply { to, listener, datagram, is_reject }) = reply else { return Ok(()) };
        let Some(mut frame) = self.burst.pool.take() else { return Ok(()) };
        let ledger = self.plane.ledger_mut();
        let token = if is_reject { Some(EXTRA) } else { ledger.open(Account::Answered, 1, Origin::Nobody) };
        match token.filter(|_| frame.fill(&datagram)) {
            Some(token) => {
                self.burst.tx.push(Tx { frame, to, listener, class: Class::Normal, flow: 0, token });
                self.port.send(&mut self.burst)?;
                self.settle();
            }
            None => self.burst.pool.put(frame),
        }
        Ok(())
    }

    fn count(&mut self, round: &Round, fault: Reason) {
        self.counters.in_flight -= 1;
        match (round.delivered, round.forwarded) {
            (true, _) => self.counters.delivered += 1,
            (false, true) => self.counters.forwarded += 1,
            (false, false) => self.counters.drop(fault),
        }
    }

    /// The plane counted copies; what is shown are messages, and the copies beside them.
    fn show(&self) {
        let made = self.plane.ledger().counters();
        let port = self.port.counts();
        self.board.show(&Counters {
            tx: made.tx,
            tx_bytes: made.tx_bytes,
            tx_failed: made.tx_failed,
            tx_full: made.tx_full,
            tx_too_long: made.tx_too_long,
            tx_unreachable: made.tx_unreachable,
            sends: port.sends,
            groups_refused: port.groups_refused,
            copies_delivered: made.delivered,
            copies_forwarded: made.forwarded,
            copies_dropped: made.dropped_total(),
            terminals_failed: made.terminals_failed,
            rejects: made.rejects,
            bursts: made.bursts,
            ..self.counters
        });
    }
}

/// How long it works on what is waiting after it was told to stop.
const DRAIN_NS: u64 = 1_000_000_000;

/// The thread's whole life.
pub(super) fn run<P: Port>(mut fanout: Fanout<P>, clock: Clock, state: &State) -> io::Result<()> {
    fanout.desk.wake_me();
    while !state.controller_ended.load(Ordering::Acquire) {
        if !fanout.work(clock.now())? {
            std::thread::park_timeout(IDLE);
        }
    }
    let until = clock.now().mono_ns + DRAIN_NS;
    loop {
        let now = clock.now();
        if !fanout.work(now)? || now.mono_ns > until {
            fanout.close();
            return Ok(());
        }
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;
    use crate::config::{Limits, Policy};
    use crate::control::{self, Engine, Outbox, Request};
    use crate::id::Endpoint;
    use crate::packet::{Done, FramePool};
    use crate::plane::Shared;
    use crate::table::Image;
    use crate::table::publish::{Publisher, publish};
    use crate::table::rib::{App, Rib, Rule, Server, User};
    use crate::wire::prp::{HeadBuilder, Header, Kind, flag};
    use std::time::Duration;

    /// Keeps what it sends, and sends nothing to this address.
    #[derive(Default)]
    struct Kept(Vec<(Endpoint, Header)>, Option<Endpoint>);

    impl Port for Kept {
        fn recv(&mut self, _: &mut Burst, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn send(&mut self, burst: &mut Burst) -> io::Result<()> {
            for tx in burst.tx.drain(..) {
                let errno = if self.1 == Some(tx.to) { libc::ENETUNREACH } else { 0 };
                if errno == 0 {
                    self.0.extend(Header::read(tx.frame.bytes()).map(|header| (tx.to, header)));
                }
                burst.done.push(Done { token: tx.token, bytes: tx.frame.len() as u32, errno });
                burst.pool.put(tx.frame);
            }
            Ok(())
        }

        fn in_flight(&self) -> usize {
            0
        }

        fn stop(&mut self, _: &mut Burst) -> io::Result<()> {
            Ok(())
        }

        fn close(&mut self, _: &mut Burst) -> io::Result<()> {
            Ok(())
        }
    }

    const NOW: Now = Now { mono_ns: 1_000_000_000, unix_ms: 1_700_000_000_000 };
    const SENDER: &str = "192.0.2.9:9";
    const LARGE: PushId = PushId(1 << 40);
    const SMALL: PushId = PushId(2 << 40);
    const MEMBERS: u128 = 1000;

    /// Users 1 to 1000 in the large group, 1 and 2000, whom nothing reaches, in the small one.
    fn rib() -> Rib {
        let user = |n: u128, nat: Option<Endpoint>| User { nat, ..User::new(PushId(n), 0) };
        let at = |n: u128| format!("203.0.113.{}:{}", n % 200, 1000 + n / 200).parse().ok();
        Rib {
            servers: vec![Server {
                name: "one".to_owned(),
                prefixes: vec!["0".parse().unwrap()],
                address: "198.51.100.1:17400".parse().unwrap(),
                key: None,
            }],
            apps: vec![App {
                id: 7,
                name: "mail".to_owned(),
                sources: None,
                users: false,
                rule: Rule::Normal,
                rate: None,
                key: None,
            }],
            users: (1..=MEMBERS).map(|n| user(n, at(n))).chain([user(2000, None)]).collect(),
            groups: (1..=MEMBERS)
                .map(|n| (LARGE, PushId(n)))
                .chain([(SMALL, PushId(1)), (SMALL, PushId(2000))])
                .collect(),
            ..Rib::default()
        }
    }

    struct Bench {
        fanout: Fanout<Kept>,
        engine: Engine,
        tables: Publisher<Tables>,
        handed: u64,
    }

    impl Bench {
        fn new() -> Self {
            let listen = vec!["198.51.100.1:17400".parse().unwrap()];
            let limits = Limits { receipts: 64, frames: 512, bindings: 64, ..Limits::default() };
            let (policy, seed) = (Policy::default(), 7);
            let tables = Tables::new(Image::build(&rib()).unwrap(), 1, "one", None);
            let (tables, mut readers) = publish(tables, 1);
            let shared = Arc::new(Shared::new(&limits, 1, seed));
            let engine = Engine::new(control::Site { listen: listen.clone(), policy, limits, seed });
            let site = Site { policy, listen, datagram_max: limits.datagram_max, shard: 0, shared };
            let burst = Burst::new(FramePool::new(limits.frames, limits.datagram_max));
            let (board, desk) = (Arc::default(), Arc::new(Desk::new()));
            let fanout = Fanout::new(Kept::default(), burst, site, readers.remove(0), board, desk);
            Self { fanout, engine, tables, handed: 0 }
        }

        /// A message for a group reaches the desk.
        fn push(&mut self, group: PushId, message: u64, flags: u8) {
            let header = Header {
                app: 7,
                flags: flags | flag::GROUP,
                ..Header::new(Kind::Push, group, PushId(5000), message)
            };
            let bytes = HeadBuilder::new(&header).datagram(b"x").unwrap();
            let from = SENDER.parse().unwrap();
            let request = Request { bytes: &bytes, from, listener: 0, signed_by: None, now: NOW };
            let mut out = Outbox::default();
            self.engine.handle(self.tables.current(), &request, &mut out);
            self.handed += 1;
            assert!(self.fanout.desk.push(out.copies.remove(0)).is_none());
            self.fanout.desk.show(self.handed);
        }

        /// Works once; what was sent.
        fn work(&mut self) -> (bool, Vec<(Endpoint, Header)>) {
            let more = self.fanout.work(NOW).unwrap();
            let counters = self.fanout.board.read();
            assert_eq!(counters.unaccounted(), 0);
            (more, std::mem::take(&mut self.fanout.port.0))
        }
    }

    #[test]
    fn groups_take_turns_and_each_keeps_its_order() {
        let mut bench = Bench::new();
        bench.push(LARGE, 1, 0);
        bench.push(LARGE, 2, 0);
        assert_eq!(bench.work().1.len(), BURST_MAX);
        bench.push(SMALL, 3, 0);
        let mut sent = Vec::new();
        let mut small_after = None;
        loop {
            let (more, burst) = bench.work();
            if burst.iter().any(|(_, header)| header.message == 3) {
                small_after = Some(sent.len());
            }
            sent.extend(burst.iter().map(|(_, header)| (header.message, header.destination)));
            if !more {
                break;
            }
        }
        assert!(small_after.is_some_and(|copies| copies <= BURST_MAX), "{small_after:?}");
        let of = |message: u64| sent.iter().filter(move |(of, _)| *of == message).map(|(_, to)| to.0);
        assert!(of(1).eq(BURST_MAX as u128 + 1..=MEMBERS) && of(2).eq(1..=MEMBERS) && of(3).eq([1]));
        let last_of_first = sent.iter().rposition(|(of, _)| *of == 1);
        assert!(last_of_first < sent.iter().position(|(of, _)| *of == 2));
        let counters = bench.fanout.board.read();
        assert_eq!((counters.taken, counters.delivered, counters.in_flight), (3, 3, 0));
        assert_eq!((counters.copies_delivered, counters.copies_dropped), (2 * MEMBERS as u64 + 1, 1));
        assert_eq!(counters.tx, 2 * MEMBERS as u64 + 1);
    }

    #[test]
    fn the_sender_is_told_whom_it_missed() {
        let mut bench = Bench::new();
        bench.push(SMALL, 1, flag::RECEIPT);
        let (_, sent) = bench.work();
        let told: Vec<_> = sent.iter().filter(|(to, _)| *to == SENDER.parse().unwrap()).collect();
        assert_eq!((sent.len(), told.len()), (2, 1));
        assert_eq!((told[0].1.kind, told[0].1.source, told[0].1.message), (Kind::Receipt as u8, SMALL, 1));
        assert_eq!(bench.fanout.board.read().tx, 2);
    }

    #[test]
    fn a_copy_that_is_not_taken_reached_nobody() {
        let mut bench = Bench::new();
        bench.fanout.port.1 = "203.0.113.1:1000".parse().ok();
        bench.push(SMALL, 1, flag::RECEIPT);
        let (_, sent) = bench.work();
        let told: Vec<_> = sent.iter().map(|(to, header)| (*to, header.kind, header.message)).collect();
        assert_eq!(told, [(SENDER.parse().unwrap(), Kind::Reject as u8, 1)]);
        let counters = bench.fanout.board.read();
        assert_eq!((counters.delivered, counters.dropped[Reason::NoRoute.index()]), (0, 1));
        assert_eq!((counters.copies_delivered, counters.copies_dropped, counters.rejects), (0, 2, 1));
    }

    #[test]
    fn what_waits_at_the_end_is_counted() {
        let mut bench = Bench::new();
        for message in 0..3 {
            bench.push(LARGE, message, 0);
        }
        bench.work();
        bench.fanout.close();
        let counters = bench.fanout.board.read();
        // The first had reached somebody.
        assert_eq!((counters.delivered, counters.dropped[Reason::Overloaded.index()]), (1, 2));
        assert_eq!((counters.in_flight, counters.unaccounted()), (0, 0));
    }
}
