//! Requests that were seen: their sender repeats them, byte by byte, until it is answered (RFC 5080 §2.2.2).

use std::collections::HashMap;

use ahash::RandomState;

use crate::clock::Now;
use crate::control::timer::tick;
use crate::id::Endpoint;

/// How long a request is remembered at least: longer than any client repeats one.
const REMEMBER_MS: u64 = 30_000;

/// Requests remembered at least, 40 bytes each, twice.
const REMEMBER_MAX: usize = 1 << 16;

/// What a request is told by: who sent it, and its identifier.
pub(super) type Key = (Endpoint, u8);

/// What became of a request that is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repeated {
    /// It is being worked on.
    UnderWay,
    /// It was answered, or is with what is decided already.
    Decided,
}

/// Requests that were seen, in two maps of which the older is thrown away.
#[derive(Debug)]
pub(super) struct Repeats {
    newer: HashMap<Key, ([u8; 16], Repeated), RandomState>,
    older: HashMap<Key, ([u8; 16], Repeated), RandomState>,
    turned: u64,
}

impl Repeats {
    pub(super) fn new(hasher: &RandomState) -> Self {
        let map = || HashMap::with_hasher(hasher.clone());
        Self { newer: map(), older: map(), turned: 0 }
    }

    /// What became of the very same request, if it was seen.
    pub(super) fn find(&self, key: Key, authenticator: [u8; 16]) -> Option<Repeated> {
        let (seen, repeated) = self.newer.get(&key).or_else(|| self.older.get(&key))?;
        (*seen == authenticator).then_some(*repeated)
    }

    /// Remembers a request, in place of an older one of the same identifier.
    pub(super) fn remember(&mut self, key: Key, authenticator: [u8; 16], repeated: Repeated, now: Now) {
        let is_old = tick(now).saturating_sub(self.turned) >= REMEMBER_MS;
        if is_old || self.newer.len() >= REMEMBER_MAX {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
            self.turned = tick(now);
        }
        self.newer.insert(key, (authenticator, repeated));
    }
}
