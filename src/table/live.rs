//! What terminals changed: bindings that were registered, devices that were released, Push IDs that are lent.
//! Goes before the users of the image, is written by the controller alone and read by every shard without a lock.
//!
//! # Costs
//!
//! A slot of one cache line a binding, a tombstone or a lent Push ID (two for a public IPv6 address or an IMSI
//! beside an IPv6 address); 9.2 bytes a slot in the index of users and 18.3 in that of addresses: 92 bytes a slot
//! in all, taken from the system as it is touched. A look for a user reads one bucket and one line a terminal, a
//! look for the owner of an address as many; an [`overlay`] spares most of them. A change writes one line and up to four
//! index entries; nobody waits for it, but that a reader of the very slot repeats its eight loads.
//!
//! They never grow: slots are as many as `limits.bindings` asked for, and who finds none is refused ([`Full`]), so no reader
//! ever meets a table that is being moved.
//!
//! # What a reader can see
//!
//! A slot is a [`Seqlock`]: its words are of one moment. An index entry only hints; what it leads to is believed
//! when the slot's words say it. For a binding with an extension the reader looks at the version of the first slot
//! once more after it read the second: the writer fills an extension before the slot that names it, and frees it
//! after, so an unchanged version means that both belong together.
//!
//! *Nothing that is there is missed.* Entries never move. An entry is added before the slot's words say what it
//! is for, and removed after they have ceased to; a re-registration rewrites the slot where it is. So whoever looks
//! while a binding is there, from before the look to after it, finds an entry and, behind it, the words.
//!
//! *No half entry.* Take a reader that follows an entry to slot S, whose words change from A to B meanwhile. It
//! reads A, or B, or repeats. If S was freed and given to somebody else, B names another user or another address
//! than was looked for, and is passed over.
//!
//! *No former owner.* An address passes from user U to user V in this order: U's slot becomes a tombstone, then
//! V's words are written. Take a reader that resolves a message for U:
//!
//! 1. It reads U's slot before the tombstone: the address was U's at that moment. V has not been answered, and is not
//!    before the reader's burst has left ([`super::publish::Watch`]).
//! 2. It reads the tombstone: nothing leads to the address.
//! 3. It found U in users.csv, not here: [`LiveBindings::owner`] says whose the address is, V's from the moment of
//!    V's words on. Where it passes from W to V, both here, nobody's slot has it for a moment, and a look that began
//!    before may see neither: so the writer counts up a version of the address before W's tombstone and after V's words,
//!    and a look that found nobody is repeated when the version was odd or has changed. The versions are few, shared by
//!    hash, and written for nothing else: in a reader's cache they stay.
//!
//! At no moment do two slots of different users hold one address: `no_address_has_two_owners` below tries it, and
//! `tests/loom.rs` every interleaving of a small one.

mod index;
pub mod overlay;
mod slot;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::utils::CachePadded;
pub use index::{Hint, SlotIndex};
use overlay::{Overlay, Overlays};
use slot::Words;
pub use slot::{Live, LiveLine, Of, Tag};

use super::binding::{hash, owner_key};
use super::change::{Binding, Change};
use super::memory::{Extent, Zeroed, prefetch};
use crate::id::{Endpoint, PushId};
use crate::sync::{AtomicU64, Mutex, Ordering, Seqlock, fence, spin_loop};

/// How many changes before its own a change's part of the indexes is asked for: some hundred nanoseconds.
const AHEAD: usize = 8;

type Slot = Seqlock<{ slot::WORDS }>;

const _: () = assert!(size_of::<Slot>() == 64 || cfg!(pushplane_loom));

/// Versions of addresses that pass from user to user.
const HAND_OVERS: usize = u64::BITS as usize;

/// The live tables: readers' side.
#[derive(Debug)]
pub struct LiveBindings {
    slots: Zeroed<Slot>,
    users: SlotIndex,
    /// By (realm, private address) and by public address and port.
    addresses: SlotIndex,
    seed: u64,
    /// By the hash of an address: odd while one passes from a user to another. Readers look here, so nothing else that
    /// is written may be near.
    hand_overs: CachePadded<[AtomicU64; HAND_OVERS]>,
    /// What is to be kept true of the images that readers may have.
    overlays: Mutex<Overlays>,
    /// Slots that say something of a user.
    used: CachePadded<AtomicU64>,
    /// Bindings among them.
    bound: AtomicU64,
    /// Slots that were ever used: the first ones.
    touched: AtomicU64,
    /// 1 once the writer was handed out.
    written: AtomicU64,
}

