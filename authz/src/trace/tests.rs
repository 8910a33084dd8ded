#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use super::*;
use crate::audit::RecordedClaims;
use crate::claims::Claims;
use crate::denial::Code;
use crate::json::{self, Limits};

const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const WRITER: &str = "spiffe://cluster.local/ns/agents/sa/writer-2";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";

/// Records in the order in which they are told.
#[derive(Default)]
struct Log(Vec<Entry>);

impl Log {
    fn tell(&mut self, source: u8, record: Record<'static>) -> &mut Self {
        let index = self.0.len() as u64;
        let link = Link {
            source: SourceId([source; 16]),
            seq: index + 1,
            prev_hash: None,
        };
        self.0.push(Entry { index, link, record });
        self
    }

    fn build(&self) -> Trace {
        build("t-1", self.0.clone(), true)
    }
}

fn record(
    kind: Kind,
    side: Side,
    call: &'static str,
    time_ms: u64,
    (from, to): (&'static str, &'static str),
) -> Record<'static> {
    Record {
        agent_id: Some(from.rsplit('/').next().unwrap().into()),
        call: (!call.is_empty()).then(|| call.into()),
        jti: Some("j-1".into()),
        peer: Some(from.into()),
        service: Some("data/warehouse".into()),
        side: Some(side),
        workload: Some(if side == Side::Outbound { from } else { to }.into()),
        verdict: (kind == Kind::Decision).then_some(Outcome::Permit),
        status: (kind == Kind::Completion).then_some(200),
        end: (kind == Kind::Completion).then(|| "complete".into()),
        txn: Some("t-1".into()),
        ..Record::new(kind, time_ms)
    }
}

/// A whole call from `start` to `end`, as both sides record it.
fn call(log: &mut Log, call: &'static str, ends: (&'static str, &'static str), start: u64, end: u64) {
    use Kind::{Completion, Decision};
    use Side::{Inbound, Outbound};
    log.tell(1, record(Decision, Outbound, call, start, ends))
        .tell(2, record(Decision, Inbound, call, start + 1, ends))
        .tell(2, record(Completion, Inbound, call, end - 1, ends))
        .tell(1, record(Completion, Outbound, call, end, ends));
}

fn ids(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.call.as_deref().unwrap_or("-")).collect()
}

#[test]
fn nothing_is_an_empty_tree() {
    let trace = build("t-1", Vec::new(), true);
    assert_eq!((trace.records, trace.started_ms, trace.agents.len()), (0, 0, 0));
}

#[test]
fn both_sides_of_a_call_are_one_call() {
    let mut log = Log::default();
    call(&mut log, "a", (ANALYST, WAREHOUSE), 100, 200);
    let trace = log.build();
    assert_eq!((trace.records, trace.started_ms, trace.ended_ms), (4, 100, 200));
    let [actor] = &trace.agents[..] else {
        panic!("{trace:?}")
    };
    assert_eq!(actor.agent_id.as_deref(), Some("analyst-7"));
    let [call] = &actor.calls[..] else { panic!("{actor:?}") };
    assert_eq!((call.seen_by, call.caller.as_deref()), (SeenBy::Both, Some(ANALYST)));
    let sides: Vec<_> = call.attempts.iter().map(|attempt| &*attempt.side).collect();
    assert_eq!(sides, ["outbound", "inbound"]);
    assert!(call.attempts.iter().all(|attempt| attempt.ended.is_some()));
}

#[test]
fn a_call_made_while_serving_another_stands_under_it() {
    let mut log = Log::default();
    call(&mut log, "outer", (ANALYST, WRITER), 100, 300);
    call(&mut log, "inner", (WRITER, WAREHOUSE), 150, 250);
    call(&mut log, "after", (WRITER, WAREHOUSE), 400, 500);
    let trace = log.build();
    let top = |agent: &str| {
        let actor = trace
            .agents
            .iter()
            .find(|actor| actor.agent_id.as_deref() == Some(agent));
        actor.map(|actor| ids(&actor.calls)).unwrap_or_default()
    };
    assert_eq!(top("analyst-7"), ["outer"]);
    assert_eq!(top("writer-2"), ["after"], "it was made when nothing was served");
    let analyst = trace
        .agents
        .iter()
        .find(|actor| actor.agent_id.as_deref() == Some("analyst-7"));
    assert_eq!(ids(&analyst.unwrap().calls[0].calls), ["inner"]);
}

#[test]
fn another_w3c_trace_is_another_work() {
    for (inner, nested) in [(Some("aa"), true), (None, true), (Some("bb"), false)] {
        let mut log = Log::default();
        call(&mut log, "outer", (ANALYST, WRITER), 100, 300);
        call(&mut log, "inner", (WRITER, WAREHOUSE), 150, 250);
        for entry in &mut log.0 {
            let trace = if entry.record.call.as_deref() == Some("outer") {
                Some("aa")
            } else {
                inner
            };
            entry.record.trace_id = trace.map(Into::into);
        }
        let trace = log.build();
        assert_eq!(!trace.agents[0].calls[0].calls.is_empty(), nested, "{inner:?}");
    }
}

