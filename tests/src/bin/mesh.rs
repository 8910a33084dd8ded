//! The mini mesh for people: `mesh up`, `mesh down` and `mesh demo`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::loopback::Loopback;
use tests::mesh::{Mesh, Options};
use tests::run::RunDirectory;
use tests::{built, demo, wait};

/// How long the mesh may take to come up, and to go down.
const UP_LIMIT: Duration = Duration::from_secs(120);
const DOWN_LIMIT: Duration = Duration::from_secs(30);

/// The network that a mesh of people prefers, so that its addresses stay the same.
const NETWORK: (u8, u8) = (79, 0);

/// The mini mesh of Ostiary on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Starts the mesh, leaves it running and says what to try.
    Up,
    /// Ends what `up` started.
    Down,
    /// Starts a mesh of its own, tells the whole story as a table and ends it.
    Demo,
    /// Runs the mesh in the foreground (what `up` starts).
    #[command(hide = true)]
    Serve,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Action::Up => up().await.map(|()| true),
        Action::Down => down().await.map(|()| true),
        Action::Serve => serve().await.map(|()| true),
        Action::Demo => story().await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn story() -> Result<bool> {
    let start = Instant::now();
    println!("starting the mini mesh: 1 policy server, 2 agents, 4 services, 7 Envoys");
    let options = Options {
        memory: true,
        ..Options::default()
    };
    let mut mesh = Mesh::start("demo", &options).await?;
    println!(
        "every sidecar has its policy after {:.1} s\n\n{}",
        start.elapsed().as_secs_f64(),
        demo::head()
    );
    let mut mismatches = demo::tell_with_past(&mesh, &mut |row| println!("{row}")).await?;
    println!("\nthe policy server is started again with `risk: {{ act: true }}`: from here on scores act\n");
    mismatches += demo::tell_of_hijack(&mut mesh, &mut |row| println!("{row}")).await?;
    println!("\nwhat is left of one user request, and what that proves:\n");
    demo::prove(&mesh, &mut |said| println!("{said}")).await?;
    println!("{}", demo::foot(&mesh, mismatches, start.elapsed()));
    Ok(mismatches == 0)
}

async fn up() -> Result<()> {
    if let Some(running) = running() {
        println!("the mesh is already up\n");
        return say_what_to_try(&running);
    }
    let log = built::target().join("mesh.log");
    let output = std::fs::File::create(&log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn()?;
    let described = wait::until("the mesh to come up", UP_LIMIT, async || {
        let ended = child.try_wait().is_ok_and(|status| status.is_some());
        running().map(Some).or(ended.then_some(None))
    });
    let described = tokio::select! {
        described = described => described?,
        _ = tokio::signal::ctrl_c() => {
            child.kill()?;
            bail!("interrupted; nothing is left running");
        }
    };
    match described {
        Some(described) => say_what_to_try(&described),
        None => bail!(
            "the mesh did not come up:\n{}",
            std::fs::read_to_string(&log).unwrap_or_default()
        ),
    }
}

async fn down() -> Result<()> {
    let Some(described) = running() else {
        println!("no mesh is up");
        return Ok(());
    };
    let pid = process_of(&described).context("target/mesh.json names no process")?;
    kill(pid, Signal::SIGTERM)?;
    wait::until("the mesh to go down", DOWN_LIMIT, async || {
        running().is_none().then_some(())
    })
    .await?;
    println!("the mesh is down");
    Ok(())
}

async fn serve() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let started = async {
        let net = Loopback::claim_this(NETWORK.0, NETWORK.1).or_else(|_| Loopback::claim())?;
        let run = RunDirectory::at(built::target().join("run/up"))?;
        let mesh = Mesh::start_at(run, net, &Options::default()).await?;
        mesh.settled().await?;
        write_description(&mesh)?;
        Ok::<_, anyhow::Error>(mesh)
    };
    let mesh = tokio::select! {
        mesh = started => mesh?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // In this order: whoever sees no description may start another mesh on the same addresses.
    drop(mesh);
    Ok(std::fs::remove_file(description())?)
}

fn description() -> PathBuf {
    built::target().join("mesh.json")
}

fn write_description(mesh: &Mesh) -> Result<()> {
    let mut described = mesh.describe();
    let process = std::process::id();
    let started = start_time(Pid::from_raw(i32::try_from(process)?)).context("no /proc")?;
    if let Some(fields) = described.as_object_mut() {
        fields.insert("process".to_owned(), json!({"id": process, "started": started}));
        fields.insert("without_network_namespaces".to_owned(), json!(mesh.without_netns));
    }
    let draft = description().with_extension("json.draft");
    std::fs::write(&draft, serde_json::to_vec_pretty(&described)?)?;
    Ok(std::fs::rename(draft, description())?)
}

/// The description of the mesh that is up; one whose process is gone is cleared away.
fn running() -> Option<Value> {
    let described: Value = serde_json::from_slice(&std::fs::read(description()).ok()?).ok()?;
    let started = described.pointer("/process/started")?.as_u64()?;
    if process_of(&described).and_then(start_time) == Some(started) {
        return Some(described);
    }
    // Its children died with it; only the file is left.
    let _ = std::fs::remove_file(description());
    None
}

fn process_of(described: &Value) -> Option<Pid> {
    let id = described.pointer("/process/id")?.as_i64()?;
    i32::try_from(id).ok().map(Pid::from_raw)
}

/// When a process started, in clock ticks: with its id this names it even after ids are used again.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name in parentheses may hold anything; 20 fields follow up to the start time. A zombie has ended.
    let (_, fields) = stat.rsplit_once(") ")?;
    (!fields.starts_with('Z'))
        .then(|| fields.split(' ').nth(19)?.parse().ok())
        .flatten()
}

