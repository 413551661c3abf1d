//! Random reports, registrations, releases, passing time and restarts, held to a plain version that scans everything
//! it knows; and the same over a disk that loses power: what was answered holds.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use pushplane::config::Radius;
use pushplane::control::{Effect, ReportEnd};
use pushplane::id::PushId;
use pushplane::journal::{self, Failure, Journal, Simulated};
use pushplane::reason::Reason;
use pushplane::table::rib::User;
use pushplane::table::{Change, Rib};
use pushplane::wire::prp::Kind;

use super::bench::*;
use super::lab::*;
use super::radius::*;

/// Users with a SIM, each with another device; whoever has the last SIM is not known.
const USERS: usize = 3;
const SIMS: usize = USERS + 1;
const SESSIONS: usize = 8;
const ADDRESSES: u8 = 3;
const NASES: usize = 2;
/// Seconds that a session lasts of which nothing more is heard.
const SESSION_S: u32 = 120;

fn user(n: usize) -> PushId {
    own(0x100 + n as u128)
}

/// The device of a user that users.csv gives its SIM to.
const fn device(n: usize) -> u8 {
    n as u8
}

fn imsi(n: usize) -> String {
    format!("26201{n:010}")
}

fn ip(address: u8) -> String {
    format!("10.0.7.{}", address + 1)
}

fn tables() -> Rib {
    let mut rib = rib();
    rib.users.extend(
        (0..USERS).map(|n| User { imsi: Some(imsi(n).parse().unwrap()), ..User::new(user(n), device(n)) }),
    );
    rib
}

fn bench() -> Bench {
    let config = Radius { session_max_s: SESSION_S, ..radius() };
    Bench::listening(ANY, LIMITS, &tables(), Some(config))
}

#[derive(Clone, Debug)]
enum Op {
    Report { status: u32, session: usize, address: u8, age_s: u64, is_dated: bool },
    Restarted { status: u32, nas: usize, age_s: u64 },
    Register { user: usize, device: u8, address: u8, validity_s: u32 },
    Release { user: usize },
    Pass(u64),
    Restart { from_snapshot: bool },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let status = prop::sample::select(vec![START, START, INTERIM, INTERIM, STOP]);
    let age = || prop_oneof![3 => Just(0u64), 1 => 0u64..40];
    let report = (status, 0..SESSIONS, 0..ADDRESSES, age(), prop::bool::weighted(0.8)).prop_map(
        |(status, session, address, age_s, is_dated)| Op::Report {
            status,
            session,
            address,
            age_s,
            is_dated,
        },
    );
    let restarted = (prop::sample::select(vec![ON, OFF]), 0..NASES, age())
        .prop_map(|(status, nas, age_s)| Op::Restarted { status, nas, age_s });
    let register = (0..USERS, 0u8..4, 0..ADDRESSES, prop_oneof![1u32..20, Just(3600)])
        .prop_map(|(user, device, address, validity_s)| Op::Register { user, device, address, validity_s });
    let op = prop_oneof![
        12 => report,
        1 => restarted,
        4 => register,
        1 => (0..USERS).prop_map(|user| Op::Release { user }),
        // Fewer than ten minutes in all, for which what is over is remembered.
        5 => prop_oneof![Just(1u64), 1u64..9_000].prop_map(Op::Pass),
        1 => any::<bool>().prop_map(|from_snapshot| Op::Restart { from_snapshot }),
    ];
    prop::collection::vec(op, 1..64)
}

