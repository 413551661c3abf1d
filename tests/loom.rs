//! Every interleaving, within loom's bounds, of the code that shards and the writer share without a
//! lock. Runs with `RUSTFLAGS="--cfg pushplane_loom" cargo test --release --test loom`.
#![cfg(pushplane_loom)]
#![expect(unsafe_code, reason = "shares a cell whose every access loom checks")]

#[path = "loom/live.rs"]
mod live;
#[path = "loom/overlay.rs"]
mod overlay;

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;
use pushplane::id::PushId;
use pushplane::plane::{ReplayWindow, Seen};
use pushplane::sync::Seqlock;
use pushplane::table::live::SlotIndex;
use pushplane::table::publish::publish;

/// At most this many preemptions in one execution: more find little and take for ever. A writer whose stores begin with a
/// load of the same word must be the thread that begins: see `loom/live.rs`.
fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(check);
}

/// A value that says that it was freed.
struct Value(loom::cell::UnsafeCell<u32>, std::sync::Arc<AtomicUsize>);

// SAFETY: loom's cell panics when two threads touch it at once and one of them for writing, which is
// what the model is to find out.
unsafe impl Sync for Value {}

impl Value {
    fn new(n: u32, alive: &std::sync::Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self(loom::cell::UnsafeCell::new(n), std::sync::Arc::clone(alive))
    }

