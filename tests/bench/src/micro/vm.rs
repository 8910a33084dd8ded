//! Runs the functions in a real Envoy.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::built;
use tests::client::{Call, Client};
use tests::envoy::Envoy;
use tests::loopback::Loopback;
use tests::run::RunDirectory;

use crate::cpu::Cores;
use crate::plan::Plan;

/// How long a function may keep Envoy busy, with preparing what it works on.
const LIMIT: Duration = Duration::from_secs(120);

/// An Envoy whose only filter runs functions and times them.
#[derive(Debug)]
pub(super) struct Vm {
    _envoy: Envoy,
    client: Client,
    _run: RunDirectory,
    _net: Loopback,
}

#[derive(Debug, Deserialize)]
struct Timed {
    nanoseconds: Vec<f64>,
}

impl Vm {
    /// Starts it, on the core of what is measured.
    ///
    /// # Errors
    ///
    /// When the module has not been built or Envoy does not start.
    pub(super) async fn start() -> Result<Self> {
        let (run, net) = (RunDirectory::create("bench-micro")?, Loopback::claim()?);
        let (listen, admin) = (net.socket(1, 8080), net.socket(1, 15_000));
        let address = |socket: std::net::SocketAddr| json!({"address": socket.ip(), "port_value": socket.port()});
        let config = json!({
            "admin": {"address": {"socket_address": address(admin)}},
            "static_resources": {"listeners": [{
                "name": "functions",
                "address": {"socket_address": address(listen)},
                "filter_chains": [{"filters": [manager()?]}],
            }]},
        });
        let envoy = Envoy::spawn("micro", &config, admin, 1, &run)?;
        envoy.ready().await?;
        if let Some(cores) = Cores::find()? {
            cores.keep_measured(envoy.process().id())?;
        }
        Ok(Self {
            _envoy: envoy,
            client: Client::plain(listen).within(LIMIT),
            _run: run,
            _net: net,
        })
    }

    /// The nanoseconds that a function took in each round.
    ///
    /// # Errors
    ///
    /// When it does not do its work.
    pub(super) async fn measure(&self, plan: &Plan, id: &str) -> Result<Vec<f64>> {
        let (warm_up, round) = if plan.quick { (20, 5) } else { (500, 100) };
        // The first runs find cold caches. (Envoy has V8 compile everything at once, and never again.)
        self.ask(&format!("/{id}?milliseconds={warm_up}&rounds=1")).await?;
        let timed = self
            .ask(&format!("/{id}?milliseconds={round}&rounds={}", plan.rounds()))
            .await?;
        Ok(timed.nanoseconds)
    }

    async fn ask(&self, path: &str) -> Result<Timed> {
        let answer = self.client.send(Call::new("GET", "functions", path)).await?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 200, "{path}: {} {text}", answer.status);
        Ok(serde_json::from_str(&text)?)
    }
}

fn manager() -> Result<Value> {
    let wasm = built::target().join("wasm32-wasip1/release/micro.wasm");
    let typed = |name: &str, kind: &str, fields: Value| {
        let mut config = json!({"@type": format!("type.googleapis.com/envoy.extensions.filters.{kind}")});
        if let (Some(config), Value::Object(fields)) = (config.as_object_mut(), fields) {
            config.extend(fields);
        }
        json!({"name": name, "typed_config": config})
    };
    let plugin = json!({"config": {
        "name": "micro",
        "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": wasm}}},
    }});
    let filters = [
        typed("envoy.filters.http.wasm", "http.wasm.v3.Wasm", plugin),
        typed("envoy.filters.http.router", "http.router.v3.Router", json!({})),
    ];
    let fields = json!({
        "stat_prefix": "functions",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "none", "domains": ["*"]}]},
    });
    let kind = "network.http_connection_manager.v3.HttpConnectionManager";
    Ok(typed("envoy.filters.network.http_connection_manager", kind, fields))
}
