//! What a burst sees, and the one place that knows which terminals a user has: those that registered (live), then
//! the rows of users.csv that no registration overrides.
//!
//! A row is overridden by a live entry of the same user and device (PROTOCOL.md, ruling 6; INTERFACE.md, ruling 10),
//! a tombstone too, and while its private address, with any port, or its public address and port belongs to
//! somebody else's live binding: delivery needs both directions to agree. A lent Push ID leads to the terminals of
//! whom it is lent to.
//!
//! With no live entry at all, which is asked once a burst, nothing of this costs more than a branch.

use super::{Site, Terminal};
use crate::clock::Now;
use crate::id::{Endpoint, Imsi, PushId};
use crate::table::Tables;
use crate::table::binding::{self, ArchivedLine};
use crate::table::live::{Hint, LiveBindings, LiveLine, Of};
use crate::table::memory::prefetch;

/// What all stages see of the world while they work on one burst.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) site: &'a Site,
    pub(super) tables: &'a Tables,
    pub(super) now: Now,
    /// None when nothing is registered, released or lent.
    live: Option<&'a LiveBindings>,
}

/// A user and where to look for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Key {
    user: PushId,
    row_hash: u64,
    live_hash: u64,
    /// The line that the user's first row is likely to be, once [`Moment::prefetch_lines`] has looked.
    likely: Option<usize>,
    looked: bool,
    /// What it saw of live entries.
    hint: Hint,
}

