//! Where the users of a burst are looked for.
//!
//! A burst looks in steps, each over all of its messages, so that what one step asks memory for has come when the next
//! one needs it. Between steps each message has an entry in a few columns, which stay in the nearest cache:
//!
//! | step | reads | asks memory for |
//! |---|---|---|
//! | [`Moment::look_for`] | the user | the pilot that says where its row stands, and the mark beside it |
//! | [`Moment::look`] | pilot and mark | the row; where the mark says that something is live, the cell that says what |
//! | [`Moment::look_closer`] | cells of marked places | the slot that says all, or the live tables' bucket |
//! | | buckets | slots, and who has the row's address now |
//! | | after strangers: rows and slots, whose they are | the live tables' bucket, then its slot |
//!
//! A stranger is somebody live who has no row, where there are rows of others: the row that stands at its place says so,
//! after it has come. To look whose row it is pays only where there are such, which the burst before knows. Where most
//! were strangers, or nobody has a row, no overlay is asked:
//!
//! | step | reads | asks memory for |
//! |---|---|---|
//! | [`Moment::look_for`] | the user | the pilot, the live tables' bucket |
//! | [`Moment::look`] | pilot and bucket | the row and the slot |
//! | [`Moment::look_closer`] | rows of those who are not live | who has the row's address now |
//!
//! What was tried: steps that run 32 or 64 messages ahead of each other in one loop take half as long again, for a message
//! that waits for its line holds up those behind it; steps over 32 messages at a time, each such a stride behind the
//! one before, a tenth, for what they spare in waiting they lose in loops of few turns, whose ends nothing foretells.

use std::cell::Cell;

use super::{Key, Moment, NO_HASH};
use crate::id::PushId;
use crate::packet::BURST_MAX;
use crate::table::live::overlay::{Over, Overlay, Said, Way};
use crate::table::live::{Hint, LiveBindings};
use crate::table::memory::prefetch_either;

const _: () = assert!(BURST_MAX <= 1 << u8::BITS);

/// The columns: an entry for each message, at the place of its row in the burst.
#[derive(Debug)]
pub struct Looks {
    users: [PushId; BURST_MAX],
    /// By the seed of the rows.
    hashes: [u64; BURST_MAX],
    /// Where the user's first row stands, if it has any.
    places: [usize; BURST_MAX],
    /// What is live of whose row stands there.
    said: [Said; BURST_MAX],
    /// What the live tables are asked by. Only of those who must be.
    asked: [Asked; BURST_MAX],
    /// Those of whose users something may be live, the first `marks`.
    marked: [u8; BURST_MAX],
    marks: usize,
    /// Whether all of `said` is nothing.
    is_clear: bool,
    /// How many strangers this burst has met so far; before [`Moment::look_closer`], how many the last one did.
    strangers: Cell<usize>,
    /// More than so many are most of the last one.
    half: usize,
}

/// What is to be found in the live tables.
#[derive(Clone, Copy, Debug)]
struct Asked {
    live_hash: u64,
    /// What the bucket said.
    hint: Hint,
    /// What the live owner of the row's private address would be found by.
    owner_hash: u64,
}

impl Asked {
    const NOTHING: Self = Self { live_hash: NO_HASH, hint: Hint::Unknown, owner_hash: NO_HASH };
}

impl Looks {
    /// Before the first burst.
    pub fn new() -> Self {
        Self {
            users: [PushId::NONE; BURST_MAX],
            hashes: [0; BURST_MAX],
            places: [0; BURST_MAX],
            said: [Said::NOTHING; BURST_MAX],
            asked: [Asked::NOTHING; BURST_MAX],
            marked: [0; BURST_MAX],
            marks: 0,
            is_clear: true,
            strangers: Cell::new(0),
            half: BURST_MAX / 2,
        }
    }

    /// As if the burst before, of [`BURST_MAX`] messages, had met so many strangers. For who tries all.
    pub fn expect_strangers(&mut self, strangers: usize) {
        (self.strangers, self.half) = (Cell::new(strangers), BURST_MAX / 2);
    }

    /// Nobody is looked for at this place.
    pub fn skip(&mut self, at: usize) {
        (self.users[at], self.hashes[at]) = (PushId::NONE, 0);
    }

