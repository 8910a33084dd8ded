//! What each protocol's requests ask for: an HTTP route's scope, an MCP message's tool.

pub(crate) mod http;
pub(crate) mod mcp;
