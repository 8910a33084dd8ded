//! Tokens issued a second: each is signed, and stands durably in the database before anybody is given it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::load::wire::{Http1, Request};
use tests::sidecar::POLICY_AUTHORITY;
use tokio::task::JoinSet;

use super::stand::{Stand, accepted, peer};
use crate::population;

/// Callers at once.
const CALLERS: usize = 32;

/// Asks for tokens for so long, by many callers at once, and answers how many were issued and how long it took.
///
/// # Errors
///
/// When one is refused.
pub(crate) async fn ask(stand: &Stand, length: Duration) -> Result<(u64, Duration)> {
    let agents = stand.population.agents();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut connection = Http1::new(stand.client());
        callers.spawn(async move {
            let mut issued = 0;
            while start.elapsed() < length {
                let agent = (caller + 37 * usize::try_from(issued)?) % agents;
                let reply = connection.send(&request(caller, agent), issued).await?;
                ensure!(reply.status == 200, "a token was refused: {}", reply.status);
                issued += 1;
            }
            anyhow::Ok(issued)
        });
    }
    let mut issued = 0;
    while let Some(caller) = callers.join_next().await {
        issued += caller??;
    }
    Ok((issued, start.elapsed()))
}

/// Shows that the very process issues good tokens, and none to a stranger or beyond the policy.
///
/// # Errors
///
/// When it does not.
pub(crate) async fn check(stand: &Stand) -> Result<()> {
    let ask = async |principal: &tests::pki::Workload, body: &serde_json::Value| {
        let (name, value) = peer(principal);
        let call = tests::client::Call::new("POST", POLICY_AUTHORITY, "/v1/tokens");
        stand.client().send(call.header(name, value).json(body)).await
    };
    let good = population::token_request(0);
    let issued = accepted(&ask(&population::orchestrator(0), &good).await?)?;
    let token = issued
        .get("token")
        .and_then(serde_json::Value::as_str)
        .context("no token")?;
    ensure!(token.split('.').count() == 3, "no JWS was issued");
    let stranger = ask(&population::agent(1), &good).await?;
    ensure!(stranger.status == 403, "a stranger was answered {}", stranger.status);
    let mut greedy = good;
    if let Some(fields) = greedy.as_object_mut() {
        fields.insert("scope".to_owned(), serde_json::json!(["read:data.everything"]));
    }
    let refused = ask(&population::orchestrator(0), &greedy).await?;
    ensure!(
        refused.status == 403,
        "a scope beyond the policy was answered {}",
        refused.status
    );
    Ok(())
}

fn request(caller: usize, agent: usize) -> Request {
    let (name, value) = peer(&population::orchestrator(caller));
    let body = population::token_request(agent).to_string();
    Request::post(POLICY_AUTHORITY, "/v1/tokens", body).header(name, value)
}
