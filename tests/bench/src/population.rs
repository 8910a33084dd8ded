//! Policy files of any number of agents, five tools and five scopes each, and one service that all of them reach.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::pki::Workload;

/// Who asks for tokens, several of them: the policy server bounds what one caller may have waiting.
pub(crate) const ORCHESTRATORS: usize = 8;

/// How callers name the service.
pub(crate) const HOST: &str = "mcp.tools.svc.cluster.local";

/// The port that the service's sidecar listens on.
pub(crate) const PORT: u16 = 8080;

/// The tools that the service offers.
const TOOLS: usize = 50;

/// The tables that agents may read, shared among them.
const TABLES: usize = 500;

/// One file an agent would be as many files as the policy server reads at most, and none for the service.
const AGENTS_A_FILE: usize = 50;

/// A folder of policy files.
#[derive(Debug)]
pub(crate) struct Population {
    folder: PathBuf,
    agents: usize,
}

impl Population {
    /// Writes the files.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn write(folder: &Path, agents: usize) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let written = Self {
            folder: folder.to_owned(),
            agents,
        };
        written.change_service(0)?;
        for first in (0..agents).step_by(AGENTS_A_FILE) {
            written.change_agent(first, 0)?;
        }
        Ok(written)
    }

    /// How many agents there are.
    pub(crate) fn agents(&self) -> usize {
        self.agents
    }

    /// Where the files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Gives one agent another right; each `revision` gives another one. Nothing else changes.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn change_agent(&self, number: usize, revision: usize) -> Result<()> {
        let first = number - number % AGENTS_A_FILE;
        let mut text = String::new();
        for agent in first..(first + AGENTS_A_FILE).min(self.agents) {
            let revision = if agent == number { revision } else { 0 };
            agent_file(&mut text, agent, revision)?;
        }
        self.replace(&format!("agents-{first:05}.yaml"), &text)
    }

    /// Has the service offer another tool, which concerns every agent and itself.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn change_service(&self, revision: usize) -> Result<()> {
        let mut text = head("Service", &service());
        let tools: String = (0..TOOLS)
            .map(|tool| format!("    {}: {{}}\n", tool_name(tool)))
            .collect();
        write!(
            text,
            "  hosts: [{HOST}]\n  ports: [{PORT}]\n  protocol: mcp\n  path: /mcp\n  tools:\n{tools}    \
             sql_query: {{ scope: \"read:data.{{arguments./table}}\" }}\n    \
             write_report: {{ scope: \"write:report.draft.{{arguments./report}}\" }}\n    revision-{revision}: {{}}\n"
        )?;
        self.replace("service.yaml", &text)
    }

    /// In one step, so that the server never reads half of it.
    fn replace(&self, name: &str, text: &str) -> Result<()> {
        let (draft, path) = (self.folder.join(format!(".{name}")), self.folder.join(name));
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        Ok(fs::rename(&draft, &path)?)
    }
}

/// The workload that receives the calls.
pub(crate) fn service() -> Workload {
    Workload::new("tools", "mcp")
}

/// An agent's workload.
pub(crate) fn agent(number: usize) -> Workload {
    Workload::new("agents", &agent_id(number))
}

/// One of those who ask for tokens.
pub(crate) fn orchestrator(number: usize) -> Workload {
    Workload::new("orchestration", &format!("orchestrator-{}", number % ORCHESTRATORS))
}

/// Everybody's roles.
pub(crate) fn roles() -> Vec<(String, Vec<String>)> {
    let orchestrators = (0..ORCHESTRATORS).map(orchestrator);
    orchestrators
        .map(|workload| (workload.spiffe(), vec!["issuer".to_owned()]))
        .collect()
}

/// What an agent's token is asked for with: all that its file grants.
pub(crate) fn token_request(number: usize) -> Value {
    json!({
        "agent_id": agent_id(number),
        "operation_id": "bench",
        "scope": scopes(number, 0),
        "tools": tools(number),
        "ttl_seconds": 300,
        "max_tokens": 1000,
    })
}

/// A tool that an agent may call without arguments.
pub(crate) fn tool(number: usize) -> String {
    tool_name(number % TOOLS)
}

fn agent_id(number: usize) -> String {
    format!("agent-{number:05}")
}

fn tool_name(number: usize) -> String {
    format!("tool-{number:02}")
}

fn tools(number: usize) -> [String; 5] {
    [
        "sql_query".to_owned(),
        "write_report".to_owned(),
        tool_name(number % TOOLS),
        tool_name((number + 17) % TOOLS),
        tool_name((number + 31) % TOOLS),
    ]
}

fn scopes(number: usize, revision: usize) -> [String; 5] {
    let table = |step: usize| format!("read:data.table_{}_2026q1", (number * 7 + step) % TABLES);
    [
        table(0),
        table(101),
        table(202),
        format!("read:data.revision_{revision}"),
        format!("write:report.draft.agent_{number}"),
    ]
}

fn agent_file(text: &mut String, number: usize, revision: usize) -> Result<()> {
    let issuers: Vec<String> = (0..ORCHESTRATORS).map(|issuer| orchestrator(issuer).spiffe()).collect();
    let scopes = scopes(number, revision).map(|scope| format!("\"{scope}\""));
    write!(
        text,
        "---\n{}  tools: [{}]\n  scope: [{}]\n  issuers: [{}]\n  reaches: [mcp]\n",
        head("Agent", &agent(number)),
        tools(number).join(", "),
        scopes.join(", "),
        issuers.join(", "),
    )?;
    Ok(())
}

fn head(kind: &str, workload: &Workload) -> String {
    let Workload {
        namespace,
        service_account,
    } = workload;
    format!(
        "apiVersion: ostiary.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {service_account}, namespace: {namespace} }}\n\
         spec:\n  serviceAccount: {service_account}\n"
    )
}