/// The live tables: the one writer.
#[derive(Debug)]
pub struct LiveWriter {
    live: Arc<LiveBindings>,
    /// Slots that were freed, the longest free first.
    free: VecDeque<u32>,
    /// Addresses that a change took from somebody, until the overlays know.
    lost: Vec<Address>,
}

/// A change needs more slots than are left; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the live table is full; raise limits.bindings")
    }
}

impl std::error::Error for Full {}

/// What a binding is found by in an index of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Address {
    /// A private address, whatever the port.
    Private(u32, [u8; 16]),
    /// A public address and port.
    Public(Endpoint),
}

impl Address {
    const fn private(realm: u32, endpoint: Endpoint) -> Self {
        Self::Private(realm, endpoint.octets())
    }

    /// Of 64 even bits.
    pub fn hash(self, seed: u64) -> u64 {
        match self {
            Self::Private(realm, octets) => hash(owner_key(realm, octets), !seed),
            Self::Public(at) => {
                hash(u128::from_be_bytes(at.octets()) ^ u128::from(at.port()) << 64, seed ^ 1)
            }
        }
    }

    fn is_of(self, line: &LiveLine) -> bool {
        match self {
            Self::Private(realm, octets) => {
                line.realm() == realm && line.private().is_some_and(|own| own.octets() == octets)
            }
            Self::Public(at) => line.nat() == Some(at),
        }
    }
}

/// The addresses that belong to a binding's user while it holds.
pub fn addresses(binding: &Binding) -> impl Iterator<Item = Address> + use<> {
    let private = binding.private.map(|private| Address::private(binding.realm, private));
    private.into_iter().chain(binding.nat.map(Address::Public))
}

/// Whether a binding holds at this time.
pub fn is_live(binding: &Binding, now_ms: u64) -> bool {
    binding.valid_until_ms.is_none_or(|until| now_ms < until)
}

