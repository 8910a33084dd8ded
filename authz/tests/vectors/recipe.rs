//! What a vector says after its patches, and the signed case that is made of it at a given time.

use std::collections::BTreeMap;

use authz::manifest::{BundleHeader, Manifests};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    keys::{self, Signed, SigningKey},
    merge,
};

/// A vector after its patches: everything but the time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub side: String,
    pub workload: String,
    pub peer: Option<String>,
    pub port: u16,
    pub policy: Policy,
    #[serde(default)]
    pub states: BTreeMap<String, String>,
    /// Offsets from now.
    #[serde(default)]
    pub not_before: BTreeMap<String, i64>,
    /// `jti` to the offset at which its token ends.
    #[serde(default)]
    pub revoked: BTreeMap<String, i64>,
    /// Patches of the signed bundle and state list.
    #[serde(default)]
    bundle: Map<String, Value>,
    #[serde(default)]
    state: Map<String, Value>,
    token: Jws,
    /// The session, task or context that the request names, and what its id was sealed for.
    session: Option<Session>,
    request: Request,
    /// What is sent instead, but for `{token}` in headers, byte for byte.
    #[serde(skip)]
    pub sent: Option<RawRequest>,
    #[serde(skip)]
    trust_domain: String,
    #[serde(skip)]
    issuers: BTreeMap<String, Vec<String>>,
}

/// Agents and services by name, each as its file's `spec`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    agents: BTreeMap<String, Spec>,
    services: BTreeMap<String, Spec>,
}

/// A `spec`, kept as text so that policies can be compared and sorted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "Map<String, Value>")]
struct Spec(String);

/// A compact JWS to be made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jws {
    key: String,
    header: Map<String, Value>,
    #[serde(default)]
    header_tail: String,
    claims: Map<String, Value>,
    #[serde(default)]
    claims_tail: String,
    #[serde(default = "claims_alone")]
    payload: String,
    compact: String,
}

/// The id of a session, task or context, to be sealed for whoever this says has opened it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    /// The names of the keys that the service's workload is told; the first seals.
    keys: Vec<String>,
    /// The key that did seal, if it was another.
    key: Option<String>,
    service: String,
    sub: String,
    agent_id: String,
    operation_id: String,
    /// As the service gave it.
    id: Value,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, HeaderValues>,
    json: Option<Value>,
    body: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum HeaderValues {
    One(String),
    Many(Vec<String>),
}

