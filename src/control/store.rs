//! What the controller knows of terminals: bindings, ended ones that are still remembered, and whose
//! each private and public address is.
//!
//! Costs about 340 bytes a terminal: an entry of 160, 32 of its timer, and its places in three hash maps.
//! Every question that a request asks is answered by a few hash lookups; nothing is scanned.

use std::collections::{BTreeSet, HashMap};

use ahash::RandomState;

use super::timer::TimerId;
use crate::id::{Endpoint, PushId};
use crate::table::Binding;

const NIL: u32 = u32::MAX;

/// A terminal of which something is known.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The binding. Of an ended one only user and device count.
    pub(super) binding: Binding,
    /// The age of the last REGISTER or RELEASE that was accepted.
    pub(super) heard_ms: u64,
    /// There when it is bound no more: the tick at which it ended.
    pub(super) ended: Option<u64>,
    /// When it ends, or is forgotten.
    pub(super) timer: Option<TimerId>,
    /// It is bound by what the network says.
    pub(super) assigned: bool,
    /// It is ended and has a row in users.csv, which it hides for as long as that is there.
    hides_row: bool,
    /// The next terminal of the same user.
    next: u32,
}

impl Entry {
    /// Whether the binding holds at this time.
    pub(super) fn is_live(&self, unix_ms: u64) -> bool {
        self.ended.is_none() && is_valid(&self.binding, unix_ms)
    }
}

const _: () = assert!(size_of::<Option<Entry>>() <= 160);

/// Whether a binding's validity has not run out at this time.
pub(super) fn is_valid(binding: &Binding, unix_ms: u64) -> bool {
    binding.valid_until_ms.is_none_or(|until| unix_ms < until)
}

/// Whose an address is. All bindings of one address are one user's.
#[derive(Clone, Copy, Debug)]
struct Owner {
    user: [u8; 16],
    bindings: u16,
}

/// All terminals of which something is known.
#[derive(Debug)]
pub(super) struct Store {
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    bound: usize,
    hiding: usize,
    /// The first of a user's terminals. Keys are bytes: 20 of them a place instead of 32.
    users: HashMap<[u8; 16], u32, RandomState>,
    privates: HashMap<(u32, [u8; 16]), Owner, RandomState>,
    nats: HashMap<Endpoint, Owner, RandomState>,
    /// Bindings to private IPv6 addresses, by realm and address: a whole net can change hands.
    nets: BTreeSet<(u32, [u8; 16], u32)>,
}

