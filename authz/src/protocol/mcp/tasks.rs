//! Where tasks are named: by `params.taskId` of their methods, by `taskIds` of a subscription, and in `_meta` of any message
//! that is part of one. What binds them to whoever opened them is in [`crate::protocol::tasks`].
//!
//! Since 2025-11-25 a call may open a task (`tools/call` with `task`), and since 2026-07-28, where the client knows the extension
//! `io.modelcontextprotocol/tasks`, a server may make one of any call. Before 2026-07-28 a server may open tasks at its client
//! too: those ids are the client's, stand in other places, and go on as they are.

use super::named::{self, Spelled, only_member, spellings};
use super::{META, REFUSALS, malformed, member_of_params};
use crate::denial::{Code, Denial};
use crate::json::Value;
use crate::policy::{Service, Tasks};
use crate::protocol::jsonrpc::Envelope;
use crate::protocol::tasks::{Binding, Seals, Word, quoted, written};
use crate::session::Sealed;

/// The member of `_meta` that says of which task a message is part (2025-11-25, related task metadata).
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// The methods that name one task.
const METHODS: [&str; 4] = ["tasks/get", "tasks/result", "tasks/update", "tasks/cancel"];

/// Whether tasks may be named at all.
///
/// # Errors
///
/// `task_refused`.
pub(super) fn check(service: &Service) -> Result<(), Denial> {
    match service.tasks() {
        Tasks::Application | Tasks::Bound => Ok(()),
        Tasks::Refused => Err(Denial::new(
            Code::TaskRefused,
            "tasks of this service are bound to no caller, so nobody is given one; its file may have them bound \
             (`tasks: bound`) or leave it to the application (`tasks: application`)",
        )),
    }
}

/// Whether the tasks of all callers may be listed.
///
/// # Errors
///
/// `task_refused`.
pub(super) fn check_list(service: &Service) -> Result<(), Denial> {
    match service.tasks() {
        Tasks::Bound => Err(Denial::new(
            Code::TaskRefused,
            "nobody can tell whose the tasks of a list are: ask for one by its id",
        )),
        Tasks::Application => Ok(()),
        Tasks::Refused => check(service),
    }
}

/// The id of the task that a message says it is part of, in `_meta` of its `params` or of the `result` that it brings.
///
/// # Errors
///
/// `mcp_malformed` if it is not one string, or a reader that folds case could find another.
pub(super) fn related<'a>(of: Option<Value<'a>>) -> Result<Option<Value<'a>>, Denial> {
    let Some(meta) = of.map(|of| member(of, META)).transpose()?.flatten() else {
        return Ok(None);
    };
    let Some(related) = member(meta, RELATED)? else {
        return Ok(None);
    };
    let id = only_member(related, "taskId").filter(|id| id.as_str().is_some());
    id.map(Some)
        .ok_or_else(|| malformed("the related task in `_meta` has not one `taskId`"))
}

/// A member that must be alone under its name, in whatever case; None if it is not there.
fn member<'a>(of: Value<'a>, name: &str) -> Result<Option<Value<'a>>, Denial> {
    match spellings(of, name) {
        Some(Spelled::Once(found)) => Ok(Some(found)),
        Some(Spelled::Otherwise) => Err(malformed("what tells of a task is spelled in another case")),
        None => Ok(None),
    }
}

/// `Mcp-Name` with the id in it opened, where `Mcp-Method` says that it names a task.
///
/// # Errors
///
/// `mcp_task_mismatch`.
pub(in crate::protocol) fn open_name(
    method: Option<&[u8]>,
    name: Option<&[u8]>,
    binding: &Binding<'_>,
) -> Result<Option<String>, Denial> {
    let names_task = method.is_some_and(|method| METHODS.iter().any(|known| known.as_bytes() == method));
    let Some(name) = name.filter(|_| names_task) else {
        return Ok(None);
    };
    // What is no text is not sealed either.
    let name = super::decode_name(name).unwrap_or_default();
    let name = std::str::from_utf8(&name).unwrap_or_default();
    binding.open(Sealed::McpTask, name).map(|id| Some(id.to_owned()))
}

/// The body with every id in it opened; None if it names none.
///
/// # Errors
///
/// `mcp_task_mismatch`, or what [`super::read`] refuses.
pub(in crate::protocol) fn open_body(body: &[u8], binding: &Binding<'_>) -> Result<Option<String>, Denial> {
    let document = REFUSALS.parse(body)?;
    let envelope = Envelope::read(document.root(), REFUSALS)?;
    let mut ids: Vec<Value<'_>> = related(envelope.params)?.into_iter().collect();
    if envelope.is_answer(REFUSALS)? {
        ids.extend(related(envelope.outcome())?);
    } else {
        let method = envelope.method(REFUSALS)?;
        if METHODS.contains(&method) {
            ids.extend(member_of_params(&envelope, named::TASK_ID));
        }
        if method == named::LISTEN {
            let told = member_of_params(&envelope, named::NOTIFICATIONS);
            let listed = told.and_then(|told| told.get(named::TASK_IDS)?.as_array());
            ids.extend(listed.into_iter().flatten());
        }
    }
    let mut opened = Vec::with_capacity(ids.len());
    for id in ids {
        let sealed = id.as_str().unwrap_or_default();
        opened.push((id.span(), quoted(binding.open(Sealed::McpTask, &sealed)?)));
    }
    let text = std::str::from_utf8(body).map_err(|_| malformed("the body is not UTF-8"))?;
    Ok((!opened.is_empty()).then(|| written(text, opened)))
}

/// Seals the ids of tasks in a message of the service: of a task that it opens, tells of or lets be listened to; and of the one
/// that was `asked` for, where the message says that it is part of that.
pub(in crate::protocol) fn seal(root: Value<'_>, asked: Option<&str>, seals: &mut Seals<'_>) {
    let method = root.get("method").and_then(|method| method.as_str());
    let brought = match (method.as_deref(), root.get("result"), root.get("params")) {
        (None, Some(result), _) => {
            result.get("task").into_iter().for_each(|task| task_of(task, seals));
            task_of(result, seals);
            result
        }
        (Some(method), None, Some(params)) => {
            match method {
                // A question of the server's, which has an id, may be about a task of the client's.
                _ if root.get("id").is_some() => {}
                "notifications/tasks" | "notifications/tasks/status" => task_of(params, seals),
                "notifications/subscriptions/acknowledged" => {
                    let told = params.get(named::NOTIFICATIONS);
                    let listed = told.and_then(|told| told.get(named::TASK_IDS)?.as_array());
                    for id in listed.into_iter().flatten() {
                        seals.put(Sealed::McpTask, Word::of(id).as_ref());
                    }
                }
                _ => {}
            }
            params
        }
        _ => return,
    };
    let related = brought.get(META).and_then(|meta| meta.get(RELATED));
    let id = related.and_then(|related| Word::member(related, &[named::TASK_ID]));
    let is_asked = |id: &Word<'_>| asked.is_some_and(|asked| asked == id.text);
    seals.put(Sealed::McpTask, id.filter(is_asked).as_ref());
}

/// A task, which has a status: what a tool calls so may be anything.
fn task_of(task: Value<'_>, seals: &mut Seals<'_>) {
    if task.get("status").is_some_and(|status| status.as_str().is_some()) {
        seals.put(Sealed::McpTask, Word::member(task, &[named::TASK_ID]).as_ref());
    }
}

#[cfg(test)]
mod tests;
