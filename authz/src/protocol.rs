//! What each protocol's requests ask for: an HTTP route's scope, what an MCP message names; and what MCP's lists tell.

pub(crate) mod http;
pub(crate) mod mcp;

pub use mcp::list;
