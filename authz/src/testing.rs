//! A small mesh in which tests change one fact at a time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::case::{self, Case, Verdict};
use crate::claims::Claims;
use crate::decision::{self, Question};
use crate::denial::Form;
use crate::identity::{ServiceId, SpiffeId};
use crate::json::{self, Limits};
use crate::jws::NoExternal;
use crate::policy::{Bundle, BundleKeys, RawBundle};
use crate::protocol::list::List;
use crate::protocol::tasks::Binding;
use crate::request::{self, Extraction, Facts, Listener, RequestHead, Side};
use crate::session::{Holder, Sealed, SessionKey, SessionKeys};
use crate::state::RawStateList;
use crate::token::UnverifiedToken;

pub(crate) const NOW: u64 = 1_790_000_000;
pub(crate) const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
pub(crate) const WRITER: &str = "spiffe://cluster.local/ns/agents/sa/writer-2";
pub(crate) const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
pub(crate) const MCP: &str = "spiffe://cluster.local/ns/tools/sa/mcp";
/// What seals the ids of sessions, where a bundle tells it.
pub(crate) const SESSION_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const POLICY_SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";

/// A request with all that its verdict rests on. The constructors give calls that are permitted.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) side: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) peer: Value,
    /// Null: no token is sent.
    pub(crate) claims: Value,
    pub(crate) bundle: Value,
    pub(crate) state: Value,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) now: u64,
}

impl World {
    /// The inbound side of the warehouse: analyst-7 reads a table.
    pub(crate) fn warehouse() -> Self {
        Self {
            side: "inbound",
            workload: WAREHOUSE,
            peer: json!(ANALYST),
            claims: claims(),
            bundle: bundle(WAREHOUSE),
            state: state(),
            method: "GET",
            path: "/v1/tables/sales_q1_2026".to_owned(),
            headers: vec![("host".to_owned(), "warehouse.data.svc.cluster.local:8080".to_owned())],
            body: Vec::new(),
            now: NOW,
        }
    }

