//! Putting IP fragments together (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! Bounded in every direction: [`MAX_DATAGRAMS`] unfinished ones, [`MAX_BYTES`] in all of them,
//! [`MAX_AGE_NS`] by the capture's own time. What goes for one of these reasons is counted. A
//! fragment that overlaps another with other bytes spoils its datagram (RFC 5722); a repeated one
//! does not.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::packet::Piece;

/// Unfinished datagrams held at once.
const MAX_DATAGRAMS: usize = 4096;
/// Bytes held at once.
const MAX_BYTES: usize = 32 << 20;
/// How long a datagram waits for its fragments, nanoseconds: what Linux waits.
const MAX_AGE_NS: u64 = 30_000_000_000;
const MAX_LEN: usize = 65_535;

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) protocol: u8,
    pub(super) id: u32,
    /// Which tunnel it came through, or 0: identifiers are only unique within.
    pub(super) scope: u64,
}

#[derive(Default, Debug)]
struct Unfinished {
    bytes: Vec<u8>,
    /// What is there, sorted, neither touching nor overlapping.
    ranges: Vec<(usize, usize)>,
    /// Its length, once the last fragment came.
    len: Option<usize>,
    since_ns: u64,
    serial: u64,
}

/// What became of a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It waits for others.
    Held,
    /// It was the last one missing; see [`Fragments::whole`].
    Complete,
    /// It contradicts its length or an earlier one: its datagram is dropped.
    Bad,
}

/// Unfinished datagrams.
#[derive(Default, Debug)]
pub(super) struct Fragments {
    unfinished: HashMap<Key, Unfinished>,
    /// In the order of their first fragments; entries whose serial has gone are stale.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
    whole: Vec<u8>,
    /// Datagrams given up because fragments are missing.
    pub(super) incomplete: u64,
}

impl Fragments {
    /// The payload of the datagram that was completed last.
    pub(super) fn whole(&self) -> &[u8] {
        &self.whole
    }

    /// Takes a fragment.
    pub(super) fn take(&mut self, key: Key, piece: Piece, payload: &[u8], time_ns: u64) -> Outcome {
        let (from, to) = (piece.offset, piece.offset + payload.len());
        // All but the last are multiples of eight bytes.
        if to > MAX_LEN || payload.is_empty() || (piece.more && !payload.len().is_multiple_of(8)) {
            self.forget(&key);
            return Outcome::Bad;
        }
        self.make_room(time_ns);
        let serial = self.serial;
        let entry = self.unfinished.entry(key).or_insert_with(|| {
            self.serial += 1;
            self.order.push_back((key, serial));
            Unfinished { since_ns: time_ns, serial, ..Unfinished::default() }
        });
        let end = if piece.more { entry.len.unwrap_or(usize::MAX) } else { to };
        let longest = entry.ranges.last().map_or(0, |range| range.1);
        if to > end || longest > end || entry.len.is_some_and(|len| !piece.more && len != to) {
            self.forget(&key);
            return Outcome::Bad;
        }
        if !piece.more {
            entry.len = Some(to);
        }
        if entry.bytes.len() < to {
            self.bytes += to - entry.bytes.len();
            entry.bytes.resize(to, 0);
        }
        let differs = entry.ranges.iter().any(|&(start, stop)| {
            let (start, stop) = (start.max(from), stop.min(to));
            start < stop && entry.bytes[start..stop] != payload[start - from..stop - from]
        });
        if differs {
            self.forget(&key);
            return Outcome::Bad;
        }
        entry.bytes[from..to].copy_from_slice(payload);
        let mut merged = (from, to);
        entry.ranges.retain(|&(start, stop)| {
            let apart = stop < merged.0 || start > merged.1;
            if !apart {
                merged = (merged.0.min(start), merged.1.max(stop));
            }
            apart
        });
        let at = entry.ranges.partition_point(|range| range.0 < merged.0);
        entry.ranges.insert(at, merged);
        if entry.len.is_none_or(|len| entry.ranges != [(0, len)]) {
            return Outcome::Held;
        }
        if let Some(entry) = self.unfinished.remove(&key) {
            self.bytes -= entry.bytes.len();
            self.whole = entry.bytes;
        }
        Outcome::Complete
    }

    /// Gives up what waits: the capture has ended.
    pub(super) fn finish(&mut self) {
        self.incomplete += self.unfinished.len() as u64;
        self.unfinished.clear();
        self.order.clear();
        self.bytes = 0;
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.unfinished.remove(key) {
            self.bytes -= entry.bytes.len();
        }
    }

    fn make_room(&mut self, time_ns: u64) {
        while let Some(&(key, serial)) = self.order.front() {
            let entry = self.unfinished.get(&key).filter(|entry| entry.serial == serial);
            if let Some(entry) = entry {
                let old = time_ns.saturating_sub(entry.since_ns) > MAX_AGE_NS;
                if !old && self.unfinished.len() < MAX_DATAGRAMS && self.bytes + MAX_LEN <= MAX_BYTES {
                    break;
                }
                self.forget(&key);
                self.incomplete += 1;
            }
            self.order.pop_front();
        }
        // Finished ones behind one that waits long would pile up.
        if self.order.len() > 4 * MAX_DATAGRAMS {
            let unfinished = &self.unfinished;
            self.order.retain(|(key, serial)| unfinished.get(key).is_some_and(|e| e.serial == *serial));
        }
    }
}
