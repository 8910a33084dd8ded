//! `ostiary report shadow`, on a log in a file.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs;

use crate::seeds::{ANALYST, TOOLS, WAREHOUSE};
use crate::support::{Run, ostiary};
use authz::audit::{Chain, Kind, Outcome, Record, RecordedClaims, RecordedFacts, SourceId};
use authz::claims::Claims;
use authz::denial::Code;
use authz::json::{self, Limits};
use authz::request::Side;
use serde_json::{Value, json};

const IDENTITY: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const NOW: u64 = 1_800_000_000;

/// A log of these records, beside the files of the mesh.
struct Place(tempfile::TempDir);

impl Place {
    fn new(records: &[Record<'_>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = Chain::new(SourceId([1; 16]));
        let first = Record::source(NOW * 1000, "spiffe://cluster.local/ns/data/sa/warehouse", None);
        let mut log = Vec::new();
        for record in std::iter::once(&first).chain(records) {
            log.extend(chain.seal(record).line);
            log.push(b'\n');
        }
        fs::write(folder.path().join("log.jsonl"), log).unwrap();
        fs::create_dir(folder.path().join("policy")).unwrap();
        let place = Self(folder);
        for (name, text) in [
            ("analyst-7.yaml", ANALYST),
            ("mcp.yaml", TOOLS),
            ("warehouse.yaml", WAREHOUSE),
        ] {
            place.write(name, text);
        }
        place
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join("policy").join(name), text).unwrap();
    }

    fn run(&self, more: &[&str]) -> Run {
        ostiary(self.0.path(), &[&["report", "shadow", "log.jsonl"], more].concat())
    }

    fn json(&self, more: &[&str]) -> Value {
        let run = self.run(&[&["--output", "json"], more].concat());
        serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr))
    }
}

fn claims() -> RecordedClaims<'static> {
    let claims = json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "sub": IDENTITY,
        "aud": ["spiffe://cluster.local/ns/data/sa/warehouse"],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator", "iat": NOW, "nbf": NOW,
        "exp": NOW + 300, "jti": "j-1", "agent_id": "analyst-7", "operation_id": "report", "txn": "t-1",
        "scope": ["read:data.sales_q1_2026"], "tools": ["pandas"], "forbidden_tools": ["bash"],
    });
    let claims = claims.to_string();
    let document = json::parse(claims.as_bytes(), &Limits::REQUEST).unwrap();
    RecordedClaims::of(&Claims::read(document.root()).unwrap())
}

/// A call of analyst-7 that went on, in shadow if there is a code.
fn call(second: u64, service: &'static str, code: Option<Code>, facts: RecordedFacts<'static>) -> Record<'static> {
    Record {
        agent_id: Some("analyst-7".into()),
        call: Some("AAAAAAAAAAAAAAAAAAAAAA".into()),
        claims: Some(claims()),
        code,
        facts: Some(facts),
        peer: Some(IDENTITY.into()),
        service: Some(service.into()),
        side: Some(Side::Inbound),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        txn: Some("t-1".into()),
        verdict: Some(Outcome::Permit),
        workload: Some("spiffe://cluster.local/ns/data/sa/warehouse".into()),
        ..Record::new(Kind::Decision, (NOW + second) * 1000)
    }
}

fn table(name: &'static str) -> RecordedFacts<'static> {
    RecordedFacts {
        method: Some("GET".into()),
        path: Some(format!("/v1/tables/{name}").into()),
        right: Some("scope".into()),
        scope: Some(format!("read:data.{name}").into()),
        ..RecordedFacts::default()
    }
}

fn tool(name: &'static str, scope: Option<&'static str>) -> RecordedFacts<'static> {
    RecordedFacts {
        method: Some("POST".into()),
        path: Some("/mcp".into()),
        right: Some("tool".into()),
        scope: scope.map(Into::into),
        tool: Some(name.into()),
        ..RecordedFacts::default()
    }
}

#[test]
fn calls_that_were_permitted_or_denied_are_no_findings() {
    let mut denied = call(2, "data/warehouse", Some(Code::ScopeNotGranted), table("hr"));
    denied.verdict = Some(Outcome::Deny);
    let mut outbound = call(3, "data/warehouse", Some(Code::ScopeNotGranted), table("hr"));
    outbound.side = Some(Side::Outbound);
    let place = Place::new(&[
        call(1, "data/warehouse", None, table("sales_q1_2026")),
        denied,
        outbound,
    ]);
    let run = place.run(&[]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "ok: no call went on in shadow\n", "")
    );
    assert_eq!(place.json(&[])["calls"], 0);
}

