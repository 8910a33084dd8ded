//! A service in shadow, through real sidecars: from what enforcing would have denied to the grant by which it permits.

use std::time::Duration;

use serde_json::{Value, json};
use tests::client::{Answer, Call, Client};
use tests::demo::{Stage as _, token_request};
use tests::mesh::{Mesh, Options};
use tests::wait;

use crate::recorded_first::stored;

const LIMIT: Duration = Duration::from_secs(60);
const SCOPE: &str = "read:data.payroll";
/// As often as every worker of both sidecars is met.
const OFTEN: usize = 40;

fn read(mesh: &Mesh, token: Option<&str>) -> Call {
    let authority = mesh.service("warehouse").unwrap().authority();
    let call = Call::new("GET", &authority, "/v1/tables/payroll").header("x-shadow", "1");
    match token {
        Some(token) => call.bearer(token),
        None => call,
    }
}

fn edit(mesh: &Mesh, file: &str, change: impl Fn(&str) -> String) {
    let file = mesh.policy.join(file);
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed);
    std::fs::write(file, changed).unwrap();
}

/// Waits until the same call is answered alike so often that no worker of a sidecar says otherwise.
async fn always(mesh: &Mesh, client: &Client, token: Option<&str>, status: u16, denial: Option<&str>) {
    let mut alike = 0;
    wait::until("every worker to answer alike", LIMIT, async || {
        let answer: Answer = client.send(read(mesh, token)).await.ok()?;
        let is_it = (answer.status, answer.denial()) == (status, denial);
        alike = if is_it { alike + 1 } else { 0 };
        (alike >= OFTEN).then_some(())
    })
    .await
    .unwrap();
}

/// What `ostiary report shadow` says to the server's own user, and its exit code.
async fn report(mesh: &Mesh) -> (Option<i32>, Value) {
    let mut command = std::process::Command::new(tests::built::ostiary().unwrap());
    command
        .args(["--output", "json", "report", "shadow", "--config"])
        .arg(mesh.policy_server.config());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let told = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_denies_reaches_a_service_in_shadow_and_the_grant_that_is_reported_makes_it_permitted() {
    let mesh = Mesh::start("shadow", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let own = mesh.agent("analyst-7").unwrap().client();
    let warehouse = mesh.service("warehouse").unwrap();
    let arrived = || warehouse.backend.seen_with("x-shadow", "1").len();
    always(&mesh, &own, Some(&token), 403, Some("scope_not_granted")).await;
    assert_eq!((arrived(), report(&mesh).await.0), (0, Some(0)));

    edit(&mesh, "service-warehouse.yaml", |text| {
        format!("{}\n  mode: shadow\n", text.trim_end())
    });
    always(&mesh, &own, Some(&token), 200, None).await;
    assert!(arrived() >= OFTEN);
    let direct = mesh.direct("warehouse", "analyst-7").unwrap();
    always(&mesh, &direct, None, 200, None).await;

    let told = wait::until("both kinds to be reported", LIMIT, async || {
        let (code, told) = report(&mesh).await;
        let groups = told["groups"].as_array().unwrap().len();
        (groups == 2).then_some((code, told))
    });
    let (code, told) = told.await.unwrap();
    assert_eq!(code, Some(1));
    let group = |code: &str| {
        let mut groups = told["groups"].as_array().unwrap().iter();
        groups.find(|group| group["code"] == code).unwrap().clone()
    };
    assert_eq!(group("scope_not_granted")["grant"], json!({"scope": [SCOPE]}));
    assert_eq!(group("token_missing").get("grant"), None);
    assert_eq!(
        told["grants"],
        json!([{"agent_id": "analyst-7", "spec": {"scope": [SCOPE]}}])
    );
    let records = stored(&mesh).await;
    let mut shadowed = records
        .iter()
        .filter(|record| record["verdict"] == "permit" && record["code"] == "scope_not_granted");
    assert!(shadowed.any(|record| record["side"] == "inbound"));
    assert!(shadowed.any(|record| record["side"] == "outbound"));

    // The grant that was proposed, and enforcing.
    edit(&mesh, "agent-analyst-7.yaml", |text| {
        text.replace("scope: [", &format!("scope: [\"{SCOPE}\", "))
    });
    edit(&mesh, "service-warehouse.yaml", |text| {
        text.replace("mode: shadow", "mode: enforce")
    });
    always(&mesh, &own, Some(&token), 403, Some("scope_not_granted")).await;
    let mut asked = token_request();
    asked["scope"].as_array_mut().unwrap().push(json!(SCOPE));
    let granted = mesh.token(&asked).await.unwrap();
    always(&mesh, &own, Some(&granted), 200, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_denied_in_shadow_with_a_token_and_without() {
    let mesh = Mesh::start("shadow-kill", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    edit(&mesh, "service-warehouse.yaml", |text| {
        format!("{}\n  mode: shadow\n", text.trim_end())
    });
    let token = mesh.token(&token_request()).await.unwrap();
    let direct = mesh.direct("warehouse", "analyst-7").unwrap();
    let own = mesh.agent("analyst-7").unwrap().client();
    for client in [&direct, &own] {
        always(&mesh, client, Some(&token), 200, None).await;
        always(&mesh, client, None, 200, None).await;
    }
    mesh.ostiary(&["agent", "kill", "analyst-7", "--reason", "a test"])
        .unwrap();
    for client in [&direct, &own] {
        always(&mesh, client, Some(&token), 403, Some("agent_killed")).await;
        always(&mesh, client, None, 401, Some("token_missing")).await;
    }
}
