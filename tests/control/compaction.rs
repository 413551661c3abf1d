//! The controller over a disk that fails or loses power before any one of its operations, while a snapshot of the
//! journal is written between its batches: what it acknowledged is found again, to the last change, and nothing that
//! nobody asked for.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use pushplane::clock::Now;
use pushplane::config::{Limits, RegisterPolicy};
use pushplane::control::{Engine, Outbox, Request, Site};
use pushplane::id::{Endpoint, PushId};
use pushplane::journal::{Failure, Journal, Options, Simulated};
use pushplane::plane::{Punt, Shared};
use pushplane::server::{Compaction, Controller};
use pushplane::table::{Change, Tables};
use pushplane::wire::prp::{Kind, option_type as ty};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::bench::policy;
use super::lab::{self, LIMITS, LISTEN4, NOW, at, msg, own};

const STATE: &str = "/state";
const BATCHES: usize = 60;

fn site() -> Site {
    // The journal is compacted all the time.
    let limits = Limits { journal: 1500, ..LIMITS };
    Site { listen: vec![at(LISTEN4)], policy: policy(RegisterPolicy::Any), limits, seed: 7 }
}

/// What terminals ask, in batches, the same for the same seed: few users and fewer addresses, so that they take
/// them from each other, devices, lent Push IDs, releases of something and of nothing.
fn life(seed: u64) -> Vec<Vec<Vec<u8>>> {
    let mut chance = Pcg64Mcg::seed_from_u64(seed);
    let mut ask = || {
        let user = own(1000 + chance.random_range(0..30));
        if chance.random_bool(0.25) {
            let device = chance.random_range(0..3);
            return msg(Kind::Release, user, PushId::NONE).device(device).bytes();
        }
        let address = format!("10.0.5.{}:2948", chance.random_range(0..25));
        let ask = msg(Kind::Register, user, PushId::NONE).endpoint(ty::PRIVATE_ADDRESS, at(&address));
        let ask = if chance.random_bool(0.2) { ask.device(chance.random_range(1..3)) } else { ask };
        let ask = if chance.random_bool(0.1) { ask.option(ty::DYNAMIC_ID, &[0; 16]) } else { ask };
        ask.bytes()
    };
    (0..BATCHES).map(|n| (0..n % 4 + 1).map(|_| ask()).collect()).collect()
}

/// A state: the records of its changes.
type State = BTreeSet<Vec<u8>>;

fn state(engine: &Engine) -> State {
    engine.changes().map(|change| change.to_bytes()).collect()
}

fn replayed<'a>(changes: impl Iterator<Item = &'a Change>) -> State {
    let mut engine = Engine::new(site());
    changes.for_each(|change| engine.restore(change));
    state(&engine)
}

/// A server's controller, a snapshot that it may be writing, and an engine beside it that is asked the same and has
/// no disk.
struct Run {
    disk: Simulated,
    tables: Tables,
    shared: Arc<Shared>,
    controller: Controller<Simulated>,
    handed_over: u64,
    compaction: Option<Compaction<Simulated>>,
    /// The state as it began, and what was told of it.
    then: State,
    told: State,
    parts: VecDeque<Vec<Change>>,
    snapshots: u64,
    beside: Engine,
    durable: Vec<Change>,
    /// What the batch that failed would have changed.
    torn: Vec<Change>,
}

impl Run {
    fn start(disk: &Simulated) -> io::Result<Self> {
        let tables = lab::tables(&lab::rib());
        let shared = Arc::new(Shared::new(&site().limits, 1, 7));
        let recovered = Controller::recover(disk.clone(), Path::new(STATE), site(), Arc::clone(&shared));
        let (controller, _) = recovered.map_err(|error| io::Error::other(error.to_string()))?;
        let mut beside = Engine::new(site());
        beside.restored(&tables, NOW, &mut Outbox::default());
        Ok(Self {
            disk: disk.clone(),
            tables,
            shared,
            controller,
            handed_over: 0,
            compaction: None,
            then: State::new(),
            told: State::new(),
            parts: VecDeque::new(),
            snapshots: 0,
            beside,
            durable: Vec::new(),
            torn: Vec::new(),
        })
    }

