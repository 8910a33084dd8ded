//! The configuration as it is written, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::audit::MAX_HEARTBEAT_SECONDS;
use authz::identity::{AgentId, Issuer, SpiffeId, is_label};
use authz::risk::Settings as RiskSettings;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Config, ConfigError, ExternalIssuer, Kubernetes, Limits, Listen, PolicySource, Role};
use crate::keys::folder::KeyFolder;
use crate::peer::Authentication;

mod webhook;

use webhook::RawWebhook;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawConfig {
    trust_domain: String,
    identity: String,
    hosts: Vec<String>,
    issuer: Option<String>,
    listen: RawListen,
    data: PathBuf,
    keys: Option<PathBuf>,
    policy: RawPolicy,
    authentication: RawAuthentication,
    #[serde(default)]
    roles: BTreeMap<String, BTreeSet<Role>>,
    #[serde(default)]
    token: RawToken,
    #[serde(default)]
    state: RawState,
    #[serde(default)]
    bundle: RawBundle,
    #[serde(default)]
    audit: RawAudit,
    #[serde(default)]
    risk: RawRisk,
    #[serde(default)]
    webhooks: Vec<RawWebhook>,
    #[serde(default)]
    external_issuers: Vec<RawExternalIssuer>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawListen {
    unix: Option<PathBuf>,
    tcp: Option<SocketAddr>,
    /// Octal permission bits of the Unix socket, as text: "0660" where the sidecar runs as another user of one group.
    mode: Option<String>,
}

/// A folder, or the API server of Kubernetes.
#[derive(Debug)]
enum RawPolicy {
    Folder(PathBuf),
    Kubernetes(RawKubernetes),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    kubernetes: RawKubernetes,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawKubernetes {
    #[serde(default)]
    namespaces: Option<BTreeSet<String>>,
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawAuthentication {
    mode: AuthenticationMode,
    path: Option<PathBuf>,
    principal: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum AuthenticationMode {
    Sidecar,
    KeyFile,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawToken {
    max_ttl_seconds: u64,
    default_ttl_seconds: Option<u64>,
}

impl Default for RawToken {
    fn default() -> Self {
        Self {
            max_ttl_seconds: 300,
            default_ttl_seconds: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawState {
    max_age_seconds: u64,
    renew_seconds: u64,
}

impl Default for RawState {
    fn default() -> Self {
        Self {
            max_age_seconds: 60,
            renew_seconds: 15,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawBundle {
    lifetime_seconds: u64,
}

impl Default for RawBundle {
    fn default() -> Self {
        Self { lifetime_seconds: 3600 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawAudit {
    mirror: Option<PathBuf>,
    reconcile_seconds: u64,
    heartbeat_seconds: u64,
}

impl Default for RawAudit {
    fn default() -> Self {
        Self {
            mirror: None,
            reconcile_seconds: 30,
            heartbeat_seconds: 300,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawRisk {
    act: bool,
    pause_at: u8,
    suspend_at: u8,
    half_life_seconds: u64,
    agents: Option<BTreeMap<String, RawAgentRisk>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawAgentRisk {
    pause_at: Option<u8>,
    suspend_at: Option<u8>,
    half_life_seconds: Option<u64>,
}

impl Default for RawRisk {
    fn default() -> Self {
        Self {
            act: false,
            pause_at: 70,
            suspend_at: 90,
            half_life_seconds: 600,
            agents: None,
        }
    }
}

impl RawRisk {
    fn validate(&self) -> Result<RiskSettings, ConfigError> {
        risk("risk", self.pause_at, self.suspend_at, self.half_life_seconds)
    }

    /// What is tuned otherwise for some agents.
    fn of_agents(&self) -> Result<BTreeMap<AgentId, RiskSettings>, ConfigError> {
        let agents = self.agents.iter().flatten().map(|(name, raw)| {
            let field_of = format!("risk.agents.{name}");
            let id = AgentId::parse(name).map_err(|error| field(field_of.clone(), error.to_string()))?;
            let settings = risk(
                &field_of,
                raw.pause_at.unwrap_or(self.pause_at),
                raw.suspend_at.unwrap_or(self.suspend_at),
                raw.half_life_seconds.unwrap_or(self.half_life_seconds),
            )?;
            Ok((id, settings))
        });
        agents.collect()
    }
}

fn risk(name: &str, pause_at: u8, suspend_at: u8, half_life_seconds: u64) -> Result<RiskSettings, ConfigError> {
    let default = RiskSettings::default();
    in_range(&format!("{name}.pauseAt"), pause_at.into(), 31, 100)?;
    in_range(&format!("{name}.suspendAt"), suspend_at.into(), pause_at.into(), 100)?;
    in_range(&format!("{name}.halfLifeSeconds"), half_life_seconds, 10, 24 * 3600)?;
    Ok(RiskSettings {
        pause_at,
        suspend_at,
        half_life_seconds,
        // What teaches must be far from what pauses.
        learn_below: default.learn_below.min(pause_at.saturating_sub(LEARNING_GAP)),
        ..default
    })
}

/// So far below the score that pauses calls stop teaching.
const LEARNING_GAP: u8 = 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawExternalIssuer {
    iss: String,
    jwks: serde_json::Value,
}

impl RawConfig {
    /// Relative paths are relative to `folder`.
    pub(super) fn validate(self, folder: &Path) -> Result<Config, ConfigError> {
        let identity = spiffe("identity", &self.identity)?;
        if identity.trust_domain() != self.trust_domain {
            return Err(field(
                "identity",
                format!("is not in the trust domain `{}`", self.trust_domain),
            ));
        }
        if self.hosts.is_empty() {
            return Err(field(
                "hosts",
                "is empty; name the host by which sidecars call this server",
            ));
        }
        let token = self.token;
        let default_ttl = token.default_ttl_seconds.unwrap_or(token.max_ttl_seconds);
        in_range("token.maxTtlSeconds", token.max_ttl_seconds, 1, 3600)?;
        in_range("token.defaultTtlSeconds", default_ttl, 1, token.max_ttl_seconds)?;
        in_range("state.maxAgeSeconds", self.state.max_age_seconds, 2, 3600)?;
        // Twice a list's age: one lost renewal must not stop the mesh.
        in_range(
            "state.renewSeconds",
            self.state.renew_seconds,
            1,
            self.state.max_age_seconds / 2,
        )?;
        in_range("bundle.lifetimeSeconds", self.bundle.lifetime_seconds, 2, 7 * 24 * 3600)?;
        in_range("audit.reconcileSeconds", self.audit.reconcile_seconds, 1, 3600)?;
        in_range(
            "audit.heartbeatSeconds",
            self.audit.heartbeat_seconds,
            0,
            MAX_HEARTBEAT_SECONDS,
        )?;
        validate_limits(&self.limits)?;
        let issuer = issuer("issuer", self.issuer.unwrap_or_else(|| self.identity.clone()))?;
        Ok(Config {
            authentication: self.authentication.validate(folder, &identity)?,
            listen: self.listen.validate(folder)?,
            roles: roles(self.roles, &self.trust_domain)?,
            external_issuers: external_issuers(self.external_issuers, &issuer)?,
            issuer,
            identity,
            trust_domain: self.trust_domain,
            hosts: self.hosts,
            keys: KeyFolder {
                own: self.keys.is_none(),
                path: folder.join(self.keys.unwrap_or_else(|| self.data.join("keys"))),
            },
            reconcile_window: Duration::from_secs(self.audit.reconcile_seconds),
            heartbeat_seconds: Some(self.audit.heartbeat_seconds).filter(|seconds| *seconds > 0),
            mirror: self.audit.mirror.map(|mirror| folder.join(mirror)),
            data: folder.join(self.data),
            policy: self.policy.validate(folder)?,
            token_max_ttl_seconds: token.max_ttl_seconds,
            token_default_ttl_seconds: default_ttl,
            state_max_age_seconds: self.state.max_age_seconds,
            state_renew: Duration::from_secs(self.state.renew_seconds),
            bundle_lifetime_seconds: self.bundle.lifetime_seconds,
            risk: self.risk.validate()?,
            risk_of_agents: self.risk.of_agents()?,
            risk_acts: self.risk.act,
            webhooks: webhook::validated(self.webhooks, folder)?,
            limits: self.limits,
        })
    }
}

/// By hand, so that a mistake within `kubernetes` is told as such; an untagged enum would only say that nothing fits.
impl<'de> Deserialize<'de> for RawPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Source;

        impl<'de> Visitor<'de> for Source {
            type Value = RawPolicy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a folder, or `kubernetes: {}`")
            }

            fn visit_str<E>(self, folder: &str) -> Result<RawPolicy, E> {
                Ok(RawPolicy::Folder(folder.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawPolicy, A::Error> {
                let source = RawSource::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawPolicy::Kubernetes(source.kubernetes))
            }
        }

        deserializer.deserialize_any(Source)
    }
}

impl RawPolicy {
    fn validate(self, folder: &Path) -> Result<PolicySource, ConfigError> {
        match self {
            Self::Folder(path) => Ok(PolicySource::Folder(folder.join(path))),
            Self::Kubernetes(raw) => raw.validate(folder).map(PolicySource::Kubernetes),
        }
    }
}

impl RawKubernetes {
    fn validate(self, folder: &Path) -> Result<Kubernetes, ConfigError> {
        let name = "policy.kubernetes.namespaces";
        let namespaces = match self.namespaces {
            // Most likely a list that something was to be written into: not all namespaces are meant.
            Some(namespaces) if namespaces.is_empty() => {
                return Err(field(name, "is empty; leave it out to take agents and services of all"));
            }
            namespaces => namespaces.unwrap_or_default(),
        };
        if let Some(wrong) = namespaces.iter().find(|namespace| !is_label(namespace)) {
            return Err(field(name, format!("`{wrong}` is not the name of a namespace")));
        }
        Ok(Kubernetes {
            namespaces,
            kubeconfig: self.kubeconfig.map(|path| folder.join(path)),
        })
    }
}

impl RawListen {
    fn validate(self, folder: &Path) -> Result<Listen, ConfigError> {
        match (self.unix, self.tcp, self.mode) {
            (Some(path), None, mode) => Ok(Listen::Unix {
                path: folder.join(path),
                mode: mode.map_or(Ok(0o600), |mode| socket_mode(&mode))?,
            }),
            (None, Some(address), None) if address.ip().is_loopback() => Ok(Listen::Tcp(address)),
            (None, Some(_), None) => Err(field(
                "listen.tcp",
                "is not a loopback address; the sidecar beside the server takes calls from afar",
            )),
            (None, Some(_), Some(_)) => Err(field("listen.mode", "belongs to `unix`")),
            _ => Err(field("listen", "needs exactly one of `unix` and `tcp`")),
        }
    }
}

fn socket_mode(text: &str) -> Result<u32, ConfigError> {
    match u32::from_str_radix(text, 8) {
        // Who can connect can claim to be the sidecar, so the world never may.
        Ok(mode) if mode & !0o660 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err(field("listen.mode", "must be \"0600\" or \"0660\"")),
    }
}

impl RawAuthentication {
    fn validate(self, folder: &Path, identity: &SpiffeId) -> Result<Authentication, ConfigError> {
        match (self.mode, self.path, self.principal) {
            (AuthenticationMode::Sidecar, None, None) => Ok(Authentication::Sidecar {
                identity: identity.clone(),
            }),
            (AuthenticationMode::Sidecar, ..) => Err(field(
                "authentication",
                "`path` and `principal` belong to mode `keyFile`",
            )),
            (AuthenticationMode::KeyFile, Some(path), Some(principal)) => {
                let principal = spiffe("authentication.principal", &principal)?;
                Ok(Authentication::key_file(&folder.join(path), principal)?)
            }
            (AuthenticationMode::KeyFile, ..) => {
                Err(field("authentication", "mode `keyFile` needs `path` and `principal`"))
            }
        }
    }
}

fn roles(
    raw: BTreeMap<String, BTreeSet<Role>>,
    trust_domain: &str,
) -> Result<BTreeMap<SpiffeId, BTreeSet<Role>>, ConfigError> {
    raw.into_iter()
        .map(|(principal, roles)| {
            let name = format!("roles.{principal}");
            let id = spiffe(&name, &principal)?;
            if id.trust_domain() != trust_domain {
                return Err(field(name, format!("is not in the trust domain `{trust_domain}`")));
            }
            Ok((id, roles))
        })
        .collect()
}

fn external_issuers(raw: Vec<RawExternalIssuer>, own: &Issuer) -> Result<Vec<ExternalIssuer>, ConfigError> {
    let mut seen = BTreeSet::from([own.clone()]);
    raw.into_iter()
        .enumerate()
        .map(|(index, raw)| {
            let iss = issuer(&format!("externalIssuers[{index}].iss"), raw.iss)?;
            if !seen.insert(iss.clone()) {
                return Err(field(format!("externalIssuers[{index}].iss"), "names an issuer twice"));
            }
            let jwks = serde_json::from_value(raw.jwks)
                .map_err(|error| field(format!("externalIssuers[{index}].jwks"), error.to_string()))?;
            Ok(ExternalIssuer { iss, jwks })
        })
        .collect()
}

fn validate_limits(limits: &Limits) -> Result<(), ConfigError> {
    for (name, value, most) in [
        ("connections", limits.connections, 1 << 16),
        ("recordQueue", limits.record_queue, 1 << 10),
        (
            "recordBatchesPerPeer",
            limits.record_batches_per_peer,
            limits.record_queue,
        ),
        ("newSourcesPerMinute", limits.new_sources_per_minute as usize, 1 << 20),
        ("pollsPerPeer", limits.polls_per_peer, 1 << 16),
        ("tokenRequestsPerPeer", limits.token_requests_per_peer, 1 << 10),
    ] {
        in_range(&format!("limits.{name}"), value as u64, 1, most as u64)?;
    }
    Ok(())
}

fn in_range(name: &str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(field(name, format!("is {value}, but must be from {least} to {most}")))
    }
}

fn spiffe(name: &str, text: &str) -> Result<SpiffeId, ConfigError> {
    text.parse()
        .map_err(|error| field(name, format!("`{text}` is no SPIFFE ID: {error}")))
}

fn issuer(name: &str, text: String) -> Result<Issuer, ConfigError> {
    Issuer::try_from(text).map_err(|error| field(name, error.to_string()))
}

fn field(field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Field {
        field: field.into(),
        reason: reason.into(),
    }
}
