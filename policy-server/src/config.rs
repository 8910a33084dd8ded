//! The configuration of `ostiary serve`: a raw YAML form that refuses unknown fields, made into a valid [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use authz::identity::{Issuer, SpiffeId};
use authz::jwks::Jwks;
use serde::Deserialize;

use crate::peer::Authentication;
use crate::secret::SecretError;

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
    /// May pause, kill and resume agents.
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
    /// The folder with keys and database.
    pub data: PathBuf,
    /// The folder with agent and service files.
    pub policy: PathBuf,
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

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawConfig {
    trust_domain: String,
    identity: String,
    hosts: Vec<String>,
    issuer: Option<String>,
    listen: RawListen,
    data: PathBuf,
    policy: PathBuf,
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawExternalIssuer {
    iss: String,
    jwks: serde_json::Value,
}

impl RawConfig {
    fn validate(self, folder: &Path) -> Result<Config, ConfigError> {
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
            data: folder.join(self.data),
            policy: folder.join(self.policy),
            token_max_ttl_seconds: token.max_ttl_seconds,
            token_default_ttl_seconds: default_ttl,
            state_max_age_seconds: self.state.max_age_seconds,
            state_renew: Duration::from_secs(self.state.renew_seconds),
            bundle_lifetime_seconds: self.bundle.lifetime_seconds,
            limits: self.limits,
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const BASE: &str = "\
trustDomain: cluster.local
identity: spiffe://cluster.local/ns/ostiary/sa/policy-server
hosts: [policy-server.ostiary.svc.cluster.local]
data: data
policy: policy
";
    const LISTEN: &str = "listen: { unix: run/ostiary.sock }\n";
    const SIDECAR: &str = "authentication: { mode: sidecar }\n";

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ostiary.yaml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let config = load(&format!("{BASE}{LISTEN}{SIDECAR}")).unwrap();
        assert_eq!(
            config.issuer.as_str(),
            "spiffe://cluster.local/ns/ostiary/sa/policy-server"
        );
        assert_eq!(
            (config.token_max_ttl_seconds, config.token_default_ttl_seconds),
            (300, 300)
        );
        assert_eq!((config.state_max_age_seconds, config.state_renew.as_secs()), (60, 15));
        assert_eq!(config.bundle_lifetime_seconds, 3600);
        assert_eq!(config.limits, Limits::default());
        assert!(matches!(config.listen, Listen::Unix { mode: 0o600, .. }));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let base = format!("{BASE}{SIDECAR}");
        let all = format!("{BASE}{SIDECAR}{LISTEN}");
        for (text, expected) in [
            (
                format!("{base}listen: {{ tcp: 0.0.0.0:80 }}\n"),
                "`listen.tcp`: is not a loopback address",
            ),
            (format!("{base}listen: {{}}\n"), "`listen`: needs exactly one"),
            (
                format!("{base}listen: {{ unix: a, tcp: 127.0.0.1:1 }}\n"),
                "`listen`: needs exactly one",
            ),
            (
                format!("{base}listen: {{ unix: a, mode: \"0666\" }}\n"),
                "`listen.mode`: must be",
            ),
            (format!("{all}colour: red\n"), "ostiary.yaml:8: "),
            (
                format!("{all}token: {{ maxTtlSeconds: 0 }}\n"),
                "`token.maxTtlSeconds`: is 0",
            ),
            (
                format!("{all}token: {{ maxTtlSeconds: 60, defaultTtlSeconds: 61 }}\n"),
                "`token.defaultTtlSeconds`",
            ),
            (
                format!("{all}state: {{ maxAgeSeconds: 20, renewSeconds: 11 }}\n"),
                "`state.renewSeconds`: is 11",
            ),
            (
                format!("{all}roles: {{ bob: [issuer] }}\n"),
                "`roles.bob`: `bob` is no SPIFFE ID",
            ),
            (
                format!("{all}roles: {{ \"spiffe://other/ns/a/sa/b\": [issuer] }}\n"),
                "is not in the trust domain",
            ),
            (
                format!("{all}limits: {{ recordQueue: 0 }}\n"),
                "`limits.recordQueue`: is 0",
            ),
            (
                format!("{BASE}{LISTEN}authentication: {{ mode: keyFile }}\n"),
                "needs `path` and `principal`",
            ),
            (
                format!("{BASE}{LISTEN}authentication: {{ mode: sidecar, path: x }}\n"),
                "belong to mode `keyFile`",
            ),
            (
                format!("{all}externalIssuers: [{{ iss: a, jwks: {{ keys: 1 }} }}]\n"),
                "`externalIssuers[0].jwks`",
            ),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }

    #[test]
    fn roles_are_looked_up_by_principal() {
        let config = load(&format!(
            "{BASE}{LISTEN}{SIDECAR}roles: {{ \"spiffe://cluster.local/ns/o/sa/o\": [issuer] }}\n"
        ))
        .unwrap();
        let principal = "spiffe://cluster.local/ns/o/sa/o".parse().unwrap();
        assert!(config.has_role(&principal, Role::Issuer));
        assert!(!config.has_role(&principal, Role::Operator));
        assert!(!config.has_role(&config.identity, Role::Issuer));
    }
}