/// A session by the plain version.
#[derive(Clone, PartialEq, Debug)]
struct Session {
    address: u8,
    since_ms: u64,
    heard_ms: u64,
    until_ms: u64,
    released: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Bound {
    address: u8,
    until_ms: u64,
    /// When the terminal said so; none: the network did.
    said_ms: Option<u64>,
}

#[derive(Clone, Default)]
struct Plain {
    now_ms: u64,
    sessions: BTreeMap<usize, Session>,
    over: BTreeMap<usize, u64>,
    bound: BTreeMap<(usize, u8), Bound>,
}

/// Whose a session is.
fn owner(session: usize) -> Option<usize> {
    Some(session % SIMS).filter(|n| *n < USERS)
}

impl Plain {
    fn goes_on(&mut self, number: usize, address: u8, at_ms: u64, is_dated: bool) -> Effect {
        let before = self.sessions.get(&number).cloned();
        if self.over.get(&number).is_some_and(|over| !is_dated || at_ms <= *over)
            || before.as_ref().is_some_and(|before| at_ms < before.heard_ms)
        {
            return Effect::Late;
        }
        let same = before.as_ref().filter(|before| before.address == address);
        let is_new = same.is_none();
        let since_ms = same.map_or(at_ms.min(self.now_ms), |same| same.since_ms);
        let others: Vec<usize> = self
            .sessions
            .iter()
            .filter(|(other, session)| **other != number && session.address == address)
            .map(|(other, _)| *other)
            .collect();
        if is_new {
            let is_later = |other: &Session| {
                let is_known_later = other.heard_ms > at_ms && other.heard_ms <= self.now_ms + 30_000;
                other.since_ms > since_ms || is_known_later
            };
            if others.iter().any(|other| is_later(&self.sessions[other])) {
                return Effect::Late;
            }
            for other in others {
                let session = self.sessions.remove(&other).unwrap();
                self.over.insert(other, since_ms.max(session.heard_ms));
            }
            let is_known = owner(number).is_some();
            self.bound.retain(|(user, _), bound| {
                bound.address != address
                    || Some(*user) == owner(number)
                    || (!is_known && bound.said_ms.is_some_and(|said| said >= since_ms))
            });
            if let Some(before) = &before {
                self.bound.retain(|_, bound| bound.address != before.address);
            }
        }
        let fresh_ms = self.now_ms + u64::from(SESSION_S) * 1000;
        let is_worn = |same: &&Session| fresh_ms - same.until_ms >= u64::from(SESSION_S) * 250;
        let until_ms = same.filter(|same| !is_worn(same)).map_or(fresh_ms, |same| same.until_ms);
        let released = same.is_some_and(|same| same.released);
        let session = Session { address, since_ms, heard_ms: at_ms, until_ms, released };
        self.over.remove(&number);
        self.sessions.insert(number, session);
        self.bind(number, is_new);
        Effect::Taken
    }

    fn stops(&mut self, number: usize, at_ms: u64) -> Effect {
        match self.sessions.get(&number) {
            None => {
                let over = self.over.entry(number).or_insert(0);
                *over = at_ms.max(*over);
                Effect::Late
            }
            Some(session) if at_ms < session.since_ms => Effect::Late,
            Some(_) => {
                self.end(number, Some(at_ms));
                Effect::Taken
            }
        }
    }

    fn end(&mut self, number: usize, at_ms: Option<u64>) {
        let Some(session) = self.sessions.remove(&number) else { return };
        let is_known = owner(number).is_some();
        let last_ms = at_ms.filter(|_| !is_known).map_or(u64::MAX, |at_ms| at_ms + 999);
        self.bound.retain(|_, bound| {
            bound.address != session.address || bound.said_ms.is_some_and(|said| said > last_ms)
        });
        if let Some(at_ms) = at_ms {
            self.over.insert(number, at_ms.max(session.heard_ms));
        }
    }

    /// What the network says holds where nothing else does: of a user's sessions the newest.
    fn settle(&mut self) {
        let sessions = self.sessions.iter();
        let mut sessions: Vec<_> = sessions
            .map(|(number, session)| (session.since_ms, number % NASES, name(*number), *number))
            .collect();
        sessions.sort();
        for (.., number) in sessions.into_iter().rev() {
            self.bind(number, false);
        }
    }

    fn bind(&mut self, number: usize, is_new: bool) {
        let Some(user) = owner(number) else { return };
        let Session { address, since_ms, until_ms, released, .. } = self.sessions[&number];
        if released || until_ms <= self.now_ms {
            return;
        }
        let at = (user, device(user));
        let speaks = |bound: &Bound| bound.address == address && bound.said_ms.is_some();
        if self.bound.iter().any(|((own, _), bound)| *own == user && speaks(bound)) {
            self.bound.retain(|(own, _), bound| {
                *own != user || bound.address != address || bound.said_ms.is_some()
            });
            return;
        }
        let is_held = |address: u8| {
            self.sessions.iter().any(|(other, held)| owner(*other) == Some(user) && held.address == address)
        };
        let is_kept = match self.bound.get(&at) {
            None => false,
            Some(Bound { said_ms: Some(said), .. }) => !is_new || *said > since_ms,
            Some(known) => !is_new && known.address != address && is_held(known.address),
        };
        if !is_kept {
            self.bound.insert(at, Bound { address, until_ms, said_ms: None });
        }
    }

