//! Publishing: one writer swaps a pointer, readers enter once a burst, and the old value is freed when
//! every reader has left. No lock, no reference count a datagram, no epoch collector.
//!
//! Costs a reader two stores, a fence and a load a burst, whatever the burst's size;
//! the writer, at each look, one load a reader. A reader that stays inside keeps one old value alive
//! and delays nobody.
//!
//! # Why a value is never freed under a reader
//!
//! A reader's slot counts its steps: odd inside, even outside. `enter` makes it odd, then, behind a
//! sequentially consistent fence, loads the pointer. The writer swaps the pointer, then, behind a fence
//! of its own, reads all slots (its snapshot). Take a reader and a swap from A to B; what the snapshot
//! shows of the reader is one of three things:
//!
//! 1. The odd number of a visit that is going on: A stays until the slot shows another number. The
//!    reader leaves with a Release store, the writer looks with an Acquire load: it frees A after all
//!    that the reader did with it.
//! 2. The even number before its next visit: the writer's fence came first in the one order of all such
//!    fences (else the snapshot would show the visit), so the load behind the reader's fence finds B or
//!    later.
//! 3. The odd number of a visit that began after the swap: A is kept longer than needed. Nothing worse.
//!
//! Later steps of the reader only make the number differ from the snapshot, and a reader that has moved
//! on loads the pointer anew: it cannot come back to A. Numbers do not wrap: 2^64 bursts. `tests/loom.rs`
//! tries the interleavings.
//!
//! The same three cases hold for anything else that a writer stored before it took a snapshot: a [`Watch`] tells
//! when every reader that may have seen less has left.

#![expect(unsafe_code, reason = "turns the published pointer into a reference while a reader is inside")]

use std::marker::PhantomData;
use std::ops::Deref;

use crossbeam::utils::CachePadded;

use crate::sync::{Arc, AtomicPtr, AtomicU64, Ordering, fence};

struct Shared<T> {
    current: AtomicPtr<T>,
    /// One a reader: steps in and out.
    slots: Box<[CachePadded<AtomicU64>]>,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the last handle is gone, so no reader is inside; the pointer came from a Box and is
        // owned by `current` alone (a retired value is owned by the writer).
        drop(unsafe { Box::from_raw(self.current.load(Ordering::Acquire)) });
    }
}

/// The writer's side: publishes values and frees old ones.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    retired: Vec<Retired<T>>,
}

/// A value that is published no more. A pointer, not a box: a box would claim it for itself while readers
/// still hold references.
struct Retired<T> {
    value: *mut T,
    snapshot: Vec<u64>,
}

// SAFETY: the pointer is a box's, owned by this value alone but for readers that are inside.
unsafe impl<T: Send + Sync> Send for Retired<T> {}

impl<T> Retired<T> {
    /// Whether a reader that was inside when the value was retired still is.
    fn is_held(&self, slots: &[CachePadded<AtomicU64>]) -> bool {
        let inside = |(slot, seen): (&CachePadded<AtomicU64>, &u64)| {
            seen % 2 == 1 && slot.load(Ordering::Acquire) == *seen
        };
        slots.iter().zip(&self.snapshot).any(inside)
    }

    /// Frees the value if nobody holds it; true when somebody does.
    fn keep(&self, slots: &[CachePadded<AtomicU64>]) -> bool {
        let held = self.is_held(slots);
        if !held {
            // SAFETY: the pointer came from a box, nobody can load it any more and nobody is inside; see
            // the module's proof. The caller forgets it.
            drop(unsafe { Box::from_raw(self.value) });
        }
        held
    }
}

/// One reader's side: belongs to one thread at a time.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    slot: usize,
    steps: u64,
    /// `Send`, not `Sync`: two threads that shared it would share a slot.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

/// Sees when readers have left.
#[derive(Clone)]
pub struct Watch<T> {
    shared: Arc<Shared<T>>,
    seen: Vec<u64>,
}

/// A reader that is inside: the value stays until this is dropped.
pub struct Guard<'a, T> {
    value: &'a T,
    slot: &'a AtomicU64,
    left: u64,
}