#[test]
fn a_second_attempt_and_a_denial_are_told() {
    let mut log = Log::default();
    let ends = (ANALYST, WAREHOUSE);
    log.tell(1, record(Kind::Decision, Side::Outbound, "a", 100, ends))
        .tell(2, record(Kind::Decision, Side::Inbound, "a", 101, ends))
        .tell(2, record(Kind::Completion, Side::Inbound, "a", 102, ends));
    let mut denied = record(Kind::Decision, Side::Inbound, "a", 103, ends);
    (denied.verdict, denied.code) = (Some(Outcome::Deny), Some(Code::AgentPaused));
    log.tell(3, denied);
    let trace = log.build();
    let call = &trace.agents[0].calls[0];
    let told: Vec<_> = call
        .attempts
        .iter()
        .map(|attempt| (&*attempt.side, attempt.code.as_deref(), attempt.ended.is_some()))
        .collect();
    assert_eq!(
        told,
        [
            ("outbound", None, false),
            ("inbound", None, true),
            ("inbound", Some("agent_paused"), false),
        ]
    );
}

#[test]
fn calls_without_an_id_are_the_services_alone_and_stay_apart() {
    let mut log = Log::default();
    let ends = (ANALYST, WAREHOUSE);
    for time in [100, 200] {
        log.tell(2, record(Kind::Decision, Side::Inbound, "", time, ends))
            .tell(2, record(Kind::Completion, Side::Inbound, "", time + 1, ends));
    }
    let trace = log.build();
    let calls = &trace.agents[0].calls;
    assert_eq!(ids(calls), ["-", "-"]);
    assert!(calls.iter().all(|call| call.seen_by == SeenBy::Service));
    assert!(calls.iter().all(|call| call.attempts[0].ended.is_some()));
}

#[test]
fn an_id_that_another_workload_uses_is_another_call() {
    let mut log = Log::default();
    log.tell(
        1,
        record(Kind::Decision, Side::Outbound, "a", 100, (ANALYST, WAREHOUSE)),
    )
    .tell(2, record(Kind::Decision, Side::Inbound, "a", 101, (WRITER, WAREHOUSE)));
    let trace = log.build();
    let seen: Vec<_> = trace.agents.iter().map(|actor| actor.calls[0].seen_by).collect();
    assert_eq!(seen, [SeenBy::Caller, SeenBy::Service]);
}

#[test]
fn capabilities_are_those_that_were_recorded_once_each() {
    let claims = serde_json::json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "sub": ANALYST, "aud": [WAREHOUSE],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator", "iat": 100, "nbf": 100, "exp": 400,
        "jti": "j-1", "agent_id": "analyst-7", "operation_id": "report", "scope": ["read:data.sales"], "tools": [],
        "forbidden_tools": [],
    });
    let claims = claims.to_string();
    let claims = Claims::read(json::parse(claims.as_bytes(), &Limits::REQUEST).unwrap().root()).unwrap();
    let mut log = Log::default();
    for time in [100, 200] {
        let mut decision = record(Kind::Decision, Side::Inbound, "a", time, (ANALYST, WAREHOUSE));
        decision.claims = Some(RecordedClaims::of(&claims));
        log.tell(2, decision);
    }
    let trace = log.build();
    let [capability] = &trace.agents[0].capabilities[..] else {
        panic!("{trace:?}")
    };
    assert_eq!(capability.jti, claims.jti.as_str());
    assert_eq!(capability.issued_by, claims.issued_by.as_str());
    assert_eq!((capability.iat, capability.exp), (claims.iat, claims.exp));
}

#[test]
fn no_chain_of_calls_is_deeper_than_a_reader_bears() {
    let mut log = Log::default();
    let hops: Vec<&'static str> = (0..40)
        .map(|hop| &*Box::leak(format!("spiffe://cluster.local/ns/agents/sa/a-{hop}").into_boxed_str()))
        .collect();
    for (place, ends) in hops.windows(2).enumerate() {
        let name: &'static str = Box::leak(format!("c-{place}").into_boxed_str());
        let place = place as u64;
        call(&mut log, name, (ends[0], ends[1]), 100 + 2 * place, 1000 - 2 * place);
    }
    fn depth(calls: &[Call]) -> usize {
        calls.iter().map(|call| 1 + depth(&call.calls)).max().unwrap_or(0)
    }
    fn count(calls: &[Call]) -> usize {
        calls.iter().map(|call| 1 + count(&call.calls)).sum()
    }
    let trace = log.build();
    let all = trace.agents.iter().map(|actor| count(&actor.calls)).sum::<usize>();
    let deepest = trace.agents.iter().map(|actor| depth(&actor.calls)).max();
    assert_eq!((all, deepest), (39, Some(MAX_DEPTH)));
}
