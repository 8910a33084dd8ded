//! All that happened for one user request, as a tree: agents, the calls that each made, and the calls that were made
//! while serving them, each as both sidecars recorded it.
//!
//! Records of one call share its id (`ostiary-call`) and its caller. Which call was made on behalf of which is nowhere
//! written: a call counts as made while serving another one if the workload that made it was just then serving that
//! one for the same user request, under the same W3C trace id where both have one. Where two fit, the one that began
//! last is taken. What does not fit stands under its agent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::audit::{Kind, Link, Outcome, Record, SourceId};
use crate::request::Side;

#[cfg(test)]
mod tests;
mod told;

pub use told::{Actor, Asked, Attempt, Call, Capability, Ended, SeenBy, Trace};

/// How deep calls stand within calls at most, so that no log makes a reader run out of stack.
const MAX_DEPTH: usize = 16;

/// A record of a user request, with its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its leaf in the log, from 0.
    pub index: u64,
    /// Its place in its source's chain.
    pub link: Link,
    /// What it tells.
    pub record: Record<'static>,
}

/// Builds the tree. `complete` says whether the entries are all that the log has of the user request and its calls.
pub fn build(txn: &str, mut entries: Vec<Entry>, complete: bool) -> Trace {
    entries.sort_by_key(|entry| entry.index);
    entries.dedup_by_key(|entry| entry.index);
    let times = || entries.iter().map(|entry| entry.record.time_ms);
    let mut trace = Trace {
        txn: txn.to_owned(),
        records: entries.len(),
        complete,
        started_ms: times().min().unwrap_or_default(),
        ended_ms: times().max().unwrap_or_default(),
        trace_ids: distinct(entries.iter().map(|entry| entry.record.trace_id.as_deref())),
        agents: Vec::new(),
    };
    let capabilities = capabilities(&entries);
    for call in nest(calls(entries)) {
        let agent_id = call.agent_id.clone();
        match trace.agents.iter_mut().find(|actor| actor.agent_id == agent_id) {
            Some(actor) => actor.calls.push(call),
            None => trace.agents.push(Actor {
                capabilities: Vec::new(),
                agent_id,
                calls: vec![call],
            }),
        }
    }
    for (agent, used) in capabilities {
        match trace
            .agents
            .iter_mut()
            .find(|actor| actor.agent_id.as_ref() == Some(&agent))
        {
            Some(actor) => actor.capabilities.extend(used),
            // All of its calls were made while serving others.
            None => trace.agents.push(Actor {
                agent_id: Some(agent),
                capabilities: used.into_iter().collect(),
                calls: Vec::new(),
            }),
        }
    }
    trace
}

fn distinct<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Vec<String> {
    let values: BTreeSet<&str> = values.flatten().collect();
    values.into_iter().map(str::to_owned).collect()
}

/// The capabilities of each agent, as decisions recorded their claims.
fn capabilities(entries: &[Entry]) -> BTreeMap<String, BTreeSet<Capability>> {
    let mut used: BTreeMap<String, BTreeSet<Capability>> = BTreeMap::new();
    for entry in entries {
        let (Some(agent), Some(claims)) = (&entry.record.agent_id, &entry.record.claims) else {
            continue;
        };
        // Other claims are passed over.
        if let Ok(capability) = serde_json::from_slice(claims.encoding()) {
            used.entry(agent.to_string()).or_default().insert(capability);
        }
    }
    used
}

/// What joins the records of one call: its id and its caller. Without an id nothing does but the source that decided.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Named {
        call: String,
        caller: Option<String>,
    },
    Nameless {
        source: SourceId,
        jti: Option<String>,
        number: usize,
    },
}

/// Joins records to calls, in the order in which they began.
fn calls(entries: Vec<Entry>) -> Vec<Call> {
    let mut places: HashMap<Key, usize> = HashMap::new();
    // How many nameless calls of a source and token have begun, and how many of them have ended.
    let mut nameless: HashMap<(SourceId, Option<String>), (usize, usize)> = HashMap::new();
    let mut calls: Vec<Call> = Vec::new();
    for entry in entries {
        let record = &entry.record;
        if !matches!(record.kind, Kind::Decision | Kind::Completion) {
            continue;
        }
        let key = match record.call.as_deref() {
            Some(call) => Key::Named {
                call: call.to_owned(),
                caller: caller(record),
            },
            None => {
                let jti = owned(record.jti.as_deref());
                let (begun, ended) = nameless.entry((entry.link.source, jti.clone())).or_default();
                let number = if record.kind == Kind::Decision { begun } else { ended };
                *number += 1;
                Key::Nameless {
                    source: entry.link.source,
                    jti,
                    number: *number,
                }
            }
        };
        let place = *places.entry(key).or_insert_with(|| {
            calls.push(Call::begun_by(record));
            calls.len() - 1
        });
        if let Some(call) = calls.get_mut(place) {
            call.add(&entry);
        }
    }
    for call in &mut calls {
        call.settle();
    }
    calls.sort_by_key(|call| call.started_ms);
    calls
}

