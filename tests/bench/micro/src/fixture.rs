//! A service, the agents that may call it, and one call with its token: what the functions work on.

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow, bail};
use authz::audit::{Kind, Outcome, Record, RecordedClaims, RecordedFacts};
use authz::decision::{self, Permit, Question};
use authz::denial::Denial;
use authz::digest::Digest;
use authz::identity::SpiffeId;
use authz::jws::{NoExternal, base64url};
use authz::policy::Bundle;
use authz::request::{self, Extraction, Facts, Listener, RequestHead, Side};
use authz::state::StateList;
use authz::token::{UnverifiedToken, VerifiedToken};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

/// The time at which everything happens, in seconds.
pub const NOW: u64 = 1_790_000_000;

const SERVICE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const POLICY_SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
const HTTP_HOST: &str = "warehouse.data.svc.cluster.local";
const MCP_HOST: &str = "mcp.data.svc.cluster.local";
const HTTP: Listener = inbound(8080);
const MCP: Listener = inbound(8081);

/// The name, in Envoy's form, and the value of a header.
pub type Pair = (String, Vec<u8>);

const fn inbound(local_port: u16) -> Listener {
    Listener {
        side: Side::Inbound,
        local_port,
    }
}

/// Everything that a decision about one call rests on.
#[derive(Debug)]
pub struct Stand {
    /// The policy.
    pub bundle: Bundle,
    state: StateList,
    workload: SpiffeId,
    /// The caller.
    pub peer: SpiffeId,
    /// Its token, compact.
    pub compact: String,
    token: VerifiedToken,
    /// Encoded once, as a filter does when it verifies the token.
    claims: RecordedClaims<'static>,
    no_body: Digest,
}

impl Stand {
    /// A policy with so many agents, five tools and five scopes each; the one in the middle calls.
    ///
    /// # Errors
    ///
    /// When `authz` refuses a part of it.
    pub fn new(agents: usize) -> Result<Self> {
        let caller = agents / 2;
        let claims = serde_json::from_value(bundle(agents)).context("bundle")?;
        let bundle = Bundle::from_own_claims(claims, NOW)?;
        let state = json!({"format": 1, "iss": POLICY_SERVER, "epoch": 1, "version": 9, "issued_at": NOW - 5,
            "agents": {"agent-x": "paused"}, "not_before": {}, "revoked": {}});
        let state = StateList::from_own_claims(serde_json::from_value(state).context("state")?, NOW)?;
        let compact = sign("cap+jwt", &token(caller));
        let verified = verify(&compact, &bundle)?;
        Ok(Self {
            bundle,
            state,
            workload: spiffe(SERVICE)?,
            peer: spiffe(&identity(caller))?,
            compact,
            claims: RecordedClaims::of(verified.claims()),
            token: verified,
            no_body: Digest::of(b""),
        })
    }

    /// Decides on these facts, for this caller.
    ///
    /// # Errors
    ///
    /// The denial.
    pub fn decide<'a>(&'a self, peer: &'a SpiffeId, facts: &Facts) -> Result<Permit<'a>, Denial> {
        let question = Question {
            now: NOW,
            side: Side::Inbound,
            workload: &self.workload,
            peer: Some(peer),
            token: Some(&self.token),
            flaw: None,
            bundle: &self.bundle,
            state: &self.state,
            seconds_since_poll: 5,
        };
        decision::decide(&question, facts)
    }

    /// Reads a token of this stand's issuer.
    ///
    /// # Errors
    ///
    /// When it is not a good one.
    pub fn verify(&self, compact: &str) -> Result<VerifiedToken> {
        verify(compact, &self.bundle)
    }

    /// The facts of a call that the token and the policy allow: it reads a table over HTTP.
    ///
    /// # Errors
    ///
    /// When `authz` refuses the request.
    pub fn read_table(&self) -> Result<Facts> {
        let pairs = http_pairs(&self.compact);
        let head = RequestHead::parse(&pairs).map_err(refused)?;
        match request::extract(&head, HTTP, &self.bundle, true).map_err(refused)? {
            Extraction::Ready(facts) => Ok(facts),
            Extraction::NeedsBody(_) => bail!("an HTTP route needs no body"),
        }
    }

