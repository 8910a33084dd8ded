//! A2A 1.0 and 0.3, over JSON-RPC and REST.
//!
//! Whatever is asked of an agent needs one right: to call it. Its card too is for those alone who may call it, because it
//! says what the agent can do. What a request names beside the agent is a task or a context, which belongs to whoever opened
//! it. The service's file says who sees to that: nobody, and then whoever names one is refused; the sidecar, by sealed ids
//! ([`tasks`]); or the application itself ([`Tasks`]).
//!
//! The binding follows from the path: JSON-RPC has the service's endpoint to itself, REST has its own paths below its base.
//! gRPC is told by its media type, and refused.

use super::body;
use super::jsonrpc::{Envelope, Refusals};
use crate::denial::{Code, Denial};
use crate::json::Value;
use crate::policy::{Service, Tasks};
use crate::request::{RequestHead, Right};

mod message;
mod route;
pub(super) mod tasks;
#[cfg(test)]
mod tests;
mod version;

use message::Id;
use route::Operation;

const REFUSALS: Refusals = Refusals {
    malformed: Code::A2aMalformed,
    batch: Code::A2aBatch,
    method: Code::A2aMethodRefused,
};

/// Both types are those of either binding (1.0, section 11.1; 0.3, section 3.2).
const TYPES: [&str; 2] = [body::JSON, A2A_JSON];
pub(super) const A2A_JSON: &str = "application/a2a+json";

/// Where an agent's card lies (RFC 8615), today and before 0.3.
const CARDS: [&str; 2] = ["/.well-known/agent-card.json", "/.well-known/agent.json"];

/// What the headers of a request could tell.
#[derive(Debug)]
pub(crate) enum Reading {
    /// The right that it needs.
    Ready(Right),
    /// Its body must be read first.
    Body(Expected),
}

/// What the body of a request is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A JSON-RPC message.
    JsonRpc,
    /// What a REST operation takes.
    Rest(Operation),
}

/// What a body asks for.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) right: Right,
    pub(crate) id: Option<String>,
    pub(crate) method: Option<String>,
}

/// Whether a path is the JSON-RPC endpoint, whose callers understand JSON-RPC errors.
pub(crate) fn is_endpoint(path: &str, service: &Service) -> bool {
    service
        .endpoint()
        .is_some_and(|endpoint| endpoint.captures(path).is_some())
}

/// Reads the headers of a request.
///
/// # Errors
///
/// `route_unknown`, `method_not_allowed`, `media_type_refused`, `body_encoded`, `body_too_large`, `a2a_version_refused`,
/// `task_refused`, or `a2a_malformed` where no body will come.
pub(crate) fn check_head(head: &RequestHead<'_>, service: &Service, end_of_stream: bool) -> Result<Reading, Denial> {
    if head.content_type().is_some_and(is_grpc) {
        let detail = "the gRPC binding is not served: use JSON-RPC or REST";
        return Err(Denial::new(Code::MediaTypeRefused, detail));
    }
    if is_endpoint(head.path(), service) {
        if head.method() != "POST" {
            let detail = "JSON-RPC messages are sent by POST";
            return Err(Denial::new(Code::MethodNotAllowed, detail).with_allow("POST"));
        }
        check_body(head, service, end_of_stream)?;
        return Ok(Reading::Body(Expected::JsonRpc));
    }
    if CARDS.contains(&head.path()) {
        return match head.method() {
            "GET" => right(service).map(Reading::Ready),
            _ => Err(unknown("the path has no route for this method")),
        };
    }
    let operation = route::operation(head.method(), head.path(), service.rest_base())?;
    match operation {
        Operation::Send => {
            check_body(head, service, end_of_stream)?;
            tasks::check_query(head.query(), operation, service)?;
            Ok(Reading::Body(Expected::Rest(operation)))
        }
        Operation::Task | Operation::List | Operation::Push => {
            version::check(head)?;
            check_tasks(operation, service)?;
            tasks::check_query(head.query(), operation, service)?;
            if head.method() != "POST" || end_of_stream {
                return right(service).map(Reading::Ready);
            }
            check_body(head, service, end_of_stream)?;
            Ok(Reading::Body(Expected::Rest(operation)))
        }
        Operation::Card => {
            version::check(head)?;
            right(service).map(Reading::Ready)
        }
    }
}

fn check_body(head: &RequestHead<'_>, service: &Service, end_of_stream: bool) -> Result<(), Denial> {
    let expected = "the body must be `application/json` or `application/a2a+json`";
    body::check(head, &TYPES, expected, service.body_limit_bytes())?;
    version::check(head)?;
    if end_of_stream {
        return Err(malformed("there is no body"));
    }
    Ok(())
}

