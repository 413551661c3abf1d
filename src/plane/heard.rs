//! Which of the server's listening addresses a client or Push server last wrote to: what it gets leaves
//! from there (PROTOCOL.md, ruling 22), or a NAT in front of it would not let it through.
//!
//! Only asked where a server listens on several addresses. One word an address heard of, 56 bits of a
//! keyed hash and the listening address, direct-mapped: two that share a place are sent to from the first
//! listening address now and then, which is what happens to whoever was never heard of. Costs a word read a
//! datagram, and one written when it changes.

use ahash::RandomState;

use crate::id::Endpoint;
use crate::sync::{AtomicU64, Ordering};

/// Addresses kept apart: × 8 bytes = 512 KiB.
const PLACES: usize = 1 << 16;

/// What a server heard, over all shards.
#[derive(Debug)]
pub(super) struct Heard {
    words: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Heard {
    pub(super) fn new(seed: u64) -> Self {
        let hasher = RandomState::with_seeds(seed, 0x6865_6172, 0x6420_6F66, !seed);
        Self { words: (0..PLACES).map(|_| AtomicU64::new(0)).collect(), hasher }
    }

    fn place(&self, peer: Endpoint) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(peer);
        (&self.words[hash as usize & (PLACES - 1)], hash & !0xFF)
    }

    /// Somebody who was judged right wrote to this listening address.
    pub(super) fn note(&self, peer: Endpoint, listener: u8) {
        let (word, print) = self.place(peer);
        // Places count from 1: a word of zero says nothing.
        let value = print | u64::from(listener.saturating_add(1));
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The listening address that somebody last wrote to.
    pub(super) fn listener(&self, peer: Endpoint) -> Option<u8> {
        let (word, print) = self.place(peer);
        let value = word.load(Ordering::Relaxed);
        (value & !0xFF == print).then(|| (value as u8).checked_sub(1)).flatten()
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_written_to_is_known() {
        let heard = Heard::new(1);
        let peer: Endpoint = "192.0.2.1:2948".parse().unwrap();
        assert_eq!(heard.listener(peer), None);
        heard.note(peer, 0);
        assert_eq!(heard.listener(peer), Some(0));
        heard.note(peer, 3);
        assert_eq!((heard.listener(peer), heard.listener(peer.with_port(1))), (Some(3), None));
    }
}
