//! Calls of the Model Context Protocol as its clients send them, of both eras.

use serde_json::{Value, json};

use crate::client::Call;

/// The newest revision.
pub const MODERN: &str = "2026-07-28";

/// The last revision before requests named themselves in headers.
pub const LEGACY: &str = "2025-11-25";

/// A `tools/call` of the newest revision at the endpoint `/mcp` of `authority`.
pub fn call_tool(authority: &str, tool: &str, arguments: &Value) -> Call {
    let params = json!({
        "name": tool,
        "arguments": arguments,
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "harness", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    });
    let call = request(authority, MODERN, "tools/call", &params);
    call.header("mcp-method", "tools/call").header("mcp-name", tool)
}

/// A `tools/call` of the older revisions.
pub fn call_tool_legacy(authority: &str, tool: &str, arguments: &Value) -> Call {
    request(
        authority,
        LEGACY,
        "tools/call",
        &json!({"name": tool, "arguments": arguments}),
    )
}

/// Any request, without the headers that newer revisions add.
pub fn request(authority: &str, version: &str, method: &str, params: &Value) -> Call {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let call = Call::new("POST", authority, "/mcp").header("accept", "application/json, text/event-stream");
    call.header("mcp-protocol-version", version).json(&body)
}
