//! A user request as a tree of lines.

use std::fmt::Write as _;

use authz::trace::{Actor, Asked, Attempt, Call, Ended, SeenBy, Trace};

use crate::cli::check::count;
use crate::cli::keys::moment;
use crate::cli::output::Printer;

/// Draws a trace. What stands in it came from callers: see that no control character is printed.
pub(super) fn draw(trace: &Trace, printer: &Printer) -> String {
    let mut tree = Tree {
        text: String::new(),
        printer,
        start_ms: trace.started_ms,
    };
    tree.head(trace);
    for (place, actor) in trace.agents.iter().enumerate() {
        tree.actor(actor, place + 1 == trace.agents.len());
    }
    tree.text
}

struct Tree<'a> {
    text: String,
    printer: &'a Printer,
    start_ms: u64,
}

/// What stands before a node, and before the lines that belong to it.
struct Branch {
    node: String,
    below: String,
}

impl Branch {
    fn of(indent: &str, last: bool) -> Self {
        let (node, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        Self {
            node: format!("{indent}{node}"),
            below: format!("{indent}{below}"),
        }
    }
}

// Writing to a string cannot fail.
impl Tree<'_> {
    fn head(&mut self, trace: &Trace) {
        let calls = trace.agents.iter().map(|actor| total(&actor.calls, &|_| true)).sum();
        let denied = trace.agents.iter().map(|actor| total(&actor.calls, &is_denied)).sum();
        let (calls, denied): (usize, usize) = (calls, denied);
        let took = seconds(trace.ended_ms.saturating_sub(trace.started_ms));
        let _ = write!(
            self.text,
            "{}  {} of {}, {denied} denied, {} in {took}",
            self.printer.strong(&trace.txn),
            count(calls, "call"),
            count(trace.agents.len(), "agent"),
            moment(trace.started_ms / 1000),
        );
        for id in &trace.trace_ids {
            let _ = write!(self.text, "\ntrace {id}");
        }
        if !trace.complete {
            let cut = "this user request has more records than are shown";
            let _ = write!(self.text, "\n{}", self.printer.bad(cut));
        }
        self.text.push('\n');
    }

    fn actor(&mut self, actor: &Actor, last: bool) {
        let branch = Branch::of("", last);
        let name = actor.agent_id.as_deref().unwrap_or("(without a capability)");
        let _ = writeln!(self.text, "{}{}", branch.node, self.printer.strong(name));
        for capability in &actor.capabilities {
            let rail = if actor.calls.is_empty() { "   " } else { "│  " };
            let _ = writeln!(
                self.text,
                "{}{rail}{}, asked for by {} at {}, token {}",
                branch.below,
                capability.operation_id,
                capability.issued_by,
                moment(capability.iat),
                capability.jti
            );
        }
        self.calls(&actor.calls, &branch.below, actor.agent_id.as_deref());
    }

    fn calls(&mut self, calls: &[Call], indent: &str, agent: Option<&str>) {
        for (place, call) in calls.iter().enumerate() {
            let branch = Branch::of(indent, place + 1 == calls.len());
            self.call(call, &branch, agent);
            self.calls(&call.calls, &branch.below, call.agent_id.as_deref());
        }
    }

    /// A call; its agent is named where it is not the one above.
    fn call(&mut self, call: &Call, branch: &Branch, above: Option<&str>) {
        let mut words = vec![format!("+{}", seconds(call.started_ms.saturating_sub(self.start_ms)))];
        if call.agent_id.as_deref() != above {
            words.push(
                call.agent_id
                    .clone()
                    .unwrap_or_else(|| "(without a capability)".to_owned()),
            );
        }
        words.push(call.service.clone().unwrap_or_else(|| "(no service)".to_owned()));
        words.push(asked(&call.asked));
        words.extend(call.asked.scope.clone());
        words.push(self.outcome(call));
        let _ = writeln!(self.text, "{}{}", branch.node, words.join("  "));
        let rail = if call.calls.is_empty() { "   " } else { "│  " };
        for line in self.details(call) {
            let _ = writeln!(self.text, "{}{rail}{line}", branch.below);
        }
    }

