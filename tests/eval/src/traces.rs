//! Runs of agents as the traces tell of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use authz::risk::Declared;
use serde::Deserialize;

use crate::records;

/// The files of a folder of traces, and where other than in the project they may be: `make eval TRACES=FOLDER`.
const FILES: [&str; 3] = ["airline.jsonl", "retail.jsonl", "agentdojo.jsonl"];

/// One user request and the tools that the agent called for it, or what an injected prompt makes it call.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Runs of one task are never on both sides of a split.
    pub(crate) task: String,
    pub(crate) tools: Vec<String>,
}

/// The runs of one kind of agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suite {
    pub(crate) honest: Vec<Run>,
    pub(crate) goals: Vec<Run>,
}

impl Suite {
    /// What the agent's file says: all tools of its runs, and of what injected prompts want of it.
    pub(crate) fn declared(&self) -> Declared {
        let own = self.honest.iter().chain(&self.goals).flat_map(|run| &run.tools);
        records::declared(own.map(String::as_str))
    }
}

/// A line: with calls and their arguments, or with the tools alone.
#[derive(Debug, Deserialize)]
struct Line {
    suite: String,
    kind: String,
    run: String,
    #[serde(default)]
    calls: Vec<LineCall>,
    #[serde(default)]
    tools: String,
}

#[derive(Debug, Deserialize)]
struct LineCall {
    tool: String,
}

/// Reads a folder. Runs without a call are left out: nothing is recorded of them.
///
/// # Errors
///
/// If a file is missing or is not what its README says.
pub(crate) fn read(folder: &Path) -> Result<BTreeMap<String, Suite>> {
    let mut suites: BTreeMap<String, Suite> = BTreeMap::new();
    for name in FILES {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        for line in text.lines() {
            let line: Line = serde_json::from_str(line).with_context(|| format!("`{}`", path.display()))?;
            let mut tools: Vec<String> = line.calls.into_iter().map(|call| call.tool).collect();
            tools.extend(line.tools.split_whitespace().map(str::to_owned));
            if tools.is_empty() {
                continue;
            }
            let task = line.run.split("-trial").next().unwrap_or_default().to_owned();
            let suite = suites.entry(line.suite).or_default();
            match line.kind.as_str() {
                "honest" => suite.honest.push(Run { task, tools }),
                "injected" => suite.goals.push(Run { task, tools }),
                other => bail!("`{}`: a run of kind `{other}`", path.display()),
            }
        }
    }
    Ok(suites)
}
