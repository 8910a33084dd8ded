//! What a record tells of whom, and what an agent's file declares: the names of steps are made here for both.
//!
//! Every call is counted once: where it arrives. Of what the caller's own sidecar saw only denials count, since those never
//! arrive anywhere. What came of a call is told by the side where it arrived, too, and is no second call.
//!
//! A question after a task is no call of its own either: how often it is asked is up to the tool that takes its time, and what it
//! asks after was counted when it began. What the service refuses of it counts as of any call.
//!
//! A call that went on in shadow counts as what it was, a call that went on: what it used is as surprising as ever, but that a
//! rule would have denied it moves no score. Else shadow mode would stop agents after all, by pausing them.

use std::collections::BTreeSet;

use super::{Call, Declared, End, Observation};
use crate::audit::{Kind, Outcome, Record, RecordedFacts};
use crate::denial::Code;
use crate::policy::{AgentClaims, Protocol, ServiceClaims};
use crate::protocol;
use crate::request::Side;
use crate::scope::Scope;
use crate::token::SKEW_SECONDS;

/// Whose behaviour it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The agent of a token that was verified and shown by its own workload.
    Agent(&'a str),
    /// The workload that sent what failed before that: of the agent that the token named nothing is known.
    Workload(&'a str),
}

/// Reads what a record tells, if it tells of anybody's behaviour. It was received at `received_ms`: a sidecar whose clock is
/// ahead does not make time pass.
pub fn read<'a>(record: &'a Record<'_>, received_ms: u64) -> Option<(Subject<'a>, Observation)> {
    let at_ms = record.time_ms.min(received_ms.saturating_add(SKEW_SECONDS * 1000));
    let counts = record.verdict == Some(Outcome::Permit) || record.code.is_none_or(is_behaviour);
    match record.kind {
        Kind::Decision if counts => {
            let denied = match (record.verdict?, record.side?) {
                (Outcome::Deny, _) => true,
                (Outcome::Permit, Side::Inbound) if !asks_after_a_task(record) => false,
                (Outcome::Permit, _) => return None,
            };
            let subject = Subject::Agent(record.agent_id.as_deref()?);
            let call = Some(call(record));
            Some((
                subject,
                Observation {
                    at_ms,
                    call,
                    end: None,
                    count: 1,
                    denied,
                },
            ))
        }
        Kind::Aggregate if counts && record.code.is_some() => {
            let subject = Subject::Workload(record.peer.as_deref()?);
            Some((
                subject,
                Observation {
                    at_ms,
                    call: None,
                    end: None,
                    count: record.count.unwrap_or(1),
                    denied: true,
                },
            ))
        }
        Kind::Completion if record.side == Some(Side::Inbound) => {
            let subject = Subject::Agent(record.agent_id.as_deref()?);
            Some((
                subject,
                Observation {
                    at_ms,
                    call: None,
                    end: Some(end(record)?),
                    count: 0,
                    denied: false,
                },
            ))
        }
        Kind::Decision | Kind::Aggregate | Kind::Completion | Kind::Overflow | Kind::Source => None,
    }
}

/// Whether it only asks what has become of one task, by JSON-RPC (MCP; A2A 1.0 and 0.3) or by A2A's REST paths. Those end in
/// `tasks/{id}` or `tasks/{id}:subscribe`, whatever stands before.
fn asks_after_a_task(record: &Record<'_>) -> bool {
    let Some(facts) = &record.facts else { return false };
    match (facts.right.as_deref(), facts.rpc_method.as_deref()) {
        (Some("session" | "call"), Some(method)) => matches!(
            method,
            "tasks/get" | "tasks/result" | "tasks/resubscribe" | "GetTask" | "SubscribeToTask"
        ),
        (Some("call"), None) => {
            let parent = facts.path.as_deref().and_then(|path| path.rsplit('/').nth(1));
            facts.method.as_deref() == Some("GET") && parent == Some("tasks")
        }
        _ => false,
    }
}

/// What came of a call that the application has seen: nothing of one that was refused, left or stopped before, or whose answer
/// the filter made.
fn end(record: &Record<'_>) -> Option<End> {
    let delivered = matches!(record.end.as_deref()?, "complete" | "broken");
    let status = record.status.filter(|_| delivered)?;
    let own = |text: &str| text.to_owned();
    Some(End {
        id: record.call.as_deref().map(own),
        service: record.service.as_deref().unwrap_or("?").to_owned(),
        request: record.txn.as_deref().map(own),
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
        duration_us: record.duration_us,
        failed: failed(status, record.outcome.as_deref()),
    })
}