    /// One batch, durable or not.
    fn batch(&mut self, asks: &[Vec<u8>], now: Now) -> io::Result<()> {
        let from: Endpoint = at("203.0.113.7:5000");
        let mut out = Outbox::default();
        for bytes in asks {
            let request = Request { bytes, from, listener: 0, signed_by: None, now };
            self.beside.handle(&self.tables, &request, &mut out);
            let punt = Punt::new(bytes, from, 0, None).unwrap();
            self.shared.punts()[0].push(punt).unwrap();
            self.handed_over += 1;
        }
        self.shared.punts()[0].show(self.handed_over);
        assert!(self.controller.decide(&self.tables, now).worked);
        while let Some(reply) = self.controller.poll_transmit(now) {
            self.controller.sent(&reply, true);
        }
        if self.controller.is_poisoned() {
            self.torn = out.changes;
            return Err(io::Error::other(self.controller.take_trouble().unwrap_or_default()));
        }
        self.durable.append(&mut out.changes);
        assert_eq!(self.controller.counters().unaccounted(), 0);
        Ok(())
    }

    /// A little of a compaction; a failure of it harms nothing, but where the journal's own files are concerned.
    fn compact(&mut self, bindings: u32) {
        let Some(compaction) = &mut self.compaction else {
            self.compaction = self.controller.compaction().unwrap_or_else(|_| {
                self.controller.not_compacted();
                None
            });
            self.then = state(&self.beside);
            self.told.clear();
            return;
        };
        // The writer is a part behind.
        let part = self.controller.part(bindings);
        let is_last = part.is_none();
        for change in part.iter().flatten() {
            assert!(self.told.insert(change.to_bytes()), "told twice: {change:?}");
        }
        assert!(!is_last || self.told == self.then, "a snapshot is of one moment");
        self.parts.extend(part);
        let written = match self.parts.len() > 1 || is_last {
            true => self.parts.drain(..).try_for_each(|part| compaction.write(&part)),
            false => Ok(()),
        };
        if written.is_ok() && !is_last {
            return;
        }
        let finished = self.compaction.take().map(|compaction| written.and_then(|()| compaction.finish()));
        match finished {
            Some(Ok(finished)) => {
                self.controller.compacted(finished);
                self.snapshots += 1;
            }
            _ => self.controller.not_compacted(),
        }
        self.parts.clear();
    }

    fn live(&mut self, life: &[Vec<Vec<u8>>]) -> io::Result<()> {
        for (n, asks) in (0..).zip(life) {
            self.batch(asks, NOW.plus_ns(n * 1_000_000_000))?;
            self.compact(n as u32 % 5 + 1);
        }
        Ok(())
    }

    /// What the disk holds, by the journal's own account.
    fn on_disk(&self) -> State {
        let mut engine = Engine::new(site());
        let folder = Path::new(STATE).join("journal");
        let replay = |record: &[u8]| engine.restore(&Change::from_bytes(record).expect("a change"));
        let opened = Journal::open_on(self.disk.copy(), &folder, Options::default(), replay);
        opened.unwrap_or_else(|error| panic!("{error}"));
        state(&engine)
    }

    /// All that is durable, and of the batch that failed no more than its beginning.
    fn check(&self, what: &str) {
        let found = self.on_disk();
        let mut may_be =
            (0..=self.torn.len()).rev().map(|some| self.durable.iter().chain(&self.torn[..some]));
        assert!(
            may_be.any(|changes| replayed(changes) == found),
            "{what}: what was acknowledged is not found"
        );
    }
}

#[test]
fn a_snapshot_written_between_batches_is_the_state_as_it_began() {
    for seed in 0..20 {
        let disk = Simulated::new(seed);
        let mut run = Run::start(&disk).unwrap();
        run.live(&life(seed)).unwrap();
        assert!(run.snapshots > 1, "{} snapshots", run.snapshots);
        run.check("seed");
        assert_eq!(state(&run.beside), run.on_disk());
    }
}

#[test]
fn no_crash_before_any_operation_loses_what_was_acknowledged() {
    let life = life(1);
    let disk = Simulated::new(1);
    let mut whole = Run::start(&disk).unwrap();
    whole.live(&life).unwrap();
    let operations = disk.operations();
    assert!(operations > 150 && whole.snapshots > 1, "{operations}");
    for operation in 0..operations {
        for (seed, failure) in [
            (1, Failure::Power),
            (2, Failure::Power),
            (3, Failure::Error(io::ErrorKind::Other)),
            (4, Failure::Error(io::ErrorKind::StorageFull)),
        ] {
            let disk = Simulated::new(seed);
            disk.fail_at(operation, failure);
            let Ok(mut run) = Run::start(&disk) else { continue };
            let _ = run.live(&life);
            let what = format!("operation {operation}, {failure:?}, seed {seed}");
            // The process is gone; then, too, what its disk had not kept.
            disk.kill();
            if failure != Failure::Power {
                run.check(&what);
            }
            disk.lose_power();
            run.check(&what);
            // Whoever is started there goes on, and compacts again.
            let found = run.on_disk();
            let mut next = Run::start(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            next.controller.decide(&next.tables, NOW);
            assert_eq!(next.on_disk(), found, "{what}");
        }
    }
}
