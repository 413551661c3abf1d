//! Who waits for a RECEIPT or REJECT (PROTOCOL.md, ruling 3): for each PUSH that wants a receipt its
//! source and message identifier, and where it came from, for [`KEEP_NS`].
//!
//! One table a shard, written by that shard alone and read by all: the answer may arrive at another.
//! An entry is one cache line under a sequence lock; costs a write of one line and a read of one or two a
//! shard for a PUSH that wants a receipt, and that read for an answer. Full of live entries:
//! the PUSH is refused, never an older one forgotten.

use ahash::RandomState;

use crate::id::{Endpoint, PushId};
use crate::sync::Seqlock;

/// How long an entry is kept: 30 s and what clocks and rounding may take from it.
pub(super) const KEEP_NS: u64 = 32_000_000_000;

/// Entries that one key may stand in.
const WAYS: usize = 4;

/// Where an answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The address that the PUSH came from.
    pub from: Endpoint,
    /// The listening address that it was written to.
    pub listener: u8,
    /// The identifier of the key that it was signed with.
    pub key: Option<u32>,
}

/// One cache line. Words: expiry, source (2), message identifier, address (2), the rest.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry(Seqlock<7>);

const _: () = assert!(size_of::<Entry>() == 64 || cfg!(pushplane_loom));

/// One shard's table.
#[derive(Debug)]
pub struct Receipts {
    entries: Box<[Entry]>,
    hasher: RandomState,
}

fn split(value: [u8; 16]) -> [u64; 2] {
    let value = u128::from_be_bytes(value);
    [(value >> 64) as u64, value as u64]
}

fn join(high: u64, low: u64) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

impl Receipts {
    /// A table of so many entries, rounded up to a power of two.
    pub fn new(entries: usize, seed: u64) -> Self {
        let count = entries.next_power_of_two().max(WAYS);
        // Chosen by senders: the seed keeps them from choosing where it collides.
        let hasher = RandomState::with_seeds(seed, 0x7265_6365, 0x6970_7473, !seed);
        Self { entries: (0..count).map(|_| Entry::default()).collect(), hasher }
    }

    fn set(&self, source: PushId, message: u64) -> &[Entry] {
        let hash = self.hasher.hash_one((source.0, message)) as usize;
        let first = hash & (self.entries.len() - 1) & !(WAYS - 1);
        &self.entries[first..first + WAYS]
    }

    /// Remembers an asker. Only the shard that owns the table calls this. False when there is no room.
    #[must_use]
    pub fn remember(&self, source: PushId, message: u64, asker: Asker, now_ns: u64) -> bool {
        let set = self.set(source, message);
        let [high, low] = split(source.to_bytes());
        let same = |entry: &&Entry| {
            let [_, user_high, user_low, id, ..] = entry.0.read();
            (user_high, user_low, id) == (high, low, message)
        };
        let free = |entry: &&Entry| entry.0.read()[0] <= now_ns;
        let Some(entry) = set.iter().find(same).or_else(|| set.iter().find(free)) else { return false };
        let [addr_high, addr_low] = split(asker.from.octets());
        let rest = u64::from(asker.from.port()) << 48
            | u64::from(asker.listener) << 40
            | u64::from(asker.key.is_some()) << 32
            | u64::from(asker.key.unwrap_or(0));
        entry.0.write(&[now_ns + KEEP_NS, high, low, message, addr_high, addr_low, rest]);
        true
    }

    /// Who asked, if it is remembered.
    pub fn asker(&self, source: PushId, message: u64, now_ns: u64) -> Option<Asker> {
        let [high, low] = split(source.to_bytes());
        self.set(source, message).iter().find_map(|entry| {
            let [until, user_high, user_low, id, addr_high, addr_low, rest] = entry.0.read();
            let found = until > now_ns && (user_high, user_low, id) == (high, low, message);
            found.then(|| Asker {
                from: Endpoint::from_octets(join(addr_high, addr_low), (rest >> 48) as u16),
                listener: (rest >> 40) as u8,
                key: (rest >> 32 & 1 == 1).then_some(rest as u32),
            })
        })
    }
}

#[cfg(all(test, not(pushplane_loom)))]
mod tests {
    use super::*;

    fn asker(n: u16) -> Asker {
        Asker {
            from: Endpoint::new([192, 0, 2, 1].into(), n),
            listener: 3,
            key: n.is_multiple_of(2).then_some(u32::MAX),
        }
    }

    #[test]
    fn an_asker_is_remembered_for_thirty_seconds() {
        let table = Receipts::new(64, 1);
        assert!(table.remember(PushId(5), 9, asker(1), 1000));
        assert!(table.remember(PushId(6), 9, asker(2), 1000));
        assert_eq!(table.asker(PushId(5), 9, 1000 + 30_000_000_000), Some(asker(1)));
        assert_eq!(table.asker(PushId(6), 9, 1000), Some(asker(2)));
        assert_eq!(table.asker(PushId(5), 8, 1000), None);
        assert_eq!(table.asker(PushId(5), 9, 1000 + KEEP_NS), None);
        assert!(table.remember(PushId(5), 9, asker(7), 2000), "a repeated PUSH takes its own place");
        assert_eq!(table.asker(PushId(5), 9, 2000), Some(asker(7)));
    }

    #[test]
    fn a_full_table_forgets_nobody() {
        let table = Receipts::new(64, 1);
        let kept: Vec<u64> = (0..500).filter(|id| table.remember(PushId(5), *id, asker(1), 1000)).collect();
        assert!(kept.len() <= 64 && kept.len() > 32);
        assert!(kept.iter().all(|id| table.asker(PushId(5), *id, 2000).is_some()));
        assert!(table.remember(PushId(5), 1000, asker(1), 1000 + KEEP_NS), "room again when they ran out");
    }
}