    /// The inbound side of the MCP server: analyst-7 calls pandas by the rules of 2026-07-28.
    pub(crate) fn mcp() -> Self {
        let mut world = Self {
            workload: MCP,
            bundle: bundle(MCP),
            method: "POST",
            path: "/mcp".to_owned(),
            headers: Vec::new(),
            ..Self::warehouse()
        };
        world.header("host", "mcp.tools.svc.cluster.local:8080");
        world.header("content-type", "application/json");
        world.header("mcp-protocol-version", "2026-07-28");
        world.header("mcp-method", "tools/call");
        world.header("mcp-name", "pandas");
        world.rpc(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "pandas", "arguments": {},
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"},
        }}));
        world
    }

    /// The MCP server once more, by the rules of older versions: the tool is named by the body alone.
    pub(crate) fn legacy_mcp(tool: &str, arguments: Value) -> Self {
        let mut world = Self::mcp();
        world.headers.retain(|(name, _)| !name.starts_with("mcp-"));
        world.rpc(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments}}));
        world
    }

    /// The inbound side of writer-2: analyst-7 sends it a message over JSON-RPC, by the rules of 1.0.
    pub(crate) fn a2a() -> Self {
        let mut world = Self {
            workload: WRITER,
            bundle: bundle(WRITER),
            method: "POST",
            path: "/".to_owned(),
            headers: Vec::new(),
            ..Self::warehouse()
        };
        world.header("host", "writer-2.agents.svc.cluster.local:9000");
        world.header("content-type", "application/json");
        world.header("a2a-version", "1.0");
        world.rpc(json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": message()}));
        world
    }

    /// The same over REST.
    pub(crate) fn a2a_rest() -> Self {
        let mut world = Self::a2a();
        world.path = "/message:send".to_owned();
        world.header("content-type", "application/a2a+json");
        world.rpc(message());
        world
    }

    /// Without a body, which some requests of REST have not.
    pub(crate) fn without_body(mut self, method: &'static str, path: &str) -> Self {
        (self.method, self.path, self.body) = (method, path.to_owned(), Vec::new());
        self.drop_header("content-type");
        self
    }

    /// The outbound side of analyst-7.
    pub(crate) fn outbound() -> Self {
        Self {
            side: "outbound",
            workload: ANALYST,
            peer: Value::Null,
            bundle: bundle(ANALYST),
            ..Self::warehouse()
        }
    }

    /// Sets a header, in place of the one that is there.
    pub(crate) fn header(&mut self, name: &str, value: &str) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn drop_header(&mut self, name: &str) {
        self.headers.retain(|(other, _)| other != name);
    }

    #[expect(clippy::needless_pass_by_value, reason = "calls read better with `json!` in them")]
    pub(crate) fn rpc(&mut self, body: Value) {
        self.body = body.to_string().into_bytes();
    }

    /// Changes one fact.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn line(&self) -> Value {
        let mut headers = self.headers.clone();
        if !self.claims.is_null() {
            let header = if headers.iter().any(|(name, _)| name == "authorization") {
                "x-unused"
            } else {
                "authorization"
            };
            headers.push((
                header.to_owned(),
                format!("Bearer {}", sign("cap+jwt", 1, &self.claims)),
            ));
        }
        json!({
            "id": "w", "now": self.now, "side": self.side, "workload": self.workload, "peer": self.peer,
            "request": {"method": self.method, "path": self.path, "headers": headers,
                "body_base64": STANDARD.encode(&self.body)},
            "bundle": sign("policy-bundle+jwt", 2, &self.bundle), "state": sign("agent-state+jwt", 2, &self.state),
            "trust": {"keys": [jwk(2)]},
        })
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let line = self.line().to_string();
        let case = Case::read(line.as_bytes(), |_, _| Err("no files here")).unwrap();
        case::run(&case, &NoExternal).unwrap()
    }

    pub(crate) fn code(&self) -> &'static str {
        self.verdict().code
    }

    /// How the caller understands a denial.
    pub(crate) fn denial_form(&self) -> Form {
        let host = self.headers.iter().find(|(name, _)| name == "host").unwrap();
        let pairs = [(":method", self.method), (":path", &self.path), (":authority", &host.1)];
        let head = RequestHead::parse(&pairs).unwrap();
        let bundle = self.checked_bundle();
        let index = bundle.service_named(head.authority()).unwrap();
        request::denial_form(&head, bundle.service(index).unwrap())
    }

    fn checked_bundle(&self) -> Bundle {
        let workload = SpiffeId::parse(self.workload).unwrap();
        let bundle = sign("policy-bundle+jwt", 2, &self.bundle);
        RawBundle::new(&bundle)
            .verify(&keys(), &workload, None, self.now)
            .unwrap()
    }

    /// The id of a session of the MCP server's, as the caller shows it.
    pub(crate) fn session(&self, id: &str) -> String {
        let claims = self.claims.to_string();
        let claims = json::parse(claims.as_bytes(), &Limits::REQUEST).unwrap();
        let holder = Holder {
            service: &ServiceId::parse("tools/mcp").unwrap(),
            claims: &Claims::read(claims.root()).unwrap(),
        };
        let key = SESSION_KEY.to_owned().try_into().unwrap();
        let keys = SessionKeys::new(&[key]).unwrap();
        keys.seal(Sealed::Session, &holder, id.as_bytes()).unwrap()
    }

    /// Whether the caller is told of an entry of a list of the MCP server.
    pub(crate) fn is_told(&self, list: List, name: &str) -> bool {
        let service = ServiceId::parse("tools/mcp").unwrap();
        self.ask(|question| decision::tell(question, &service).unwrap().is_told(list, name))
    }

    /// Decides otherwise than a request that has just come is decided; analyst-7 is the peer.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&Question<'_>) -> T) -> T {
        let (workload, peer) = (
            SpiffeId::parse(self.workload).unwrap(),
            SpiffeId::parse(ANALYST).unwrap(),
        );
        let (keys, bundle) = (keys(), self.checked_bundle());
        let state = sign("agent-state+jwt", 2, &self.state);
        let state = RawStateList::new(&state).verify(&keys, None, self.now).unwrap();
        let token = sign("cap+jwt", 1, &self.claims);
        let token = UnverifiedToken::parse(&token).unwrap();
        let token = token
            .verify(bundle.issuers(), bundle.token_limits(), self.now, &NoExternal)
            .unwrap();
        ask(&Question {
            now: self.now,
            side: Side::Inbound,
            workload: &workload,
            peer: Some(&peer),
            token: Some(&token),
            flaw: None,
            bundle: &bundle,
            state: &state,
            seconds_since_poll: 0,
        })
    }

    /// What its headers alone ask for.
    pub(crate) fn facts(&self) -> Facts {
        let host = self.headers.iter().find(|(name, _)| name == "host").unwrap();
        let pairs = [
            (":method", self.method),
            (":path", &self.path),
            (":scheme", "https"),
            (":authority", &host.1),
        ];
        let head = RequestHead::parse(&pairs).unwrap();
        let listener = Listener {
            side: Side::Inbound,
            local_port: 8080,
        };
        match request::extract(&head, listener, &self.checked_bundle(), true).unwrap() {
            Extraction::Ready(facts) => facts,
            Extraction::NeedsBody(_) => panic!("a body is needed"),
        }
    }
}