impl LiveBindings {
    /// Empty tables of so many slots. Hashes follow from the seed.
    pub fn new(slots: usize, seed: u64) -> Self {
        Self {
            slots: Zeroed::new(slots),
            users: SlotIndex::new(slots),
            addresses: SlotIndex::new(slots * 2),
            seed,
            hand_overs: CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0))),
            overlays: Mutex::new(Overlays::default()),
            used: CachePadded::new(AtomicU64::new(0)),
            bound: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// The writer, for who asks first.
    pub fn writer(self: &Arc<Self>) -> Option<LiveWriter> {
        let first = self.written.fetch_add(1, Ordering::AcqRel) == 0;
        first.then(|| LiveWriter { live: Arc::clone(self), free: VecDeque::new(), lost: Vec::new() })
    }

    /// Whether nothing is known here: then nobody need look.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.used.load(Ordering::Acquire) == 0
    }

    /// How many bindings there are, those included whose validity has ended and that were not cleared yet.
    pub fn len(&self) -> usize {
        self.bound.load(Ordering::Acquire) as usize
    }

    /// How many slots say something: bindings, tombstones, lent Push IDs.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire) as usize
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// What they consist of, and where that lies.
    pub fn extents(&self) -> [(&'static str, Extent); 3] {
        [
            ("live slots", self.slots.extent()),
            ("live users", self.users.extent()),
            ("live addresses", self.addresses.extent()),
        ]
    }

    /// What users are found by.
    #[inline(always)]
    pub fn hash(&self, user: PushId) -> u64 {
        hash(user.0, self.seed)
    }

    /// Starts to bring the index bucket of this hash near.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.users.prefetch(hash);
    }

    /// The second step of a look, when the bucket has come: what there may be of this hash. The first line of it is
    /// on its way.
    #[inline(always)]
    pub fn hint(&self, hash: u64) -> Hint {
        let hint = self.users.hint(hash);
        match hint {
            Hint::One(slot) => prefetch(&self.slots, slot as usize),
            Hint::Several => {
                self.users.find(hash, |slot| {
                    prefetch(&self.slots, slot);
                    true
                });
            }
            Hint::None | Hint::Unknown => {}
        }
        hint
    }

    /// What the owner of a private address is found by.
    #[inline(always)]
    pub fn owner_hash(&self, realm: u32, private: Endpoint) -> u64 {
        Address::private(realm, private).hash(self.seed)
    }

    /// Starts to bring the index bucket near that knows the owner of an address with this hash.
    #[inline(always)]
    pub fn prefetch_owner(&self, hash: u64) {
        self.addresses.prefetch(hash);
    }

    /// False only where nobody here has an address with this hash.
    #[inline(always)]
    pub fn may_be_owned(&self, hash: u64) -> bool {
        self.settled(hash, || self.addresses.may_have(hash).then_some(())).is_some()
    }

    /// What a look for the address with this hash finds; that nothing is there, only if it was nobody's at some moment
    /// of the look.
    #[inline(always)]
    fn settled<T>(&self, hash: u64, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let hand_over = &self.hand_overs[hash as usize % HAND_OVERS];
        loop {
            let before = hand_over.load(Ordering::Acquire);
            if let Some(found) = look() {
                return Some(found);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && hand_over.load(Ordering::Relaxed) == before {
                return None;
            }
            spin_loop();
        }
    }

    /// What a slot says, of one moment, if it says something that `wanted` is true of.
    #[inline(always)]
    fn read(&self, slot: usize, wanted: impl Fn(&Words) -> bool) -> Option<LiveLine> {
        let lock = self.slots.get(slot)?;
        loop {
            let (version, words) = lock.read_at();
            if !wanted(&words) {
                return None;
            }
            let Some(more) = slot::extension_of(&words) else { return Some(LiveLine::new(words, None)) };
            let more = self.slots.get(more)?.read();
            if lock.is_at(version) {
                return Some(LiveLine::new(words, Some(&more)));
            }
        }
    }

    /// Everything that is known of a user whose hash this is. A hint that was got while the same burst was worked
    /// on may be used: what came since is not answered before the burst has left.
    #[inline(always)]
    pub fn lines(&self, user: PushId, hash: u64, hint: Hint, mut each: impl FnMut(&LiveLine)) {
        let mut look = |slot| {
            if let Some(line) = self.read(slot, |words| slot::is_of(words, user)) {
                each(&line);
            }
            false
        };
        match hint {
            Hint::None => {}
            Hint::One(slot) => drop(look(slot as usize)),
            Hint::Several | Hint::Unknown => drop(self.users.find(hash, look)),
        }
    }

    /// As [`LiveBindings::lines`], read to the end.
    pub fn find(&self, user: PushId, hash: u64, mut each: impl FnMut(Live)) {
        self.lines(user, hash, Hint::Unknown, |line| each(line.decode()));
    }

    /// Whom a lent Push ID leads to at this time, and to which device (0: all).
    pub fn alias(&self, lent: PushId, now_ms: u64) -> Option<(PushId, u8)> {
        let mut found = None;
        self.find(lent, self.hash(lent), |live| {
            if let Live::Lent { user, device, until_ms } = live
                && now_ms < until_ms
            {
                found = Some((user, device));
            }
        });
        found
    }

    fn holder(&self, address: Address, now_ms: u64) -> Option<(PushId, u8)> {
        let hash = address.hash(self.seed);
        self.settled(hash, || {
            self.addresses.candidates(hash).find_map(|slot| {
                let line = self.read(slot, slot::is_bound)?;
                (address.is_of(&line) && line.is_live(now_ms)).then(|| (line.user(), line.device()))
            })
        })
    }

    /// Whose terminal has this private address at this time, whatever the port.
    pub fn owner(&self, realm: u32, private: Endpoint, now_ms: u64) -> Option<(PushId, u8)> {
        self.holder(Address::private(realm, private), now_ms)
    }

    /// Whose terminal has this public address and port at this time.
    pub fn public_owner(&self, public: Endpoint, now_ms: u64) -> Option<(PushId, u8)> {
        self.holder(Address::Public(public), now_ms)
    }
}

impl LiveWriter {
    /// What the readers see.
    pub fn live(&self) -> &Arc<LiveBindings> {
        &self.live
    }

    /// How many slots are left.
    pub fn room(&self) -> usize {
        self.free.len() + (self.live.slots.len() - self.touched() as usize)
    }

    fn take(&mut self) -> Result<u32, Full> {
        // Those that were freed first: a fresh one touches memory.
        if let Some(slot) = self.free.pop_front() {
            return Ok(slot);
        }
        let fresh = self.touched();
        if fresh as usize >= self.live.slots.len() {
            return Err(Full);
        }
        self.live.touched.store(u64::from(fresh) + 1, Ordering::Release);
        Ok(fresh)
    }

    fn touched(&self) -> u32 {
        self.live.touched.load(Ordering::Relaxed) as u32
    }

    fn write(&self, slot: u32, words: &Words) {
        self.live.slots[slot as usize].write(words);
    }

    fn words(&self, slot: u32) -> Words {
        self.live.slots[slot as usize].read()
    }

    fn count(&self, counter: &AtomicU64, more: bool) {
        let before = counter.load(Ordering::Relaxed);
        counter.store(if more { before + 1 } else { before - 1 }, Ordering::Release);
    }

