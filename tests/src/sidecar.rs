//! The configuration of an Envoy that stands beside a workload, as Istio would write it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use crate::envoy::{Envoy, access_log_path};
use crate::netns::Netns;
use crate::pki::{Ca, Credential, TRUST_DOMAIN};
use crate::run::RunDirectory;

/// The cluster that the filter's callouts go to.
pub const POLICY_CLUSTER: &str = "policy-server";

/// The authority of the policy server.
pub const POLICY_AUTHORITY: &str = "policy-server.ostiary.svc.cluster.local";

const WASM_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// The name of a filter whose configuration is discovered.
const DISCOVERED: &str = "ostiary";

/// The filter in a sidecar.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The module.
    pub wasm: PathBuf,
    /// Its configuration.
    pub configuration: Value,
    /// Envoy's `allow_on_headers_stop_iteration`; the configuration's `headers_stop_iteration` must say the same.
    pub allow_on_headers_stop_iteration: bool,
    /// What Envoy does when the VM has failed; there is no fail-open.
    pub failure_policy: FailurePolicy,
}

/// What Envoy does with requests when the filter's VM has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// Starts a fresh VM after a backoff, and answers 503 until then.
    Reload,
    /// Answers 503 for ever.
    Closed,
}

impl FailurePolicy {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reload => "FAIL_RELOAD",
            Self::Closed => "FAIL_CLOSED",
        }
    }
}

impl Plugin {
    /// The built filter with its ordinary configuration, trusting the bundle keys of `bundle_jwks`.
    ///
    /// Reload is what the manifests set too: a fresh VM has no policy, so it denies until it has polled one, while a
    /// closed one would need the pod to be restarted.
    ///
    /// # Errors
    ///
    /// When the filter has not been built.
    pub fn built(bundle_jwks: &Value) -> Result<Self> {
        Ok(Self {
            wasm: crate::built::filter()?,
            configuration: json!({
                "policy_cluster": POLICY_CLUSTER,
                "policy_authority": POLICY_AUTHORITY,
                "trust_domain": TRUST_DOMAIN,
                "bundle_keys": bundle_jwks,
                "headers_stop_iteration": true,
            }),
            allow_on_headers_stop_iteration: true,
            failure_policy: FailurePolicy::Reload,
        })
    }

    /// The same with `allow_on_headers_stop_iteration` (and what tells the filter of it) on or off.
    #[must_use]
    pub fn headers_stop_iteration(mut self, on: bool) -> Self {
        self.allow_on_headers_stop_iteration = on;
        self.configure("headers_stop_iteration", json!(on))
    }

    /// The same with one field of the configuration changed.
    #[must_use]
    pub fn configure(mut self, field: &str, value: Value) -> Self {
        if let Some(fields) = self.configuration.as_object_mut() {
            fields.insert(field.to_owned(), value);
        }
        self
    }

    fn filter(&self) -> Value {
        json!({"name": "envoy.filters.http.wasm", "typed_config": self.typed_config()})
    }

    /// A filter whose configuration is read from the file that [`Self::discovery_response`] is written to.
    fn discovered_filter(file: &Path) -> Value {
        json!({
            "name": DISCOVERED,
            "config_discovery": {
                "config_source": {"path_config_source": {"path": file}, "resource_api_version": "V3"},
                "type_urls": [WASM_TYPE],
            },
        })
    }

    fn discovery_response(&self) -> Value {
        json!({
            "resources": [{
                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "name": DISCOVERED,
                "typed_config": self.typed_config(),
            }],
        })
    }

    fn typed_config(&self) -> Value {
        json!({
            "@type": WASM_TYPE,
            "config": {
                "name": "ostiary",
                "root_id": "ostiary",
                "failure_policy": self.failure_policy.as_str(),
                "allow_on_headers_stop_iteration": self.allow_on_headers_stop_iteration,
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": self.configuration.to_string(),
                },
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": self.wasm}},
                },
            },
        })
    }
}

/// Where the policy server, or what plays it, is reached.
#[derive(Debug, Clone)]
pub struct PolicyUpstream {
    /// Its address.
    pub address: SocketAddr,
    /// Whom its certificate must name; none for plain HTTP/2, as a [`crate::feed::Feed`] speaks.
    pub identity: Option<String>,
}