    fn register(&mut self, user: usize, device: u8, address: u8, validity_s: u32) -> Result<(), Reason> {
        let mut at = self.sessions.iter().filter(|(_, session)| session.address == address);
        if at.any(|(number, _)| owner(*number).is_some_and(|owner| owner != user)) {
            return Err(Reason::NotPermitted);
        }
        self.bound
            .retain(|(own, _), bound| bound.address != address || (*own == user && bound.said_ms.is_some()));
        let until_ms = self.now_ms + u64::from(validity_s) * 1000;
        self.bound.insert((user, device), Bound { address, until_ms, said_ms: Some(self.now_ms) });
        Ok(())
    }

    fn release(&mut self, user: usize) {
        self.bound.retain(|(own, _), _| *own != user);
        for (number, session) in &mut self.sessions {
            session.released |= owner(*number) == Some(user);
        }
    }

    /// What ends by itself, one moment after the other.
    fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        loop {
            let untils = self.bound.values().map(|bound| bound.until_ms);
            let next = untils.chain(self.sessions.values().map(|session| session.until_ms)).min();
            let Some(next_ms) = next.filter(|next| *next <= end_ms) else { break };
            self.sleep(next_ms - self.now_ms);
        }
        self.now_ms = end_ms;
    }

    /// The same, found all at once.
    fn sleep(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_ms = self.now_ms;
        self.bound.retain(|_, bound| bound.until_ms > now_ms);
        let is_over = |(_, session): &(&usize, &Session)| session.until_ms <= now_ms;
        let over: Vec<usize> = self.sessions.iter().filter(is_over).map(|(number, _)| *number).collect();
        over.into_iter().for_each(|number| self.end(number, None));
        self.settle();
    }
}

fn name(session: usize) -> String {
    format!("s{session}")
}

fn nas(number: usize) -> [u8; 4] {
    [10, 9, 0, number as u8]
}

/// What is bound by the engine's own account, as the plain version has it.
fn seen(changes: impl Iterator<Item = Change>) -> BTreeMap<(usize, u8), (u8, u64, bool)> {
    let bound = changes.filter_map(|change| match change {
        Change::Bind { binding, .. } => Some((binding, true)),
        Change::Assign { binding, .. } => Some((binding, false)),
        _ => None,
    });
    bound
        .map(|(binding, spoke)| {
            let user = (0..USERS).find(|n| user(*n) == binding.user).unwrap();
            let private = binding.private.unwrap();
            let port = if spoke { 5000 } else { 17400 };
            assert_eq!(private.port(), port);
            let address = private.ipv4().unwrap()[3] - 1;
            ((user, binding.device), (address, binding.valid_until_ms.unwrap(), spoke))
        })
        .collect()
}

fn expected(plain: &Plain) -> BTreeMap<(usize, u8), (u8, u64, bool)> {
    let bound = plain.bound.iter();
    bound.map(|(at, bound)| (*at, (bound.address, bound.until_ms, bound.said_ms.is_some()))).collect()
}

/// How something that was said is answered.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Report(Effect),
    Terminal(Result<(), Reason>),
    Nobody,
}

