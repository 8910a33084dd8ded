//! Envoy's `/config_dump`, read for what our filter needs.
//!
//! Only Envoy's JSON is read here, with every field optional, as a field of its default value is not written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::chain::{Carries, Chain, Direction, Failure, FilterKind, HttpFilter, Module, NotLoaded, Plugin};

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const HTTP_RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const CONNECTION_MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// The filters that Istio puts behind every plugin. None of them changes what is sent on.
const HARMLESS: [&str; 6] = [
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    "stats.PluginConfig",
];

/// The name of the guard's EnvoyFilter patch, and the mark that it looks for.
const GUARD: &str = "ostiary.guard";
const MARK: &str = "wasm.ostiary";

/// Why an answer is not read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It is not what Envoy's admin interface says.
    #[error("what it answers is not Envoy's configuration: {0}")]
    Shape(#[from] serde_json::Error),
    /// It tells of no listeners: a part of a dump, or an Envoy that has none yet.
    #[error("its Envoy tells of no listeners")]
    NoListeners,
}

/// What an Envoy has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// The filter chains of all active listeners.
    pub chains: Vec<Chain>,
    /// What it was sent and refused: the name and its reason.
    pub refused: Vec<(String, String)>,
    /// Listeners that wait for something and take no connection.
    pub warming: Vec<String>,
}

