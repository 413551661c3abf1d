//! The sessions that are under way, by what they are looked for: their name, their addresses, their user; and those
//! that are over and must not come back.
//!
//! Costs about 400 bytes a session: 208 of its own, 40 of its timer, its name, and its places in a hash map and two
//! ordered sets.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;

use crate::clock::Now;
use crate::control::REMEMBER_MS;
use crate::control::timer::{TimerId, tick};
use crate::id::PushId;
use crate::table::{Nas, Session, SessionId, base_of};

/// A session and the timer that ends it.
#[derive(Debug)]
pub(in crate::control) struct Held {
    pub(in crate::control) session: Session,
    pub(in crate::control) timer: Option<TimerId>,
}

/// All of them.
#[derive(Debug)]
pub(in crate::control) struct Sessions {
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    ids: HashMap<Arc<SessionId>, u32, RandomState>,
    /// Who has an address: its realm, the address as [`base_of`] has it, the session's place.
    addresses: BTreeSet<(u32, [u8; 16], u32)>,
    users: BTreeSet<(PushId, u32)>,
    /// Sessions of subscribers that are not known here.
    unknown: usize,
    /// One copy of each name that many sessions have.
    identifiers: HashSet<Arc<[u8]>, RandomState>,
    over: Over,
}

impl Sessions {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self {
            held: Vec::new(),
            free: Vec::new(),
            ids: HashMap::with_hasher(hasher.clone()),
            addresses: BTreeSet::new(),
            users: BTreeSet::new(),
            unknown: 0,
            identifiers: HashSet::with_hasher(hasher.clone()),
            over: Over::new(hasher),
        }
    }

    /// How many are under way.
    pub(in crate::control) fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many of them are nobody's that is known here.
    pub(in crate::control) fn unknown(&self) -> usize {
        self.unknown
    }

    /// The session at this place.
    pub(super) fn get(&self, at: u32) -> Option<&Session> {
        Some(&self.held.get(at as usize)?.as_ref()?.session)
    }

    /// As [`Sessions::get`], to set what it is not looked for by, and its timer.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Held> {
        self.held.get_mut(at as usize)?.as_mut()
    }

    /// The session of this name, and its place.
    pub(super) fn find(&self, id: &SessionId) -> Option<(u32, &Session)> {
        let at = *self.ids.get(id)?;
        Some((at, self.get(at)?))
    }

    /// All of them, and their places.
    pub(in crate::control) fn iter(&self) -> impl Iterator<Item = (u32, &Session)> {
        (0..).zip(&self.held).filter_map(|(at, held)| Some((at, &held.as_ref()?.session)))
    }

    /// Those that have a private address: several where a terminal has several bearers.
    pub(super) fn at(&self, realm: u32, octets: [u8; 16]) -> impl Iterator<Item = &Session> {
        let base = base_of(octets);
        let places = self.addresses.range((realm, base, 0)..=(realm, base, u32::MAX));
        places.filter_map(|(.., at)| self.get(*at))
    }

    /// Those of a user.
    pub(super) fn of_user(&self, user: PushId) -> impl Iterator<Item = &Session> {
        self.users.range((user, 0)..=(user, u32::MAX)).filter_map(|(_, at)| self.get(*at))
    }

    /// Those that are counted by who has this name, of one domain.
    pub(super) fn of_nas(&self, domain: u32, names: &Names) -> Vec<u32> {
        let is_it = |session: &Session| session.id.domain == domain && names.are_of(session);
        self.iter().filter(|(_, session)| is_it(session)).map(|(at, _)| at).collect()
    }

    /// Sets a session in place of what was known by its name; its place.
    pub(in crate::control) fn set(&mut self, session: &Session) -> u32 {
        let mut session = session.clone();
        session.identifier = session.identifier.take().map(|name| match self.identifiers.get(&name) {
            Some(same) => Arc::clone(same),
            None => {
                self.identifiers.insert(Arc::clone(&name));
                name
            }
        });
        self.over.forget(&session.id);
        let timer = match self.ids.get(&session.id) {
            Some(at) => self.take(*at).and_then(|held| held.timer),
            None => None,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() as u32 - 1
        });
        self.ids.insert(Arc::clone(&session.id), at);
        self.addresses.extend(session.addresses().map(|base| (session.realm, base, at)));
        match session.user {
            Some((user, _)) => drop(self.users.insert((user, at))),
            None => self.unknown += 1,
        }
        self.held[at as usize] = Some(Held { session, timer });
        at
    }

    /// Ends a session; what was known of it. After `ended_ms` it may come back.
    pub(in crate::control) fn remove(&mut self, id: &Arc<SessionId>, ended_ms: Option<u64>) -> Option<Held> {
        if let Some(ended_ms) = ended_ms {
            self.over.insert(Arc::clone(id), ended_ms);
        }
        let at = *self.ids.get(id)?;
        self.take(at)
    }

    fn take(&mut self, at: u32) -> Option<Held> {
        let held = self.held.get_mut(at as usize)?.take()?;
        self.free.push(at);
        let Session { id, user, realm, identifier, .. } = &held.session;
        self.ids.remove(id);
        for base in held.session.addresses() {
            self.addresses.remove(&(*realm, base, at));
        }
        match user {
            Some((user, _)) => drop(self.users.remove(&(*user, at))),
            None => self.unknown -= 1,
        }
        // The set's own, and this one.
        if let Some(name) = identifier.as_ref().filter(|name| Arc::strong_count(name) <= 2) {
            self.identifiers.remove(name);
        }
        Some(held)
    }

    /// Until when a session that is over is known to have lasted.
    pub(super) fn over(&self, id: &SessionId) -> Option<u64> {
        self.over.get(id)
    }

    /// Forgets what was over long ago, and what exceeds `max`.
    pub(super) fn forget_over(&mut self, now: Now, max: usize) {
        self.over.turn(tick(now), max);
    }

    /// As [`Sessions::forget_over`] while nobody knows the time.
    pub(in crate::control) fn bound_over(&mut self, max: usize) {
        let tick = self.over.turned;
        self.over.turn(tick, max);
    }

    /// What is remembered of sessions that are over.
    pub(in crate::control) fn iter_over(&self) -> impl Iterator<Item = (&Arc<SessionId>, u64)> {
        self.over.newer.iter().chain(&self.over.older).map(|(id, ended_ms)| (id, *ended_ms))
    }
}

