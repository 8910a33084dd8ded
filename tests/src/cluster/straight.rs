//! One who holds an agent's certificate and has got around that agent's own sidecar: what passes here, the service's
//! sidecar let pass.
//!
//! Through the agent's sidecar nothing that is denied gets as far as the service's, whatever state that one is in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Cluster;
use super::identity::Identity;
use super::scene::{MARK, table};
use super::stage::{PORT, authority, namespace};
use crate::client::{Answer, Call, Client};
use crate::mcp;
use crate::pki::Workload;
use crate::workload::Tally;

/// The agent whose certificate it is.
const AGENT: &str = "analyst-7";

/// The services that are called all the time.
pub const SERVICES: [&str; 3] = ["warehouse", "mcp", "reports"];

/// What is tried at each of them in turn: what the token permits, what it does not, and the first without it.
const TRIED: [&str; 3] = ["permitted", "forbidden", "without a token"];

/// Between two calls at one service.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a call may take: the pod that is asked may just be going.
const LIMIT: Duration = Duration::from_secs(5);

/// One with a stolen certificate.
#[derive(Debug, Clone)]
pub struct Thief {
    cluster: Cluster,
    identity: Arc<Identity>,
}

impl Thief {
    /// Steals the certificate.
    ///
    /// # Errors
    ///
    /// When the cluster gives none.
    pub async fn new(cluster: &Cluster) -> Result<Self> {
        let identity = Identity::stolen(cluster, &Workload::new(namespace(AGENT), AGENT)).await?;
        Ok(Self {
            cluster: cluster.clone(),
            identity: identity.into(),
        })
    }

    /// Begins to call every one of [`SERVICES`] all the time.
    pub fn begin(&self, token: &str) -> Straight {
        let over = Arc::new(AtomicBool::new(false));
        let threads = SERVICES.map(|service| {
            let (thief, over, calls) = (self.clone(), over.clone(), calls(service, token));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                Ok(runtime.block_on(thief.calls(service, &calls, &over)))
            })
        });
        Straight {
            threads: threads.into(),
            over,
        }
    }

    async fn calls(&self, service: &str, calls: &[(String, Call)], over: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        let mut client = None;
        let mut ticks = tokio::time::interval(PAUSE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for (name, call) in calls.iter().cycle() {
            ticks.tick().await;
            if over.load(Ordering::Relaxed) {
                break;
            }
            let answer = match client.take().map_or_else(|| self.client(service), Ok) {
                Ok(found) => {
                    let answer = found.send(call.clone()).await;
                    // One that does not answer may be gone, and its successor has another address.
                    client = answer.is_ok().then_some(found);
                    answer
                }
                Err(error) => Err(error),
            };
            tally.note(name, &answer);
        }
        tally
    }

    /// Makes the call that the token permits at a service's sidecar.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    pub async fn permitted(&self, service: &str, token: &str) -> Result<Answer> {
        self.client(service)?.send(permitted(service).bearer(token)).await
    }

    fn client(&self, service: &str) -> Result<Client> {
        let label = format!("ostiary.dev/service-account={service}");
        let address = SocketAddr::new(self.cluster.pod_ip(namespace(service), &label)?, PORT);
        Ok(self.identity.client(&self.cluster, address)?.within(LIMIT))
    }
}

/// The calls of [`TRIED`], each marked by its name.
fn calls(service: &str, token: &str) -> Vec<(String, Call)> {
    let calls = [
        permitted(service).bearer(token),
        forbidden(service).bearer(token),
        permitted(service),
    ];
    let named = TRIED.iter().map(|tried| name(service, tried));
    named
        .zip(calls)
        .map(|(name, call)| (name.clone(), call.header(MARK, name)))
        .collect()
}

fn name(service: &str, tried: &str) -> String {
    format!("{tried}, straight at {service}")
}

fn permitted(service: &str) -> Call {
    one(service, "sales_q1_2026", "pandas", "2026q1")
}

fn forbidden(service: &str) -> Call {
    one(service, "hr_salaries", "bash", "2026q2")
}

fn one(service: &str, read: &str, tool: &str, report: &str) -> Call {
    match service {
        "warehouse" => table(read),
        "mcp" => mcp::call_tool(&authority("mcp"), tool, &json!({})),
        _ => Call::new("PUT", &authority("reports"), &format!("/v1/reports/{report}")).json(&json!({})),
    }
}

/// Calls that are being made.
#[derive(Debug)]
pub struct Straight {
    threads: Vec<JoinHandle<Result<Tally>>>,
    over: Arc<AtomicBool>,
}

impl Straight {
    /// Ends them and tells what came of them.
    ///
    /// # Errors
    ///
    /// When they have ended by themselves.
    pub fn end(mut self) -> Result<Tally> {
        self.over.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        for thread in self.threads.drain(..) {
            let of_one = thread
                .join()
                .ok()
                .context("the calls at a service ended by themselves")?;
            tally.outcomes.extend(of_one?.outcomes);
        }
        Ok(tally)
    }
}

impl Drop for Straight {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// At every service what is permitted has passed at least once, so that the way was open, and nothing else ever.
///
/// # Errors
///
/// When it is not so.
pub fn none_passed(tally: &Tally) -> Result<()> {
    for service in SERVICES {
        for (tried, passes) in TRIED.iter().zip([true, false, false]) {
            let name = name(service, tried);
            ensure!(tally.made(&name) > 0, "`{name}` was never tried");
            let passed = tally.count(&name, "2") > 0;
            ensure!(passed == passes, "`{name}`: {:?}", tally.outcomes);
        }
    }
    Ok(())
}

/// Whether a mark is that of a call which nothing permits.
pub fn forbids(mark: &str) -> bool {
    TRIED.iter().skip(1).any(|tried| mark.starts_with(&format!("{tried},")))
}
