//! Past decisions, decided again: what `audit replay`, `check --against-log` and `shrink` have in common.

mod log;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use authz::audit::{Record, RecordedFacts};
use authz::manifest::Mesh;
use authz::replay::{Replayed, Unplayed, Verdict};
use serde::Serialize;
use serde_json::{Value, json};

pub(super) use log::{Content, LogError, read, read_all};

use super::check::{count, places};
use super::kinds::{Kinds, Told};
use super::output::{Printer, printable};
use super::{Error, Outcome};
use crate::files::{self, Diagnostics, LoadError, Loaded};

/// Why nothing could be decided again.
#[derive(Debug, thiserror::Error)]
pub(super) enum PastError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("there is no agent or service file (*.yaml, *.yml) in what was given")]
    NoFiles,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("there is no file of an agent `{0}`")]
    AgentUnknown(String),
    #[error("cannot write the agent's file as YAML")]
    Yaml(#[from] serde_saphyr::SerializeError),
    #[error("the smaller file has mistakes, which is a defect of this program: {0}")]
    Shrunk(String),
}

/// Reads agent and service files that must be right.
pub(super) fn load(paths: &[PathBuf], trust_domain: &str) -> Result<Loaded, PastError> {
    let loaded = files::load(paths, trust_domain)?;
    if loaded.files == 0 {
        return Err(PastError::NoFiles);
    }
    Ok(loaded)
}

/// Says what is wrong with files by which nothing can be decided.
pub(super) fn refuse(diagnostics: &Diagnostics, printer: &mut Printer) -> Result<Outcome, Error> {
    let text = places(diagnostics.list(), printer);
    let mistakes = printer.bad(count(diagnostics.list().len(), "mistake"));
    let text = format!("{text}{mistakes}, nothing is decided by these files");
    printer.answer(text, &json!({ "ok": false, "diagnostics": diagnostics }))?;
    Ok(Outcome::Finding)
}

/// What came of deciding again.
#[derive(Debug, Default)]
pub(super) struct Past {
    same: u64,
    /// Permitted then, denied now; and the other way round; and denied for another reason.
    denied: u64,
    permitted: u64,
    otherwise: u64,
    /// Going on then and now, in shadow for another reason, or once in shadow and once by right.
    in_shadow: u64,
    changes: Kinds<Kind, Last>,
    unplayed: BTreeMap<Unplayed, u64>,
}

/// Calls that are told in one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Kind {
    recorded: String,
    again: String,
    agent_id: Option<String>,
    workload: Option<String>,
    side: &'static str,
    service: Option<String>,
    asked: String,
}

/// The last call of a kind.
#[derive(Debug, Default, Serialize)]
struct Last {
    /// Its line in the file.
    line: u64,
    call: Option<String>,
}

impl Past {
    /// Adds what came of one record.
    pub(super) fn add(&mut self, line: u64, record: &Record<'_>, outcome: Result<Replayed, Unplayed>) {
        let replayed = match outcome {
            Ok(replayed) => replayed,
            // It was none to begin with.
            Err(Unplayed::NoDecision) => return,
            Err(why) => {
                *self.unplayed.entry(why).or_default() += 1;
                return;
            }
        };
        if replayed.recorded == replayed.again {
            self.same += 1;
            return;
        }
        match (replayed.recorded, replayed.again) {
            (Ok(_), Ok(_)) => self.in_shadow += 1,
            (Ok(_), Err(_)) => self.denied += 1,
            (Err(_), Ok(_)) => self.permitted += 1,
            (Err(_), Err(_)) => self.otherwise += 1,
        }
        if let Some(last) = self.changes.add(Kind::of(record, replayed), record.time_ms) {
            *last = Last {
                line,
                call: record.call.as_deref().map(str::to_owned),
            };
        }
    }

    /// How many decisions came out otherwise.
    pub(super) fn changed(&self) -> u64 {
        self.denied + self.permitted + self.otherwise + self.in_shadow
    }

    /// How many calls were permitted then and would be denied now.
    pub(super) fn denied(&self) -> u64 {
        self.denied
    }