    /// What the caller got, by the side that stands nearest to it.
    fn outcome(&self, call: &Call) -> String {
        if let Some(denied) = call
            .attempts
            .iter()
            .find(|attempt| attempt.verdict.as_deref() == Some("deny"))
        {
            let code = denied.code.as_deref().unwrap_or("denied");
            let at = if denied.side == "outbound" {
                "by the caller's sidecar"
            } else {
                "by the service's sidecar"
            };
            return format!("{} {at}", self.printer.bad(format!("deny {code}")));
        }
        match call.attempts.iter().find_map(|attempt| attempt.ended.as_ref()) {
            Some(ended) => {
                let mut words = vec![self.printer.good("permit").to_string()];
                words.extend(shadowed(call).map(|code| self.printer.bad(format!("in shadow: {code}")).to_string()));
                words.extend(ended.status.map(|status| status.to_string()));
                let end = ended.end.clone().filter(|end| end != "complete");
                words.extend(end.map(|end| self.printer.bad(end).to_string()));
                words.extend(ended.code.clone());
                words.extend(ended.duration_us.map(|took| seconds(took / 1000)));
                words.join("  ")
            }
            None => format!("{}  has not ended", self.printer.good("permit")),
        }
    }

    fn details(&self, call: &Call) -> Vec<String> {
        let mut lines = Vec::new();
        let id = call.call.as_deref().unwrap_or("(without an id)");
        let inbound = call.attempts.iter().filter(|attempt| attempt.side == "inbound").count();
        let mut line = format!("call {id}");
        if let Some(trace) = &call.trace_id {
            let _ = write!(line, "  trace {trace}");
        }
        match call.seen_by {
            SeenBy::Both => line.push_str("  seen by both sides"),
            SeenBy::Caller => line.push_str("  seen by the caller's side"),
            SeenBy::Service => {
                let alone = self.printer.bad("seen by the service's side alone");
                let _ = write!(line, "  {alone}");
            }
        }
        if inbound > 1 {
            let _ = write!(line, "  {inbound} attempts");
        }
        lines.push(line);
        let request = |ended: &Ended| (ended.request_digest.clone(), ended.request_bytes);
        let response = |ended: &Ended| (ended.response_digest.clone(), ended.response_bytes);
        lines.extend(digests("request", &call.attempts, &request));
        lines.extend(digests("response", &call.attempts, &response));
        lines
    }
}

/// A body's digest and length.
type Body = (Option<String>, Option<u64>);

/// The digest that every attempt recorded, or each with its side where they are not the same.
fn digests(what: &str, attempts: &[Attempt], read: &dyn Fn(&Ended) -> Body) -> Vec<String> {
    let mut told: Vec<(String, Vec<&str>)> = Vec::new();
    for attempt in attempts {
        let Some((Some(digest), bytes)) = attempt.ended.as_ref().map(read) else {
            continue;
        };
        let digest = format!("{digest} ({} bytes)", bytes.unwrap_or_default());
        match told.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, sides)) => sides.push(&attempt.side),
            None => told.push((digest, vec![&attempt.side])),
        }
    }
    match &told[..] {
        [(digest, _)] => vec![format!("{what:<8}  {digest}")],
        several => several
            .iter()
            .map(|(digest, sides)| format!("{what:<8}  {digest} {}", sides.join(", ")))
            .collect(),
    }
}

fn asked(asked: &Asked) -> String {
    if let Some(tool) = &asked.tool {
        return format!("tool {tool}");
    }
    if let Some(prompt) = &asked.prompt {
        return format!("prompt {prompt}");
    }
    if !asked.resources.is_empty() {
        return format!("resource {}", asked.resources.join(", "));
    }
    if let Some(method) = &asked.rpc_method {
        return method.clone();
    }
    let method = asked.method.as_deref().unwrap_or("-");
    format!("{method} {}", asked.path.as_deref().unwrap_or("-"))
}

/// What would have denied a call that went on in shadow.
fn shadowed(call: &Call) -> Option<&str> {
    let mut permits = call
        .attempts
        .iter()
        .filter(|attempt| attempt.verdict.as_deref() == Some("permit"));
    permits.find_map(|attempt| attempt.code.as_deref())
}

fn is_denied(call: &Call) -> bool {
    let mut attempts = call.attempts.iter();
    attempts.any(|attempt| attempt.verdict.as_deref() == Some("deny"))
}

/// How many calls a tree has of some kind.
fn total(calls: &[Call], kind: &dyn Fn(&Call) -> bool) -> usize {
    let below = calls
        .iter()
        .map(|call| usize::from(kind(call)) + total(&call.calls, kind));
    below.sum()
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}