fn caller(record: &Record<'_>) -> Option<String> {
    owned(match record.side {
        Some(Side::Outbound) => record.workload.as_deref(),
        Some(Side::Inbound) | None => record.peer.as_deref(),
    })
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

impl Call {
    fn begun_by(record: &Record<'_>) -> Self {
        Self {
            call: owned(record.call.as_deref()),
            agent_id: None,
            jti: None,
            caller: caller(record),
            service: None,
            protocol: None,
            asked: Asked::default(),
            trace_id: None,
            seen_by: SeenBy::Caller,
            started_ms: record.time_ms,
            attempts: Vec::new(),
            calls: Vec::new(),
        }
    }

    fn add(&mut self, entry: &Entry) {
        let record = &entry.record;
        for (known, told) in [
            (&mut self.agent_id, &record.agent_id),
            (&mut self.jti, &record.jti),
            (&mut self.service, &record.service),
            (&mut self.protocol, &record.protocol),
            (&mut self.trace_id, &record.trace_id),
        ] {
            if known.is_none() {
                *known = owned(told.as_deref());
            }
        }
        if let Some(facts) = &record.facts
            && self.asked == Asked::default()
        {
            self.asked = Asked::of(facts);
        }
        self.started_ms = self.started_ms.min(record.time_ms);
        let side = record.side.map_or("", Side::as_str);
        let workload = record.workload.as_deref();
        let open = |attempt: &&mut Attempt| {
            attempt.side == side
                && attempt.workload.as_deref() == workload
                && attempt.ended.is_none()
                && attempt.verdict.as_deref() != Some(Outcome::Deny.as_str())
        };
        if record.kind == Kind::Completion {
            let ended = Ended::of(entry);
            if let Some(attempt) = self.attempts.iter_mut().find(open) {
                attempt.ended = Some(ended);
                return;
            }
            // The decision was not recorded: the request broke off before there was one.
            self.attempts.push(Attempt {
                index: None,
                ended: Some(ended),
                ..Attempt::of(entry)
            });
        } else {
            self.attempts.push(Attempt::of(entry));
        }
    }

    fn settle(&mut self) {
        self.attempts
            .sort_by_key(|attempt| (attempt.side != Side::Outbound.as_str(), attempt.time_ms));
        let has = |side: Side| self.attempts.iter().any(|attempt| attempt.side == side.as_str());
        self.seen_by = match (has(Side::Outbound), has(Side::Inbound)) {
            (true, true) => SeenBy::Both,
            (false, true) => SeenBy::Service,
            (true, false) | (false, false) => SeenBy::Caller,
        };
    }

    /// When the workload that made it did so, by its own clock where its sidecar saw it.
    fn made_ms(&self) -> u64 {
        self.attempts.first().map_or(self.started_ms, |attempt| attempt.time_ms)
    }

    /// Since when the workload was serving this call at that time, if it was.
    fn served_since(&self, workload: &str, time_ms: u64) -> Option<u64> {
        let serving = self.attempts.iter().filter(|attempt| {
            attempt.side == Side::Inbound.as_str()
                && attempt.workload.as_deref() == Some(workload)
                && attempt.verdict.as_deref() == Some(Outcome::Permit.as_str())
                && attempt.time_ms <= time_ms
                && attempt.ended.as_ref().is_none_or(|ended| time_ms <= ended.time_ms)
        });
        serving.map(|attempt| attempt.time_ms).max()
    }
}

/// Puts calls under those that were being served when they were made. `calls` stand in the order in which they began.
fn nest(calls: Vec<Call>) -> Vec<Call> {
    let mut depths: Vec<usize> = Vec::with_capacity(calls.len());
    let mut parents: Vec<Option<usize>> = Vec::with_capacity(calls.len());
    for (place, call) in calls.iter().enumerate() {
        let parent = parent(place, call, &calls).filter(|parent| {
            let depth = depths.get(*parent).copied().unwrap_or(MAX_DEPTH);
            depth + 1 < MAX_DEPTH
        });
        let above = parent.and_then(|parent| depths.get(parent).copied());
        depths.push(above.map_or(0, |above| above + 1));
        parents.push(parent);
    }
    // From the last on, so that every call has its own when it is put under another.
    let mut kept: Vec<Option<Call>> = calls.into_iter().map(Some).collect();
    for (place, parent) in parents.iter().enumerate().rev() {
        let Some(parent) = *parent else { continue };
        let call = kept.get_mut(place).and_then(Option::take);
        if let (Some(call), Some(Some(parent))) = (call, kept.get_mut(parent)) {
            parent.calls.insert(0, call);
        }
    }
    kept.into_iter().flatten().collect()
}

/// The call before this one that its caller was serving.
fn parent(place: usize, call: &Call, calls: &[Call]) -> Option<usize> {
    let (caller, made_ms) = (call.caller.as_deref()?, call.made_ms());
    let before = calls.iter().enumerate().take(place);
    let served = before.filter_map(|(index, other)| {
        let one_trace = match (&call.trace_id, &other.trace_id) {
            (Some(own), Some(others)) => own == others,
            (None, _) | (_, None) => true,
        };
        let since = other.served_since(caller, made_ms).filter(|_| one_trace)?;
        Some((since, index))
    });
    served.max().map(|(_, index)| index)
}