impl Store {
    pub(super) fn new(hasher: &RandomState) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            bound: 0,
            hiding: 0,
            users: HashMap::with_hasher(hasher.clone()),
            privates: HashMap::with_hasher(hasher.clone()),
            nats: HashMap::with_hasher(hasher.clone()),
            nets: BTreeSet::new(),
        }
    }

    /// How many terminals are known, bound or not.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// How many of them are bound.
    pub(super) fn bound(&self) -> usize {
        self.bound
    }

    /// How many hide a row of users.csv: no more than there are rows, and nobody can add to them.
    pub(super) fn hiding(&self) -> usize {
        self.hiding
    }

    /// Sets whether the ended entry at this place hides a row.
    pub(super) fn set_hiding(&mut self, at: u32, hides_row: bool) {
        let Some(entry) = self.entries.get_mut(at as usize).and_then(Option::as_mut) else { return };
        let before = std::mem::replace(&mut entry.hides_row, hides_row);
        self.hiding = self.hiding - usize::from(before) + usize::from(hides_row);
    }

    /// The entry at this place.
    pub(super) fn get(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize)?.as_ref()
    }

    /// As [`Store::get`], to set what is not part of the tables: `ended` of an ended one, and `timer`.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at as usize)?.as_mut()
    }

    /// All entries and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..).zip(&self.entries).filter_map(|(at, entry)| Some((at, entry.as_ref()?)))
    }

    /// The entries of one user.
    pub(super) fn of_user(&self, user: PushId) -> impl Iterator<Item = (u32, &Entry)> {
        let mut at = self.users.get(&user.to_bytes()).copied().unwrap_or(NIL);
        std::iter::from_fn(move || {
            let found = (at, self.get(at)?);
            at = found.1.next;
            Some(found)
        })
    }

    /// The entry of one terminal.
    pub(super) fn find(&self, user: PushId, device: u8) -> Option<(u32, &Entry)> {
        self.of_user(user).find(|(_, entry)| entry.binding.device == device)
    }

    /// The bindings that hold this private address, with any port: of one user.
    pub(super) fn owners_of_private(
        &self,
        realm: u32,
        private: Endpoint,
    ) -> impl Iterator<Item = (u32, &Entry)> {
        let octets = private.octets();
        let owner = self.privates.get(&(realm, octets)).map_or(PushId::NONE, |o| PushId::from_bytes(o.user));
        self.of_user(owner).filter(move |(_, entry)| {
            let own = entry.binding.private.map(Endpoint::octets);
            entry.binding.realm == realm && own == Some(octets)
        })
    }

    /// The bindings to private addresses of one IPv6 net of 64 bits, of which this is the first.
    pub(super) fn owners_in_net(&self, realm: u32, base: [u8; 16]) -> impl Iterator<Item = (u32, &Entry)> {
        let mut last = base;
        last[8..].fill(0xFF);
        let places = self.nets.range((realm, base, 0)..=(realm, last, u32::MAX));
        places.filter_map(|(.., at)| Some((*at, self.get(*at)?)))
    }

    /// The bindings that hold this public address and port: of one user.
    pub(super) fn owners_of_nat(&self, nat: Endpoint) -> impl Iterator<Item = (u32, &Entry)> {
        let owner = self.nats.get(&nat).map_or(PushId::NONE, |owner| PushId::from_bytes(owner.user));
        self.of_user(owner).filter(move |(_, entry)| entry.binding.nat == Some(nat))
    }

    /// Sets a binding in place of what its user and device had. `assigned`: by what the network says.
    pub(super) fn bind(&mut self, binding: &Binding, heard_ms: u64, assigned: bool) -> u32 {
        // Nobody else holds its addresses: whoever makes changes ends those first. Were it otherwise,
        // the address would still be one user's.
        let others: Vec<(PushId, u8, u64)> = self
            .holders(binding)
            .filter(|(_, entry)| entry.binding.user != binding.user)
            .map(|(_, entry)| (entry.binding.user, entry.binding.device, entry.heard_ms))
            .collect();
        for (user, device, heard_ms) in others {
            self.end(user, device, heard_ms);
        }
        let at = self.place(binding.user, binding.device);
        self.unclaim(at);
        self.set_hiding(at, false);
        if let Some(entry) = self.get_mut(at) {
            (entry.binding, entry.heard_ms, entry.ended) = (*binding, heard_ms, None);
            entry.assigned = assigned;
        }
        self.claim(at, binding);
        self.bound += 1;
        at
    }

    /// Every binding that holds an address of this one.
    pub(super) fn holders(&self, binding: &Binding) -> impl Iterator<Item = (u32, &Entry)> {
        let private = binding.private.into_iter();
        let realm = binding.realm;
        let privates = private.flat_map(move |private| self.owners_of_private(realm, private));
        privates.chain(binding.nat.into_iter().flat_map(|nat| self.owners_of_nat(nat)))
    }

    /// Remembers that a user's device is bound no more.
    pub(super) fn end(&mut self, user: PushId, device: u8, heard_ms: u64) -> u32 {
        let at = self.place(user, device);
        self.unclaim(at);
        if let Some(entry) = self.get_mut(at) {
            (entry.binding, entry.heard_ms) = (nothing(user, device), heard_ms);
            entry.ended = Some(0);
        }
        at
    }

    /// Forgets a user's device; returns what was known of it.
    pub(super) fn forget(&mut self, user: PushId, device: u8) -> Option<Entry> {
        let (at, entry) = self.find(user, device)?;
        let next = entry.next;
        self.unclaim(at);
        self.set_hiding(at, false);
        let before = self.of_user(user).find(|(_, entry)| entry.next == at).map(|(before, _)| before);
        match before.and_then(|before| self.get_mut(before)) {
            Some(before) => before.next = next,
            None if next == NIL => drop(self.users.remove(&user.to_bytes())),
            None => drop(self.users.insert(user.to_bytes(), next)),
        }
        self.free.push(at);
        self.entries.get_mut(at as usize)?.take()
    }

    /// The place of a terminal's entry; a new one is ended.
    fn place(&mut self, user: PushId, device: u8) -> u32 {
        if let Some((at, _)) = self.find(user, device) {
            return at;
        }
        let next = self.users.get(&user.to_bytes()).copied().unwrap_or(NIL);
        let entry = Entry {
            binding: nothing(user, device),
            heard_ms: 0,
            ended: Some(0),
            timer: None,
            assigned: false,
            hides_row: false,
            next,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = Some(entry);
                at
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() as u32 - 1
            }
        };
        self.users.insert(user.to_bytes(), at);
        at
    }

    fn claim(&mut self, at: u32, binding: &Binding) {
        let user = binding.user.to_bytes();
        let count = |owner: &mut Owner| {
            owner.user = user;
            owner.bindings += 1;
        };
        let none = Owner { user, bindings: 0 };
        if let Some(private) = binding.private {
            count(self.privates.entry((binding.realm, private.octets())).or_insert(none));
            if !private.is_ipv4() {
                self.nets.insert((binding.realm, private.octets(), at));
            }
        }
        if let Some(nat) = binding.nat {
            count(self.nats.entry(nat).or_insert(none));
        }
    }

    fn unclaim(&mut self, at: u32) {
        let Some(&Entry { binding, ended: None, .. }) = self.get(at) else { return };
        self.bound -= 1;
        let last = |owner: Option<&mut Owner>| {
            owner.is_some_and(|owner| {
                owner.bindings = owner.bindings.saturating_sub(1);
                owner.bindings == 0
            })
        };
        if let Some(private) = binding.private {
            let key = (binding.realm, private.octets());
            if last(self.privates.get_mut(&key)) {
                self.privates.remove(&key);
            }
            if !private.is_ipv4() {
                self.nets.remove(&(binding.realm, private.octets(), at));
            }
        }
        if let Some(nat) = binding.nat
            && last(self.nats.get_mut(&nat))
        {
            self.nats.remove(&nat);
        }
    }
}

/// A binding without anything to reach its user by.
pub(super) const fn nothing(user: PushId, device: u8) -> Binding {
    Binding {
        user,
        device,
        realm: 0,
        private: None,
        nat: None,
        imsi: None,
        bearers: 0,
        serving: None,
        valid_until_ms: None,
        listener: 0,
    }
}
