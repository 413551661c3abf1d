//! From the numbers that a message or a row carries (application, realm, key) to the rows of a table: few, looked up
//! for every message.
//!
//! Open addressing over a power of two of places, at most a quarter full, in the order of a multiplication: 32 bytes a
//! number at most, one place a lookup but rarely. The numbers come from the operator's files, so nobody outside can
//! make them crowd.

/// Numbers and what they lead to.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Number and index plus one; zero: free.
    places: Box<[(u32, u32)]>,
    shift: u32,
}

impl Numbers {
    /// Distinct numbers; each leads to its index.
    pub(super) fn new(all: impl ExactSizeIterator<Item = u32>) -> Self {
        let count = (all.len() * 4).next_power_of_two().max(8);
        let mut numbers =
            Self { places: vec![(0, 0); count].into(), shift: u64::BITS - count.trailing_zeros() };
        for (number, index) in all.zip(0..) {
            let mut place = numbers.home(number);
            while numbers.places[place].1 != 0 {
                place = (place + 1) % count;
            }
            numbers.places[place] = (number, index + 1);
        }
        numbers
    }

    #[inline(always)]
    fn home(&self, number: u32) -> usize {
        (u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    /// What this number leads to.
    #[inline(always)]
    pub(super) fn get(&self, number: u32) -> Option<u32> {
        let mut place = self.home(number);
        loop {
            let (found, index) = self.places[place];
            if found == number || index == 0 {
                return index.checked_sub(1);
            }
            place = (place + 1) % self.places.len();
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.places[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_found_and_no_other() {
        for count in [0u32, 1, 2, 5, 1000] {
            for step in [1, 3, 1 << 22] {
                let number = |n: u32| n.wrapping_mul(step);
                let numbers = Numbers::new((0..count).map(number));
                for n in 0..count {
                    assert_eq!(numbers.get(number(n)), Some(n));
                }
                for stranger in [1u32 << 31, u32::MAX, number(count) + 1] {
                    assert!((0..count).map(number).any(|n| n == stranger) || numbers.get(stranger).is_none());
                }
            }
        }
    }
}