fn say_what_to_try(described: &Value) -> Result<()> {
    let text = |path: &str| {
        let text = described.pointer(path).and_then(Value::as_str).map(ToOwned::to_owned);
        text.ok_or_else(|| anyhow!("target/mesh.json has no {path}"))
    };
    let url = text("/policy_server/url")?;
    let (host, address) = (
        text("/policy_server/host")?,
        url.trim_start_matches("https://").to_owned(),
    );
    let (ip, port) = address.rsplit_once(':').context("no port")?;
    let outbound = text("/agents/analyst-7/outbound")?;
    let inbound = text("/services/warehouse/inbound")?;
    let (service_ip, service_port) = inbound
        .trim_start_matches("https://")
        .rsplit_once(':')
        .context("no port")?;
    let warehouse = text("/services/warehouse/host")?;
    let inside = text("/agents/analyst-7/inside/network_namespace");
    let as_agent = inside.map(|path| format!("nsenter --net={path} ")).unwrap_or_default();
    let from_inside = text("/agents/analyst-7/inside/outbound").unwrap_or_else(|_| outbound.clone());
    println!(
        "The mesh is up; target/mesh.json says where everything is. To try it:

# The orchestrator asks for a token for analyst-7
TOKEN=$(curl -s --cacert {ca} --cert {cert} --key {key} --resolve {host}:{port}:{ip} \\
  https://{host}:{port}/v1/tokens -H 'content-type: application/json' \\
  -d '{request}' \\
  | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"token\"])')

# The agent, from inside its network namespace, reads its table: 200
{as_agent}curl -i {from_inside}/v1/tables/sales_q1_2026 -H 'host: {warehouse}:8080' -H \"authorization: Bearer $TOKEN\"

# ... another table: 403 scope_not_granted
{as_agent}curl -i {from_inside}/v1/tables/hr_salaries -H 'host: {warehouse}:8080' -H \"authorization: Bearer $TOKEN\"

# ... and without a token: 401 token_missing
curl -i {outbound}/v1/tables/sales_q1_2026 -H 'host: {warehouse}:8080'

# It calls a tool: 200; with bash instead of pandas: 403 tool_forbidden, as a JSON-RPC error
curl -s {outbound}/mcp -H 'host: {mcp}:8080' -H \"authorization: Bearer $TOKEN\" \\
  -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \\
  -H 'mcp-protocol-version: 2025-11-25' \\
  -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"pandas\",\"arguments\":{{}}}}}}'

# writer-2 shows analyst-7's token at the service's own sidecar: 403 peer_mismatch
curl -i --cacert {ca} --cert {writer_cert} --key {writer_key} --resolve {warehouse}:{service_port}:{service_ip} \\
  https://{warehouse}:{service_port}/v1/tables/sales_q1_2026 -H \"authorization: Bearer $TOKEN\"

# Around the sidecars without a certificate: no connection
curl -i --cacert {ca} --resolve {warehouse}:{service_port}:{service_ip} https://{warehouse}:{service_port}/

# The agent's process asks for its sidecar's policy: 403 endpoint_refused
{as_agent}curl -i {from_inside}/v1/policy -H 'host: {host}' -H 'ostiary-callout: 1'

# What the sidecar of analyst-7 has decided, by code
curl -s {admin}/stats?filter=ostiary_decisions

`make down` ends it.",
        ca = text("/ca")?,
        cert = text("/issuer/certificate")?,
        key = text("/issuer/key")?,
        request = demo::token_request(),
        mcp = text("/services/mcp/host")?,
        writer_cert = text("/agents/writer-2/credential/certificate")?,
        writer_key = text("/agents/writer-2/credential/key")?,
        admin = text("/agents/analyst-7/admin")?,
    );
    if let Some(reason) = described.get("without_network_namespaces").and_then(Value::as_str) {
        println!("\nAgents have no network namespaces here: {reason}");
    }
    Ok(())
}