/// The bytes of a request as a client sends them.
#[derive(Debug, Clone)]
pub struct RawRequest {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Recipe {
    /// Reads the patched value.
    ///
    /// # Errors
    ///
    /// Names the field that a recipe does not have.
    pub fn new(
        value: Value,
        trust_domain: &str,
        issuers: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, serde_json::Error> {
        let recipe: Self = serde_json::from_value(value)?;
        Ok(Self {
            trust_domain: trust_domain.into(),
            issuers: issuers.clone(),
            ..recipe
        })
    }

    /// The case in the form that `ostiary decide --cases` reads.
    pub fn case(&self, id: &str, now: u64) -> Value {
        let request = self.request(now);
        json!({
            "id": id,
            "now": now,
            "side": self.side,
            "workload": self.workload,
            "peer": self.peer,
            "local_port": self.port,
            "request": {
                "method": request.method,
                "path": request.path,
                "headers": request.headers,
                "body_base64": STANDARD.encode(request.body),
            },
            "bundle": self.signed_bundle(now),
            "state": self.signed_state(now),
            "trust": bundle_keys(),
        })
    }

    /// The compact token.
    pub fn token(&self, now: u64) -> String {
        self.token.sign(now)
    }

    /// The request, its token signed.
    pub fn request(&self, now: u64) -> RawRequest {
        self.written(now, &|session, what| session.sealed(what))
    }

    /// The request as the service is to see it: with its own ids, where they are sealed.
    pub fn opened(&self, now: u64) -> RawRequest {
        match &self.session {
            Some(session) if !session.keys.is_empty() => self.written(now, &|session, _| session.id()),
            _ => self.request(now),
        }
    }

    fn written(&self, now: u64, id: &dyn Fn(&Session, &str) -> String) -> RawRequest {
        if let Some(sent) = &self.sent {
            let mut sent = sent.clone();
            let token = self.token(now);
            for (_, value) in &mut sent.headers {
                *value = value.replace("{token}", &token);
            }
            return sent;
        }
        let Request {
            method,
            path,
            headers,
            json,
            body,
        } = &self.request;
        let token = self.token(now);
        let json = json.as_ref().map(expand_values);
        let id = |name: &str| {
            let domain = match name {
                "session" => "mcp session",
                "mcp-task" => "mcp task",
                "task" => "a2a task",
                "context" => "a2a context",
                _ => return None,
            };
            Some(id(self.session.as_ref()?, domain))
        };
        let json_text = json.as_ref().map(Value::to_string).unwrap_or_default();
        let json_text = expand(&json_text, id);
        let expand = |text: &str| {
            expand(text, |name| match name {
                "token" => Some(token.clone()),
                "json" => Some(json_text.clone()),
                "seal" => self.session.as_ref().map(|session| session.seal("mcp session")),
                _ if id(name).is_some() => id(name),
                _ => match name.strip_prefix("json:") {
                    Some(pointer) => json.as_ref()?.pointer(pointer)?.as_str().map(str::to_owned),
                    None => nested(name),
                },
            })
        };
        let body = body
            .as_ref()
            .map_or_else(|| json_text.clone(), |body| expand(body))
            .into_bytes();
        let headers = headers.iter().flat_map(|(name, values)| {
            let values = match values {
                HeaderValues::One(value) => std::slice::from_ref(value),
                HeaderValues::Many(values) => values,
            };
            values.iter().map(|value| (name.clone(), expand(value)))
        });
        RawRequest {
            method: method.clone(),
            path: expand(path),
            headers: headers.collect(),
            body,
        }
    }

    fn signed_bundle(&self, now: u64) -> String {
        signed(
            "policy-bundle+jwt",
            self.bundle_claims(now, 1),
            &Value::Object(self.bundle.clone()),
            now,
        )
    }

    fn signed_state(&self, now: u64) -> String {
        signed(
            "agent-state+jwt",
            self.state_claims(now, 1),
            &Value::Object(self.state.clone()),
            now,
        )
    }

    /// The same for recipes that one policy and one state list serve.
    pub fn policy_key(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.policy,
            self.states,
            self.not_before,
            self.revoked,
            self.session.as_ref().map(|session| &session.keys)
        )
    }

    /// The issuers whose tokens the bundle lists, with the keys of each.
    pub fn issuers(&self) -> Value {
        let issuers = self.issuers.iter();
        issuers
            .map(|(iss, keys)| json!({ "iss": iss, "jwks": SigningKey::public_jwks(keys.iter().map(String::as_str)) }))
            .collect()
    }

    fn policy_server(&self) -> String {
        format!("spiffe://{}/ns/ostiary/sa/policy-server", self.trust_domain)
    }

    /// What the policy server would say to this workload, as the `version`th.
    pub fn bundle_claims(&self, now: u64, version: u64) -> Value {
        let header = BundleHeader {
            iss: of(&self.policy_server()),
            epoch: 1,
            version,
            issued_at: now,
            expires_at: now + 3600,
            max_state_age_seconds: 60,
            max_token_ttl_seconds: 300,
            issuers: of(&self.issuers()),
            policy_server: of(&json!({
                "identity": self.policy_server(),
                "hosts": ["policy-server.ostiary.svc.cluster.local"],
            })),
        };
        let mesh = self
            .policy
            .manifests()
            .check(&self.trust_domain)
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        let mut claims = serde_json::to_value(mesh.compile(&of(&self.workload), header)).unwrap();
        if let Some(session) = self.session.as_ref().filter(|session| !session.keys.is_empty()) {
            let keys = session.keys.iter().map(|name| URL_SAFE_NO_PAD.encode(keys::seed(name)));
            claims["session_keys"] = keys.collect();
        }
        claims
    }

