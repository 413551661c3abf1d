//! Which datagrams of a burst leave as one.
//!
//! The kernel takes up to 64 datagrams of one size for one next hop in one send (`UDP_SEGMENT`, Linux 4.18), the
//! last of them perhaps shorter, and walks the stack once for all. So what is to leave is sorted into
//! [`Group`]s, within these rules:
//!
//! - A group has one listening address, one next hop and one size; a shorter datagram may end it.
//! - Datagrams of one flow to one next hop leave in the order in which they were added. A group that
//!   holds a flow keeps what follows of that flow from joining an older group, so different sizes may
//!   mix without one overtaking the other. Flows are told apart by 256 bits a group: taking two for one
//!   costs a group more, never the order.
//! - Nothing waits: every group leaves when the burst is handed over.
//!
//! Groups leave in the order of their first datagrams, so nothing leaves later than it would alone.
//!
//! Cost: a probe of a table of next hops and a look at the youngest groups of one, some 10 ns a datagram; 4
//! bytes a frame, 80 a group, 32 KiB for next hops.

use crate::id::Endpoint;

/// The most datagrams of a group: what every kernel that has segmentation takes.
pub(super) const SEGMENTS_MAX: usize = 64;

/// The most bytes of a group: an IPv4 packet's 65 535 less the headers of IP and UDP, with room for IP options.
const BYTES_MAX: u32 = 65_000;

/// How many of a next hop's groups are looked at, the youngest first.
const LOOK_BACK: usize = 8;

/// Next hops that are told apart at once; what goes to more leaves alone.
const HOPS_MAX: usize = 2048;
const BUCKETS: usize = 2 * HOPS_MAX;

/// No group, or no member.
const NONE: u32 = u32::MAX;

/// What is to leave, as far as grouping it asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) to: Endpoint,
    pub(super) listener: u8,
    pub(super) bytes: u32,
    /// What keeps its order.
    pub(super) flow: u32,
}

/// Datagrams that leave as one, or a single one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) to: Endpoint,
    pub(super) listener: u8,
    pub(super) count: u16,
    /// Of each but the last, which may be shorter.
    pub(super) segment: u32,
    /// Of all.
    pub(super) bytes: u32,
    /// The first member; [`Groups::members`] knows the others.
    pub(super) first: u32,
    last: u32,
    /// The next hop's group before this one.
    older: u32,
    /// No other datagram may join.
    is_full: bool,
    flows: [u64; 4],
}

impl Group {
    /// The one datagram `id`, on its own.
    pub(super) fn alone(id: u32, leaving: &Leaving) -> Self {
        let Leaving { to, listener, bytes, flow } = *leaving;
        let mut group = Self {
            to,
            listener,
            count: 1,
            segment: bytes,
            bytes,
            first: id,
            last: id,
            older: NONE,
            is_full: bytes == 0,
            flows: [0; 4],
        };
        group.note(flow);
        group
    }

    fn note(&mut self, flow: u32) {
        let (word, bit) = place(flow);
        self.flows[word] |= bit;
    }

    const fn may_hold(&self, flow: u32) -> bool {
        let (word, bit) = place(flow);
        self.flows[word] & bit != 0
    }

    const fn takes(&self, bytes: u32) -> bool {
        !self.is_full && bytes == self.segment && self.bytes + bytes <= BYTES_MAX
    }

    /// Whether a group of one may follow as the last, shorter datagram of this one.
    const fn takes_as_last(&self, next: &Self) -> bool {
        !self.is_full
            && next.count == 1
            && next.bytes > 0
            && next.bytes <= self.segment
            && self.bytes + next.bytes <= BYTES_MAX
    }
}

/// Where a flow stands in a group's 256 bits.
const fn place(flow: u32) -> (usize, u64) {
    let hash = flow.wrapping_mul(0x9E37_79B1) >> 24;
    ((hash >> 6) as usize, 1 << (hash & 63))
}

