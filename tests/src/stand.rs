//! One workload, its sidecar and a policy feed in the test's hand: the smallest thing that can fail closed.
//!
//! The workload `data/warehouse` is both a service (agent `analyst-7` calls it over mTLS) and an agent (`keeper`, which
//! calls that same service through the outbound side), so that one Envoy shows both sides of the filter.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::backends::{Backend, Seen};
use crate::client::{Answer, Call, Client};
use crate::envoy::Envoy;
use crate::feed::{self, Feed};
use crate::loopback::Loopback;
use crate::pki::{Ca, Workload};
use crate::run::RunDirectory;
use crate::sidecar::{Destination, Inbound, Outbound, Plugin, PolicyUpstream, Sidecar};
use crate::signing::TestKey;
use crate::wait;

/// How callers name the service.
pub const HOST: &str = "warehouse.data.svc.cluster.local";

/// Who issues tokens here.
const ISSUER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";

/// The header by which a test finds its calls in the application's log.
const MARK: &str = "x-mark";

/// Fresh connections that must all meet the same verdict before it counts as every worker's.
const PROBES: usize = 12;

/// How long a verdict may take to become every worker's.
const LIMIT: Duration = Duration::from_secs(90);

/// The stand; it ends when it is dropped.
#[derive(Debug)]
pub struct Stand {
    /// The sidecar.
    pub envoy: Envoy,
    /// The application: it echoes.
    pub backend: Backend,
    /// Where its feed belongs.
    pub policy_address: SocketAddr,
    /// Speaks to the inbound side over mTLS as `analyst-7`, on HTTP/1.1.
    pub inbound: Client,
    /// Speaks to the outbound side as the workload itself, on plain HTTP/1.1.
    pub outbound: Client,
    /// The configuration that it was started with.
    pub sidecar: Sidecar,
    /// Its CA.
    pub ca: Ca,
    /// Its files.
    pub run: RunDirectory,
    service: Value,
    _net: Loopback,
}

