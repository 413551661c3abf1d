//! What a burst sees, and the one place that knows which terminals a user has: those that registered (live), then
//! the rows of users.csv that no registration overrides.
//!
//! A row is overridden by a live entry of the same user and device (PROTOCOL.md, ruling 6; INTERFACE.md, ruling 10),
//! a tombstone too, and while its private address, with any port, or its public address and port belongs to
//! somebody else's live binding: delivery needs both directions to agree. A lent Push ID leads to the terminals of
//! whom it is lent to.
//!
//! With no live entry at all, which is asked once a burst, nothing of this costs more than a branch. Else an
//! [`Overlay`] says by the place of a user's row whether the live tables know nothing of it, or all; only where both
//! have something to say are both asked.
//!
//! How a burst looks for its users, [`Looks`] tells.

mod known;
mod look;

pub use known::{Known, Visit};
use known::{Registered, Row};
pub use look::Looks;

use super::Site;
use crate::clock::Now;
use crate::id::{Endpoint, PushId};
use crate::table::binding::{Bindings, Line, Plain};
use crate::table::live::overlay::{Over, Overlay};
use crate::table::live::{Hint, LiveBindings, Of};
use crate::table::lpm::Trie;
use crate::table::{Home, Segments, Tables};

/// What all stages see of the world while they work on one burst.
pub struct Moment<'a> {
    pub(super) site: &'a Site,
    pub(super) tables: &'a Tables,
    pub(super) now: Now,
    /// Where others reach this server, where the tables say so.
    pub(super) own: Option<Endpoint>,
    /// None when nothing is registered, released or lent.
    live: Option<&'a LiveBindings>,
    /// What is live, by the places of users.
    overlay: Option<&'a Overlay>,
    /// The same, where there are users to say something of.
    told: Option<&'a Overlay>,
    bindings: Bindings<'a>,
    home: Home,
    prefixes: Trie<'a>,
    segments: Segments<'a>,
    /// Which rows say all of their users, if nothing is live of these.
    plain: Plain,
}

/// A user, and what is known of where to look for it.
#[derive(Clone, Copy, Debug)]
struct Key {
    user: PushId,
    row_hash: u64,
    /// Where the user's first row stands, if it has any.
    place: Option<usize>,
    /// What live entries are found by.
    live_hash: u64,
    /// What was seen of live entries.
    hint: Hint,
    /// What the live owner of the row's private address would be found by.
    owner_hash: u64,
}

/// Where a user was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    live: bool,
    rows: bool,
}

/// A hash that nobody has computed; who meets an address that has it does so again.
const NO_HASH: u64 = 0;

/// A set of device numbers.
#[derive(Default)]
struct Devices([u64; 4]);

impl Devices {
    fn insert(&mut self, device: u8) {
        self.0[usize::from(device / 64)] |= 1 << (device % 64);
    }

    fn has(&self, device: u8) -> bool {
        self.0[usize::from(device / 64)] >> (device % 64) & 1 == 1
    }
}

impl<'a> Moment<'a> {
    /// What is there now.
    pub fn new(site: &'a Site, tables: &'a Tables, now: Now) -> Self {
        let live = Some(&*site.shared.live).filter(|live| !live.is_empty());
        let overlay = live.and_then(|_| tables.overlay(&site.shared.live));
        let told = overlay.filter(|_| tables.image().terminals() > 0);
        let (bindings, prefixes, segments) =
            (tables.arrays().bindings(), tables.prefixes(), tables.segments());
        let own = tables.own().map(|own| tables.server_address(own));
        let home = tables.home();
        // Of public addresses an overlay says nothing.
        let plain = Plain::new(live.is_some());
        Self { site, tables, now, own, live, overlay, told, bindings, home, prefixes, segments, plain }
    }

    /// A user whom nobody has looked for yet.
    fn key(&self, user: PushId) -> Key {
        let row_hash = self.bindings.hash(user);
        Key { user, row_hash, place: None, live_hash: NO_HASH, hint: Hint::Unknown, owner_hash: NO_HASH }
    }

    /// What the live entries of this user are found by.
    #[inline(always)]
    fn live_hash(&self, live: &LiveBindings, key: &Key) -> u64 {
        if key.live_hash == NO_HASH { live.hash(key.user) } else { key.live_hash }
    }

    /// Whether this server is this Push ID's home.
    #[inline(always)]
    pub fn is_home(&self, id: PushId) -> bool {
        self.home.has(id) || self.route(id).is_some_and(|server| self.tables.own() == Some(server))
    }

