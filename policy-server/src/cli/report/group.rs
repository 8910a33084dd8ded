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
use crate::cli::keys::moment;
use crate::cli::output::{Printer, printable};
use crate::cli::past::asked;

/// Kinds of calls that are told apart; what is over is counted.
const MOST_GROUPS: usize = 1000;

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

#[derive(Debug, Serialize)]
struct Group {
    count: u64,
    first_ms: u64,
    last_ms: u64,
    /// The last one.
    example: Example,
    #[serde(skip_serializing_if = "Grant::is_empty")]
    grant: Grant,
    advice: &'static str,
}

#[derive(Debug, Serialize)]
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
    groups: BTreeMap<Kind, Group>,
    calls: u64,
    /// Calls of kinds that are counted alone.
    over: u64,
}

impl Groups {
    /// Adds a record, if it is of a call that went on in shadow at its service's side: the caller's tells of the same calls.
    pub(super) fn add(&mut self, index: u64, record: &Record<'_>, mesh: Option<&Mesh>) {
        let inbound = record.side == Some(authz::request::Side::Inbound);
        let Some(code) = record.code.filter(|_| inbound && record.is_in_shadow()) else {
            return;
        };
        self.calls += 1;
        let kind = Kind::of(record, code);
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&kind) {
            self.over += 1;
            return;
        }
        let grant = Grant::of(record, code, mesh);
        let group = self.groups.entry(kind).or_insert_with(|| Group {
            count: 0,
            first_ms: record.time_ms,
            last_ms: record.time_ms,
            example: Example::of(record, index),
            grant: Grant::default(),
            advice: "",
        });
        group.count += 1;
        group.first_ms = group.first_ms.min(record.time_ms);
        group.last_ms = group.last_ms.max(record.time_ms);
        group.example = Example::of(record, index);
        group.grant.join(&grant);
        group.advice = advice(code, &group.grant);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls == 0
    }

    /// What to add to each agent's file.
    fn grants(&self) -> BTreeMap<&str, Grant> {
        let mut grants: BTreeMap<&str, Grant> = BTreeMap::new();
        for (kind, group) in &self.groups {
            if let Some(agent) = kind.agent_id.as_deref().filter(|_| !group.grant.is_empty()) {
                grants.entry(agent).or_default().join(&group.grant);
            }
        }
        grants
    }

    /// For people: each kind and what to do about it, then what to add to which file.
    // Writing to a string cannot fail.
    pub(super) fn describe(&self, printer: &Printer) -> String {
        let mut text = String::new();
        for (kind, group) in &self.groups {
            kind.describe(group, printer, &mut text);
        }
        if self.over > 0 {
            let _ = writeln!(text, "and {} of other kinds", self.over);
        }
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
        let groups = self.groups.iter().map(|(kind, group)| {
            let mut value = json!(kind);
            if let (Some(value), Value::Object(group)) = (value.as_object_mut(), json!(group)) {
                value.extend(group);
            }
            value
        });
        let grants = self.grants();
        let grants = grants
            .iter()
            .map(|(agent, grant)| json!({ "agent_id": agent, "spec": grant }));
        json!({
            "calls": self.calls,
            "groups": groups.collect::<Vec<_>>(),
            "calls_not_listed": self.over,
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

    fn describe(&self, group: &Group, printer: &Printer, text: &mut String) {
        let of = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), printable);
        let (first, last) = (moment(group.first_ms / 1000), moment(group.last_ms / 1000));
        let times = if group.count == 1 {
            format!("once at {last}")
        } else {
            format!("{} times from {first} to {last}", group.count)
        };
        let who = self.agent_id.as_ref().or(self.caller.as_ref()).cloned();
        let Example {
            call,
            trace_id,
            txn,
            index,
        } = &group.example;
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
            group.advice,
        );
        for line in printable(&group.grant.yaml()).lines() {
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