/// A next hop of the datagrams that are being grouped.
#[derive(Clone, Copy, Debug)]
struct Hop {
    /// Of which round this entry is.
    round: u32,
    /// Its youngest group: whose address and listener are this entry's key.
    youngest: u32,
}

/// Sorts datagrams into groups. Datagrams are known by numbers below what it was made for.
#[derive(Debug)]
pub(super) struct Groups {
    /// By number: the next of the same group.
    next: Box<[u32]>,
    groups: Vec<Group>,
    hops: Box<[Hop]>,
    hops_count: usize,
    round: u32,
}

impl Groups {
    /// For datagrams with numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        Self {
            next: vec![NONE; count].into(),
            groups: Vec::with_capacity(count),
            hops: vec![Hop { round: 0, youngest: NONE }; BUCKETS].into(),
            hops_count: 0,
            round: 1,
        }
    }

    /// Adds a datagram to the group that it may join, or as a group of its own.
    #[inline(always)]
    pub(super) fn add(&mut self, id: u32, leaving: &Leaving) {
        let bucket = self.bucket(leaving.to, leaving.listener);
        let youngest = bucket.map_or(NONE, |bucket| self.youngest(bucket));
        if let Some(at) = self.joined(youngest, leaving) {
            let group = &mut self.groups[at];
            self.next[group.last as usize] = id;
            group.last = id;
            group.count += 1;
            group.bytes += leaving.bytes;
            group.is_full = usize::from(group.count) >= SEGMENTS_MAX;
            group.note(leaving.flow);
            return;
        }
        let Some(bucket) = bucket else { return self.add_alone(id, leaving) };
        self.hops_count += usize::from(youngest == NONE);
        self.hops[bucket] = Hop { round: self.round, youngest: self.groups.len() as u32 };
        self.groups.push(Group { older: youngest, ..Group::alone(id, leaving) });
    }

    /// Adds a datagram as a group of its own that nothing joins.
    pub(super) fn add_alone(&mut self, id: u32, leaving: &Leaving) {
        self.groups.push(Group { is_full: true, ..Group::alone(id, leaving) });
    }

    /// The group that a datagram may join, from a next hop's youngest on.
    fn joined(&self, youngest: u32, leaving: &Leaving) -> Option<usize> {
        let mut at = youngest;
        for _ in 0..LOOK_BACK {
            let group = self.groups.get(at as usize)?;
            if group.takes(leaving.bytes) {
                return Some(at as usize);
            }
            // In an older group it would overtake what is here of its flow.
            if group.may_hold(leaving.flow) {
                return None;
            }
            at = group.older;
        }
        None
    }

    /// The entry of a next hop: its own, or a free one; `None` when there are too many.
    #[inline(always)]
    fn bucket(&self, to: Endpoint, listener: u8) -> Option<usize> {
        let mut at = hash(to, listener) as usize % BUCKETS;
        loop {
            let hop = &self.hops[at];
            if hop.round != self.round {
                return (self.hops_count < HOPS_MAX).then_some(at);
            }
            let group = &self.groups[hop.youngest as usize];
            if group.to == to && group.listener == listener {
                return Some(at);
            }
            at = (at + 1) % BUCKETS;
        }
    }

    fn youngest(&self, bucket: usize) -> u32 {
        let hop = &self.hops[bucket];
        if hop.round == self.round { hop.youngest } else { NONE }
    }

    /// Ends the adding: lone datagrams join the group before theirs where they are no longer than it.
    /// The groups are then [`Groups::get`] from 0 on; those without members are to be passed over.
    pub(super) fn finish(&mut self) {
        // Where all that went to a hop went together there is nothing to join.
        for at in (0..self.groups.len()).rev() {
            let group = self.groups[at];
            let Some(older) = self.groups.get_mut(group.older as usize) else { continue };
            if !older.takes_as_last(&group) {
                continue;
            }
            self.next[older.last as usize] = group.first;
            older.last = group.last;
            older.count += 1;
            older.bytes += group.bytes;
            older.is_full = true;
            self.groups[at].count = 0;
        }
    }

    /// How many groups there are, those without members included.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// How many next hops there are that were told apart.
    pub(super) const fn hops(&self) -> usize {
        self.hops_count
    }

    /// A group.
    pub(super) fn get(&self, at: usize) -> &Group {
        &self.groups[at]
    }

    /// The datagrams of a group, in the order in which they leave. Valid until these numbers are added again.
    pub(super) fn members(&self, group: &Group) -> impl Iterator<Item = u32> + '_ {
        let mut at = group.first;
        (0..group.count).map(move |_| {
            let id = at;
            at = self.next[id as usize];
            id
        })
    }

    /// The first datagram of a group as a group of its own, and the others; `None` when there is none.
    pub(super) fn split_first(&self, group: &Group) -> Option<(Group, Group)> {
        let rest = group.count.checked_sub(1)?;
        let bytes = if rest == 0 { group.bytes } else { group.segment };
        let alone = Group { count: 1, segment: bytes, bytes, ..*group };
        let next = self.next[group.first as usize];
        Some((alone, Group { count: rest, bytes: group.bytes - bytes, first: next, ..*group }))
    }

    /// Forgets the groups, for the next burst. Members stay known.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
        self.hops_count = 0;
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            // Every 2^32 bursts entries of old would look like new ones.
            self.hops.fill(Hop { round: 0, youngest: NONE });
            self.round = 1;
        }
    }
}