    /// The slot whose content this is true of.
    fn slot_of(&self, user: PushId, is: impl Fn(&LiveLine) -> bool) -> Option<u32> {
        let live = &self.live;
        let same = |slot| live.read(slot, |words| slot::is_of(words, user)).is_some_and(|line| is(&line));
        live.users.find(live.hash(user), same).map(|slot| slot as u32)
    }

    fn device_slot(&self, user: PushId, device: u8) -> Option<u32> {
        self.slot_of(user, |line| line.of() != Of::Lent && line.device() == device)
    }

    fn binding(&self, slot: u32) -> Option<Binding> {
        match self.live.read(slot as usize, slot::is_bound)?.decode() {
            Live::Bound(binding) => Some(binding),
            _ => None,
        }
    }

    /// Makes a change; what no reader of these tables sees changes nothing.
    ///
    /// # Errors
    /// When there is no room for it: then nothing is changed.
    pub fn apply(&mut self, change: &Change) -> Result<(), Full> {
        let live = Arc::clone(&self.live);
        self.make(change, &live.overlays().all)
    }

    fn make(&mut self, change: &Change, over: &[Arc<Overlay>]) -> Result<(), Full> {
        match change {
            Change::Bind { binding, .. } | Change::Assign { binding, .. } => self.bind(binding, over),
            Change::End { user, device, .. } => self.end(*user, *device, over),
            Change::Forget { user, device } => {
                if let Some(slot) = self.device_slot(*user, *device) {
                    self.forget(*user, slot, over);
                }
                Ok(())
            }
            Change::Lend { lent, user, device, until_ms } => {
                self.lend(*lent, *user, *device, *until_ms, over)
            }
            Change::Unlend { lent } => {
                if let Some(slot) = self.slot_of(*lent, |line| line.of() == Of::Lent) {
                    self.forget(*lent, slot, over);
                }
                Ok(())
            }
            Change::Found { .. }
            | Change::Join { .. }
            | Change::Leave { .. }
            | Change::Disband { .. }
            | Change::Released { .. }
            | Change::Attach(_)
            | Change::Detach { .. }
            | Change::Owe(_)
            | Change::Settle(_) => Ok(()),
        }
    }

    /// Makes changes in their order, what they look at fetched ahead.
    ///
    /// # Errors
    /// When there is no room for one of them: then it is left out.
    pub fn apply_all(&mut self, changes: &[Change]) -> Result<(), Full> {
        let live = Arc::clone(&self.live);
        let over = &live.overlays().all;
        let mut result = Ok(());
        for (at, change) in changes.iter().enumerate() {
            if let Some(Change::Bind { binding, .. }) = changes.get(at + AHEAD) {
                live.prefetch(live.hash(binding.user));
                for address in addresses(binding) {
                    live.addresses.prefetch(address.hash(live.seed));
                }
                over.iter().for_each(|overlay| overlay.expect(binding.user));
            }
            result = result.and(self.make(change, over));
        }
        result
    }

    fn bind(&mut self, binding: &Binding, over: &[Arc<Overlay>]) -> Result<(), Full> {
        let there = self.device_slot(binding.user, binding.device);
        let extended = slot::is_extended(binding);
        if self.room() < usize::from(there.is_none()) + usize::from(extended) {
            return Err(Full);
        }
        let slot = there.map_or_else(|| self.take(), Ok)?;
        let extension = if extended { Some(self.take()?) } else { None };
        let (before, old) = (self.binding(slot), slot::extension_of(&self.words(slot)));
        let has = |binding: &Option<Binding>, address| {
            binding.is_some_and(|own| addresses(&own).any(|at| at == address))
        };
        // What the overlays say of it will not hold …
        if there.is_none() {
            over.iter().for_each(|overlay| overlay.ask(binding.user));
        }
        for address in addresses(binding).filter(|address| !has(&before, *address)) {
            over.iter().for_each(|overlay| overlay.ask_about(address));
        }
        // … then nobody else has the address any more …
        let mut passing = 0;
        for address in addresses(binding) {
            self.take_from_others(address, binding.user, &mut passing);
        }
        // … then the entries lead to the slot, and then it says so.
        if let Some(extension) = extension {
            self.write(extension, &slot::extension(binding));
        }
        for address in addresses(binding).filter(|address| !has(&before, *address)) {
            self.live.addresses.insert(address.hash(self.live.seed), slot);
        }
        if there.is_none() {
            self.live.users.insert(self.live.hash(binding.user), slot);
            self.count(&self.live.used, true);
        }
        if before.is_none() {
            self.count(&self.live.bound, true);
        }
        let words = slot::bound(binding, extension);
        self.write(slot, &over.last().map_or(words, |newest| newest.placed(words, binding)));
        self.passed(passing);
        for address in before.iter().flat_map(addresses).filter(|address| !has(&Some(*binding), *address)) {
            self.live.addresses.remove(address.hash(self.live.seed), slot);
            self.lost.push(address);
        }
        self.release_extension(old);
        self.settle(there.is_none().then_some(binding.user), over);
        Ok(())
    }