/// How connections come in to a service.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The service's address.
    pub address: SocketAddr,
    /// The application's Unix socket.
    pub application: PathBuf,
    /// mTLS, as it should be; without it there is no peer.
    pub mtls: bool,
    /// Whether the application is told of the peer by `x-forwarded-client-cert` (the policy server alone).
    pub forward_peer: bool,
    /// Whether the application speaks HTTP/2 with prior knowledge.
    pub application_http2: bool,
}

impl Inbound {
    /// mTLS in front of an HTTP/1.1 application that is not told of the peer.
    pub fn new(address: SocketAddr, application: &Path) -> Self {
        Self {
            address,
            application: application.to_path_buf(),
            mtls: true,
            forward_peer: false,
            application_http2: false,
        }
    }
}

/// A service that a workload may call.
#[derive(Debug, Clone)]
pub struct Destination {
    /// A name for the cluster.
    pub name: String,
    /// How callers name it, without port.
    pub hosts: Vec<String>,
    /// Its sidecar.
    pub address: SocketAddr,
    /// Whom its certificate must name.
    pub identity: String,
}

/// How a workload's own calls go out.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// On the host's loopback, for tests and people.
    pub address: SocketAddr,
    /// Inside the workload's namespace, for its process.
    pub inside: Option<(Netns, SocketAddr)>,
    /// What it may call.
    pub destinations: Vec<Destination>,
}

/// A sidecar to be started.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// A name for files and logs.
    pub name: String,
    /// The workload's certificate.
    pub credential: Arc<Credential>,
    /// The CA's certificate.
    pub ca: PathBuf,
    /// The admin interface.
    pub admin: SocketAddr,
    /// Worker threads.
    pub concurrency: u32,
    /// Envoy's limit on what it holds of a body.
    pub buffer_limit_bytes: u32,
    /// Whether Envoy itself refuses what the filter has not looked at.
    pub guarded: bool,
    /// The filter; the policy server's own sidecar alone has none.
    pub plugin: Option<Plugin>,
    /// The file that Envoy reads the filter's configuration from, again whenever it changes, as it comes from istiod; none
    /// if it stands in the listeners, for good.
    pub discovery: Option<PathBuf>,
    /// Where callouts go.
    pub policy: Option<PolicyUpstream>,
    /// The service, if the workload is one.
    pub inbound: Option<Inbound>,
    /// The calls, if the workload makes any.
    pub outbound: Option<Outbound>,
}

impl Sidecar {
    /// One with neither side yet: two workers, buffers of 2 MiB, no filter.
    pub fn new(credential: &Arc<Credential>, ca: &Ca, admin: SocketAddr) -> Self {
        Self {
            name: credential.workload.slug(),
            credential: credential.clone(),
            ca: ca.path().to_path_buf(),
            admin,
            concurrency: 2,
            buffer_limit_bytes: 2 << 20,
            guarded: true,
            plugin: None,
            discovery: None,
            policy: None,
            inbound: None,
            outbound: None,
        }
    }

    /// Adds the filter and where it calls out to.
    #[must_use]
    pub fn with_filter(mut self, plugin: Plugin, policy: PolicyUpstream) -> Self {
        (self.plugin, self.policy) = (Some(plugin), Some(policy));
        self
    }

    /// Lets the filter's configuration be discovered, so that [`Self::publish`] can change it.
    #[must_use]
    pub fn discovered(mut self, run: &RunDirectory) -> Self {
        self.discovery = Some(run.file(&format!("{}.filter.json", self.name)));
        self
    }

