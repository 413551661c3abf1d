//! Requests to other Push servers: repeated until they are answered or given up, and the visits that
//! some of them keep up.
//!
//! The first repetition is after 500 ms, each further one after twice the time, at most 8 s. A request that a client
//! waits for is given up after 5 s, another one after 60 s. Each repetition is a message of its own, with
//! an identifier and a signature of its own (PROTOCOL.md, ruling 17): the lowest four bits count them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use ahash::RandomState;

use super::answer::Asker;
use super::register::Registration;
use super::timer::{TimerId, Wheel, tick, tick_after};
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::table::{Binding, Owed, Parting};

const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 8000;
/// How long a client waits.
const GIVE_UP_CLIENT_MS: u64 = 5000;
/// How long a request that nobody waits for is repeated.
const GIVE_UP_MS: u64 = 60_000;
/// The bits of a message identifier that count repetitions.
const ATTEMPTS: u64 = 15;
/// Requests at once for one user, and of clients for one terminal.
const USER_MAX: usize = 16;
const CLIENTS_MAX: usize = 4;

/// Why a request was sent.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// REGISTER with the home server of a visitor, who waits.
    Register(Box<Registration>),
    /// The same again, at half of the validity.
    Renew,
    /// RELEASE, which is owed.
    Release(Parting),
}

/// A request without an answer yet.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    pub(super) task: Task,
    pub(super) to: Endpoint,
    pub(super) user: PushId,
    pub(super) device: u8,
    pub(super) validity_s: u32,
    attempts: u8,
    give_up: u64,
    timer: Option<TimerId>,
}

impl Relay {
    pub(super) fn new(
        task: Task,
        to: Endpoint,
        (user, device): (PushId, u8),
        validity_s: u32,
        now: Now,
    ) -> Self {
        let give_up_ms = match task {
            Task::Register(_) | Task::Renew => GIVE_UP_CLIENT_MS,
            Task::Release(_) => GIVE_UP_MS,
        };
        let give_up = tick_after(now, give_up_ms);
        Self { task, to, user, device, validity_s, attempts: 0, give_up, timer: None }
    }

    /// What is owed until it is over.
    pub(super) fn owed(&self) -> Option<Owed> {
        match self.task {
            Task::Release(parting) => {
                Some(Owed { to: self.to, user: self.user, device: self.device, parting })
            }
            Task::Register(_) | Task::Renew => None,
        }
    }

    /// Who waits for it.
    fn asker(self) -> Option<Asker> {
        match self.task {
            Task::Register(registration) => Some(registration.asker),
            _ => None,
        }
    }
}

/// A visitor with a validity that is to be renewed at home.
#[derive(Clone, Copy, Debug)]
struct Visit {
    validity_s: u32,
    timer: Option<TimerId>,
}

/// An address that a binding holds: a private one with its realm and whatever port, or a public one and its port.
type Held = (Option<u32>, [u8; 16], u16);

fn held(binding: &Binding) -> impl Iterator<Item = Held> + use<> {
    let private = binding.private.map(|private| (Some(binding.realm), private.octets(), 0));
    private.into_iter().chain(binding.nat.map(|nat| (None, nat.octets(), nat.port())))
}

/// All requests, and all visits.
#[derive(Debug)]
pub(super) struct Relays {
    relays: HashMap<u64, Relay, RandomState>,
    by_user: HashMap<PushId, Vec<u64>, RandomState>,
    /// The registrations under way, by the addresses that they are for.
    by_address: HashMap<Held, Vec<u64>, RandomState>,
    pending: usize,
    retries: Wheel<u64>,
    visits: HashMap<(PushId, u8), Visit, RandomState>,
    renewals: Wheel<(PushId, u8)>,
    /// What message identifiers are made of: nobody else can tell the next.
    hasher: RandomState,
    epoch: u64,
    count: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// Repeat this request.
    Retry(u64),
    /// Give this one up.
    GiveUp(u64),
    /// Renew this visit.
    Renew(PushId, u8),
}