    /// Tells the overlays what is so after a change: of a user whose slots came or went, and of the addresses that it
    /// took from somebody.
    fn settle(&mut self, user: Option<PushId>, over: &[Arc<Overlay>]) {
        for overlay in over {
            user.into_iter().for_each(|user| overlay.settle(&self.live, user));
            self.lost.iter().for_each(|address| overlay.settle_about(&self.live, *address));
        }
        self.lost.clear();
    }

    /// Ends every binding of other users to this address; in `passing` are the versions that are odd then.
    fn take_from_others(&mut self, address: Address, user: PushId, passing: &mut u64) {
        let live = Arc::clone(&self.live);
        let version = address.hash(live.seed) as usize % HAND_OVERS;
        let is_others = |slot| {
            let line = live.read(slot, slot::is_bound);
            line.is_some_and(|line| line.user() != user && address.is_of(&line))
        };
        while let Some(slot) = live.addresses.find(address.hash(live.seed), is_others) {
            let Some(binding) = self.binding(slot as u32) else { return };
            if *passing >> version & 1 == 0 {
                *passing |= 1 << version;
                let before = live.hand_overs[version].load(Ordering::Relaxed);
                live.hand_overs[version].store(before + 1, Ordering::Relaxed);
                fence(Ordering::Release);
            }
            self.bury(slot as u32, &binding);
        }
    }

    /// These versions are even again: who looks from now on finds the new owners.
    fn passed(&self, passing: u64) {
        let mut rest = passing;
        while rest != 0 {
            let version = &self.live.hand_overs[rest.trailing_zeros() as usize];
            version.store(version.load(Ordering::Relaxed) + 1, Ordering::Release);
            rest &= rest - 1;
        }
    }

    /// Makes a tombstone of a binding.
    fn bury(&mut self, slot: u32, binding: &Binding) {
        let old = slot::extension_of(&self.words(slot));
        self.write(slot, &slot::ended(binding.user, binding.device));
        for address in addresses(binding) {
            self.live.addresses.remove(address.hash(self.live.seed), slot);
            self.lost.push(address);
        }
        self.release_extension(old);
        self.count(&self.live.bound, false);
    }

    fn release_extension(&mut self, slot: Option<usize>) {
        if let Some(slot) = slot {
            self.write(slot as u32, &slot::FREE);
            self.free.push_back(slot as u32);
        }
    }

    fn end(&mut self, user: PushId, device: u8, over: &[Arc<Overlay>]) -> Result<(), Full> {
        let Some(slot) = self.device_slot(user, device) else {
            return self.put(user, &slot::ended(user, device), over);
        };
        if let Some(binding) = self.binding(slot) {
            self.bury(slot, &binding);
        }
        self.settle(None, over);
        Ok(())
    }

    fn lend(
        &mut self,
        lent: PushId,
        user: PushId,
        device: u8,
        until_ms: u64,
        over: &[Arc<Overlay>],
    ) -> Result<(), Full> {
        let words = slot::lent(lent, user, device, until_ms);
        match self.slot_of(lent, |line| line.of() == Of::Lent) {
            Some(slot) => self.write(slot, &words),
            None => self.put(lent, &words, over)?,
        }
        Ok(())
    }

    /// Writes a slot of its own.
    fn put(&mut self, user: PushId, words: &Words, over: &[Arc<Overlay>]) -> Result<(), Full> {
        let slot = self.take()?;
        over.iter().for_each(|overlay| overlay.ask(user));
        self.live.users.insert(self.live.hash(user), slot);
        self.write(slot, words);
        self.count(&self.live.used, true);
        self.settle(Some(user), over);
        Ok(())
    }

    fn forget(&mut self, user: PushId, slot: u32, over: &[Arc<Overlay>]) {
        over.iter().for_each(|overlay| overlay.ask(user));
        if let Some(binding) = self.binding(slot) {
            self.bury(slot, &binding);
        }
        self.write(slot, &slot::FREE);
        self.live.users.remove(self.live.hash(user), slot);
        self.free.push_back(slot);
        self.count(&self.live.used, false);
        self.settle(Some(user), over);
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests;
