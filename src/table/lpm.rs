//! Longest-prefix match: one compiled form for Push ID prefixes, private network segments and the addresses that may
//! push for an application.
//!
//! A node skips the bits that all its prefixes have in common, with one comparison, and looks the next ones up in a
//! table of as many as its prefixes pay for: an entry there is the answer or another node. A node with no table is the
//! answer itself: a single prefix. From some sixty-five thousand IPv4 prefixes of the internet's shape the first table
//! is that of DIR-24-8 (Gupta, Lin, McKeown, INFOCOM 1998); with sixty-four segments of a region it is four cache
//! lines; what is longer than a table, or sparse, becomes a level- and path-compressed trie (Nilsson and Karlsson, JSAC
//! 1999). No bit is counted: on processors without an instruction for that a poptrie, which this was before, takes
//! twice the time.
//!
//! Costs: one load for keys that the first table answers, one more for those with one prefix below, two for each
//! further table. 4 bytes an entry: sixteen of them a prefix at most, and 24 bytes a node; 256 a prefix in a first table
//! of 4096 prefixes or more that then answers seven eighths of them. A change means compiling anew, aside from the readers.
//!
//! Keys are left-aligned: 64 bits of a Push ID, 128 of an IPv6 address, an IPv4 address in the first 32 of 64.

use rkyv::rend::u32_le;
use rkyv::{Archive, Deserialize, Serialize};

use super::memory::prefetch;

/// One node. A trie is known by the index of its first one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Node {
    /// The bits that all prefixes here go on with, left-aligned; the rest zero.
    common: u64,
    /// Where its table begins in `entries`; without one, what keys find that go on like this: a leaf.
    table: u32,
    /// What keys find that go on otherwise: a leaf.
    otherwise: u32,
    /// How many bits are common, at most 63.
    skip: u8,
    /// How many bits the table answers, at most 24; 0: there is none.
    bits: u8,
}

/// Tries under construction; all share two arrays.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Tries {
    nodes: Vec<Node>,
    /// A leaf: zero for nothing, else a value plus one. Or a node's index with [`NODE`].
    entries: Vec<u32>,
}

/// One prefix and what it leads to: an index below 2^31 − 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The prefix's bits, left-aligned, the rest zero.
    pub key: u128,
    /// How many of them count.
    pub len: u8,
    /// What it leads to.
    pub value: u32,
}

/// An entry that is no leaf.
const NODE: u32 = 1 << 31;

/// What a burst marks a leaf with, among indexes of entries.
const LEAF: u32 = 1 << 31;

/// Bits that a table answers at most.
const TABLE_BITS_MAX: u32 = 24;

/// Entries of a table a prefix, at most.
const ENTRIES: usize = 16;
/// The same of a trie's first table in which all but one of [`DEEPER_ONE_OF`] prefixes end: 64 MiB from 65 536 on. With
/// fewer than [`FLAT_FROM`], all levels of a narrower one fit a CPU's own cache.
const ENTRIES_FLAT: usize = 256;
const DEEPER_ONE_OF: usize = 8;
const FLAT_FROM: usize = 1 << 12;

/// Keys whose loads are under way together: lines come some 400 ns after they are asked for.
pub const BURST: usize = 128;

/// What the first node of a trie says of a key: an index of an entry, or a leaf with [`LEAF`].
#[derive(Clone, Copy, Debug)]
pub struct Begun(u32);

impl Begun {
    /// Of a key that nothing is asked for.
    pub const NOTHING: Self = Self(LEAF);
}

impl Tries {
    /// Compiles a set of distinct prefixes; returns the trie's number.
    ///
    /// # Panics
    /// When the arrays outgrow their indexes: more than 2^31 entries, 8 GiB.
    pub fn add(&mut self, routes: &mut [Route]) -> u32 {
        routes.sort_unstable_by_key(|route| (route.key, route.len));
        // The one of length zero is what is found where nothing else is.
        let (otherwise, routes) = match routes {
            [Route { len: 0, value, .. }, rest @ ..] => (*value + 1, &*rest),
            all => (0, &*all),
        };
        self.add_node(0, otherwise, routes, true)
    }

