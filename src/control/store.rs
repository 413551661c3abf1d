//! What the controller knows of terminals: bindings, ended ones that are still remembered, and whose
//! each private and public address is.
//!
//! Costs 148 bytes a terminal with one address: an entry of 96, 24 of its timer, 9.2 in the index of users and 18.3
//! in that of addresses, which are made for as many terminals as the limits allow and take memory as it is touched.
//! Every question that a request asks is answered by a look into an index; nothing is scanned, and nothing ever
//! grows while requests wait but beyond the limits.
//!
//! # The state as of one moment
//!
//! A snapshot is written while requests go on. [`Store::begin_cut`] marks the moment; [`Store::cut_some`] then tells
//! the entries as they were at it, some at a time, in the order of their places. An entry that changes before it was
//! told is told first, as it was, and marked: the cut passes over it. A place that is taken anew meanwhile is marked
//! too.

use std::collections::BTreeSet;

use super::timer::TimerId;
use crate::id::{Endpoint, Imsi, PushId};
use crate::table::binding::hash;
use crate::table::live::{Address, SlotIndex, addresses};
use crate::table::{Binding, Change};

const NIL: u32 = u32::MAX;

mod flag {
    /// The place is taken.
    pub(super) const USED: u16 = 1;
    /// The terminal is bound; else it has ended.
    pub(super) const BOUND: u16 = 2;
    /// It has ended and has a row in users.csv, which it hides for as long as that is there.
    pub(super) const HIDES_ROW: u16 = 4;
    pub(super) const PRIVATE: u16 = 8;
    pub(super) const SERVING: u16 = 16;
    pub(super) const NAT: u16 = 32;
    pub(super) const UNTIL: u16 = 64;
    /// What stood in this place at the moment of the cut was told, or nothing did.
    pub(super) const TOLD: u16 = 128;
    /// It is bound by what the network says.
    pub(super) const ASSIGNED: u16 = 256;
}

/// A terminal of which something is known, or a free place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The user's Push ID, in halves: it would take alignment and eight bytes else.
    user: [u64; 2],
    /// Private address, or the serving server's.
    addr: [u8; 16],
    nat: [u8; 16],
    /// TBCD; zero: none.
    imsi: [u8; 8],
    /// The age of the last REGISTER or RELEASE that was accepted.
    pub(super) heard_ms: u64,
    /// When its validity ends, ms since 1970; of an ended one the tick at which it ended.
    until: u64,
    /// Of a free place: the next free one.
    realm: u32,
    /// When it ends, or is forgotten.
    pub(super) timer: Option<TimerId>,
    port: u16,
    nat_port: u16,
    device: u8,
    bearers: u8,
    listener: u8,
    flags: u16,
}

const _: () = assert!(size_of::<Entry>() == 96);

/// Whether a binding's validity has not run out at this time.
pub(super) fn is_valid(binding: &Binding, unix_ms: u64) -> bool {
    binding.valid_until_ms.is_none_or(|until| unix_ms < until)
}

impl Entry {
    /// A terminal that has ended.
    const fn ended(user: PushId, device: u8, heard_ms: u64, flags: u16) -> Self {
        Self {
            user: [(user.0 >> 64) as u64, user.0 as u64],
            addr: [0; 16],
            nat: [0; 16],
            imsi: [0; 8],
            heard_ms,
            until: 0,
            realm: 0,
            timer: None,
            port: 0,
            nat_port: 0,
            device,
            bearers: 0,
            listener: 0,
            flags,
        }
    }

    const fn has(&self, wanted: u16) -> bool {
        self.flags & wanted != 0
    }

    fn set(&mut self, flag: u16, value: bool) {
        self.flags = if value { self.flags | flag } else { self.flags & !flag };
    }

    pub(super) const fn user(&self) -> PushId {
        PushId((self.user[0] as u128) << 64 | self.user[1] as u128)
    }

    pub(super) const fn device(&self) -> u8 {
        self.device
    }

