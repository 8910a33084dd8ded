//! A proxy made of memory, and a policy server made of a key, for the tests of this crate.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use authz::policy::{BundleClaims, PageDigest, PageTexts, PagedClaims};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::{Callout, CalloutError, HeaderPair, Host, Message, MetricKind};
use crate::session::{Flow, Session};
use crate::vm::Vm;

pub(crate) const AGENT: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
pub(crate) const OTHER_AGENT: &str = "spiffe://cluster.local/ns/agents/sa/writer-2";
pub(crate) const SERVICE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
pub(crate) const POLICY_SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
pub(crate) const HTTP_PORT: i64 = 8080;
pub(crate) const MCP_PORT: i64 = 8081;
pub(crate) const NOW: u64 = 1_800_000_000;

/// A callout that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) token: u32,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    headers: Vec<HeaderPair>,
    /// As a real proxy does, the VM is lost if they are changed after they have gone.
    headers_gone: bool,
    response_headers: Vec<HeaderPair>,
    response_headers_gone: bool,
    /// None cannot be read.
    trailers: Option<Vec<HeaderPair>>,
    bodies: HashMap<&'static str, Vec<u8>>,
    properties: HashMap<String, Vec<u8>>,
    answer_status: Option<u16>,
    wall: Duration,
    monotonic: Duration,
    random: u64,
    random_absent: bool,
    cluster_absent: bool,
    sent: Vec<Sent>,
    published: Vec<(String, Value)>,
    responses: Vec<(u16, Value)>,
    /// Contexts that are gone.
    gone: Vec<u32>,
    /// The context that is acted in; none but the callback's own.
    acting: Option<u32>,
    /// What was done to streams out of another context's callback, by context.
    acted: Vec<(u32, &'static str)>,
    rings: usize,
}

/// A proxy that does what it is told and notes what it is asked.
#[derive(Debug)]
pub(crate) struct FakeHost(RefCell<Inner>);

impl FakeHost {
    /// In the sidecar of the warehouse, on a connection of `analyst-7` to the port of its HTTP service.
    pub(crate) fn inbound() -> Self {
        let host = Self(RefCell::new(Inner {
            wall: Duration::from_secs(NOW),
            monotonic: Duration::from_secs(1000),
            trailers: Some(Vec::new()),
            ..Inner::default()
        }));
        host.set("xds.node.metadata.NAMESPACE", b"data");
        host.set("xds.node.metadata.SERVICE_ACCOUNT", b"warehouse");
        host.set("connection.uri_san_local_certificate", SERVICE.as_bytes());
        host.set("connection.uri_san_peer_certificate", AGENT.as_bytes());
        host.set("destination.port", &HTTP_PORT.to_le_bytes());
        host.set("xds.listener_direction", &1_i64.to_le_bytes());
        host
    }

    /// In the sidecar of `analyst-7`, on a plain connection of its application.
    pub(crate) fn outbound() -> Self {
        let host = Self::inbound();
        host.set("xds.node.metadata.NAMESPACE", b"agents");
        host.set("xds.node.metadata.SERVICE_ACCOUNT", b"analyst-7");
        host.unset("connection.uri_san_local_certificate");
        host.unset("connection.uri_san_peer_certificate");
        host.set("xds.listener_direction", &2_i64.to_le_bytes());
        host
    }

    pub(crate) fn set(&self, property: &str, value: &[u8]) {
        self.0
            .borrow_mut()
            .properties
            .insert(property.to_owned(), value.to_vec());
    }

    pub(crate) fn unset(&self, property: &str) {
        self.0.borrow_mut().properties.remove(property);
    }

    pub(crate) fn set_headers(&self, headers: &[(&str, &str)]) {
        let pairs = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        let mut inner = self.0.borrow_mut();
        inner.headers = pairs.collect();
        inner.headers_gone = false;
    }

    /// The request's headers go on.
    pub(crate) fn headers_go(&self) {
        self.0.borrow_mut().headers_gone = true;
    }

    /// The headers of the service's answer, its status among them.
    pub(crate) fn set_response_headers(&self, headers: &[(&str, &str)]) {
        let pairs = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        let mut inner = self.0.borrow_mut();
        inner.response_headers = pairs.collect();
        inner.response_headers_gone = false;
    }

    /// The answer's headers go on.
    pub(crate) fn response_headers_go(&self) {
        self.0.borrow_mut().response_headers_gone = true;
    }

