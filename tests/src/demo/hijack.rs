//! The chapter in which analyst-7 is hijacked: it has its token and its identity still, and does what an injected instruction
//! says. The script knows neither thresholds nor weights; it goes on until it is stopped.
//!
//! What it does is unusual only beside what it usually does, so [`works`](Story::works) comes first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use super::changes::{CHANGE_LIMIT, settled};
use super::verdict::{Row, Try};
use super::{CALL_HEADER, Expected, OWN, SERVICE, Stage, Story, token_request, with};
use crate::backends::WAIT_HEADER;
use crate::client::{Answer, Call};
use crate::wait;

/// So often at most it tries what the instruction wants: a score that has not stopped it by then stops nobody.
const MOST_ATTEMPTS: usize = 50;

/// Attempts at once, when the instruction comes a second time and asks for haste.
const AT_ONCE: usize = 50;

/// How often at most it hurries: where its sidecar hears of a pause before the score has all attempts, a person has to look again.
const MOST_HASTES: usize = 5;

/// How long an attempt may take to be counted; what moves no score is followed by the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// A call without an end, on its way.
struct Slow {
    call: JoinHandle<Result<Answer>>,
    began: Instant,
}

/// What the instruction asks for, and how that is denied.
#[derive(Clone)]
struct Attempt {
    what: &'static str,
    code: &'static str,
    service: &'static str,
    call: Call,
}

/// analyst-7 as an operator is shown it.
struct Standing {
    state: String,
    score: u64,
    /// Why it is in that state.
    reason: String,
}