    /// The facts of an MCP message.
    ///
    /// # Errors
    ///
    /// The denial.
    pub fn read_message(&self, head: &RequestHead<'_>, body: &[u8]) -> Result<Facts> {
        match request::extract(head, MCP, &self.bundle, false).map_err(refused)? {
            Extraction::NeedsBody(pending) => pending.finish(&self.bundle, body).map_err(refused),
            Extraction::Ready(_) => bail!("an MCP message has a body"),
        }
    }

    /// The record of that call's decision, as a filter writes it.
    pub fn record<'a>(&'a self, facts: &'a Facts) -> Record<'a> {
        let claims = self.token.claims();
        let text = |text: &'a str| Some(Cow::Borrowed(text));
        Record {
            agent_id: text(claims.agent_id.as_str()),
            bundle: text("1.7"),
            call: text("AAECAwQFBgcICQoLDA0ODw"),
            claims: Some(self.claims.borrowed()),
            facts: Some(RecordedFacts::from(facts)),
            jti: text(claims.jti.as_str()),
            operation_id: text(claims.operation_id.as_str()),
            peer: text(self.peer.as_str()),
            protocol: text("http"),
            request_digest: Some(self.no_body),
            service: text("data/warehouse"),
            side: Some(Side::Inbound),
            state: text("1.9"),
            trace_id: text("4bf92f3577b34da6a3ce929d0e0e4736"),
            txn: claims.txn.as_ref().map(|txn| Cow::Borrowed(txn.as_str())),
            verdict: Some(Outcome::Permit),
            workload: text(self.workload.as_str()),
            ..Record::new(Kind::Decision, NOW * 1000)
        }
    }
}

fn verify(compact: &str, bundle: &Bundle) -> Result<VerifiedToken> {
    Ok(UnverifiedToken::parse(compact)?.verify(bundle.issuers(), bundle.token_limits(), NOW, &NoExternal)?)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "what `map_err` hands over; a denial is no error"
)]
fn refused(denial: Denial) -> anyhow::Error {
    anyhow!("refused: {}", denial.code())
}

fn spiffe(text: &str) -> Result<SpiffeId> {
    Ok(text.parse()?)
}

fn identity(agent: usize) -> String {
    format!("spiffe://cluster.local/ns/agents/sa/agent-{agent:05}")
}

/// The headers of a GET as a sidecar gets them from another.
pub fn http_pairs(token: &str) -> Vec<Pair> {
    pairs(
        &[
            (":authority", HTTP_HOST),
            (":path", "/v1/tables/sales_q1_2026"),
            (":method", "GET"),
        ],
        token,
    )
}

/// The headers of an MCP message of 2026-07-28.
pub fn mcp_pairs(token: &str) -> Vec<Pair> {
    let first = [
        (":authority", MCP_HOST),
        (":path", "/mcp"),
        (":method", "POST"),
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "sql_query"),
    ];
    pairs(&first, token)
}

