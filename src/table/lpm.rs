//! Longest-prefix match: one compiled trie for Push ID prefixes, private network segments and the
//! addresses that may push for an application.
//!
//! A poptrie (Asai and Ohara, SIGCOMM 2015): each node answers six bits of the key; two 64-bit
//! vectors say which of the 64 chunks lead on and where runs of equal leaves begin, so a node is 24
//! bytes however many chunks it has. Costs: one node a six bits that the match needs, 24 bytes a
//! node and 4 a run of leaves; a change means compiling anew, aside from the readers.
//!
//! Keys are 128 bits, left-aligned: a Push ID, an IPv6 address, or an IPv4 address in the first 32.

use rkyv::{Archive, Deserialize, Serialize};

/// One node. Chunk `c` leads to child `children + rank(vector, c)` when its bit is set in `vector`,
/// else to leaf `leaves + rank(leaf_starts, c)`.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Node {
    vector: u64,
    leaf_starts: u64,
    children: u32,
    leaves: u32,
}

/// Tries under construction; all share two arrays. A root is an index into `nodes`.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Tries {
    nodes: Vec<Node>,
    leaves: Vec<u32>,
}

/// One prefix and what it leads to: an index below `u32::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The prefix's bits, left-aligned, the rest zero.
    pub key: u128,
    /// How many of them count.
    pub len: u8,
    /// What it leads to.
    pub value: u32,
}

const STRIDE: u32 = 6;

/// The six bits of `key` from `depth` on; bits beyond the key are zero.
const fn chunk(key: u128, depth: u32) -> u32 {
    if depth >= 128 { 0 } else { (key << depth >> (128 - STRIDE)) as u32 }
}

impl Tries {
    /// Compiles a set of distinct prefixes; returns the root.
    ///
    /// # Panics
    /// When the arrays outgrow 32-bit indexes: more than 2^32 nodes, 96 GiB.
    pub fn add(&mut self, routes: &mut [Route]) -> u32 {
        routes.sort_unstable_by_key(|route| (route.key, route.len));
        let root = index(self.nodes.len());
        self.nodes.push(Node::default());
        self.fill(root, 0, 0, routes);
        root
    }

    /// Fills `node`, `depth` bits below the root. `routes`, sorted, are those longer than `depth`
    /// (at the root: all); `inherited` is the leaf that a shorter one gives.
    fn fill(&mut self, node: u32, depth: u32, inherited: u32, routes: &[Route]) {
        let end = depth + STRIDE;
        let mut leaf = [inherited; 64];
        let mut short: Vec<&Route> = routes.iter().filter(|route| u32::from(route.len) <= end).collect();
        short.sort_by_key(|route| route.len);
        for route in short {
            let first = chunk(route.key, depth) as usize;
            let count = 1 << (end - u32::from(route.len));
            leaf[first..first + count].fill(route.value + 1);
        }
        let long: Vec<Route> = routes.iter().copied().filter(|route| u32::from(route.len) > end).collect();
        let groups: Vec<&[Route]> =
            long.chunk_by(|a, b| chunk(a.key, depth) == chunk(b.key, depth)).collect();

        let mut built =
            Node { children: index(self.nodes.len()), leaves: index(self.leaves.len()), ..Node::default() };
        for group in &groups {
            built.vector |= 1 << chunk(group[0].key, depth);
        }
        let mut last = None;
        for (c, value) in leaf.iter().enumerate() {
            if built.vector >> c & 1 == 0 && last != Some(*value) {
                built.leaf_starts |= 1 << c;
                self.leaves.push(*value);
                last = Some(*value);
            }
        }
        self.nodes.resize(self.nodes.len() + groups.len(), Node::default());
        self.nodes[node as usize] = built;
        for (child, group) in (built.children..).zip(groups) {
            self.fill(child, end, leaf[chunk(group[0].key, depth) as usize], group);
        }
    }
}

fn index(len: usize) -> u32 {
    u32::try_from(len).expect("fewer than 2^32 nodes and leaves")
}

