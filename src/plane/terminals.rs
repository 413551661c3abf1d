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
//! A burst looks in steps ([`Moment::in_steps`]), each over all of its messages, so that what one step asks memory for
//! has come when the next one needs it. (Steps that run 32 or 64 messages ahead of each other in one loop take half as
//! long again: a message that waits for its line holds up those behind it.)

use std::cell::Cell;

use super::{Site, Terminal};
use crate::clock::Now;
use crate::id::{Endpoint, Imsi, PushId};
use crate::table::binding::{Bindings, Line};
use crate::table::live::overlay::{Over, Overlay};
use crate::table::live::{Hint, LiveBindings, LiveLine, Of};
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
    bindings: Bindings<'a>,
    home: Home,
    prefixes: Trie<'a>,
    segments: Segments<'a>,
    /// Whether somebody was live who has no row where there are rows of others.
    met_strangers: Cell<bool>,
}

/// A user and where to look for it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    user: PushId,
    /// What live entries are found by: [`Moment::live_hash`] knows.
    live_hash: u64,
    row_hash: u64,
    /// The line that the user's first row is in, if it is in any: [`Moment::prefetch_lines`] knows.
    place: usize,
    /// What is live of whose row stands there.
    over: Over,
    /// What it saw of live entries.
    hint: Hint,
    /// What the live owner of that row's private address would be found by: [`Moment::prefetch_owner`] knows.
    owner_hash: u64,
}

/// No line has this number.
const UNKNOWN: usize = usize::MAX;

/// A hash that nobody has computed; who meets an address that has it does so again.
const NO_HASH: u64 = 0;

