//! Which numbers of slots belong to which table. No two tables that live at once have one in common, and a range that is used
//! again begins above all generations that it has had: so a token, which has no room for its table, names one object of the
//! process or none.

use std::collections::BTreeMap;

use crate::primitive::Mutex;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) len: u32,
    /// The generation with which its slots begin.
    pub(super) floor: u64,
}

#[derive(Debug)]
struct Numbers {
    next: u64,
    returned: Vec<Range>,
}

/// By the bits of a generation: tokens that are divided otherwise have other numbers.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u32, Numbers>);

static RANGES: Mutex<Ranges> = Mutex::new(Ranges(BTreeMap::new()));

impl Ranges {
    fn take(&mut self, generation_bits: u32, len: u32) -> Option<Range> {
        let numbers = self.0.entry(generation_bits).or_insert(Numbers { next: 0, returned: Vec::new() });
        let fits = numbers.returned.iter().position(|range| range.len >= len);
        if let Some(at) = fits {
            let range = numbers.returned.swap_remove(at);
            if range.len > len {
                numbers.returned.push(Range {
                    first: range.first + len,
                    len: range.len - len,
                    floor: range.floor,
                });
            }
            return Some(Range { len, ..range });
        }
        let end = numbers.next + u64::from(len);
        if end > 1 << (64 - generation_bits) {
            return None;
        }
        let first = u32::try_from(numbers.next).ok()?;
        numbers.next = end;
        // Not 0: a token that was never written is of no object.
        Some(Range { first, len, floor: 1 })
    }

    fn give_back(&mut self, generation_bits: u32, range: Range) {
        // What is used up is not used again.
        if range.floor < (1 << generation_bits) - 1
            && let Some(numbers) = self.0.get_mut(&generation_bits)
        {
            numbers.returned.push(range);
        }
    }
}

/// `None`: there are not so many numbers left.
pub(super) fn take(generation_bits: u32, len: u32) -> Option<Range> {
    RANGES.lock().take(generation_bits, len)
}

pub(super) fn give_back(generation_bits: u32, range: Range) {
    RANGES.lock().give_back(generation_bits, range);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_used_again_begins_where_it_ended() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.take(40, 10), Some(Range { first: 0, len: 10, floor: 1 }));
        assert_eq!(ranges.take(40, 10), Some(Range { first: 10, len: 10, floor: 1 }));
        ranges.give_back(40, Range { first: 0, len: 10, floor: 77 });
        assert_eq!(ranges.take(40, 11), Some(Range { first: 20, len: 11, floor: 1 }));
        assert_eq!(ranges.take(40, 4), Some(Range { first: 0, len: 4, floor: 77 }));
        assert_eq!(ranges.take(40, 6), Some(Range { first: 4, len: 6, floor: 77 }));
    }

    #[test]
    fn a_range_whose_generations_are_used_up_is_not_used_again_and_numbers_come_to_an_end() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.take(60, 16), Some(Range { first: 0, len: 16, floor: 1 }));
        assert_eq!(ranges.take(60, 1), None);
        ranges.give_back(60, Range { first: 0, len: 16, floor: (1 << 60) - 1 });
        assert_eq!(ranges.take(60, 1), None);
        ranges.give_back(60, Range { first: 0, len: 16, floor: (1 << 60) - 2 });
        assert!(ranges.take(60, 1).is_some());
    }
}
