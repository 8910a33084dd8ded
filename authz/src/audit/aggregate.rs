//! Denials that are counted instead of recorded one by one, so that a flood cannot fill the queue or the log.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Kind, Outcome, Record};
use crate::denial::Code;
use crate::identity::ServiceId;
use crate::request::Side;

/// What denials are counted by, within one second.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    second: u64,
    peer: Option<Box<str>>,
    code: Code,
    service: Option<ServiceId>,
    inbound: bool,
}

/// Counts of denials without a verified, peer-bound token, by peer, code, service and second.
///
/// Bounded: beyond `capacity` different keys, and beyond a peer's quarter of it, denials are counted by code alone and
/// come out as one `overflow` record.
#[derive(Clone, Debug)]
pub struct Aggregates {
    capacity: usize,
    counts: BTreeMap<Key, u64>,
    /// How many keys of `counts` each peer has.
    shares: BTreeMap<Option<Box<str>>, usize>,
    overflow: BTreeMap<Code, u64>,
}

impl Aggregates {
    /// No denials yet, and room for `capacity` keys.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            counts: BTreeMap::new(),
            shares: BTreeMap::new(),
            overflow: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.overflow.is_empty()
    }

    /// Counts one denial that happened in `second` (Unix time).
    pub fn count(&mut self, second: u64, side: Side, peer: Option<&str>, service: Option<&ServiceId>, code: Code) {
        let key = Key {
            second,
            peer: peer.map(Box::from),
            code,
            service: service.cloned(),
            inbound: side == Side::Inbound,
        };
        if let Some(count) = self.counts.get_mut(&key) {
            *count = count.saturating_add(1);
        } else if self.has_room(&key) {
            *self.shares.entry(key.peer.clone()).or_default() += 1;
            self.counts.insert(key, 1);
        } else {
            self.count_overflow(code, 1);
        }
    }

    /// Counts records that found no room elsewhere, such as in the queue.
    pub fn count_overflow(&mut self, code: Code, count: u64) {
        let total = self.overflow.entry(code).or_default();
        *total = total.saturating_add(count);
    }

    fn has_room(&self, key: &Key) -> bool {
        let share = self.shares.get(&key.peer).copied().unwrap_or_default();
        self.counts.len() < self.capacity && share < self.capacity.div_ceil(4)
    }

    fn release(&mut self, peer: &Option<Box<str>>) {
        if let Some(share) = self.shares.get_mut(peer) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(peer);
            }
        }
    }

    /// Takes out what happened before `second`, as records; overflow is taken along.
    pub fn drain(&mut self, second: u64, workload: &str) -> Vec<Record<'static>> {
        let mut records = Vec::new();
        while let Some(entry) = self.counts.first_entry().filter(|entry| entry.key().second < second) {
            let (key, count) = entry.remove_entry();
            self.release(&key.peer);
            records.push(aggregate(key, count, workload));
        }
        if !self.overflow.is_empty() {
            let mut record = Record::new(Kind::Overflow, second.saturating_mul(1000));
            record.workload = Some(Cow::Owned(workload.to_owned()));
            record.verdict = Some(Outcome::Deny);
            record.counts = std::mem::take(&mut self.overflow).into_iter().collect();
            records.push(record);
        }
        records
    }
}

fn aggregate(key: Key, count: u64, workload: &str) -> Record<'static> {
    Record {
        code: Some(key.code),
        count: Some(count),
        peer: key.peer.map(|peer| Cow::Owned(peer.into())),
        service: key.service.map(|service| Cow::Owned(service.to_string())),
        side: Some(if key.inbound { Side::Inbound } else { Side::Outbound }),
        verdict: Some(Outcome::Deny),
        workload: Some(Cow::Owned(workload.to_owned())),
        ..Record::new(Kind::Aggregate, key.second.saturating_mul(1000))
    }
}