    /// The server whose prefix is the longest that `id` has.
    #[inline(never)]
    pub fn route(&self, id: PushId) -> Option<u32> {
        self.prefixes.lookup(id.high())
    }

    /// The gateway that a terminal's private address lies behind. Most rows and registrations know it by the very
    /// segments that are asked for others.
    #[inline(always)]
    pub fn gateway(&self, known: &(impl Known + ?Sized)) -> Option<u32> {
        match known.gateway(self.overlay) {
            None => self.asked_gateway(known.realm(), known.private()?),
            noted => noted,
        }
    }

    #[inline(never)]
    fn asked_gateway(&self, realm: u32, private: Endpoint) -> Option<u32> {
        self.segments.gateway(realm, private)
    }

    /// Every terminal that the user of this message has or had, held by whoever has it now; those whose validity has
    /// ended too. Returns whether anything is known of the user (ruling 9). After [`Moment::look`].
    #[inline(always)]
    pub fn each(&self, looks: &Looks, at: usize, each: &mut impl Visit) -> bool {
        if looks.is_live(at) {
            return self.each_live(looks, at, each);
        }
        // Nearly always a row says all.
        let (user, place) = looks.row(at);
        let Some(row) = self.bindings.plain_at(user, place, self.plain) else {
            return self.each_of_rows(looks, at, each);
        };
        each.visit(&Row(row, self.bindings.nat6()));
        true
    }

    /// Where nothing is live of whose row stands there; of nobody else is there one.
    #[inline(never)]
    fn each_of_rows(&self, looks: &Looks, at: usize, each: &mut impl Visit) -> bool {
        let key = looks.key(at);
        let Some(live) = self.live else { return self.rows(&key, |_, _| true, each) };
        if self.rows(&key, |row, _| !self.is_public_address_taken(live, row), each) {
            return true;
        }
        self.each_of_stranger(live, looks, at, each)
    }

    /// Where something is live: a slot that says all of whose row stands there, or what must be asked for.
    #[inline(never)]
    fn each_live(&self, looks: &Looks, at: usize, each: &mut impl Visit) -> bool {
        let Some(live) = self.live else { return self.each_of_rows(looks, at, each) };
        let (user, place) = looks.row(at);
        if let (Over::Slot(slot), Some(overlay)) = (looks.over(at), self.overlay)
            && let Some(line) = live.only(overlay, place, slot, user)
        {
            if line.of() == Of::Bound {
                each.visit(&Registered(&line, self.tables.may_have_key(looks.row_hash(at))));
            }
            return true;
        }
        self.each_of_stranger(live, looks, at, each)
    }

    /// Of whoever may be one.
    fn each_of_stranger(&self, live: &LiveBindings, looks: &Looks, at: usize, each: &mut impl Visit) -> bool {
        let found = self.live_and_rows(live, &looks.key(at), each);
        if !found.rows {
            looks.met_stranger();
        }
        found.live || found.rows
    }

    /// As [`Moment::each`], of a user of whom nothing was brought near.
    pub fn each_of(&self, user: PushId, mut each: impl FnMut(&dyn Known)) -> bool {
        let key = self.key(user);
        match self.live {
            None => self.rows(&key, |_, _| true, &mut each),
            Some(live) => {
                let found = self.live_and_rows(live, &key, &mut each);
                found.live || found.rows
            }
        }
    }

    fn live_and_rows(&self, live: &LiveBindings, key: &Key, each: &mut impl Visit) -> Found {
        let mut hidden = Devices::default();
        let mut known = false;
        let mut lent = None;
        live.lines(key.user, self.live_hash(live, key), key.hint, |line| match line.of() {
            Of::Bound => {
                known = true;
                hidden.insert(line.device());
                each.visit(&Registered(line, self.tables.may_have_key(key.row_hash)));
            }
            Of::Ended => {
                known = true;
                hidden.insert(line.device());
            }
            Of::Lent if line.is_live(self.now.unix_ms) => lent = Some((line.lent_to(), line.device())),
            Of::Lent => {}
        });
        if let Some((user, device)) = lent {
            known |= self.borrowed(live, user, device, each);
        }
        let wanted = |row: &Line, hash| !hidden.has(row.device()) && !self.is_taken(live, row, hash);
        Found { live: known, rows: self.rows(key, wanted, each) }
    }