    /// Adds a node `depth` bits below the first; `routes`, sorted, are longer than that and agree in those bits;
    /// `otherwise` is the leaf that a shorter one gives.
    fn add_node(&mut self, depth: u32, otherwise: u32, routes: &[Route], is_first: bool) -> u32 {
        let rest = |route: &Route| route.key.checked_shl(depth).unwrap_or(0);
        let lens = || routes.iter().map(|route| u32::from(route.len) - depth);
        let (shortest, longest) = (lens().min().unwrap_or(0), lens().max().unwrap_or(0));
        // Sorted: what the first and the last have in common, all have.
        let common = match routes {
            [first, .., last] => (rest(first) ^ rest(last)).leading_zeros(),
            _ => u128::BITS,
        };
        let skip = common.min(shortest).min(u64::BITS - 1);
        let paid =
            |entries: usize| (routes.len() * entries).max(1).ilog2().min(TABLE_BITS_MAX).min(longest - skip);
        let (bits, flat) = (paid(ENTRIES), paid(ENTRIES_FLAT));
        let deeper = || lens().filter(|len| *len > skip + flat).count();
        let is_flat = is_first && routes.len() >= FLAT_FROM && deeper() <= routes.len() / DEEPER_ONE_OF;
        let bits = if is_flat { flat } else { bits };
        let common = routes.first().map_or(0, |route| (rest(route) >> 64) as u64 & !(u64::MAX >> skip));

        let (node, table) = (index(self.nodes.len()), self.entries.len());
        let skip_bits = skip as u8;
        if bits == 0 {
            // All of one prefix, or of none, has been skipped.
            let leaf = routes.first().map_or(otherwise, |route| route.value + 1);
            self.nodes.push(Node { common, table: leaf, otherwise, skip: skip_bits, bits: 0 });
            return node;
        }
        self.nodes.push(Node { common, table: index(table), otherwise, skip: skip_bits, bits: bits as u8 });
        self.entries.resize(table + (1 << bits), otherwise);
        let end = depth + skip + bits;
        let entry = |route: &Route| {
            table
                + (route.key.checked_shl(depth + skip).unwrap_or(0) >> 1 >> (u128::BITS - 1 - bits)) as usize
        };
        let (mut short, long): (Vec<Route>, Vec<Route>) =
            routes.iter().partition(|route| u32::from(route.len) <= end);
        short.sort_by_key(|route| route.len);
        for route in short {
            let (first, count) = (entry(&route), 1 << (end - u32::from(route.len)));
            self.entries[first..first + count].fill(route.value + 1);
        }
        for below in long.chunk_by(|a, b| entry(a) == entry(b)) {
            let entry = entry(&below[0]);
            let further = self.add_node(end, self.entries[entry], below, false);
            self.entries[entry] = further | NODE;
        }
        node
    }

    /// No fewer bytes than their archive has beside its own structure.
    pub(super) fn bytes_max(&self) -> usize {
        size_of_val(&self.nodes[..]) + size_of_val(&self.entries[..])
    }
}

fn index(len: usize) -> u32 {
    u32::try_from(len).ok().filter(|len| *len < NODE).expect("fewer than 2^31 entries and nodes")
}

/// Who knows what trie and key each of many asks for.
pub trait Ask<T> {
    /// [`Trie::begin`], or nothing.
    fn begin(&mut self, asked: &T) -> Begun;
    /// [`Trie::go_on`], of one that has begun.
    fn go_on(&mut self, asked: &T, node: u32) -> Option<u32>;
}

/// A left-aligned key.
pub trait Key: Copy {
    /// The first 64 bits.
    fn high(self) -> u64;
    /// Without its first bits, fewer than 64, zeros behind.
    #[must_use]
    fn skip(self, bits: u32) -> Self;
}

impl Key for u64 {
    #[inline(always)]
    fn high(self) -> u64 {
        self
    }