    /// The states of agents and what was revoked, as the `version`th list.
    pub fn state_claims(&self, now: u64, version: u64) -> Value {
        let at = |offsets: &BTreeMap<String, i64>| -> BTreeMap<String, u64> {
            offsets
                .iter()
                .map(|(name, offset)| (name.clone(), now.saturating_add_signed(*offset)))
                .collect()
        };
        json!({
            "format": 1,
            "iss": self.policy_server(),
            "epoch": 1,
            "version": version,
            "issued_at": now,
            "agents": self.states,
            "not_before": at(&self.not_before),
            "revoked": at(&self.revoked),
        })
    }
}

impl Session {
    fn id(&self) -> String {
        expand_values(&self.id).as_str().unwrap().to_owned()
    }

    /// As its holder shows it.
    fn sealed(&self, what: &str) -> String {
        format!("{}.{}", self.seal(what), self.id())
    }

    /// By docs/formats.md, without the code under test.
    fn seal(&self, what: &str) -> String {
        let key = self.key.as_ref().or(self.keys.first()).unwrap();
        let mut sealed = format!("ostiary {what} 1").into_bytes();
        for part in [&self.service, &self.sub, &self.agent_id, &self.operation_id, &self.id()] {
            sealed.extend((part.len() as u64).to_be_bytes());
            sealed.extend(part.as_bytes());
        }
        URL_SAFE_NO_PAD.encode(&keys::hmac_sha256(&keys::seed(key), &sealed)[..16])
    }
}

impl Policy {
    fn manifests(&self) -> Manifests {
        let agents = self.agents.iter().map(|(name, spec)| {
            let mut spec: Map<String, Value> = serde_json::from_str(&spec.0).unwrap();
            let namespace = spec.remove("namespace").unwrap();
            of(&manifest("Agent", name, &namespace, spec))
        });
        let services = self.services.iter().map(|(id, spec)| {
            let (namespace, name) = id.split_once('/').unwrap();
            of(&manifest(
                "Service",
                name,
                &namespace.into(),
                serde_json::from_str(&spec.0).unwrap(),
            ))
        });
        Manifests {
            agents: agents.collect(),
            services: services.collect(),
        }
    }
}

fn manifest(kind: &str, name: &str, namespace: &Value, spec: Map<String, Value>) -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
}

fn of<T: DeserializeOwned>(value: &(impl Serialize + ?Sized)) -> T {
    serde_json::from_value(serde_json::to_value(value).unwrap()).unwrap_or_else(|error| panic!("{error}"))
}

impl Jws {
    fn sign(&self, now: u64) -> String {
        let header = with_tail(&expand_values(&Value::Object(self.header.clone())), &self.header_tail);
        let claims: Map<String, Value> = self
            .claims
            .iter()
            .map(|(name, value)| (name.clone(), at_time(name, expand_values(value), now)))
            .collect();
        let at = |name: &str| match name.strip_prefix("now")?.parse::<i64>() {
            Ok(offset) => Some(now.saturating_add_signed(offset).to_string()),
            Err(_) => None,
        };
        let claims = with_tail(&Value::Object(claims), &self.claims_tail);
        let claims = expand(&claims, |name| at(name).or_else(|| nested(name)));
        let payload = expand(&self.payload, |name| (name == "claims").then(|| claims.clone()));
        let signed = SigningKey::named(&self.key).sign(header.as_bytes(), payload.as_bytes());
        compact(&self.compact, &signed)
    }
}

impl From<Map<String, Value>> for Spec {
    fn from(spec: Map<String, Value>) -> Self {
        Self(Value::Object(spec).to_string())
    }
}

/// The keys that a filter trusts policy from.
pub fn bundle_keys() -> Value {
    SigningKey::public_jwks(["bundle"])
}