    /// Whom a Push ID is lent to.
    pub(super) fn lent_to(&self, lent: PushId) -> Option<PushId> {
        self.live?.alias(lent, self.now.unix_ms).map(|(user, _)| user)
    }

    /// The terminals of whom a Push ID is lent to.
    #[cold]
    fn borrowed(&self, live: &LiveBindings, user: PushId, device: u8, each: &mut impl Visit) -> bool {
        let key = self.key(user);
        let mut hidden = Devices::default();
        let mut known = false;
        live.lines(user, self.live_hash(live, &key), key.hint, |line| {
            if line.of() == Of::Lent {
                return;
            }
            known = true;
            hidden.insert(line.device());
            if line.of() == Of::Bound && (device == 0 || line.device() == device) {
                each.visit(&Registered(line, self.tables.may_have_key(key.row_hash)));
            }
        });
        let wanted = |row: &Line, hash| {
            let asked = device == 0 || row.device() == device;
            asked && !hidden.has(row.device()) && !self.is_taken(live, row, hash)
        };
        known | self.rows(&key, wanted, each)
    }

    /// The user's rows that are wanted; `wanted` is told what the live owner of the row's address would be found by.
    fn rows(&self, key: &Key, wanted: impl Fn(&Line, u64) -> bool, each: &mut impl Visit) -> bool {
        let place = key.place.unwrap_or_else(|| self.bindings.place(key.row_hash));
        let Some(mut row) = self.bindings.at(key.user, place) else { return false };
        let mut further = self.bindings.further(row, place).iter();
        let mut owner_hash = key.owner_hash;
        loop {
            if wanted(row, owner_hash) {
                each.visit(&Row(row, self.bindings.nat6()));
            }
            match further.next() {
                Some(next) => (row, owner_hash) = (next, NO_HASH),
                None => return true,
            }
        }
    }

    /// Whether an address of this row is another terminal's by now: another user's, or another of this user's
    /// that registered with the very same address and port, as a client does that users.csv knows too.
    #[inline(always)]
    fn is_taken(&self, live: &LiveBindings, row: &Line, owner_hash: u64) -> bool {
        row.private().is_some_and(|private| self.is_private_taken(live, row, private, owner_hash))
            || self.is_public_address_taken(live, row)
    }

    #[inline(always)]
    fn is_public_address_taken(&self, live: &LiveBindings, row: &Line) -> bool {
        row.nat(self.bindings.nat6()).is_some_and(|public| self.is_public_taken(live, row, public))
    }

    /// The same of a private address. Nearly always nobody registered has it, which the index alone says.
    #[inline(always)]
    fn is_private_taken(&self, live: &LiveBindings, row: &Line, private: Endpoint, owner_hash: u64) -> bool {
        let hash = if owner_hash == NO_HASH { live.owner_hash(row.realm(), private) } else { owner_hash };
        live.may_be_owned(hash) && self.is_owned(live, row, private)
    }

    #[cold]
    fn is_owned(&self, live: &LiveBindings, row: &Line, private: Endpoint) -> bool {
        match live.owner(row.realm(), private, self.now.unix_ms) {
            Some((user, _)) if user == row.user() => self.is_doubled(live, row, private),
            owner => owner.is_some(),
        }
    }

    #[inline(never)]
    fn is_public_taken(&self, live: &LiveBindings, row: &Line, public: Endpoint) -> bool {
        let own = (row.user(), row.device());
        live.public_owner(public, self.now.unix_ms).is_some_and(|owner| owner != own)
    }

    /// Whether another terminal of the same user is bound to the very private address and port of this row.
    #[cold]
    fn is_doubled(&self, live: &LiveBindings, row: &Line, private: Endpoint) -> bool {
        let mut doubled = false;
        live.lines(row.user(), live.hash(row.user()), Hint::Unknown, |line| {
            doubled |= line.of() == Of::Bound
                && line.device() != row.device()
                && (line.realm(), line.private()) == (row.realm(), Some(private))
                && line.is_live(self.now.unix_ms);
        });
        doubled
    }

    /// Whether this is a legal user: one with a row in users.csv or a live binding (INTERFACE.md, ruling 4).
    pub fn is_user(&self, user: PushId) -> bool {
        let key = self.key(user);
        let mut bound = false;
        if let Some(live) = self.live {
            live.lines(user, self.live_hash(live, &key), key.hint, |line| {
                bound |= line.of() == Of::Bound && line.is_live(self.now.unix_ms);
            });
        }
        bound || self.bindings.find(user).is_some()
    }
}
