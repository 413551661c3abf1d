//! What the live tables say of the users of one image, told by where their rows stand: so that a lookup need not ask
//! them when they know nothing, nor the image when they know all.
//!
//! Costs: 4 bytes a place of the image for its *cell*, and 2 a bucket of the image's perfect hash for its *guide*: 4.7 bytes
//! a user. A lookup reads the guide instead of the pilot, which is a part of it, and beside it a *mark* for each eighth
//! of the bucket's users: without one, nothing was ever said of them, and the cell is not read. So who has not registered
//! is found as if nobody had, but for one of 25 while a tenth has; who has registered from one terminal, which is the
//! one that users.csv knows, by its cell and its slot: neither the row nor any bucket of the live tables is read. A change
//! costs the writer the place of its user and the rows that have an address which it gives or takes.
//!
//! Marks are never taken back while the image serves: another user of the bucket may have the same. One too many costs a
//! lookup four bytes.
//!
//! # What a cell promises
//!
//! While a cell of a user's row says
//!
//! * [`Over::Nothing`], the live tables have no slot of this user, and no binding to a private address of its rows;
//! * [`Over::Slot`], this slot is the only one of this user, and is a binding or a tombstone of the device that the
//!   user's only row is of: nothing is to be looked for elsewhere;
//! * [`Over::Ask`], anything;
//!
//! and while a user has no mark, what [`Over::Nothing`] says is so.
//!
//! The writer keeps these promises at every moment, by an order: a cell says `Ask`, and its user has a mark, before what
//! another cell would promise ceases to hold, and something else after it holds again. So a reader that finds no mark, or
//! loads `Nothing`, may take the rows as they are, as of that moment. One that loads `Slot` reads the slot's words at a
//! version, loads the cell again, and then the version: both unchanged, the words were those of the slot while the cell
//! said so, and what the cell promises is true of them. Else it asks. Of public addresses a cell promises nothing; few
//! rows have one.
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
use crate::sync::{AtomicU16, AtomicU32, MutexGuard, Ordering, fence};
use crate::table::binding::{Bindings, Line};
use crate::table::change::Binding;
use crate::table::image::Image;
use crate::table::memory::{Extent, Zeroed, prefetch};
use crate::table::phf::{Places, bucket};

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

/// The same as it stands in a cell. Memory begins with nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said(u32);

impl Said {
    /// [`Over::Nothing`].
    pub const NOTHING: Self = Self(0);
    /// [`Over::Ask`].
    pub const ASK: Self = Self(u32::MAX);

    /// What it says.
    #[inline(always)]
    pub const fn over(self) -> Over {
        match self {
            Self::NOTHING => Over::Nothing,
            Self::ASK => Over::Ask,
            Self(slot) => Over::Slot(slot - 1),
        }
    }
}

impl From<Over> for Said {
    fn from(over: Over) -> Self {
        match over {
            Over::Nothing => Self::NOTHING,
            Over::Slot(slot) => Self(slot + 1),
            Over::Ask => Self::ASK,
        }
    }
}

/// What the live tables say of the users of one image.
#[derive(Debug)]
pub struct Overlay {
    image: Arc<Image>,
    tag: Tag,
    /// Of each bucket of the image's perfect hash, its pilot, and above it the marks of its users' cells.
    guides: Zeroed<AtomicU16>,
    cells: Zeroed<AtomicU32>,
}

/// Where a lookup of a user leads.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The only place where the user's row can stand.
    pub place: usize,
    /// False only where [`Overlay::at`] says [`Over::Nothing`] of it.
    pub is_marked: bool,
}

/// What leads users to their places, instead of the perfect hash: so that a lookup reads as much as without an overlay
/// where there is nothing to be said.
#[derive(Clone, Copy, Debug)]
pub struct Guide<'a> {
    guides: &'a [AtomicU16],
    places: Places<'a>,
}

impl Guide<'_> {
    /// Starts to bring near what [`Guide::way`] reads.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.guides, self.bucket(hash));
    }

    /// Where a user with this hash leads to.
    #[inline(always)]
    pub fn way(&self, hash: u64) -> Way {
        let bucket = self.bucket(hash);
        let guide = u32::from(self.guides[bucket].load(Ordering::Acquire));
        let place = self.places.place_by(hash, bucket, guide as u8);
        Way { place, is_marked: guide >> mark(hash) & 1 == 1 }
    }

    /// As [`Places::bucket`]: there is a guide for each.
    #[inline(always)]
    fn bucket(&self, hash: u64) -> usize {
        bucket(hash, self.guides.len())
    }
}

/// Which bit of a guide is the mark of the user with this hash: users of a bucket seldom share one.
#[inline(always)]
const fn mark(hash: u64) -> u32 {
    u8::BITS + (hash as u32 & 7)
}

impl Overlay {
    fn new(image: Arc<Image>, tag: Tag) -> Self {
        let bindings = image.arrays().bindings();
        let pilots = bindings.places().pilots();
        let guides = Zeroed::<AtomicU16>::new(pilots.len());
        let filled = guides.iter().zip(pilots);
        filled.for_each(|(guide, pilot)| guide.store(u16::from(*pilot), Ordering::Relaxed));
        let cells = Zeroed::new(image.arrays().users.places());
        Self { image, tag, guides, cells }
    }

    /// Bytes that one takes for an image of so many buckets and places.
    pub const fn bytes_for(buckets: usize, places: usize) -> usize {
        buckets * size_of::<AtomicU16>() + places * size_of::<AtomicU32>()
    }

