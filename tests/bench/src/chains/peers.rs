//! What a user would run instead: Envoy's own filters, configured as their documentation advises.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::chain::{Filters, Proof};
use super::traffic::{
    ISSUER, OTHER_PATH, OTHER_TOOL, PATH, SCOPE, TOOL, call, caller, forged_token, good, good_call, issuer, read,
    service, token,
};

const JWT: &str = "envoy.filters.http.jwt_authn";
const MCP: &str = "envoy.filters.http.mcp";
const RBAC: &str = "envoy.filters.http.rbac";

/// Where `jwt_authn` puts the claims for `rbac`.
const CLAIMS: &str = "claims";

/// Envoy's name of the external authorizer.
const AUTHORIZER: &str = "authorizer";

/// The largest body that is read for a decision, as for the real filter.
const BODY_LIMIT_BYTES: usize = 1 << 20;

/// The filters before the router.
///
/// # Errors
///
/// When the filter that does nothing has not been built.
pub(super) fn filters(filters: Filters) -> Result<Vec<Value>> {
    Ok(match filters {
        Filters::None | Filters::Ours(_) => Vec::new(),
        Filters::Noop => vec![noop()?],
        Filters::Lua => vec![lua()],
        Filters::Jwt { cached } => vec![jwt(cached), rbac(&http_permissions(), &claim("scope", SCOPE))],
        Filters::JwtMcp => vec![jwt(true), mcp(), rbac(&mcp_permissions(), &claim("tools", TOOL))],
        Filters::ExtAuthz => vec![ext_authz(false)],
        Filters::ExtAuthzBody => vec![ext_authz(true)],
    })
}

/// A good request first, then what must be denied. What denies nothing has no more to show; an external authorizer is
/// shown to be heeded by [`super::chain`].
pub(super) fn proofs(filters: Filters) -> Vec<Proof> {
    match filters {
        Filters::Lua => vec![Proof::allowed(good()), Proof::denied("no token", read(PATH), 403)],
        Filters::Jwt { .. } => http_proofs(),
        Filters::JwtMcp => mcp_proofs(),
        Filters::ExtAuthzBody => vec![Proof::allowed(good_call())],
        Filters::None | Filters::Noop | Filters::ExtAuthz | Filters::Ours(_) => vec![Proof::allowed(good())],
    }
}

fn http_proofs() -> Vec<Proof> {
    let other_scope = token(&json!({"scope": ["read:data.payroll"]}));
    let other_agent = token(&json!({"sub": service().spiffe()}));
    vec![
        Proof::allowed(good()),
        Proof::denied("a forged token", read(PATH).bearer(&forged_token()), 401),
        Proof::denied("no token", read(PATH), 401),
        Proof::denied("a token without the scope", read(PATH).bearer(&other_scope), 403),
        Proof::denied("another workload's token", read(PATH).bearer(&other_agent), 403),
        Proof::denied("another path", read(OTHER_PATH).bearer(&token(&json!({}))), 403),
    ]
}

fn mcp_proofs() -> Vec<Proof> {
    let good = || token(&json!({}));
    let none = token(&json!({"tools": []}));
    let mut no_json = call(TOOL, 1 << 10);
    no_json.body = "pandas".into();
    vec![
        Proof::allowed(good_call()),
        Proof::denied("a forged token", call(TOOL, 1 << 10).bearer(&forged_token()), 401),
        Proof::denied("another tool", call(OTHER_TOOL, 1 << 10).bearer(&good()), 403),
        Proof::denied("a tool that the token lacks", call(TOOL, 1 << 10).bearer(&none), 403),
        Proof::denied("no JSON", no_json.bearer(&good()), 400),
        Proof::denied("no MCP", read(PATH).bearer(&good()), 400),
    ]
}

/// The cluster of the external authorizer.
pub(super) fn authorizer_cluster(address: SocketAddr) -> Value {
    let address = json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
    json!({
        "name": AUTHORIZER,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": AUTHORIZER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    })
}

fn noop() -> Result<Value> {
    let wasm = tests::built::target().join("wasm32-wasip1/release/noop.wasm");
    wasm.is_file()
        .then_some(())
        .with_context(|| format!("`{}` is missing: run `make bench`", wasm.display()))?;
    let vm = json!({"runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": wasm}}});
    let config = json!({"config": {"name": "noop", "vm_config": vm}});
    Ok(filter("envoy.filters.http.wasm", "wasm.v3.Wasm", config))
}

