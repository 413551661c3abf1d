//! A hierarchical timer wheel (Varghese and Lauck, SOSP 1987): what is due is found without looking at
//! what is not.
//!
//! A tick is one millisecond of the monotonic clock. Eleven levels of 64 slots cover all 64 bits, so no
//! deadline is too far. Setting and cancelling touch one list each; a timer moves down a level at most
//! eleven times in its life, and with validities of up to a day at most four times. Costs 24 bytes a
//! timer with a key of 4 bytes, and 3 KiB a wheel.

use std::num::NonZeroU32;

use crate::clock::Now;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 64_usize.div_ceil(SLOT_BITS as usize);
/// The list of what is due already.
const DUE: usize = SLOTS * LEVELS;
const NIL: u32 = u32::MAX;

/// Nanoseconds in a tick.
const TICK_NS: u64 = 1_000_000;

/// The tick that this instant lies in: what is due by then may fire.
pub(super) const fn tick(now: Now) -> u64 {
    now.mono_ns / TICK_NS
}

/// The first tick that is at least so many milliseconds away.
pub(super) const fn tick_after(now: Now, ms: u64) -> u64 {
    now.mono_ns.saturating_add(ms.saturating_mul(TICK_NS)).div_ceil(TICK_NS)
}

/// When a tick begins, on the monotonic clock.
pub(super) const fn tick_ns(tick: u64) -> u64 {
    tick.saturating_mul(TICK_NS)
}

/// A timer that was set, until it fired or was cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TimerId(NonZeroU32);

#[derive(Clone, Copy, Debug)]
struct Node<K> {
    deadline: u64,
    next: u32,
    prev: u32,
    /// Which list it stands in.
    list: u16,
    key: K,
}

/// Timers, each with a key that says whose it is.
#[derive(Debug)]
pub(super) struct Wheel<K> {
    now: u64,
    nodes: Vec<Node<K>>,
    free: u32,
    heads: Box<[u32]>,
    /// A bit for each slot that is not empty.
    occupied: [u64; LEVELS],
    len: usize,
}

impl<K: Copy> Default for Wheel<K> {
    fn default() -> Self {
        Self {
            now: 0,
            nodes: Vec::new(),
            free: NIL,
            heads: vec![NIL; DUE + 1].into_boxed_slice(),
            occupied: [0; LEVELS],
            len: 0,
        }
    }
}

impl<K: Copy> Wheel<K> {
    /// How many timers are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Sets a timer for this tick; one that lies behind is due at once.
    pub(super) fn set(&mut self, deadline: u64, key: K) -> TimerId {
        let node = Node { deadline, next: NIL, prev: NIL, list: 0, key };
        let at = match self.free {
            NIL => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
            at => {
                self.free = self.nodes[at as usize].next;
                self.nodes[at as usize] = node;
                at
            }
        };
        self.link(at);
        self.len += 1;
        // Counted from 1: an optional one takes no more room.
        TimerId(NonZeroU32::MIN.saturating_add(at))
    }

    /// Takes a timer back that has not fired.
    pub(super) fn cancel(&mut self, timer: TimerId) {
        self.remove(timer.0.get() - 1);
    }

    /// A timer that is due at this tick: it has fired. Call it until there is none; only then is the
    /// wheel's own time `to`.
    pub(super) fn pop(&mut self, to: u64) -> Option<K> {
        loop {
            let due = self.heads[DUE];
            if due != NIL {
                let key = self.nodes[due as usize].key;
                self.remove(due);
                return Some(key);
            }
            match self.next_slot() {
                Some((start, list)) if start <= to => {
                    self.now = start;
                    self.spill(list);
                }
                _ => {
                    self.now = self.now.max(to);
                    return None;
                }
            }
        }
    }

    /// A tick at or before which nothing is due, and at which [`Wheel::pop`] has work: that of the next
    /// timer, or an earlier one at which timers move down a level.
    pub(super) fn next_tick(&self) -> Option<u64> {
        if self.heads[DUE] != NIL { Some(self.now) } else { self.next_slot().map(|(start, _)| start) }
    }

    /// The first slot after now that is not empty: when it begins, and its list. A level's slots all lie
    /// before those of the next, so the first level with one has it.
    fn next_slot(&self) -> Option<(u64, usize)> {
        (0..LEVELS).find_map(|level| {
            let shift = level as u32 * SLOT_BITS;
            let current = (self.now >> shift) as u32 % SLOTS as u32;
            let later = self.occupied[level] & (u64::MAX << current) << 1;
            let slot = (later != 0).then(|| later.trailing_zeros())?;
            let above = shift + SLOT_BITS;
            let base = if above < u64::BITS { self.now >> above << above } else { 0 };
            Some((base | u64::from(slot) << shift, level * SLOTS + slot as usize))
        })
    }