    #[inline(always)]
    fn skip(self, bits: u32) -> Self {
        self << bits
    }
}

impl Key for u128 {
    #[inline(always)]
    fn high(self) -> u64 {
        (self >> 64) as u64
    }

    #[inline(always)]
    fn skip(self, bits: u32) -> Self {
        self << bits
    }
}

/// All tries as a burst reads them: where the arrays are is found once, not once a lookup.
#[derive(Clone, Copy, Debug)]
pub struct Forest<'a> {
    nodes: &'a [ArchivedNode],
    entries: &'a [u32_le],
}

/// One of them, its first node at hand.
#[derive(Clone, Copy, Debug)]
pub struct Trie<'a> {
    first: Step,
    forest: Forest<'a>,
}

/// A node in the form that a lookup wants: shifts of 63, for a shift by all 64 bits is none.
#[derive(Clone, Copy, Debug)]
struct Step {
    common: u64,
    skip: u32,
    skip_shift: u32,
    shift: u32,
    otherwise: u32,
    table: u32,
}

impl Step {
    #[inline(always)]
    fn new(node: &ArchivedNode) -> Self {
        let (skip, bits) = (u32::from(node.skip), u32::from(node.bits));
        Self {
            common: node.common.to_native(),
            skip,
            skip_shift: u64::BITS - 1 - skip,
            shift: u64::BITS - 1 - bits,
            otherwise: node.otherwise.to_native(),
            table: node.table.to_native(),
        }
    }

    /// The entry that says what a key goes on with, or, where none is needed, the leaf.
    #[inline(always)]
    fn place(&self, key: impl Key) -> Result<u32, u32> {
        if (key.high() ^ self.common) >> 1 >> self.skip_shift != 0 {
            return Err(self.otherwise);
        }
        if self.shift == u64::BITS - 1 {
            return Err(self.table);
        }
        Ok(self.table + (key.skip(self.skip).high() >> 1 >> self.shift) as u32)
    }

    /// What a key goes on with below.
    #[inline(always)]
    fn rest<K: Key>(&self, key: K) -> K {
        key.skip(self.skip).skip(u64::BITS - 1 - self.shift)
    }

    /// What this node says of a key: a leaf or another node.
    #[inline(always)]
    fn take(&self, entries: &[u32_le], key: impl Key) -> u32 {
        self.place(key).map_or_else(|leaf| leaf, |entry| entries[entry as usize].to_native())
    }
}

impl<'a> Forest<'a> {
    /// The trie with this number.
    ///
    /// # Panics
    /// When there is none.
    #[inline(always)]
    pub fn trie(&self, trie: u32) -> Trie<'a> {
        Trie { first: Step::new(&self.nodes[trie as usize]), forest: *self }
    }

    /// As [`Trie::lookup`] for up to [`BURST`] keys, each in a trie of its own: what all of them read first is under way
    /// before it is read, then what they read next.
    ///
    /// # Panics
    /// When there are more of them.
    #[inline(always)]
    pub fn lookup_burst<T>(&self, asked: &[T], found: &mut [Option<u32>], tries: &mut impl Ask<T>) {
        let mut said = [LEAF; BURST];
        let said = &mut said[..asked.len()];
        for (asked, said) in asked.iter().zip(&mut *said) {
            *said = tries.begin(asked).0;
            // Of a leaf there is no such entry.
            prefetch(self.entries, *said as usize);
        }
        for said in &mut *said {
            *said = if *said & LEAF != 0 { *said & !LEAF } else { self.entries[*said as usize].to_native() };
            // Nor such a node.
            prefetch(self.nodes, (*said ^ NODE) as usize);
        }
        for ((asked, said), found) in asked.iter().zip(said).zip(found) {
            *found = if *said & NODE != 0 { tries.go_on(asked, *said) } else { said.checked_sub(1) };
        }
    }

    /// From what the first node said, and the rest of the key, to the value.
    #[inline(always)]
    fn descend<K: Key>(&self, mut found: u32, rest: impl FnOnce() -> K) -> Option<u32> {
        if found & NODE != 0 {
            let mut rest = rest();
            loop {
                let step = Step::new(&self.nodes[(found & !NODE) as usize]);
                found = step.take(self.entries, rest);
                if found & NODE == 0 {
                    break;
                }
                rest = step.rest(rest);
            }
        }
        found.checked_sub(1)
    }
}