/// What the network or a terminal says, to the engine.
fn say(bench: &mut Bench, op: &Op, identifier: u8) -> Answer {
    let now_ms = bench.now.unix_ms;
    let ends = match *op {
        Op::Report { status, session, address, age_s, is_dated } => {
            let acct = Acct::of(status, &name(session)).identifier(identifier).nas(nas(session % NASES));
            let acct = acct.imsi(&imsi(session % SIMS)).ip(&ip(address));
            let acct = if is_dated { acct.at(now_ms - age_s * 1000) } else { acct.delay(age_s as u32) };
            bench.report(&acct.bytes(), at(GGSN)).reports
        }
        Op::Restarted { status, nas: number, age_s } => {
            let acct = Acct::of(status, "0").nas(nas(number)).at(now_ms - age_s * 1000);
            let mut ends = bench.report(&acct.identifier(identifier).bytes(), at(GGSN)).reports;
            while bench.engine.live().reports > 0 {
                ends.extend(bench.pass_once().reports);
            }
            ends
        }
        Op::Register { user: number, device, address, validity_s } => {
            let request = register_at(user(number), &format!("{}:5000", ip(address)));
            let said = bench.ask(&request.device(device).validity(validity_s), OUTSIDE);
            let refused = said.dropped.first().copied();
            return Answer::Terminal(refused.map_or(Ok(()), Err));
        }
        Op::Release { user: number } => {
            bench.ask(&release(user(number)), OUTSIDE).one(Kind::Released);
            return Answer::Terminal(Ok(()));
        }
        Op::Pass(ms) => {
            bench.pass_ms(ms);
            return Answer::Nobody;
        }
        Op::Restart { .. } => {
            assert_eq!(bench.restart().changes, [], "what is is what was");
            return Answer::Nobody;
        }
    };
    match &ends[..] {
        [ReportEnd::Answered(_, effect)] => Answer::Report(*effect),
        other => panic!("{op:?}: {other:?}"),
    }
}

impl Plain {
    /// The same, to the plain version.
    fn hear(&mut self, op: &Op) -> Answer {
        let second = |age_s: u64| (self.now_ms - age_s * 1000) / 1000 * 1000;
        let answer = match *op {
            Op::Report { status, session, address, age_s, is_dated } => {
                let at_ms = if is_dated { second(age_s) } else { self.now_ms - age_s * 1000 };
                Answer::Report(match status {
                    STOP => self.stops(session, at_ms),
                    _ => self.goes_on(session, address, at_ms, is_dated),
                })
            }
            Op::Restarted { nas, age_s, .. } => {
                let at_ms = second(age_s);
                let sessions = self.sessions.iter();
                let over = sessions.filter(|(number, held)| **number % NASES == nas && held.heard_ms < at_ms);
                let over: Vec<usize> = over.map(|(number, _)| *number).collect();
                over.into_iter().for_each(|number| self.end(number, Some(at_ms)));
                Answer::Report(Effect::Taken)
            }
            Op::Register { user, device, address, validity_s } => {
                Answer::Terminal(self.register(user, device, address, validity_s))
            }
            Op::Release { user } => {
                self.release(user);
                Answer::Terminal(Ok(()))
            }
            Op::Pass(ms) => {
                self.pass(ms);
                Answer::Nobody
            }
            Op::Restart { .. } => Answer::Nobody,
        };
        self.settle();
        answer
    }
}

/// Whether the engine knows what the plain version knows.
#[track_caller]
fn compare(bench: &Bench, plain: &Plain, after: &Op) {
    assert_eq!(seen(bench.engine.changes()), expected(plain), "after {after:?}");
    let unknown = plain.sessions.keys().filter(|session| owner(**session).is_none()).count();
    let live = bench.engine.live();
    assert_eq!((live.sessions, live.sessions_unknown), (plain.sessions.len(), unknown), "after {after:?}");
    // One address, one user.
    let mut owners: BTreeMap<u8, usize> = BTreeMap::new();
    for ((user, _), bound) in &plain.bound {
        assert_eq!(*owners.entry(bound.address).or_insert(*user), *user);
    }
}

/// Whether a journal that was not cut makes the same engine again, and nothing of its own.
#[track_caller]
fn assert_restored(bench: &Bench, after: &Op) {
    let (again, out) = bench.restored_from(&bench.journal);
    assert_eq!(out.changes, [], "after {after:?}");
    assert_eq!(again.live(), bench.engine.live(), "after {after:?}");
    assert_eq!(seen(again.changes()), seen(bench.engine.changes()), "after {after:?}");
}

/// As long as nothing is due, what was last heard of a session is not worth a record.
fn sync_heard(bench: &Bench, plain: &mut Plain) {
    for change in bench.engine.changes() {
        let Change::Attach(session) = change else { continue };
        for (number, held) in &mut plain.sessions {
            if name(*number).as_bytes() == &*session.id.session {
                held.heard_ms = held.heard_ms.min(session.heard_ms);
            }
        }
    }
}

/// A server's journal, on a disk that loses power at some operation.
struct Log {
    journal: Journal<Simulated>,
    /// Changes in it.
    kept: usize,
}

const FOLDER: &str = "/state/journal";

