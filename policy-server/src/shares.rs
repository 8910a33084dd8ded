//! Shares: what one caller may occupy, so that it cannot occupy what others need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use authz::identity::SpiffeId;

/// Counts how much each peer occupies; a peer that occupies nothing takes no memory.
#[derive(Debug, Clone)]
pub struct Shares {
    held: Arc<Mutex<HashMap<SpiffeId, usize>>>,
    most: usize,
}

impl Shares {
    /// At most `most` places a peer.
    pub fn new(most: usize) -> Self {
        Self {
            held: Arc::default(),
            most,
        }
    }

    /// Takes a place, if the peer has one left; it is given back when the place is dropped.
    pub fn take(&self, peer: &SpiffeId) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(peer.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            shares: self.clone(),
            peer: peer.clone(),
        })
    }

    fn give_back(&self, peer: &SpiffeId) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(peer);
            }
        }
    }
}

/// A taken place.
#[derive(Debug)]
pub struct Place {
    shares: Shares,
    peer: SpiffeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.give_back(&self.peer);
    }
}

/// Counts what each peer did in the current minute.
#[derive(Debug)]
pub struct PerMinute {
    counted: Mutex<(u64, HashMap<SpiffeId, u32>)>,
    most: u32,
}

impl PerMinute {
    /// At most `most` times a minute and peer.
    pub fn new(most: u32) -> Self {
        Self {
            counted: Mutex::default(),
            most,
        }
    }

    /// Counts once, unless the peer has used up its minute. `now` is in seconds.
    pub fn count(&self, peer: &SpiffeId, now: u64) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now / 60;
        if counted.0 != minute {
            *counted = (minute, HashMap::new());
        }
        let count = counted.1.entry(peer.clone()).or_default();
        if *count >= self.most {
            return false;
        }
        *count += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn peer(name: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/agents/sa/{name}").parse().unwrap()
    }

    #[test]
    fn one_peer_cannot_take_what_another_needs() {
        let shares = Shares::new(2);
        let places = [shares.take(&peer("a")), shares.take(&peer("a"))];
        assert!(places.iter().all(Option::is_some));
        assert!(shares.take(&peer("a")).is_none());
        assert!(shares.take(&peer("b")).is_some());
        drop(places);
        assert!(shares.take(&peer("a")).is_some());
        assert!(shares.held.lock().unwrap().is_empty());
    }

    #[test]
    fn a_minute_ends() {
        let minutes = PerMinute::new(1);
        assert!(minutes.count(&peer("a"), 60));
        assert!(!minutes.count(&peer("a"), 119));
        assert!(minutes.count(&peer("b"), 119));
        assert!(minutes.count(&peer("a"), 120));
    }
}