/// One terminal, as users.csv or a registration says.
#[derive(Clone, Copy)]
pub enum Known<'a> {
    /// A row of users.csv, and the public IPv6 addresses of its tables.
    Row(&'a Line, &'a [[u8; 16]]),
    /// A registration, and whether its user may have a key of its own.
    Live(&'a LiveLine, bool),
}

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
        let (bindings, prefixes, segments) =
            (tables.arrays().bindings(), tables.prefixes(), tables.segments());
        let own = tables.own().map(|own| tables.server_address(own));
        let (home, met_strangers) = (tables.home(), Cell::new(false));
        Self { site, tables, now, own, live, overlay, bindings, home, prefixes, segments, met_strangers }
    }

    /// Where to look for this user.
    #[inline(always)]
    pub fn key(&self, user: PushId) -> Key {
        let row_hash = self.bindings.hash(user);
        // Few need it where there is an overlay.
        let live_hash = match (self.live, self.overlay) {
            (Some(live), None) => live.hash(user),
            _ => NO_HASH,
        };
        Key { user, live_hash, row_hash, ..Key::UNSEEN }
    }

    /// The first step: starts to bring near what says where the user would be found.
    #[inline(always)]
    pub fn prefetch(&self, key: &Key) {
        self.bindings.prefetch(key.row_hash);
        if let (Some(live), None) = (self.live, self.overlay) {
            live.prefetch(key.live_hash);
            self.tables.prefetch_keyed(key.row_hash);
        }
    }

    /// Decides on each message of a burst in its order, when what is known of its destination has been brought near.
    /// `key` is where that is looked for, after [`Moment::prefetch`]; none of a message that needs it no more. `eager`:
    /// the burst before met strangers ([`Moment::met_strangers`]).
    #[inline(always)]
    pub fn in_steps<B: ?Sized>(
        &self,
        burst: &mut B,
        count: usize,
        eager: bool,
        key: impl for<'b> Fn(&'b mut B, usize) -> Option<&'b mut Key>,
        mut decide: impl FnMut(&mut B, usize),
    ) {
        for at in 0..count {
            if let Some(key) = key(burst, at) {
                self.prefetch_lines(key);
            }
        }
        if self.live.is_some() {
            let mut more = eager;
            for at in 0..count {
                if let Some(key) = key(burst, at) {
                    more |= self.prefetch_live(key);
                }
            }
            let mut strangers = false;
            for at in 0..if more { count } else { 0 } {
                if let Some(key) = key(burst, at) {
                    strangers |= self.prefetch_rest(key);
                }
            }
            for at in 0..if strangers { count } else { 0 } {
                if let Some(key) = key(burst, at) {
                    self.prefetch_stranger(key);
                }
            }
        }
        for at in 0..count {
            decide(burst, at);
        }
    }

    /// The second step: the line of the user, or what says whether it is needed.
    #[inline(always)]
    fn prefetch_lines(&self, key: &mut Key) {
        key.place = self.bindings.place(key.row_hash);
        match (self.live, self.overlay) {
            (None, _) => self.bindings.prefetch_line(key.place),
            (Some(_), Some(overlay)) => overlay.prefetch(key.place),
            (Some(live), None) => {
                self.bindings.prefetch_line(key.place);
                key.hint = live.hint(key.live_hash);
            }
        }
    }

    /// The third step, needed only when something is live: what is to be read of this user. True: the fourth is needed.
    #[inline(always)]
    fn prefetch_live(&self, key: &mut Key) -> bool {
        match (self.live, self.overlay) {
            (Some(live), Some(overlay)) => {
                key.over = overlay.at(key.place);
                if let Over::Slot(slot) = key.over {
                    live.prefetch_slot(slot);
                    self.tables.prefetch_keyed(key.row_hash);
                } else {
                    self.bindings.prefetch_line(key.place);
                    if key.over == Over::Ask {
                        self.prefetch_asked(live, key);
                        return true;
                    }
                }
            }
            (Some(live), None) => self.prefetch_owner(live, key),
            (None, _) => {}
        }
        false
    }

    /// The fourth step, of those who must be looked for among what is live. Without it they are found too. True: this one
    /// is a stranger, and the last step is worth it.
    #[inline]
    fn prefetch_rest(&self, key: &mut Key) -> bool {
        let (Some(live), Some(_)) = (self.live, self.overlay) else { return false };
        let is_stranger = match key.over {
            Over::Nothing => self.bindings.at(key.user, key.place).is_none(),
            Over::Slot(slot) => !live.may_be_of(slot, key.user),
            Over::Ask => {
                key.hint = live.hint(key.live_hash);
                self.prefetch_owner(live, key);
                false
            }
        };
        if is_stranger {
            self.met_strangers.set(true);
            if let Over::Slot(_) = key.over {
                // It says nothing of this one, so the line has to.
                self.bindings.prefetch_line(key.place);
            }
            key.over = Over::Ask;
            self.prefetch_asked(live, key);
        }
        is_stranger
    }

    /// The last step, of a user who has no row where there are rows of others.
    #[inline]
    fn prefetch_stranger(&self, key: &mut Key) {
        if let Some(live) = self.live.filter(|_| key.over == Over::Ask && key.hint == Hint::Unknown) {
            key.hint = live.hint(key.live_hash);
        }
    }

    /// The bucket that the live tables would have this user in.
    #[inline]
    fn prefetch_asked(&self, live: &LiveBindings, key: &mut Key) {
        key.live_hash = live.hash(key.user);
        live.prefetch(key.live_hash);
        self.tables.prefetch_keyed(key.row_hash);
    }

    /// The bucket that would have the owner of the row's address, if its user is not live itself.
    #[inline]
    fn prefetch_owner(&self, live: &LiveBindings, key: &mut Key) {
        if key.hint != Hint::None {
            return;
        }
        let line = self.bindings.at(key.user, key.place);
        if let Some((line, private)) = line.and_then(|line| Some((line, line.private()?))) {
            key.owner_hash = live.owner_hash(line.realm(), private);
            live.prefetch_owner(key.owner_hash);
        }
    }

    /// What the live entries of this user are found by.
    #[inline(always)]
    fn live_hash(&self, live: &LiveBindings, key: &Key) -> u64 {
        if key.live_hash == NO_HASH { live.hash(key.user) } else { key.live_hash }
    }

    /// The server whose prefix is the longest that `id` has.
    #[inline]
    pub fn route(&self, id: PushId) -> Option<u32> {
        if self.home.has(id) { self.tables.own() } else { self.prefixes.lookup(id.high()) }
    }

    /// The gateway that a terminal's private address lies behind. Most rows and registrations know it by the very
    /// segments that are asked for others.
    #[inline(always)]
    pub fn gateway(&self, known: &Known<'_>) -> Option<u32> {
        let noted = match known {
            Known::Row(row, _) => row.gateway(),
            Known::Live(line, _) => self.overlay.and_then(|overlay| line.gateway(overlay.tag())),
        };
        noted.or_else(|| self.segments.gateway(known.realm(), known.private()?))
    }

    /// Every terminal that the user has or had, held by whoever has it now; those whose validity has ended too.
    /// Returns whether anything is known of the user (ruling 9).
    #[inline(always)]
    pub fn each(&self, key: &Key, mut each: impl FnMut(&Known<'_>)) -> bool {
        let Some(live) = self.live else { return self.rows(key, |_, _| true, &mut each) };
        match (key.over, self.overlay) {
            (Over::Nothing, Some(_)) => {
                // That is said of whose row stands there; of nobody else is there one.
                if self.rows(key, |row, _| !self.is_public_address_taken(live, row), &mut each) {
                    return true;
                }
                self.met_strangers.set(true);
            }
            (Over::Slot(slot), Some(overlay)) => {
                if let Some(line) = live.only(overlay, key.place, slot, key.user) {
                    if line.of() == Of::Bound {
                        each(&Known::Live(&line, self.tables.may_have_key(key.row_hash)));
                    }
                    return true;
                }
                self.met_strangers.set(true);
            }
            _ => {}
        }
        self.live_and_rows(live, key, &mut each)
    }

    /// Whether all steps are worth it in a burst like this one: somebody was live, or unknown, who has no row.
    pub fn met_strangers(&self) -> bool {
        self.met_strangers.get()
    }

    fn live_and_rows(&self, live: &LiveBindings, key: &Key, each: &mut impl FnMut(&Known<'_>)) -> bool {
        let mut hidden = Devices::default();
        let mut known = false;
        let mut lent = None;
        live.lines(key.user, self.live_hash(live, key), key.hint, |line| match line.of() {
            Of::Bound => {
                known = true;
                hidden.insert(line.device());
                each(&Known::Live(line, self.tables.may_have_key(key.row_hash)));
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
        known | self.rows(key, |row, hash| !hidden.has(row.device()) && !self.is_taken(live, row, hash), each)
    }

    /// Whom a Push ID is lent to.
    pub(super) fn lent_to(&self, lent: PushId) -> Option<PushId> {
        self.live?.alias(lent, self.now.unix_ms).map(|(user, _)| user)
    }

    /// The terminals of whom a Push ID is lent to.
    #[cold]
    fn borrowed(
        &self,
        live: &LiveBindings,
        user: PushId,
        device: u8,
        each: &mut impl FnMut(&Known<'_>),
    ) -> bool {
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
                each(&Known::Live(line, self.tables.may_have_key(key.row_hash)));
            }
        });
        let wanted = |row: &Line, hash| {
            let asked = device == 0 || row.device() == device;
            asked && !hidden.has(row.device()) && !self.is_taken(live, row, hash)
        };
        known | self.rows(&key, wanted, each)
    }

    /// The user's rows that are wanted; `wanted` is told what the live owner of the row's address would be found by.
    #[inline(always)]
    fn rows(
        &self,
        key: &Key,
        wanted: impl Fn(&Line, u64) -> bool,
        each: &mut impl FnMut(&Known<'_>),
    ) -> bool {
        let place = if key.place == UNKNOWN { self.bindings.place(key.row_hash) } else { key.place };
        let Some(mut row) = self.bindings.at(key.user, place) else { return false };
        let mut further = self.bindings.further(row, place).iter();
        let mut owner_hash = key.owner_hash;
        loop {
            if wanted(row, owner_hash) {
                each(&Known::Row(row, self.bindings.nat6()));
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

impl Key {
    /// Nobody has looked yet.
    const UNSEEN: Self = Self {
        user: PushId::NONE,
        live_hash: NO_HASH,
        row_hash: 0,
        place: UNKNOWN,
        over: Over::Ask,
        hint: Hint::Unknown,
        owner_hash: NO_HASH,
    };
}

impl Default for Key {
    fn default() -> Self {
        Self::UNSEEN
    }
}

impl Known<'_> {
    /// Which of the user's terminals.
    #[inline(always)]
    pub fn device(&self) -> u8 {
        match self {
            Self::Row(row, _) => row.device(),
            Self::Live(line, _) => line.device(),
        }
    }

    /// The private address space.
    #[inline(always)]
    pub fn realm(&self) -> u32 {
        match self {
            Self::Row(row, _) => row.realm(),
            Self::Live(line, _) => line.realm(),
        }
    }

    /// Private address and port.
    #[inline(always)]
    pub fn private(&self) -> Option<Endpoint> {
        match self {
            Self::Row(row, _) => row.private(),
            Self::Live(line, _) => line.private(),
        }
    }

    /// Public address and port.
    #[inline(always)]
    pub fn nat(&self) -> Option<Endpoint> {
        match self {
            Self::Row(row, nat6) => row.nat(nat6),
            Self::Live(line, _) => line.nat(),
        }
    }

    /// The subscriber.
    #[inline(always)]
    pub fn imsi(&self) -> Option<Imsi> {
        match self {
            Self::Row(row, _) => row.imsi(),
            Self::Live(line, _) => line.imsi(),
        }
    }

    /// What the terminal can take.
    #[inline(always)]
    pub fn bearers(&self) -> u8 {
        match self {
            Self::Row(row, _) => row.bearers(),
            Self::Live(line, _) => line.bearers(),
        }
    }

    /// The serving server's address.
    #[inline(always)]
    pub fn serving(&self) -> Option<Endpoint> {
        match self {
            Self::Row(row, _) => row.serving(),
            Self::Live(line, _) => line.serving(),
        }
    }

    /// Whether its validity has not ended.
    #[inline(always)]
    pub fn is_live(&self, now: Now) -> bool {
        match self {
            Self::Row(row, _) => row.is_live(now.unix_s()),
            Self::Live(line, _) => line.is_live(now.unix_ms),
        }
    }

    /// What is needed to serve it.
    #[inline(always)]
    pub fn terminal(&self) -> Terminal {
        let (device, realm, private) = (self.device(), self.realm(), self.private());
        let (user, has_key, listener) = match self {
            Self::Row(row, _) => (row.user(), row.has_key(), None),
            Self::Live(line, may_have_key) => (line.user(), *may_have_key, Some(line.listener())),
        };
        Terminal { user, device, realm, private, has_key, listener }
    }
}
