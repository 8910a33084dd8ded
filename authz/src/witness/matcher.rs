//! Which calls of a log there is anything to judge about.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::{COMPLETE, End, serves};
use crate::digest::Digest;

/// What of a call is matched: that it began, or how it ended. They may lie hours apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its decisions.
    Decided,
    /// Its completions.
    Ended,
}

/// What one record tells of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The call's id; None of what came without one.
    call: Option<String>,
    /// The workload that made it.
    caller: String,
    outbound: bool,
    /// How it ended; None if it begins.
    end: Option<End>,
}

/// The fields of a record that say it. Records were verified before they were stored.
#[derive(Deserialize)]
struct Told {
    kind: String,
    side: Option<String>,
    call: Option<String>,
    workload: Option<String>,
    peer: Option<String>,
    service: Option<String>,
    verdict: Option<String>,
    end: Option<String>,
    status: Option<u64>,
    request_digest: Option<String>,
    response_digest: Option<String>,
}

impl Sighting {
    /// Reads the canonical bytes of a stored record. None of what says nothing here: denials at the caller's side, which
    /// never arrive anywhere; what is for the policy server, which has no filter; ends that cannot be compared.
    pub fn read(canonical: &[u8]) -> Option<Self> {
        let told: Told = serde_json::from_slice(canonical).ok()?;
        told.service.as_ref()?;
        let outbound = match told.side.as_deref()? {
            "outbound" => true,
            "inbound" => false,
            _ => return None,
        };
        let end = match &*told.kind {
            "decision" if outbound && told.verdict.as_deref() != Some("permit") => return None,
            "decision" => None,
            "completion" if told.end.as_deref() != Some(COMPLETE) || !serves(told.status) => return None,
            "completion" => Some(End {
                status: told.status,
                request: digest(told.request_digest.as_deref())?,
                response: digest(told.response_digest.as_deref())?,
            }),
            _ => return None,
        };
        Some(Self {
            call: told.call,
            caller: if outbound { told.workload? } else { told.peer? },
            outbound,
            end,
        })
    }
}

/// None if it is none; absent is fine.
fn digest(text: Option<&str>) -> Option<Option<Digest>> {
    match text {
        Some(text) => Digest::from_base64url(text).ok().map(Some),
        None => Some(None),
    }
}

/// A call to be judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// What of it.
    pub phase: Phase,
    /// Its id; None of one that came without.
    pub call: Option<String>,
    /// The workload that made it.
    pub caller: String,
    /// The position of the record that it was first seen by.
    pub position: u64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    phase: Phase,
    /// Of a call without an id, the position of its record.
    call: Result<String, u64>,
    caller: String,
}

/// What has been told of a call.
struct Open {
    position: u64,
    out: Option<Option<End>>,
    /// The last attempt; one that agrees settles the call.
    arrived: Option<Option<End>>,
    /// Attempts told of different request bodies.
    contested: bool,
}

impl Open {
    /// Whether both sides have told the same.
    fn is_settled(&self) -> bool {
        !self.contested && matches!((&self.out, &self.arrived), (Some(out), Some(arrived)) if out == arrived)
    }

    fn add(&mut self, outbound: bool, end: Option<End>) {
        if outbound {
            self.out = Some(end);
            return;
        }
        if let (Some(Some(before)), Some(end)) = (&self.arrived, &end) {
            self.contested |= before.request != end.request;
        }
        self.arrived = Some(end);
    }

    /// Whether there is something to judge once nothing more is to be expected.
    fn is_suspicious(&self, phase: Phase) -> bool {
        match phase {
            // What was let out need not arrive.
            Phase::Decided => self.arrived.is_some(),
            Phase::Ended => true,
        }
    }
}

/// Matches what both sides tell of calls, in the order of the log.
pub struct Matcher {
    open: HashMap<Key, Open>,
    /// The same by the position that each was first seen at, with when that was received.
    order: BTreeMap<u64, (Key, u64)>,
    most: usize,
    dropped: u64,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.open.len();
        f.debug_struct("Matcher").field("open", &open).finish_non_exhaustive()
    }
}

impl Matcher {
    /// Nothing has been seen. At most `most` calls are remembered; beyond, the oldest is dropped unjudged.
    pub fn new(most: usize) -> Self {
        Self {
            open: HashMap::new(),
            order: BTreeMap::new(),
            most: most.max(1),
            dropped: 0,
        }
    }

    /// Takes the next record of the log, received at a time.
    pub fn see(&mut self, position: u64, received_ms: u64, sighting: Sighting) {
        let Sighting {
            call,
            caller,
            outbound,
            end,
        } = sighting;
        let phase = if end.is_some() { Phase::Ended } else { Phase::Decided };
        if call.is_none() && (outbound || phase == Phase::Ended) {
            // The caller's side gives every call an id; the end of one without is judged with its beginning.
            return;
        }
        let key = Key {
            phase,
            call: call.ok_or(position),
            caller,
        };
        let open = match self.open.entry(key.clone()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                self.order.insert(position, (key.clone(), received_ms));
                place.insert(Open {
                    position,
                    out: None,
                    arrived: None,
                    contested: false,
                })
            }
        };
        open.add(outbound, end);
        if open.is_settled() {
            let position = open.position;
            self.open.remove(&key);
            self.order.remove(&position);
        }
        while self.order.len() > self.most {
            if let Some((_, (key, _))) = self.order.pop_first() {
                self.open.remove(&key);
                self.dropped += 1;
            }
        }
    }

    /// The next call that was first seen at this time or before, and is to be judged.
    pub fn due(&mut self, received_ms: u64) -> Option<Candidate> {
        loop {
            let first = self.order.first_entry()?;
            if first.get().1 > received_ms {
                return None;
            }
            let (position, (key, _)) = first.remove_entry();
            if self.open.remove(&key).is_some_and(|open| open.is_suspicious(key.phase)) {
                return Some(Candidate {
                    phase: key.phase,
                    call: key.call.ok(),
                    caller: key.caller,
                    position,
                });
            }
        }
    }

    /// The position of the oldest record that something hangs on; None if there is none.
    pub fn oldest(&self) -> Option<u64> {
        self.order.first_key_value().map(|(position, _)| *position)
    }

    /// How many calls were dropped unjudged since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}