fn lua() -> Value {
    let code = r#"
function envoy_on_request(handle)
  local token = handle:headers():get("authorization")
  if token == nil or token:sub(1, 7) ~= "Bearer " then
    handle:respond({[":status"] = "403"}, "")
  end
end
"#;
    let config = json!({"default_source_code": {"inline_string": code}});
    filter("envoy.filters.http.lua", "lua.v3.Lua", config)
}

fn jwt(cached: bool) -> Value {
    let mut provider = json!({
        "issuer": ISSUER,
        "audiences": [service().spiffe()],
        "local_jwks": {"inline_string": issuer().jwks().to_string()},
        "payload_in_metadata": CLAIMS,
    });
    if let (true, Some(fields)) = (cached, provider.as_object_mut()) {
        fields.insert("jwt_cache_config".to_owned(), json!({"jwt_cache_size": 4096}));
    }
    let config = json!({
        "providers": {"ostiary": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "ostiary"}}],
    });
    filter(JWT, "jwt_authn.v3.JwtAuthentication", config)
}

fn mcp() -> Value {
    let config = json!({"traffic_mode": "REJECT_NO_MCP", "max_request_body_size": BODY_LIMIT_BYTES});
    filter(MCP, "mcp.v3.Mcp", config)
}

fn ext_authz(body: bool) -> Value {
    let mut config = json!({
        "transport_api_version": "V3",
        "failure_mode_allow": false,
        "grpc_service": {"envoy_grpc": {"cluster_name": AUTHORIZER}, "timeout": "1s"},
    });
    if let (true, Some(fields)) = (body, config.as_object_mut()) {
        let body = json!({
            "max_request_bytes": BODY_LIMIT_BYTES, "allow_partial_message": false, "pack_as_bytes": true,
        });
        fields.insert("with_request_body".to_owned(), body);
    }
    filter("envoy.filters.http.ext_authz", "ext_authz.v3.ExtAuthz", config)
}

fn http_permissions() -> Value {
    json!([
        {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
        {"url_path": {"path": {"exact": PATH}}},
    ])
}

fn mcp_permissions() -> Value {
    let is = |path: &[&str], value: &str| {
        let path: Vec<_> = path.iter().map(|key| json!({"key": key})).collect();
        json!({"metadata": {"filter": MCP, "path": path, "value": {"string_match": {"exact": value}}}})
    };
    json!([is(&["method"], "tools/call"), is(&["params", "name"], TOOL)])
}

/// The agent may do this: by its certificate, with a token that is its own and has the right in it.
fn rbac(permissions: &Value, right: &Value) -> Value {
    let identity = json!({"string_match": {"exact": caller().spiffe()}});
    let principals = json!([
        {"authenticated": {"principal_name": {"exact": caller().spiffe()}}},
        {"metadata": {"filter": JWT, "path": [{"key": CLAIMS}, {"key": "sub"}], "value": identity}},
        right,
    ]);
    let policy = json!({
        "permissions": [{"and_rules": {"rules": permissions}}],
        "principals": [{"and_ids": {"ids": principals}}],
    });
    let config = json!({"rules": {"action": "ALLOW", "policies": {"analyst": policy}}});
    filter(RBAC, "rbac.v3.RBAC", config)
}

/// A claim that is a list has this in it.
fn claim(name: &str, value: &str) -> Value {
    let value = json!({"list_match": {"one_of": {"string_match": {"exact": value}}}});
    json!({"metadata": {"filter": JWT, "path": [{"key": CLAIMS}, {"key": name}], "value": value}})
}

fn filter(name: &str, message: &str, mut config: Value) -> Value {
    if let Some(fields) = config.as_object_mut() {
        let message = format!("type.googleapis.com/envoy.extensions.filters.http.{message}");
        fields.insert("@type".to_owned(), json!(message));
    }
    json!({"name": name, "typed_config": config})
}
