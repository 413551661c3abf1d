//! Uniqueness over millions of rows: 8 bytes a row, sorted; exact keys only for the few rows whose
//! fingerprints agree.

use std::hash::Hash;

use ahash::{AHashMap, AHashSet, RandomState};

/// Clashes told with their place; the rest is counted.
const TOLD: usize = 1000;

/// Pairs of rows (later, earlier) with one key, by the later one.
pub(super) struct Clashes {
    pub(super) pairs: Vec<(usize, usize)>,
    /// How many more there are.
    pub(super) more: usize,
}

/// Finds the rows of `0..rows` whose key an earlier row has, where `clash(later, earlier)` says
/// that this is a fault. A row without a key clashes with none.
pub(super) fn clashes<K: Hash + Eq>(
    rows: usize,
    key: impl Fn(usize) -> Option<K>,
    clash: impl Fn(usize, usize) -> bool,
) -> Clashes {
    let hasher = RandomState::new();
    let fingerprint = |row| key(row).map(|key| hasher.hash_one(key));
    let mut prints: Vec<u64> = Vec::with_capacity(rows);
    prints.extend((0..rows).filter_map(fingerprint));
    prints.sort_unstable();
    let repeated: AHashSet<u64> =
        prints.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    drop(prints);

    let mut clashes = Clashes { pairs: Vec::new(), more: 0 };
    if repeated.is_empty() {
        return clashes;
    }
    let mut first = AHashMap::new();
    for row in 0..rows {
        let Some(key) = key(row).filter(|key| repeated.contains(&hasher.hash_one(key))) else { continue };
        let earlier = *first.entry(key).or_insert(row);
        if earlier == row || !clash(row, earlier) {
            continue;
        }
        if clashes.pairs.len() < TOLD {
            clashes.pairs.push((row, earlier));
        } else {
            clashes.more += 1;
        }
    }
    clashes
}

/// Which line each row came from, kept only where lines were skipped.
#[derive(Default)]
pub(super) struct Lines {
    /// From this row on, rows follow each other from this line on.
    marks: Vec<(usize, usize)>,
}

impl Lines {
    /// Row `row` (one more than the last) stands in this line.
    pub(super) fn push(&mut self, row: usize, line: usize) {
        if self.marks.last().is_none_or(|(first, start)| start + (row - first) != line) {
            self.marks.push((row, line));
        }
    }

    /// The line of a row, from 1.
    pub(super) fn line(&self, row: usize) -> usize {
        let after = self.marks.partition_point(|(first, _)| *first <= row);
        after.checked_sub(1).and_then(|at| self.marks.get(at)).map_or(1, |(first, line)| line + (row - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_rows_clash_with_the_first() {
        let keys = [Some(1), Some(2), None, Some(1), None, Some(2), Some(1), Some(3)];
        let found = clashes(keys.len(), |row| keys[row], |_, _| true);
        assert_eq!((found.pairs, found.more), (vec![(3, 0), (5, 1), (6, 0)], 0));
        let found = clashes(keys.len(), |row| keys[row], |later, _| later == 5);
        assert_eq!(found.pairs, [(5, 1)]);
        let found = clashes(5000, |_| Some(0), |_, _| true);
        assert_eq!((found.pairs.len(), found.more), (1000, 3999));
    }

    #[test]
    fn lines_skip_comments() {
        let mut lines = Lines::default();
        let numbers = [2, 3, 4, 7, 8, 20];
        for (row, line) in numbers.into_iter().enumerate() {
            lines.push(row, line);
        }
        assert_eq!(lines.marks.len(), 3);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|row| lines.line(row)), numbers);
    }
}
