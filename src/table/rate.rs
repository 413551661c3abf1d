//! How much of its rate an application has left: one word that every shard may change.
//!
//! The generic cell rate algorithm (ITU-T I.371): the word is the time at which the next message
//! would be due if all came evenly. Costs an uncontended compare-and-swap a message of an application
//! that has a rate; others cost nothing.

use crate::sync::{AtomicU64, Ordering};

/// One application's rate. Time is monotonic nanoseconds.
#[derive(Debug)]
pub struct Rate {
    due_ns: AtomicU64,
    interval_ns: u64,
}

/// One second: as much as may come at once.
const BURST_NS: u64 = 1_000_000_000;

impl Rate {
    /// So many messages a second, with bursts of as many.
    pub fn per_second(rate: u32) -> Self {
        Self { due_ns: AtomicU64::new(0), interval_ns: (BURST_NS / u64::from(rate.max(1))).max(1) }
    }

    /// Whether one more message may pass now; if so it has.
    pub fn take(&self, now_ns: u64) -> bool {
        let next = |due: u64| {
            let next = due.max(now_ns) + self.interval_ns;
            (next <= now_ns + BURST_NS.max(self.interval_ns)).then_some(next)
        };
        self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Takes over what another rate of the same application has left.
    pub fn continue_from(&self, other: &Self) {
        self.due_ns.store(other.due_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_second_may_come_at_once_and_then_the_rate() {
        let rate = Rate::per_second(5);
        let at = 10_000_000_000;
        assert_eq!((0..20).filter(|_| rate.take(at)).count(), 5);
        assert!(!rate.take(at + 199_999_999));
        assert!(rate.take(at + 200_000_000));
        assert_eq!((0..20).filter(|_| rate.take(at + 60_000_000_000)).count(), 5);
        let slow = Rate::per_second(1);
        assert!(slow.take(at) && !slow.take(at + 999_999_999) && slow.take(at + 1_000_000_000));
    }
}
