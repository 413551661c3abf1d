//! What the live tables say of the users of one image, told by where their rows stand: so that a lookup need not ask
//! them when they know nothing, nor the image when they know all.
//!
//! Costs: 4 bytes a place of the image, read once a lookup, beside the place that was computed anyway. It spares who has
//! not registered two buckets (is there something of this user, has somebody else this address), and who has
//! registered from one terminal, which is the one that users.csv knows, a bucket and the row. A change costs the
//! writer the place of its user and the rows that have an address which it gives or takes.
//!
//! # What a cell promises
//!
//! While a cell of a user's row says
//!
//! * [`Over::Nothing`], the live tables have no slot of this user, and no binding to a private address of its rows;
//! * [`Over::Slot`], this slot is the only one of this user, and is a binding or a tombstone of the device that the
//!   user's only row is of: nothing is to be looked for elsewhere;
//! * [`Over::Ask`], anything.
//!
//! The writer keeps these promises at every moment, by an order: a cell says `Ask` before what another cell
//! would promise ceases to hold, and something else after it holds again. So a reader that loads `Nothing` may
//! take the rows as they are, as of that moment. One that loads `Slot` reads the slot's words at a version, loads the
//! cell again, and then the version: both unchanged, the words were those of the slot while the cell said so, and what the
//! cell promises is true of them. Else it asks. Of public addresses a cell promises nothing; few rows have one.
//!
//! Whoever is not in the image is led to a place too, to somebody else's row or nobody's: the row or the slot says so,
//! and the live tables are asked.
//!
//! # Gateways
//!
//! A binding's slot holds the gateway of its private address too, by the segments of the newest image, so that a push
//! to who has registered takes no longest match. Each overlay has a tag, and so has the gateway: who reads another image
//! sees that, and asks its segments. No tag outlives its overlay in a slot: a new one makes all of them its own.
//!
//! # Images come and go
//!
//! There is one overlay for each image that readers may have. A new one is made while the old one serves: from its first
//! moment the writer keeps it true of what changes; meanwhile, slot by slot, it is made true of what is there. The
//! writer waits for no more than [`CHUNK`] slots of that, and readers never.

use std::sync::{Arc, PoisonError};

use super::slot::{Tag, Words};
use super::{Address, Live, LiveBindings, LiveLine, Of, slot};
use crate::id::{Endpoint, PushId};
use crate::sync::{AtomicU32, MutexGuard, Ordering, fence};
use crate::table::change::Binding;
use crate::table::image::Image;
use crate::table::memory::{Zeroed, prefetch};

/// Slots that are looked at while the writer waits: some tens of microseconds.
const CHUNK: usize = 256;

/// What the live tables say of the user of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Nothing, and nobody else has its private addresses.
    Nothing,
    /// All that there is to say, in this slot.
    Slot(u32),
    /// Something: ask them.
    Ask,
}

/// How a cell says [`Over::Nothing`], as memory begins with, and [`Over::Ask`].
const NOTHING: u32 = 0;
const ASK: u32 = u32::MAX;

impl Over {
    #[inline(always)]
    const fn of(cell: u32) -> Self {
        match cell {
            NOTHING => Self::Nothing,
            ASK => Self::Ask,
            slot => Self::Slot(slot - 1),
        }
    }

    const fn cell(self) -> u32 {
        match self {
            Self::Nothing => NOTHING,
            Self::Slot(slot) => slot + 1,
            Self::Ask => ASK,
        }
    }
}

/// What the live tables say of the users of one image.
#[derive(Debug)]
pub struct Overlay {
    image: Arc<Image>,
    tag: Tag,
    cells: Zeroed<AtomicU32>,
}

impl Overlay {
    /// Bytes a place of the image.
    pub const CELL_BYTES: usize = size_of::<u32>();

    fn new(image: Arc<Image>, tag: Tag) -> Self {
        let places = image.arrays().users.places();
        Self { image, tag, cells: Zeroed::new(places) }
    }

    /// Starts to bring near what is said of the user at this place.
    #[inline(always)]
    pub fn prefetch(&self, place: usize) {
        prefetch(&self.cells, place);
    }

    /// What is said of the user whose row stands at this place.
    #[inline(always)]
    pub fn at(&self, place: usize) -> Over {
        self.cells.get(place).map_or(Over::Ask, |cell| Over::of(cell.load(Ordering::Acquire)))
    }