    /// All that is known of a user by now.
    pub(super) fn key(&self, at: usize) -> Key {
        // What stands there of others is of an earlier burst.
        let asked = if self.said[at] == Said::ASK { self.asked[at] } else { Asked::NOTHING };
        let Asked { live_hash, hint, owner_hash } = asked;
        let (user, row_hash, place) = (self.users[at], self.hashes[at], Some(self.places[at]));
        Key { user, row_hash, place, live_hash, hint, owner_hash }
    }

    /// Whether something may be live of whose row stands at this message's place.
    #[inline(always)]
    pub(super) fn is_live(&self, at: usize) -> bool {
        self.said[at] != Said::NOTHING
    }

    /// What an overlay said of this place.
    #[inline(always)]
    pub(super) fn over(&self, at: usize) -> Over {
        self.said[at].over()
    }

    /// The user looked for, and where its first row would stand.
    #[inline(always)]
    pub(super) fn row(&self, at: usize) -> (PushId, usize) {
        (self.users[at], self.places[at])
    }

    /// By the seed of the rows.
    #[inline(always)]
    pub(super) fn row_hash(&self, at: usize) -> u64 {
        self.hashes[at]
    }

    /// Somebody was live, or unknown, who has no row.
    pub(super) fn met_stranger(&self) {
        self.strangers.update(|met| met + 1);
    }

    /// Whether most of the last burst were strangers.
    #[inline(always)]
    const fn are_strange(&self) -> bool {
        self.strangers.get() > self.half
    }
}

impl Default for Looks {
    fn default() -> Self {
        Self::new()
    }
}

