//! The configuration of `ostiary serve`: a raw YAML form that refuses unknown fields, made into a valid [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::identity::{AgentId, Issuer, SpiffeId};
use authz::jwks::Jwks;
use authz::risk::Settings as RiskSettings;
use serde::Deserialize;

use crate::keys::folder::KeyFolder;
use crate::peer::Authentication;
use crate::secret::SecretError;
use crate::webhooks::Webhook;

mod raw;
#[cfg(test)]
mod tests;

use raw::RawConfig;

/// Why a configuration cannot be used. Every message says where and what instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The file is not the YAML that it should be.
    #[error("{}:{line}: {reason}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A field's value cannot be used.
    #[error("`{field}`: {reason}")]
    Field {
        /// The field, as a path.
        field: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// The key file of `keyFile` authentication cannot be used.
    #[error("`authentication.path`: {0}")]
    KeyFile(#[from] SecretError),
}

/// What a principal may do beyond being a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// May ask for tokens of agents that list it.
    Issuer,
    /// May approve or suspend paused agents.
    Reviewer,
    /// May pause, suspend, kill and resume agents, and revoke tokens.
    Operator,
    /// May read the log.
    Auditor,
}

/// Where the server listens. Never beyond this machine: what authenticates callers is the sidecar beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket with these permission bits.
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A loopback address.
    Tcp(SocketAddr),
}

/// Where agents and services come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// A folder of files.
    Folder(PathBuf),
    /// An API server of Kubernetes.
    Kubernetes(Kubernetes),
}

/// The API server of Kubernetes that holds the policy, and what of it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The namespaces whose agents and services count; all if empty.
    pub namespaces: BTreeSet<String>,
    /// How to reach it from outside a cluster; by the pod's own service account if absent.
    pub kubeconfig: Option<PathBuf>,
}

/// What one caller, and all callers together, may occupy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Batches of records that wait for the disk, of all callers together.
    pub record_queue: usize,
    /// Batches of records that one caller may have waiting.
    pub record_batches_per_peer: usize,
    /// New sources (sidecar VMs) that one caller may open in a minute.
    pub new_sources_per_minute: u32,
    /// Held polls of one caller.
    pub polls_per_peer: usize,
    /// Token requests that one caller may have waiting.
    pub token_requests_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            record_queue: 64,
            record_batches_per_peer: 4,
            new_sources_per_minute: 240,
            polls_per_peer: 512,
            token_requests_per_peer: 32,
        }
    }
}

/// Issuers other than this server whose tokens the sidecars accept.
#[derive(Debug, Clone)]
pub struct ExternalIssuer {
    /// The `iss` of its tokens.
    pub iss: Issuer,
    /// Its public keys.
    pub jwks: Jwks,
}

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// The server's own SPIFFE ID.
    pub identity: SpiffeId,
    /// The names by which sidecars and orchestrators call the server.
    pub hosts: Vec<String>,
    /// The `iss` of tokens, bundles and state lists.
    pub issuer: Issuer,
    /// Where the server listens.
    pub listen: Listen,
    /// The folder with the database, and with the keys if no other is named.
    pub data: PathBuf,
    /// The folder that checkpoints of the log are mirrored to.
    pub mirror: Option<PathBuf>,
    /// How long both sides of a call have to tell of it before it counts as seen by one.
    pub reconcile_window: Duration,
    /// How long a source may have nothing to tell before it says so, in seconds; None if it need not.
    pub heartbeat_seconds: Option<u64>,
    /// The folder with the signing keys.
    pub keys: KeyFolder,
    /// Where the agents and services come from.
    pub policy: PolicySource,
    /// How callers are authenticated.
    pub authentication: Authentication,
    /// Roles of principals.
    pub roles: BTreeMap<SpiffeId, BTreeSet<Role>>,
    /// The longest lifetime of a token, in seconds.
    pub token_max_ttl_seconds: u64,
    /// The lifetime of a token that the request leaves open, in seconds.
    pub token_default_ttl_seconds: u64,
    /// The age from which sidecars refuse a state list, in seconds.
    pub state_max_age_seconds: u64,
    /// How often the state list is renewed while nothing happens.
    pub state_renew: Duration,
    /// The lifetime of a bundle, in seconds; it is renewed at half of it.
    pub bundle_lifetime_seconds: u64,
    /// How agents' behaviour is scored.
    pub risk: RiskSettings,
    /// How some agents' behaviour is scored instead.
    pub risk_of_agents: BTreeMap<AgentId, RiskSettings>,
    /// Whether agents are paused and suspended by their score.
    pub risk_acts: bool,
    /// Who is told of changes of agents' states.
    pub webhooks: Vec<Webhook>,
    /// Issuers other than this server.
    pub external_issuers: Vec<ExternalIssuer>,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// Reads a configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is not valid YAML of this form, or a field's value cannot be used.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let raw: RawConfig = serde_saphyr::from_str(&text).map_err(|error| ConfigError::Yaml {
            path: path.to_owned(),
            line: error.location().map_or(1, |location| location.line()),
            reason: first_line(&error.to_string()),
        })?;
        raw.validate(path.parent().unwrap_or(Path::new(".")))
    }

    /// Whether a principal has a role.
    pub fn has_role(&self, principal: &SpiffeId, role: Role) -> bool {
        self.roles.get(principal).is_some_and(|roles| roles.contains(&role))
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
