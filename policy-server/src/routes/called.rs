//! `GET /v1/agents/{agent}/called`: whom an agent called, and they in turn, for the user requests that it works on: those who
//! may have to be stopped with it.
//!
//! The log says it. Believed is the sidecar of either side of a call, of an agent that the policy names.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use authz::audit::{self, Kind, Outcome};
use authz::identity::AgentId;
use authz::manifest::Mesh;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use serde::Serialize;

use super::agents::{answer, known_agent, reader, store_failed};
use super::traces::reach_the_log;
use crate::app::App;
use crate::error::Problem;
use crate::store::StoredRecord;

/// How far back a user request counts as one that it works on, in seconds since the agent's last token for it expired.
const SINCE_SECONDS: u64 = 3600;

/// The most user requests that are looked at, the latest first, and the most records of each.
const MOST_TXNS: u32 = 256;
const MOST_RECORDS: u32 = 4096;

#[derive(Debug, Serialize)]
struct Called {
    agent_id: AgentId,
    /// In the order in which they were reached: those that the agent called itself come first.
    called: Vec<Callee>,
    /// False if there was more to look at than is.
    complete: bool,
}

#[derive(Debug, Serialize)]
struct Callee {
    agent_id: AgentId,
    /// Who called it.
    by: AgentId,
    /// For which user request, of several the first.
    txn: String,
}

/// Shows whom an agent called.
pub async fn show(State(app): State<Arc<App>>, Path(agent): Path<String>, request: Request) -> Response {
    let allowed = reader(&app, &request);
    answer(match allowed {
        Ok(()) => called(&app, &agent).await,
        Err(problem) => Err(problem),
    })
}

async fn called(app: &App, agent: &str) -> Result<Called, Problem> {
    let agent_id = known_agent(app, agent).await?;
    let mesh = app
        .feed
        .policy()
        .ok_or_else(|| Problem::unavailable("policy_unavailable", "no valid policy has been read yet"))?;
    let since = app.clock.seconds().saturating_sub(SINCE_SECONDS);
    let txns = app.store().recent_txns(&agent_id, since, MOST_TXNS + 1).await;
    let txns = txns.map_err(|error| store_failed(app, &error))?;
    reach_the_log(app).await?;
    let mut found = BTreeSet::new();
    let mut complete = txns.len() <= MOST_TXNS as usize;
    let mut called = Vec::new();
    for txn in txns.into_iter().take(MOST_TXNS as usize) {
        let records = app.store().records_of_txn(&txn, MOST_RECORDS + 1).await;
        let records = records.map_err(|error| store_failed(app, &error))?;
        complete &= records.len() <= MOST_RECORDS as usize;
        let calls = records.iter().filter_map(|record| call(&mesh, record)).collect();
        for (callee, by) in reached(&agent_id, &calls) {
            if found.insert(callee.clone()) {
                let txn = txn.clone();
                called.push(Callee {
                    agent_id: callee,
                    by,
                    txn,
                });
            }
        }
    }
    Ok(Called {
        agent_id,
        called,
        complete,
    })
}

/// Caller and callee of a permitted call of an agent by an agent, if whoever recorded it can know.
fn call(mesh: &Mesh, stored: &StoredRecord) -> Option<(AgentId, AgentId)> {
    let (_, record) = audit::read(&stored.canonical).ok()?;
    if (record.kind, record.verdict) != (Kind::Decision, Some(Outcome::Permit)) {
        return None;
    }
    let facts = record.facts.as_ref()?;
    let scope = facts
        .scope
        .as_deref()
        .filter(|_| facts.right.as_deref() == Some("call"))?;
    let caller = mesh.agent(&record.agent_id.as_deref()?.parse().ok()?)?;
    let callee = mesh.agent(&scope.strip_prefix("call:agent.")?.parse().ok()?)?;
    let workload = record.workload.as_deref()?;
    let knows = [caller, callee]
        .iter()
        .any(|agent| agent.claims.identity.as_str() == workload);
    knows.then(|| (caller.claims.id.clone(), callee.claims.id.clone()))
}

/// Whom an agent reached by calls, itself left out, nearest first, each with its caller.
fn reached(from: &AgentId, calls: &BTreeSet<(AgentId, AgentId)>) -> Vec<(AgentId, AgentId)> {
    let mut reached = Vec::new();
    let mut seen = BTreeSet::from([from.clone()]);
    let mut next = VecDeque::from([from.clone()]);
    while let Some(by) = next.pop_front() {
        for (_, callee) in calls.iter().filter(|(caller, _)| *caller == by) {
            if seen.insert(callee.clone()) {
                next.push_back(callee.clone());
                reached.push((callee.clone(), by.clone()));
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn whoever_was_called_is_reached_once_and_nobody_else() {
        let agent = |name: &str| AgentId::parse(name).unwrap();
        let calls = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "a"), ("d", "e"), ("c", "f")];
        let calls = calls.map(|(caller, callee)| (agent(caller), agent(callee))).into();
        let reached = reached(&agent("a"), &calls);
        let reached: Vec<_> = reached.iter().map(|(to, by)| (to.as_str(), by.as_str())).collect();
        assert_eq!(reached, [("b", "a"), ("c", "a"), ("f", "c")]);
    }
}