impl Trie<'_> {
    /// How a lookup of `key` begins, for [`Forest::lookup_burst`].
    #[inline(always)]
    pub fn begin(&self, key: impl Key) -> Begun {
        Begun(self.first.place(key).unwrap_or_else(|leaf| leaf | LEAF))
    }

    /// What a lookup of `key` finds from this node on, which the first one led to.
    #[inline(always)]
    pub fn go_on(&self, key: impl Key, node: u32) -> Option<u32> {
        self.forest.descend(node, || self.first.rest(key))
    }

    /// The value of the longest prefix of `key`.
    #[inline(always)]
    pub fn lookup(&self, key: impl Key) -> Option<u32> {
        self.forest.descend(self.first.take(self.forest.entries, key), || self.first.rest(key))
    }
}

impl ArchivedTries {
    /// As a burst reads them.
    #[inline(always)]
    pub fn view(&self) -> Forest<'_> {
        Forest { nodes: &self.nodes, entries: &self.entries }
    }

    /// The value of the longest prefix of `key` in the trie with this number.
    #[inline]
    pub fn lookup(&self, trie: u32, key: impl Key) -> Option<u32> {
        self.view().trie(trie).lookup(key)
    }

    /// Bytes that the arrays take.
    pub fn size(&self) -> usize {
        size_of_val(&self.nodes[..]) + size_of_val(&self.entries[..])
    }
}

/// The proof that tries are what [`Tries::add`] makes: every lookup ends after at most 128 nodes, within the
/// arrays, at a value that there is. Each node belongs to one place of one trie, so the proof is one walk.
pub struct Soundness<'a> {
    tries: &'a ArchivedTries,
    visited: Vec<bool>,
}

/// Nodes from the first to the end of a key, each of which takes a bit at least.
const DEPTH_MAX: u32 = u128::BITS;

impl<'a> Soundness<'a> {
    /// Nothing proven yet.
    pub fn new(tries: &'a ArchivedTries) -> Self {
        Self { tries, visited: vec![false; tries.nodes.len()] }
    }

