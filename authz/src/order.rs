//! Sorting by one copy of the algorithm for all types.
//!
//! The standard library's sorts are compiled anew for each type, up to 12 KB of WebAssembly each, and every worker of every sidecar
//! holds the module. What is sorted here is short, or sorted once a policy.

use std::cmp::Ordering;

/// Sorts in place. Equal items keep their order.
pub(crate) fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

/// Sorts in place by an order. Equal items keep theirs.
pub(crate) fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let at = |one: usize, other: usize| match (items.get(one), items.get(other)) {
        (Some(one), Some(other)) => compare(one, other),
        // INVARIANT: only places of items are compared.
        _ => Ordering::Equal,
    };
    let mut places = sorted_places(items.len(), &at);
    for place in 0..items.len() {
        // Where an item was that stood before this place, it is now where the one that took its place came from.
        let mut from = places.get(place).copied().unwrap_or(place);
        while from < place {
            from = places.get(from).copied().unwrap_or(place);
        }
        if let Some(moved) = places.get_mut(place) {
            *moved = from;
        }
        items.swap(place, from);
    }
}

/// The places of so many items, in the order that they are to have.
fn sorted_places(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_unstable_by(|one, other| compare(*one, *other).then(one.cmp(other)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_sorted_and_equal_ones_keep_their_order() {
        // Numbers that repeat, of a generator with a full period.
        let mut state = 1_u32;
        for count in 0..300_u32 {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 26
            };
            let mut items: Vec<(u32, u32)> = (0..count).map(|number| (next(), number)).collect();
            let mut expected = items.clone();
            expected.sort_by_key(|item| item.0);
            sort_by(&mut items, |one, other| one.0.cmp(&other.0));
            assert_eq!(items, expected);
            items.reverse();
            sort(&mut items);
            assert_eq!(items, expected, "by the whole item it is the same");
        }
    }
}
