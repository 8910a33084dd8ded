//! The chapters in which a right goes while its token lives: by a changed policy, a pause, a kill.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::verdict::Try;
use super::{Caller, Expected, OWN, SERVICE, Stage, Story, token_of, token_request};
use crate::client::Call;
use crate::wait;

/// How long a change may take to reach every worker of every sidecar.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Calls that must all meet the change, as each connection lands on a random worker.
const PROBES: usize = 12;

impl<S: Stage> Story<'_, S> {
    pub(super) async fn policy_change(&mut self, token: &str) -> Result<()> {
        let (both, one) = ("tools: [pandas, matplotlib]", "tools: [matplotlib]");
        self.stage.edit_agent("analyst-7", both, one)?;
        let pandas = self.tool("pandas", &json!({}))?;
        let what = "calls tool pandas, since taken from its policy";
        self.denied_at_both(what, token, pandas, "tool_not_in_policy").await?;
        self.stage.edit_agent("analyst-7", one, both)
    }

    /// A person stops the agent, looks, and lets it go on with the token that it has.
    pub(super) async fn paused(&mut self, token: &str, dead: &str) -> Result<()> {
        self.operator("pause")?;
        let table = self.table("sales_q1_2026")?;
        let what = "analyst-7 reads, paused by a person";
        self.denied_at_both(what, token, table.clone(), "agent_paused").await?;
        self.operator("approve")?;
        self.passes_again(dead, table.clone()).await?;
        self.through("reads, approved by a person", token, table, Expected::Pass)
            .await
    }

    /// A person kills the agent: what tokens it has are dead, also once it is resumed.
    pub(super) async fn killed(&mut self, token: &str) -> Result<()> {
        self.operator("kill")?;
        let table = self.table("sales_q1_2026")?;
        self.denied_at_both(
            "analyst-7 reads, killed by a person",
            token,
            table.clone(),
            "agent_killed",
        )
        .await?;
        self.operator("resume")?;
        let what = "analyst-7 reads with its old token, resumed";
        self.denied_at_both(what, token, table, "token_superseded").await?;
        self.with_a_new_token(&token_request()).await?;
        Ok(())
    }

    /// Every worker knows by now that the agent was resumed.
    pub(super) async fn with_a_new_token(&mut self, request: &Value) -> Result<String> {
        // A token of the second in which it was resumed would be dead too, so none is issued then.
        let new = wait::until("a token after the agent was resumed", CHANGE_LIMIT, async || {
            self.token(request).await.ok()
        })
        .await?;
        let table = self.table("sales_q1_2026")?;
        self.through("reads with a new token, resumed", &new, table, Expected::Pass)
            .await?;
        Ok(new)
    }

    /// A token that was revoked: by it one can ask whether its agent is paused, and no answer says anything of the agent's
    /// behaviour.
    pub(super) async fn dead_token(&self, request: &Value) -> Result<String> {
        let answer = self.ask_token(request).await?;
        let (token, told) = (token_of(&answer)?, answer.json());
        let jti = told.get("jti").and_then(Value::as_str).context("a token without jti")?;
        self.stage.ostiary(&["revoke", "--jti", jti, "--reason", "the demo"])?;
        Ok(token)
    }

    /// What an operator types beside the policy server.
    pub(super) fn operator(&self, change: &str) -> Result<()> {
        let said = self
            .stage
            .ostiary(&["agent", change, "analyst-7", "--reason", "the demo"])?;
        ensure!(said.contains("analyst-7 is "), "{said}");
        Ok(())
    }

    /// A call of analyst-7, which its own sidecar and the service's deny once the change has reached them.
    pub(super) async fn denied_at_both(
        &mut self,
        what: &str,
        token: &str,
        (service, call): (&'static str, Call),
        code: &'static str,
    ) -> Result<()> {
        let call = call.bearer(token);
        let doors = [
            (OWN, self.analyst()?),
            (SERVICE, self.stage.direct(service, "analyst-7")?),
        ];
        for (door, client) in &doors {
            settled(client, &call, Some(code)).await?;
            let tried = Try::new(what, door, Expected::Deny(code));
            self.shown(tried, client, (service, call.clone())).await?;
        }
        Ok(())
    }

    /// Waits until neither sidecar denies a call for its agent's state any more, but for its dead token.
    pub(super) async fn passes_again(&self, dead: &str, (service, call): (&'static str, Call)) -> Result<()> {
        let call = call.bearer(dead);
        for client in [self.stage.direct(service, "analyst-7")?, self.analyst()?] {
            settled(&client, &call, Some("token_revoked")).await?;
        }
        Ok(())
    }
}

/// Waits until many calls in a row meet this denial, or none.
pub(super) async fn settled(client: &Caller, call: &Call, denial: Option<&str>) -> Result<()> {
    let (mut found, mut last) = (0, None);
    let settled = wait::until("the change to reach every worker", CHANGE_LIMIT, async || {
        let met = client.send(call.clone()).await;
        last = met
            .ok()
            .map(|answer| (answer.status, answer.denial().map(str::to_owned)));
        let is_met = last.as_ref().is_some_and(|(_, met)| met.as_deref() == denial);
        found = if is_met { found + 1 } else { 0 };
        (found >= PROBES).then_some(())
    });
    settled
        .await
        .with_context(|| format!("{denial:?} is waited for; the last answer was {last:?}"))
}