fn pairs(first: &[(&str, &str)], token: &str) -> Vec<Pair> {
    let authorization = format!("Bearer {token}");
    let rest = [
        (":scheme", "https"),
        ("user-agent", "python-httpx/0.28.1"),
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "gzip, deflate"),
        ("authorization", &authorization),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "2f1f8a5c-9f0d-4c26-9b53-6d5b2f3b1a77"),
        ("ostiary-call", "AAECAwQFBgcICQoLDA0ODw"),
    ];
    let pairs = first.iter().chain(&rest);
    pairs
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// A `tools/call` of exactly so many bytes (at least 400): rows of a table, with escapes and numbers among them.
pub fn tool_call(bytes: usize) -> Vec<u8> {
    const ROW: &str = r#"{"id":17,"name":"caf\u00e9 \"Zum Adler\"","amount":-12.5e3,"paid":true,"note":null},"#;
    let start = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"sql_query","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"arguments":{"table":"sales_q1_2026","rows":["#;
    let (middle, end) = (r#"0],"rest":""#, "\"}}}");
    let room = bytes.saturating_sub(start.len() + middle.len() + end.len());
    let rows = ROW.repeat(room / ROW.len());
    let rest = "x".repeat(room.saturating_sub(rows.len()));
    [start, &rows, middle, &rest, end].concat().into_bytes()
}

/// The key that every document here is signed with.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn sign(typ: &str, payload: &Value) -> String {
    let header = json!({"alg": "EdDSA", "typ": typ, "kid": "key-7"}).to_string();
    let message = format!(
        "{}.{}",
        base64url::encode(header),
        base64url::encode(payload.to_string())
    );
    let signature = key().sign(message.as_bytes()).to_bytes();
    format!("{message}.{}", base64url::encode(signature))
}

fn token(agent: usize) -> Value {
    json!({
        "iss": POLICY_SERVER, "sub": identity(agent), "aud": [SERVICE],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 290,
        "jti": "Xw2q1p0vS3uVbq8nYx9m7A", "txn": "b8a6Yk0oQm2Zr4tWc1d3eg",
        "agent_id": format!("agent-{agent:05}"), "operation_id": "report-2026-q1",
        "scope": ["read:data.sales_q1_2026", "read:data.costs_q1_2026"],
        "tools": ["sql_query", "pandas"], "forbidden_tools": ["bash"], "max_tokens": 50_000,
    })
}

fn bundle(agents: usize) -> Value {
    let routes = json!([{"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
        {"method": "PUT", "path": "/v1/reports/{id}", "scope": "write:report.draft.{id}"}]);
    let http = service(
        "data/warehouse",
        HTTP_HOST,
        HTTP,
        json!({"protocol": "http", "routes": routes}),
    );
    let tools = json!({"pandas": {}, "matplotlib": {}, "charts": {}, "search": {}, "bash": {},
        "sql_query": {"scope": "read:data.{arguments./table}"}});
    let mcp = service(
        "data/mcp",
        MCP_HOST,
        MCP,
        json!({"protocol": "mcp", "path": "/mcp", "tools": tools}),
    );
    let x = base64url::encode(key().verifying_key().to_bytes());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "key-7", "x": x});
    json!({
        "format": 1, "iss": POLICY_SERVER, "aud": SERVICE, "epoch": 1, "version": 7,
        "issued_at": NOW - 100, "expires_at": NOW + 3500, "max_state_age_seconds": 60, "max_token_ttl_seconds": 300,
        "issuers": [{"iss": POLICY_SERVER, "jwks": {"keys": [jwk]}}],
        "policy_server": {"identity": POLICY_SERVER, "hosts": ["policy-server.ostiary.svc.cluster.local"]},
        "services": [http, mcp],
        "agents": (0..agents).map(agent).collect::<Vec<_>>(),
    })
}

/// A service of the one workload; `with` says how its requests are read.
fn service(id: &str, host: &str, listener: Listener, with: Value) -> Value {
    let mut service = json!({"id": id, "identity": SERVICE, "hosts": [host], "ports": [listener.local_port],
        "token_header": "authorization", "forward_token": false, "forward_claims": false, "body_limit_bytes": 1 << 20});
    if let (Some(fields), Value::Object(with)) = (service.as_object_mut(), with) {
        fields.extend(with);
    }
    service
}

fn agent(number: usize) -> Value {
    json!({
        "id": format!("agent-{number:05}"), "identity": identity(number),
        "tools": ["pandas", "matplotlib", "charts", "search", "sql_query"], "forbidden_tools": ["bash"],
        "scope": ["read:data.costs_q1_2026", "read:data.sales_q1_2026", format!("read:data.team_{}", number % 100),
            format!("write:report.draft.agent_{number}"), format!("write:report.draft.team_{}", number % 100)],
        "reaches": ["data/warehouse", "data/mcp"],
    })
}