    /// Writes the filter's configuration where Envoy discovers it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn publish(&self) -> Result<()> {
        if let (Some(file), Some(plugin)) = (&self.discovery, &self.plugin) {
            let draft = file.with_extension("draft");
            std::fs::write(&draft, serde_json::to_vec_pretty(&plugin.discovery_response())?)?;
            // Envoy sees files that are moved into place.
            std::fs::rename(&draft, file)?;
        }
        Ok(())
    }

    /// Adds the inbound side.
    #[must_use]
    pub fn with_inbound(mut self, inbound: Inbound) -> Self {
        self.inbound = Some(inbound);
        self
    }

    /// Adds the outbound side.
    #[must_use]
    pub fn with_outbound(mut self, outbound: Outbound) -> Self {
        self.outbound = Some(outbound);
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    ///
    /// When Envoy refuses the configuration or does not start.
    pub async fn start(&self, run: &RunDirectory) -> Result<Envoy> {
        let envoy = self.spawn(run)?;
        envoy.ready().await?;
        Ok(envoy)
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    ///
    /// When Envoy cannot be started.
    pub fn spawn(&self, run: &RunDirectory) -> Result<Envoy> {
        self.publish()?;
        Envoy::spawn(&self.name, &self.config(run), self.admin, self.concurrency, run)
    }

    /// Envoy's whole static configuration.
    pub fn config(&self, run: &RunDirectory) -> Value {
        let workload = &self.credential.workload;
        json!({
            "node": {
                "id": format!("sidecar~{}~{TRUST_DOMAIN}", workload.slug()),
                "cluster": workload.slug(),
                "metadata": {"NAMESPACE": workload.namespace, "SERVICE_ACCOUNT": workload.service_account},
            },
            "admin": {"address": socket_address(self.admin)},
            "static_resources": {"listeners": self.listeners(run), "clusters": self.clusters()},
        })
    }

    fn listeners(&self, run: &RunDirectory) -> Vec<Value> {
        let log = access_log_path(&self.name, run);
        let mut listeners = Vec::new();
        if let Some(inbound) = &self.inbound {
            listeners.push(self.inbound_listener(inbound, &log));
        }
        if let Some(outbound) = &self.outbound {
            let manager = self.manager("outbound", &log, &outbound_routes(outbound), "SANITIZE");
            let listener = |name, address| self.listener(name, "OUTBOUND", address, json!({"filters": [manager]}));
            listeners.push(listener("outbound", socket_address(outbound.address)));
            if let Some((netns, address)) = &outbound.inside {
                let mut address = socket_address(*address);
                if let Some(fields) = address.pointer_mut("/socket_address").and_then(Value::as_object_mut) {
                    fields.insert("network_namespace_filepath".to_owned(), json!(netns.path()));
                }
                listeners.push(listener("outbound-inside", address));
            }
        }
        listeners
    }

    fn inbound_listener(&self, inbound: &Inbound, log: &Path) -> Value {
        let routes = json!({
            "virtual_hosts": [{"name": "application", "domains": ["*"], "routes": [{
                "match": {"prefix": "/"},
                "route": {"cluster": "application", "timeout": "0s"},
            }]}],
        });
        let forward = if inbound.forward_peer {
            "SANITIZE_SET"
        } else {
            "SANITIZE"
        };
        let mut chain = json!({"filters": [self.manager("inbound", log, &routes, forward)]});
        if let (true, Some(fields)) = (inbound.mtls, chain.as_object_mut()) {
            fields.insert("transport_socket".to_owned(), self.server_tls());
        }
        self.listener("inbound", "INBOUND", socket_address(inbound.address), chain)
    }

    fn listener(&self, name: &str, direction: &str, address: Value, chain: Value) -> Value {
        json!({
            "name": name,
            "traffic_direction": direction,
            "address": address,
            "per_connection_buffer_limit_bytes": self.buffer_limit_bytes,
            "filter_chains": [chain],
        })
    }

    fn manager(&self, side: &str, log: &Path, routes: &Value, forward_client_cert: &str) -> Value {
        let filter = |plugin: &Plugin| {
            let discovered = self.discovery.as_deref().map(Plugin::discovered_filter);
            discovered.unwrap_or_else(|| plugin.filter())
        };
        let mut filters: Vec<Value> = self.plugin.iter().map(filter).collect();
        filters.extend(self.guarded.then(guard).filter(|_| self.plugin.is_some()));
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }));
        json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{HCM}.HttpConnectionManager"),
                "stat_prefix": side,
                "forward_client_cert_details": forward_client_cert,
                "set_current_client_cert_details": {"uri": true},
                // The filter decides on the path that goes on; Envoy must not rewrite it after the fact.
                "normalize_path": false,
                "merge_slashes": false,
                "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
                "generate_request_id": true,
                // Envoy drops the trailers of HTTP/1.1 otherwise, and what they do to a filter with them.
                "http_protocol_options": {"enable_trailers": true},
                "access_log": [access_log(log, side)],
                "http_filters": filters,
                "route_config": routes,
            },
        })
    }

    fn clusters(&self) -> Vec<Value> {
        let mut clusters = Vec::new();
        if let Some(policy) = &self.policy {
            let tls = policy
                .identity
                .as_ref()
                .map(|identity| self.client_tls(identity, POLICY_AUTHORITY));
            clusters.push(cluster(POLICY_CLUSTER, &socket_address(policy.address), tls, true));
        }
        if let Some(inbound) = &self.inbound {
            let pipe = json!({"pipe": {"path": inbound.application}});
            clusters.push(cluster("application", &pipe, None, inbound.application_http2));
        }
        for destination in self.outbound.iter().flat_map(|outbound| &outbound.destinations) {
            let name = format!("outbound-{}", destination.name);
            let host = destination.hosts.first().map_or("", String::as_str);
            let tls = Some(self.client_tls(&destination.identity, host));
            clusters.push(cluster(&name, &socket_address(destination.address), tls, false));
        }
        clusters
    }

    fn server_tls(&self) -> Value {
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{TLS}.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": self.tls_context(&json!({"prefix": format!("spiffe://{TRUST_DOMAIN}/")}), true),
            },
        })
    }

    fn client_tls(&self, identity: &str, host: &str) -> Value {
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{TLS}.UpstreamTlsContext"),
                "sni": host,
                "common_tls_context": self.tls_context(&json!({"exact": identity}), false),
            },
        })
    }

    fn tls_context(&self, peer: &Value, server: bool) -> Value {
        json!({
            "tls_certificates": [{
                "certificate_chain": {"filename": self.credential.certificate_path},
                "private_key": {"filename": self.credential.key_path},
            }],
            "validation_context": {
                "trusted_ca": {"filename": self.ca},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
            },
            "alpn_protocols": if server { json!(["h2", "http/1.1"]) } else { json!([]) },
        })
    }
}

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// Lets a request pass that the filter has left its mark on, and nothing else.
///
/// Envoy passes a plugin by, whatever its failure policy, on a worker whose VM crashed while it was configured; a
/// request that nobody has looked at bears no mark.
fn guard() -> Value {
    let marked = json!({"filter_state": {"key": "wasm.ostiary", "string_match": {"prefix": "{"}}});
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {"looked-at": {"permissions": [{"any": true}], "principals": [marked]}},
            },
        },
    })
}

