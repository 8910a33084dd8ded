//! What each protocol's requests ask for: an HTTP route's scope, what an MCP message names.

pub(crate) mod http;
pub(crate) mod mcp;
