//! Tokens whose signature has been verified by this VM.
//!
//! A signature costs fifteen times a look-up. Only the signature is remembered: time, agent state, audience and
//! policy are decided anew for every request.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use authz::digest::Digest;
use authz::token::VerifiedToken;

/// Verified tokens by the SHA-256 of their compact form, oldest first out.
#[derive(Debug)]
pub(crate) struct TokenCache<T = VerifiedToken> {
    capacity: usize,
    entries: HashMap<Digest, Entry<T>>,
    order: VecDeque<Digest>,
}

#[derive(Debug)]
struct Entry<T> {
    token: Rc<T>,
    expires: u64,
}

impl<T> TokenCache<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The token with this digest, unless it has expired at `now`.
    pub(crate) fn get(&self, digest: &Digest, now: u64) -> Option<Rc<T>> {
        self.entries
            .get(digest)
            .filter(|entry| now < entry.expires)
            .map(|entry| Rc::clone(&entry.token))
    }

    /// Remembers a token until `expires`, at the cost of the oldest.
    pub(crate) fn insert(&mut self, digest: Digest, token: Rc<T>, expires: u64) {
        while self.entries.len() >= self.capacity {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
        if self.entries.insert(digest, Entry { token, expires }).is_none() {
            self.order.push_back(digest);
        }
    }

    /// Forgets what has expired at `now`, and what `keep` refuses.
    pub(crate) fn retain(&mut self, now: u64, keep: impl Fn(&T) -> bool) {
        self.entries
            .retain(|_, entry| now < entry.expires && keep(&entry.token));
        self.order.retain(|digest| self.entries.contains_key(digest));
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    /// Sets the capacity of a changed configuration.
    pub(crate) fn resize(&mut self, capacity: usize) {
        if capacity < self.capacity {
            self.clear();
        }
        self.capacity = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    #[test]
    fn nothing_is_served_at_or_past_its_expiry() {
        let mut cache = TokenCache::new(4);
        cache.insert(digest(1), Rc::new("one"), 100);
        assert_eq!(cache.get(&digest(1), 99).as_deref(), Some(&"one"));
        assert_eq!(cache.get(&digest(1), 100), None);
        assert_eq!(cache.get(&digest(2), 0), None);
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut cache = TokenCache::new(2);
        for n in 1..=3 {
            cache.insert(digest(n), Rc::new(n), 100);
        }
        assert_eq!(cache.get(&digest(1), 0), None);
        assert_eq!(cache.get(&digest(3), 0).as_deref(), Some(&3));
        assert_eq!((cache.entries.len(), cache.order.len()), (2, 2));
    }

    #[test]
    fn the_same_token_twice_takes_one_place() {
        let mut cache = TokenCache::new(2);
        for _ in 0..5 {
            cache.insert(digest(1), Rc::new(()), 100);
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
    }

    #[test]
    fn retain_forgets_in_both_places() {
        let mut cache = TokenCache::new(4);
        cache.insert(digest(1), Rc::new(1), 100);
        cache.insert(digest(2), Rc::new(2), 100);
        cache.insert(digest(3), Rc::new(3), 10);
        cache.retain(10, |n| *n != 2);
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
        assert!(cache.get(&digest(1), 10).is_some());
    }
}
