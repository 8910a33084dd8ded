//! The requests, in bytes: the same for every chain.

use std::sync::Arc;

use ::tests::load::wire::Request;
use ::tests::mcp::MODERN;
use ::tests::pki::Workload;
use ::tests::signing::TestKey;
use ::tests::wait;
use hyper::body::Bytes;
use serde_json::{Value, json};

/// How callers name the service.
pub(super) const HOST: &str = "warehouse.data.svc.cluster.local";
/// Who issues tokens.
pub(super) const ISSUER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
/// The agent that calls.
pub(super) const AGENT: &str = "analyst-7";
/// What it may read, and what it has a token for too but may not.
pub(super) const SCOPE: &str = "read:data.sales";
/// Where that is.
pub(super) const PATH: &str = "/v1/tables/sales";
/// Where something else is.
pub(super) const OTHER_PATH: &str = "/v1/tables/payroll";
/// The tool that it may call.
pub(super) const TOOL: &str = "pandas";
/// A tool that is offered, and that it may not call.
pub(super) const OTHER_TOOL: &str = "bash";
/// Where bodies go up and come down.
pub(super) const UPLOAD_PATH: &str = "/v1/uploads/q1";
pub(super) const DOWNLOAD_PATH: &str = "/v1/downloads/q1";

/// The agent that is called.
pub(super) const CALLED: &str = "writer-2";
/// The header of a call that is answered in events.
pub(super) const IN_EVENTS: &str = "x-in-events";

/// Tools that a service offers whose list is asked for, and those of them that the agent may call.
pub(super) const OFFERED: usize = 100;
pub(super) const TOLD: usize = 50;

/// What is uploaded and downloaded.
pub(super) const STREAM_BYTES: usize = 1 << 20;

/// Tokens live longer than the bench runs.
pub(super) const TOKEN_SECONDS: u64 = 3600;

/// The agent's workload.
pub(super) fn caller() -> Workload {
    Workload::new("agents", AGENT)
}

/// The service's.
pub(super) fn service() -> Workload {
    Workload::new("data", "warehouse")
}

/// The key that tokens are signed with.
pub(super) fn issuer() -> TestKey {
    TestKey::named("issuer-1")
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// A GET with one token again and again.
    Known {
        /// Tools in the token.
        tools: usize,
    },
    /// A GET with a token that was never seen before.
    Fresh,
    /// A GET of what the agent may not read, with one token again and again.
    Denied,
    /// A `tools/call`.
    Mcp {
        /// The size of its arguments.
        argument_bytes: usize,
    },
    /// A `tools/list` of [`OFFERED`] tools.
    List,
    /// A `SendMessage`.
    A2a,
    /// A `tools/call` that is answered in events.
    Events,
    /// A PUT of [`STREAM_BYTES`].
    Upload,
    /// A GET of [`STREAM_BYTES`].
    Download,
}

/// The ordinary request.
pub(super) const KNOWN: Traffic = Traffic::Known { tools: 1 };

impl Traffic {
    /// The bytes of the requests; where fresh ones are wanted, so many of them.
    pub(super) fn bytes(self, count: usize) -> Arc<Vec<Bytes>> {
        let one = |request: Request| vec![request.bytes(1).into()];
        Arc::new(match self {
            Self::Known { tools } => one(read(PATH).bearer(&token(&json!({"tools": tool_names(tools)})))),
            Self::Fresh => (0..count)
                .map(|number| token(&json!({"jti": format!("fresh-{number:016}")})))
                .map(|token| read(PATH).bearer(&token).bytes(1).into())
                .collect(),
            Self::Denied => one(read(OTHER_PATH).bearer(&token(&json!({})))),
            Self::Mcp { argument_bytes } => one(call(TOOL, argument_bytes).bearer(&token(&json!({})))),
            Self::List => one(list()),
            Self::A2a => one(message()),
            Self::Events => one(good_call().header(IN_EVENTS, "1")),
            Self::Upload => one(upload()),
            Self::Download => one(read(DOWNLOAD_PATH).bearer(&token(&json!({})))),
        })
    }

    /// Whether no request may be sent twice.
    pub(super) fn fresh(self) -> bool {
        self == Self::Fresh
    }

    /// How many requests make a slice of a round: some 15 ms of them.
    pub(super) fn count(self) -> usize {
        match self {
            Self::Known { .. } | Self::Denied => 250,
            Self::Fresh => 150,
            Self::A2a => 150,
            Self::Mcp { argument_bytes } if argument_bytes <= 1 << 10 => 150,
            Self::List | Self::Events => 60,
            Self::Mcp { argument_bytes } if argument_bytes <= 16 << 10 => 60,
            Self::Mcp { .. } | Self::Upload | Self::Download => 16,
        }
    }

    /// Requests a second at which latency is measured, below the saturation of every chain.
    pub(super) fn rate(self) -> f64 {
        match self {
            Self::Known { .. } | Self::Denied => 2000.0,
            Self::Fresh | Self::A2a | Self::Mcp { .. } if self.count() == 150 => 1000.0,
            Self::List | Self::Events => 400.0,
            Self::Mcp { argument_bytes } if argument_bytes <= 16 << 10 => 400.0,
            Self::Fresh | Self::A2a | Self::Mcp { .. } | Self::Upload | Self::Download => 40.0,
        }
    }
}

