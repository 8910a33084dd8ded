//! Both keys rotate under constant calls through a real sidecar, by the commands that an operator types.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::backends::Backend;
use tests::client::{Call, Client};
use tests::demo::token_request;
use tests::envoy::Envoy;
use tests::loopback::Loopback;
use tests::pki::{Ca, Credential, Workload};
use tests::policy_server::{Options, PolicyServer};
use tests::run::RunDirectory;
use tests::sidecar::{Inbound, Plugin, Sidecar};
use tests::wait;

const HOST: &str = "warehouse.data.svc.cluster.local";

/// Fresh connections that must all be allowed: each lands on a random worker, and every worker polls for itself.
const PROBES: usize = 16;

/// Calls that pass at least between two steps.
const CALLS_A_STEP: usize = 50;

const LIMIT: Duration = Duration::from_secs(120);

/// The warehouse behind its sidecar, an agent that calls it, and a policy server that forgets silent sources quickly.
pub(crate) struct Mesh {
    pub(crate) server: PolicyServer,
    sidecar: Sidecar,
    envoy: Envoy,
    pub(crate) caller: Caller,
    _backend: Backend,
    _net: Loopback,
    pub(crate) run: RunDirectory,
}

/// All that a call takes.
#[derive(Clone)]
pub(crate) struct Caller {
    warehouse: Client,
    policy_server: Client,
}

/// What a command of `ostiary` left behind.
struct Run {
    code: Option<i32>,
    stdout: String,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        let run = RunDirectory::create("rotation").unwrap();
        let net = Loopback::claim().unwrap();
        let ca = Ca::create(&run.file("pki")).unwrap();
        let orchestrator = ca.issue(&Workload::new("orchestration", "orchestrator"), &[]).unwrap();
        let options = Options {
            policy: tests::built::mesh_files().join("policy"),
            roles: vec![(orchestrator.workload.spiffe(), vec!["issuer".to_owned()])],
            config: json!({"state": {"maxAgeSeconds": 10, "renewSeconds": 2}}),
        };
        let server = PolicyServer::start(&options, &ca, &net, &run).await.unwrap();
        let backend = Backend::warehouse(&run).unwrap();
        let credential = ca.issue(&Workload::new("data", "warehouse"), &[HOST]).unwrap();
        let address = net.socket(21, 8080);
        let sidecar = Sidecar::new(&credential, &ca, net.socket(21, 15_000))
            .with_filter(Plugin::built(server.bundle_jwks()).unwrap(), server.upstream())
            .with_inbound(Inbound::new(address, backend.socket()))
            .discovered(&run);
        let envoy = sidecar.start(&run).await.unwrap();
        let analyst = ca.issue(&Workload::new("agents", "analyst-7"), &[]).unwrap();
        let client = |credential: &Credential| Client::tls(address, HOST, &ca, Some(credential)).unwrap();
        let caller = Caller {
            warehouse: client(&analyst),
            policy_server: server.client(&ca, &orchestrator).unwrap(),
        };
        let mesh = Self {
            server,
            sidecar,
            envoy,
            caller,
            _backend: backend,
            _net: net,
            run,
        };
        mesh.settled().await;
        mesh
    }

    pub(crate) async fn settled(&self) {
        let mut passed = 0;
        let settled = wait::until("every worker to have its policy", LIMIT, async || {
            passed = if self.caller.call().await.is_ok() {
                passed + 1
            } else {
                0
            };
            (passed >= PROBES).then_some(())
        });
        settled.await.unwrap();
    }

    /// Runs `ostiary keys COMMAND… --config …` as the server's own user, without blocking the calls.
    async fn keys(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(tests::built::ostiary().unwrap());
        command
            .arg("keys")
            .args(arguments)
            .arg("--config")
            .arg(self.server.config());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        print!("{}", text(output.stderr));
        Run {
            code: output.status.code(),
            stdout: text(output.stdout),
        }
    }

    async fn shown(&self) -> Value {
        serde_json::from_str(&self.keys(&["show", "--output", "json"]).await.stdout).unwrap()
    }

    /// The ids of the keys of a kind in a state.
    async fn kids(&self, kind: &str, state: &str) -> Vec<String> {
        let shown = self.shown().await;
        let keys = shown["keys"].as_array().unwrap().iter();
        let keys = keys.filter(|key| (&key["kind"], &key["state"]) == (&json!(kind), &json!(state)));
        keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// Puts what `keys show` prints into the plugin configuration, and waits until Envoy has read it.
    async fn configure(&mut self, reads: u64) -> usize {
        let keys = self.shown().await["bundle_keys"].clone();
        let plugin = self.sidecar.plugin.take().unwrap();
        self.sidecar.plugin = Some(plugin.configure("bundle_keys", keys.clone()));
        self.sidecar.publish().unwrap();
        wait::until("Envoy to read the configuration", LIMIT, async || {
            let stats = self.envoy.stats("extension_config_discovery").await.unwrap();
            let reloads = stats.iter().filter(|(name, _)| name.ends_with("ostiary.config_reload"));
            (reloads.map(|(_, count)| count).sum::<u64>() >= reads).then_some(())
        })
        .await
        .unwrap();
        keys["keys"].as_array().unwrap().len()
    }
}