    /// Whether it is bound by what the network says, not by REGISTER.
    pub(super) const fn is_assigned(&self) -> bool {
        self.has(flag::ASSIGNED)
    }

    /// Whether it is bound no more.
    pub(super) const fn is_ended(&self) -> bool {
        !self.has(flag::BOUND)
    }

    /// The tick at which it ended, if it has.
    pub(super) fn ended_at(&self) -> Option<u64> {
        self.is_ended().then_some(self.until)
    }

    /// Sets the tick at which it ended; nothing while it is bound.
    pub(super) fn set_ended_at(&mut self, tick: u64) {
        if self.is_ended() {
            self.until = tick;
        }
    }

    /// When its validity ends, if it does.
    pub(super) fn valid_until_ms(&self) -> Option<u64> {
        self.has(flag::UNTIL).then_some(self.until)
    }

    /// Whether the binding holds at this time.
    pub(super) fn is_live(&self, unix_ms: u64) -> bool {
        self.has(flag::BOUND) && self.valid_until_ms().is_none_or(|until| unix_ms < until)
    }

    /// The binding; of an ended one user and device.
    pub(super) fn binding(&self) -> Binding {
        let at = |flag, addr, port| self.has(flag).then(|| Endpoint::from_octets(addr, port));
        Binding {
            user: self.user(),
            device: self.device,
            realm: self.realm,
            private: at(flag::PRIVATE, self.addr, self.port),
            nat: at(flag::NAT, self.nat, self.nat_port),
            imsi: Imsi::from_tbcd(self.imsi),
            bearers: self.bearers,
            serving: at(flag::SERVING, self.addr, self.port),
            valid_until_ms: self.valid_until_ms(),
            listener: self.listener,
        }
    }

    fn bind(&mut self, binding: &Binding, heard_ms: u64) {
        let at = binding.private.or(binding.serving).unwrap_or(Endpoint::NONE);
        let nat = binding.nat.unwrap_or(Endpoint::NONE);
        self.flags &= flag::USED | flag::TOLD;
        for (flag, value) in [
            (flag::BOUND, true),
            (flag::PRIVATE, binding.private.is_some()),
            (flag::SERVING, binding.private.is_none() && binding.serving.is_some()),
            (flag::NAT, binding.nat.is_some()),
            (flag::UNTIL, binding.valid_until_ms.is_some()),
        ] {
            self.set(flag, value);
        }
        (self.addr, self.port) = (at.octets(), at.port());
        (self.nat, self.nat_port) = (nat.octets(), nat.port());
        self.imsi = binding.imsi.map_or([0; 8], Imsi::to_tbcd);
        self.until = binding.valid_until_ms.unwrap_or(0);
        (self.heard_ms, self.realm) = (heard_ms, binding.realm);
        (self.bearers, self.listener) = (binding.bearers, binding.listener);
    }

    /// Whether it is bound and this address is its own.
    fn holds(&self, address: Address) -> bool {
        self.has(flag::BOUND)
            && match address {
                Address::Private(realm, octets) => {
                    self.has(flag::PRIVATE) && (self.realm, self.addr) == (realm, octets)
                }
                Address::Public(at) => {
                    self.has(flag::NAT) && (self.nat, self.nat_port) == (at.octets(), at.port())
                }
            }
    }

    /// What makes this entry of none.
    fn change(&self) -> Change {
        match self.is_ended() {
            false if self.is_assigned() => {
                Change::Assign { binding: self.binding(), heard_ms: self.heard_ms }
            }
            false => Change::Bind { binding: self.binding(), heard_ms: self.heard_ms },
            true => Change::End { user: self.user(), device: self.device, heard_ms: self.heard_ms },
        }
    }
}

/// An index of places by hash, made for so many.
#[derive(Debug)]
struct Places {
    index: SlotIndex,
    room: usize,
    len: usize,
}

impl Places {
    fn new(room: usize) -> Self {
        Self { index: SlotIndex::new(room), room, len: 0 }
    }

    fn insert(&mut self, hash: u64, at: u32) {
        self.index.insert(hash, at);
        self.len += 1;
    }