    /// The lines for people: each kind of change, then the counts.
    pub(super) fn describe(&self, printer: &Printer) -> String {
        let mut text = String::new();
        for (kind, told) in self.changes.iter() {
            kind.describe(told, printer, &mut text);
        }
        self.changes.describe_over(&mut text);
        // Writing to a string cannot fail.
        let _ = write!(text, "{} decided as they were", self.same);
        for (label, number) in [
            ("permitted then and denied now", self.denied),
            ("denied then and permitted now", self.permitted),
            ("denied for another reason", self.otherwise),
            ("going on then and now, but not both by right", self.in_shadow),
        ] {
            if number > 0 {
                let _ = write!(text, ", {}", printer.bad(format!("{number} {label}")));
            }
        }
        for (why, number) in &self.unplayed {
            let _ = write!(text, "\nnot decided again: {number} {}", words(*why));
        }
        text
    }

    /// The same for programs.
    pub(super) fn value(&self) -> Value {
        let unplayed = Unplayed::ALL.into_iter().filter(|why| *why != Unplayed::NoDecision);
        let unplayed = unplayed.map(|why| {
            let number = self.unplayed.get(&why).copied().unwrap_or_default();
            (why.as_str().to_owned(), json!(number))
        });
        json!({
            "same": self.same,
            "now_denied": self.denied,
            "now_permitted": self.permitted,
            "denied_otherwise": self.otherwise,
            "differing_in_shadow": self.in_shadow,
            "not_replayed": unplayed.collect::<serde_json::Map<_, _>>(),
            "changes": self.changes.values(),
            "changes_not_listed": self.changes.over(),
        })
    }
}

fn words(why: Unplayed) -> &'static str {
    match why {
        Unplayed::NoDecision => "that are no decisions",
        Unplayed::State => "denied by the state of an agent or a token, which files do not hold",
        Unplayed::Unread => "of requests that were not read, or not so far as these files ask",
        Unplayed::Sidecar => "denied because a sidecar had no current policy or no place for records",
        Unplayed::Policy => "of workloads that this policy is not for",
        Unplayed::NotKept => "whose bundle or state list was not kept",
    }
}

impl Kind {
    fn of(record: &Record<'_>, replayed: Replayed) -> Self {
        let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        Self {
            recorded: word(replayed.recorded),
            again: word(replayed.again),
            agent_id: owned(&record.agent_id),
            workload: owned(&record.workload),
            side: record.side.map_or("-", |side| side.as_str()),
            service: owned(&record.service),
            asked: record.facts.as_ref().map_or_else(|| "-".to_owned(), asked),
        }
    }

    fn describe(&self, told: &Told<Last>, printer: &Printer, text: &mut String) {
        let of = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), printable);
        let times = told.times();
        let _ = writeln!(
            text,
            "{}  {} -> {}  {}  {} then, {} now; {times}, such as line {} (call {})",
            self.side,
            printer.strong(of(&self.agent_id)),
            of(&self.service),
            printable(&self.asked).replace(['\n', '\t'], "\u{fffd}"),
            self.recorded,
            printer.bad(&self.again),
            told.detail.line,
            of(&told.detail.call),
        );
    }
}

fn word(verdict: Verdict) -> String {
    match verdict {
        Ok(None) => "permit".to_owned(),
        Ok(Some(code)) => format!("shadow:{code}"),
        Err(code) => code.to_string(),
    }
}

/// What a request asked for, in as few words as tell it from others.
pub(super) fn asked(facts: &RecordedFacts<'_>) -> String {
    if let Some(tool) = &facts.tool {
        return format!("tool {tool}");
    }
    if let Some(prompt) = &facts.prompt {
        return format!("prompt {prompt}");
    }
    if let Some((uri, _)) = facts.resources.first() {
        return format!("resource {uri}");
    }
    let method = facts.method.as_deref().unwrap_or("-");
    match &facts.scope {
        Some(scope) => format!("{method} {scope}"),
        None => format!("{method} {}", facts.path.as_deref().unwrap_or("-")),
    }
}

/// The mesh of files that are right.
pub(super) fn mesh(loaded: &Loaded) -> Result<&Mesh, &Diagnostics> {
    loaded.mesh.as_ref()
}
