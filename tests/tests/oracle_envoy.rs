//! A second opinion on every inbound vector: what Envoy's own `jwt_authn`, `mcp` and `a2a` say to the same bytes, configured as
//! their documentation advises. Every difference must be explained.
//!
//! `BLESS=1 cargo test -p tests --test oracle_envoy` writes the table of docs/conformance.md anew.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tests::backends::Backend;
use tests::client::Client;
use tests::docs;
use tests::envoy::Envoy;
use tests::loopback::Loopback;
use tests::pki::{Ca, Workload};
use tests::run::RunDirectory;
use tests::sidecar::{Inbound, Sidecar};
use tests::wait;
use tests::wire::{Told, Wire, Written};

#[path = "../../authz/tests/vectors/mod.rs"]
mod vectors;

use vectors::{Expect, Placed, Runs};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why we deny what the others let pass, by our code.
const DENIED_BY_US: [(&str, &str); 50] = [
    ("a2a_batch", "a batch asks for several things at once, and 1.0 has none"),
    (
        "a2a_malformed",
        "JSON on which readers disagree, and members that nobody knows, such as a task in another spelling",
    ),
    ("a2a_method_refused", "a method that nobody knows may name anything"),
    ("a2a_version_refused", "another version may name things in other ways"),
    ("agent_identity_mismatch", "of agents they know nothing"),
    ("agent_killed", "of agents' states they know nothing"),
    ("agent_paused", "of agents' states they know nothing"),
    ("agent_suspended", "of agents' states they know nothing"),
    ("agent_unknown", "of agents they know nothing"),
    ("body_encoded", "what cannot be read is not decided on"),
    ("body_too_large", "a bound of the service's own"),
    ("header_duplicate", "an application may take the other one"),
    ("host_unknown", "whose host it is, Envoy's routes decide"),
    (
        "mcp_header_mismatch",
        "what proxies route and log by must be what the body says",
    ),
    (
        "mcp_malformed",
        "JSON on which readers disagree, and members that nobody knows",
    ),
    ("mcp_method_refused", "a method that nobody knows may name anything"),
    ("mcp_task_mismatch", "whose a task is, they do not know"),
    (
        "media_type_refused",
        "an application may read a body of another type by other rules",
    ),
    (
        "method_not_allowed",
        "a stream of no session, or one that is resumed, is bound to nobody",
    ),
    (
        "method_override_refused",
        "an application may take it for another method",
    ),
    (
        "own_segment_mismatch",
        "which agent a path belongs to, they do not know",
    ),
    ("path_not_canonical", "an application may understand another path"),
    (
        "peer_mismatch",
        "they do not look at the peer: a stolen token is of use",
    ),
    ("prompt_not_in_policy", "what an agent may do is for others to say"),
    ("prompt_not_offered", "what an agent may do is for others to say"),
    ("request_malformed", "forms that applications read differently"),
    ("resource_not_in_policy", "what an agent may do is for others to say"),
    ("resource_not_offered", "what an agent may do is for others to say"),
    ("route_unknown", "what an agent may do is for others to say"),
    ("scope_not_granted", "what an agent may do is for others to say"),
    ("scope_not_in_policy", "what an agent may do is for others to say"),
    ("service_not_reached", "what an agent may do is for others to say"),
    ("service_unknown", "what an agent may do is for others to say"),
    ("session_mismatch", "whose a session is, they do not know"),
    ("task_mismatch", "whose a task is, they do not know"),
    ("task_refused", "whose a task is, they do not know"),
    (
        "token_claims_invalid",
        "claims that they do not read, or not as strictly: types, wildcards, duplicates, who it is for",
    ),
    ("token_in_query", "RFC 6750 advises against it: queries are logged"),
    ("token_key_unknown", "`kid` chooses the key, and no other is tried"),
    ("token_lifetime_exceeded", "a capability lives for minutes"),
    ("token_malformed", "forms of a token that readers read differently"),
    ("token_missing", "the capability rides in another header here"),
    ("token_not_yet_valid", "`iat` ahead of the clock is nothing to them"),
    ("token_revoked", "they know no revocation"),
    ("token_superseded", "they know no revocation"),
    ("token_type_refused", "any JWT of the issuer is a capability to them"),
    ("tool_forbidden", "what an agent may do is for others to say"),
    ("tool_not_granted", "what an agent may do is for others to say"),
    ("tool_not_in_policy", "what an agent may do is for others to say"),
    ("tool_not_offered", "what an agent may do is for others to say"),
];

