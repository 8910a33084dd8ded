//! Which operation a JSON-RPC method or a REST path asks for.
//!
//! Operations need the same right, so all that matters here is which of them name or list tasks, and where.

use std::ops::Range;

use super::unknown;
use crate::denial::Denial;
use crate::policy::PathTemplate;

/// What a path says after the id of a task.
const SUBSCRIBE: &str = ":subscribe";
const CANCEL: &str = ":cancel";

/// An operation, as far as it matters to a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Sends a message, which may name a task or a context.
    Send,
    /// Gets, cancels or subscribes to one task, by its id.
    Task,
    /// Lists tasks, of one context or of all.
    List,
    /// Says who is told of a task.
    Push,
    /// Gets the card that callers of their own are shown.
    Card,
}

impl Operation {
    /// The operation of a JSON-RPC method, of 1.0 or of 0.3.
    pub(super) fn of_method(method: &str) -> Option<Self> {
        match method {
            "SendMessage" | "SendStreamingMessage" | "message/send" | "message/stream" => Some(Self::Send),
            "GetTask" | "CancelTask" | "SubscribeToTask" | "tasks/get" | "tasks/cancel" | "tasks/resubscribe" => {
                Some(Self::Task)
            }
            "ListTasks" | "tasks/list" => Some(Self::List),
            "CreateTaskPushNotificationConfig"
            | "GetTaskPushNotificationConfig"
            | "ListTaskPushNotificationConfigs"
            | "DeleteTaskPushNotificationConfig"
            | "tasks/pushNotificationConfig/set"
            | "tasks/pushNotificationConfig/get"
            | "tasks/pushNotificationConfig/list"
            | "tasks/pushNotificationConfig/delete" => Some(Self::Push),
            "GetExtendedAgentCard" | "agent/getAuthenticatedExtendedCard" => Some(Self::Card),
            _ => None,
        }
    }
}

/// The operation of a REST request below `base`.
///
/// Every path may have a tenant before it; 0.3's `/v1` reads as one. Where a path could be read in two ways (a tenant
/// called `tasks`), the reading that names a task counts.
///
/// # Errors
///
/// `route_unknown`.
pub(super) fn operation(method: &str, path: &str, base: Option<&PathTemplate>) -> Result<Operation, Denial> {
    let segments = below(base, path).ok_or_else(|| unknown("the path is not below the base of the REST binding"))?;
    let (is_path, operation) = match segments.as_slice() {
        ["tasks", rest @ ..] | [_, "tasks", rest @ ..] if is_task(rest) => (true, task(method, rest)),
        ["message:send" | "message:stream"] | [_, "message:send" | "message:stream"] => {
            (true, (method == "POST").then_some(Operation::Send))
        }
        ["extendedAgentCard"]
        | [_, "extendedAgentCard"]
        | ["v1", "card"]
        | [".well-known", "agent-card.json" | "agent.json"] => (true, (method == "GET").then_some(Operation::Card)),
        _ => (false, None),
    };
    operation.ok_or_else(|| {
        unknown(if is_path {
            "the path has no route for this method"
        } else {
            "the path is none of A2A's"
        })
    })
}

/// The segments of a path below a base without captures.
fn below<'p>(base: Option<&PathTemplate>, path: &'p str) -> Option<Vec<&'p str>> {
    base?.rest(path).map(|rest| rest.split('/').collect())
}

/// Whether `rest`, what follows `tasks`, is a path of the specification.
fn is_task(rest: &[&str]) -> bool {
    match rest {
        [] => true,
        // A verb of another noun means that `tasks` is a tenant: `/tasks/message:send`.
        [id] => !matches!(*id, "" | "message:send" | "message:stream"),
        [id, "pushNotificationConfigs"] => !id.is_empty(),
        [id, "pushNotificationConfigs", config] => !id.is_empty() && !config.is_empty(),
        _ => false,
    }
}

fn task(method: &str, rest: &[&str]) -> Option<Operation> {
    let (fits, operation) = match rest {
        [] => (method == "GET", Operation::List),
        // A subscription is a POST by the specification's text and a GET by its proto.
        [id] if id.ends_with(SUBSCRIBE) => (matches!(method, "GET" | "POST"), Operation::Task),
        [id] if id.ends_with(CANCEL) => (method == "POST", Operation::Task),
        [_] => (method == "GET", Operation::Task),
        [_, _] => (matches!(method, "GET" | "POST"), Operation::Push),
        _ => (matches!(method, "GET" | "DELETE"), Operation::Push),
    };
    fits.then_some(operation)
}

/// The id of the task in a path of [`Operation::Task`].
pub(super) fn task_id(path: &str) -> Range<usize> {
    let start = path.rfind('/').map_or(0, |slash| slash + 1);
    let segment = path.get(start..).unwrap_or_default();
    let id = segment
        .strip_suffix(SUBSCRIBE)
        .or_else(|| segment.strip_suffix(CANCEL))
        .unwrap_or(segment);
    start..start + id.len()
}