    /// loom fails the model when this races with `drop`.
    fn read(&self) -> u32 {
        self.0.with(|value| {
            assert!(!value.is_null());
            value as usize as u32
        })
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // An exclusive access: loom fails the model when a reader is inside.
        self.0.with_mut(|_| {});
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn publish_frees_nothing_under_a_reader() {
    model(|| {
        let alive = std::sync::Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = publish(Value::new(1, &alive), 1);
        let mut reader = readers.pop().unwrap();
        let thread = thread::spawn(move || {
            reader.enter().read();
            reader.enter().read();
        });
        publisher.publish(Value::new(2, &alive));
        publisher.reclaim();
        publisher.publish(Value::new(3, &alive));
        publisher.reclaim();
        thread.join().unwrap();
        assert_eq!(publisher.reclaim(), 0);
        assert_eq!(alive.load(Ordering::SeqCst), 1);
    });
}

/// A writer changes something beside the published value and waits until every visit has ended that may have seen
/// what was there before: from then on nobody works on that.
#[test]
fn a_change_beside_the_value_is_seen_by_every_later_visit() {
    model(|| {
        let alive = std::sync::Arc::new(AtomicUsize::new(0));
        let (publisher, mut readers) = publish((), 2);
        let (mut own, mut reader) = (readers.pop().unwrap(), readers.pop().unwrap());
        let mut watch = publisher.watch();
        let held = Arc::new((Seqlock::<1>::default(), Value::new(1, &alive)));
        let seen = Arc::clone(&held);
        let thread = thread::spawn(move || {
            let visit = reader.enter();
            if seen.0.try_read() == Some([0]) {
                seen.1.read();
            }
            drop(visit);
        });
        let own = own.enter();
        held.0.write(&[1]);
        watch.begin();
        if watch.have_left(&own) {
            // An exclusive access: loom fails the model when the reader may still be at work on it.
            held.1.0.with_mut(|_| {});
        }
        thread.join().unwrap();
    });
}

#[test]
fn words_are_read_of_one_moment() {
    model(|| {
        let lock = Arc::new(Seqlock::<2>::default());
        let writer = Arc::clone(&lock);
        let thread = thread::spawn(move || {
            writer.write(&[1, 1]);
            writer.write(&[2, 2]);
        });
        // A bounded look: a reader that spins for a writer that loom holds back would never end.
        if let Some([a, b]) = lock.try_read() {
            assert_eq!(a, b);
        }
        thread.join().unwrap();
        assert_eq!(lock.try_read(), Some([2, 2]));
    });
}

/// The index of the live tables: an entry that is there is found, whatever comes and goes in its bucket and
/// spills out of it.
#[test]
fn an_entry_that_is_there_is_found() {
    model(|| {
        let index = Arc::new(SlotIndex::new(2));
        // One bucket's home for all: the second entry spills, the third goes farther.
        index.insert(1, 10);
        index.insert(1, 11);
        let reader = Arc::clone(&index);
        let thread = thread::spawn(move || assert_eq!(reader.find(1, |slot| slot == 11), Some(11)));
        index.remove(1, 10);
        index.insert(1, 12);
        thread.join().unwrap();
        let mut all = Vec::new();
        index.find(1, |slot| {
            all.push(slot);
            false
        });
        all.sort_unstable();
        assert_eq!(all, [11, 12]);
    });
}

/// An entry is two words: who sees the tag sees its slot, or that of the entry that took its place.
#[test]
fn an_entry_leads_to_a_slot_that_was_its() {
    model(|| {
        let index = Arc::new(SlotIndex::new(2));
        let reader = Arc::clone(&index);
        let thread = thread::spawn(move || {
            reader.find(1, |slot| {
                assert!(slot == 7 || slot == 9, "slot {slot}");
                false
            });
        });
        index.insert(1, 7);
        index.remove(1, 7);
        index.insert(1, 9);
        thread.join().unwrap();
        assert_eq!(index.find(1, |_| true), Some(9));
    });
}

/// How an address passes from one slot of the live tables to another: who sees it in the first, then looks into
/// the second and finds the first unchanged, does not see it there too.
#[test]
fn an_address_is_never_in_two_slots() {
    model(|| {
        let first = Arc::new(Seqlock::<1>::default());
        let second = Arc::new(Seqlock::<1>::default());
        first.write(&[7]);
        let (from, to) = (Arc::clone(&first), Arc::clone(&second));
        let thread = thread::spawn(move || {
            from.write(&[0]);
            to.write(&[7]);
        });
        if let Some((version, [held])) = first.try_read_at()
            && let Some([other]) = second.try_read()
            && first.is_at(version)
        {
            assert!(!(held == 7 && other == 7));
        }
        thread.join().unwrap();
    });
}

/// The same address as a row of users.csv has it too: while it passes between two slots, whoever finds it in neither sees
/// that it was being handed over, and looks again.
#[test]
fn an_address_that_passes_on_is_never_nobodys() {
    model(|| {
        let slots: Arc<[Seqlock<1>; 2]> = Arc::default();
        let version = Arc::new(AtomicU64::new(0));
        slots[0].write(&[7]);
        let (writers, hand_over) = (Arc::clone(&slots), Arc::clone(&version));
        let thread = thread::spawn(move || {
            hand_over.store(1, Ordering::Relaxed);
            fence(Ordering::Release);
            writers[0].write(&[0]);
            writers[1].write(&[7]);
            hand_over.store(2, Ordering::Release);
        });
        let before = version.load(Ordering::Acquire);
        // The new owner's first: so both can be missed.
        if let (Some([new]), Some([old])) = (slots[1].try_read(), slots[0].try_read()) {
            fence(Ordering::Acquire);
            let is_settled = before % 2 == 0 && version.load(Ordering::Relaxed) == before;
            assert!(new == 7 || old == 7 || !is_settled);
        }
        thread.join().unwrap();
    });
}

/// A binding with an extension: the second slot is filled before the first names it and reused only after the
/// first names another.
#[test]
fn a_binding_and_its_extension_belong_together() {
    model(|| {
        let line = Arc::new(Seqlock::<1>::default());
        let more: Arc<[Seqlock<1>; 2]> = Arc::default();
        // The extension's number, and what it must hold, are one word: 0 holds 5.
        more[0].write(&[5]);
        line.write(&[5 << 8]);
        let (own, extensions) = (Arc::clone(&line), Arc::clone(&more));
        let thread = thread::spawn(move || {
            extensions[1].write(&[6]);
            own.write(&[6 << 8 | 1]);
            // Freed, and another's.
            extensions[0].write(&[9]);
        });
        if let Some((version, [word])) = line.try_read_at()
            && let Some([held]) = more[(word & 1) as usize].try_read()
            && line.is_at(version)
        {
            assert_eq!(held, word >> 8);
        }
        thread.join().unwrap();
    });
}

#[test]
fn one_message_is_accepted_at_most_once() {
    model(|| {
        let window = Arc::new(ReplayWindow::new(1, 7));
        let check = |window: &ReplayWindow| window.check(1, PushId(2), PushId(3), 4, 5_000_000_000);
        let other = Arc::clone(&window);
        let thread = thread::spawn(move || check(&other));
        let firsts = [check(&window), thread.join().unwrap()].into_iter().filter(|seen| *seen == Seen::First);
        assert!(firsts.count() <= 1);
    });
}