    /// Takes an entry out that is there.
    fn remove(&mut self, hash: u64, at: u32) {
        self.index.remove(hash, at);
        self.len -= 1;
    }

    /// As many entries, twice the room.
    fn grow(&mut self, all: impl Iterator<Item = (u64, u32)>) {
        let mut larger = Self::new(self.room * 2);
        all.for_each(|(hash, at)| larger.insert(hash, at));
        *self = larger;
    }
}

/// The moment that a snapshot is of.
#[derive(Debug)]
struct Cut {
    /// Places below were told.
    next: u32,
    /// Places from here on were not taken at that moment.
    end: u32,
    /// What entries were that changed before they were told.
    saved: Vec<Change>,
}

/// All terminals of which something is known.
#[derive(Debug)]
pub(super) struct Store {
    entries: Vec<Entry>,
    /// The first free place.
    free: u32,
    len: usize,
    bound: usize,
    hiding: usize,
    users: Places,
    /// By (realm, private address) and by public address and port.
    addresses: Places,
    seed: u64,
    cut: Option<Cut>,
    /// Bindings to private IPv6 addresses, by realm and address: a whole net can change hands.
    nets: BTreeSet<(u32, [u8; 16], u32)>,
}

impl Store {
    /// Made for so many terminals; more take a moment once. Hashes follow from the seed.
    pub(super) fn new(terminals: usize, seed: u64) -> Self {
        let terminals = terminals.max(16);
        Self {
            entries: Vec::new(),
            free: NIL,
            len: 0,
            bound: 0,
            hiding: 0,
            users: Places::new(terminals),
            addresses: Places::new(terminals * 2),
            seed,
            cut: None,
            nets: BTreeSet::new(),
        }
    }

    /// How many terminals are known, bound or not.
    pub(super) fn len(&self) -> usize {
        self.len
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
        let Some(entry) = self.get_mut(at) else { return };
        let before = entry.has(flag::HIDES_ROW);
        entry.set(flag::HIDES_ROW, hides_row);
        self.hiding = self.hiding - usize::from(before) + usize::from(hides_row);
    }

