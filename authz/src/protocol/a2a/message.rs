//! The message that is sent to an agent: whether it names a task or a context.
//!
//! Members are read in the spellings that honest peers write: protobuf's JSON in camel case and, as readers of it must take,
//! in snake case (0.3's REST client sends that). One member in both spellings, and one that is not known, is refused.
//! What the parts of a message hold is the agents' own.

use super::malformed;
use crate::denial::Denial;
use crate::json::{Kind, Value};

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

/// Whether the parameters of a message that is sent name a task, a context, or who is to be told of a task.
///
/// # Errors
///
/// `a2a_malformed`.
pub(super) fn names_task(params: Value<'_>) -> Result<bool, Denial> {
    let [_, message, configuration, _] = members(params, &PARAMS)?;
    let message = message.ok_or_else(|| malformed("`message` is missing"))?;
    let [task, context, references, ..] = members(message, &MESSAGE)?;
    let references = match references {
        Some(listed) => listed
            .as_array()
            .ok_or_else(|| malformed("`referenceTaskIds` is no array"))?
            .next()
            .is_some(),
        None => false,
    };
    let push = match configuration {
        Some(configuration) => {
            let [push, ..] = members(configuration, &CONFIGURATION)?;
            push.is_some()
        }
        None => false,
    };
    Ok(is_named(task)? || is_named(context)? || references || push)
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

/// Whether an id is there. An empty one is what protobuf takes for none.
fn is_named(id: Option<Value<'_>>) -> Result<bool, Denial> {
    let Some(id) = id else {
        return Ok(false);
    };
    if id.kind() != Kind::String || id.raw().len() > MAX_ID_BYTES {
        return Err(malformed("an id is a short string"));
    }
    Ok(id.as_str().is_some_and(|id| !id.is_empty()))
}
