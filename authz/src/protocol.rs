//! What each protocol's requests ask for: an HTTP route's scope, what an MCP message names, the agent that an A2A request
//! calls; and what MCP's lists tell.

pub(crate) mod a2a;
pub(crate) mod body;
pub(crate) mod http;
pub(crate) mod jsonrpc;
pub(crate) mod mcp;
pub mod tasks;

pub use mcp::list;