/// The names of who counts.
#[derive(Clone, Default, Debug)]
pub(super) struct Names {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) identifier: Option<Box<[u8]>>,
}

impl Names {
    /// Whether these are the names of who counts a session: by an address where there is one.
    pub(super) fn are_of(&self, session: &Session) -> bool {
        let (by_address, by_name) = match &session.id.nas {
            Nas::Address(address) => (Some(*address), session.identifier.as_deref()),
            Nas::Identifier(name) => (None, Some(&**name)),
        };
        let mut own = by_address.into_iter().chain(session.gateway);
        if self.addresses.is_empty() {
            return self.identifier.is_some() && self.identifier.as_deref() == by_name;
        }
        own.any(|address| self.addresses.contains(&address))
    }
}

/// Sessions that are over, remembered for ten to twenty minutes: two maps, of which the older is thrown away.
#[derive(Debug)]
struct Over {
    newer: HashMap<Arc<SessionId>, u64, RandomState>,
    older: HashMap<Arc<SessionId>, u64, RandomState>,
    /// When the newer was begun.
    turned: u64,
}

impl Over {
    fn new(hasher: &RandomState) -> Self {
        let map = || HashMap::with_hasher(hasher.clone());
        Self { newer: map(), older: map(), turned: 0 }
    }

    fn insert(&mut self, id: Arc<SessionId>, ended_ms: u64) {
        let known = self.get(&id).unwrap_or(0);
        self.older.remove(&id);
        self.newer.insert(id, known.max(ended_ms));
    }

    fn get(&self, id: &SessionId) -> Option<u64> {
        self.newer.get(id).or_else(|| self.older.get(id)).copied()
    }

    fn forget(&mut self, id: &SessionId) {
        self.newer.remove(id);
        self.older.remove(id);
    }

    fn turn(&mut self, tick: u64, max: usize) {
        let is_old = tick.saturating_sub(self.turned) >= REMEMBER_MS;
        if is_old || self.newer.len() > max / 2 {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
            self.turned = tick;
        }
    }
}