/// Whether the service refused a call for what was asked, by its status or by what its protocol says under status 200.
///
/// The service's own trouble, its limits and its patience say nothing of who called. A tool that fails does not say why; so
/// often as it fails this agent anyway is what is usual.
fn failed(status: u64, outcome: Option<&str>) -> Option<bool> {
    match status {
        408 | 429 | 500.. => None,
        400.. => Some(true),
        _ => {
            let errors = [protocol::list::Outcome::ToolError, protocol::list::Outcome::RpcError];
            Some(errors.iter().any(|error| outcome == Some(error.as_str())))
        }
    }
}

/// Whether a denial says something of who was denied: not for the agent's own state, whose calls fail until a person has
/// looked; not for what the mesh lacks; not for time, which passes for honest agents too, nor for keys, which rotate.
fn is_behaviour(code: Code) -> bool {
    !matches!(
        code,
        Code::AgentPaused
            | Code::AgentSuspended
            | Code::AgentKilled
            | Code::TokenRevoked
            | Code::TokenSuperseded
            | Code::TokenExpired
            | Code::TokenNotYetValid
            | Code::TokenKeyUnknown
            | Code::PolicyUnavailable
            | Code::WorkloadMismatch
            | Code::RecordsUnavailable
            | Code::InternalError
            | Code::DirectionUnknown
    )
}

fn call(record: &Record<'_>) -> Call {
    let none = RecordedFacts::default();
    let facts = record.facts.as_ref().unwrap_or(&none);
    let service = record.service.as_deref();
    let step = match (facts.tool.as_deref(), facts.right.as_deref()) {
        (Some(tool), _) => tool.to_owned(),
        (None, Some("session")) => session_step(service.unwrap_or("?")),
        (None, Some("call")) => call_step(service.unwrap_or("?")),
        _ => method_step(service.unwrap_or("?"), facts.method.as_deref().unwrap_or("?")),
    };
    // Of what matched no route the path is what was wanted.
    let wanted = facts.path.as_deref().filter(|_| facts.right.is_none());
    let own = |text: &str| text.to_owned();
    Call {
        id: record.call.as_deref().map(own),
        step,
        data: facts.scope.as_deref().or(wanted).map(own),
        service: service.map(own),
        request: record.txn.as_deref().map(own),
    }
}

fn session_step(service: &str) -> String {
    format!("{service} session")
}

fn call_step(service: &str) -> String {
    format!("{service} call")
}

fn method_step(service: &str, method: &str) -> String {
    format!("{service} {method}")
}

