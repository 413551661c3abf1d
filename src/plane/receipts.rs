//! Who waits for a RECEIPT or REJECT (PROTOCOL.md, ruling 3): for each PUSH that wants a receipt its
//! source, destination and message identifier, and where it came from, for [`KEEP_NS`].
//!
//! The destination counts: identifiers are unique for their sender, and two application servers
//! without a Push ID are one source. An answer says whom it comes from, so it finds its own question, and
//! only who was asked can answer.
//!
//! One table a shard, written by that shard alone and read by all: the answer may arrive at another.
//! An entry is one cache line under a sequence lock, in one of two sets of four; costs a write of one line
//! and a read of up to eight a shard for a PUSH that wants a receipt, and that read for an answer. When both
//! sets are full of live entries the PUSH is refused, never an older one forgotten.

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

/// What a question and its answers share.
///
/// A message for a group is answered by its members, who are many and whom only the group's server knows: it is
/// kept as [`Exchange::of_anybody`], and whoever knows its source and identifier can answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Exchange {
    /// The question's source and the answer's destination.
    pub asker: PushId,
    /// The question's destination and the answer's source.
    pub asked: PushId,
    /// The message identifier of both.
    pub message: u64,
}

impl Exchange {
    /// The same question, put to a group.
    #[must_use]
    pub const fn of_anybody(self) -> Self {
        Self { asked: PushId::NONE, ..self }
    }
}

/// One cache line. Words: expiry, print of the exchange (2), message identifier, address (2), the rest.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry(Seqlock<7>);

const _: () = assert!(size_of::<Entry>() == 64 || cfg!(pushplane_loom));

/// One shard's table.
#[derive(Debug)]
pub struct Receipts {
    entries: Box<[Entry]>,
    /// Two hashes of an exchange: 128 bits that stand for its identifiers. Chosen by senders, these are
    /// hashed with seeds, so that nobody can choose where or with whom one collides.
    hashers: [RandomState; 2],
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
        let hasher = |key| RandomState::with_seeds(seed, key, 0x6970_7473, !seed);
        Self { entries: (0..count).map(|_| Entry::default()).collect(), hashers: [hasher(1), hasher(2)] }
    }

    fn prints(&self, exchange: &Exchange) -> [u64; 2] {
        let Exchange { asker, asked, message } = exchange;
        self.hashers.each_ref().map(|hasher| hasher.hash_one((asker.0, asked.0, message)))
    }

    /// The two sets that an exchange can be in.
    fn sets(&self, prints: [u64; 2]) -> [&[Entry]; 2] {
        prints.map(|print| {
            let first = print as usize & (self.entries.len() - 1) & !(WAYS - 1);
            &self.entries[first..first + WAYS]
        })
    }

    /// Remembers an asker. Only the shard that owns the table calls this. False when there is no room.
    #[must_use]
    pub fn remember(&self, exchange: &Exchange, asker: Asker, now_ns: u64) -> bool {
        let [high, low] = self.prints(exchange);
        let message = exchange.message;
        let sets = self.sets([high, low]);
        let same = |entry: &&Entry| {
            let [_, print_high, print_low, id, ..] = entry.0.read();
            (print_high, print_low, id) == (high, low, message)
        };
        let is_free = |entry: &&Entry| entry.0.read()[0] <= now_ns;
        // The emptier set, so that both fill alike.
        let emptier = || sets.into_iter().max_by_key(|set| set.iter().filter(is_free).count());
        let free = || emptier().and_then(|set| set.iter().find(is_free));
        let Some(entry) = sets.into_iter().flatten().find(same).or_else(free) else { return false };
        let [addr_high, addr_low] = split(asker.from.octets());
        let rest = u64::from(asker.from.port()) << 48
            | u64::from(asker.listener) << 40
            | u64::from(asker.key.is_some()) << 32
            | u64::from(asker.key.unwrap_or(0));
        entry.0.write(&[now_ns + KEEP_NS, high, low, message, addr_high, addr_low, rest]);
        true
    }

    /// Who asked, if it is remembered.
    pub fn asker(&self, exchange: &Exchange, now_ns: u64) -> Option<Asker> {
        let [high, low] = self.prints(exchange);
        self.sets([high, low]).into_iter().flatten().find_map(|entry| {
            let [until, print_high, print_low, id, addr_high, addr_low, rest] = entry.0.read();
            let found = until > now_ns && (print_high, print_low, id) == (high, low, exchange.message);
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

    fn exchange(asker: u128, message: u64) -> Exchange {
        Exchange { asker: PushId(asker), asked: PushId(77), message }
    }

    #[test]
    fn an_asker_is_remembered_for_thirty_seconds() {
        let table = Receipts::new(64, 1);
        assert!(table.remember(&exchange(5, 9), asker(1), 1000));
        assert!(table.remember(&exchange(6, 9), asker(2), 1000));
        assert_eq!(table.asker(&exchange(5, 9), 1000 + 30_000_000_000), Some(asker(1)));
        assert_eq!(table.asker(&exchange(6, 9), 1000), Some(asker(2)));
        assert_eq!(table.asker(&exchange(5, 8), 1000), None);
        assert_eq!(table.asker(&Exchange { asked: PushId(78), ..exchange(5, 9) }, 1000), None);
        assert_eq!(table.asker(&exchange(5, 9), 1000 + KEEP_NS), None);
        assert!(table.remember(&exchange(5, 9), asker(7), 2000), "a repeated PUSH takes its own place");
        assert_eq!(table.asker(&exchange(5, 9), 2000), Some(asker(7)));
    }

    /// The load that the configuration promises is taken.
    #[test]
    fn a_table_takes_a_quarter_of_its_size() {
        let table = Receipts::new(1 << 16, 1);
        assert!((0..1 << 14).all(|id| table.remember(&exchange(5, id), asker(1), 1000)));
    }

    #[test]
    fn a_full_table_forgets_nobody() {
        let table = Receipts::new(64, 1);
        let kept: Vec<u64> =
            (0..500).filter(|id| table.remember(&exchange(5, *id), asker(1), 1000)).collect();
        assert!(kept.len() <= 64 && kept.len() > 48);
        assert!(kept.iter().all(|id| table.asker(&exchange(5, *id), 2000).is_some()));
        assert!(table.remember(&exchange(5, 1000), asker(1), 1000 + KEEP_NS), "room again when they ran out");
    }
}
