//! Maps from a Push ID to a value of a cache line, which a writer may change while it is read.

use std::collections::HashMap;
use std::sync::RwLock;

use ahash::RandomState;
use pushplane::id::PushId;

use crate::measure::UserEntrant;
use crate::measure::contest::{Beside, Contestant, Entrant, Job, Run};
use crate::measure::operator::{id, mix};
use crate::measure::users::{Population, Users, Value};

/// A map that one thread may write while others read.
trait Shared: Send + Sync + 'static {
    /// Room for so many.
    fn with_capacity(users: usize) -> Self;
    /// Adds a user, or puts another value in the place of what it has.
    fn put(&self, user: PushId, value: Value);
    /// The values of these users, added up; of those that are not there, nothing.
    fn sum(&self, users: &[PushId]) -> u64;
}

impl Shared for dashmap::DashMap<PushId, Value, RandomState> {
    fn with_capacity(users: usize) -> Self {
        Self::with_capacity_and_hasher(users, RandomState::default())
    }

    fn put(&self, user: PushId, value: Value) {
        self.insert(user, value);
    }

    fn sum(&self, users: &[PushId]) -> u64 {
        users.iter().fold(0, |sum, user| sum.wrapping_add(self.get(user).map_or(0, |value| value.word())))
    }
}

impl Shared for papaya::HashMap<PushId, Value, RandomState> {
    fn with_capacity(users: usize) -> Self {
        Self::with_capacity_and_hasher(users, RandomState::default())
    }

    fn put(&self, user: PushId, value: Value) {
        self.pin().insert(user, value);
    }

    /// One guard for all, as a burst would.
    fn sum(&self, users: &[PushId]) -> u64 {
        let map = self.pin();
        users.iter().fold(0, |sum, user| sum.wrapping_add(map.get(user).map_or(0, Value::word)))
    }
}

impl Shared for scc::HashIndex<PushId, Value, RandomState> {
    fn with_capacity(users: usize) -> Self {
        Self::with_capacity_and_hasher(users, RandomState::default())
    }

    fn put(&self, user: PushId, value: Value) {
        match self.entry_sync(user) {
            scc::hash_index::Entry::Occupied(mut entry) => entry.update(value),
            scc::hash_index::Entry::Vacant(entry) => drop(entry.insert_entry(value)),
        }
    }

    /// One guard for all, as a burst would.
    fn sum(&self, users: &[PushId]) -> u64 {
        let guard = scc::Guard::new();
        users.iter().fold(0, |sum, user| sum.wrapping_add(self.peek(user, &guard).map_or(0, Value::word)))
    }
}

/// The standard library's map behind a lock, which a reader takes for as many as a burst has.
impl Shared for RwLock<HashMap<PushId, Value, RandomState>> {
    fn with_capacity(users: usize) -> Self {
        Self::new(HashMap::with_capacity_and_hasher(users, RandomState::default()))
    }

    fn put(&self, user: PushId, value: Value) {
        self.write().expect("nobody panics while writing").insert(user, value);
    }

    fn sum(&self, users: &[PushId]) -> u64 {
        let map = self.read().expect("nobody panics while writing");
        users.iter().fold(0, |sum, user| sum.wrapping_add(map.get(user).map_or(0, Value::word)))
    }
}

/// Questions that a reader asks at a time, as the plane does.
const BURST: usize = pushplane::packet::BURST_MAX;

struct Map<M> {
    map: M,
    users: u64,
}

impl<M: Shared> Map<M> {
    fn new(population: &Population) -> Result<Self, String> {
        let map = M::with_capacity(population.users as usize);
        (0..population.users).for_each(|n| map.put(id(n), Value::of(n)));
        Ok(Self { map, users: population.users })
    }

    fn all(&self, questions: &Users) -> Run {
        let bursts = || questions.ids.chunks(BURST);
        Run::of(|| bursts().fold(0u64, |sum, ids| sum.wrapping_add(self.map.sum(ids))))
    }
}

impl<M: Shared> Contestant<Users> for Map<M> {
    fn run(&mut self, questions: &Users) -> Run {
        self.all(questions)
    }

    fn beside_writer(&mut self, questions: &Users) -> Option<Beside> {
        let mut k = 0u64;
        // The values stay what they are, so that answers can be checked; each is written anew.
        let write = || {
            k += 1;
            let n = ((u128::from(mix(k)) * u128::from(self.users)) >> 64) as u64;
            self.map.put(id(n), Value::of(n));
        };
        Some(Beside::of(write, || self.all(questions)))
    }
}

/// Those that may be had as crates.
pub(crate) fn entrants() -> Vec<UserEntrant> {
    fn entrant<M: Shared>(name: &'static str) -> UserEntrant {
        Entrant::new(name, Job::Value, Map::<M>::new).heavy()
    }
    vec![
        entrant::<RwLock<HashMap<PushId, Value, RandomState>>>("hashbrown, ahash, behind an RwLock"),
        entrant::<papaya::HashMap<PushId, Value, RandomState>>("papaya, ahash"),
        entrant::<dashmap::DashMap<PushId, Value, RandomState>>("dashmap, ahash"),
        entrant::<scc::HashIndex<PushId, Value, RandomState>>("scc HashIndex, ahash"),
    ]
}
