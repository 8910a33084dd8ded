//! Calls that went on in shadow, those together that one person can act on at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use authz::audit::Record;
use authz::denial::Code;
use authz::manifest::Mesh;
use serde::Serialize;
use serde_json::{Value, json};

use super::grant::{Grant, advice};
use crate::cli::check::count;
use crate::cli::kinds::{Kinds, Told};
use crate::cli::output::{Printer, printable};
use crate::cli::past::asked;

/// What is told in one line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Kind {
    service: String,
    /// The agent of its token.
    agent_id: Option<String>,
    /// The workload that called.
    caller: Option<String>,
    code: &'static str,
    asked: String,
}

/// What is said of a kind beside.
#[derive(Debug, Default, Serialize)]
struct Detail {
    /// The last call.
    example: Example,
    #[serde(skip_serializing_if = "Grant::is_empty")]
    grant: Grant,
    advice: &'static str,
}

#[derive(Debug, Default, Serialize)]
struct Example {
    call: Option<String>,
    trace_id: Option<String>,
    txn: Option<String>,
    /// Its record's place in the log or, of a file, its line.
    index: u64,
}

/// What went on in shadow.
#[derive(Debug, Default)]
pub(super) struct Groups {
    kinds: Kinds<Kind, Detail>,
    calls: u64,
}

impl Groups {
    /// Adds a record, if it is of a call that went on in shadow at its service's side: the caller's tells of the same calls.
    pub(super) fn add(&mut self, index: u64, record: &Record<'_>, mesh: Option<&Mesh>) {
        let inbound = record.side == Some(authz::request::Side::Inbound);
        let Some(code) = record.code.filter(|_| inbound && record.is_in_shadow()) else {
            return;
        };
        self.calls += 1;
        if let Some(detail) = self.kinds.add(Kind::of(record, code), record.time_ms) {
            detail.example = Example::of(record, index);
            detail.grant.join(&Grant::of(record, code, mesh));
            detail.advice = advice(code, &detail.grant);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls == 0
    }

    /// What to add to each agent's file.
    fn grants(&self) -> BTreeMap<&str, Grant> {
        let mut grants: BTreeMap<&str, Grant> = BTreeMap::new();
        for (kind, told) in self.kinds.iter() {
            let grant = &told.detail.grant;
            if let Some(agent) = kind.agent_id.as_deref().filter(|_| !grant.is_empty()) {
                grants.entry(agent).or_default().join(grant);
            }
        }
        grants
    }

    /// For people: each kind and what to do about it, then what to add to which file.
    // Writing to a string cannot fail.
    pub(super) fn describe(&self, printer: &Printer) -> String {
        let mut text = String::new();
        for (kind, told) in self.kinds.iter() {
            kind.describe(told, printer, &mut text);
        }
        self.kinds.describe_over(&mut text);
        for (agent, grant) in self.grants() {
            let _ = write!(
                text,
                "\nto `spec` of {}'s file, if it is to be granted:\n{}",
                printer.strong(printable(agent)),
                printable(&grant.yaml())
            );
        }
        if self.is_empty() {
            let _ = write!(text, "{}: no call went on in shadow", printer.good("ok"));
        } else {
            let calls = count(usize::try_from(self.calls).unwrap_or(usize::MAX), "call");
            let calls = printer.bad(calls);
            let _ = write!(text, "\n{calls} went on in shadow that enforcing would have denied");
        }
        text
    }

    /// The same for programs.
    pub(super) fn value(&self) -> Value {
        let grants = self.grants();
        let grants = grants
            .iter()
            .map(|(agent, grant)| json!({ "agent_id": agent, "spec": grant }));
        json!({
            "calls": self.calls,
            "groups": self.kinds.values(),
            "calls_not_listed": self.kinds.over(),
            "grants": grants.collect::<Vec<_>>(),
        })
    }
}

impl Kind {
    fn of(record: &Record<'_>, code: Code) -> Self {
        let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        Self {
            service: owned(&record.service).unwrap_or_default(),
            agent_id: owned(&record.agent_id),
            caller: owned(&record.peer),
            code: code.as_str(),
            asked: record.facts.as_ref().map_or_else(|| "-".to_owned(), asked),
        }
    }

    fn describe(&self, told: &Told<Detail>, printer: &Printer, text: &mut String) {
        let of = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), printable);
        let (times, detail) = (told.times(), &told.detail);
        let who = self.agent_id.as_ref().or(self.caller.as_ref()).cloned();
        let Example {
            call,
            trace_id,
            txn,
            index,
        } = &detail.example;
        let _ = writeln!(
            text,
            "{}  {} -> {}  {}  {times}, such as record {index} (call {}, trace {}, user request {})\n  {}",
            printer.bad(self.code),
            printer.strong(of(&who)),
            printable(&self.service),
            printable(&self.asked).replace(['\n', '\t'], "\u{fffd}"),
            of(call),
            of(trace_id),
            of(txn),
            detail.advice,
        );
        for line in printable(&detail.grant.yaml()).lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
}

impl Example {
    fn of(record: &Record<'_>, index: u64) -> Self {
        let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        Self {
            call: owned(&record.call),
            trace_id: owned(&record.trace_id),
            txn: owned(&record.txn),
            index,
        }
    }
}
