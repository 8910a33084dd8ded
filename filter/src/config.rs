//! The plugin's configuration: a JSON document, read strictly.
//!
//! A bad document never makes `on_configure` fail: Envoy tries a plugin in a canary VM first, and lets requests pass
//! unfiltered if a worker's VM then says no where the canary said yes. The VM denies everything instead.

use std::time::Duration;

use authz::identity::{KeyId, is_trust_domain};
use authz::json::{self, JsonError, Limits};
use authz::jwks::{Jwks, PublicKey};
use authz::policy::{BundleKeys, PolicyError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const DEFAULT_RECORD_QUEUE: usize = 8192;
const DEFAULT_TOKEN_CACHE: usize = 4096;
const DEFAULT_POLL_TIMEOUT_SECONDS: u64 = 30;
const DEFAULT_HOLD_SECONDS: u64 = 30;
const DEFAULT_HELD_CALLS: usize = 64;

/// Fewer slots than this could not hold one batch beside the streams that are under way.
const LEAST_RECORD_QUEUE: usize = 64;
/// A queued record is about 1 KiB and a VM may use 1 GiB.
const MOST_RECORD_QUEUE: usize = 131_072;
/// A held call may have a body of 16 MiB, and most have one of few KiB.
const MOST_HELD_CALLS: usize = 1024;
/// A cached token is about 2 KiB.
const MOST_TOKEN_CACHE: usize = 65_536;

/// The document as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    policy_cluster: String,
    policy_authority: String,
    trust_domain: String,
    bundle_keys: Jwks,
    headers_stop_iteration: bool,
    record_queue: Option<usize>,
    token_cache: Option<usize>,
    poll_timeout_seconds: Option<u64>,
    hold_seconds: Option<u64>,
    held_calls: Option<usize>,
}