impl ArchivedTries {
    /// The value of the longest prefix of `key` in the trie with this root.
    #[inline]
    pub fn lookup(&self, root: u32, key: u128) -> Option<u32> {
        let mut node = &self.nodes[root as usize];
        // What is left of the key; zeros come in from the right.
        let mut rest = key;
        loop {
            let c = chunk(rest, 0);
            let vector = node.vector.to_native();
            // Bits up to and with c: a rank that includes c itself.
            let up_to = 2u64.wrapping_shl(c).wrapping_sub(1);
            if vector >> c & 1 == 0 {
                let rank = (node.leaf_starts.to_native() & up_to).count_ones();
                return self.leaves[(node.leaves.to_native() + rank - 1) as usize].to_native().checked_sub(1);
            }
            let rank = (vector & up_to).count_ones();
            node = &self.nodes[(node.children.to_native() + rank - 1) as usize];
            rest <<= STRIDE;
        }
    }

    /// Bytes that the arrays take.
    pub fn size(&self) -> usize {
        size_of_val(&self.nodes[..]) + size_of_val(&self.leaves[..])
    }
}

/// The proof that tries are what [`Tries::add`] makes: every lookup ends after at most 22 nodes, within the
/// arrays, at a value that there is. Each node belongs to one place of one trie, so the proof is one walk.
pub struct Soundness<'a> {
    tries: &'a ArchivedTries,
    visited: Vec<bool>,
}

/// Nodes from a root to the end of a key.
const DEPTH_MAX: u32 = u128::BITS.div_ceil(STRIDE);

impl<'a> Soundness<'a> {
    /// Nothing proven yet.
    pub fn new(tries: &'a ArchivedTries) -> Self {
        Self { tries, visited: vec![false; tries.nodes.len()] }
    }

    /// Whether the trie with this root is sound, its values below `values`. Each root once.
    pub fn holds(&mut self, root: u32, values: usize) -> bool {
        let mut pending = vec![(root, 1)];
        while let Some((at, depth)) = pending.pop() {
            let (Some(node), Some(visited)) =
                (self.tries.nodes.get(at as usize), self.visited.get_mut(at as usize))
            else {
                return false;
            };
            if std::mem::replace(visited, true) || depth > DEPTH_MAX {
                return false;
            }
            let (vector, starts) = (node.vector.to_native(), node.leaf_starts.to_native());
            let (children, leaves) = (node.children.to_native() as usize, node.leaves.to_native() as usize);
            let child_count = vector.count_ones() as usize;
            let leaf_count = starts.count_ones() as usize;
            let first_leaf = (!vector).trailing_zeros();
            let starts_right = starts & vector == 0 && (vector == u64::MAX || starts >> first_leaf & 1 == 1);
            let Some(run) = self.tries.leaves.get(leaves..leaves + leaf_count) else { return false };
            let leaves_right = run.iter().all(|leaf| leaf.to_native() as usize <= values);
            if !starts_right || !leaves_right || children + child_count > self.tries.nodes.len() {
                return false;
            }
            pending
                .extend((children as u32..(children + child_count) as u32).map(|child| (child, depth + 1)));
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

    fn routes() -> impl Strategy<Value = Vec<Route>> {
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
                }
            }
        }
    }

    #[test]
    fn an_unsound_trie_is_seen() {
        let mut tries = Tries::default();
        let root = tries.add(&mut [Route { key: 1 << 127, len: 12, value: 3 }]);
        let sound = |tries: &Tries, values| {
            let bytes = archived(tries);
            let tries = rkyv::access::<ArchivedTries, rkyv::rancor::Error>(&bytes).unwrap();
            Soundness::new(tries).holds(root, values)
        };
        assert!(sound(&tries, 4));
        assert!(!sound(&tries, 3), "a value out of range");
        let mut looped = tries.clone();
        looped.nodes[1].vector = 1;
        looped.nodes[1].children = 0;
        assert!(!sound(&looped, 4), "a child before its parent");
        // Shared children: a walk of every path would double with each level and never end.
        let mut shared = Tries { nodes: Vec::new(), leaves: vec![0] };
        for at in 0..2000 {
            let both = Node { vector: u64::MAX >> 62 << 62 | 3, leaf_starts: 4, children: at + 1, leaves: 0 };
            shared.nodes.push(both);
        }
        let bytes = archived(&shared);
        let access = rkyv::access::<ArchivedTries, rkyv::rancor::Error>(&bytes).unwrap();
        assert!(!Soundness::new(access).holds(0, 4), "a node with two parents");
        let mut short = tries.clone();
        short.leaves.pop();
        assert!(!sound(&short, 4), "leaves beyond the array");
    }
}
