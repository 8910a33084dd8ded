//! What attackers try, on requests as the official SDKs send them (`recorded.jsonl`, which `make recorded` writes).
//!
//! Every recorded request is an honest vector, `R00NN`; each way to bend one, `RWWNN`, stands beside it. Each way belongs to an
//! attack of the table in `authz/vectors/README.md`.

use authz::denial::Code;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Expect, Placed, Vector, everywhere, of_base, recipe::RawRequest};

mod ways;

pub use ways::WAYS;

const RECORDED: &str = include_str!("../../vectors/recorded.jsonl");

/// Recorded requests that are denied as they are, by design.
const REFUSED: [(&str, &str); 4] = [
    ("GET /mcp", "method_not_allowed"),
    ("Task", "task_refused"),
    ("tasks/", "task_refused"),
    ("GET /tasks", "task_refused"),
];

/// Those that are bent: of each client and version, and of each way in which a right is named, one.
const BENT: [(&str, &str); 15] = [
    ("Python mcp 2.3.0, auto", "server/discover"),
    ("Python mcp 2.3.0, auto", "tools/call pandas"),
    ("Python mcp 2.3.0, auto", "prompts/get summary"),
    ("Python mcp 2.3.0, auto", "resources/read report://2026q1"),
    ("Python mcp 2.3.0, legacy", "initialize"),
    ("Python mcp 2.3.0, legacy", "tools/call pandas"),
    ("TypeScript @modelcontextprotocol/sdk 1.32.2", "tools/call pandas"),
    (
        "TypeScript @modelcontextprotocol/sdk 1.32.2",
        "resources/read table://sales/sales_q1_2026",
    ),
    ("Python a2a-sdk 1.3.0, 1.0 JSONRPC", "SendMessage"),
    ("Python a2a-sdk 1.3.0, 1.0 JSONRPC", "SendStreamingMessage"),
    ("Python a2a-sdk 1.3.0, 1.0 JSONRPC", "GET /.well-known/agent-card.json"),
    ("Python a2a-sdk 1.3.0, 1.0 HTTP+JSON", "POST /message:send"),
    ("Python a2a-sdk 1.3.0, 0.3 JSONRPC", "message/send"),
    ("Python a2a-sdk 1.3.0, 0.3 HTTP+JSON", "POST /v1/message:stream"),
    ("Python a2a-sdk 1.3.0, 0.3 HTTP+JSON", "GET /v1/card"),
];

/// A request as a client sent it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    pub client: String,
    pub what: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// A way to bend a request.
pub struct Way {
    /// The attack, as the README's table names it.
    pub attack: &'static str,
    pub why: &'static str,
    /// The code by which the bent request is denied; None for a request that cannot be bent so.
    bend: fn(&Recorded, &mut RawRequest) -> Option<&'static str>,
}

/// Every recorded request, and every way in which one of them is bent.
pub fn all() -> Vec<Placed> {
    let recorded = recorded();
    let mut placed: Vec<Placed> = (0..)
        .zip(&recorded)
        .map(|(number, request)| honest(number, request))
        .collect();
    let bent = recorded.iter().enumerate().filter(|(_, request)| is_bent(request));
    for (way, (number, request)) in (1..)
        .zip(&WAYS)
        .flat_map(|way| bent.clone().map(move |bent| (way, bent)))
    {
        placed.extend(bent_by(way, number, request));
    }
    placed
}

pub fn recorded() -> Vec<Recorded> {
    RECORDED
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn is_bent(request: &Recorded) -> bool {
    BENT.contains(&(&request.client, &request.what))
}

fn honest(number: usize, request: &Recorded) -> Placed {
    let refused = REFUSED.iter().find(|(named, _)| request.what.contains(named));
    let expect = refused.map_or(Expect::Permit, |(_, code)| denied(code));
    place(
        number,
        0,
        request,
        format!("{}: {}", request.client, request.what),
        request.raw(),
        expect,
    )
}

fn bent_by((number, way): (usize, &Way), place_of: usize, request: &Recorded) -> Option<Placed> {
    let mut raw = request.raw();
    let code = (way.bend)(request, &mut raw)?;
    let why = format!("{}: {}: {}", request.client, request.what, way.why);
    Some(place(place_of, number, request, why, raw, denied(code)))
}

fn place(number: usize, way: usize, request: &Recorded, why: String, raw: RawRequest, expect: Expect) -> Placed {
    let base = if request.is_mcp() { "tool" } else { "a2a" };
    let mut recipe = of_base(base, &json!({}));
    recipe.sent = Some(raw);
    // One that is refused as it is stands beside the first of its service.
    let first = || {
        recorded()
            .iter()
            .position(|other| other.is_mcp() == request.is_mcp())
            .unwrap()
    };
    let twin = format!("R00{:02}", if way == 0 { first() } else { number });
    let vector = Vector {
        id: format!("R{way:02}{number:02}"),
        base: (expect == Expect::Permit).then(|| base.to_owned()),
        twin: (expect != Expect::Permit).then_some(twin),
        why,
        change: Map::from_iter([("sent".to_owned(), Value::from(way))]),
        facts: None,
        oracle: None,
        runs: everywhere(),
        skip: None,
        expect,
    };
    Placed {
        theme: "recorded",
        vector,
        recipe,
    }
}

fn denied(code: &str) -> Expect {
    let known = Code::ALL.iter().find(|known| known.as_str() == code).unwrap();
    Expect::Deny {
        code: code.to_owned(),
        status: known.status(),
        needed: [].into(),
    }
}

impl Recorded {
    fn raw(&self) -> RawRequest {
        RawRequest {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.clone(),
            body: self.body.clone().into_bytes(),
        }
    }

    fn is_mcp(&self) -> bool {
        self.path == "/mcp"
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether it repeats itself in headers.
    fn is_modern(&self) -> bool {
        self.header("mcp-method").is_some()
    }

    fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.body).ok()
    }

    fn rpc_method(&self) -> Option<String> {
        Some(self.json()?.get("method")?.as_str()?.to_owned())
    }

    /// What its service says to a body that is no message.
    fn malformed(&self) -> &'static str {
        if self.is_mcp() {
            "mcp_malformed"
        } else {
            "a2a_malformed"
        }
    }

    /// What its service says to a method that it does not serve.
    fn method_refused(&self) -> &'static str {
        match (self.is_mcp(), self.is_modern()) {
            (true, true) => "mcp_header_mismatch",
            (true, false) => "mcp_method_refused",
            (false, _) => "a2a_method_refused",
        }
    }

    /// The first key of the body.
    fn key(&self) -> Option<String> {
        let key = self.body.strip_prefix("{\"")?.split('"').next()?;
        Some(key.to_owned())
    }
}

impl RawRequest {
    fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(other, _)| other != name);
    }

    /// Sends a header that is there once more.
    fn repeat(&mut self, name: &str) -> Option<()> {
        let again = self.headers.iter().find(|(other, _)| other == name)?.clone();
        self.headers.push(again);
        Some(())
    }

    fn write(&mut self, body: &str) {
        self.body = body.as_bytes().to_vec();
    }

    /// Puts bytes into the last string of the body.
    fn in_last_string(&mut self, bytes: &[u8]) {
        let quote = self.body.iter().rposition(|byte| *byte == b'"').unwrap();
        self.body.splice(quote..quote, bytes.iter().copied());
    }
}
