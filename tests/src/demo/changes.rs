//! The chapters in which a right goes while its token lives: by a changed policy, a pause, a kill.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::verdict::Try;
use super::{Caller, Expected, OWN, SERVICE, Stage, Story, token_request};
use crate::client::Call;
use crate::wait;

/// How long a change may take to reach every worker of every sidecar.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);

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
    pub(super) async fn paused(&mut self, token: &str) -> Result<()> {
        self.operator("pause")?;
        let table = self.table("sales_q1_2026")?;
        let what = "analyst-7 reads, paused by a person";
        self.denied_at_both(what, token, table.clone(), "agent_paused").await?;
        self.operator("approve")?;
        self.passes_again(token, table.clone()).await?;
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
        self.denied_at_both(what, token, table.clone(), "token_superseded")
            .await?;
        // A token of the second in which it was resumed would be dead too, so none is issued then.
        let new = wait::until("a token after the agent was resumed", CHANGE_LIMIT, async || {
            self.token(&token_request()).await.ok()
        })
        .await?;
        self.passes_again(&new, table.clone()).await?;
        self.through("reads with a new token, resumed", &new, table, Expected::Pass)
            .await
    }

    /// What an operator types beside the policy server.
    fn operator(&self, change: &str) -> Result<()> {
        let said = self
            .stage
            .ostiary(&["agent", change, "analyst-7", "--reason", "the demo"])?;
        ensure!(said.contains("analyst-7 is "), "{said}");
        Ok(())
    }

    /// A call of analyst-7, which its own sidecar and the service's deny once the change has reached them.
    async fn denied_at_both(
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

    /// Waits until neither sidecar denies the call any more.
    async fn passes_again(&self, token: &str, (service, call): (&'static str, Call)) -> Result<()> {
        let call = call.bearer(token);
        settled(&self.stage.direct(service, "analyst-7")?, &call, None).await?;
        settled(&self.analyst()?, &call, None).await
    }
}

/// Waits until many calls in a row meet this denial, or none.
async fn settled(client: &Caller, call: &Call, denial: Option<&str>) -> Result<()> {
    let mut found = 0;
    wait::until("the change to reach every worker", CHANGE_LIMIT, async || {
        let met = client.send(call.clone()).await;
        let met = met.is_ok_and(|answer| answer.denial() == denial);
        found = if met { found + 1 } else { 0 };
        (found >= PROBES).then_some(())
    })
    .await
}
