//! The tasks and contexts that a message to an agent, or another request's body, names.
//!
//! Members are read in the spellings that honest peers write: protobuf's JSON in camel case and, as readers of it must take,
//! in snake case (0.3's REST client sends that). One member in both spellings, and one that is not known, is refused.
//! What the parts of a message hold is the agents' own.

use super::malformed;
use crate::denial::Denial;
use crate::json::{Kind, Value};
use crate::session::Sealed;

/// The longest id of a task or context that is read; real ones are UUIDs.
pub(super) const MAX_ID_BYTES: usize = 256;

/// A member of an object, by all of its spellings.
type Member = &'static [&'static str];

const PARAMS: [Member; 4] = [&["tenant"], &["message", "request"], &["configuration"], &["metadata"]];

const MESSAGE: [Member; 9] = [
    &["taskId", "task_id"],
    &["contextId", "context_id"],
    &["referenceTaskIds", "reference_task_ids"],
    &["messageId", "message_id"],
    &["role"],
    &["parts", "content"],
    &["metadata"],
    &["extensions"],
    &["kind"],
];

const CONFIGURATION: [Member; 5] = [
    &[
        "taskPushNotificationConfig",
        "task_push_notification_config",
        "pushNotificationConfig",
        "push_notification_config",
        "pushNotification",
        "push_notification",
    ],
    &["acceptedOutputModes", "accepted_output_modes"],
    &["historyLength", "history_length"],
    &["returnImmediately", "return_immediately"],
    &["blocking"],
];

const TASK: [Member; 4] = [
    &["id"],
    &["tenant"],
    &["historyLength", "history_length"],
    &["metadata"],
];

const LIST: [Member; 9] = [
    &["contextId", "context_id"],
    &["tenant"],
    &["status"],
    &["pageSize", "page_size"],
    &["pageToken", "page_token"],
    &["historyLength", "history_length"],
    &[
        "statusTimestampAfter",
        "status_timestamp_after",
        "lastUpdatedAfter",
        "last_updated_after",
    ],
    &["includeArtifacts", "include_artifacts"],
    &["metadata"],
];

/// The id of a task or context, as it stands in a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<'a> {
    pub(super) what: Sealed,
    pub(super) value: Value<'a>,
}

/// What a message that is sent names.
#[derive(Debug)]
pub(super) struct Named<'a> {
    pub(super) ids: Vec<Id<'a>>,
    /// Whether it says who is to be told of its task.
    pub(super) push: bool,
}

/// What the parameters of a message that is sent name: tasks, a context, or who is to be told of a task.
///
/// # Errors
///
/// `a2a_malformed`.
pub(super) fn named(params: Value<'_>) -> Result<Named<'_>, Denial> {
    let [_, message, configuration, _] = members(params, &PARAMS)?;
    let message = message.ok_or_else(|| malformed("`message` is missing"))?;
    let [task, context, references, ..] = members(message, &MESSAGE)?;
    let references = references
        .map(|listed| {
            listed
                .as_array()
                .ok_or_else(|| malformed("`referenceTaskIds` is no array"))
        })
        .transpose()?;
    let push = match configuration {
        Some(configuration) => {
            let [push, ..] = members(configuration, &CONFIGURATION)?;
            push.is_some()
        }
        None => false,
    };
    let mut ids: Vec<Id<'_>> = id(Sealed::Task, task)?.into_iter().collect();
    ids.extend(id(Sealed::Context, context)?);
    for reference in references.into_iter().flatten() {
        let reference = id(Sealed::Task, Some(reference))?;
        ids.push(reference.ok_or_else(|| malformed("a reference names no task"))?);
    }
    Ok(Named { ids, push })
}

/// The task that the parameters of an operation on one task name, if they do.
///
/// # Errors
///
/// `a2a_malformed`.
pub(super) fn task(params: Value<'_>) -> Result<Option<Id<'_>>, Denial> {
    let [task, ..] = members(params, &TASK)?;
    id(Sealed::Task, task)
}

/// The context whose tasks are to be listed, if the parameters name one.
///
/// # Errors
///
/// `a2a_malformed`.
pub(super) fn context(params: Value<'_>) -> Result<Option<Id<'_>>, Denial> {
    let [context, ..] = members(params, &LIST)?;
    id(Sealed::Context, context)
}

/// The members of an object by their places in `known`. Null is what is not there.
fn members<'a, const N: usize>(object: Value<'a>, known: &[Member; N]) -> Result<[Option<Value<'a>>; N], Denial> {
    let mut found = [None; N];
    let entries = object
        .entries()
        .ok_or_else(|| malformed("the message or its configuration is no object"))?;
    let mut written = [false; N];
    for (key, value) in entries {
        let place = known
            .iter()
            .zip(found.iter_mut().zip(&mut written))
            .find(|(spellings, _)| spellings.contains(&&*key));
        let Some((_, (slot, written))) = place else {
            return Err(malformed("an unknown member of the message or of its parameters"));
        };
        if std::mem::replace(written, true) {
            return Err(malformed("a member in two spellings"));
        }
        *slot = (!value.is_null()).then_some(value);
    }
    Ok(found)
}

/// An id, if it is there. An empty one is what protobuf takes for none.
fn id(what: Sealed, value: Option<Value<'_>>) -> Result<Option<Id<'_>>, Denial> {
    let Some(value) = value else {
        return Ok(None);
    };
    if value.kind() != Kind::String || value.raw().len() > MAX_ID_BYTES {
        return Err(malformed("an id is a short string"));
    }
    let is_there = value.as_str().is_some_and(|id| !id.is_empty());
    Ok(is_there.then_some(Id { what, value }))
}
