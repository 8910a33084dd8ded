//! Calls that are made all the time while something is done to the mesh, and what may come of them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{authority, namespace};
use super::straight::{self, Straight, Thief};
use super::{Cluster, UnderLoad};
use crate::client::Call;
use crate::workload::{Line, Load, Tally};
use crate::{built, demo, mcp};

/// Calls that analyst-7's token permits.
pub const ALLOWED: [&str; 2] = ["reads its table", "calls its tool"];

/// Calls that nothing permits, whatever happens.
pub const DENIED: [&str; 3] = ["reads another table", "reads without a token", "calls a forbidden tool"];

/// What the orchestrator does ten times a second.
pub const ASKED: &str = "asks for a token";

/// The header that carries a call's name to the service's log.
pub const MARK: &str = "x-e2e-call";

/// Calls a second, of all of them together.
const PER_SECOND: u32 = 50;

/// A cluster with the demo in it.
#[derive(Debug)]
pub struct Scene {
    /// The cluster.
    pub cluster: Cluster,
}

impl Scene {
    /// The one that `$KUBECTL` speaks to.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn new() -> Result<Self> {
        Ok(Self {
            cluster: Cluster::connect()?,
        })
    }

    /// A new token for analyst-7.
    ///
    /// # Errors
    ///
    /// When the orchestrator gets none.
    pub async fn token(&self) -> Result<String> {
        self.token_by(&demo::token_request()).await
    }

    /// A token that the orchestrator asks for.
    ///
    /// # Errors
    ///
    /// When it gets none.
    pub async fn token_by(&self, request: &Value) -> Result<String> {
        let call = Call::new("POST", &authority("policy-server"), "/v1/tokens").json(request);
        let answer = self.cluster.pod("orchestration", "orchestrator").send(call).await?;
        let token = answer
            .json()
            .get("token")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned);
        token.with_context(|| format!("no token: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
    }

    /// analyst-7 begins to make the calls of [`ALLOWED`] and [`DENIED`] in turn, and a thief of its certificate others
    /// straight at the services' sidecars.
    ///
    /// # Errors
    ///
    /// When they cannot.
    pub async fn load(&self) -> Result<Calls> {
        let token = self.token().await?;
        let tool = |name| mcp::call_tool(&authority("mcp"), name, &json!({})).bearer(&token);
        let calls = [
            table("sales_q1_2026").bearer(&token),
            tool("pandas"),
            table("hr_salaries").bearer(&token),
            table("sales_q1_2026"),
            tool("bash"),
        ];
        let named = ALLOWED.iter().chain(&DENIED).zip(calls);
        let load = Load {
            calls: named
                .map(|(name, call)| (name.to_string(), Line::from(&call.header(MARK, name))))
                .collect(),
            per_second: PER_SECOND,
        };
        let straight = Thief::new(&self.cluster).await?.begin(&token);
        let through = self.cluster.pod("agents", "analyst-7").load(&load)?;
        Ok(Calls { through, straight })
    }

    /// The orchestrator begins to ask for tokens, which tells how long the policy server was away.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn asking(&self) -> Result<UnderLoad> {
        let call = Call::new("POST", &authority("policy-server"), "/v1/tokens").json(&demo::token_request());
        let load = Load {
            calls: vec![(ASKED.to_owned(), Line::from(&call))],
            per_second: 10,
        };
        self.cluster.pod("orchestration", "orchestrator").load(&load)
    }

    /// The code with which a call of analyst-7 is denied, or its status.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn outcome(&self, call: Call) -> Result<String> {
        let answer = self.cluster.pod("agents", "analyst-7").send(call).await?;
        Ok(answer.code().unwrap_or_else(|| answer.status.to_string()))
    }

    /// Waits until what analyst-7 may do passes again, both calls several times in a row: each may land on another worker.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub async fn passes(&self) -> Result<()> {
        let token = self.token().await?;
        let calls = [
            table("sales_q1_2026").bearer(&token),
            mcp::call_tool(&authority("mcp"), "pandas", &json!({})).bearer(&token),
        ];
        let calls: Vec<Call> = calls.iter().cycle().take(16).cloned().collect();
        let pod = self.cluster.pod("agents", "analyst-7");
        self.cluster
            .until("permitted calls to pass", async || {
                let answers = pod.calls(&calls).ok()?;
                answers
                    .iter()
                    .all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200))
                    .then_some(())
            })
            .await
    }

    /// Of what nothing permits, nothing has passed, through the caller's sidecar or straight at the service's; and no
    /// service's log has any of it.
    ///
    /// # Errors
    ///
    /// When something has.
    pub fn none_passed(&self, tally: &Tally) -> Result<()> {
        for name in DENIED {
            ensure!(tally.made(name) > 0, "`{name}` was never tried");
            ensure!(tally.count(name, "2") == 0, "`{name}` passed: {:?}", tally.outcomes);
        }
        straight::none_passed(tally)?;
        self.none_seen()
    }

    /// No service's log has a call that nothing permits.
    ///
    /// # Errors
    ///
    /// When one has.
    pub fn none_seen(&self) -> Result<()> {
        for service in straight::SERVICES {
            let seen = self.cluster.pod(namespace(service), service).seen()?;
            let stray = seen.iter().filter(|seen| seen.complete).find(|seen| {
                let mark = seen.header(MARK);
                mark.is_some_and(|mark| DENIED.contains(&mark) || straight::forbids(mark))
            });
            ensure!(stray.is_none(), "{service} saw {stray:?}");
        }
        Ok(())
    }

    /// `kubectl patch` with a merge.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub fn patch(&self, namespace: &str, object: &str, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        self.cluster
            .kubectl(["-n", namespace, "patch", object, "--type=merge", "--patch", &patch])
            .map(drop)
    }

    /// Scales a Deployment, and waits until it is so.
    ///
    /// # Errors
    ///
    /// When it is not in time.
    pub fn scale(&self, namespace: &str, deployment: &str, label: &str, replicas: u32) -> Result<()> {
        let (target, count) = (format!("deployment/{deployment}"), format!("--replicas={replicas}"));
        self.cluster.kubectl(["-n", namespace, "scale", &target, &count])?;
        if replicas > 0 {
            return self.cluster.rolled_out(namespace, deployment);
        }
        let wait = [
            "-n",
            namespace,
            "wait",
            "pods",
            "-l",
            label,
            "--for=delete",
            "--timeout=120s",
        ];
        self.cluster.kubectl(wait).map(drop)
    }

    /// An object of the cluster.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn object(&self, namespace: &str, object: &str) -> Result<Value> {
        let text = self
            .cluster
            .kubectl(["-n", namespace, "get", object, "--output=json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// What `ostiary check --live` says, as JSON, whether there are findings or not.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn live(&self) -> Result<(bool, String)> {
        let said = Command::new(built::ostiary()?)
            .args(["check", "--live", "--output", "json"])
            .output()?;
        Ok((
            said.status.success(),
            String::from_utf8_lossy(&said.stdout).into_owned(),
        ))
    }
}

/// Calls that are being made, through the caller's own sidecar and around it.
#[derive(Debug)]
pub struct Calls {
    through: UnderLoad,
    straight: Straight,
}

impl Calls {
    /// Ends them and tells what came of them.
    ///
    /// # Errors
    ///
    /// When they have ended by themselves.
    pub fn end(self) -> Result<Tally> {
        let straight = self.straight.end();
        let mut tally = self.through.end()?;
        tally.outcomes.extend(straight?.outcomes);
        Ok(tally)
    }
}

/// A read of the warehouse.
pub fn table(name: &str) -> Call {
    Call::new("GET", &authority("warehouse"), &format!("/v1/tables/{name}"))
}

/// What came of the permitted calls, as a line.
pub fn told(tally: &Tally) -> String {
    let lines = ALLOWED.iter().map(|name| {
        let (made, passed) = (tally.made(name), tally.count(name, "2"));
        let gap = tally.longest_gap_milliseconds.get(*name).copied().unwrap_or_default();
        format!("{name}: {passed} of {made} passed, longest gap {gap} ms")
    });
    lines.collect::<Vec<_>>().join("; ")
}