impl Declared {
    /// What an agent's file declares, with the services that it reaches.
    pub fn of<'a>(agent: &AgentClaims, services: impl Iterator<Item = &'a ServiceClaims>) -> Self {
        let mut steps: BTreeSet<String> = agent.tools.iter().map(|grant| grant.tool().to_string()).collect();
        for service in services.filter(|service| agent.reaches.contains(&service.id)) {
            let id = service.id.as_str();
            match service.protocol {
                Protocol::Mcp => {
                    steps.insert(session_step(id));
                }
                Protocol::A2a => {
                    steps.insert(call_step(id));
                }
                Protocol::Http => steps.extend(service.routes.iter().map(|route| method_step(id, &route.method))),
            }
        }
        Self {
            steps,
            data: (&agent.scope)
                .into_iter()
                .cloned()
                .chain(agent.may_call.iter().map(Scope::to_call))
                .map(|scope| scope.as_str().to_owned())
                .collect(),
            services: agent
                .reaches
                .iter()
                .map(|service| service.as_str().to_owned())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn decision<'a>(side: Side, verdict: Outcome, code: Option<Code>) -> Record<'a> {
        Record {
            agent_id: Some("analyst-7".into()),
            verdict: Some(verdict),
            side: Some(side),
            code,
            service: Some("data/warehouse".into()),
            txn: Some("t".into()),
            facts: Some(RecordedFacts {
                method: Some("GET".into()),
                path: Some("/v1/tables/sales".into()),
                right: Some("scope".into()),
                scope: Some("read:data.sales".into()),
                ..RecordedFacts::default()
            }),
            ..Record::new(Kind::Decision, 5000)
        }
    }

    #[test]
    fn a_call_counts_once_where_it_arrives() {
        use Outcome::{Deny, Permit};
        let forbidden = Some(Code::ScopeNotGranted);
        for (side, verdict, code, denied) in [
            (Side::Inbound, Permit, None, Some(false)),
            // In shadow: a call that went on, whatever would have denied it.
            (Side::Inbound, Permit, forbidden, Some(false)),
            (Side::Inbound, Permit, Some(Code::TokenExpired), Some(false)),
            (Side::Outbound, Permit, forbidden, None),
            (Side::Inbound, Deny, forbidden, Some(true)),
            (Side::Outbound, Permit, None, None),
            (Side::Outbound, Deny, forbidden, Some(true)),
        ] {
            let record = decision(side, verdict, code);
            let seen = read(&record, 5000);
            assert_eq!(
                seen.as_ref().map(|(_, seen)| seen.denied),
                denied,
                "{side:?} {verdict:?}"
            );
            if let Some((subject, seen)) = seen {
                assert_eq!(subject, Subject::Agent("analyst-7"));
                let call = seen.call.unwrap();
                assert_eq!(call.step, "data/warehouse GET");
                assert_eq!(call.data.as_deref(), Some("read:data.sales"));
                assert_eq!(call.request.as_deref(), Some("t"));
            }
        }
        let mut exempt = decision(Side::Inbound, Permit, None);
        exempt.agent_id = None;
        assert_eq!(read(&exempt, 5000), None, "it is no agent's");
        for kind in [Kind::Overflow, Kind::Source] {
            let other = Record {
                kind,
                ..decision(Side::Inbound, Permit, None)
            };
            assert_eq!(read(&other, 5000), None, "{kind:?}");
        }
    }

    #[test]
    fn a_question_after_a_task_is_no_call_unless_it_is_denied() {
        let asked =
            |right: &'static str, rpc: Option<&'static str>, method: &'static str, path: &'static str, verdict| {
                let facts = RecordedFacts {
                    method: Some(method.into()),
                    path: Some(path.into()),
                    right: Some(right.into()),
                    rpc_method: rpc.map(Into::into),
                    ..RecordedFacts::default()
                };
                let record = Record {
                    facts: Some(facts),
                    ..decision(Side::Inbound, verdict, None)
                };
                read(&record, 5000).is_some()
            };
        for (right, rpc, counts) in [
            ("session", "tasks/get", false),
            ("session", "tasks/result", false),
            ("session", "tasks/cancel", true),
            ("session", "tasks/update", true),
            ("session", "tasks/list", true),
            ("session", "tools/list", true),
            ("call", "tasks/get", false),
            ("call", "tasks/resubscribe", false),
            ("call", "GetTask", false),
            ("call", "SubscribeToTask", false),
            ("call", "CancelTask", true),
            ("call", "ListTasks", true),
            ("call", "SendMessage", true),
            // A tool that is called so is a tool.
            ("tool", "tasks/get", true),
        ] {
            let is_call = asked(right, Some(rpc), "POST", "/", Outcome::Permit);
            assert_eq!(is_call, counts, "{right} {rpc}");
            assert!(
                asked(right, Some(rpc), "POST", "/", Outcome::Deny),
                "{right} {rpc} denied"
            );
        }
        for (right, method, path, counts) in [
            ("call", "GET", "/a2a/tasks/t1", false),
            ("call", "GET", "/a2a/tasks/t1:subscribe", false),
            ("call", "POST", "/a2a/tasks/t1:cancel", true),
            ("call", "GET", "/a2a/tasks", true),
            ("call", "GET", "/a2a/tasks/t1/pushNotificationConfigs", true),
            ("call", "POST", "/a2a/message:send", true),
            ("scope", "GET", "/v1/tasks/t1", true),
        ] {
            assert_eq!(
                asked(right, None, method, path, Outcome::Permit),
                counts,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn the_end_of_a_call_is_told_where_it_arrived_and_is_no_second_call() {
        let completion = |side, end: &'static str, status| Record {
            end: Some(end.into()),
            call: Some("c".into()),
            status,
            request_bytes: Some(7),
            response_bytes: Some(12),
            duration_us: Some(900),
            kind: Kind::Completion,
            ..decision(side, Outcome::Permit, None)
        };
        let record = completion(Side::Inbound, "complete", Some(200));
        let (subject, seen) = read(&record, 5000).unwrap();
        assert_eq!(subject, Subject::Agent("analyst-7"));
        assert_eq!((seen.call, seen.count, seen.denied), (None, 0, false));
        let end = seen.end.unwrap();
        let sizes = (end.request_bytes, end.response_bytes, end.duration_us);
        assert_eq!(sizes, (Some(7), Some(12), Some(900)));
        assert_eq!((end.id.as_deref(), end.failed), (Some("c"), Some(false)));
        assert_eq!(
            (end.service.as_str(), end.request.as_deref()),
            ("data/warehouse", Some("t"))
        );
        for (side, end, status) in [
            (Side::Outbound, "complete", Some(200)),
            (Side::Inbound, "not_delivered", Some(403)),
            (Side::Inbound, "withheld", Some(200)),
            (Side::Inbound, "cancelled", Some(403)),
            (Side::Inbound, "aborted", None),
            (Side::Inbound, "broken", None),
        ] {
            assert_eq!(read(&completion(side, end, status), 5000), None, "{side:?} {end}");
        }
        for (status, failed) in [
            (404, Some(true)),
            (429, None),
            (408, None),
            (500, None),
            (503, None),
            (302, Some(false)),
        ] {
            let record = completion(Side::Inbound, "broken", Some(status));
            assert_eq!(read(&record, 5000).unwrap().1.end.unwrap().failed, failed, "{status}");
        }
        for (status, outcome, failed) in [
            (200, "result", Some(false)),
            (200, "input_required", Some(false)),
            (200, "tool_error", Some(true)),
            (200, "rpc_error", Some(true)),
            (400, "rpc_error", Some(true)),
            (503, "rpc_error", None),
        ] {
            let record = Record {
                outcome: Some(outcome.into()),
                ..completion(Side::Inbound, "complete", Some(status))
            };
            let seen = read(&record, 5000).unwrap().1.end.unwrap().failed;
            assert_eq!(seen, failed, "{status} {outcome}");
        }
    }

    #[test]
    fn denials_for_its_own_state_and_for_what_the_mesh_lacks_do_not_count() {
        for code in Code::ALL {
            let record = decision(Side::Inbound, Outcome::Deny, Some(*code));
            let excused = [
                "agent_paused",
                "agent_suspended",
                "agent_killed",
                "token_revoked",
                "token_superseded",
                "token_expired",
                "token_not_yet_valid",
                "token_key_unknown",
                "policy_unavailable",
                "workload_mismatch",
                "records_unavailable",
                "internal_error",
                "direction_unknown",
            ];
            assert_eq!(
                read(&record, 5000).is_none(),
                excused.contains(&code.as_str()),
                "{code}"
            );
        }
    }

    #[test]
    fn what_fails_before_its_token_is_bound_is_its_senders() {
        let aggregate = |code| Record {
            peer: Some("spiffe://cluster.local/ns/agents/sa/writer-2".into()),
            code: Some(code),
            count: Some(40),
            side: Some(Side::Inbound),
            ..Record::new(Kind::Aggregate, 5000)
        };
        let stolen = aggregate(Code::PeerMismatch);
        let (subject, seen) = read(&stolen, 5000).unwrap();
        assert_eq!(
            subject,
            Subject::Workload("spiffe://cluster.local/ns/agents/sa/writer-2")
        );
        assert_eq!((seen.call, seen.count, seen.denied), (None, 40, true));
        assert_eq!(read(&aggregate(Code::TokenExpired), 5000), None);
        let mut nameless = aggregate(Code::TokenMissing);
        nameless.peer = None;
        assert_eq!(read(&nameless, 5000), None);
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_make_time_pass() {
        let record = decision(Side::Inbound, Outcome::Permit, None);
        assert_eq!(read(&record, 9000).unwrap().1.at_ms, 5000);
        let ahead = Record {
            time_ms: 3_600_000,
            ..record
        };
        assert_eq!(read(&ahead, 5000).unwrap().1.at_ms, 10_000);
    }

    #[test]
    fn tools_sessions_and_what_matched_no_route_have_names() {
        let mut record = decision(Side::Inbound, Outcome::Deny, Some(Code::RouteUnknown));
        let named = |record: &Record<'_>| {
            let call = read(record, 5000).unwrap().1.call.unwrap();
            (call.step, call.data)
        };
        record.facts = Some(RecordedFacts {
            method: Some("GET".into()),
            path: Some("/v1/secrets".into()),
            ..RecordedFacts::default()
        });
        assert_eq!(
            named(&record),
            ("data/warehouse GET".to_owned(), Some("/v1/secrets".to_owned()))
        );
        record.facts = Some(RecordedFacts {
            right: Some("session".into()),
            path: Some("/mcp".into()),
            ..RecordedFacts::default()
        });
        assert_eq!(named(&record), ("data/warehouse session".to_owned(), None));
        record.facts = Some(RecordedFacts {
            right: Some("tool".into()),
            tool: Some("bash".into()),
            path: Some("/mcp".into()),
            ..RecordedFacts::default()
        });
        assert_eq!(named(&record), ("bash".to_owned(), None));
    }
}