#[derive(Deserialize)]
struct RawDump {
    configs: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawListeners {
    static_listeners: Vec<RawState>,
    dynamic_listeners: Vec<RawDynamic>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawDynamic {
    name: String,
    active_state: Option<RawState>,
    warming_state: Option<RawState>,
    error_state: Option<RawError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawState {
    listener: RawListener,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawError {
    details: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawListener {
    name: String,
    address: Value,
    traffic_direction: String,
    filter_chains: Vec<RawChain>,
    default_filter_chain: Option<RawChain>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawChain {
    name: String,
    filter_chain_match: Value,
    filters: Vec<RawFilter>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawFilter {
    name: String,
    disabled: bool,
    typed_config: Value,
    config_discovery: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawExtensions {
    ecds_filters: Vec<RawExtension>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawExtension {
    ecds_filter: RawFilter,
    error_state: Option<RawError>,
}

impl Dump {
    /// Reads what `GET /config_dump` answered through Istio's agent, which may log to the same stream first.
    ///
    /// # Errors
    ///
    /// If it is not a configuration dump, or has no listeners.
    pub fn parse(answer: &[u8]) -> Result<Self, DumpError> {
        let RawDump { configs } = serde_json::from_slice(without_log(answer))?;
        let mut dump = Self::default();
        let extensions = dump.extensions(&configs)?;
        for config in configs
            .iter()
            .filter(|config| is_of(config, "envoy.admin.v3.ListenersConfigDump"))
        {
            dump.listeners(RawListeners::deserialize(config)?, &extensions)?;
        }
        match dump.chains.is_empty() && dump.warming.is_empty() {
            true => Err(DumpError::NoListeners),
            false => Ok(dump),
        }
    }

    /// The configurations that filters take from elsewhere, by their names.
    fn extensions(&mut self, configs: &[Value]) -> Result<BTreeMap<String, Value>, DumpError> {
        let mut extensions = BTreeMap::new();
        for config in configs
            .iter()
            .filter(|config| is_of(config, "envoy.admin.v3.EcdsConfigDump"))
        {
            for RawExtension {
                ecds_filter,
                error_state,
            } in RawExtensions::deserialize(config)?.ecds_filters
            {
                if let Some(error) = error_state {
                    self.refused.push((ecds_filter.name.clone(), error.details));
                }
                extensions.insert(ecds_filter.name, ecds_filter.typed_config);
            }
        }
        Ok(extensions)
    }

    fn listeners(&mut self, raw: RawListeners, extensions: &BTreeMap<String, Value>) -> Result<(), DumpError> {
        for state in raw.static_listeners {
            self.listener(state.listener, extensions)?;
        }
        for dynamic in raw.dynamic_listeners {
            if let Some(error) = dynamic.error_state {
                self.refused.push((dynamic.name.clone(), error.details));
            }
            match dynamic.active_state {
                Some(state) => self.listener(state.listener, extensions)?,
                None if dynamic.warming_state.is_some() => self.warming.push(dynamic.name),
                None => {}
            }
        }
        Ok(())
    }

    fn listener(&mut self, raw: RawListener, extensions: &BTreeMap<String, Value>) -> Result<(), DumpError> {
        let (direction, port) = (raw.direction(), port(&raw.address, "/socket_address/port_value"));
        let listener = match (raw.name.is_empty(), port) {
            (true, Some(port)) => format!("port {port}"),
            _ => raw.name,
        };
        for chain in raw.filter_chains.into_iter().chain(raw.default_filter_chain) {
            self.chains.push(Chain {
                direction,
                listener: listener.clone(),
                port,
                only_port: self::port(&chain.filter_chain_match, "/destination_port"),
                carries: carries(&chain.filters, extensions)?,
                name: chain.name,
            });
        }
        Ok(())
    }
}

/// From the line on that opens Envoy's answer.
fn without_log(answer: &[u8]) -> &[u8] {
    let opening = b"\n{\n";
    let start = match answer.starts_with(b"{") {
        true => None,
        false => answer.windows(opening.len()).position(|bytes| bytes == opening),
    };
    start.and_then(|start| answer.get(start + 1..)).unwrap_or(answer)
}

impl RawListener {
    fn direction(&self) -> Direction {
        match self.traffic_direction.as_str() {
            "INBOUND" => Direction::Inbound,
            "OUTBOUND" => Direction::Outbound,
            _ => Direction::Own,
        }
    }
}

fn is_of(config: &Value, name: &str) -> bool {
    type_of(config) == name
}

/// The message type of an `Any`, without the host in front of it.
fn type_of(config: &Value) -> &str {
    let url = text(config, "/@type");
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

fn port(value: &Value, pointer: &str) -> Option<u16> {
    u16::try_from(value.pointer(pointer)?.as_u64()?).ok()
}

fn carries(filters: &[RawFilter], extensions: &BTreeMap<String, Value>) -> Result<Carries, DumpError> {
    let manager = filters
        .iter()
        .find(|filter| is_of(&filter.typed_config, CONNECTION_MANAGER));
    if let Some(manager) = manager {
        let none = Value::Array(Vec::new());
        let filters = manager.typed_config.get("http_filters").unwrap_or(&none);
        let filters = Vec::<RawFilter>::deserialize(filters)?;
        return Ok(Carries::Http(
            filters.into_iter().map(|filter| http(filter, extensions)).collect(),
        ));
    }
    let clusters = filters.iter().map(|filter| text(&filter.typed_config, "/cluster"));
    Ok(Carries::Tcp {
        is_authorized: filters.iter().any(|filter| is_of(&filter.typed_config, NETWORK_RBAC)),
        cluster: clusters
            .into_iter()
            .rfind(|cluster| !cluster.is_empty())
            .unwrap_or_default()
            .to_owned(),
    })
}

fn http(raw: RawFilter, extensions: &BTreeMap<String, Value>) -> HttpFilter {
    let kind = match &raw.config_discovery {
        None => kind(&raw.name, &raw.typed_config),
        Some(source) => match extensions.get(&raw.name).filter(|config| !config.is_null()) {
            Some(config) => kind(&raw.name, config),
            None if may_be_wasm(source) => FilterKind::NotLoaded(NotLoaded::NotReceived),
            None => FilterKind::Other,
        },
    };
    HttpFilter {
        name: raw.name,
        is_disabled: raw.disabled,
        kind,
    }
}

fn may_be_wasm(source: &Value) -> bool {
    let types = source.get("type_urls").and_then(Value::as_array);
    types.is_some_and(|types| {
        types
            .iter()
            .any(|url| url.as_str().is_some_and(|url| url.ends_with(WASM)))
    })
}

fn kind(name: &str, config: &Value) -> FilterKind {
    match type_of(config) {
        WASM => plugin(config.get("config").unwrap_or(&Value::Null)).map_or(FilterKind::Other, FilterKind::Ostiary),
        HTTP_RBAC if name == GUARD => FilterKind::Guard { denies: denies(config) },
        HTTP_RBAC => match text(config, "/rules_stat_prefix") {
            "wasm-default-deny" => FilterKind::NotLoaded(NotLoaded::DeniesAll),
            "wasm-default-allow" => FilterKind::NotLoaded(NotLoaded::AllowsAll),
            _ => FilterKind::Other,
        },
        ROUTER => FilterKind::Router,
        harmless if HARMLESS.contains(&harmless) => FilterKind::Harmless,
        _ => FilterKind::Other,
    }
}

/// A plugin that is configured as only ours is.
fn plugin(config: &Value) -> Option<Plugin> {
    let ours: Value = serde_json::from_str(text(config, "/configuration/value")).ok()?;
    ours.get("bundle_keys")?;
    ours.get("policy_cluster")?;
    Some(Plugin {
        module: module(config.pointer("/vm_config/code").unwrap_or(&Value::Null)),
        holds_headers: flag(config, "/allow_on_headers_stop_iteration"),
        was_told_so: flag(&ours, "/headers_stop_iteration"),
        failure: failure(config),
    })
}

/// The agent in the pod has fetched the module and keeps it under its digest.
fn module(code: &Value) -> Module {
    let file = text(code, "/local/filename");
    let stem = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".wasm");
    let digest = if stem.is_empty() {
        text(code, "/remote/sha256")
    } else {
        stem
    };
    if digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        Module::Sha256(digest.to_owned())
    } else if !file.is_empty() {
        Module::File(file.to_owned())
    } else {
        Module::Unknown
    }
}

fn failure(config: &Value) -> Failure {
    match text(config, "/failure_policy") {
        "FAIL_RELOAD" => Failure::Reload,
        "FAIL_OPEN" => Failure::Open,
        _ if flag(config, "/fail_open") => Failure::Open,
        _ => Failure::Closed,
    }
}

/// Whether a guard lets only requests pass that bear our filter's mark.
fn denies(config: &Value) -> bool {
    // Without rules Envoy's filter denies nothing; `ALLOW` is the default and not written.
    let is_allow_list = matches!(text(config, "/rules/action"), "" | "ALLOW");
    let policies = config.pointer("/rules/policies").and_then(Value::as_object);
    config.get("rules").is_some() && is_allow_list && policies.is_none_or(|all| all.values().all(asks_for_mark))
}

fn asks_for_mark(policy: &Value) -> bool {
    let principals = policy.get("principals").and_then(Value::as_array);
    principals.is_some_and(|all| {
        all.iter().all(|principal| {
            text(principal, "/filter_state/key") == MARK
                && !text(principal, "/filter_state/string_match/prefix").is_empty()
        })
    })
}