impl Moment<'_> {
    /// The overlay, if this burst asks it.
    #[inline(always)]
    fn told(&self, looks: &Looks) -> Option<&Overlay> {
        self.told.filter(|_| !looks.are_strange())
    }

    /// The first step for one message: whom it is to, at the place of its row in the burst. Each place is to be told of
    /// before [`Moment::look`], by this or by [`Looks::skip`].
    ///
    /// # Panics
    /// Beyond [`BURST_MAX`].
    #[inline(always)]
    pub fn look_for(&self, looks: &mut Looks, at: usize, user: PushId) {
        let hash = self.bindings.hash(user);
        (looks.users[at], looks.hashes[at]) = (user, hash);
        let Some(live) = self.live else { return self.bindings.prefetch(hash) };
        match self.told(looks) {
            Some(overlay) => overlay.guide(&self.bindings).prefetch(hash),
            None => {
                self.bindings.prefetch(hash);
                self.ask(live, looks, at);
            }
        }
    }

    /// The second step, for the first `count` messages: their rows, or what says why they are not needed.
    ///
    /// # Panics
    /// Beyond [`BURST_MAX`].
    pub fn look(&self, looks: &mut Looks, count: usize) {
        match (self.live, self.told(looks)) {
            (Some(_), Some(overlay)) => self.look_at_marks(overlay, looks, count),
            (Some(live), None) => {
                self.look_at_rows(looks, count);
                for asked in &mut looks.asked[..count] {
                    asked.hint = live.hint(asked.live_hash);
                }
            }
            (None, _) => self.look_at_rows(looks, count),
        }
    }

    /// The last steps, after something else was done meanwhile: what is live of those of whom the second found that
    /// something may be. Brings near all that [`Moment::each`] reads.
    ///
    /// # Panics
    /// Beyond [`BURST_MAX`].
    pub fn look_closer(&self, looks: &mut Looks, count: usize) {
        let told = self.told(looks);
        let is_eager = looks.strangers.replace(0) > 0;
        looks.half = count / 2;
        let is_clear = self.live.is_none();
        if !(is_clear && looks.is_clear) {
            looks.said = [Said::NOTHING; BURST_MAX];
        }
        looks.is_clear = is_clear;
        match (self.live, told) {
            (Some(live), Some(overlay)) => {
                self.look_at_cells(live, overlay, looks);
                if is_eager {
                    self.look_for_strangers(live, looks, count);
                }
            }
            (Some(live), None) => {
                looks.said[..count].fill(Said::ASK);
                (0..count).for_each(|at| self.look_at_owner(live, looks, at));
            }
            (None, _) => {}
        }
    }

    #[inline(never)]
    fn look_at_rows(&self, looks: &mut Looks, count: usize) {
        let bindings = self.bindings;
        for (hash, place) in looks.hashes[..count].iter().zip(&mut looks.places[..count]) {
            *place = bindings.place(*hash);
            bindings.prefetch_line(*place);
        }
    }

    /// The row of whom nothing is live, of others the cell: told apart without a branch, for nothing foretells it.
    #[inline(never)]
    fn look_at_marks(&self, overlay: &Overlay, looks: &mut Looks, count: usize) {
        let (guide, lines, cells) = (overlay.guide(&self.bindings), self.bindings.lines(), overlay.cells());
        let mut marks = 0;
        for at in 0..count.min(BURST_MAX) {
            let Way { place, is_marked } = guide.way(looks.hashes[at]);
            looks.places[at] = place;
            prefetch_either(is_marked, (cells, place), (lines, place));
            looks.marked[marks % BURST_MAX] = at as u8;
            marks += usize::from(is_marked);
        }
        looks.marks = marks;
    }

    #[inline(never)]
    fn look_at_cells(&self, live: &LiveBindings, overlay: &Overlay, looks: &mut Looks) {
        let marked = looks.marked;
        let marked = marked[..looks.marks].iter().map(|at| usize::from(*at));
        let mut asks = false;
        for at in marked.clone() {
            let place = looks.places[at];
            looks.said[at] = overlay.said(place);
            match looks.said[at].over() {
                Over::Nothing => self.bindings.prefetch_line(place),
                Over::Slot(slot) => {
                    live.prefetch_slot(slot);
                    self.tables.prefetch_keyed(looks.hashes[at]);
                }
                Over::Ask => {
                    asks = true;
                    self.bindings.prefetch_line(place);
                    self.ask(live, looks, at);
                }
            }
        }
        for at in marked.filter(|_| asks) {
            if looks.said[at] == Said::ASK {
                looks.asked[at].hint = live.hint(looks.asked[at].live_hash);
                self.look_at_owner(live, looks, at);
            }
        }
    }

    /// Those of whom an overlay does not tell, because their place is somebody else's.
    #[inline(never)]
    fn look_for_strangers(&self, live: &LiveBindings, looks: &mut Looks, count: usize) {
        let mut strangers = [0u8; BURST_MAX];
        let mut met = 0;
        for at in 0..count {
            let (user, place) = looks.row(at);
            let over = looks.over(at);
            let is_stranger = match over {
                Over::Nothing => self.bindings.at(user, place).is_none(),
                Over::Slot(slot) => !live.may_be_of(slot, user),
                Over::Ask => false,
            };
            if !is_stranger || user.is_none() {
                continue;
            }
            if let Over::Slot(_) = over {
                // It says nothing of this one, so the row has to.
                self.bindings.prefetch_line(place);
            }
            looks.said[at] = Said::ASK;
            self.ask(live, looks, at);
            strangers[met] = at as u8;
            met += 1;
        }
        for at in &strangers[..met] {
            let asked = &mut looks.asked[usize::from(*at)];
            asked.hint = live.hint(asked.live_hash);
        }
    }

    /// Starts to bring the bucket near that the live tables would have this user in.
    #[inline]
    fn ask(&self, live: &LiveBindings, looks: &mut Looks, at: usize) {
        let live_hash = live.hash(looks.users[at]);
        looks.asked[at] = Asked { live_hash, ..Asked::NOTHING };
        live.prefetch(live_hash);
        self.tables.prefetch_keyed(looks.hashes[at]);
    }

    /// The bucket that would have the owner of the row's address, if its user is not live itself.
    #[inline]
    fn look_at_owner(&self, live: &LiveBindings, looks: &mut Looks, at: usize) {
        if looks.asked[at].hint != Hint::None {
            return;
        }
        let line = self.bindings.at(looks.users[at], looks.places[at]);
        if let Some((line, private)) = line.and_then(|line| Some((line, line.private()?))) {
            let owner_hash = live.owner_hash(line.realm(), private);
            looks.asked[at].owner_hash = owner_hash;
            live.prefetch_owner(owner_hash);
        }
    }
}