    /// The entry at this place.
    pub(super) fn get(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at as usize).filter(|entry| entry.has(flag::USED))
    }

    /// As [`Store::get`], to set what no snapshot holds: when it ended, and the timer.
    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at as usize).filter(|entry| entry.has(flag::USED))
    }

    /// All entries and their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0..).zip(&self.entries).filter(|(_, entry)| entry.has(flag::USED))
    }

    /// What makes these entries of none.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        self.iter().map(|(_, entry)| entry.change())
    }

    fn hash(&self, user: PushId) -> u64 {
        hash(user.0, self.seed)
    }

    /// Starts to bring near what a change of the journal will look at.
    pub(super) fn prefetch(&self, change: &Change) {
        match change {
            Change::Bind { binding, .. } | Change::Assign { binding, .. } => {
                self.users.index.prefetch(self.hash(binding.user));
                for address in addresses(binding) {
                    self.addresses.index.prefetch(address.hash(self.seed));
                }
            }
            Change::End { user, .. } | Change::Forget { user, .. } => {
                self.users.index.prefetch(self.hash(*user));
            }
            _ => {}
        }
    }

    /// The entries of one user.
    pub(super) fn of_user(&self, user: PushId) -> impl Iterator<Item = (u32, &Entry)> {
        let candidates = self.users.index.candidates(self.hash(user)).map(|at| at as u32);
        let entries = candidates.filter_map(|at| Some((at, self.get(at)?)));
        entries.filter(move |(_, entry)| entry.user() == user)
    }

    /// The entry of one terminal.
    pub(super) fn find(&self, user: PushId, device: u8) -> Option<(u32, &Entry)> {
        self.of_user(user).find(|(_, entry)| entry.device == device)
    }

    /// Every binding that holds an address of this one: all of one address are one user's.
    pub(super) fn holders(&self, binding: &Binding) -> impl Iterator<Item = (u32, &Entry)> {
        addresses(binding).flat_map(|address| self.holders_of(address))
    }

    /// The bindings to this private address, with any port: of one user.
    pub(super) fn owners_of_private(
        &self,
        realm: u32,
        private: Endpoint,
    ) -> impl Iterator<Item = (u32, &Entry)> {
        self.holders_of(Address::Private(realm, private.octets()))
    }

    fn holders_of(&self, address: Address) -> impl Iterator<Item = (u32, &Entry)> {
        let candidates = self.addresses.index.candidates(address.hash(self.seed)).map(|at| at as u32);
        let entries = candidates.filter_map(|at| Some((at, self.get(at)?)));
        entries.filter(move |(_, entry)| entry.holds(address))
    }

    /// The bindings to private addresses of one IPv6 net of 64 bits, of which this is the first.
    pub(super) fn owners_in_net(&self, realm: u32, base: [u8; 16]) -> impl Iterator<Item = (u32, &Entry)> {
        let mut last = base;
        last[8..].fill(0xFF);
        let places = self.nets.range((realm, base, 0)..=(realm, last, u32::MAX));
        places.filter_map(|(.., at)| Some((*at, self.get(*at)?)))
    }

    /// Sets a binding in place of what its user and device had. `assigned`: by what the network says.
    pub(super) fn bind(&mut self, binding: &Binding, heard_ms: u64, assigned: bool) -> u32 {
        // Nobody else holds its addresses: whoever makes changes ends those first. Were it otherwise,
        // the address would still be one user's.
        let others: Vec<(PushId, u8, u64)> = self
            .holders(binding)
            .filter(|(_, entry)| entry.user() != binding.user)
            .map(|(_, entry)| (entry.user(), entry.device, entry.heard_ms))
            .collect();
        for (user, device, heard_ms) in others {
            self.end(user, device, heard_ms);
        }
        self.make_room();
        let at = self.place(binding.user, binding.device);
        self.save(at);
        self.set_hiding(at, false);
        let entry = &mut self.entries[at as usize];
        let before = (!entry.is_ended()).then(|| entry.binding());
        entry.bind(binding, heard_ms);
        entry.set(flag::ASSIGNED, assigned);
        self.bound += usize::from(before.is_none());
        self.move_addresses(at, before.as_ref(), Some(binding));
        at
    }

    /// Remembers that a user's device is bound no more.
    pub(super) fn end(&mut self, user: PushId, device: u8, heard_ms: u64) -> u32 {
        self.make_room();
        let at = self.place(user, device);
        self.save(at);
        self.unbind(at);
        self.entries[at as usize].heard_ms = heard_ms;
        at
    }

    /// Forgets a user's device; returns the timer that it had.
    pub(super) fn forget(&mut self, user: PushId, device: u8) -> Option<TimerId> {
        let at = self.find(user, device)?.0;
        self.save(at);
        self.unbind(at);
        self.set_hiding(at, false);
        self.users.remove(self.hash(user), at);
        let entry = &mut self.entries[at as usize];
        entry.flags &= flag::TOLD;
        entry.realm = std::mem::replace(&mut self.free, at);
        self.len -= 1;
        entry.timer.take()
    }

    /// Makes an ended entry of the one at this place; its timer and when it was heard stay.
    fn unbind(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        if entry.is_ended() {
            return;
        }
        let before = entry.binding();
        let (timer, kept) = (entry.timer, entry.flags & (flag::USED | flag::TOLD));
        *entry = Entry { timer, ..Entry::ended(before.user, before.device, entry.heard_ms, kept) };
        self.bound -= 1;
        self.move_addresses(at, Some(&before), None);
    }

    /// Makes room in the indexes for one more terminal, where there are more than they were made for.
    fn make_room(&mut self) {
        let seed = self.seed;
        let Self { entries, users, addresses: places, .. } = self;
        let used = || (0..).zip(entries.iter()).filter(|(_, entry)| entry.has(flag::USED));
        if users.len == users.room {
            users.grow(used().map(|(at, entry)| (hash(entry.user().0, seed), at)));
        }
        if places.len + 2 > places.room {
            let bound = used().filter(|(_, entry)| !entry.is_ended());
            places.grow(bound.flat_map(|(at, entry)| {
                addresses(&entry.binding()).map(move |address| (address.hash(seed), at))
            }));
        }
    }

    /// The place of a terminal's entry; a new one is ended.
    fn place(&mut self, user: PushId, device: u8) -> u32 {
        if let Some((at, _)) = self.find(user, device) {
            return at;
        }
        let entry = Entry::ended(user, device, 0, flag::USED);
        let at = match self.free {
            NIL => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
            at => {
                let place = &mut self.entries[at as usize];
                self.free = place.realm;
                *place = entry;
                self.pass_over(at);
                at
            }
        };
        self.users.insert(self.hash(user), at);
        self.len += 1;
        at
    }

    /// Makes a terminal's place be found by the addresses that it has now, and no more by others that it had.
    fn move_addresses(&mut self, at: u32, before: Option<&Binding>, after: Option<&Binding>) {
        let has = |binding: Option<&Binding>, address| {
            binding.is_some_and(|binding| addresses(binding).any(|own| own == address))
        };
        let net = |binding: &Binding| {
            let private = binding.private.filter(|private| !private.is_ipv4())?;
            Some((binding.realm, private.octets(), at))
        };
        if let Some(net) = before.and_then(net) {
            self.nets.remove(&net);
        }
        self.nets.extend(after.and_then(net));
        let seed = self.seed;
        for address in after.into_iter().flat_map(addresses).filter(|address| !has(before, *address)) {
            self.addresses.insert(address.hash(seed), at);
        }
        for address in before.into_iter().flat_map(addresses).filter(|address| !has(after, *address)) {
            self.addresses.remove(address.hash(seed), at);
        }
    }

    /// Marks the moment that the next [`Store::cut_some`] tell of; one before is given up.
    pub(super) fn begin_cut(&mut self) {
        self.end_cut();
        self.cut = Some(Cut { next: 0, end: self.entries.len() as u32, saved: Vec::new() });
    }

    /// Entries as they were at the moment of the cut, after looking at so many more places; `None` when all were told.
    pub(super) fn cut_some(&mut self, places: u32) -> Option<Vec<Change>> {
        let cut = self.cut.as_mut()?;
        let mut out = std::mem::take(&mut cut.saved);
        let to = cut.next.saturating_add(places).min(cut.end);
        for entry in &mut self.entries[cut.next as usize..to as usize] {
            if entry.flags & (flag::USED | flag::TOLD) == flag::USED {
                out.push(entry.change());
            }
            entry.flags &= !flag::TOLD;
        }
        cut.next = to;
        if to == cut.end {
            self.cut = None;
        }
        Some(out)
    }

    /// Gives the cut up.
    pub(super) fn end_cut(&mut self) {
        if let Some(cut) = self.cut.take() {
            let marked = &mut self.entries[cut.next as usize..cut.end as usize];
            marked.iter_mut().for_each(|entry| entry.flags &= !flag::TOLD);
        }
    }

    /// Tells the entry at this place, if the cut has yet to: it is about to change.
    fn save(&mut self, at: u32) {
        let Some(cut) = self.cut.as_mut().filter(|cut| (cut.next..cut.end).contains(&at)) else { return };
        let entry = &mut self.entries[at as usize];
        if !entry.has(flag::TOLD) {
            cut.saved.push(entry.change());
            entry.set(flag::TOLD, true);
        }
    }

    /// Nothing stood in this place at the moment of the cut, or what did was told.
    fn pass_over(&mut self, at: u32) {
        if self.cut.as_ref().is_some_and(|cut| (cut.next..cut.end).contains(&at)) {
            self.entries[at as usize].set(flag::TOLD, true);
        }
    }
}

/// A binding without anything to reach its user by.
pub(super) const fn nothing(user: PushId, device: u8) -> Binding {
    Binding { bearers: 0, ..Binding::new(user, device) }
}

#[cfg(test)]
mod tests;
