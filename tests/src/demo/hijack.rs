//! The chapter in which analyst-7 is hijacked: it has its token and its identity still, and does what an injected instruction
//! says. The script knows neither thresholds nor weights; it goes on until it is stopped.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::changes::{CHANGE_LIMIT, settled};
use super::verdict::{Row, Try};
use super::{Expected, OWN, SERVICE, Stage, Story, token_request, with};
use crate::backends::WAIT_HEADER;
use crate::client::Call;

/// Rounds of its usual work, which are all the past that it has in this mesh.
const USUAL_ROUNDS: usize = 12;

/// So often at most it tries what the instruction wants: a score that has not stopped it by then stops nobody.
const MOST_ATTEMPTS: usize = 200;

/// Attempts at once, when the instruction comes a second time and asks for haste.
const AT_ONCE: usize = 50;

/// What is tried, the code that denies it, and the service with the call.
type Attempt = (&'static str, &'static str, (&'static str, Call));

impl<S: Stage> Story<'_, S> {
    pub(super) async fn hijacked(&mut self) -> Result<()> {
        let token = self.token(&hijacked_request()).await?;
        self.works(&token).await?;
        self.paused_by_its_score(&token).await?;
        self.operator("approve")?;
        let table = self.table("sales_q1_2026")?;
        self.passes_again(&token, table.clone()).await?;
        self.through("goes on, approved by a person", &token, table, Expected::Pass)
            .await?;
        self.suspended_in_the_act(&token).await?;
        self.operator("resume")?;
        self.with_a_new_token(&hijacked_request()).await
    }

    /// As every day: its table, its tools, its report, its own memory.
    async fn works(&mut self, token: &str) -> Result<()> {
        let client = self.analyst()?;
        for _ in 1..USUAL_ROUNDS {
            for (_, (_, call)) in self.usual()? {
                let answer = client.send(call.bearer(token)).await?;
                ensure!(answer.denial().is_none(), "its usual work is denied: {answer:?}");
            }
        }
        for (what, to) in self.usual()? {
            self.through(&format!("works as usual: {what}"), token, to, Expected::Pass)
                .await?;
        }
        Ok(())
    }

    fn usual(&self) -> Result<[(&'static str, (&'static str, Call)); 4]> {
        Ok([
            ("reads its table", self.table("sales_q1_2026")?),
            ("calls tool pandas", self.tool("pandas", &json!({}))?),
            ("remembers a figure", self.memory("PUT", "analyst-7")?),
            ("writes its report", self.report("2026q1")?),
        ])
    }

    fn memory(&self, method: &str, agent: &str) -> Result<(&'static str, Call)> {
        let authority = self.stage.authority("memory")?;
        let call = Call::new(method, &authority, &format!("/memory/{agent}/notes"));
        Ok(("memory", if method == "PUT" { call.body("+17 %") } else { call }))
    }

    /// What the instruction asks for, and how it is denied.
    fn attempts(&self) -> Result<[Attempt; 3]> {
        Ok([
            ("lists secrets", "scope_not_granted", self.table("secrets")?),
            (
                "calls tool bash",
                "tool_forbidden",
                self.tool("bash", &json!({"command": "env"}))?,
            ),
            (
                "reads writer-2's memory",
                "own_segment_mismatch",
                self.memory("GET", "writer-2")?,
            ),
        ])
    }

    /// It tries one thing after the other.
    async fn paused_by_its_score(&mut self, token: &str) -> Result<()> {
        let attempts = self.attempts()?;
        for (what, code, to) in attempts.clone() {
            self.through(&format!("hijacked: {what}"), token, to, Expected::Deny(code))
                .await?;
        }
        let client = self.analyst()?;
        let mut tried = attempts.len();
        for (_, _, (_, call)) in attempts.iter().cycle() {
            if self.state()?.0 != "active" || tried == MOST_ATTEMPTS {
                break;
            }
            client.send(call.clone().bearer(token)).await?;
            tried += 1;
        }
        let (state, reason) = self.state()?;
        ensure!(state == "paused", "{state} after {tried} attempts: {reason}");
        self.why = Some(format!("paused after {tried} attempts: {reason}"));
        let table = self.table("sales_q1_2026")?;
        self.denied_at_both("analyst-7 reads, paused by its score", token, table, "agent_paused")
            .await
    }

    /// The instruction comes again and asks for haste, while a slow call is on its way.
    async fn suspended_in_the_act(&mut self, token: &str) -> Result<()> {
        let (_, slow) = self.table("sales_q1_2026")?;
        let slow = slow.header(WAIT_HEADER, "head").bearer(token);
        let (client, began) = (self.analyst()?.within(CHANGE_LIMIT), Instant::now());
        let slow = tokio::spawn(async move { client.send(slow).await });
        let attempts = self.attempts()?;
        let mut tried = 0;
        while self.state()?.0 != "suspended" && tried < MOST_ATTEMPTS {
            let mut calls = JoinSet::new();
            for (_, _, (_, call)) in attempts.iter().cycle().take(AT_ONCE) {
                let (client, call) = (self.analyst()?, call.clone().bearer(token));
                calls.spawn(async move { client.send(call).await });
            }
            tried += calls.join_all().await.len();
        }
        let (state, reason) = self.state()?;
        ensure!(state == "suspended", "{state} after {tried} attempts: {reason}");
        self.why = Some(format!("suspended after {tried} attempts: {reason}"));
        let answer = slow.await.context("the slow call")?;
        let what = "analyst-7's slow call, suspended while it was on its way";
        let tried = Try::new(what, OWN, Expected::Deny("agent_suspended"));
        self.record(Row::judge(tried, &answer, began.elapsed(), None));

        let suspended = Expected::Deny("agent_suspended");
        for (what, (service, call)) in self.usual()? {
            let (what, call) = (format!("analyst-7 {what}, suspended"), call.bearer(token));
            for (door, client) in [
                (OWN, self.analyst()?),
                (SERVICE, self.stage.direct(service, "analyst-7")?),
            ] {
                settled(&client, &call, Some("agent_suspended")).await?;
                self.shown(Try::new(&what, door, suspended), &client, (service, call.clone()))
                    .await?;
            }
        }
        Ok(())
    }

    /// The state of analyst-7 and why it is that, as an operator is told.
    fn state(&self) -> Result<(String, String)> {
        let shown = self
            .stage
            .ostiary(&["--output", "json", "agent", "show", "analyst-7"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let text = |pointer: &str| {
            let text = shown.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Ok((text("/state"), text("/last_change/reason")))
    }
}

/// What it asks for where it may remember.
fn hijacked_request() -> Value {
    let scope = [
        "read:data.sales_q1_2026",
        "write:report.draft.2026q1",
        "read:memory.analyst-7",
        "write:memory.analyst-7",
    ];
    with(token_request(), "scope", json!(scope))
}