#[test]
fn calls_of_one_kind_are_one_group_with_its_times_and_its_last_call() {
    let shadowed = |second| call(second, "data/warehouse", Some(Code::ScopeNotGranted), table("hr"));
    let place = Place::new(&[shadowed(5), shadowed(1), shadowed(9)]);
    let report = place.json(&[]);
    assert_eq!(report["calls"], 3);
    assert_eq!(
        report["groups"],
        json!([{
            "service": "data/warehouse", "agent_id": "analyst-7", "caller": IDENTITY, "code": "scope_not_granted",
            "asked": "GET read:data.hr", "count": 3, "first_ms": (NOW + 1) * 1000, "last_ms": (NOW + 9) * 1000,
            "example": {"call": "AAAAAAAAAAAAAAAAAAAAAA", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "txn": "t-1", "index": 4},
            "grant": {"scope": ["read:data.hr"]},
            "advice": "add it to the agent's file, and have the token asked for with it",
        }])
    );
    let run = place.run(&[]);
    assert_eq!(run.code, 1);
    for told in [
        "scope_not_granted  analyst-7 -> data/warehouse  GET read:data.hr  3 times from 2027-01-15T08:00:01Z",
        "to `spec` of analyst-7's file, if it is to be granted:\n  scope:\n  - \"read:data.hr\"\n",
        "3 calls went on in shadow that enforcing would have denied",
    ] {
        assert!(run.stdout.contains(told), "{told:?} is not in:\n{}", run.stdout);
    }
    assert_eq!(place.run(&["--agent", "writer-2"]).code, 0);
    assert_eq!(place.json(&["--since", &(NOW + 6).to_string()])["calls"], 1);
}

/// Each is the least that allows the call: what the token shows to be granted is not proposed again.
#[test]
fn the_smallest_grant_is_what_is_lacking() {
    let mut writer = table("-");
    (writer.right, writer.scope) = (Some("call".into()), Some("call:agent.writer-2".into()));
    for (service, code, facts, grant) in [
        (
            "data/warehouse",
            Code::ScopeNotInPolicy,
            table("sales_q1_2026"),
            json!({"scope": ["read:data.sales_q1_2026"]}),
        ),
        (
            "tools/mcp",
            Code::ToolNotGranted,
            tool("plot", None),
            json!({"tools": ["tools/mcp/plot"]}),
        ),
        (
            "tools/mcp",
            Code::ToolNotGranted,
            tool("sql", Some("read:data.hr")),
            json!({"tools": ["tools/mcp/sql"], "scope": ["read:data.hr"]}),
        ),
        (
            "tools/mcp",
            Code::ToolNotGranted,
            tool("sql", Some("read:data.sales_q1_2026")),
            json!({"tools": ["tools/mcp/sql"]}),
        ),
        (
            "tools/mcp",
            Code::ScopeNotGranted,
            tool("pandas", Some("read:data.hr")),
            json!({"scope": ["read:data.hr"]}),
        ),
        (
            "agents/writer-2",
            Code::ScopeNotGranted,
            writer,
            json!({"mayCall": ["writer-2"]}),
        ),
        (
            "data/warehouse",
            Code::ServiceNotReached,
            table("sales_q1_2026"),
            json!({"reaches": ["data/warehouse"]}),
        ),
    ] {
        let place = Place::new(&[call(1, service, Some(code), facts)]);
        let report = place.json(&[]);
        assert_eq!(report["groups"][0]["grant"], grant, "{code}");
        assert_eq!(
            report["grants"],
            json!([{"agent_id": "analyst-7", "spec": grant}]),
            "{code}"
        );
    }
}

#[test]
fn nothing_is_proposed_for_what_is_not_to_be_granted() {
    for (code, facts, advice) in [
        (Code::TokenMissing, table("hr"), "through its own sidecar"),
        (Code::TokenExpired, table("hr"), "renew its token"),
        (Code::AudienceMismatch, table("hr"), "among its `aud`"),
        (Code::OwnSegmentMismatch, table("hr"), "`own`"),
        (Code::ToolForbidden, tool("bash", None), "needs a decision"),
    ] {
        let place = Place::new(&[call(1, "data/warehouse", Some(code), facts)]);
        let report = place.json(&[]);
        let group = &report["groups"][0];
        assert_eq!((group.get("grant"), &report["grants"]), (None, &json!([])), "{code}");
        let told = group["advice"].as_str().unwrap();
        assert!(told.contains(advice), "{code}: {told}");
    }
}

#[test]
fn what_the_files_grant_by_now_is_not_proposed() {
    let place = Place::new(&[call(1, "data/warehouse", Some(Code::ScopeNotGranted), table("hr"))]);
    let policy = ["--policy", "policy"];
    let report = place.json(&policy);
    assert_eq!(report["groups"][0]["grant"], json!({"scope": ["read:data.hr"]}));
    let held = "read:data.sales_q1_2026";
    assert!(ANALYST.contains(held));
    place.write(
        "analyst-7.yaml",
        &ANALYST.replace(held, &format!("{held}\", \"read:data.hr")),
    );
    let report = place.json(&policy);
    assert_eq!(report["groups"][0].get("grant"), None, "{report}");
    let advice = "the agent's file grants it: have the token asked for with it";
    assert_eq!(report["groups"][0]["advice"], advice);
    place.write("analyst-7.yaml", "kind: Agent\n");
    assert_eq!(place.run(&policy).code, 1, "files with mistakes are told");
}