impl Caller {
    /// Asks for a token and makes a call with it.
    pub(crate) async fn call(&self) -> Result<String, String> {
        let ask = Call::new("POST", tests::sidecar::POLICY_AUTHORITY, "/v1/tokens").json(&token_request());
        let answer = self
            .policy_server
            .send(ask)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let token = answer.json()["token"].as_str().map(str::to_owned);
        let token = token.ok_or_else(|| format!("no token: {answer:?}"))?;
        self.read(&token).await.map(|()| token)
    }

    async fn read(&self, token: &str) -> Result<(), String> {
        let call = Call::new("GET", &format!("{HOST}:8080"), "/v1/tables/sales_q1_2026").bearer(token);
        let answer = self.warehouse.send(call).await.map_err(|error| format!("{error:#}"))?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
        }
    }
}

/// Calls that go on: with a new token, and with the one before it, which an older key may have signed.
struct Traffic {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Traffic {
    fn start(caller: Caller) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            async move {
                let mut before = caller.call().await?;
                while !stop.load(Ordering::Relaxed) {
                    let token = caller.call().await?;
                    caller
                        .read(&before)
                        .await
                        .map_err(|error| format!("the token before: {error}"))?;
                    before = token;
                    count.fetch_add(2, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Self { stop, count, task }
    }

    /// Waits until so many more calls have been made; one that is denied ends them all.
    async fn go_on(&self) {
        let from = self.count.load(Ordering::Relaxed);
        let more = wait::until("calls to go on", LIMIT, async || {
            let enough = self.count.load(Ordering::Relaxed) >= from + CALLS_A_STEP;
            (enough || self.task.is_finished()).then_some(())
        });
        more.await.unwrap();
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap().unwrap();
        self.count.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_keys_rotate_under_calls_and_none_is_denied() {
    let mut mesh = Mesh::start().await;
    let traffic = Traffic::start(mesh.caller.clone());
    traffic.go_on().await;

    let old = mesh.kids("token", "signing").await;
    let run = mesh.keys(&["rotate", "token"]).await;
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    assert!(run.stdout.starts_with("switched: "), "{}", run.stdout);
    assert_eq!(mesh.kids("token", "retiring").await, old);
    traffic.go_on().await;

    // The sidecar's configuration lacks the next bundle key: refused, and it is named.
    let old = mesh.kids("bundle", "signing").await;
    let run = mesh.keys(&["rotate", "bundle", "--timeout", "1s"]).await;
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    let named = "spiffe://cluster.local/ns/data/sa/warehouse: its plugin configuration lacks the key";
    assert!(run.stdout.contains(named), "{}", run.stdout);
    assert_eq!(mesh.kids("bundle", "signing").await, old);
    traffic.go_on().await;

    // Its twin has it.
    assert_eq!(mesh.configure(2).await, 2);
    let run = mesh.keys(&["rotate", "bundle"]).await;
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    assert_eq!(mesh.kids("bundle", "retiring").await, old);
    traffic.go_on().await;

    // Once nobody decides by what the old key signed it may go, from the server and from the configuration.
    wait::until("the old key to be of no use", LIMIT, async || {
        (mesh.keys(&["retire", &old[0]]).await.code == Some(0)).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(mesh.configure(3).await, 1);
    traffic.go_on().await;
    println!("{} calls, none denied", traffic.end().await);

    mesh.settled().await;
}