impl<S: Stage> Story<'_, S> {
    pub(super) async fn hijacked(&mut self) -> Result<()> {
        let dead = self.dead_token(&request()).await?;
        let token = self.token(&request()).await?;
        for (what, to) in self.usual()? {
            self.through(&format!("works as usual: {what}"), &token, to, Expected::Pass)
                .await?;
        }
        let token = self.token(&request()).await?;
        self.paused_by_its_score(&token).await?;
        self.operator("approve")?;
        let table = self.table("sales_q1_2026")?;
        self.passes_again(&dead, table.clone()).await?;
        self.through("goes on, approved by a person", &token, table, Expected::Pass)
            .await?;
        let slow = self.slow_call(&token).await?;
        self.suspended_by_its_score(&token, &dead).await?;
        self.cut_off(slow, &token, "suspended", "agent_suspended").await?;
        let token = self.resumed(&token, &request()).await?;
        let slow = self.slow_call(&token).await?;
        self.operator("kill")?;
        self.cut_off(slow, &token, "killed", "agent_killed").await?;
        self.resumed(&token, &request()).await?;
        Ok(())
    }

    /// Waits until every worker of the tools' sidecar has its records taken again, without a word that counts for analyst-7.
    pub(super) async fn records_again(&self) -> Result<()> {
        let request =
            json!({"agent_id": "writer-2", "operation_id": "probe", "tools": ["matplotlib"], "ttl_seconds": 60});
        let token = self.token(&request).await?;
        let (service, call) = self.tool("matplotlib", &json!({}))?;
        settled(&self.stage.direct(service, "writer-2")?, &call.bearer(&token), None).await
    }

    /// So many user requests, as every day: its table, a tool, its own memory, its report.
    pub(super) async fn works(&mut self, requests: usize) -> Result<()> {
        let client = self.analyst()?;
        for _ in 0..requests {
            let token = self.token(&request()).await?;
            for (what, (_, call)) in self.usual()? {
                let answer = client.send(call.bearer(&token)).await?;
                ensure!(answer.status < 300, "{what}: {answer:?}");
            }
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

    fn attempts(&self) -> Result<[Attempt; 3]> {
        let attempt = |what, code, (service, call)| Attempt {
            what,
            code,
            service,
            call,
        };
        let bash = self.tool("bash", &json!({"command": "env"}))?;
        let memory = self.memory("GET", "writer-2")?;
        Ok([
            attempt("lists secrets", "scope_not_granted", self.table("secrets")?),
            attempt("calls tool bash", "tool_forbidden", bash),
            attempt("reads writer-2's memory", "own_segment_mismatch", memory),
        ])
    }

    /// It tries one thing after the other.
    async fn paused_by_its_score(&mut self, token: &str) -> Result<()> {
        let (attempts, mut tried) = (self.attempts()?, 0);
        let mut standing = self.standing()?;
        for attempt in attempts.iter().cycle().take(MOST_ATTEMPTS).cloned() {
            let again = if tried < attempts.len() { "" } else { " again" };
            let what = format!("hijacked: {}{again}", attempt.what);
            let to = (attempt.service, attempt.call);
            self.through(&what, token, to, Expected::Deny(attempt.code)).await?;
            tried += 1;
            standing = self.counted(&standing).await?;
            if standing.state != "active" {
                break;
            }
        }
        let Standing { state, reason, .. } = standing;
        ensure!(state == "paused", "{state} after {tried} attempts: {reason}");
        self.why = Some(format!("paused after {tried} attempts: {}", lines(&reason)));
        let table = self.table("sales_q1_2026")?;
        self.denied_at_both("analyst-7 reads, paused by its score", token, table, "agent_paused")
            .await
    }

    /// The instruction comes again, and asks for haste.
    async fn suspended_by_its_score(&mut self, token: &str, dead: &str) -> Result<()> {
        let attempts = self.attempts()?;
        let mut tried = 0;
        for _ in 0..MOST_HASTES {
            let mut calls = JoinSet::new();
            for attempt in attempts.iter().cycle().take(AT_ONCE) {
                let (client, call) = (self.analyst()?, attempt.call.clone().bearer(token));
                calls.spawn(async move { client.send(call).await });
            }
            tried += calls.join_all().await.len();
            let suspended = wait::until("its score to suspend it", PATIENCE, async || {
                self.standing().ok().filter(|standing| standing.state == "suspended")
            });
            if let Ok(Standing { reason, .. }) = suspended.await {
                self.why = Some(format!("suspended after {tried} attempts in haste: {}", lines(&reason)));
                return Ok(());
            }
            if self.standing()?.state == "paused" {
                self.operator("approve")?;
                self.passes_again(dead, self.table("sales_q1_2026")?).await?;
            }
        }
        let Standing { state, reason, .. } = self.standing()?;
        anyhow::bail!("{state} after {tried} attempts in haste: {reason}")
    }

    /// A call that the service would answer some time, and has taken.
    async fn slow_call(&mut self, token: &str) -> Result<Slow> {
        self.calls += 1;
        let (mark, (service, call)) = (self.calls.to_string(), self.table("sales_q1_2026")?);
        let call = call
            .header(WAIT_HEADER, "head")
            .header(CALL_HEADER, &mark)
            .bearer(token);
        let (client, began) = (self.analyst()?.within(CHANGE_LIMIT), Instant::now());
        let call = tokio::spawn(async move { client.send(call).await });
        wait::until("the slow call to arrive", CHANGE_LIMIT, async || {
            let seen = self.stage.seen(service, CALL_HEADER, &mark).await;
            seen.is_ok_and(|seen| !seen.is_empty()).then_some(())
        })
        .await?;
        Ok(Slow { call, began })
    }

    /// The slow call is ended, and every sidecar denies.
    async fn cut_off(&mut self, slow: Slow, token: &str, how: &str, code: &'static str) -> Result<()> {
        let answer = slow.call.await.context("the slow call")?;
        let what = format!("analyst-7's slow call, {how} on its way");
        let tried = Try::new(&what, OWN, Expected::Deny(code));
        self.record(Row::judge(tried, &answer, slow.began.elapsed(), None));
        let (service, call) = self.table("sales_q1_2026")?;
        let own = (OWN, "reads its table", self.analyst()?, (service, call));
        let mut doors = vec![own];
        for (what, to) in self.usual()? {
            doors.push((SERVICE, what, self.stage.direct(to.0, "analyst-7")?, to));
        }
        for (door, what, client, (service, call)) in doors {
            let (what, call) = (format!("analyst-7 {what}, {how}"), call.bearer(token));
            settled(&client, &call, Some(code)).await?;
            self.shown(Try::new(&what, door, Expected::Deny(code)), &client, (service, call))
                .await?;
        }
        Ok(())
    }

    /// A person gives the agent back, with a new token.
    async fn resumed(&mut self, old: &str, request: &Value) -> Result<String> {
        self.operator("resume")?;
        let (service, call) = self.table("sales_q1_2026")?;
        let call = call.bearer(old);
        for client in [self.analyst()?, self.stage.direct(service, "analyst-7")?] {
            settled(&client, &call, Some("token_superseded")).await?;
        }
        self.with_a_new_token(request).await
    }

    fn standing(&self) -> Result<Standing> {
        let shown = self
            .stage
            .ostiary(&["--output", "json", "agent", "show", "analyst-7"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let text = |pointer: &str| {
            let text = shown.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Ok(Standing {
            state: text("/state"),
            score: shown.get("score").and_then(Value::as_u64).context("no score")?,
            reason: text("/changes/0/reason"),
        })
    }

    /// How the agent stands once what it has just tried has moved its score.
    async fn counted(&self, before: &Standing) -> Result<Standing> {
        let moved = wait::until("the attempt to be counted", PATIENCE, async || {
            let now = self.standing().ok()?;
            (now.score > before.score || now.state != before.state).then_some(now)
        });
        // What becomes of the score is told a moment after the score itself: the next look at it sees both.
        moved.await.ok();
        self.standing()
    }
}

/// One reason a line.
fn lines(reason: &str) -> String {
    reason.replacen(": ", "\n    ", 1).replace("; ", "\n    ")
}

/// What it asks for where it may remember.
fn request() -> Value {
    let scope = [
        "read:data.sales_q1_2026",
        "write:report.draft.2026q1",
        "read:memory.analyst-7",
        "write:memory.analyst-7",
    ];
    with(token_request(), "scope", json!(scope))
}
