//! The official conformance suite of MCP against one server, asked directly and through both sidecars, under a policy that
//! grants everything: whatever passes directly must pass through them.
//!
//! `BLESS=1 cargo test -p tests --test sidecars conformance` writes the table of docs/conformance.md anew.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tests::mesh::{EVERYTHING, Mesh, Options};
use tests::{built, docs};

const SUITE: &str = "node_modules/@modelcontextprotocol/conformance/dist/index.js";

/// The statuses of checks that decide; others only tell what went on.
const DECIDE: [&str; 3] = ["SUCCESS", "WARNING", "FAILURE"];

/// The status of each check, by scenario.
type Outcome = BTreeMap<String, BTreeMap<String, String>>;

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_directly_passes_through_both_sidecars() {
    let options = Options {
        everything: true,
        ..Options::only(&["analyst-7", EVERYTHING])
    };
    let mesh = Mesh::start("conformance", &options).await.unwrap();
    let service = mesh.service(EVERYTHING).unwrap();
    let port = service.backend.port().unwrap();
    let before = service.backend.seen().len();
    let directly = outcome(&mesh, "directly", port, None).await;
    let asked_directly = service.backend.seen().len() - before;

    let token = json!({
        "agent_id": "analyst-7", "operation_id": "conformance", "tools": tools(&mesh), "scope": ["read:test.123"],
    });
    let token = mesh.token(&token).await.unwrap();
    let through = outcome(&mesh, "through", service.address.port(), Some(&token)).await;
    let asked = service.backend.seen().len() - before - asked_directly;

    assert!(directly.len() >= 30, "the whole suite: {directly:?}");
    let failures = failing(&directly, &through);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // What the sidecars answer in the server's place: streams that a client asks for and ends, and a host that is nobody's.
    assert!(
        asked > 0 && asked <= asked_directly,
        "{asked} of {asked_directly} requests"
    );
    docs::hold_table("conformance.md", "conformance", &table(&directly, &through)).unwrap();
}

/// Every tool that the service's file offers.
fn tools(mesh: &Mesh) -> Vec<String> {
    let text = std::fs::read_to_string(mesh.policy.join("service-everything.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    file["spec"]["tools"].as_object().unwrap().keys().cloned().collect()
}

/// Runs the suite; with a token, through the agent's sidecar.
async fn outcome(mesh: &Mesh, name: &str, port: u16, token: Option<&str>) -> Outcome {
    let results = mesh.run.file(name);
    let mut command = built::node(SUITE).unwrap();
    command
        .args([
            "server",
            "--suite",
            "all",
            "--url",
            &format!("http://localhost:{port}/mcp"),
        ])
        .arg("--output-dir")
        .arg(&results);
    if let Some(token) = token {
        built::lead(&mut command, mesh.agent("analyst-7").unwrap().outbound, token);
    }
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let outcome = read(&results);
    assert!(
        !outcome.is_empty(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    outcome
}

/// Reads what the suite wrote: `server-SCENARIO-TIME/checks.json` for each scenario.
fn read(results: &Path) -> Outcome {
    let mut outcome = Outcome::new();
    for folder in std::fs::read_dir(results).into_iter().flatten().flatten() {
        let name = folder.file_name().into_string().unwrap();
        // The time is `2026-11-26T07-33-14-045Z`.
        let parts: Vec<&str> = name.split('-').collect();
        let scenario = parts[1..parts.len() - 6].join("-");
        let checks: Vec<Value> =
            serde_json::from_slice(&std::fs::read(folder.path().join("checks.json")).unwrap()).unwrap();
        let checks = checks.iter().filter_map(|check| {
            let status = check["status"].as_str()?;
            let why = check["errorMessage"].as_str().map(|why| format!(": {why}"));
            DECIDE.contains(&status).then(|| {
                (
                    check["id"].as_str().unwrap().to_owned(),
                    status.to_owned() + &why.unwrap_or_default(),
                )
            })
        });
        outcome.insert(scenario, checks.collect());
    }
    outcome
}

/// The checks that pass directly and not through the sidecars.
fn failing(directly: &Outcome, through: &Outcome) -> Vec<String> {
    let mut failing = Vec::new();
    for (scenario, checks) in directly {
        for (check, status) in checks {
            let after = through.get(scenario).and_then(|checks| checks.get(check));
            if status == "SUCCESS" && after != Some(status) {
                failing.push(format!(
                    "{scenario}: {check} passes directly, and through the sidecars is {after:?}"
                ));
            }
        }
    }
    for (scenario, checks) in through {
        let known = directly.get(scenario);
        for (check, status) in checks.iter().filter(|(_, status)| status.starts_with("FAILURE")) {
            if known
                .and_then(|known| known.get(check))
                .is_none_or(|before| !before.starts_with("FAILURE"))
            {
                failing.push(format!("{scenario}: {check} through the sidecars alone: {status}"));
            }
        }
    }
    failing
}

fn table(directly: &Outcome, through: &Outcome) -> String {
    let count = |outcome: &Outcome, scenario: &str| {
        let statuses: Vec<&String> = outcome.get(scenario).into_iter().flat_map(BTreeMap::values).collect();
        let counts = DECIDE
            .iter()
            .zip(["passed", "warned", "failed"])
            .filter_map(|(status, word)| {
                let count = statuses.iter().filter(|found| found.starts_with(status)).count();
                (count > 0).then(|| format!("{count} {word}"))
            });
        counts.collect::<Vec<_>>().join(", ")
    };
    let rows = directly.keys().map(|scenario| {
        let (directly, through) = (count(directly, scenario), count(through, scenario));
        format!("| `{scenario}` | {directly} | {through} |\n")
    });
    format!(
        "| scenario | directly | through both sidecars |\n|---|---|---|\n{}",
        rows.collect::<String>()
    )
}
