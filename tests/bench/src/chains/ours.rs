//! The real filter, with a policy feed that takes its records.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};
use tests::feed::{self, Feed, Intake};
use tests::load::wire::Request;
use tests::pki::Workload;
use tests::sidecar::Plugin;

use super::chain::Proof;
use super::traffic::{
    AGENT, CALLED, DOWNLOAD_PATH, HOST, ISSUER, OFFERED, OTHER_PATH, OTHER_TOOL, PATH, SCOPE, TOKEN_SECONDS, TOLD,
    TOOL, UPLOAD_PATH, call, caller, forged_token, good, good_call, issuer, list, message, read, service, token,
    tool_names, unsigned_message,
};

/// The policy that the filter decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// What the workload exposes.
    pub(super) service: Service,
    /// How many agents may call it, one of which does.
    pub(super) agents: usize,
}

/// What a workload exposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Tables, and a place for large bodies.
    Http,
    /// Tools.
    Mcp,
    /// So many tools that their list is long.
    Tools,
    /// An agent.
    A2a,
}

/// What a policy of size `agents` gives each of them, beside the one that calls.
const SHARE: [usize; 5] = [0, 1, 2, 3, 4];

/// Starts the feed of one chain.
///
/// # Errors
///
/// When the address is taken.
pub(super) async fn feed(policy: Policy, address: SocketAddr) -> Result<Feed> {
    let feed = Feed::start(address).await?;
    feed.take_records(Intake::Count);
    feed.set_bundle(&bundle(policy));
    feed.set_state(&feed::state_claims(1, &json!({})));
    Ok(feed)
}

/// The filter as it is shipped, in its ordinary configuration.
///
/// # Errors
///
/// When it has not been built.
pub(super) fn plugin(feed: &Feed) -> Result<Plugin> {
    Plugin::built(&feed.key().jwks())
}

/// A good request first, then what must be denied, each by its code.
pub(super) fn proofs(policy: Policy) -> Vec<Proof> {
    match policy.service {
        Service::Http => http_proofs(),
        Service::Mcp => mcp_proofs(),
        Service::Tools => {
            let tools = tool_names(OFFERED);
            let untold = tools.last().map_or("", String::as_str);
            vec![
                Proof::allowed(list()),
                denied(
                    "a tool that it is not told of",
                    call(untold, 1 << 10).bearer(&token(&json!({"tools": tools}))),
                    403,
                    "tool_not_in_policy",
                ),
            ]
        }
        Service::A2a => vec![
            Proof::allowed(message()),
            denied(
                "a token without the scope",
                unsigned_message().bearer(&token(&json!({}))),
                403,
                "scope_not_granted",
            ),
        ],
    }
}

fn http_proofs() -> Vec<Proof> {
    let other_scope = token(&json!({"scope": ["read:data.payroll"]}));
    let other_agent = token(&json!({"sub": service().spiffe()}));
    let wider = token(&json!({"scope": [SCOPE, "read:data.payroll"]}));
    vec![
        Proof::allowed(good()),
        denied(
            "a forged token",
            read(PATH).bearer(&forged_token()),
            401,
            "token_signature_invalid",
        ),
        denied("no token", read(PATH), 401, "token_missing"),
        denied(
            "a token without the scope",
            read(PATH).bearer(&other_scope),
            403,
            "scope_not_granted",
        ),
        denied(
            "another workload's token",
            read(PATH).bearer(&other_agent),
            403,
            "peer_mismatch",
        ),
        denied(
            "a scope that the policy lacks",
            read(OTHER_PATH).bearer(&wider),
            403,
            "scope_not_in_policy",
        ),
    ]
}

fn mcp_proofs() -> Vec<Proof> {
    let good = || token(&json!({}));
    let none = token(&json!({"tools": []}));
    vec![
        Proof::allowed(good_call()),
        denied(
            "a forged token",
            call(TOOL, 1 << 10).bearer(&forged_token()),
            401,
            "token_signature_invalid",
        ),
        denied(
            "a forbidden tool",
            call(OTHER_TOOL, 1 << 10).bearer(&good()),
            403,
            "tool_forbidden",
        ),
        denied(
            "a tool that the token lacks",
            call(TOOL, 1 << 10).bearer(&none),
            403,
            "tool_not_granted",
        ),
        denied(
            "another tool than the header says",
            lying_call().bearer(&good()),
            400,
            "mcp_header_mismatch",
        ),
    ]
}

/// The header names a tool that may be called, the body one that may not.
fn lying_call() -> Request {
    let mut request = call(OTHER_TOOL, 1 << 10);
    for (name, value) in &mut request.headers {
        if *name == "mcp-name" {
            TOOL.clone_into(value);
        }
    }
    request
}

fn denied(what: &'static str, request: Request, status: u16, code: &'static str) -> Proof {
    Proof {
        code: Some(code),
        ..Proof::denied(what, request, status)
    }
}

fn bundle(policy: Policy) -> Value {
    let mut exposed = json!({
        "id": "data/warehouse", "identity": service().spiffe(), "hosts": [HOST], "ports": [8080],
        "token_header": "authorization", "forward_token": false, "forward_claims": false,
        "body_limit_bytes": 1 << 20,
    });
    let offered = match policy.service {
        Service::Http => json!({"protocol": "http", "routes": [
            {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
            {"method": "PUT", "path": UPLOAD_PATH, "scope": SCOPE},
            {"method": "GET", "path": DOWNLOAD_PATH, "scope": SCOPE},
        ]}),
        Service::Mcp => json!({"protocol": "mcp", "path": "/mcp", "tools": {TOOL: {}, OTHER_TOOL: {}}}),
        Service::Tools => {
            let tools: serde_json::Map<_, _> = tool_names(OFFERED).into_iter().map(|name| (name, json!({}))).collect();
            json!({"protocol": "mcp", "path": "/mcp", "tools": tools})
        }
        Service::A2a => json!({"protocol": "a2a", "path": "/", "rest_path": "/", "agent": CALLED}),
    };
    if let (Some(exposed), Value::Object(offered)) = (exposed.as_object_mut(), offered) {
        exposed.extend(offered);
    }
    let tools = if policy.service == Service::Tools { TOLD } else { 1 };
    let tools = tool_names(tools);
    let mut agents: Vec<Value> = (1..policy.agents).map(bystander).collect();
    agents.push(json!({
        "id": AGENT, "identity": caller().spiffe(), "tools": tools, "forbidden_tools": [OTHER_TOOL],
        "scope": [SCOPE, "write:report.draft.q1"], "may_call": [CALLED], "reaches": ["data/warehouse"],
    }));
    let claims = json!({
        "max_token_ttl_seconds": TOKEN_SECONDS,
        "issuers": [{"iss": ISSUER, "jwks": issuer().jwks()}],
        "services": [exposed],
        "agents": agents,
    });
    feed::bundle_claims(&service().spiffe(), 1, &claims)
}

/// An agent that may call too, with five tools and five scopes, and does not.
fn bystander(number: usize) -> Value {
    let id = format!("agent-{number:05}");
    json!({
        "id": id, "identity": Workload::new("agents", &id).spiffe(),
        "tools": SHARE.map(|share| format!("tool-{number:05}-{share}")), "forbidden_tools": [],
        "scope": SHARE.map(|share| format!("read:data.table_{number:05}_{share}")),
        "reaches": ["data/warehouse"],
    })
}
