//! A record in a line, for people.

use authz::audit::{Kind, Record};

use super::remote::verified;
use crate::cli::keys::moment;
use crate::cli::output::{Printer, printable};

/// Who did what to whom, and what came of it.
pub(super) fn of(record: &Record<'_>) -> String {
    let mut words = vec![moment(record.time_ms / 1000)];
    let side = record.side.map_or("-", |side| side.as_str());
    words.push(format!("{side:<8}"));
    let kind = if record.is_heartbeat() {
        "heartbeat"
    } else {
        record.kind.as_str()
    };
    words.push(format!("{kind:<10}"));
    let agent = record.agent_id.as_deref().or(record.peer.as_deref());
    words.push(agent.or(record.workload.as_deref()).unwrap_or("-").to_owned());
    if let Some(service) = &record.service {
        words.push(format!("-> {service}"));
    }
    words.extend(outcome(record));
    words.join("  ")
}

fn outcome(record: &Record<'_>) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(facts) = &record.facts {
        let (method, path) = (facts.method.as_deref(), facts.path.as_deref());
        let what = facts.tool.as_deref().map(|tool| format!("tool {tool}"));
        words.extend(what.or_else(|| Some(format!("{} {}", method?, path?))));
    }
    let in_shadow = record.is_in_shadow();
    words.extend(
        record
            .verdict
            .filter(|_| !in_shadow)
            .map(|verdict| verdict.as_str().to_owned()),
    );
    words.extend(in_shadow.then(|| "permit in shadow".to_owned()));
    words.extend(record.code.map(|code| code.as_str().to_owned()));
    if record.kind == Kind::Completion {
        words.extend(record.status.map(|status| status.to_string()));
        words.extend(record.end.as_ref().map(ToString::to_string));
    }
    let count = record.count.filter(|count| *count > 0);
    words.extend(count.map(|count| format!("{count} times")));
    words
}

/// Prints a record: a line for people, with its place in the log if that is known; the record itself for programs.
pub(super) fn print(index: Option<u64>, line: &[u8], printer: &mut Printer) -> Result<(), crate::cli::Error> {
    let verified = verified(line)?;
    if printer.is_json() {
        printer.raw(verified.canonical)?;
        printer.raw(b"\n")?;
    } else {
        let index = index.map(|index| format!("{index:>8}  ")).unwrap_or_default();
        let text = format!("{index}{}", printable(&of(&verified.record)));
        printer.answer(text, &())?;
    }
    Ok(())
}