/// The HTTP service of a stand.
pub fn http_service() -> Value {
    json!({
        "protocol": "http",
        "routes": [
            {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
            {"method": "PUT", "path": "/v1/reports/{id}", "scope": "write:report.draft.{id}"},
        ],
    })
}

/// The MCP service of a stand, which holds bodies up to 64 KiB.
pub fn mcp_service() -> Value {
    json!({"protocol": "mcp", "path": "/mcp", "tools": {"pandas": {}, "bash": {}}, "body_limit_bytes": 64 << 10})
}

impl Stand {
    /// Starts a sidecar of two workers, changed by `change`, that has no policy and nobody to ask for it.
    ///
    /// # Errors
    ///
    /// When something does not start.
    pub async fn start(name: &str, service: Value, change: impl FnOnce(&mut Sidecar)) -> Result<Self> {
        let stand = Self::spawn(name, service, change)?;
        stand.envoy.ready().await?;
        Ok(stand)
    }

    /// The same without waiting until the sidecar serves.
    ///
    /// # Errors
    ///
    /// When something does not start.
    pub fn spawn(name: &str, service: Value, change: impl FnOnce(&mut Sidecar)) -> Result<Self> {
        let run = RunDirectory::create(name)?;
        let net = Loopback::claim()?;
        let ca = Ca::create(&run.file("pki"))?;
        let backend = Backend::echo("warehouse", &run)?;
        let own = ca.issue(&workload(), &[HOST])?;
        let (address, outbound) = (net.socket(21, 8080), net.socket(21, 15_001));
        let policy_address = net.socket(1, 8080);
        let upstream = PolicyUpstream {
            address: policy_address,
            identity: None,
        };
        let plugin = Plugin::built(&TestKey::named("bundle-1").jwks())?;
        let destination = Destination {
            name: "warehouse".to_owned(),
            hosts: vec![HOST.to_owned()],
            address,
            identity: workload().spiffe(),
        };
        let mut sidecar = Sidecar::new(&own, &ca, net.socket(21, 15_000))
            .with_filter(plugin, upstream)
            .with_inbound(Inbound::new(address, backend.socket()))
            .with_outbound(Outbound {
                address: outbound,
                inside: None,
                destinations: vec![destination],
            });
        change(&mut sidecar);
        let envoy = sidecar.spawn(&run)?;
        let caller = ca.issue(&Workload::new("agents", "analyst-7"), &[])?;
        Ok(Self {
            envoy,
            backend,
            policy_address,
            inbound: Client::tls(address, HOST, &ca, Some(&caller))?,
            outbound: Client::plain(outbound),
            sidecar,
            ca,
            run,
            service,
            _net: net,
        })
    }

    /// Starts the feed where the sidecar looks for it; it has no policy yet.
    ///
    /// # Errors
    ///
    /// When the address is taken.
    pub async fn feed(&self) -> Result<Feed> {
        Feed::start(self.policy_address).await
    }

    /// Starts a feed that serves version 1 of everything, and waits until every worker has it.
    ///
    /// # Errors
    ///
    /// When they have not got it in time.
    pub async fn settled_feed(&self) -> Result<Feed> {
        let feed = self.feed().await?;
        feed.set_bundle(&self.bundle(1, &json!({})));
        feed.set_state(&feed::state_claims(1, &json!({})));
        self.eventually_allowed(&self.inbound, || self.good_call()).await?;
        Ok(feed)
    }

    /// Claims of a bundle for this workload; fields of `with` are added or replace.
    pub fn bundle(&self, version: u64, with: &Value) -> Value {
        let mut service = json!({
            "id": "data/warehouse", "identity": workload().spiffe(), "hosts": [HOST], "ports": [8080],
            "token_header": "authorization", "forward_token": false, "forward_claims": false,
            "body_limit_bytes": 1 << 20,
        });
        extend(&mut service, &self.service);
        let agent = |id: &str, identity: &Workload| {
            json!({
                "id": id, "identity": identity.spiffe(), "tools": ["pandas"], "forbidden_tools": ["bash"],
                "scope": ["read:data.sales", "write:report.draft.q1"], "reaches": ["data/warehouse"],
            })
        };
        let mut claims = json!({
            "issuers": [{"iss": ISSUER, "jwks": issuer().jwks()}],
            "services": [service],
            "agents": [agent("analyst-7", &Workload::new("agents", "analyst-7")), agent("keeper", &workload())],
        });
        extend(&mut claims, with);
        feed::bundle_claims(&workload().spiffe(), version, &claims)
    }

    /// A call that a token and the policy allow: to read a table, or to call a tool.
    pub fn good_call(&self) -> Call {
        self.call_as("analyst-7")
    }

    /// The same as the workload itself makes it, through its outbound side.
    pub fn own_call(&self) -> Call {
        self.call_as("keeper")
    }

    fn call_as(&self, agent: &str) -> Call {
        if self.service.get("protocol").and_then(Value::as_str) == Some("mcp") {
            crate::mcp::call_tool(HOST, "pandas", &json!({})).bearer(&token(agent))
        } else {
            read("sales").bearer(&token(agent))
        }
    }

    /// Makes a call that the application must see, whole, and answer.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub async fn allowed(&self, client: &Client, call: Call) -> Result<Answer> {
        let (mark, call) = marked(call);
        let sent = call.chunks.concat();
        let answer = client.send(call).await?;
        ensure!(
            answer.status == 200,
            "denied with {} {:?}: {}",
            answer.status,
            answer.code(),
            String::from_utf8_lossy(&answer.body)
        );
        match self.backend.seen_with(MARK, &mark).as_slice() {
            [seen] if seen.complete && seen.body == sent => Ok(answer),
            seen => Err(anyhow!("the application saw {seen:?} in place of the call")),
        }
    }

    /// Makes a call that must be answered by this status and code, and of which the application sees nothing.
    ///
    /// # Errors
    ///
    /// When it is answered otherwise, or the application saw it.
    pub async fn denied(&self, client: &Client, call: Call, status: u16, code: &str) -> Result<Answer> {
        let (answer, seen) = self.refused(client, call, status, Some(code)).await?;
        ensure!(seen.is_empty(), "denied, yet the application saw {seen:?}");
        Ok(answer)
    }

    /// Makes a call that must be answered by this status and code, and says what the application saw of it, which is
    /// no byte of a body in any case.
    ///
    /// # Errors
    ///
    /// When it is answered otherwise, or the application saw a body.
    pub async fn refused(
        &self,
        client: &Client,
        call: Call,
        status: u16,
        code: Option<&str>,
    ) -> Result<(Answer, Vec<Seen>)> {
        let (mark, call) = marked(call);
        let answer = client.send(call).await?;
        ensure!(
            answer.status == status && answer.code().as_deref() == code,
            "answered with {} {:?} in place of {status} {code:?}: {}",
            answer.status,
            answer.code(),
            String::from_utf8_lossy(&answer.body)
        );
        let seen = self.backend.seen_with(MARK, &mark);
        ensure!(
            seen.iter().all(|seen| seen.body.is_empty() && !seen.complete) || seen.is_empty(),
            "refused, yet the application saw {seen:?}"
        );
        Ok((answer, seen))
    }

    /// Waits until every worker allows such a call; each lands on any of them.
    ///
    /// # Errors
    ///
    /// When they do not in time; the error is of the last call.
    pub async fn eventually_allowed(&self, client: &Client, call: impl Fn() -> Call) -> Result<()> {
        eventually("every worker to allow", async || {
            self.allowed(client, call()).await.map(drop)
        })
        .await
    }

    /// Waits until every worker denies such a call so. Calls that are allowed until then do not matter.
    ///
    /// # Errors
    ///
    /// When they do not in time; the error is of the last call.
    pub async fn eventually_denied(
        &self,
        client: &Client,
        call: impl Fn() -> Call,
        status: u16,
        code: &str,
    ) -> Result<()> {
        eventually("every worker to deny", async || {
            self.denied(client, call(), status, code).await.map(drop)
        })
        .await
    }

    /// Makes such a call on as many fresh connections as surely reach every worker; each must be denied so.
    ///
    /// # Errors
    ///
    /// When one is not.
    pub async fn every_worker_denies(
        &self,
        client: &Client,
        call: impl Fn() -> Call,
        status: u16,
        code: &str,
    ) -> Result<()> {
        for _ in 0..PROBES {
            self.denied(client, call(), status, code).await?;
        }
        Ok(())
    }

    /// The same for calls that must be allowed.
    ///
    /// # Errors
    ///
    /// When one is not.
    pub async fn every_worker_allows(&self, client: &Client, call: impl Fn() -> Call) -> Result<()> {
        for _ in 0..PROBES {
            self.allowed(client, call()).await?;
        }
        Ok(())
    }

    /// Waits until the filter has written `words` to Envoy's log on every thread: the workers and the main one.
    ///
    /// # Errors
    ///
    /// When it has not in time.
    pub async fn logged_on_every_thread(&self, words: &str) -> Result<()> {
        let threads = self.sidecar.concurrency as usize + 1;
        let what = format!("`{words}` in the log of {threads} threads");
        let waited = wait::until(&what, LIMIT, async || {
            (self.threads_that_logged(words) >= threads).then_some(())
        });
        waited.await.with_context(|| self.envoy.process().log_tail())
    }

    /// How often `words` have been written to Envoy's log, by whichever thread.
    pub fn times_logged(&self, words: &str) -> usize {
        self.log().matches(words).count()
    }

    /// On how many threads `words` have been logged. A line of Envoy's log begins `[time][thread][level]`.
    pub fn threads_that_logged(&self, words: &str) -> usize {
        let text = self.log();
        let lines = text.lines().filter(|line| line.contains(words));
        let threads: std::collections::BTreeSet<&str> = lines.filter_map(|line| line.split("][").nth(1)).collect();
        threads.len()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.envoy.process().log()).unwrap_or_default()
    }
}

