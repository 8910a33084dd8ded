//! Callers whose calls wait for their records, while what they call through is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tests::load::ledger::Ledger;
use tests::load::mesh::{LoadMesh, READER, TABLE};
use tests::load::mix::{Budget, tool_call};
use tests::load::wire::{Http1, Request};
use tokio::task::JoinSet;

const CALLERS: usize = 16;

/// Calls a second in all, unless `RATE` says another number.
const RATE: u32 = 100;

/// The callers.
pub(crate) struct Callers {
    calls: Budget,
    served: Arc<AtomicU64>,
    callers: JoinSet<Called>,
}

/// What became of calls.
#[derive(Debug, Default)]
pub(crate) struct Called {
    /// The numbers of those that were served.
    pub(crate) served: Vec<u64>,
    /// Those that were denied, because their record could not be stored or there was no policy.
    pub(crate) denied: u64,
    /// Those whose connection broke.
    pub(crate) broken: u64,
}

impl Callers {
    /// Calls of both services, each by a name of its own, on connections that stay open.
    pub(crate) async fn start(mesh: &LoadMesh) -> Self {
        let token = mesh.token(READER).await.unwrap();
        let table = format!("/v1/tables/{TABLE}");
        let requests = [
            (&mesh.warehouse, Request::get(&mesh.warehouse.authority, &table)),
            (&mesh.mcp, tool_call(&mesh.mcp, "pandas")),
        ];
        let requests =
            requests.map(|(service, request)| (mesh.client(service, READER).unwrap(), request.bearer(&token)));
        let rate = std::env::var("RATE").map_or(RATE, |rate| rate.parse().unwrap());
        let pause = Duration::from_secs(1) * u32::try_from(CALLERS).unwrap() / rate;
        let (calls, served) = (Budget::endless(0), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for (client, request) in requests.iter().cycle().take(CALLERS).cloned() {
            let (calls, served) = (calls.clone(), Arc::clone(&served));
            callers.spawn(async move {
                let mut connection = Http1::new(client);
                let mut called = Called::default();
                while let Some(number) = calls.next() {
                    let pause = tokio::time::sleep(pause);
                    match connection.send(&request, number).await {
                        Ok(reply) => called.answered(number, reply.status, reply.denial.as_deref(), &served),
                        Err(_) => {
                            connection.close();
                            called.broken += 1;
                        }
                    }
                    pause.await;
                }
                called
            });
        }
        Self { calls, served, callers }
    }

    /// How many have been served.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Lets no more calls be made, and waits for the last.
    pub(crate) async fn stop(mut self) -> Called {
        self.calls.stop();
        let mut all = Called::default();
        while let Some(called) = self.callers.join_next().await {
            let called = called.unwrap();
            all.served.extend(called.served);
            all.denied += called.denied;
            all.broken += called.broken;
        }
        all
    }
}

impl Called {
    fn answered(&mut self, number: u64, status: u16, denial: Option<&str>, served: &AtomicU64) {
        match (status, denial) {
            (200, None) => {
                served.fetch_add(1, Ordering::Relaxed);
                self.served.push(number);
            }
            // The last is the proxy's own, of a sidecar that ends or has just begun.
            (503, Some("records_unavailable" | "policy_unavailable") | None) => self.denied += 1,
            other => panic!("call {number} was answered {other:?}"),
        }
    }

    /// Every call that was served has the record that it waited for, once.
    pub(crate) fn check(&self, ledger: &Ledger) {
        for number in &self.served {
            let left = ledger.numbered.get(number).copied().unwrap_or_default();
            assert_eq!(left.permits, 1, "call {number} was served and left {left:?}");
        }
        for (number, left) in &ledger.numbered {
            assert!(
                left.permits <= 1 && left.completions <= 1,
                "call {number} left {left:?}"
            );
        }
    }
}