impl Log {
    /// What the journal holds.
    fn open(disk: &Simulated) -> (Self, Vec<Change>) {
        let mut changes = Vec::new();
        let replay = |record: &[u8]| changes.push(Change::from_bytes(record).unwrap());
        let options = journal::Options { segment_bytes: 2048, ..journal::Options::default() };
        let (journal, _) = Journal::open_on(disk.clone(), Path::new(FOLDER), options, replay).unwrap();
        (Self { journal, kept: changes.len() }, changes)
    }

    /// Makes durable what the engine has decided; false when the power goes off.
    fn keep(&mut self, bench: &Bench) -> bool {
        let new = &bench.journal[self.kept..];
        self.kept = bench.journal.len();
        let append = |change: &Change| self.journal.append(&change.to_bytes()).map(drop);
        new.iter().try_for_each(append).and_then(|()| self.journal.commit()).is_ok()
    }

    /// Writes all that is known as a snapshot; false when the power goes off.
    fn compact(&mut self, bench: &Bench) -> bool {
        let write = |log: &mut Self| {
            let mut snapshot = log.journal.begin_snapshot()?;
            bench.engine.changes().try_for_each(|change| snapshot.append(&change.to_bytes()))?;
            log.journal.finish_snapshot(snapshot.finish()?);
            Ok::<(), std::io::Error>(())
        };
        write(self).is_ok()
    }
}

/// Whoever asks is answered when the journal has it. If the power goes off before, it asks again, and everything is as
/// if the power had gone off before it asked.
fn survive(ops: &[Op], seed: u64, failures: &[(usize, u64)]) {
    let disk = Simulated::new(seed);
    let mut log = Log::open(&disk).0;
    let mut bench = bench();
    let mut plain = Plain { now_ms: bench.now.unix_ms, ..Plain::default() };
    for (number, op) in ops.iter().enumerate() {
        for (_, after) in failures.iter().filter(|(at, _)| *at == number) {
            disk.fail_at(disk.operations() + after, Failure::Power);
        }
        let mut before = plain.clone();
        let is_kept = match op {
            Op::Restart { .. } => log.compact(&bench),
            op => {
                assert_eq!(say(&mut bench, op, number as u8), plain.hear(op));
                log.keep(&bench)
            }
        };
        if !is_kept {
            log = recover(&disk, &mut bench);
            sync_heard(&bench, &mut before);
            plain = before.clone();
            plain.hear(op);
            if let Op::Pass(ms) = op
                && seen(bench.engine.changes()) != expected(&plain)
            {
                // What happened one after the other, had the server been there, it finds all at once.
                plain = before;
                plain.sleep(*ms);
            }
            if !matches!(op, Op::Restart { .. } | Op::Pass(_)) {
                say(&mut bench, op, number as u8);
                assert!(log.keep(&bench));
            }
        }
        compare(&bench, &plain, op);
        if !is_kept || number % 4 == 0 {
            assert_restored(&bench, op);
        }
    }
    recover(&disk, &mut bench);
    if let Some(last) = ops.last() {
        compare(&bench, &plain, last);
        assert_restored(&bench, last);
    }
}

/// The server starts again from what the disk kept.
fn recover(disk: &Simulated, bench: &mut Bench) -> Log {
    disk.lose_power();
    let (mut log, changes) = Log::open(disk);
    bench.journal = changes;
    bench.restart();
    assert!(log.keep(bench));
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_is_where_is_what_the_plain_version_says(ops in ops()) {
        let mut bench = bench();
        let mut plain = Plain { now_ms: bench.now.unix_ms, ..Plain::default() };
        for (number, op) in ops.iter().enumerate() {
            if let Op::Restart { from_snapshot: true } = op {
                bench.journal = bench.engine.changes().collect();
            }
            assert_eq!(say(&mut bench, op, number as u8), plain.hear(op), "{op:?}");
            if let Op::Restart { .. } = op {
                sync_heard(&bench, &mut plain);
            }
            compare(&bench, &plain, op);
        }
    }

    #[test]
    fn what_was_answered_survives_a_loss_of_power(
        ops in ops(),
        seed in any::<u64>(),
        failures in prop::collection::vec((0usize..64, 0u64..6), 0..6),
    ) {
        survive(&ops, seed, &failures);
    }
}