/// `application/grpc`, `application/grpc+proto`, `application/grpc-web` and whatever else begins so.
fn is_grpc(content_type: &[u8]) -> bool {
    let prefix = b"application/grpc";
    content_type
        .trim_ascii_start()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Reads a whole body.
///
/// # Errors
///
/// `a2a_malformed`, `a2a_batch`, `a2a_method_refused` or `task_refused`; with the id of a JSON-RPC request if there is one.
pub(crate) fn read(body: &[u8], service: &Service, expected: Expected) -> Result<Message, Denial> {
    match expected {
        Expected::JsonRpc => read_rpc(body, service),
        Expected::Rest(operation) => {
            let document = REFUSALS.parse(body)?;
            named(operation, Some(document.root()), service)?;
            Ok(Message {
                right: right(service)?,
                id: None,
                method: None,
            })
        }
    }
}

fn read_rpc(body: &[u8], service: &Service) -> Result<Message, Denial> {
    let document = REFUSALS.parse(body)?;
    let envelope = Envelope::read(document.root(), REFUSALS)?;
    let id = envelope.id;
    let asked = ask(&envelope, service).map_err(|denial| denial.with_rpc_id(id))?;
    Ok(Message {
        right: right(service)?,
        id: id.map(str::to_owned),
        method: Some(asked),
    })
}

fn ask(envelope: &Envelope<'_>, service: &Service) -> Result<String, Denial> {
    let method = envelope.method(REFUSALS)?;
    let operation = Operation::of_method(method)
        .ok_or_else(|| Denial::new(Code::A2aMethodRefused, "this method is not served by this version"))?;
    if envelope.id.is_none() {
        return Err(malformed("a request needs an `id`"));
    }
    let ids = named(operation, envelope.params, service)?;
    if service.tasks() == Tasks::Bound && ids.is_empty() {
        match operation {
            Operation::Task => return Err(malformed("the `id` of a task is missing")),
            Operation::List => return Err(unbound_list()),
            Operation::Send | Operation::Push | Operation::Card => {}
        }
    }
    Ok(method.to_owned())
}

/// The ids in what a body asks with, `params` of JSON-RPC or the whole of it.
///
/// # Errors
///
/// `a2a_malformed`, or `task_refused` where nobody may name them.
fn named<'a>(operation: Operation, params: Option<Value<'a>>, service: &Service) -> Result<Vec<Id<'a>>, Denial> {
    match operation {
        Operation::Send => {
            let params = params.ok_or_else(|| malformed("`params` is missing"))?;
            let named = message::named(params)?;
            if named.push {
                check_tasks(Operation::Push, service)?;
            }
            if !named.ids.is_empty() {
                check_tasks(Operation::Task, service)?;
            }
            Ok(named.ids)
        }
        Operation::Task | Operation::List | Operation::Push => {
            check_tasks(operation, service)?;
            let read = match (operation, service.tasks()) {
                (Operation::Task, Tasks::Bound) => message::task,
                (Operation::List, Tasks::Bound) => message::context,
                _ => return Ok(Vec::new()),
            };
            Ok(params.map(read).transpose()?.flatten().into_iter().collect())
        }
        Operation::Card => Ok(Vec::new()),
    }
}

/// Whether tasks may be named at all, or a service be told to notify somebody of one.
fn check_tasks(operation: Operation, service: &Service) -> Result<(), Denial> {
    let why = match (service.tasks(), operation) {
        (Tasks::Bound, Operation::Push) => "a notification would name a task by another id than its opener knows",
        (Tasks::Application | Tasks::Bound, _) => return Ok(()),
        (Tasks::Refused, _) => {
            "tasks and contexts of this service are bound to no caller, so nobody is given one; \
             its file may have them bound (`tasks: bound`) or leave it to the application (`tasks: application`)"
        }
    };
    Err(Denial::new(Code::TaskRefused, why))
}

/// Whose the tasks of all contexts are, nobody can tell.
fn unbound_list() -> Denial {
    let why = "tasks are listed by a context of the caller's own (`contextId`)";
    Denial::new(Code::TaskRefused, why)
}

/// The right to call the agent behind the service.
fn right(service: &Service) -> Result<Right, Denial> {
    // INVARIANT: a bundle is refused if an A2A service names no agent.
    let called = service
        .called()
        .ok_or_else(|| Denial::new(Code::InternalError, "the service names no agent"))?;
    Ok(Right::Call {
        agent: called.agent.clone(),
        scope: called.scope.clone(),
    })
}

fn unknown(detail: &'static str) -> Denial {
    Denial::new(Code::RouteUnknown, detail)
}

fn malformed(detail: &'static str) -> Denial {
    REFUSALS.malformed(detail)
}
