//! The one program in the image of the demo's workloads: `workload ROLE`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests::{backends, workload};

/// A workload of the demo.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Waits for `call` and `load` to be run beside it.
    Agent,
    /// Serves tables over HTTP on port 8080; logs every request to standard output.
    Warehouse,
    /// Takes reports over HTTP.
    Reports,
    /// Remembers over HTTP.
    Memory,
    /// Serves tools by MCP.
    Mcp,
    /// Makes the calls that standard input names, a line each.
    Call,
    /// Makes calls all the time, until standard input is closed.
    Load,
}

/// Where the image has its Python, and the server that it runs.
const MCP_SERVER: [&str; 2] = ["/python/bin/python3", "/python/mcp_server.py"];

const LISTEN: &str = "0.0.0.0:8080";

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Agent => Ok(tokio::signal::ctrl_c().await?),
        Role::Warehouse => backends::serve_tcp(LISTEN, backends::table()).await,
        Role::Reports => backends::serve_tcp(LISTEN, backends::report()).await,
        Role::Memory => backends::serve_tcp(LISTEN, backends::remembered()).await,
        Role::Mcp => {
            let [python, server] = MCP_SERVER;
            Err(Command::new(python).args([server, LISTEN, "/dev/stdout"]).exec().into())
        }
        Role::Call => workload::call().await,
        Role::Load => workload::load().await,
    }
}