/// Publishes a first value to so many readers.
pub fn publish<T: Send + Sync>(first: T, readers: usize) -> (Publisher<T>, Vec<Reader<T>>) {
    let shared = Arc::new(Shared {
        current: AtomicPtr::new(Box::into_raw(Box::new(first))),
        slots: (0..readers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
    });
    let reader = |slot| Reader { shared: Arc::clone(&shared), slot, steps: 0, _not_sync: PhantomData };
    let readers = (0..readers).map(reader).collect();
    (Publisher { shared, retired: Vec::new() }, readers)
}

impl<T: Send + Sync> Publisher<T> {
    /// Makes `value` what every reader sees from its next burst on.
    pub fn publish(&mut self, value: T) {
        let new = Box::into_raw(Box::new(value));
        let old = self.shared.current.swap(new, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let snapshot = self.shared.slots.iter().map(|slot| slot.load(Ordering::Acquire)).collect();
        self.retired.push(Retired { value: old, snapshot });
        self.reclaim();
    }

    /// Frees what every reader has left; returns how many values still wait.
    pub fn reclaim(&mut self) -> usize {
        let slots = &self.shared.slots;
        self.retired.retain(|retired| retired.keep(slots));
        self.retired.len()
    }

    /// Who sees when readers have left.
    pub fn watch(&self) -> Watch<T> {
        Watch { shared: Arc::clone(&self.shared), seen: Vec::new() }
    }

    /// The value that is published now.
    pub fn current(&self) -> &T {
        // SAFETY: only `publish`, which needs `&mut self`, can retire it.
        unsafe { &*self.shared.current.load(Ordering::Acquire) }
    }
}

impl<T> Watch<T> {
    /// From now on [`Watch::have_left`] is about the visits that are going on now. What this thread stored before,
    /// every later visit sees.
    pub fn begin(&mut self) {
        fence(Ordering::SeqCst);
        self.seen.clear();
        self.seen.extend(self.shared.slots.iter().map(|slot| slot.load(Ordering::Acquire)));
    }

    /// Whether those visits have ended, but for that of `own`, the caller's reader; what the readers did in them has
    /// been done.
    pub fn have_left(&self, own: &Guard<'_, T>) -> bool {
        let inside = |(slot, seen): (&CachePadded<AtomicU64>, &u64)| {
            seen % 2 == 1 && !std::ptr::eq(&**slot, own.slot) && slot.load(Ordering::Acquire) == *seen
        };
        !self.shared.slots.iter().zip(&self.seen).any(inside)
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        // What a reader is still inside of is leaked: nobody would wait for it any more.
        let slots = &self.shared.slots;
        self.retired.retain(|retired| retired.keep(slots));
    }
}

impl<T: Send + Sync> Reader<T> {
    /// Enters: the value seen now stays as long as the guard.
    #[inline]
    pub fn enter(&mut self) -> Guard<'_, T> {
        let slot = &*self.shared.slots[self.slot];
        slot.store(self.steps + 1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let value = self.shared.current.load(Ordering::Acquire);
        self.steps += 2;
        // SAFETY: the slot is odd since before the load; see the module's proof.
        Guard { value: unsafe { &*value }, slot, left: self.steps }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.slot.store(self.left, Ordering::Release);
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    struct Counted(u64, Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0 = u64::MAX;
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_value_lives_until_its_last_reader_has_left() {
        let alive = Arc::new(AtomicUsize::new(0));
        let value = |n| {
            alive.fetch_add(1, Ordering::SeqCst);
            Counted(n, alive.clone())
        };
        let (mut publisher, mut readers) = publish(value(1), 2);
        let mut second = readers.pop().unwrap();
        let mut first = readers.pop().unwrap();
        let inside = first.enter();
        publisher.publish(value(2));
        assert_eq!((inside.0, second.enter().0), (1, 2));
        assert_eq!((publisher.reclaim(), alive.load(Ordering::SeqCst)), (1, 2));
        drop(inside);
        assert_eq!((publisher.reclaim(), alive.load(Ordering::SeqCst)), (0, 1));
        publisher.publish(value(3));
        assert_eq!((first.enter().0, alive.load(Ordering::SeqCst)), (3, 1));
        drop((publisher, first, second));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_watch_sees_visits_end() {
        let (publisher, mut readers) = publish(1, 2);
        let mut own = readers.pop().unwrap();
        let mut other = readers.pop().unwrap();
        let mut watch = publisher.watch();
        let own = own.enter();
        watch.begin();
        assert!(watch.have_left(&own), "nobody else is inside");
        let visit = other.enter();
        assert!(watch.have_left(&own), "that began later");
        watch.begin();
        assert!(!watch.have_left(&own));
        drop(visit);
        assert!(watch.have_left(&own));
        let _visit = other.enter();
        assert!(watch.have_left(&own), "another visit");
    }

    /// Two threads read while the writer publishes: nobody ever sees a freed value.
    #[test]
    fn readers_never_see_a_freed_value() {
        let alive = Arc::new(AtomicUsize::new(1));
        let (mut publisher, readers) = publish(Counted(0, alive.clone()), 2);
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let value = reader.enter().0;
                        assert!(value != u64::MAX && value >= last);
                        last = value;
                    }
                })
            })
            .collect();
        for n in 1..20_000 {
            alive.fetch_add(1, Ordering::SeqCst);
            publisher.publish(Counted(n, alive.clone()));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(publisher.reclaim(), 0);
        drop(publisher);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}