    /// Whose gateways are those of its image.
    #[inline(always)]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.cells.len() * Self::CELL_BYTES
    }

    /// Starts to bring near what a change of this user would look at.
    pub(super) fn expect(&self, user: PushId) {
        let bindings = self.image.arrays().bindings();
        prefetch(&self.cells, bindings.place(bindings.hash(user)));
    }

    fn store(&self, place: usize, over: Over) {
        self.cells[place].store(over.cell(), Ordering::Release);
    }

    /// The words of a binding with its gateway.
    pub(super) fn placed(&self, words: Words, binding: &Binding) -> Words {
        let private = binding.private;
        let gateway = private.and_then(|private| self.image.arrays().gateway(binding.realm, private));
        slot::with_gateway(words, self.tag, gateway)
    }

    /// Says `Ask` of this user, before slots of it come or go.
    pub(super) fn ask(&self, user: PushId) {
        if let Some((_, place)) = self.image.arrays().bindings().find(user) {
            self.store(place, Over::Ask);
        }
    }

    /// Says `Ask` of everybody of whom nothing is said and whose row has this address, before somebody gets it.
    pub(super) fn ask_about(&self, address: Address) {
        self.each_owner(address, |user| {
            if let Some((_, place)) = self.image.arrays().bindings().find(user)
                && self.at(place) == Over::Nothing
            {
                self.store(place, Over::Ask);
            }
        });
    }

    /// Says what is so of this user, after a change.
    pub(super) fn settle(&self, live: &LiveBindings, user: PushId) {
        let bindings = self.image.arrays().bindings();
        let Some((first, place)) = bindings.find(user) else { return };
        let further = bindings.further(first, place);
        let (mut slots, mut only) = (0, None);
        let hash = live.hash(user);
        for slot in live.users.candidates(hash) {
            let Some(line) = live.read(slot, |words| slot::is_of(words, user)) else { continue };
            slots += 1;
            if further.is_empty() && line.of() != Of::Lent && line.device() == first.device() {
                only = Some(slot as u32);
            }
        }
        let is_taken = || {
            let rows = std::iter::once(first).chain(further);
            rows.filter_map(|row| Some(Address::private(row.realm(), row.private()?)))
                .any(|address| live.is_bound_to(address))
        };
        let over = match (slots, only) {
            (1, Some(slot)) => Over::Slot(slot),
            (0, _) if !is_taken() => Over::Nothing,
            _ => Over::Ask,
        };
        self.store(place, over);
    }

    /// Says what is so of everybody whose row has this address, after somebody lost it.
    pub(super) fn settle_about(&self, live: &LiveBindings, address: Address) {
        self.each_owner(address, |user| self.settle(live, user));
    }

    fn each_owner(&self, address: Address, mut each: impl FnMut(PushId)) {
        if let Address::Private(realm, octets) = address {
            let private = Endpoint::from_octets(octets, 0);
            self.image.arrays().owners(realm, private).for_each(|line| each(line.user()));
        }
    }
}

/// An overlay that the writer keeps true, until this is dropped.
#[derive(Debug)]
pub struct LaidOver {
    live: Arc<LiveBindings>,
    overlay: Arc<Overlay>,
}

impl LaidOver {
    /// The overlay, if it says what these tables say.
    #[inline]
    pub fn of(&self, live: &Arc<LiveBindings>) -> Option<&Overlay> {
        Arc::ptr_eq(&self.live, live).then_some(&*self.overlay)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.overlay.bytes()
    }
}

impl Drop for LaidOver {
    fn drop(&mut self) {
        // Not while the writer is at it: what an image leaves behind is not for the writer to clear away.
        self.live.overlays().all.retain(|other| !Arc::ptr_eq(other, &self.overlay));
    }
}

/// Those that the writer keeps true, the newest last.
#[derive(Debug, Default)]
pub(super) struct Overlays {
    pub(super) all: Vec<Arc<Overlay>>,
    /// How many there ever were.
    made: u64,
}

impl LiveBindings {
    /// Whoever holds this is the only one who writes to slots and cells.
    pub(super) fn overlays(&self) -> MutexGuard<'_, Overlays> {
        // A panic between a change and its cells would end the writer's thread, and with it the server.
        self.overlays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what these tables say of the users of an image, now and until the answer is dropped. Takes some hundred
    /// nanoseconds a slot in use; nobody waits for it but who asked.
    pub fn lay_over(self: &Arc<Self>, image: Arc<Image>) -> LaidOver {
        let overlay = {
            let mut overlays = self.overlays();
            let overlay = Arc::new(Overlay::new(image, Tag::new(overlays.made)));
            overlays.made += 1;
            overlays.all.push(Arc::clone(&overlay));
            overlay
        };
        // Slots that are taken from here on are the writer's to tell of.
        let touched = self.touched.load(Ordering::Acquire) as usize;
        for first in (0..touched).step_by(CHUNK) {
            let _only = self.overlays();
            (first..touched.min(first + CHUNK)).for_each(|slot| self.lay_over_slot(slot, &overlay));
        }
        LaidOver { live: Arc::clone(self), overlay }
    }

    fn lay_over_slot(&self, slot: usize, overlay: &Overlay) {
        let Some(line) = self.read(slot, slot::says) else { return };
        overlay.settle(self, line.user());
        if let Live::Bound(binding) = line.decode()
            && let Some(private) = binding.private
        {
            overlay.settle_about(self, Address::private(binding.realm, private));
            self.slots[slot].write(&overlay.placed(self.slots[slot].read(), &binding));
        }
    }

    /// Whether a binding, one that has ended by time too, has this address.
    fn is_bound_to(&self, address: Address) -> bool {
        let is = |slot| self.read(slot, slot::is_bound).is_some_and(|line| address.is_of(&line));
        self.addresses.find(address.hash(self.seed), is).is_some()
    }

    /// Starts to bring a slot near.
    #[inline(always)]
    pub fn prefetch_slot(&self, slot: u32) {
        prefetch(&self.slots, slot as usize);
    }

    /// Whether a slot is this user's, as far as can be told without care.
    #[inline(always)]
    pub fn may_be_of(&self, slot: u32, user: PushId) -> bool {
        self.slots.get(slot as usize).is_some_and(|slot| slot.begins_with(slot::id_words(user)))
    }

    /// What a slot says of this user, if it says all: as `overlay` promises of this place.
    #[inline(always)]
    pub fn only(&self, overlay: &Overlay, place: usize, slot: u32, user: PushId) -> Option<LiveLine> {
        let lock = self.slots.get(slot as usize)?;
        loop {
            let (version, words) = lock.read_at();
            if !slot::is_of(&words, user) {
                return None;
            }
            let more = match slot::extension_of(&words) {
                None => None,
                Some(more) => Some(self.slots.get(more)?.read()),
            };
            // The version once more behind the cell: the words were there while the cell said so.
            fence(Ordering::Acquire);
            if overlay.at(place) != Over::Slot(slot) {
                return None;
            }
            if lock.is_at(version) {
                return Some(LiveLine::new(words, more.as_ref()));
            }
        }
    }
}