/// Signs policy, patched as a vector asks; only then are its times offsets from now.
fn signed(typ: &str, mut claims: Value, patch: &Value, now: u64) -> String {
    for time in ["issued_at", "expires_at"] {
        if let Some(value) = claims.get_mut(time) {
            *value = (value.as_i64().unwrap() - now as i64).into();
        }
    }
    let mut jws = json!({
        "key": "bundle",
        "header": { "alg": "EdDSA", "kid": "bundle", "typ": typ },
        "claims": claims,
        "compact": "{header}.{claims}.{signature}",
    });
    merge(&mut jws, patch);
    of::<Jws>(&jws).sign(now)
}

fn claims_alone() -> String {
    "{claims}".into()
}

/// A time is written as its offset from now; whatever is no number stands as it is.
fn at_time(name: &str, value: Value, now: u64) -> Value {
    if !["iat", "nbf", "exp", "issued_at", "expires_at"].contains(&name) {
        return value;
    }
    match value.as_i64() {
        Some(offset) => now.saturating_add_signed(offset).into(),
        None => value.as_f64().map_or(value, |offset| (now as f64 + offset).into()),
    }
}

/// Replaces `{"$letters": n}` by a string of n letters.
fn expand_values(value: &Value) -> Value {
    match value {
        Value::Object(members) => match members.get("$letters").and_then(Value::as_u64) {
            Some(count) => "a".repeat(count as usize).into(),
            None => members
                .iter()
                .map(|(name, value)| (name.clone(), expand_values(value)))
                .collect(),
        },
        Value::Array(items) => items.iter().map(expand_values).collect(),
        other => other.clone(),
    }
}

/// An object's text with more text before its last brace.
fn with_tail(object: &Value, tail: &str) -> String {
    let text = object.to_string();
    format!("{}{tail}}}", text.strip_suffix('}').unwrap())
}

/// `nest:N`: an array within an array, N deep.
fn nested(name: &str) -> Option<String> {
    let depth = name.strip_prefix("nest:")?.parse().ok()?;
    Some("[".repeat(depth) + &"]".repeat(depth))
}

/// Replaces each `{name}` that `value` knows.
fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out += before;
        match after
            .split_once('}')
            .and_then(|(name, after)| Some((value(name)?, after)))
        {
            Some((value, after)) => (out, rest) = (out + &value, after),
            None => (out, rest) = (out + "{", after),
        }
    }
    out + rest
}

/// Fills `{header}`, `{claims}` and `{signature}` in, each perhaps with a change: see `authz/vectors/README.md`.
fn compact(template: &str, signed: &Signed) -> String {
    expand(template, |name| {
        if let Some(change) = name.strip_prefix("header") {
            return Some(altered(&signed.header, change));
        }
        if let Some(change) = name.strip_prefix("claims") {
            return Some(altered(&signed.payload, change));
        }
        name.strip_prefix("signature")
            .map(|change| altered(&URL_SAFE_NO_PAD.encode(&signed.signature), change))
    })
}

fn altered(part: &str, change: &str) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(part).unwrap();
    let number = || change[1..].parse::<usize>().unwrap();
    match change.as_bytes().first() {
        None => return part.to_owned(),
        Some(b'^') => bytes[number()] ^= 1,
        Some(b'<') => bytes.truncate(number()),
        Some(b'>') => bytes.resize(number(), 0),
        Some(b'*') => bytes.fill(0),
        Some(b'+') => bytes = keys::malleated(&bytes),
        Some(b':') => bytes = keys::ecdsa_der(&bytes),
        Some(b'~') => return with_unused_bits(part),
        Some(_) => panic!("no such change: `{change}`"),
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The same bytes with one of the bits set that the last letter does not use.
fn with_unused_bits(part: &str) -> String {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (kept, last) = part.split_at(part.len() - 1);
    let next = LETTERS.find(last).unwrap() + 1;
    format!("{kept}{}", &LETTERS[next..=next])
}