    /// What leads users to their places; `bindings` are those of the image.
    #[inline(always)]
    pub fn guide<'a>(&'a self, bindings: &Bindings<'a>) -> Guide<'a> {
        Guide { guides: &self.guides, places: *bindings.places() }
    }

    /// What is said of the user whose row stands at this place.
    #[inline(always)]
    pub fn at(&self, place: usize) -> Over {
        self.said(place).over()
    }

    /// The same as its cell has it.
    #[inline(always)]
    pub fn said(&self, place: usize) -> Said {
        self.cells.get(place).map_or(Said::ASK, |cell| Said(cell.load(Ordering::Acquire)))
    }

    /// What [`Overlay::at`] reads of each place.
    #[inline(always)]
    pub fn cells(&self) -> &[impl Sized] {
        &self.cells
    }

    /// Whose gateways are those of its image.
    #[inline(always)]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(self.guides.len(), self.cells.len())
    }

    /// Starts to bring near the rows themselves, when the ways have come.
    fn expect_rows(&self, (user, private): Whose) {
        let arrays = self.image.arrays();
        let bindings = arrays.bindings();
        let place = bindings.place(bindings.hash(user));
        prefetch(&self.cells, place);
        bindings.prefetch_line(place);
        if let Some((realm, private)) = private {
            arrays.prefetch_owners(realm, private);
        }
    }

    /// Starts to bring near what a change of this user would look at.
    pub(super) fn expect(&self, user: PushId) {
        let bindings = self.image.arrays().bindings();
        prefetch(&self.cells, bindings.place(bindings.hash(user)));
    }

    /// Says this of the user with this hash, whose first row stands there. For who holds [`Overlays`].
    fn store(&self, hash: u64, place: usize, over: Over) {
        self.cells[place].store(Said::from(over).0, Ordering::Release);
        if over == Over::Nothing {
            return;
        }
        let guide = &self.guides[self.image.arrays().bindings().places().bucket(hash)];
        let (before, mark) = (guide.load(Ordering::Relaxed), 1 << mark(hash));
        // Who registers again changes none, and no reader need fetch it anew.
        if before & mark == 0 {
            guide.store(before | mark, Ordering::Release);
        }
    }

    /// The user's first row, where it stands, and the hash that led there.
    fn find(&self, user: PushId) -> Option<(&Line, usize, u64)> {
        let bindings = self.image.arrays().bindings();
        let hash = bindings.hash(user);
        let place = bindings.place(hash);
        Some((bindings.at(user, place)?, place, hash))
    }

    /// The words of a binding with its gateway.
    pub(super) fn placed(&self, words: Words, binding: &Binding) -> Words {
        let private = binding.private;
        let gateway = private.and_then(|private| self.image.arrays().gateway(binding.realm, private));
        slot::with_gateway(words, self.tag, gateway)
    }

    /// Says `Ask` of this user, before slots of it come or go.
    pub(super) fn ask(&self, user: PushId) {
        if let Some((_, place, hash)) = self.find(user) {
            self.store(hash, place, Over::Ask);
        }
    }

    /// Says `Ask` of everybody of whom nothing is said and whose row has this address, before somebody gets it.
    pub(super) fn ask_about(&self, address: Address) {
        self.each_owner(address, |user| {
            if let Some((_, place, hash)) = self.find(user)
                && self.at(place) == Over::Nothing
            {
                self.store(hash, place, Over::Ask);
            }
        });
    }

    /// Says what is so of this user, after a change.
    pub(super) fn settle(&self, live: &LiveBindings, user: PushId) {
        let Some((first, place, hash)) = self.find(user) else { return };
        let further = self.image.arrays().bindings().further(first, place);
        let (mut slots, mut only) = (0, None);
        for slot in live.users.candidates(live.hash(user)) {
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
        self.store(hash, place, over);
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

/// Whose rows a slot says something of: a user's, and those that have a private address in a realm.
type Whose = (PushId, Option<(u32, Endpoint)>);

fn whose(line: LiveLine) -> Whose {
    (line.user(), line.private().map(|private| (line.realm(), private)))
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

    /// What it is of, and where that lies.
    pub fn extents(&self) -> [(&'static str, Extent); 2] {
        [("overlay guides", self.overlay.guides.extent()), ("overlay cells", self.overlay.cells.extent())]
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
            let slots = first..touched.min(first + CHUNK);
            let _only = self.overlays();
            // What each looks at is on its way while others are looked at.
            let said: Vec<_> =
                slots.clone().filter_map(|slot| self.read(slot, slot::says)).map(whose).collect();
            said.iter().for_each(|whose| self.expect_ways(*whose, &overlay));
            said.iter().for_each(|whose| overlay.expect_rows(*whose));
            slots.for_each(|slot| self.lay_over_slot(slot, &overlay));
        }
        LaidOver { live: Arc::clone(self), overlay }
    }

    /// Starts to bring near what leads to the slots and rows that such a slot says something of.
    fn expect_ways(&self, (user, private): Whose, overlay: &Overlay) {
        self.prefetch(self.hash(user));
        let arrays = overlay.image.arrays();
        let bindings = arrays.bindings();
        bindings.prefetch(bindings.hash(user));
        if let Some((realm, private)) = private {
            arrays.prefetch_ways(realm, private);
        }
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
