//! What an agent answers: the task, message or update that it brings, and where its history repeats that task and context.

use crate::json::Value;
use crate::protocol::tasks::{Seals, Word};
use crate::session::Sealed;

/// Seals the ids of a message of JSON-RPC or REST.
pub(in crate::protocol) fn seal(root: Value<'_>, seals: &mut Seals<'_>) {
    // JSON-RPC has it in `result`; no message of REST has such a member.
    payload(root.get("result").unwrap_or(root), seals);
}

/// What an operation brings: a list of tasks, or one of four by the member that holds it (1.0, and REST of 0.3), by its
/// `kind` (JSON-RPC of 0.3), or a task that stands alone.
fn payload(result: Value<'_>, seals: &mut Seals<'_>) {
    let kind = result.get("kind").and_then(|kind| kind.as_str());
    match kind.as_deref() {
        Some("task") => return task(result, seals),
        Some("message" | "status-update" | "artifact-update") => return of_task(result, seals),
        _ => {}
    }
    for (key, value) in result.entries().into_iter().flatten() {
        match &*key {
            "tasks" => value
                .as_array()
                .into_iter()
                .flatten()
                .for_each(|listed| task(listed, seals)),
            "task" => task(value, seals),
            "message" | "msg" | "statusUpdate" | "status_update" | "artifactUpdate" | "artifact_update" => {
                of_task(value, seals);
            }
            "status" if value.entries().is_some() => task(result, seals),
            _ => {}
        }
    }
}

fn task(task: Value<'_>, seals: &mut Seals<'_>) {
    let ids = Ids {
        task: Word::member(task, &["id"]),
        context: Word::member(task, &["contextId", "context_id"]),
    };
    seals.put(Sealed::Task, ids.task.as_ref());
    seals.put(Sealed::Context, ids.context.as_ref());
    let history = task.get("history").and_then(|history| history.as_array());
    for message in history.into_iter().flatten() {
        repeated(message, &ids, seals);
    }
    status(task, &ids, seals);
}

/// A message or an update, which names its task by `taskId`.
fn of_task(part: Value<'_>, seals: &mut Seals<'_>) {
    let ids = Ids {
        task: Word::member(part, &["taskId", "task_id"]),
        context: Word::member(part, &["contextId", "context_id"]),
    };
    seals.put(Sealed::Task, ids.task.as_ref());
    seals.put(Sealed::Context, ids.context.as_ref());
    status(part, &ids, seals);
}

/// The message of a status; REST of 0.3 calls it `update`.
fn status(of: Value<'_>, ids: &Ids<'_>, seals: &mut Seals<'_>) {
    let Some(status) = of.get("status") else { return };
    for message in ["message", "update"].into_iter().filter_map(|name| status.get(name)) {
        repeated(message, ids, seals);
    }
}

/// A message within a task, where it repeats the ids of that.
fn repeated(message: Value<'_>, ids: &Ids<'_>, seals: &mut Seals<'_>) {
    for (what, names, known) in [
        (Sealed::Task, ["taskId", "task_id"], &ids.task),
        (Sealed::Context, ["contextId", "context_id"], &ids.context),
    ] {
        let named = Word::member(message, &names);
        let is_same = |named: &Word<'_>| known.as_ref().is_some_and(|known| known.text == named.text);
        seals.put(what, named.filter(is_same).as_ref());
    }
}

/// The ids of a task.
struct Ids<'a> {
    task: Option<Word<'a>>,
    context: Option<Word<'a>>,
}
