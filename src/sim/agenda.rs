//! What happens next, on virtual time.

use std::collections::BTreeMap;

/// Events by the time on the monotonic clock at which they happen; those of one time in the order they came.
#[derive(Debug)]
pub(super) struct Agenda<E> {
    events: BTreeMap<(u64, u64), E>,
    serial: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), serial: 0 }
    }
}

impl<E> Agenda<E> {
    /// Something happens at this time.
    pub(super) fn at(&mut self, at_ns: u64, event: E) {
        self.serial += 1;
        self.events.insert((at_ns, self.serial), event);
    }

    /// The next event before this time, and when it happens.
    pub(super) fn pop_before(&mut self, until_ns: u64) -> Option<(u64, E)> {
        let entry = self.events.first_entry().filter(|entry| entry.key().0 < until_ns)?;
        let at_ns = entry.key().0;
        Some((at_ns, entry.remove()))
    }
}