async fn eventually(what: &str, mut call: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let (mut last, mut in_a_row) = (None, 0);
    let waited = wait::until(what, LIMIT, async || {
        match call().await {
            Ok(()) => in_a_row += 1,
            Err(error) => (last, in_a_row) = (Some(error), 0),
        }
        (in_a_row >= PROBES).then_some(())
    });
    let waited = waited.await;
    waited.map_err(|error| last.take().map_or(error, |last| last.context(what.to_owned())))
}

/// The workload of the stand.
pub fn workload() -> Workload {
    Workload::new("data", "warehouse")
}

/// The key that tokens are signed with.
pub fn issuer() -> TestKey {
    TestKey::named("issuer-1")
}

/// Reads a table, without a token.
pub fn read(table: &str) -> Call {
    Call::new("GET", HOST, &format!("/v1/tables/{table}"))
}

/// A good token of `analyst-7` or of `keeper`, the workload's own agent: two tables (of which its policy grants one),
/// a report, and the tool `pandas`.
pub fn token(agent: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let namespace = if agent == "keeper" {
        workload()
    } else {
        Workload::new("agents", agent)
    };
    let now = wait::unix_now();
    let claims = json!({
        "iss": ISSUER, "sub": namespace.spiffe(), "aud": [workload().spiffe()],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": now, "nbf": now, "exp": now + 300,
        "jti": format!("stand-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
        "agent_id": agent, "operation_id": "report-2026-q1",
        "scope": ["read:data.sales", "read:data.payroll", "write:report.draft.q1"],
        "tools": ["pandas"], "forbidden_tools": ["bash"], "max_tokens": 50_000,
    });
    issuer().sign("cap+jwt", &claims)
}

/// The same call with a header by which the application's log tells it from all others.
fn marked(call: Call) -> (String, Call) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mark = COUNT.fetch_add(1, Ordering::Relaxed).to_string();
    let call = call.header(MARK, &mark);
    (mark, call)
}

fn extend(value: &mut Value, with: &Value) {
    if let (Some(fields), Some(with)) = (value.as_object_mut(), with.as_object()) {
        fields.extend(with.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}