    /// Whether the trie with this number is sound, its values below `values`. Each trie once.
    pub fn holds(&mut self, trie: u32, values: usize) -> bool {
        let is_leaf = |leaf: u32| leaf & NODE == 0 && leaf as usize <= values;
        let mut pending = vec![(trie, 1)];
        while let Some((at, depth)) = pending.pop() {
            let (Some(node), Some(visited)) =
                (self.tries.nodes.get(at as usize), self.visited.get_mut(at as usize))
            else {
                return false;
            };
            let bounded = node.skip < 64 && u32::from(node.bits) <= TABLE_BITS_MAX && depth <= DEPTH_MAX;
            if std::mem::replace(visited, true) || !bounded || !is_leaf(node.otherwise.to_native()) {
                return false;
            }
            if node.bits == 0 {
                if !is_leaf(node.table.to_native()) {
                    return false;
                }
                continue;
            }
            let first = node.table.to_native() as usize;
            let Some(table) = self.tries.entries.get(first..first + (1 << node.bits)) else { return false };
            for entry in table.iter().map(|entry| entry.to_native()) {
                if entry & NODE != 0 {
                    pending.push((entry & !NODE, depth + 1));
                } else if !is_leaf(entry) {
                    return false;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The plain version: look at every prefix.
    fn oracle(routes: &[Route], key: u128) -> Option<u32> {
        let matches =
            |route: &&Route| route.len == 0 || (key ^ route.key) >> (128 - u32::from(route.len)) == 0;
        routes.iter().filter(matches).max_by_key(|route| route.len).map(|route| route.value)
    }

    fn masked(key: u128, len: u8) -> u128 {
        if len == 0 { 0 } else { key & u128::MAX << (128 - u32::from(len)) }
    }

    /// Prefixes of up to 128 bits, or up to 64, with and without bits that all have in common.
    fn routes() -> impl Strategy<Value = Vec<Route>> {
        (some_routes(), any::<bool>(), 0u32..70).prop_map(|(routes, short, skip)| {
            let mut seen = std::collections::BTreeMap::new();
            for Route { key, len, value } in routes {
                let longer = if len == 0 { 0 } else { len.saturating_add(skip as u8).min(128) };
                let (key, len) = (0x5A5A_0F0F << 96 & !(u128::MAX >> skip) | key >> skip, longer);
                let len = if short { len.min(64) } else { len };
                seen.insert((masked(key, len), len), value);
            }
            seen.into_iter().map(|((key, len), value)| Route { key, len, value }).collect()
        })
    }

    fn some_routes() -> impl Strategy<Value = Vec<Route>> {
        // Few distinct bits, so that prefixes nest.
        let bits = prop_oneof![
            any::<u128>(),
            (0u128..256).prop_map(|high| high << 120),
            (0u128..64, 0u128..64).prop_map(|(a, b)| a << 122 | b)
        ];
        proptest::collection::vec((bits, 0u8..=128), 0..80).prop_map(|pairs| {
            let mut seen = std::collections::BTreeMap::new();
            for (value, (key, len)) in (0..).zip(pairs) {
                seen.insert((masked(key, len), len), value);
            }
            seen.into_iter().map(|((key, len), value)| Route { key, len, value }).collect()
        })
    }

    /// One key, in several tries.
    struct Roots<'a> {
        forest: Forest<'a>,
        key: u128,
    }

    impl Ask<Option<u32>> for Roots<'_> {
        fn begin(&mut self, root: &Option<u32>) -> Begun {
            root.map_or(Begun::NOTHING, |root| self.forest.trie(root).begin(self.key))
        }

        fn go_on(&mut self, root: &Option<u32>, node: u32) -> Option<u32> {
            self.forest.trie((*root)?).go_on(self.key, node)
        }
    }

    fn archived(tries: &Tries) -> rkyv::util::AlignedVec {
        rkyv::to_bytes::<rkyv::rancor::Error>(tries).unwrap()
    }

    proptest! {
        #[test]
        fn lookups_are_those_of_the_plain_version(mut a in routes(), mut b in routes(), keys in proptest::collection::vec(any::<u128>(), 20)) {
            let mut tries = Tries::default();
            let roots = [tries.add(&mut a), tries.add(&mut b)];
            let bytes = archived(&tries);
            let tries = rkyv::access::<ArchivedTries, rkyv::rancor::Error>(&bytes).unwrap();
            let mut soundness = Soundness::new(tries);
            for (root, routes) in roots.into_iter().zip([&a, &b]) {
                prop_assert!(soundness.holds(root, 80));
                let edges = routes.iter().flat_map(|route| [route.key, route.key.wrapping_sub(1), route.key | (1 << 127 >> (route.len % 128))]);
                for key in edges.chain(keys.iter().copied()) {
                    prop_assert_eq!(tries.lookup(root, key), oracle(routes, key), "{:032x}", key);
                    let mut found = [None; 3];
                    let asked = [Some(roots[0]), None, Some(roots[1])];
                    let forest = tries.view();
                    forest.lookup_burst(&asked, &mut found, &mut Roots { forest, key });
                    let each = [&a, &b].map(|routes| oracle(routes, key));
                    prop_assert_eq!(found, [each[0], None, each[1]], "{:032x}", key);
                    if routes.iter().all(|route| route.len <= 64) {
                        let high = (key >> 64) as u64;
                        prop_assert_eq!(tries.lookup(root, high), oracle(routes, key), "{:016x}", high);
                    }
                }
            }
        }
    }

    #[test]
    fn an_unsound_trie_is_seen() {
        let mut tries = Tries::default();
        let deep = |n: u128, len| Route { key: n << (128 - u32::from(len)), len, value: 3 };
        let root = tries.add(&mut [deep(1, 1), deep(0x800, 12), deep(0x80_001, 20), deep(0x80_003, 20)]);
        assert_eq!((root, tries.nodes.len()), (0, 3));
        let sound = |tries: &Tries, values| {
            let bytes = archived(tries);
            let tries = rkyv::access::<ArchivedTries, rkyv::rancor::Error>(&bytes).unwrap();
            Soundness::new(tries).holds(root, values)
        };
        assert!(sound(&tries, 4));
        assert!(!sound(&tries, 3), "a value out of range");
        let changed = |change: &dyn Fn(&mut Tries)| {
            let mut tries = tries.clone();
            change(&mut tries);
            sound(&tries, 4)
        };
        assert!(
            !changed(&|tries| tries.entries[tries.nodes[1].table as usize] = NODE),
            "a node below itself"
        );
        assert!(!changed(&|tries| tries.entries[1] = NODE | 1), "a node with two parents");
        assert!(!changed(&|tries| tries.entries[1] = NODE | 3), "a node beyond the array");
        assert!(!changed(&|tries| tries.entries.truncate(8)), "a table beyond the array");
        assert!(!changed(&|tries| tries.nodes[1].otherwise = 5), "a value out of range");
        assert!(!changed(&|tries| tries.nodes[1].otherwise = NODE), "a node where a leaf belongs");
        assert!(!changed(&|tries| tries.nodes[1].skip = 64), "more bits than a comparison has");
        assert!(!changed(&|tries| tries.nodes[0].bits = 25), "more bits than a table may have");
    }

    #[test]
    fn a_node_without_a_table_is_the_answer() {
        let mut tries = Tries::default();
        let root = tries.add(&mut [Route { key: 0xA << 124, len: 4, value: 3 }]);
        assert_eq!((tries.nodes.len(), tries.entries.len()), (1, 0));
        for (table, values, sound) in [(4, 4, true), (4, 3, false), (5, 4, false), (NODE, 4, false)] {
            tries.nodes[0].table = table;
            let bytes = archived(&tries);
            let tries = rkyv::access::<ArchivedTries, rkyv::rancor::Error>(&bytes).unwrap();
            assert_eq!(Soundness::new(tries).holds(root, values), sound, "{table:#x} of {values}");
        }
    }

    /// One load for all but an eighth of the prefixes, where that many pay for it.
    #[test]
    fn a_first_table_that_answers_nearly_all_is_wider() {
        // 2^12 prefixes pay for 16 bits, or for 20.
        for (count, longer, bits) in [(4096, 0, 20), (4096, 512, 20), (4096, 513, 16), (4095, 0, 15)] {
            let mut tries = Tries::default();
            let len = |n| if n < longer { 40 } else { 20 };
            let route = |n: u32| Route { key: u128::from(n) << 116, len: len(n), value: n };
            tries.add(&mut (0..count).map(route).collect::<Vec<_>>());
            assert_eq!((tries.nodes[0].skip, u32::from(tries.nodes[0].bits)), (0, bits), "{count}, {longer}");
        }
    }

    /// As many entries as the module's head says, and no more.
    #[test]
    fn the_first_table_is_what_its_prefixes_pay_for() {
        for (count, bits) in [(1, 0), (16, 4), (1000, 10), (100_000, 17)] {
            let mut tries = Tries::default();
            // As long as they need to be to differ, behind ten bits that all have.
            let len = 10 + bits as u8;
            let route =
                |n: u128| Route { key: 0x2AA << 118 | n << (128 - u32::from(len)), len, value: n as u32 };
            tries.add(&mut (0..count).map(route).collect::<Vec<_>>());
            assert!(tries.nodes[0].skip >= 10 && u32::from(tries.nodes[0].bits) <= bits, "{count}");
            assert!(tries.nodes.len() == 1 && tries.entries.len() <= 16 * count as usize);
        }
    }
}