/// Why we permit what the others refuse, by the status of their refusal.
const REFUSED_BY_THEM: [(&str, &str); 2] = [
    (
        "400",
        "`a2a` knows no REST and no card but today's, and to both a media type in another case is another",
    ),
    (
        "401",
        "peers that need no capability; `Ed25519`, the newer name of `EdDSA` (RFC 9864); `bearer` in lower case",
    ),
];

/// The vectors on which a verdict of ours and one of theirs differ, by both.
type Differences = BTreeMap<(String, String), Vec<String>>;

/// A workload's Envoy with the other filters, and the application behind it.
struct Oracle {
    client: Client,
    application: Backend,
    _envoy: Envoy,
}

#[tokio::test]
async fn every_difference_from_envoys_own_filters_is_explained() {
    let run = RunDirectory::create("oracle").unwrap();
    let (net, ca) = (Loopback::claim().unwrap(), Ca::create(&run.file("pki")).unwrap());
    let mut oracles: BTreeMap<String, Oracle> = BTreeMap::new();
    let (mut same, mut differences) = (0, Differences::new());
    for placed in vectors::all() {
        let recipe = &placed.recipe;
        if !placed.vector.runs.contains(&Runs::Envoy) || recipe.side != "inbound" {
            continue;
        }
        if !oracles.contains_key(&recipe.workload) {
            let host = 30 + u8::try_from(oracles.len()).unwrap();
            oracles.insert(
                recipe.workload.clone(),
                Oracle::start(&placed, host, &net, &ca, &run).await,
            );
        }
        let theirs = oracles[&recipe.workload].ask(&placed).await;
        let ours = match &placed.vector.expect {
            Expect::Permit => "permit".to_owned(),
            // What enforcing would say: Envoy's own filters know no shadow of this kind.
            Expect::Shadow { code, .. } | Expect::Deny { code, .. } => code.clone(),
        };
        if (ours == "permit") == (theirs == "passes") {
            same += 1;
        } else {
            differences.entry((ours, theirs)).or_default().push(placed.vector.id);
        }
    }
    let unexplained: Vec<_> = differences
        .keys()
        .filter(|difference| why(difference).is_none())
        .collect();
    println!("{same} the same; {differences:?}");
    assert!(unexplained.is_empty(), "not explained: {unexplained:?}");
    for (key, _) in DENIED_BY_US.iter().chain(&REFUSED_BY_THEM) {
        let needed = differences
            .keys()
            .any(|(ours, theirs)| [ours, theirs].contains(&&(*key).to_owned()));
        assert!(needed, "explained in vain: {key}");
    }
    docs::hold_table("conformance.md", "oracle", &table(same, &differences)).unwrap();
}

fn why((ours, theirs): &(String, String)) -> Option<&'static str> {
    let (reasons, key): (&[_], _) = if theirs == "passes" {
        (&DENIED_BY_US, ours)
    } else {
        (&REFUSED_BY_THEM, theirs)
    };
    reasons.iter().find(|(named, _)| named == key).map(|(_, why)| *why)
}

fn table(same: usize, differences: &Differences) -> String {
    let count: usize = differences.values().map(Vec::len).sum();
    let mut out = format!(
        "| Ostiary | `jwt_authn`, `mcp`, `a2a` | vectors | why |\n|---|---|---|---|\n| the same | | {same} of {} | |\n",
        same + count
    );
    for (difference, vectors) in differences {
        let ((ours, theirs), count) = (difference, vectors.len());
        out += &format!(
            "| `{ours}` | {theirs} | {count} | {} |\n",
            why(difference).unwrap_or_default()
        );
    }
    out
}

