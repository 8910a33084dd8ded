//! `ostiary audit replay`, `ostiary check --against-log` and `ostiary shrink`, on a log in a file.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs;

use crate::seeds::{ANALYST, TOOLS, WAREHOUSE};
use crate::support::{Run, ostiary};
use authz::audit::{Chain, Kind, Outcome, Record, RecordedClaims, RecordedFacts, SourceId};
use authz::claims::Claims;
use authz::denial::Code;
use authz::json::{self, Limits};
use authz::request::Side;
use serde_json::Value;

const IDENTITY: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const NOW: u64 = 1_800_000_000;

/// The files of a mesh and a log of what was decided by them.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in [
            ("analyst-7.yaml", ANALYST),
            ("mcp.yaml", TOOLS),
            ("warehouse.yaml", WAREHOUSE),
        ] {
            place.write(&format!("policy/{name}"), text);
        }
        let mut chain = Chain::new(SourceId([1; 16]));
        let first = Record::source(NOW * 1000, "spiffe://cluster.local/ns/data/sa/warehouse", None);
        let decisions = [
            read_table("sales_q1_2026", Ok(())),
            read_table("sales_q1_2026", Ok(())),
            read_table("hr_salaries", Err(Code::ScopeNotInPolicy)),
            read_table("sales_q1_2026", Err(Code::AgentPaused)),
        ];
        let mut log = b"{\"export\":\"a header, which is passed over\"}\n".to_vec();
        for record in std::iter::once(&first).chain(&decisions) {
            log.extend(chain.seal(record).line);
            log.push(b'\n');
        }
        fs::write(place.path("log.jsonl"), log).unwrap();
        place
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn edit(&self, from: &str, to: &str) {
        assert!(ANALYST.contains(from), "{from:?}");
        self.write("policy/analyst-7.yaml", &ANALYST.replace(from, to));
    }

    fn run(&self, arguments: &[&str]) -> Run {
        ostiary(self.0.path(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let run = self.run(&[&["--output", "json"], arguments].concat());
        (
            run.code,
            serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr)),
        )
    }
}

fn claims() -> RecordedClaims<'static> {
    let claims = serde_json::json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "sub": IDENTITY,
        "aud": ["spiffe://cluster.local/ns/data/sa/warehouse"],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator", "iat": NOW, "nbf": NOW,
        "exp": NOW + 300, "jti": "j-1", "agent_id": "analyst-7", "operation_id": "report",
        "scope": ["read:data.sales_q1_2026", "read:data.hr_salaries"], "tools": [], "forbidden_tools": [],
    });
    let claims = claims.to_string();
    let document = json::parse(claims.as_bytes(), &Limits::REQUEST).unwrap();
    RecordedClaims::of(&Claims::read(document.root()).unwrap())
}

fn read_table(table: &str, verdict: Result<(), Code>) -> Record<'static> {
    let facts = RecordedFacts {
        captures: vec![("table".into(), table.to_owned().into())],
        method: Some("GET".into()),
        path: Some(format!("/v1/tables/{table}").into()),
        right: Some("scope".into()),
        scope: Some(format!("read:data.{table}").into()),
        ..RecordedFacts::default()
    };
    Record {
        agent_id: Some("analyst-7".into()),
        claims: Some(claims()),
        code: verdict.err(),
        facts: Some(facts),
        peer: Some(IDENTITY.into()),
        protocol: Some("http".into()),
        service: Some("data/warehouse".into()),
        side: Some(Side::Inbound),
        verdict: Some(if verdict.is_ok() {
            Outcome::Permit
        } else {
            Outcome::Deny
        }),
        workload: Some("spiffe://cluster.local/ns/data/sa/warehouse".into()),
        ..Record::new(Kind::Decision, (NOW + 10) * 1000)
    }
}

const REPLAY: [&str; 5] = ["audit", "replay", "log.jsonl", "--policy", "policy"];
const AGAINST: [&str; 4] = ["check", "policy", "--against-log", "log.jsonl"];
const SHRINK: [&str; 5] = ["shrink", "analyst-7", "policy", "--log", "log.jsonl"];

#[test]
fn a_log_without_policy_is_replayed_by_files_alone() {
    let place = Place::new();
    let run = place.run(&REPLAY[..3]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("holds no policy"), "{}", run.stderr);
}

#[test]
fn a_log_is_replayed_and_a_verdict_that_differs_is_a_finding() {
    let place = Place::new();
    let run = place.run(&REPLAY);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    for words in [
        "3 decided as they were",
        "1 denied by the state of an agent",
        "signatures of tokens and the reading of requests are not replayed",
    ] {
        assert!(run.stdout.contains(words), "{words:?} is not in {}", run.stdout);
    }
    place.edit("\"read:data.sales_q1_2026\"", "\"read:data.hr_salaries\"");
    let (code, told) = place.json(&REPLAY);
    assert_eq!(
        (code, &told["same"], &told["now_denied"], &told["now_permitted"]),
        (1, &0.into(), &2.into(), &1.into())
    );
    assert_eq!(told["not_replayed"]["state"], 1);
    let changes = told["changes"].as_array().unwrap();
    let said: Vec<_> = changes
        .iter()
        .map(|change| [&change["recorded"], &change["again"], &change["asked"]])
        .collect();
    assert_eq!(
        said[0],
        ["permit", "scope_not_in_policy", "GET read:data.sales_q1_2026"]
    );
    assert_eq!((&changes[0]["count"], &changes[0]["line"]), (&2.into(), &4.into()));
    assert_eq!(said[1], ["scope_not_in_policy", "permit", "GET read:data.hr_salaries"]);
}