/// The binding of an agent in an operation, by a key.
pub(crate) struct Caller {
    service: ServiceId,
    claims: Claims,
    keys: SessionKeys,
}

impl Caller {
    pub(crate) fn new(agent: &str, operation: &str) -> Self {
        let claims = json!({
            "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server",
            "sub": format!("spiffe://cluster.local/ns/agents/sa/{agent}"),
            "aud": ["spiffe://cluster.local/ns/agents/sa/writer-2"],
            "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
            "iat": 1000, "nbf": 1000, "exp": 1300, "jti": "n-1", "agent_id": agent, "operation_id": operation,
            "scope": [], "tools": [], "forbidden_tools": [],
        });
        let text = claims.to_string();
        Self {
            service: "agents/writer-2".parse().unwrap(),
            claims: Claims::read(json::parse(text.as_bytes(), &json::Limits::REQUEST).unwrap().root()).unwrap(),
            keys: SessionKeys::new(&[SessionKey::new([7; 32])]).unwrap(),
        }
    }

    pub(crate) fn analyst() -> Self {
        Self::new("analyst-7", "report")
    }

    pub(crate) fn binding(&self) -> Binding<'_> {
        Binding {
            keys: &self.keys,
            holder: Some(Holder {
                service: &self.service,
                claims: &self.claims,
            }),
        }
    }

    pub(crate) fn sealed(&self, what: Sealed, id: &str) -> String {
        let holder = self.binding().holder.unwrap();
        self.keys.seal(what, &holder, id.as_bytes()).unwrap()
    }
}

/// What signs bundles and state lists.
fn keys() -> BundleKeys {
    BundleKeys::new(serde_json::from_value(json!({"keys": [jwk(2)]})).unwrap()).unwrap()
}

/// The parameters of a message that opens a task.
pub(crate) fn message() -> Value {
    json!({
        "message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "Write it up."}]},
        "configuration": {"acceptedOutputModes": ["text/plain"]},
    })
}

/// What analyst-7's token says.
fn claims() -> Value {
    json!({
        "iss": POLICY_SERVER, "sub": ANALYST, "aud": [WAREHOUSE, MCP, WRITER], "issued_by": POLICY_SERVER,
        "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 290, "jti": "jti-1", "agent_id": "analyst-7",
        "operation_id": "report-2026-q1",
        "scope": ["read:data.sales_q1_2026", "read:data.hr", "read:memory.analyst-7", "read:memory.writer-2",
            "call:agent.writer-2"],
        "tools": ["pandas", "bash", "sql_query", "http"], "forbidden_tools": ["bash"],
    })
}

