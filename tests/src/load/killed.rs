//! The kill switch under load: how soon after the command every sidecar denies, and whether anything passes after that.
//!
//! Callers with connections of their own call without a pause through their agent's own sidecar and straight at the service's,
//! while calls without an end are on their way. A connection stays with its worker, so that each is a witness of one VM.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::application::HANGING_TABLE;
use super::mesh::{ANALYST, LoadMesh, TABLE};
use crate::client::{Call, Client};
use crate::sidecar::POLICY_AUTHORITY;
use crate::wait;

/// Connections to each of the two sidecars, and calls without an end at each.
const CONNECTIONS: usize = 8;
const ENDLESS: u64 = 4;

/// Between two calls of a connection: so many that every worker always has some, and no more than the machine can make.
const PAUSE: Duration = Duration::from_millis(4);

/// How long anything may take before the trial has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// What came of one kill. All times are since the command was given.
#[derive(Debug)]
pub struct Killed {
    /// When the command was given.
    pub commanded: Instant,
    /// When it was acknowledged.
    pub acknowledged: Duration,
    /// The state list that tells of it.
    pub state_version: String,
    /// When each connection met its first denial.
    pub denied: Vec<Duration>,
    /// When each call ended that was on its way.
    pub ended: Vec<Duration>,
    /// When each call was answered that passed after the command.
    pub passed: Vec<Duration>,
    /// Calls that passed on a connection to the service's sidecar that had met a denial, which none may. What comes through the
    /// agent's own sidecar meets another worker of the service's with each call, and may be denied by the first that knows.
    pub raised: usize,
}

/// A call as its caller saw it.
#[derive(Debug, Clone, Copy)]
struct Made {
    answered: Instant,
    status: u16,
}

/// Kills the agent under load, once, and gives it back.
///
/// # Errors
///
/// When a part fails in a way that is no verdict.
pub async fn trial(mesh: &LoadMesh) -> Result<Killed> {
    let token = given_back(mesh).await?;
    let doors = [
        mesh.client(&mesh.warehouse, ANALYST)?,
        Client::plain(mesh.outbound_address),
    ];
    let call = |table: &str| Call::new("GET", &mesh.warehouse.authority, &format!("/v1/tables/{table}")).bearer(&token);
    wait::until("the last trial's calls to leave", LIMIT, async || {
        (mesh.warehouse.application.active() == 0).then_some(())
    })
    .await?;
    let load = Arc::new(Load::default());
    let (mut callers, mut endless) = (JoinSet::new(), JoinSet::new());
    for (client, direct) in doors.iter().zip([true, false]) {
        for _ in 0..CONNECTIONS {
            let made = call_on(client.clone(), call(TABLE), Arc::clone(&load));
            callers.spawn(async move { made.await.map(|made| (direct, made)) });
        }
        for _ in 0..ENDLESS {
            let (client, call) = (client.clone().within(LIMIT), call(HANGING_TABLE));
            endless.spawn(async move { (client.send(call).await, Instant::now()) });
        }
    }
    wait::until("the calls without an end to arrive", LIMIT, async || {
        (mesh.warehouse.application.active() >= 2 * ENDLESS).then_some(())
    })
    .await?;
    load.goes_on().await?;

    let commanded = Instant::now();
    let answer = change(mesh, "kill").await?;
    let acknowledged = commanded.elapsed();
    let state_version = answer.get("state_version").and_then(Value::as_str);
    let mut ended = Vec::new();
    while let Some(call) = endless.join_next().await {
        let (answer, at) = call?;
        let code = answer.as_ref().ok().and_then(|answer| answer.denial());
        ensure!(code == Some("agent_killed"), "a call on its way ended as {answer:?}");
        ended.push(at - commanded);
    }
    load.goes_on().await?;
    load.stop.store(true, Ordering::Relaxed);
    let mut killed = Killed {
        commanded,
        acknowledged,
        state_version: state_version.context("a kill without a state list")?.to_owned(),
        denied: Vec::new(),
        ended,
        passed: Vec::new(),
        raised: 0,
    };
    while let Some(made) = callers.join_next().await {
        let (direct, made) = made??;
        killed.add(direct, &made)?;
    }
    Ok(killed)
}