    /// Puts every timer of a slot that now has begun where it belongs.
    fn spill(&mut self, list: usize) {
        let mut at = self.heads[list];
        self.heads[list] = NIL;
        self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        while at != NIL {
            let next = self.nodes[at as usize].next;
            self.link(at);
            at = next;
        }
    }

    /// The level of a deadline is that of the highest bit in which it differs from now.
    fn list_of(&self, deadline: u64) -> usize {
        if deadline <= self.now {
            return DUE;
        }
        let level = (self.now ^ deadline).ilog2() / SLOT_BITS;
        level as usize * SLOTS + (deadline >> (level * SLOT_BITS)) as usize % SLOTS
    }

    fn link(&mut self, at: u32) {
        let list = self.list_of(self.nodes[at as usize].deadline);
        let head = std::mem::replace(&mut self.heads[list], at);
        if let Some(node) = self.nodes.get_mut(head as usize) {
            node.prev = at;
        }
        let node = &mut self.nodes[at as usize];
        (node.next, node.prev, node.list) = (head, NIL, list as u16);
        if list != DUE {
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
        }
    }

    fn remove(&mut self, at: u32) {
        let Node { next, prev, list, .. } = self.nodes[at as usize];
        let list = usize::from(list);
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.prev = prev;
        }
        match self.nodes.get_mut(prev as usize) {
            Some(node) => node.next = next,
            None => {
                self.heads[list] = next;
                if next == NIL && list != DUE {
                    self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
                }
            }
        }
        self.nodes[at as usize].next = self.free;
        self.free = at;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Set(u64),
        Cancel(prop::sample::Index),
        Advance(u64),
        /// To the tick that the wheel names.
        Follow,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let far = (0u32..64).prop_flat_map(|bits| 0..=1u64 << bits);
        let op = prop_oneof![
            3 => far.clone().prop_map(Op::Set),
            1 => any::<prop::sample::Index>().prop_map(Op::Cancel),
            1 => prop_oneof![0u64..200, 0u64..1 << 20, far].prop_map(Op::Advance),
            1 => Just(Op::Follow),
        ];
        prop::collection::vec(op, 0..200)
    }

    proptest! {
        /// The plain version: a sorted map of deadlines.
        #[test]
        fn timers_fire_as_those_of_a_sorted_map(start in prop_oneof![Just(0u64), any::<u32>().prop_map(u64::from), Just(u64::MAX - 5000)], ops in ops()) {
            let mut wheel = Wheel::default();
            prop_assert_eq!(wheel.pop(start), None);
            let (mut now, mut key) = (start, 0u32);
            let mut oracle: BTreeMap<(u64, u32), TimerId> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Set(delay) => {
                        let deadline = now.saturating_add(delay).saturating_sub(3);
                        oracle.insert((deadline, key), wheel.set(deadline, key));
                        key += 1;
                    }
                    Op::Cancel(index) => {
                        if !oracle.is_empty() {
                            let found = *index.get(&oracle.keys().copied().collect::<Vec<_>>());
                            wheel.cancel(oracle.remove(&found).unwrap());
                        }
                    }
                    Op::Advance(_) | Op::Follow => {
                        let next = wheel.next_tick();
                        prop_assert_eq!(next.is_some(), !oracle.is_empty());
                        if let (Some(next), Some(((first, _), _))) = (next, oracle.first_key_value()) {
                            prop_assert!(next <= (*first).max(now), "a timer would fire late");
                        }
                        now = match op {
                            Op::Advance(by) => now.saturating_add(by),
                            _ => next.unwrap_or(now).max(now),
                        };
                        let mut fired: Vec<u32> = std::iter::from_fn(|| wheel.pop(now)).collect();
                        fired.sort_unstable();
                        let mut due = Vec::new();
                        oracle.retain(|(deadline, key), _| {
                            if *deadline <= now {
                                due.push(*key);
                            }
                            *deadline > now
                        });
                        due.sort_unstable();
                        prop_assert_eq!(fired, due);
                    }
                }
                prop_assert_eq!(wheel.len(), oracle.len());
            }
        }
    }

    #[test]
    fn a_timer_never_fires_before_its_time() {
        let now = Now { mono_ns: 5_000_001, unix_ms: 0 };
        assert_eq!((tick(now), tick_after(now, 0), tick_after(now, 10)), (5, 6, 16));
        assert_eq!(tick_ns(16), 16_000_000);
        assert_eq!(tick_after(now, u64::MAX), u64::MAX.div_ceil(TICK_NS));
    }

    #[test]
    fn following_the_named_ticks_takes_few_steps() {
        let mut wheel = Wheel::default();
        wheel.pop(12_345);
        wheel.set(12_345 + 86_400_000, ());
        let mut steps = 0;
        while let Some(next) = wheel.next_tick() {
            steps += 1;
            wheel.pop(next);
        }
        assert!(steps <= 6, "{steps}");
    }
}