pub(crate) fn bundle(aud: &str) -> Value {
    json!({
        "format": 1, "iss": POLICY_SERVER, "aud": aud, "epoch": 1, "version": 7, "issued_at": NOW - 100,
        "expires_at": NOW + 3500, "max_state_age_seconds": 60, "max_token_ttl_seconds": 300,
        "issuers": [{"iss": POLICY_SERVER, "jwks": {"keys": [jwk(1)]}}],
        "policy_server": {"identity": POLICY_SERVER, "hosts": ["policy-server.ostiary.svc.cluster.local"]},
        "services": [
            {
                "id": "data/warehouse", "identity": WAREHOUSE, "hosts": ["warehouse.data.svc.cluster.local"],
                "ports": [8080], "protocol": "http", "token_header": "authorization", "forward_token": false,
                "forward_claims": false, "body_limit_bytes": 1024,
                "routes": [
                    {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
                    {"method": "GET", "path": "/memory/{agent}/{key}", "scope": "read:memory.{agent}", "own": "agent"},
                ],
                "exempt": [{"peer": "spiffe://cluster.local/ns/monitoring/sa/prometheus", "method": "GET", "path": "/metrics"}],
            },
            {
                "id": "tools/mcp", "identity": MCP, "hosts": ["mcp.tools.svc.cluster.local"], "ports": [8080],
                "protocol": "mcp", "path": "/mcp", "token_header": "authorization", "forward_token": false,
                "forward_claims": false, "body_limit_bytes": 1024,
                "tools": {"pandas": {}, "matplotlib": {}, "bash": {}, "http": {},
                    "sql_query": {"scope": "read:data.{arguments./query/table}"}},
                "prompts": {"greet": {}, "audit": {}, "review": {"scope": "read:data.{arguments./table}"}},
                "resources": {"memo://a": {}, "memo://b": {}, "table://sales/{table}": {"scope": "read:data.{table}"}},
            },
            {
                "id": "agents/writer-2", "identity": WRITER, "hosts": ["writer-2.agents.svc.cluster.local"],
                "ports": [9000], "protocol": "a2a", "agent": "writer-2", "path": "/", "rest_path": "/",
                "token_header": "authorization", "forward_token": false, "forward_claims": false,
                "body_limit_bytes": 1024,
            },
        ],
        "agents": [
            {
                "id": "analyst-7", "identity": ANALYST, "tools": ["pandas", "matplotlib", "bash", "sql_query"],
                "prompts": ["greet", "mcp/review"], "resources": ["memo://a", "tools/mcp/table://sales/{table}"],
                "scope": ["read:data.sales_q1_2026", "read:data.costs", "read:memory.analyst-7", "read:memory.writer-2"],
                "may_call": ["writer-2"], "reaches": ["data/warehouse", "tools/mcp", "agents/writer-2"],
            },
            {"id": "writer-2", "identity": WRITER, "reaches": ["tools/mcp"]},
        ],
    })
}

pub(crate) fn state() -> Value {
    json!({"format": 1, "iss": POLICY_SERVER, "epoch": 1, "version": 9, "issued_at": NOW - 5, "agents": {},
        "not_before": {}, "revoked": {}})
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn jwk(seed: u8) -> Value {
    let x = URL_SAFE_NO_PAD.encode(key(seed).verifying_key().as_bytes());
    json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": format!("k{seed}"), "x": x})
}

pub(crate) fn sign(typ: &str, seed: u8, payload: &Value) -> String {
    let header = json!({"alg": "EdDSA", "typ": typ, "kid": format!("k{seed}")}).to_string();
    let input = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(key(seed).sign(input.as_bytes()).to_bytes());
    format!("{input}.{signature}")
}
