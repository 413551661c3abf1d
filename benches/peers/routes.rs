//! Longest matches.

use ip_network_table_deps_treebitmap::IpLookupTable;
use ip_network_table_deps_treebitmap::address::Address;
use poptrie::Poptrie;
use prefix_trie::PrefixMap;

use crate::measure::RouteEntrant;
use crate::measure::contest::{Contestant, Entrant, Job, Run};
use crate::measure::routes::{Addresses, Routes, Space};

/// Keys of one width.
trait Key: Copy + 'static {
    /// From one that is left-aligned.
    fn of(bits: u128) -> Self;
}

impl Key for u32 {
    fn of(bits: u128) -> Self {
        (bits >> 96) as Self
    }
}

impl Key for u64 {
    fn of(bits: u128) -> Self {
        (bits >> 64) as Self
    }
}

impl Key for u128 {
    fn of(bits: u128) -> Self {
        bits
    }
}

impl Key for std::net::Ipv4Addr {
    fn of(bits: u128) -> Self {
        u32::of(bits).into()
    }
}

impl Key for std::net::Ipv6Addr {
    fn of(bits: u128) -> Self {
        bits.into()
    }
}

/// A table of a peer's.
trait Table<K>: Default + 'static {
    fn add(&mut self, key: K, len: u8, value: u32);
    fn find(&self, key: K) -> Option<u32>;
    /// Bytes, where it tells.
    fn bytes(&self) -> Option<usize> {
        None
    }
}

impl<K: Key> Table<K> for PrefixMap<(K, u8), u32>
where
    (K, u8): prefix_trie::Prefix,
    (K, u8): Whole,
{
    fn add(&mut self, key: K, len: u8, value: u32) {
        self.insert((key, len), value);
    }

    fn find(&self, key: K) -> Option<u32> {
        self.get_lpm(&(key, <(K, u8)>::BITS)).map(|(_, value)| *value)
    }
}

/// The length of a whole address.
trait Whole {
    const BITS: u8;
}

impl<K: Key> Whole for (K, u8) {
    const BITS: u8 = size_of::<K>() as u8 * 8;
}

impl<K: Key + poptrie::Address> Table<K> for Poptrie<(K, u8), u32> {
    fn add(&mut self, key: K, len: u8, value: u32) {
        self.insert((key, len), value);
    }

    fn find(&self, key: K) -> Option<u32> {
        self.lookup(key).copied()
    }
}

struct Tree<K: Address>(IpLookupTable<K, u32>);

impl<K: Address> Default for Tree<K> {
    fn default() -> Self {
        Self(IpLookupTable::new())
    }
}

impl<K: Key + Address> Table<K> for Tree<K> {
    fn add(&mut self, key: K, len: u8, value: u32) {
        self.0.insert(key, u32::from(len), value);
    }

    fn find(&self, key: K) -> Option<u32> {
        self.0.longest_match(key).map(|(_, _, value)| *value)
    }

    fn bytes(&self) -> Option<usize> {
        let (nodes, results) = self.0.mem_usage();
        Some(nodes + results)
    }
}

struct Peer<K, T> {
    table: T,
    routes: usize,
    keys: Vec<K>,
}

impl<K: Key, T: Table<K>> Peer<K, T> {
    fn new(routes: &Routes) -> Result<Self, String> {
        let mut table = T::default();
        routes.all.iter().for_each(|route| table.add(K::of(route.bits), route.len, route.value));
        Ok(Self { table, routes: routes.all.len(), keys: Vec::new() })
    }
}

impl<K: Key, T: Table<K>> Contestant<Addresses> for Peer<K, T> {
    fn run(&mut self, questions: &Addresses) -> Run {
        self.keys.clear();
        self.keys.extend(questions.all.iter().map(|address| K::of(*address)));
        Run::of(|| self.keys.iter().map(|key| u64::from(self.table.find(*key).unwrap_or(0))).sum())
    }

    fn bytes(&self) -> Option<f64> {
        Some(self.table.bytes()? as f64 / self.routes as f64)
    }
}

fn entrant<K: Key, T: Table<K>>(name: &'static str) -> RouteEntrant {
    Entrant::new(name, Job::Value, Peer::<K, T>::new)
}

/// Those that may be had as crates and take such keys.
pub(crate) fn entrants(space: Space) -> Vec<RouteEntrant> {
    const NAMES: [&str; 3] = ["prefix-trie", "poptrie", "treebitmap"];
    let [prefix_trie, poptrie, treebitmap] = NAMES;
    match space {
        Space::V4 => vec![
            entrant::<u32, PrefixMap<(u32, u8), u32>>(prefix_trie),
            entrant::<u32, Poptrie<(u32, u8), u32>>(poptrie),
            entrant::<std::net::Ipv4Addr, Tree<std::net::Ipv4Addr>>(treebitmap),
        ],
        Space::V6 => vec![
            entrant::<u128, PrefixMap<(u128, u8), u32>>(prefix_trie),
            entrant::<u128, Poptrie<(u128, u8), u32>>(poptrie),
            entrant::<std::net::Ipv6Addr, Tree<std::net::Ipv6Addr>>(treebitmap),
        ],
        Space::PushId => vec![
            entrant::<u64, PrefixMap<(u64, u8), u32>>(prefix_trie),
            entrant::<u64, Poptrie<(u64, u8), u32>>(poptrie),
        ],
    }
}
