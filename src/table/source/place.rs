//! Where a Push ID is at home and where a private address lies: the two questions that every row
//! of the large tables asks.

use std::net::IpAddr;

use ahash::AHashMap;

use crate::id::{PushId, PushPrefix};
use crate::table::rib::Segment;

/// Longest match over the servers' prefixes: one hash lookup for each length in use.
#[derive(Default)]
pub(super) struct Homes {
    lengths: Vec<u8>,
    servers: AHashMap<PushPrefix, usize>,
}

impl Homes {
    /// Adds a prefix; the index of its server before, if it had one.
    pub(super) fn insert(&mut self, prefix: PushPrefix, server: usize) -> Option<usize> {
        if let Err(at) = self.lengths.binary_search_by(|len| prefix.len().cmp(len)) {
            self.lengths.insert(at, prefix.len());
        }
        match self.servers.entry(prefix) {
            std::collections::hash_map::Entry::Occupied(entry) => Some(*entry.get()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(server);
                None
            }
        }
    }

    /// The server whose prefix is the longest that `id` starts with.
    pub(super) fn find(&self, id: PushId) -> Option<usize> {
        self.lengths.iter().find_map(|len| {
            let bits = if *len == 0 { 0 } else { id.high() & u64::MAX << (64 - len) };
            self.servers.get(&PushPrefix::new(bits, *len)?).copied()
        })
    }
}

/// Which addresses lie in any segment of their realm: disjoint ranges, in order.
#[derive(Default)]
pub(super) struct Reach {
    /// Realm and address, 32 bits each: first and last of a range.
    v4: Vec<(u64, u64)>,
    v6: Vec<((u32, u128), (u32, u128))>,
}

impl Reach {
    /// From all segments of a generation.
    pub(super) fn new(segments: &[Segment]) -> Self {
        let mut reach = Self::default();
        for segment in segments {
            match segment.ip {
                IpAddr::V4(ip) => {
                    let first = u64::from(segment.realm) << 32 | u64::from(ip.to_bits());
                    reach.v4.push((
                        first,
                        first | u64::from(u32::MAX.checked_shr(segment.len.into()).unwrap_or(0)),
                    ));
                }
                IpAddr::V6(ip) => {
                    let first = ip.to_bits();
                    let last = first | u128::MAX.checked_shr(segment.len.into()).unwrap_or(0);
                    reach.v6.push(((segment.realm, first), (segment.realm, last)));
                }
            }
        }
        merge(&mut reach.v4);
        merge(&mut reach.v6);
        reach
    }

    /// Whether a segment of the realm holds the address.
    pub(super) fn contains(&self, realm: u32, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => lies_in(&self.v4, u64::from(realm) << 32 | u64::from(ip.to_bits())),
            IpAddr::V6(ip) => lies_in(&self.v6, (realm, ip.to_bits())),
        }
    }
}

/// Leaves only ranges that are in no other. Prefixes either nest or are apart.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ranges.dedup_by(|next, kept| next.1 <= kept.1);
}

fn lies_in<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| value <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::parse_ip_prefix;

    #[test]
    fn the_longest_prefix_is_home() {
        let mut homes = Homes::default();
        for (server, prefix) in ["0011", "00", "0011000000000000", "0x0/0"].iter().enumerate() {
            assert_eq!(homes.insert(prefix.parse().unwrap(), server), None);
        }
        assert_eq!(homes.insert("00".parse().unwrap(), 9), Some(1));
        for (first, server) in [(0x3000u128, 2), (0x3001, 0), (0x2000, 1), (0xFFFF, 3)] {
            assert_eq!(homes.find(PushId(first << 112)), Some(server), "{first:x}");
        }
    }

    #[test]
    fn segments_hold_addresses_of_their_realm() {
        let segment = |realm, text| {
            let (ip, len) = parse_ip_prefix(text).unwrap();
            Segment { realm, ip, len, gateway: 0 }
        };
        let reach = Reach::new(&[
            segment(0, "10.0.0.0/8"),
            segment(0, "10.1.0.0/16"),
            segment(0, "192.0.2.7/32"),
            segment(1, "0.0.0.0/0"),
            segment(2, "2001:db8::/32"),
            segment(3, "::/0"),
        ]);
        for (realm, ip, inside) in [
            (0, "10.255.255.255", true),
            (0, "11.0.0.0", false),
            (0, "192.0.2.7", true),
            (0, "192.0.2.8", false),
            (1, "255.255.255.255", true),
            (2, "10.0.0.1", false),
            (2, "2001:db8:ffff::", true),
            (2, "2001:db9::", false),
            (3, "ffff::", true),
            (0, "::", false),
        ] {
            assert_eq!(reach.contains(realm, ip.parse().unwrap()), inside, "{realm} {ip}");
        }
    }

    proptest! {
        #[test]
        fn homes_agree_with_a_search_through_all(
            prefixes in proptest::collection::btree_set((0u64..16, 0u8..=6), 0..12),
            id in any::<u128>(),
        ) {
            let prefixes: Vec<_> = prefixes
                .into_iter()
                .filter_map(|(bits, len)| PushPrefix::new(bits << 60 & !(u64::MAX.checked_shr(len.into()).unwrap_or(0)), len))
                .collect();
            let mut homes = Homes::default();
            for (server, prefix) in prefixes.iter().enumerate() {
                homes.insert(*prefix, server);
            }
            let found = homes.find(PushId(id)).map(|server| prefixes[server].len());
            prop_assert_eq!(found, prefixes.iter().filter(|prefix| prefix.contains(PushId(id))).map(|p| p.len()).max());
        }
    }
}
