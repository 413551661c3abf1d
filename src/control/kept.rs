//! An ordered map that tells what it held at one moment, some entries at a time, while it goes on to change.
//!
//! [`Cut`] holds what of a moment is still to be told. Entries are told in the order of their keys. One that changes
//! before its turn is kept as it was and marked, so that its turn passes over it; so is a key that comes to be only
//! then. Nothing is copied when the moment is marked; a change costs a mark, in the worst case the old value, and a part
//! costs the entries that it looks at and those that were kept since the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::RangeBounds;

/// What is still to be told of a moment.
#[derive(Debug)]
pub(super) struct Cut<K, V> {
    /// The last key that had its turn.
    last: Option<K>,
    /// Keys behind it that were kept, or that were not there.
    marked: BTreeSet<K>,
    kept: Vec<(K, V)>,
}

impl<K: Ord + Clone, V> Cut<K, V> {
    pub(super) fn new() -> Self {
        Self { last: None, marked: BTreeSet::new(), kept: Vec::new() }
    }

    /// Where the next turn begins.
    pub(super) fn last(&self) -> Option<&K> {
        self.last.as_ref()
    }

    /// This key and all before it have had their turn.
    pub(super) fn pass(&mut self, key: K) {
        self.last = Some(key);
    }

    /// An entry is about to change, to go, or, where there `was` none, to come.
    pub(super) fn touch(&mut self, key: &K, was: impl FnOnce() -> Option<V>) {
        let had_turn = self.last.as_ref().is_some_and(|last| key <= last);
        if !had_turn && self.marked.insert(key.clone()) {
            self.kept.extend(was().map(|was| (key.clone(), was)));
        }
    }

    /// The next part: what was kept, and of these entries those that are as they were.
    pub(super) fn tell<'a>(&mut self, entries: impl Iterator<Item = (K, &'a V)>) -> Vec<(K, V)>
    where
        V: Clone + 'a,
    {
        let mut part = std::mem::take(&mut self.kept);
        for (key, value) in entries {
            if !self.marked.remove(&key) {
                part.push((key.clone(), value.clone()));
            }
            self.last = Some(key);
        }
        part
    }
}

/// The map.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    map: BTreeMap<K, V>,
    cut: Option<Cut<K, V>>,
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), cut: None }
    }
}

impl<K: Ord + Clone, V: Clone> Kept<K, V> {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// To set what no snapshot holds: a timer.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// To change it.
    pub(super) fn change(&mut self, key: &K) -> Option<&mut V> {
        let value = self.map.get_mut(key)?;
        if let Some(cut) = &mut self.cut {
            cut.touch(key, || Some(value.clone()));
        }
        Some(value)
    }

    /// Sets an entry; what it was.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(cut) = &mut self.cut {
            cut.touch(&key, || self.map.get(&key).cloned());
        }
        self.map.insert(key, value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.map.remove(key)?;
        if let Some(cut) = &mut self.cut {
            cut.touch(key, || Some(value.clone()));
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.map.iter()
    }

    pub(super) fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.map.range(keys)
    }

    /// Marks the moment that the next [`Kept::cut_some`] tell of; one before is given up.
    pub(super) fn begin_cut(&mut self) {
        self.cut = Some(Cut::new());
    }

    /// Entries as they were at the moment of the cut, after looking at so many more; `None` when all were told.
    pub(super) fn cut_some(&mut self, entries: usize) -> Option<Vec<(K, V)>> {
        let cut = self.cut.as_mut()?;
        let from = cut.last().map_or(Unbounded, |last| Excluded(last.clone()));
        let mut left = entries;
        let next = self.map.range((from, Unbounded)).take(entries).inspect(|_| left -= 1);
        let part = cut.tell(next.map(|(key, value)| (key.clone(), value)));
        if left == 0 {
            return Some(part);
        }
        self.cut = None;
        (!part.is_empty()).then_some(part)
    }

    /// Gives the cut up.
    pub(super) fn end_cut(&mut self) {
        self.cut = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Plain = BTreeMap<u8, u32>;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u8, u32),
        Change(u8, u32),
        Remove(u8),
        Begin,
        Some(usize),
        End,
    }

    fn some_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u8..40, any::<u32>()).prop_map(|(key, value)| Op::Insert(key, value)),
            4 => (0u8..40, any::<u32>()).prop_map(|(key, value)| Op::Change(key, value)),
            4 => (0u8..40).prop_map(Op::Remove),
            1 => Just(Op::Begin),
            4 => (1usize..8).prop_map(Op::Some),
            1 => Just(Op::End),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_cut_tells_each_entry_once_as_it_was(ops in prop::collection::vec(some_op(), 1..200)) {
            let mut kept: Kept<u8, u32> = Kept::default();
            let mut plain = Plain::new();
            let mut cut: Option<(Plain, Vec<(u8, u32)>)> = None;
            for op in ops {
                match op {
                    Op::Insert(key, value) => {
                        prop_assert_eq!(kept.insert(key, value), plain.insert(key, value));
                    }
                    Op::Change(key, value) => {
                        if let Some(known) = kept.change(&key) {
                            *known = value;
                            plain.insert(key, value);
                        }
                    }
                    Op::Remove(key) => prop_assert_eq!(kept.remove(&key), plain.remove(&key)),
                    Op::Begin => {
                        kept.begin_cut();
                        cut = Some((plain.clone(), Vec::new()));
                    }
                    Op::Some(entries) => match (kept.cut_some(entries), &mut cut) {
                        (Some(part), Some((_, told))) => told.extend(part),
                        (None, Some((then, told))) => {
                            let count = told.len();
                            let told: Plain = told.drain(..).collect();
                            prop_assert_eq!((told.len(), &told), (count, &*then));
                            cut = None;
                        }
                        (part, None) => prop_assert!(part.is_none()),
                    },
                    Op::End => {
                        kept.end_cut();
                        cut = None;
                    }
                }
                prop_assert!(kept.iter().eq(plain.iter()));
            }
        }
    }
}
