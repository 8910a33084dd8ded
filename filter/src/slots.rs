//! Who may hold how much of the record queue.
//!
//! Every record that is queued, and every record that a live stream will still write, holds one slot of a fixed
//! number. A stream that cannot have its slots is denied, so nothing that passes goes unrecorded and memory is bounded.
//! The threshold is dynamic: a peer may hold at most as many slots as are free. One hostile peer alone gets half;
//! the more peers press, the smaller each one's share, and some room is always left for a peer that holds nothing.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

/// What one peer holds: its SPIFFE ID, or the empty string for callers without mTLS.
#[derive(Debug)]
pub(crate) struct Account {
    peer: Rc<str>,
    held: Cell<usize>,
}

/// Counts the slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots {
    capacity: usize,
    held: usize,
    /// The accounts that hold something.
    by_peer: HashMap<Rc<str>, Rc<Account>>,
}

/// Slots that a stream holds for records that it will write. It must go back through [`Slots::release`], whole or in
/// parts; dropping it leaks the slots.
#[derive(Debug)]
#[must_use]
pub(crate) struct Reservation {
    account: Rc<Account>,
    slots: usize,
}

impl Reservation {
    /// Takes one slot out, to be handed on to a queued record: that record's holder releases it.
    pub(crate) fn take_one(&mut self) -> Option<Rc<Account>> {
        self.slots = self.slots.checked_sub(1)?;
        Some(Rc::clone(&self.account))
    }
}

impl Slots {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            held: 0,
            by_peer: HashMap::new(),
        }
    }

    /// Slots for `wanted` records on a peer's account, or none of them.
    pub(crate) fn reserve(&mut self, peer: &str, wanted: usize) -> Option<Reservation> {
        let free = self.capacity.saturating_sub(self.held);
        let known = self.by_peer.get(peer);
        let held = known.map_or(0, |account| account.held.get()) + wanted;
        if held > free {
            return None;
        }
        let account = match known {
            Some(account) => Rc::clone(account),
            None => self.open(peer),
        };
        account.held.set(held);
        self.held += wanted;
        Some(Reservation { account, slots: wanted })
    }

    fn open(&mut self, peer: &str) -> Rc<Account> {
        let account = Rc::new(Account {
            peer: peer.into(),
            held: Cell::new(0),
        });
        self.by_peer.insert(Rc::clone(&account.peer), Rc::clone(&account));
        account
    }

    /// Gives back what is left of a reservation.
    pub(crate) fn release(&mut self, reservation: Reservation) {
        for _ in 0..reservation.slots {
            self.release_one(&reservation.account);
        }
    }

    /// Gives back the slot of one record that has left the queue.
    pub(crate) fn release_one(&mut self, account: &Account) {
        let held = account.held.get().saturating_sub(1);
        account.held.set(held);
        if held == 0 {
            self.by_peer.remove(&account.peer);
        }
        self.held = self.held.saturating_sub(1);
    }

    /// Places in all.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the capacity of a changed configuration. What is held stays held.
    pub(crate) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn one_peer_gets_half_and_another_still_finds_room() {
        let mut slots = Slots::new(100);
        let mut greedy = Vec::new();
        while let Some(reservation) = slots.reserve("greedy", 2) {
            greedy.push(reservation);
        }
        assert_eq!(slots.held, 50);
        assert!(slots.reserve("modest", 2).is_some());
    }

    #[test]
    fn shares_shrink_as_peers_press_but_never_to_nothing() {
        let mut slots = Slots::new(1024);
        for peer in ["a", "b", "c", "d"] {
            while slots.reserve(peer, 1).is_some() {}
        }
        // 1/2, 1/4, 1/8, 1/16 of the whole.
        assert_eq!(slots.held, 512 + 256 + 128 + 64);
        assert!(slots.reserve("late", 2).is_some());
    }

    #[test]
    fn what_is_released_can_be_had_again() {
        let mut slots = Slots::new(8);
        let mut reservation = slots.reserve("a", 4).unwrap();
        assert!(slots.reserve("a", 1).is_none());
        let queued = reservation.take_one().unwrap();
        slots.release(reservation);
        assert_eq!(slots.held, 1);
        slots.release_one(&queued);
        assert_eq!(slots.held, 0);
        assert!(slots.by_peer.is_empty());
        assert!(slots.reserve("a", 4).is_some());
    }

    #[test]
    fn a_reservation_is_all_or_nothing() {
        let mut slots = Slots::new(2);
        assert!(slots.reserve("a", 3).is_none());
        assert_eq!(slots.held, 0);
        assert!(slots.by_peer.is_empty());
    }
}
