//! Every interleaving, within loom's bounds, of the code that shards and the writer share without a
//! lock. Runs with `RUSTFLAGS="--cfg pushplane_loom" cargo test --release --test loom`.
#![cfg(pushplane_loom)]
#![expect(unsafe_code, reason = "shares a cell whose every access loom checks")]

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::Arc;
use loom::thread;
use pushplane::id::PushId;
use pushplane::plane::{ReplayWindow, Seen};
use pushplane::sync::Seqlock;
use pushplane::table::publish::publish;

/// At most this many preemptions in one execution: more find little and take for ever.
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