/// A GET without a token.
pub(super) fn read(path: &str) -> Request {
    Request::get(HOST, path)
}

/// The request that every chain lets pass.
pub(super) fn good() -> Request {
    read(PATH).bearer(&token(&json!({})))
}

/// The call that every chain which reads bodies lets pass.
pub(super) fn good_call() -> Request {
    call(TOOL, 1 << 10).bearer(&token(&json!({})))
}

/// The list that every chain lets be asked for, by an agent that is told of some of it.
pub(super) fn list() -> Request {
    let params = json!({"_meta": meta()});
    modern("tools/list", &params.to_string()).bearer(&token(&json!({"tools": tool_names(TOLD)})))
}

/// The message that every chain lets pass.
pub(super) fn message() -> Request {
    let scope = json!({"scope": [format!("call:agent.{CALLED}")]});
    unsigned_message().bearer(&token(&scope))
}

/// The same without a token.
pub(super) fn unsigned_message() -> Request {
    let text = "x".repeat(1 << 10);
    let params = json!({"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": text}]}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params});
    Request::post(HOST, "/", body.to_string()).header("a2a-version", "1.0")
}

fn upload() -> Request {
    let mut request = Request::post(HOST, UPLOAD_PATH, vec![b'x'; STREAM_BYTES]);
    request.method = "PUT";
    request.bearer(&token(&json!({})))
}

/// A `tools/call` of the newest revision without a token, its members in the order in which the Python SDK writes them.
pub(super) fn call(tool: &str, argument_bytes: usize) -> Request {
    let (meta, arguments) = (meta(), arguments(argument_bytes));
    let params = format!(r#"{{"_meta":{meta},"name":"{tool}","arguments":{arguments}}}"#);
    modern("tools/call", &params).header("mcp-name", tool)
}

/// A request of the newest revision.
fn modern(method: &'static str, params: &str) -> Request {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    Request::post(HOST, "/mcp", body)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method)
}

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// So many bytes of what a data tool is given: a piece of code and rows of a table.
fn arguments(bytes: usize) -> String {
    let head = r#"{"code":"df.groupby(\"region\").agg({\"amount\": \"sum\"})\nprint(df.head())","rows":["#;
    let mut text = head.to_owned();
    for number in 0.. {
        let row = format!(
            r#"{}{{"id":{number},"region":"north-{}","amount":{},"paid":{},"note":"as ordered \u2013 see \"terms\""}}"#,
            if number == 0 { "" } else { "," },
            number % 7,
            number * 7919 % 100_003,
            number % 3 == 0,
        );
        if text.len() + row.len() + 2 > bytes {
            break;
        }
        text.push_str(&row);
    }
    text.push_str("]}");
    text
}

/// The tool that is called, and others.
pub(super) fn tool_names(count: usize) -> Vec<String> {
    let others = (1..count).map(|number| format!("tool-{number:03}"));
    std::iter::once(TOOL.to_owned()).chain(others).collect()
}

/// A good token; fields of `with` replace its claims.
pub(super) fn token(with: &Value) -> String {
    issuer().sign("cap+jwt", &claims(with))
}

/// A token that another key has signed in the issuer's name.
pub(super) fn forged_token() -> String {
    let header = json!({"alg": "EdDSA", "typ": "cap+jwt", "kid": issuer().id()});
    let claims = claims(&json!({}));
    TestKey::named("forger").sign_with_header(&header.to_string(), &claims.to_string())
}

fn claims(with: &Value) -> Value {
    let now = wait::unix_now();
    let mut claims = json!({
        "iss": ISSUER, "sub": caller().spiffe(), "aud": [service().spiffe()],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": now, "nbf": now, "exp": now + TOKEN_SECONDS,
        "jti": "q7Zk2m0S5y1vXcN8bL4hTg", "txn": "user-request-4711",
        "agent_id": AGENT, "operation_id": "report-2026-q1",
        "scope": [SCOPE, "write:report.draft.q1"],
        "tools": [TOOL], "forbidden_tools": [OTHER_TOOL], "max_tokens": 50_000,
    });
    if let (Some(claims), Some(with)) = (claims.as_object_mut(), with.as_object()) {
        claims.extend(with.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    claims
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn arguments_are_json_of_nearly_the_size() {
        for bytes in [1 << 10, 16 << 10, 256 << 10] {
            let text = arguments(bytes);
            assert!((bytes - 128..=bytes).contains(&text.len()), "{}", text.len());
            let rows: Value = serde_json::from_str(&text).unwrap();
            assert!(rows.pointer("/rows/3/amount").is_some());
        }
    }

    #[test]
    fn fresh_requests_differ_and_others_are_one() {
        let fresh = Traffic::Fresh.bytes(3);
        assert_eq!(fresh.len(), 3);
        assert_ne!(fresh.first(), fresh.last());
        assert_eq!(KNOWN.bytes(3).len(), 1);
    }
}