fn outbound_routes(outbound: &Outbound) -> Value {
    let hosts = outbound.destinations.iter().map(|destination| {
        let with_port = destination
            .hosts
            .iter()
            .map(|host| format!("{host}:{}", destination.address.port()));
        let domains: Vec<String> = destination.hosts.iter().cloned().chain(with_port).collect();
        let cluster = format!("outbound-{}", destination.name);
        json!({
            "name": destination.name,
            "domains": domains,
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
        })
    });
    json!({"virtual_hosts": hosts.collect::<Vec<_>>()})
}

fn cluster(name: &str, address: &Value, tls: Option<Value>, http2: bool) -> Value {
    let protocol = if http2 {
        json!({"http2_protocol_options": {}})
    } else {
        json!({"http_protocol_options": {"enable_trailers": true}})
    };
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            },
        },
    });
    if let (Some(tls), Some(fields)) = (tls, cluster.as_object_mut()) {
        fields.insert("transport_socket".to_owned(), tls);
    }
    cluster
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn access_log(path: &Path, side: &str) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": {
                "start": "%START_TIME%",
                "side": side,
                "protocol": "%PROTOCOL%",
                "method": "%REQ(:METHOD)%",
                "authority": "%REQ(:AUTHORITY)%",
                "path": "%REQ(:PATH)%",
                "status": "%RESPONSE_CODE%",
                "details": "%RESPONSE_CODE_DETAILS%",
                "flags": "%RESPONSE_FLAGS%",
                "peer": "%DOWNSTREAM_PEER_URI_SAN%",
                "upstream": "%UPSTREAM_HOST%",
                "request_bytes": "%BYTES_RECEIVED%",
                "response_bytes": "%BYTES_SENT%",
                "milliseconds": "%DURATION%",
                "ostiary": "%FILTER_STATE(wasm.ostiary:PLAIN)%",
            }},
        },
    })
}