    /// The values of a header of the answer as it would go on.
    pub(crate) fn response_header(&self, name: &str) -> Option<String> {
        let inner = self.0.borrow();
        let mut values = inner.response_headers.iter().filter(|(other, _)| other == name);
        let value = values
            .next()
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        assert!(values.next().is_none(), "`{name}` is there twice");
        value
    }

    /// The body of the answer as it would go on.
    pub(crate) fn response_body(&self) -> String {
        let inner = self.0.borrow();
        String::from_utf8(inner.bodies.get(name(Message::Response)).cloned().unwrap_or_default()).unwrap()
    }

    pub(crate) fn set_trailers(&self, trailers: Option<&[&str]>) {
        let pairs = trailers.map(|names| names.iter().map(|name| ((*name).to_owned(), b"1".to_vec())).collect());
        self.0.borrow_mut().trailers = pairs;
    }

    /// The names of the request's trailers as they would go on.
    pub(crate) fn trailers(&self) -> Vec<String> {
        let inner = self.0.borrow();
        inner.trailers.iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn set_body(&self, of: Message, body: &[u8]) {
        self.0.borrow_mut().bodies.insert(name(of), body.to_vec());
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut inner = self.0.borrow_mut();
        inner.wall += by;
        inner.monotonic += by;
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step_clock(&self, seconds: i64) {
        let mut inner = self.0.borrow_mut();
        let stepped = inner.wall.as_secs().checked_add_signed(seconds).unwrap();
        inner.wall = Duration::from_secs(stepped);
    }

    pub(crate) fn set_cluster_absent(&self, absent: bool) {
        self.0.borrow_mut().cluster_absent = absent;
    }

    pub(crate) fn set_random_absent(&self, absent: bool) {
        self.0.borrow_mut().random_absent = absent;
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.borrow().wall.as_secs()
    }

    /// The request's headers as they would go on.
    pub(crate) fn header_values(&self, name: &str) -> Vec<String> {
        let inner = self.0.borrow();
        let values = inner.headers.iter().filter(|(other, _)| other == name);
        values
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// Status and body of the answers that the filter gave itself.
    pub(crate) fn responses(&self) -> Vec<(u16, Value)> {
        self.0.borrow().responses.clone()
    }

    /// Makes a context unknown to the proxy.
    pub(crate) fn lose_context(&self, context: u32) {
        self.0.borrow_mut().gone.push(context);
    }

    /// What was done to streams out of another context's callback, in order, and the context that is acted in now.
    pub(crate) fn acted(&self) -> (Vec<(u32, &'static str)>, Option<u32>) {
        let inner = self.0.borrow();
        (inner.acted.clone(), inner.acting)
    }

    /// How often a root context was called for.
    pub(crate) fn rings(&self) -> usize {
        self.0.borrow().rings
    }

    /// The code of the last denial.
    pub(crate) fn denial(&self) -> Option<String> {
        let (_, body) = self.responses().pop()?;
        let code = body.get("code").or_else(|| body.pointer("/error/data/code"))?;
        code.as_str().map(str::to_owned)
    }

    /// What access logs would show under `key`, oldest first.
    pub(crate) fn published(&self, key: &str) -> Vec<Value> {
        let inner = self.0.borrow();
        inner
            .published
            .iter()
            .filter(|(other, _)| other == key)
            .map(|(_, value)| value.clone())
            .collect()
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.0.borrow().sent.clone()
    }

    /// The last callout to `path` (without its query).
    pub(crate) fn last_sent(&self, path: &str) -> Option<Sent> {
        self.sent()
            .into_iter()
            .rfind(|sent| sent.path.split('?').next() == Some(path))
    }

    /// The records of all batches that were posted, in order.
    pub(crate) fn posted(&self) -> Vec<Value> {
        let batches = self.sent().into_iter().filter(|sent| sent.path == "/v1/records");
        batches.flat_map(|batch| records_of(&batch.body)).collect()
    }

    /// Answers a callout.
    pub(crate) fn answer(&self, vm: &mut Vm, token: u32, status: u16, body: &[u8]) {
        self.set_body(Message::Answer, body);
        self.0.borrow_mut().answer_status = Some(status);
        vm.answer(self, token, true, body.len());
    }

    /// Answers the last poll.
    pub(crate) fn answer_poll(&self, vm: &mut Vm, status: u16, body: &Value) {
        let poll = self.last_sent("/v1/policy").unwrap();
        self.answer(vm, poll.token, status, body.to_string().as_bytes());
    }

    /// Answers the last request for pages.
    pub(crate) fn answer_pages(&self, vm: &mut Vm, status: u16, body: &str) {
        let request = self.last_sent("/v1/policy/pages").unwrap();
        self.answer(vm, request.token, status, body.as_bytes());
    }

    /// The pages that the last request asked for.
    pub(crate) fn pages_asked(&self) -> Vec<PageDigest> {
        let request = self.last_sent("/v1/policy/pages").unwrap();
        let digests = request.path.split_once("?digests=").unwrap().1;
        digests
            .split(',')
            .map(|digest| PageDigest::parse(digest).unwrap())
            .collect()
    }

    /// Stores the last batch.
    pub(crate) fn store_batch(&self, vm: &mut Vm) {
        self.store_batch_and_tell(vm, |_| ());
    }

    /// The same, with a change of what each call that waits is told.
    pub(crate) fn store_batch_and_tell(&self, vm: &mut Vm, change: impl Fn(&mut Value)) {
        let batch = self.last_sent("/v1/records").unwrap();
        let lines = lines_of(&batch.body);
        let waiting = batch.headers.get("ostiary-waiting").map_or("", String::as_str);
        let waiting: Vec<&str> = waiting.split(',').collect();
        let waits = |line: &&Value| waiting.contains(&&*line["record"]["seq"].to_string());
        let told = lines.iter().filter(waits).map(|line| {
            let mut told = json!({"seq": line["record"]["seq"], "hash": line["hash"]});
            if let Some(id) = line["record"].get("agent_id") {
                told["agent"] = json!({"id": id, "state": "active", "risk": 3});
            }
            change(&mut told);
            told
        });
        let last = &lines.last().unwrap()["record"];
        let mut body = json!({"source": last["source"], "accepted_through": last["seq"]});
        let told: Vec<Value> = told.filter(|told| !told.is_null()).collect();
        if !told.is_empty() {
            body["calls"] = json!(told);
        }
        self.answer(vm, batch.token, 200, body.to_string().as_bytes());
    }
}

fn lines_of(body: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(body).unwrap().lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn records_of(body: &[u8]) -> Vec<Value> {
    lines_of(body).iter().map(|line| line["record"].clone()).collect()
}

fn name(of: Message) -> &'static str {
    match of {
        Message::Request => "request",
        Message::Response => "response",
        Message::Answer => "answer",
    }
}

impl Host for FakeHost {
    fn request_headers(&self) -> Option<Vec<HeaderPair>> {
        Some(self.0.borrow().headers.clone())
    }

    fn header(&self, of: Message, name: &str) -> Option<Vec<u8>> {
        assert!(
            matches!(name, ":status" | "content-length" | "content-type" | "mcp-session-id"),
            "{name}"
        );
        let inner = self.0.borrow();
        match of {
            Message::Answer => inner.answer_status.map(|status| status.to_string().into_bytes()),
            Message::Response => {
                let mut headers = inner.response_headers.iter();
                headers.find(|(other, _)| other == name).map(|(_, value)| value.clone())
            }
            Message::Request => panic!("nobody asks for the status of a request"),
        }
    }

    fn response_headers(&self) -> Option<Vec<HeaderPair>> {
        Some(self.0.borrow().response_headers.clone())
    }

    fn set_response_header(&self, name: &str, value: &str) {
        self.remove_response_header(name);
        let pair = (name.to_owned(), value.as_bytes().to_vec());
        self.0.borrow_mut().response_headers.push(pair);
    }

    fn remove_response_header(&self, name: &str) {
        assert!(!self.0.borrow().response_headers_gone, "`{name}` has gone");
        self.0.borrow_mut().response_headers.retain(|(other, _)| other != name);
    }

    fn replace_response_body(&self, size: usize, bytes: &[u8]) -> bool {
        let mut inner = self.0.borrow_mut();
        let body = inner.bodies.entry(name(Message::Response)).or_default();
        assert_eq!(size, body.len());
        *body = bytes.to_vec();
        true
    }

    fn replace_request_body(&self, size: usize, bytes: &[u8]) -> bool {
        let mut inner = self.0.borrow_mut();
        let body = inner.bodies.entry(name(Message::Request)).or_default();
        assert_eq!(size, body.len());
        *body = bytes.to_vec();
        true
    }

    fn set_request_header(&self, name: &str, value: &str) {
        self.remove_request_header(name);
        self.0
            .borrow_mut()
            .headers
            .push((name.to_owned(), value.as_bytes().to_vec()));
    }

    fn remove_request_header(&self, name: &str) {
        assert!(!self.0.borrow().headers_gone, "`{name}` has gone");
        self.0.borrow_mut().headers.retain(|(other, _)| other != name);
    }

    fn request_trailers(&self) -> Option<Vec<HeaderPair>> {
        self.0.borrow().trailers.clone()
    }

    fn remove_request_trailer(&self, name: &str) {
        let mut inner = self.0.borrow_mut();
        inner
            .trailers
            .iter_mut()
            .for_each(|trailers| trailers.retain(|(other, _)| other != name));
    }

    fn body(&self, of: Message, max: usize) -> Option<Vec<u8>> {
        let mut body = self.0.borrow().bodies.get(name(of)).cloned()?;
        body.truncate(max);
        Some(body)
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.0.borrow().properties.get(&path.join(".")).cloned()
    }

    fn publish(&self, key: &str, value: &[u8]) {
        let value = serde_json::from_slice(value).unwrap();
        self.0.borrow_mut().published.push((key.to_owned(), value));
    }

    fn respond(&self, status: u16, _: &[(&str, &str)], body: &[u8]) {
        let mut inner = self.0.borrow_mut();
        if let Some(context) = inner.acting {
            let twice = inner.acted.contains(&(context, "respond"));
            assert!(!twice, "the SDK panics over a second answer");
            inner.acted.push((context, "respond"));
        }
        inner.responses.push((status, serde_json::from_slice(body).unwrap()));
    }

    fn reset(&self) {
        let mut inner = self.0.borrow_mut();
        let context = inner.acting.unwrap_or_default();
        inner.acted.push((context, "reset"));
    }

    fn resume(&self) {
        let mut inner = self.0.borrow_mut();
        let context = inner.acting.unwrap();
        inner.acted.push((context, "resume"));
    }

    fn ring(&self, _: u32) {
        self.0.borrow_mut().rings += 1;
    }

    fn act_in(&self, context: u32) -> bool {
        let mut inner = self.0.borrow_mut();
        let known = !inner.gone.contains(&context);
        if known {
            inner.acting = Some(context);
        }
        known
    }

    fn call(&self, callout: &Callout<'_>) -> Result<u32, CalloutError> {
        let mut inner = self.0.borrow_mut();
        if inner.cluster_absent {
            return Err(CalloutError);
        }
        assert!(callout.headers.contains(&("ostiary-callout", "1")));
        let path = callout
            .headers
            .iter()
            .find(|(name, _)| *name == ":path")
            .unwrap()
            .1
            .to_owned();
        let token = u32::try_from(inner.sent.len()).unwrap() + 1;
        inner.sent.push(Sent {
            token,
            path,
            headers: callout
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: callout.body.unwrap_or_default().to_vec(),
        });
        Ok(token)
    }

    fn foreign(&self, _: &str, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn random(&self, bytes: &mut [u8]) -> bool {
        let mut inner = self.0.borrow_mut();
        inner.random += 1;
        bytes.fill(u8::try_from(inner.random % 251).unwrap());
        !inner.random_absent
    }

    fn wall(&self) -> Duration {
        self.0.borrow().wall
    }

    fn monotonic(&self) -> Duration {
        self.0.borrow().monotonic
    }

    fn define_metric(&self, _: MetricKind, _: &str) -> Option<u32> {
        Some(1)
    }

    fn add_to_metric(&self, _: u32, _: i64) {}

    fn set_metric(&self, _: u32, _: u64) {}
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn jwk(kid: &str, seed: u8) -> Value {
    let x = URL_SAFE_NO_PAD.encode(key(seed).verifying_key().to_bytes());
    json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x})
}

fn sign(typ: &str, kid: &str, seed: u8, claims: &Value) -> String {
    let header = json!({"alg": "EdDSA", "typ": typ, "kid": kid}).to_string();
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(key(seed).sign(message.as_bytes()).to_bytes());
    format!("{message}.{signature}")
}

/// `claims` with the fields of `with` added or replaced.
fn with(mut claims: Value, with: &Value) -> Value {
    for (name, value) in with.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// A plugin configuration; `bundle_key` is the seed of the key that it trusts.
pub(crate) fn config(bundle_key: u8, fields: &Value) -> Vec<u8> {
    let config = json!({
        "policy_cluster": "policy-server", "policy_authority": "policy-server.ostiary.svc.cluster.local",
        "trust_domain": "cluster.local", "bundle_keys": {"keys": [jwk(&format!("b{bundle_key}"), bundle_key)]},
        "headers_stop_iteration": true,
    });
    with(config, fields).to_string().into_bytes()
}

/// The seed of the bundle key in use.
pub(crate) const BUNDLE_KEY: u8 = 1;
const TOKEN_KEY: u8 = 2;

/// The key of a seed under its RFC 7638 thumbprint, as a policy server names its keys.
pub(crate) fn named_key(seed: u8) -> (String, Value) {
    let x = URL_SAFE_NO_PAD.encode(key(seed).verifying_key().to_bytes());
    let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let kid = URL_SAFE_NO_PAD.encode(Sha256::digest(members));
    let jwk = jwk(&kid, seed);
    (kid, jwk)
}

/// A bundle and a state list for the warehouse, signed by the key of a seed under its thumbprint.
pub(crate) fn policy_by(seed: u8, version: u64) -> Value {
    let (kid, _) = named_key(seed);
    let bundle = bundle_claims(SERVICE, version, &json!({}));
    json!({
        "bundle": sign("policy-bundle+jwt", &kid, seed, &bundle),
        "state": sign("agent-state+jwt", &kid, seed, &state_claims(version, &json!({}))),
    })
}

/// A bundle for `workload`, with `fields` replaced.
pub(crate) fn bundle(workload: &str, version: u64, fields: &Value) -> String {
    bundle_signed_with(BUNDLE_KEY, workload, version, fields)
}

/// The same, by a key of another seed that goes by the same name.
pub(crate) fn bundle_signed_with(seed: u8, workload: &str, version: u64, fields: &Value) -> String {
    let claims = bundle_claims(workload, version, fields);
    sign("policy-bundle+jwt", "b1", seed, &claims)
}

/// The head of a bundle for the warehouse in format 2, with `fields` replaced, and its pages.
pub(crate) fn paged_bundle(version: u64, fields: &Value) -> (String, PageTexts) {
    let claims: BundleClaims = serde_json::from_value(bundle_claims(SERVICE, version, fields)).unwrap();
    let PagedClaims { head, pages } = claims.paged().unwrap();
    (sign_head(&serde_json::to_value(head).unwrap()), pages)
}

/// A head of any claims.
pub(crate) fn sign_head(claims: &Value) -> String {
    sign("policy-bundle+jwt", "b1", BUNDLE_KEY, claims)
}

/// The agent of the tests, with `scope`, and so many others.
pub(crate) fn agents(scope: &[&str], others: usize) -> Value {
    let mut agents = vec![json!({
        "id": "analyst-7", "identity": AGENT, "tools": ["pandas"], "scope": scope,
        "reaches": ["data/tools", "data/warehouse"],
    })];
    agents.extend((0..others).map(|other| {
        json!({"id": format!("other-{other}"), "identity": format!("spiffe://cluster.local/ns/agents/sa/other-{other}")})
    }));
    json!(agents)
}

/// The claims of a bundle in format 1, with `fields` replaced.
pub(crate) fn bundle_claims(workload: &str, version: u64, fields: &Value) -> Value {
    let service = |id: &str, port: i64, host: &str| {
        json!({
            "id": id, "identity": SERVICE, "hosts": [host], "ports": [port], "token_header": "authorization",
            "forward_token": false, "forward_claims": false, "body_limit_bytes": 1000,
        })
    };
    let http = json!({
        "protocol": "http", "forward_claims": true,
        "routes": [
            {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
            {"method": "PUT", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
        ],
        "exempt": [{"peer": OTHER_AGENT, "method": "GET", "path": "/metrics"}],
    });
    let mcp = json!({"protocol": "mcp", "path": "/mcp", "tools": {"pandas": {}, "bash": {}, "sql": {}}});
    let claims = json!({
        "format": 1, "iss": POLICY_SERVER, "aud": workload, "epoch": 1, "version": version,
        "issued_at": NOW, "expires_at": NOW + 3600, "max_state_age_seconds": 60, "max_token_ttl_seconds": 300,
        "issuers": [{"iss": POLICY_SERVER, "jwks": {"keys": [jwk("t", TOKEN_KEY)]}}],
        "policy_server": {"identity": POLICY_SERVER, "hosts": ["policy-server.ostiary.svc.cluster.local"]},
        "services": [
            with(service("data/warehouse", HTTP_PORT, "warehouse"), &http),
            with(service("data/tools", MCP_PORT, "tools"), &mcp),
        ],
        "agents": [{
            "id": "analyst-7", "identity": AGENT, "tools": ["pandas"], "forbidden_tools": ["bash"],
            "scope": ["read:data.sales"], "may_call": [], "reaches": ["data/tools", "data/warehouse"],
        }],
    });
    with(claims, fields)
}

/// A state list, with `fields` replaced.
pub(crate) fn state(version: u64, fields: &Value) -> String {
    sign("agent-state+jwt", "b1", BUNDLE_KEY, &state_claims(version, fields))
}

fn state_claims(version: u64, fields: &Value) -> Value {
    let claims = json!({
        "format": 1, "iss": POLICY_SERVER, "epoch": 1, "version": version, "issued_at": NOW,
        "agents": {}, "not_before": {}, "revoked": {},
    });
    with(claims, fields)
}

/// A token of `analyst-7`, with `fields` replaced.
pub(crate) fn token(fields: &Value) -> String {
    let claims = json!({
        "iss": POLICY_SERVER, "sub": AGENT, "aud": [SERVICE],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": NOW, "nbf": NOW, "exp": NOW + 300, "jti": "jti-1", "txn": "txn-1", "agent_id": "analyst-7",
        "operation_id": "report-2026-q1", "scope": ["read:data.sales"], "tools": ["pandas"],
        "forbidden_tools": ["bash"], "max_tokens": 50_000,
    });
    sign("cap+jwt", "t", TOKEN_KEY, &with(claims, fields))
}

/// A VM without policy, whose first poll is out.
pub(crate) fn fresh_vm(host: &FakeHost) -> Vm {
    let mut vm = Vm::default();
    vm.configure(host, &config(BUNDLE_KEY, &json!({}))).unwrap();
    vm.tick(host);
    vm
}

/// A VM with the policy of the workload at hand.
pub(crate) fn ready_vm(host: &FakeHost) -> Vm {
    let mut vm = fresh_vm(host);
    let outbound = host.property(&["xds", "listener_direction"]) == Some(2_i64.to_le_bytes().to_vec());
    let workload = if outbound { AGENT } else { SERVICE };
    let answer = json!({"bundle": bundle(workload, 1, &json!({})), "state": state(1, &json!({}))});
    host.answer_poll(&mut vm, 200, &answer);
    vm
}

/// The same, whose services have their calls wait for their records, and with a bell.
pub(crate) fn waiting_vm(host: &FakeHost) -> Vm {
    vm_of_services(host, &json!({"record": "before"}))
}

/// The same, whose services have these fields too.
pub(crate) fn vm_of_services(host: &FakeHost, fields: &Value) -> Vm {
    let mut vm = fresh_vm(host);
    let outbound = host.property(&["xds", "listener_direction"]) == Some(2_i64.to_le_bytes().to_vec());
    let workload = if outbound { AGENT } else { SERVICE };
    let mut claims = bundle_claims(workload, 1, &json!({}));
    for service in claims["services"].as_array_mut().unwrap() {
        *service = with(service.take(), fields);
    }
    let bundle = sign("policy-bundle+jwt", "b1", BUNDLE_KEY, &claims);
    host.answer_poll(&mut vm, 200, &json!({"bundle": bundle, "state": state(1, &json!({}))}));
    vm.hang_bell(1);
    vm
}

/// Sends the headers of a `GET /v1/tables/{table}` with these more headers.
pub(crate) fn get_table(host: &FakeHost, vm: &mut Vm, table: &str, more: &[(&str, &str)]) -> (Session, Flow) {
    let path = format!("/v1/tables/{table}");
    let mut headers = vec![
        (":method", "GET"),
        (":authority", "warehouse:8080"),
        (":path", &path),
        (":scheme", "http"),
    ];
    headers.extend(more);
    host.set_headers(&headers);
    let mut session = Session::new(true);
    let flow = session.request_headers(vm, host, headers.len(), true);
    (session, flow)
}

/// The value of the `authorization` header for a token of these fields.
pub(crate) fn bearer(fields: &Value) -> String {
    format!("Bearer {}", token(fields))
}

/// Posts a call of a tool up to its headers.
pub(crate) fn post_tool(host: &FakeHost, vm: &mut Vm, mut session: Session, more: &[(&str, &str)]) -> (Session, Flow) {
    host.set("destination.port", &MCP_PORT.to_le_bytes());
    let mut headers = vec![
        (":method", "POST"),
        (":authority", "tools:8081"),
        (":path", "/mcp"),
        (":scheme", "http"),
        ("content-type", "application/json"),
    ];
    headers.extend(more);
    host.set_headers(&headers);
    let flow = session.request_headers(vm, host, headers.len(), false);
    (session, flow)
}