/// A configuration that can be worked with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Envoy's name of the cluster that leads to the policy server.
    pub(crate) policy_cluster: String,
    /// The `:authority` of callouts.
    pub(crate) policy_authority: String,
    pub(crate) trust_domain: String,
    /// The root of trust: whose signature a bundle or state list must bear.
    pub(crate) bundle_keys: BundleKeys,
    /// The same keys, to compare with those of the next configuration.
    keys: Jwks,
    /// The ids of those that the policy server is told of, with spaces between.
    pub(crate) reported_keys: String,
    /// Whether Envoy's `allow_on_headers_stop_iteration` is set for this plugin. Then request headers are held until
    /// the verdict on the body; otherwise the application sees them, and no byte of the body, before it.
    pub(crate) headers_stop_iteration: bool,
    pub(crate) record_queue: usize,
    pub(crate) token_cache: usize,
    pub(crate) poll_timeout: Duration,
    /// How long a call of a paused agent is held where its service says so, and how many of them a VM holds.
    pub(crate) hold: Duration,
    pub(crate) held_calls: usize,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("no configuration")]
    Missing,
    #[error("{0}")]
    Json(#[from] JsonError),
    #[error("`{0}` must not be empty")]
    Empty(&'static str),
    #[error("`bundle_keys`: {0}")]
    Keys(#[from] PolicyError),
    #[error("`trust_domain` is not a SPIFFE trust domain")]
    TrustDomain,
    #[error("`{field}` must be between {least} and {most}")]
    OutOfRange { field: &'static str, least: u64, most: u64 },
}

impl Config {
    /// Reads the document.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, ConfigError> {
        if document.is_empty() {
            return Err(ConfigError::Missing);
        }
        json::strict::<RawConfig>(document, &Limits::REQUEST)?.try_into()
    }

    /// Whether the key that `earlier` trusted under this id is still trusted.
    pub(crate) fn still_trusts(&self, earlier: &Self, key: &KeyId) -> bool {
        let key = earlier.keys.find(key.as_str());
        key.is_some_and(|key| self.keys.find(key.kid().as_str()) == Some(key))
    }
}

/// The ids that a policy server is told of: of keys that bear their own thumbprint (RFC 7638), as all keys of a policy
/// server do, so that a key pasted with a slip is not taken for the one that it names.
fn reported_keys(keys: &Jwks) -> String {
    let reported = keys.keys().iter().filter(|key| match key.key() {
        PublicKey::Ed25519(point) => {
            let members = format!(
                r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
                URL_SAFE_NO_PAD.encode(point)
            );
            URL_SAFE_NO_PAD.encode(Sha256::digest(members)) == key.kid().as_str()
        }
        _ => false,
    });
    let ids: Vec<&str> = reported.map(|key| key.kid().as_str()).collect();
    ids.join(" ")
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let RawConfig {
            policy_cluster,
            policy_authority,
            trust_domain,
            bundle_keys,
            headers_stop_iteration,
            record_queue,
            token_cache,
            poll_timeout_seconds,
            hold_seconds,
            held_calls,
        } = raw;
        let keys = bundle_keys;
        let bundle_keys = BundleKeys::new(keys.clone())?;
        if !is_trust_domain(&trust_domain) {
            return Err(ConfigError::TrustDomain);
        }
        let record_queue = record_queue.unwrap_or(DEFAULT_RECORD_QUEUE);
        let token_cache = token_cache.unwrap_or(DEFAULT_TOKEN_CACHE);
        let poll_timeout = poll_timeout_seconds.unwrap_or(DEFAULT_POLL_TIMEOUT_SECONDS);
        within(
            "record_queue",
            record_queue as u64,
            LEAST_RECORD_QUEUE as u64,
            MOST_RECORD_QUEUE as u64,
        )?;
        within("token_cache", token_cache as u64, 1, MOST_TOKEN_CACHE as u64)?;
        within("poll_timeout_seconds", poll_timeout, 1, 300)?;
        let hold = hold_seconds.unwrap_or(DEFAULT_HOLD_SECONDS);
        let held_calls = held_calls.unwrap_or(DEFAULT_HELD_CALLS);
        within("hold_seconds", hold, 1, 300)?;
        within("held_calls", held_calls as u64, 0, MOST_HELD_CALLS as u64)?;
        Ok(Self {
            policy_cluster: filled("policy_cluster", policy_cluster)?,
            policy_authority: filled("policy_authority", policy_authority)?,
            trust_domain,
            bundle_keys,
            reported_keys: reported_keys(&keys),
            keys,
            headers_stop_iteration,
            record_queue,
            token_cache,
            poll_timeout: Duration::from_secs(poll_timeout),
            hold: Duration::from_secs(hold),
            held_calls,
        })
    }
}

fn filled(field: &'static str, value: String) -> Result<String, ConfigError> {
    if value.is_empty() {
        Err(ConfigError::Empty(field))
    } else {
        Ok(value)
    }
}

fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::OutOfRange { field, least, most })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::testing::{BUNDLE_KEY, config};

    #[test]
    fn the_optional_fields_have_defaults() {
        let config = Config::parse(&config(BUNDLE_KEY, &json!({}))).unwrap();
        assert_eq!((config.record_queue, config.token_cache), (8192, 4096));
        assert_eq!(config.poll_timeout, Duration::from_secs(30));
        assert_eq!((config.hold, config.held_calls), (Duration::from_secs(30), 64));
        assert!(config.headers_stop_iteration);
    }

    #[test]
    fn the_configuration_in_the_manifests_is_accepted() {
        for (file, pointer) in [
            ("base/wasmplugin.yaml", "/spec/pluginConfig"),
            ("components/canary/wasmplugin.yaml", "/spec/pluginConfig"),
            (
                "components/traffic-extension/traffic-extension.yaml",
                "/spec/wasm/pluginConfig",
            ),
        ] {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../istio/").to_owned() + file;
            let manifest: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            let document = manifest.pointer(pointer).unwrap().to_string();
            let config = Config::parse(document.as_bytes()).unwrap();
            // A WasmPlugin cannot set Envoy's flag, so the filter must not rely on it.
            assert!(!config.headers_stop_iteration, "{file}");
        }
    }

    /// The key and thumbprint of RFC 8037, appendix A.
    #[test]
    fn keys_are_reported_that_are_what_they_are_called() {
        const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        const KID: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        let jwk = |kid: &str, x: &str| json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
        let own = serde_json::from_slice::<serde_json::Value>(&config(BUNDLE_KEY, &json!({}))).unwrap();
        let other = own.pointer("/bundle_keys/keys/0/x").unwrap().as_str().unwrap();
        for (keys, reported) in [
            (json!([jwk(KID, X)]), KID),
            (json!([jwk("b1", other), jwk(KID, X)]), KID),
            (json!([jwk(KID, other)]), ""),
            (json!([jwk("b1", X)]), ""),
        ] {
            let config = Config::parse(&config(BUNDLE_KEY, &json!({"bundle_keys": {"keys": keys}}))).unwrap();
            assert_eq!(config.reported_keys, reported, "{keys}");
        }
    }

    #[test]
    fn anything_but_the_documented_fields_and_ranges_is_refused() {
        for (fields, error) in [
            (json!({"record_queu": 1}), "not of the expected shape"),
            (
                json!({"record_queue": 8}),
                "`record_queue` must be between 64 and 131072",
            ),
            (json!({"record_queue": 1.5}), "not of the expected shape"),
            (json!({"token_cache": 0}), "`token_cache` must be between 1 and 65536"),
            (
                json!({"poll_timeout_seconds": 0}),
                "`poll_timeout_seconds` must be between 1 and 300",
            ),
            (json!({"hold_seconds": 301}), "`hold_seconds` must be between 1 and 300"),
            (json!({"held_calls": 1025}), "`held_calls` must be between 0 and 1024"),
            (json!({"policy_cluster": ""}), "`policy_cluster` must not be empty"),
            (
                json!({"trust_domain": "a/b"}),
                "`trust_domain` is not a SPIFFE trust domain",
            ),
            (
                json!({"bundle_keys": {"keys": []}}),
                "`bundle_keys`: one to three Ed25519 keys",
            ),
            (json!({"headers_stop_iteration": "yes"}), "not of the expected shape"),
        ] {
            let refused = Config::parse(&config(BUNDLE_KEY, &fields)).unwrap_err().to_string();
            assert!(refused.starts_with(error), "{refused}");
        }
        assert!(matches!(Config::parse(b""), Err(ConfigError::Missing)));
        assert!(matches!(
            Config::parse(b"{\"policy_cluster\":\"a\",\"policy_cluster\":\"b\"}"),
            Err(ConfigError::Json(_))
        ));
    }
}
