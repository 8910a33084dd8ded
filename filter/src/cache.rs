//! Tokens whose signature has been verified by this VM.
//!
//! A signature costs many times a look-up. Only the signature is remembered: time, agent state, audience and policy are
//! decided anew for every request.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use authz::audit::RecordedClaims;
use authz::claims::Claims;
use authz::token::VerifiedToken;

/// A verified token and what every record of a decision on it holds.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) token: VerifiedToken,
    pub(crate) recorded: RecordedClaims<'static>,
}

impl Verified {
    pub(crate) fn claims(&self) -> &Claims {
        self.token.claims()
    }
}

impl From<VerifiedToken> for Verified {
    fn from(token: VerifiedToken) -> Self {
        let recorded = RecordedClaims::of(token.claims());
        Self { token, recorded }
    }
}

/// The end of a token, where 192 bits of its signature stand.
type End = [u8; 32];

/// Verified tokens, oldest first out.
///
/// They are found by their end, which the map hashes under a random key of this VM, and are the same only if every byte is:
/// two tokens of one end take each other's place, never each other's verdict.
#[derive(Debug)]
pub(crate) struct TokenCache<T = Verified> {
    capacity: usize,
    entries: HashMap<End, Entry<T>>,
    order: VecDeque<End>,
}

#[derive(Debug)]
struct Entry<T> {
    compact: Box<str>,
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

    /// The token of this very text, unless it has expired at `now`.
    pub(crate) fn get(&self, compact: &str, now: u64) -> Option<Rc<T>> {
        self.entries
            .get(compact.as_bytes().last_chunk()?)
            .filter(|entry| *entry.compact == *compact && now < entry.expires)
            .map(|entry| Rc::clone(&entry.token))
    }

    /// Remembers a token until `expires`, at the cost of the oldest.
    pub(crate) fn insert(&mut self, compact: &str, token: Rc<T>, expires: u64) {
        let Some(end) = compact.as_bytes().last_chunk() else {
            return;
        };
        let entry = Entry {
            compact: compact.into(),
            token,
            expires,
        };
        if let Some(known) = self.entries.get_mut(end) {
            *known = entry;
            return;
        }
        while self.entries.len() >= self.capacity {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
        self.entries.insert(*end, entry);
        self.order.push_back(*end);
    }

    /// Forgets what has expired at `now`, and what `keep` refuses.
    pub(crate) fn retain(&mut self, now: u64, keep: impl Fn(&T) -> bool) {
        self.entries
            .retain(|_, entry| now < entry.expires && keep(&entry.token));
        self.order.retain(|end| self.entries.contains_key(end));
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

    /// A text like a token's, whose end is that of `n`.
    fn token(n: u8) -> String {
        format!("header.payload.{n:0>86}")
    }

    #[test]
    fn nothing_is_served_at_or_past_its_expiry() {
        let mut cache = TokenCache::new(4);
        cache.insert(&token(1), Rc::new("one"), 100);
        assert_eq!(cache.get(&token(1), 99).as_deref(), Some(&"one"));
        assert_eq!(cache.get(&token(1), 100), None);
        assert_eq!(cache.get(&token(2), 0), None);
    }

    #[test]
    fn one_byte_anywhere_makes_another_token() {
        let mut cache = TokenCache::new(4);
        let text = token(1);
        cache.insert(&text, Rc::new(()), 100);
        for place in 0..text.len() {
            let mut other = text.clone();
            other.replace_range(place..=place, "_");
            assert_eq!(cache.get(&other, 0), None, "{other}");
        }
        for other in ["", "short", &format!("x{text}"), &format!("{text}x")] {
            assert_eq!(cache.get(other, 0), None, "{other}");
        }
        assert!(cache.get(&text, 0).is_some());
    }

    #[test]
    fn tokens_of_one_end_take_each_others_place() {
        let mut cache = TokenCache::new(4);
        let (one, two) = (token(1), format!("x{}", token(1)));
        cache.insert(&one, Rc::new(1), 100);
        cache.insert(&two, Rc::new(2), 100);
        assert_eq!(cache.get(&one, 0), None);
        assert_eq!(cache.get(&two, 0).as_deref(), Some(&2));
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut cache = TokenCache::new(2);
        for n in 1..=3 {
            cache.insert(&token(n), Rc::new(n), 100);
        }
        assert_eq!(cache.get(&token(1), 0), None);
        assert_eq!(cache.get(&token(3), 0).as_deref(), Some(&3));
        assert_eq!((cache.entries.len(), cache.order.len()), (2, 2));
    }

    #[test]
    fn the_same_token_twice_takes_one_place() {
        let mut cache = TokenCache::new(2);
        for _ in 0..5 {
            cache.insert(&token(1), Rc::new(()), 100);
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
    }

    #[test]
    fn retain_forgets_in_both_places() {
        let mut cache = TokenCache::new(4);
        cache.insert(&token(1), Rc::new(1), 100);
        cache.insert(&token(2), Rc::new(2), 100);
        cache.insert(&token(3), Rc::new(3), 10);
        cache.retain(10, |n| *n != 2);
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
        assert!(cache.get(&token(1), 10).is_some());
    }
}