/// One terminal, as users.csv or a registration says.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    Row(&'a ArchivedLine, &'a [[u8; 16]]),
    /// And whether it may have a key of its own.
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
    pub(super) fn new(site: &'a Site, tables: &'a Tables, now: Now) -> Self {
        let live = &*site.shared.live;
        Self { site, tables, now, live: Some(live).filter(|live| !live.is_empty()) }
    }

    /// Where to look for this user.
    #[inline]
    pub(super) fn key(&self, user: PushId) -> Key {
        let row_hash = binding::hash(user.0, self.tables.arrays().users_index().seed());
        let live_hash = self.live.map_or(0, |live| live.hash(user));
        Key { user, row_hash, live_hash, likely: None, looked: false, hint: Hint::Unknown }
    }

    /// Starts to bring near where the user would be found.
    #[inline]
    pub(super) fn prefetch(&self, key: &Key) {
        self.tables.arrays().users_index().prefetch(key.row_hash);
        if let Some(live) = self.live {
            live.prefetch(key.live_hash);
            self.tables.prefetch_keyed(key.row_hash);
        }
    }

    /// The second step, when what [`Moment::prefetch`] asked for has arrived: the lines.
    #[inline]
    pub(super) fn prefetch_lines(&self, key: &mut Key) {
        let arrays = self.tables.arrays();
        (key.likely, key.looked) = (arrays.users_index().first_candidate(key.row_hash), true);
        if let Some(line) = key.likely {
            prefetch(arrays.lines(), line);
        }
        if let Some(live) = self.live {
            key.hint = live.hint(key.live_hash);
        }
    }

    /// The third step, needed only when something is live, and not of this user: whose the row's address is.
    #[inline]
    pub(super) fn prefetch_owner(&self, key: &Key) {
        let Some(live) = self.live.filter(|_| key.hint == Hint::None) else { return };
        let arrays = self.tables.arrays();
        let line = key.likely.and_then(|line| arrays.lines().get(line));
        if let Some((line, private)) = line.and_then(|line| Some((line, line.private()?))) {
            live.prefetch_owner(line.realm(), private);
        }
    }

    /// Whether something is live.
    pub(super) fn has_live(&self) -> bool {
        self.live.is_some()
    }

    /// Every terminal that the user has or had, held by whoever has it now; those whose validity has ended too.
    /// Returns whether anything is known of the user (ruling 9).
    #[inline(always)]
    pub(super) fn each(&self, key: &Key, mut each: impl FnMut(&Known<'_>)) -> bool {
        match self.live {
            None => self.rows(key, |_| true, &mut each),
            Some(live) => self.live_and_rows(live, key, &mut each),
        }
    }

    fn live_and_rows(&self, live: &LiveBindings, key: &Key, each: &mut impl FnMut(&Known<'_>)) -> bool {
        let mut hidden = Devices::default();
        let mut known = false;
        let mut lent = None;
        live.lines(key.user, key.live_hash, key.hint, |line| match line.of() {
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
        known | self.rows(key, |row| !hidden.has(row.device()) && !self.is_taken(live, row), each)
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
        live.lines(user, key.live_hash, key.hint, |line| {
            if line.of() == Of::Lent {
                return;
            }
            known = true;
            hidden.insert(line.device());
            if line.of() == Of::Bound && (device == 0 || line.device() == device) {
                each(&Known::Live(line, self.tables.may_have_key(key.row_hash)));
            }
        });
        let wanted = |row: &ArchivedLine| {
            (device == 0 || row.device() == device) && !hidden.has(row.device()) && !self.is_taken(live, row)
        };
        known | self.rows(&key, wanted, each)
    }

    #[inline(always)]
    fn rows(
        &self,
        key: &Key,
        wanted: impl Fn(&ArchivedLine) -> bool,
        each: &mut impl FnMut(&Known<'_>),
    ) -> bool {
        let arrays = self.tables.arrays();
        let first = match key.likely {
            Some(line) if arrays.lines()[line].user() == key.user => Some(line),
            None if key.looked => None,
            _ => arrays.find_hashed(key.user, key.row_hash),
        };
        let Some(first) = first else { return false };
        for row in arrays.user_lines(first) {
            if wanted(row) {
                each(&Known::Row(row, arrays.nat6()));
            }
        }
        true
    }

    /// Whether an address of this row is another terminal's by now: another user's, or another of this user's
    /// that registered with the very same address and port, as a client does that users.csv knows too.
    fn is_taken(&self, live: &LiveBindings, row: &ArchivedLine) -> bool {
        let now_ms = self.now.unix_ms;
        let public = row.nat(self.tables.arrays().nat6());
        let is_taken = |public| {
            let own = (row.user(), row.device());
            live.public_owner(public, now_ms).is_some_and(|owner| owner != own)
        };
        let private_taken =
            row.private().is_some_and(|private| match live.owner(row.realm(), private, now_ms) {
                Some((user, _)) if user == row.user() => self.is_doubled(live, row, private),
                owner => owner.is_some(),
            });
        private_taken || public.is_some_and(is_taken)
    }

    /// Whether another terminal of the same user is bound to the very private address and port of this row.
    #[cold]
    fn is_doubled(&self, live: &LiveBindings, row: &ArchivedLine, private: Endpoint) -> bool {
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
    pub(super) fn is_user(&self, user: PushId) -> bool {
        let key = self.key(user);
        let mut bound = false;
        if let Some(live) = self.live {
            live.lines(user, key.live_hash, key.hint, |line| {
                bound |= line.of() == Of::Bound && line.is_live(self.now.unix_ms);
            });
        }
        bound || self.tables.arrays().find_hashed(user, key.row_hash).is_some()
    }
}

impl Known<'_> {
    #[inline(always)]
    pub(super) fn device(&self) -> u8 {
        match self {
            Self::Row(row, _) => row.device(),
            Self::Live(line, _) => line.device(),
        }
    }

    #[inline(always)]
    pub(super) fn realm(&self) -> u32 {
        match self {
            Self::Row(row, _) => row.realm(),
            Self::Live(line, _) => line.realm(),
        }
    }

    #[inline(always)]
    pub(super) fn private(&self) -> Option<Endpoint> {
        match self {
            Self::Row(row, _) => row.private(),
            Self::Live(line, _) => line.private(),
        }
    }

    #[inline(always)]
    pub(super) fn nat(&self) -> Option<Endpoint> {
        match self {
            Self::Row(row, nat6) => row.nat(nat6),
            Self::Live(line, _) => line.nat(),
        }
    }

    #[inline(always)]
    pub(super) fn imsi(&self) -> Option<Imsi> {
        match self {
            Self::Row(row, _) => row.imsi(),
            Self::Live(line, _) => line.imsi(),
        }
    }

    #[inline(always)]
    pub(super) fn bearers(&self) -> u8 {
        match self {
            Self::Row(row, _) => row.bearers(),
            Self::Live(line, _) => line.bearers(),
        }
    }

    #[inline(always)]
    pub(super) fn serving(&self) -> Option<Endpoint> {
        match self {
            Self::Row(row, _) => row.serving(),
            Self::Live(line, _) => line.serving(),
        }
    }

    /// Whether its validity has not ended.
    #[inline(always)]
    pub(super) fn is_live(&self, now: Now) -> bool {
        match self {
            Self::Row(row, _) => row.is_live(now.unix_s()),
            Self::Live(line, _) => line.is_live(now.unix_ms),
        }
    }

    /// What is needed to serve it.
    #[inline(always)]
    pub(super) fn terminal(&self) -> Terminal {
        let (device, realm, private) = (self.device(), self.realm(), self.private());
        let (user, has_key, listener) = match self {
            Self::Row(row, _) => (row.user(), row.has_key(), None),
            Self::Live(line, may_have_key) => (line.user(), *may_have_key, Some(line.listener())),
        };
        Terminal { user, device, realm, private, has_key, listener }
    }
}