impl Oracle {
    async fn start(placed: &Placed, host: u8, net: &Loopback, ca: &Ca, run: &RunDirectory) -> Self {
        let spiffe = &placed.recipe.workload;
        let (namespace, account) = spiffe
            .strip_prefix("spiffe://cluster.local/ns/")
            .and_then(|path| path.split_once("/sa/"))
            .unwrap();
        let workload = Workload::new(namespace, account);
        let application = Backend::echo(&workload.slug(), run).unwrap();
        // Neither filter looks at a peer.
        let mut inbound = Inbound::new(net.socket(host, 8080), application.socket());
        inbound.mtls = false;
        let address = inbound.address;
        let credential = ca.issue(&workload, &[]).unwrap();
        let sidecar = Sidecar::new(&credential, ca, net.socket(host, 15_000)).with_inbound(inbound);
        let mut config = sidecar.config(run);
        let filters = config
            .pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters")
            .unwrap();
        let mut theirs = filters_of(placed, account);
        theirs.extend(filters.as_array().unwrap().iter().cloned());
        *filters = Value::Array(theirs);
        let envoy = Envoy::spawn(&sidecar.name, &config, sidecar.admin, 1, run).unwrap();
        envoy.ready().await.unwrap();
        Self {
            client: Client::plain(address).within(PATIENCE),
            application,
            _envoy: envoy,
        }
    }

    /// What becomes of a request: `passes`, a status, or `ended`.
    async fn ask(&self, placed: &Placed) -> String {
        let raw = placed.recipe.request(wait::unix_now());
        let mut headers = raw.headers;
        headers.push(("x-vector".to_owned(), placed.vector.id.clone()));
        let request = Written {
            method: raw.method,
            path: raw.path,
            headers,
            body: raw.body,
        };
        let told = tokio::time::timeout(PATIENCE, Wire::Http1.exchange(&self.client, &request)).await;
        let seen = self.application.seen_with("x-vector", &placed.vector.id);
        match told {
            Ok(Ok(_)) if !seen.is_empty() => "passes".to_owned(),
            Ok(Ok(Told::Answer { status, .. })) => status.to_string(),
            Ok(Ok(Told::Ended)) | Ok(Err(_)) | Err(_) => "ended".to_owned(),
        }
    }
}

/// Those that a user would put before this workload.
fn filters_of(placed: &Placed, account: &str) -> Vec<Value> {
    let mut filters = vec![jwt_authn(placed, account)];
    let reader = match account {
        "mcp" => Some(("mcp", "Mcp", "REJECT_NO_MCP")),
        "writer-2" => Some(("a2a", "A2a", "REJECT")),
        _ => None,
    };
    filters.extend(reader.map(|(name, message, mode)| {
        let config = json!({"traffic_mode": mode, "max_request_body_size": 8192});
        filter(name, &format!("{name}.v3.{message}"), config)
    }));
    filters
}

fn jwt_authn(placed: &Placed, account: &str) -> Value {
    let providers: serde_json::Map<String, Value> = placed
        .recipe
        .issuers()
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(number, issuer)| {
            let mut provider = json!({
                "issuer": issuer["iss"],
                "audiences": [placed.recipe.workload],
                "local_jwks": {"inline_string": issuer["jwks"].to_string()},
                "clock_skew_seconds": 5,
            });
            if account == "ledger" {
                provider["from_headers"] = json!([{"name": "x-capability", "value_prefix": "Bearer "}]);
            }
            (format!("issuer-{number}"), provider)
        })
        .collect();
    let any: Vec<_> = providers.keys().map(|name| json!({"provider_name": name})).collect();
    let config = json!({
        "providers": providers,
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": any}}}],
    });
    filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", config)
}

fn filter(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{message}"));
    json!({"name": format!("envoy.filters.http.{name}"), "typed_config": config})
}