/// A hash of a next hop. It needs no key: next hops come from the tables, or each costs its sender a datagram.
pub(super) fn hash(to: Endpoint, listener: u8) -> u64 {
    let octets = u128::from_ne_bytes(to.octets());
    let low = octets as u64 ^ u64::from(to.port()) << 40 ^ u64::from(listener) << 56;
    let word = low ^ ((octets >> 64) as u64).rotate_left(23);
    let product = u128::from(word) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    fn to(hop: u16) -> Endpoint {
        Endpoint::new([10, 0, (hop >> 8) as u8, hop as u8].into(), 4789)
    }

    /// The groups with members, as (next hop, sizes, numbers).
    fn group(datagrams: &[(u16, u32, u32)]) -> Vec<(Endpoint, Vec<u32>, Vec<u32>)> {
        let mut groups = Groups::new(datagrams.len());
        for (id, (hop, bytes, flow)) in (0..).zip(datagrams) {
            groups.add(id, &Leaving { to: to(*hop), listener: (*hop % 3) as u8, bytes: *bytes, flow: *flow });
        }
        groups.finish();
        let all = (0..groups.len()).map(|at| groups.get(at)).filter(|group| group.count > 0);
        all.map(|group| {
            let members: Vec<u32> = groups.members(group).collect();
            let sizes: Vec<u32> = members.iter().map(|id| datagrams[*id as usize].1).collect();
            assert_eq!((group.count as usize, group.bytes), (members.len(), sizes.iter().sum()));
            let mut rest = *group;
            for (id, bytes) in members.iter().zip(&sizes) {
                let (alone, others) = groups.split_first(&rest).unwrap();
                assert_eq!((alone.first, alone.count, alone.bytes, alone.segment), (*id, 1, *bytes, *bytes));
                rest = others;
            }
            assert!(groups.split_first(&rest).is_none());
            (group.to, sizes, members)
        })
        .collect()
    }

    /// Of one hop, flow by flow: the sizes of the groups' datagrams.
    fn sizes(datagrams: &[(u32, u32)]) -> Vec<Vec<u32>> {
        let datagrams: Vec<_> = datagrams.iter().map(|(bytes, flow)| (1, *bytes, *flow)).collect();
        group(&datagrams).into_iter().map(|(_, sizes, _)| sizes).collect()
    }

    #[test]
    fn one_size_leaves_together_and_a_shorter_one_ends_it() {
        assert_eq!(sizes(&[(100, 1), (100, 2), (100, 1)]), [[100; 3]]);
        assert_eq!(sizes(&[(100, 1), (100, 2), (99, 3)]), [vec![100, 100, 99]]);
        assert_eq!(sizes(&[(100, 1), (101, 2)]), [vec![100], vec![101]]);
        assert_eq!(sizes(&[(100, 1)]), [[100]]);
        assert_eq!(sizes(&[(0, 1), (0, 2), (5, 3)]), [vec![0], vec![0], vec![5]]);
    }

    #[test]
    fn sizes_mix_and_flows_keep_their_order() {
        let mixed = [(100, 1), (200, 2), (100, 3), (200, 4), (100, 5)];
        assert_eq!(sizes(&mixed), [vec![100; 3], vec![200; 2]]);
        // The second of flow 2 must not leave before the first.
        assert_eq!(sizes(&[(100, 1), (200, 2), (100, 2)]), [vec![100], vec![200, 100]]);
        assert_eq!(sizes(&[(200, 1), (100, 2), (300, 2), (100, 2)]), [vec![200, 100], vec![300, 100]]);
    }

    #[test]
    fn a_group_ends_at_the_kernels_limits() {
        let counts =
            |datagrams: &[(u32, u32)]| -> Vec<usize> { sizes(datagrams).iter().map(Vec::len).collect() };
        assert_eq!(counts(&[(10, 1); 150]), [64, 64, 22]);
        assert_eq!(counts(&[(30_000, 1); 5]), [2, 2, 1]);
        assert_eq!(counts(&[(65_507, 1); 2]), [1, 1]);
    }

    #[test]
    fn more_hops_than_are_told_apart_leave_alone() {
        let many: Vec<_> = (0..6000).map(|n| (n % 3000, 100, u32::from(n))).collect();
        let groups = group(&many);
        assert_eq!(groups.iter().map(|(_, sizes, _)| sizes.len()).sum::<usize>(), 6000);
        assert_eq!(groups.len(), HOPS_MAX + 2 * (3000 - HOPS_MAX));
    }

    proptest! {
        #[test]
        fn every_datagram_leaves_once_within_the_rules(
            datagrams in prop::collection::vec((0u16..4, prop::sample::select(vec![0u32, 1, 64, 65, 128, 9000, 40_000]), 0u32..6), 0..300)
        ) {
            let groups = group(&datagrams);
            let mut left = vec![false; datagrams.len()];
            let mut last: HashMap<(Endpoint, u32), u32> = HashMap::new();
            let mut first = None;
            for (hop, sizes, members) in groups {
                prop_assert!(sizes.len() <= SEGMENTS_MAX && (sizes.len() == 1 || sizes.iter().sum::<u32>() <= BYTES_MAX));
                let (end, body) = sizes.split_last().unwrap();
                prop_assert!(body.iter().all(|bytes| *bytes == sizes[0]) && *end <= sizes[0]);
                prop_assert!(sizes.len() == 1 || *end > 0);
                prop_assert!(Some(members[0]) > first, "groups leave in the order of their first datagrams");
                first = Some(members[0]);
                for id in members {
                    let (to_hop, _, flow) = datagrams[id as usize];
                    prop_assert_eq!(to(to_hop), hop);
                    prop_assert!(!std::mem::replace(&mut left[id as usize], true));
                    prop_assert!(last.insert((hop, flow), id) < Some(id), "{} overtook", id);
                }
            }
            prop_assert!(left.iter().all(|left| *left));
        }

        #[test]
        fn a_round_knows_nothing_of_the_one_before(rounds in prop::collection::vec(prop::collection::vec((0u16..3, 1u32..3, 0u32..3), 1..20), 1..8)) {
            let mut groups = Groups::new(20);
            groups.round = u32::MAX - 2;
            for round in rounds {
                for (id, (hop, bytes, flow)) in (0..).zip(&round) {
                    groups.add(id, &Leaving { to: to(*hop), listener: 0, bytes: *bytes, flow: *flow });
                }
                groups.finish();
                let count: usize = (0..groups.len()).map(|at| usize::from(groups.get(at).count)).sum();
                prop_assert_eq!(count, round.len());
                groups.clear();
            }
        }
    }
}
