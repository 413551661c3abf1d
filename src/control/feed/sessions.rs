//! The sessions that are under way, by what they are looked for: their name, their addresses, their user; and those
//! that are over and must not come back.
//!
//! Costs about 400 bytes a session: 208 of its own, 40 of its timer, its name, and its places in a hash map and two
//! ordered sets.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;

use super::over::Over;
use crate::clock::Now;
use crate::control::kept::Cut;
use crate::control::timer::{TimerId, tick};
use crate::id::PushId;
use crate::table::{Change, Nas, Session, SessionId, base_of};

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
    /// Of a snapshot, by places.
    cut: Option<Cut<u32, Session>>,
}

impl Sessions {
    /// Remembers so many at most that are over.
    pub(super) fn new(max: usize, hasher: &RandomState) -> Self {
        Self {
            held: Vec::new(),
            free: Vec::new(),
            ids: HashMap::with_hasher(hasher.clone()),
            addresses: BTreeSet::new(),
            users: BTreeSet::new(),
            unknown: 0,
            identifiers: HashSet::with_hasher(hasher.clone()),
            over: Over::new(max, hasher),
            cut: None,
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

    /// As [`Sessions::get`], to set its timer.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Held> {
        self.held.get_mut(at as usize)?.as_mut()
    }

    /// The session of this name, and its place.
    pub(super) fn find(&self, id: &SessionId) -> Option<(u32, &Session)> {
        let at = *self.ids.get(id)?;
        Some((at, self.get(at)?))
    }

    /// Sets when the session of this name was last heard of.
    pub(super) fn heard(&mut self, id: &SessionId, heard_ms: u64) {
        let Some(at) = self.ids.get(id) else { return };
        let Some(held) = self.held.get_mut(*at as usize).and_then(Option::as_mut) else { return };
        if let Some(cut) = &mut self.cut {
            cut.touch(at, || Some(held.session.clone()));
        }
        held.session.heard_ms = heard_ms;
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
        if let Some(cut) = &mut self.cut {
            cut.touch(&at, || None);
        }
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
        if let Some(cut) = &mut self.cut {
            cut.touch(&at, || Some(held.session.clone()));
        }
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

    /// Forgets what was over long ago.
    pub(super) fn forget_over(&mut self, now: Now) {
        self.over.turn(tick(now));
    }

    /// The journal is replayed.
    pub(super) fn restored(&mut self, now: Now) {
        self.over.restored(tick(now));
    }

    /// What makes these sessions of none, and what is remembered of those that are over.
    pub(in crate::control) fn changes(&self) -> impl Iterator<Item = Change> {
        let held = self.iter().map(|(_, session)| Change::Attach(Box::new(session.clone())));
        held.chain(self.over.changes())
    }

    /// Marks the moment that the next [`Sessions::cut_some`] tell of; one before is given up.
    pub(in crate::control) fn begin_cut(&mut self) {
        self.cut = Some(Cut::new());
        self.over.begin_cut();
    }

    /// What [`Sessions::changes`] were at the moment of the cut, after looking at so many more places; `None` when
    /// all were told.
    pub(in crate::control) fn cut_some(&mut self, places: usize) -> Option<Vec<Change>> {
        let Some(cut) = &mut self.cut else { return self.over.cut_some(places) };
        let from = cut.last().map_or(0, |last| *last as usize + 1);
        let to = (from + places).min(self.held.len());
        let next = (from as u32..).zip(&self.held[from..to]);
        let part = cut.tell(next.filter_map(|(at, held)| Some((at, &held.as_ref()?.session))));
        if to < self.held.len() {
            cut.pass(to as u32 - 1);
        } else {
            self.cut = None;
            if part.is_empty() {
                return self.over.cut_some(places);
            }
        }
        Some(part.into_iter().map(|(_, session)| Change::Attach(Box::new(session))).collect())
    }

    /// Gives the cut up.
    pub(in crate::control) fn end_cut(&mut self) {
        self.cut = None;
        self.over.end_cut();
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