#[test]
fn an_edit_is_held_against_what_was_called() {
    let place = Place::new();
    let run = place.run(&AGAINST);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(run.stdout.starts_with("ok: 3 files"), "{}", run.stdout);
    assert_eq!(place.json(&["check", "policy"]).1.get("against_log"), None);

    place.edit(
        "\"read:data.sales_q1_2026\"",
        "\"read:data.sales_q1_2026\", \"read:data.hr_salaries\"",
    );
    let (code, told) = place.json(&AGAINST);
    let past = &told["against_log"];
    assert_eq!((code, &told["ok"]), (1, &true.into()));
    assert_eq!(
        (&past["same"], &past["now_denied"], &past["now_permitted"]),
        (&2.into(), &0.into(), &1.into())
    );
    let run = place.run(&AGAINST);
    let words = "analyst-7 -> data/warehouse  GET read:data.hr_salaries  scope_not_in_policy then, permit now; once";
    assert!(run.stdout.contains(words), "{}", run.stdout);

    // Another route for the same path: what was permitted by its scope is not by the new one.
    let place = Place::new();
    let moved = WAREHOUSE.replace("read:data.{table}", "read:archive.{table}");
    assert_ne!(moved, WAREHOUSE);
    place.write("policy/warehouse.yaml", &moved);
    place.edit("\"read:data.sales_q1_2026\"", "\"read:archive.sales_q1_2026\"");
    let (code, told) = place.json(&AGAINST);
    assert_eq!((code, &told["against_log"]["now_denied"]), (1, &2.into()), "{told}");
    assert_eq!(told["against_log"]["changes"][0]["again"], "scope_not_granted");
}

#[test]
fn the_smallest_file_is_proposed_and_explains_the_log() {
    let place = Place::new();
    let run = place.run(&SHRINK);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""), "{}", run.stdout);
    assert!(
        run.stdout
            .starts_with("# Proposed by `ostiary shrink` from 2 permitted decisions.\n# Not used: tools: "),
        "{}",
        run.stdout
    );
    // It can be written where the file was: then there is nothing more to take away, and the log is explained.
    place.write("policy/analyst-7.yaml", &run.stdout);
    let again = place.run(&SHRINK);
    assert_eq!(again.code, 0, "{}{}", again.stdout, again.stderr);
    assert!(again.stdout.contains("# Every entry was used."), "{}", again.stdout);
    let replayed = place.run(&REPLAY);
    assert_eq!(replayed.code, 0, "{}", replayed.stdout);
    let (_, told) = Place::new().json(&SHRINK);
    assert_eq!(
        (&told["calls"], &told["replayed"]["now_denied"]),
        (&2.into(), &0.into())
    );
    assert_eq!(
        told["agent"]["spec"]["scope"],
        serde_json::json!(["read:data.sales_q1_2026"])
    );
}

#[test]
fn what_cannot_be_decided_is_said() {
    let place = Place::new();
    place.write("empty.jsonl", "{\"export\":\"nothing\"}\n");
    let log = fs::read_to_string(place.path("log.jsonl")).unwrap();
    place.write("forged.jsonl", &log.replace("hr_salaries", "hr_salarieS"));
    place.write("none/note.txt", "no file of a mesh");
    for (arguments, words) in [
        (
            &["audit", "replay", "empty.jsonl", "--policy", "policy"][..],
            "holds no record",
        ),
        (
            &["audit", "replay", "forged.jsonl", "--policy", "policy"],
            "line 3 of `forged.jsonl` is no sound record",
        ),
        (
            &["audit", "replay", "gone.jsonl", "--policy", "policy"],
            "cannot read `gone.jsonl`",
        ),
        (
            &["audit", "replay", "log.jsonl", "--policy", "none"],
            "there is no agent or service file",
        ),
        (
            &["shrink", "writer-9", "policy", "--log", "log.jsonl"],
            "there is no file of an agent `writer-9`",
        ),
    ] {
        let run = place.run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(run.stderr.contains(words), "{arguments:?}: {}", run.stderr);
    }
    place.edit("reaches: [warehouse, mcp]", "reaches: [nowhere, warehouse, mcp]");
    for arguments in [&REPLAY[..], &SHRINK, &AGAINST] {
        let run = place.run(arguments);
        assert_eq!(run.code, 1, "{arguments:?}: {}", run.stderr);
        assert!(
            run.stdout.contains("there is no service `nowhere`"),
            "{arguments:?}: {}",
            run.stdout
        );
    }
}