impl Relays {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self {
            relays: HashMap::with_hasher(hasher.clone()),
            by_user: HashMap::with_hasher(hasher.clone()),
            by_address: HashMap::with_hasher(hasher.clone()),
            pending: 0,
            retries: Wheel::default(),
            visits: HashMap::with_hasher(hasher.clone()),
            renewals: Wheel::default(),
            hasher: hasher.clone(),
            epoch: 0,
            count: 0,
        }
    }

    /// Identifiers of this run differ from those of runs before with the same seed.
    pub(super) fn start(&mut self, now: Now) {
        self.epoch = now.unix_ms;
        self.retries.pop(tick(now));
        self.renewals.pop(tick(now));
    }

    pub(super) fn len(&self) -> usize {
        self.relays.len()
    }

    /// How many clients wait.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(super) fn next_tick(&self) -> Option<u64> {
        self.retries.next_tick().into_iter().chain(self.renewals.next_tick()).min()
    }

    pub(super) fn due(&mut self, to: u64) -> Option<Due> {
        if let Some(id) = self.retries.pop(to) {
            let relay = self.relays.get_mut(&id)?;
            relay.timer = None;
            return Some(if relay.give_up <= to { Due::GiveUp(id) } else { Due::Retry(id) });
        }
        let (user, device) = self.renewals.pop(to)?;
        self.visits.get_mut(&(user, device))?.timer = None;
        Some(Due::Renew(user, device))
    }

    fn ids(&self, user: PushId) -> &[u64] {
        self.by_user.get(&user).map_or(&[], Vec::as_slice)
    }

    fn of_user(&self, user: PushId) -> impl Iterator<Item = (u64, &Relay)> {
        self.ids(user).iter().filter_map(|id| Some((*id, self.relays.get(id)?)))
    }

    /// Whether one more request for this terminal is too many.
    pub(super) fn is_full(&self, user: PushId, device: u8, limit: usize) -> bool {
        let clients = self
            .of_user(user)
            .filter(|(_, relay)| relay.device == device && matches!(relay.task, Task::Register(_)));
        self.relays.len() >= limit || self.ids(user).len() >= USER_MAX || clients.count() >= CLIENTS_MAX
    }

    /// Takes a request on; its identifier.
    pub(super) fn add(&mut self, mut relay: Relay) -> u64 {
        let id = loop {
            self.count += 1;
            let id = self.hasher.hash_one((self.epoch, self.count)) & !ATTEMPTS;
            if !self.relays.contains_key(&id) {
                break id;
            }
        };
        if let Task::Register(registration) = &mut relay.task {
            registration.order = self.count;
            self.pending += 1;
            for held in held(&registration.binding) {
                self.by_address.entry(held).or_default().push(id);
            }
        }
        self.by_user.entry(relay.user).or_default().push(id);
        self.relays.insert(id, relay);
        id
    }

    /// The next repetition's message identifier; sets the timer for the one after it.
    pub(super) fn attempt(&mut self, id: u64, now: Now) -> Option<(u64, &Relay)> {
        let relay = self.relays.get_mut(&id)?;
        let attempt = u64::from(relay.attempts).min(ATTEMPTS);
        relay.attempts = relay.attempts.saturating_add(1);
        let wait_ms = (FIRST_MS << attempt).min(LONGEST_MS);
        let at = tick_after(now, wait_ms).min(relay.give_up);
        if let Some(timer) = relay.timer.replace(self.retries.set(at, id)) {
            self.retries.cancel(timer);
        }
        Some((id | attempt, relay))
    }

    /// The request that this message identifier belongs to.
    pub(super) fn asked(&self, message: u64) -> Option<(u64, &Relay)> {
        let relay = self.relays.get(&(message & !ATTEMPTS))?;
        (message & ATTEMPTS < u64::from(relay.attempts)).then_some((message & !ATTEMPTS, relay))
    }

    /// Ends a request.
    pub(super) fn take(&mut self, id: u64) -> Option<Relay> {
        let mut relay = self.relays.remove(&id)?;
        if let Some(timer) = relay.timer.take() {
            self.retries.cancel(timer);
        }
        remove(&mut self.by_user, relay.user, id);
        if let Task::Register(registration) = &relay.task {
            self.pending -= 1;
            held(&registration.binding).for_each(|held| remove(&mut self.by_address, held, id));
        }
        Some(relay)
    }

    /// Ends the registrations of other users for an address of this binding that were asked before that one of this
    /// order: the address is this user's now.
    pub(super) fn take_rivals(&mut self, binding: &Binding, order: u64) -> Vec<Relay> {
        let ids = held(binding).filter_map(|held| self.by_address.get(&held)).flatten();
        let is_rival = |id: &u64| {
            self.relays.get(id).is_some_and(|relay| {
                let asked_before =
                    matches!(&relay.task, Task::Register(registration) if registration.order < order);
                relay.user != binding.user && asked_before
            })
        };
        let ids: Vec<u64> = ids.copied().filter(is_rival).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    fn take_if(&mut self, user: PushId, is_meant: impl Fn(&Relay) -> bool) -> Vec<Relay> {
        let meant = self.of_user(user).filter(|(_, relay)| is_meant(relay));
        let ids: Vec<u64> = meant.map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Whether a client waits for a registration of this terminal of a user, or of any.
    pub(super) fn is_pending(&self, user: PushId, device: Option<u8>) -> bool {
        let is_meant = |relay: &Relay| device.is_none_or(|device| device == relay.device);
        self.of_user(user).any(|(_, relay)| is_meant(relay) && matches!(relay.task, Task::Register(_)))
    }

    /// Ends the registrations of a user's terminal, or of all; who waits for them.
    pub(super) fn drop_pending(&mut self, user: PushId, device: Option<u8>) -> Vec<Asker> {
        let is_meant = |relay: &Relay| {
            matches!(relay.task, Task::Register(_)) && device.is_none_or(|device| device == relay.device)
        };
        self.take_if(user, is_meant).into_iter().filter_map(Relay::asker).collect()
    }

    /// Ends every registration that a client waits for; who waits.
    pub(super) fn drop_all_pending(&mut self) -> Vec<Asker> {
        let waits = |(id, relay): (&u64, &Relay)| matches!(relay.task, Task::Register(_)).then_some(*id);
        let ids: Vec<u64> = self.relays.iter().filter_map(waits).collect();
        ids.into_iter().filter_map(|id| self.take(id)?.asker()).collect()
    }

    /// A terminal is registered anew at `to`, or from there: ends the RELEASEs for it, which may not arrive after
    /// that.
    pub(super) fn supersede(&mut self, user: PushId, device: u8, to: Endpoint) -> Vec<Relay> {
        self.take_if(user, |relay| relay.owed().is_some_and(|owed| owed.to == to && owed.means(device)))
    }

    /// The terminal was registered with its home server: that need not be done again now.
    pub(super) fn renewed(&mut self, user: PushId, device: u8) {
        self.take_if(user, |relay| relay.device == device && matches!(relay.task, Task::Renew));
    }

    /// The terminal's visit is to be renewed after so long.
    pub(super) fn renew_after(
        &mut self,
        (user, device): (PushId, u8),
        validity_s: u32,
        wait_ms: Option<u64>,
        now: Now,
    ) {
        self.end_visit(user, device);
        if let Some(wait_ms) = wait_ms {
            let timer = Some(self.renewals.set(tick_after(now, wait_ms), (user, device)));
            self.visits.insert((user, device), Visit { validity_s, timer });
        }
    }

    /// The validity that a visit's home server was last asked for.
    pub(super) fn visit_validity(&self, user: PushId, device: u8) -> Option<u32> {
        self.visits.get(&(user, device)).map(|visit| visit.validity_s)
    }

    /// The terminal is no visitor any more.
    pub(super) fn end_visit(&mut self, user: PushId, device: u8) {
        if let Some(timer) = self.visits.remove(&(user, device)).and_then(|visit| visit.timer) {
            self.renewals.cancel(timer);
        }
    }
}

/// Takes a request out of those under a key.
fn remove<K: Eq + Hash>(ids: &mut HashMap<K, Vec<u64>, RandomState>, key: K, id: u64) {
    if let Entry::Occupied(mut ids) = ids.entry(key) {
        ids.get_mut().retain(|other| *other != id);
        if ids.get().is_empty() {
            ids.remove();
        }
    }
}
