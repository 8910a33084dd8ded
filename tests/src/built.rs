//! What the build produced, and where set-up put the tools.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The top of the workspace.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The filter as it is shipped.
///
/// # Errors
///
/// When it has not been built.
pub fn filter() -> Result<PathBuf> {
    existing("OSTIARY_FILTER", target().join("wasm32-wasip1/release/filter.wasm"))
}

/// The `ostiary` binary.
///
/// # Errors
///
/// When it has not been built.
pub fn ostiary() -> Result<PathBuf> {
    existing("OSTIARY", target().join("debug/ostiary"))
}

/// The Python of the virtual environment that holds the MCP SDK.
///
/// # Errors
///
/// When set-up has not made it.
pub fn python() -> Result<PathBuf> {
    existing("OSTIARY_PYTHON", target().join("mcp/bin/python"))
}

/// Runs a script of `tests/node` by the Node that set-up fetched beside what the scripts import.
///
/// # Errors
///
/// When set-up has not fetched it.
pub fn node(script: &str) -> Result<Command> {
    let folder = target().join("node");
    let mut command = Command::new(existing("OSTIARY_NODE", folder.join("node_modules/.bin/node"))?);
    // The scripts are symbolic links there, and import by where they seem to be.
    command
        .args(["--preserve-symlinks", "--preserve-symlinks-main"])
        .arg(folder.join(script));
    Ok(command)
}

/// Leads a client on Node to an agent's sidecar, with a capability that it knows nothing of.
pub fn lead(client: &mut Command, sidecar: SocketAddr, token: &str) {
    let through = target().join("node/through.mjs");
    client
        .env(
            "NODE_OPTIONS",
            format!("--preserve-symlinks --import={}", through.display()),
        )
        .env("SIDECAR", sidecar.to_string())
        .env("TOKEN", token);
}

/// The policy files and the MCP server of the mini mesh.
pub fn mesh_files() -> PathBuf {
    workspace().join("tests/mesh")
}

fn existing(variable: &str, default: PathBuf) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map_or(default, PathBuf::from);
    if !path.is_file() {
        bail!(
            "`{}` is missing: run `make build` first, or name another by {variable}=",
            path.display()
        );
    }
    Ok(path)
}
