//! What the controller must handle: everything rarer than a PUSH goes to it over a bounded ring, one a shard.
//!
//! A ring is allocated when it is made, 1.5 KiB an entry of a shard's; a full one refuses. An entry is taken only
//! after the giver has shown the counters that it is in: so whoever reads the taker's counters first and the giver's
//! then never finds more taken than was handed over.

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::id::Endpoint;
use crate::sync::{AtomicU64, Ordering};

/// The longest message that is punted: one that every network takes (PROTOCOL.md, ruling 32).
pub const PUNT_BYTES_MAX: usize = 1472;

/// A message for the controller.
#[derive(Clone, Debug)]
pub struct Punt {
    /// Who sent it.
    pub from: Endpoint,
    /// Which listening address received it.
    pub listener: u8,
    /// The identifier of the key whose signature was found right.
    pub signed_by: Option<u32>,
    length: u16,
    bytes: [u8; PUNT_BYTES_MAX],
}

impl Punt {
    /// A copy of a datagram; `None` when it is longer than is punted.
    pub fn new(datagram: &[u8], from: Endpoint, listener: u8, signed_by: Option<u32>) -> Option<Self> {
        let mut bytes = [0; PUNT_BYTES_MAX];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self { from, listener, signed_by, length: datagram.len() as u16, bytes })
    }

    /// The datagram.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The way from one thread to the next.
#[derive(Debug)]
pub struct Handoff<T> {
    queue: ArrayQueue<T>,
    /// How many entries were counted where everybody sees it.
    shown: CachePadded<AtomicU64>,
}

impl<T> Handoff<T> {
    /// For so many entries.
    pub fn new(entries: usize) -> Self {
        Self { queue: ArrayQueue::new(entries), shown: CachePadded::new(AtomicU64::new(0)) }
    }

    /// The giver's: hands one over.
    ///
    /// # Errors
    /// The ring is full: gives it back.
    pub fn push(&self, entry: T) -> Result<(), T> {
        self.queue.push(entry)
    }

    /// The giver's: so many were handed over since the beginning, and the counters say so.
    pub fn show(&self, handed_over: u64) {
        self.shown.store(handed_over, Ordering::Release);
    }

    /// The taker's: the next; `taken` counts those that it had.
    pub fn take(&self, taken: &mut u64) -> Option<T> {
        if *taken >= self.shown.load(Ordering::Acquire) {
            return None;
        }
        let entry = self.queue.pop()?;
        *taken += 1;
        Some(entry)
    }
}