impl Killed {
    /// Adds what one connection saw.
    fn add(&mut self, direct: bool, made: &[Made]) -> Result<()> {
        let first = made.iter().position(|made| made.status == 403);
        let (passed, denied) = made.split_at(first.context("a connection never met a denial")?);
        ensure!(
            passed.iter().all(|made| made.status == 200),
            "a call met neither: {passed:?}"
        );
        let commanded = self.commanded;
        let since = |made: &Made| made.answered.saturating_duration_since(commanded);
        self.denied.extend(denied.first().map(since));
        if direct {
            self.raised += denied.iter().filter(|made| made.status == 200).count();
        }
        let all = made.iter().filter(|made| made.status == 200).map(since);
        self.passed.extend(all.filter(|at| !at.is_zero()));
        Ok(())
    }
}

/// What all callers share.
#[derive(Debug, Default)]
struct Load {
    made: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// Waits for so many calls more that each connection has made some.
    async fn goes_on(&self) -> Result<()> {
        let made = self.made.load(Ordering::Relaxed);
        wait::until("more calls", LIMIT, async || {
            (self.made.load(Ordering::Relaxed) >= made + 2 * CONNECTIONS * 20).then_some(())
        })
        .await
    }
}

/// Calls on one connection until it is told to stop.
async fn call_on(client: Client, call: Call, load: Arc<Load>) -> Result<Vec<Made>> {
    let mut connection = client.connect().await?;
    let mut made = Vec::new();
    while !load.stop.load(Ordering::Relaxed) {
        let answer = tokio::time::timeout(LIMIT, connection.send(call.clone())).await??;
        made.push(Made {
            answered: Instant::now(),
            status: answer.status,
        });
        load.made.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(made)
}

/// Gives the agent back, if it was killed; answers with a token that every worker of both sidecars takes.
async fn given_back(mesh: &LoadMesh) -> Result<String> {
    if shown(mesh).await? != "active" {
        change(mesh, "resume").await?;
    }
    // A token of the second in which it was resumed would be dead too, so none is issued then.
    let token = wait::until("a token", LIMIT, async || mesh.token(ANALYST).await.ok()).await?;
    let call = Call::new("GET", &mesh.warehouse.authority, &format!("/v1/tables/{TABLE}")).bearer(&token);
    for client in [
        mesh.client(&mesh.warehouse, ANALYST)?,
        Client::plain(mesh.outbound_address),
    ] {
        let mut found = 0;
        wait::until("every worker to take the token", LIMIT, async || {
            let passed = client.send(call.clone()).await.is_ok_and(|answer| answer.status == 200);
            found = if passed { found + 1 } else { 0 };
            (found >= 3 * CONNECTIONS).then_some(())
        })
        .await?;
    }
    Ok(token)
}

/// As the server's own user asks, on its operator socket.
async fn ask(mesh: &LoadMesh, call: Call) -> Result<Value> {
    let socket: PathBuf = mesh.run.file("policy-server").join("operator.sock");
    let answer = Client::unix(&socket).within(LIMIT).send(call).await?;
    if answer.status != 200 {
        bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(answer.json())
}

async fn change(mesh: &LoadMesh, change: &str) -> Result<Value> {
    let path = format!("/v1/agents/{ANALYST}/{change}");
    let call = Call::new("POST", POLICY_AUTHORITY, &path).json(&json!({"reason": "a trial"}));
    ask(mesh, call).await
}

async fn shown(mesh: &LoadMesh) -> Result<String> {
    let shown = ask(
        mesh,
        Call::new("GET", POLICY_AUTHORITY, &format!("/v1/agents/{ANALYST}")),
    )
    .await?;
    let state = shown.get("state").and_then(Value::as_str);
    Ok(state.context("an agent without a state")?.to_owned())
}
