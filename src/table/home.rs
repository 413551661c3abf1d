//! The Push IDs whose home this server is, told by one comparison: nearly all messages are for its own users.
//!
//! Costs a mask and a comparison a lookup; what it does not know is asked of the trie. Found when tables are loaded, in
//! one walk over the prefixes of all servers for each own prefix that is tried.

use super::image::ArchivedPrefixRow;
use crate::id::{PushId, PushPrefix};

/// The shortest own prefixes that are tried: a server has few, and a part of the first is seldom another's.
const TRIED: usize = 16;

/// Those that begin with an own prefix within which nobody else has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    mask: u64,
    bits: u64,
}

impl Home {
    /// Of nobody: no number has a bit outside of its mask.
    const NONE: Self = Self { mask: 0, bits: 1 };

    /// Of the server with this index, by the prefixes of all.
    pub(super) fn new(own: Option<u32>, prefixes: &[ArchivedPrefixRow]) -> Self {
        let prefix = |row: &ArchivedPrefixRow| PushPrefix::new(row.bits.to_native(), row.len);
        let is_own = |row: &&ArchivedPrefixRow| Some(row.server.to_native()) == own;
        let mut candidates: Vec<PushPrefix> = prefixes.iter().filter(is_own).filter_map(prefix).collect();
        candidates.sort_by_key(|prefix| prefix.len());
        let is_undivided = |own: &&PushPrefix| {
            let within = |other: PushPrefix| other.len() > own.len() && own.contains(other.first());
            !prefixes.iter().filter(|row| !is_own(row)).filter_map(prefix).any(within)
        };
        match candidates.iter().take(TRIED).find(is_undivided) {
            None => Self::NONE,
            Some(own) => {
                Self { mask: u64::MAX.checked_shl(64 - u32::from(own.len())).unwrap_or(0), bits: own.bits() }
            }
        }
    }

    /// Whether this is one of them.
    #[inline(always)]
    pub const fn has(self, id: PushId) -> bool {
        id.high() & self.mask == self.bits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Endpoint;
    use crate::table::rib::Server;
    use crate::table::{Image, Rib, Tables};

    fn tables(prefixes: &[Vec<PushPrefix>]) -> Tables {
        let server = |(n, prefixes): (usize, &Vec<PushPrefix>)| Server {
            name: n.to_string(),
            address: Endpoint::new([192, 0, 2, n as u8 + 1].into(), 17400),
            prefixes: prefixes.clone(),
            key: None,
        };
        let rib = Rib { servers: prefixes.iter().enumerate().map(server).collect(), ..Rib::default() };
        Tables::new(Image::build(&rib).unwrap(), 1, "0", None)
    }

    fn of(tables: &Tables) -> Home {
        Home::new(tables.own(), &tables.arrays().prefixes)
    }

    fn prefix(bits: u64, len: u8) -> PushPrefix {
        PushPrefix::new(bits, len).unwrap()
    }

    #[test]
    fn it_is_the_shortest_prefix_that_is_undivided() {
        let high = |bits: u64| PushId(u128::from(bits) << 64);
        let whole = of(&tables(&[vec![prefix(0, 0)], vec![]]));
        assert!(whole.has(high(0)) && whole.has(high(u64::MAX)));
        // A part of the first is another's, of the second its own.
        let parts = [prefix(1 << 63, 1), prefix(1 << 61, 4), prefix(1 << 61 | 1 << 55, 10)];
        let home = of(&tables(&[parts.to_vec(), vec![prefix(3 << 62, 2)]]));
        assert!(home.has(high(1 << 61)) && home.has(high(1 << 61 | 1 << 55)) && !home.has(high(1 << 63)));
        let last = of(&tables(&[vec![prefix(5, 64)], vec![]]));
        assert!(last.has(high(5)) && !last.has(high(4)));
        assert_eq!(of(&tables(&[vec![], vec![prefix(0, 0)]])), Home::NONE);
        assert!(!Home::NONE.has(high(0)) && !Home::NONE.has(high(u64::MAX)));
    }

    proptest! {
        #[test]
        fn whom_it_has_the_longest_prefix_has(rows in proptest::collection::btree_map((0u64..256, 0u8..9), 0usize..3, 1..20), ids in proptest::collection::vec(any::<u64>(), 30)) {
            let mut servers = vec![Vec::new(); 3];
            let mut seen = std::collections::BTreeSet::new();
            for ((bits, len), server) in rows {
                let bits = (bits << 56) & u64::MAX.checked_shl(64 - u32::from(len)).unwrap_or(0);
                if seen.insert((bits, len)) {
                    servers[server].push(prefix(bits, len));
                }
            }
            let tables = tables(&servers);
            let home = of(&tables);
            for id in ids.into_iter().map(|high| PushId(u128::from(high) << 64)) {
                let longest = tables.prefixes().lookup(id.high());
                prop_assert!(!home.has(id) || longest == Some(0));
                prop_assert_eq!(tables.route(id), longest);
            }
        }
    }
}
