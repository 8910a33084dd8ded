//! Where tasks and contexts of A2A are named: in paths, queries and bodies. What binds them to whoever opened them is in
//! [`crate::protocol::tasks`].

use std::ops::Range;

use super::message::Id;
use super::route::{self, Operation};
use super::{CARDS, REFUSALS, is_endpoint, malformed, named, unbound_list};
use crate::denial::Denial;
use crate::policy::{Service, Tasks};
use crate::protocol::jsonrpc::Envelope;
use crate::protocol::tasks::{Binding, quoted, written};
use crate::request::Facts;
use crate::session::Sealed;

mod answer;
#[cfg(test)]
mod tests;

pub(in crate::protocol) use answer::seal;

/// The parameters of a query that name nothing, by operation. Any other could be to some application what the path names.
const QUERY_OF_TASK: [&str; 1] = ["historyLength"];
const QUERY_OF_LIST: [&str; 7] = [
    "contextId",
    "historyLength",
    "includeArtifacts",
    "lastUpdatedAfter",
    "pageSize",
    "pageToken",
    "status",
];
const CONTEXT: &str = "contextId";
const VERSION: &str = "A2A-Version";

/// Checks that the query of a REST request names nothing but the context whose tasks are listed, where tasks are bound.
///
/// # Errors
///
/// `a2a_malformed`; `task_refused` for a list of no context.
pub(super) fn check_query(query: Option<&str>, operation: Operation, service: &Service) -> Result<(), Denial> {
    if service.tasks() != Tasks::Bound {
        return Ok(());
    }
    let known: &[&str] = match operation {
        Operation::Task => &QUERY_OF_TASK,
        Operation::List => &QUERY_OF_LIST,
        Operation::Send | Operation::Push | Operation::Card => &[],
    };
    let query = query.unwrap_or_default();
    let is_known = |field: &str| {
        let name = field.split_once('=').map_or(field, |(name, _)| name);
        field.is_empty() || known.contains(&name) || name == VERSION
    };
    if query.contains(';') || !query.split('&').all(is_known) {
        return Err(malformed("a parameter of the query that is not known"));
    }
    match operation {
        Operation::List => context(query).map(|_| ()),
        _ => Ok(()),
    }
}

/// Where the context stands whose tasks are listed.
fn context(query: &str) -> Result<Range<usize>, Denial> {
    let (mut found, mut start) = (None, 0);
    for field in query.split('&') {
        if let Some((CONTEXT, value)) = field.split_once('=') {
            let place = start + field.len() - value.len()..start + field.len();
            if found.replace(place).is_some() {
                return Err(malformed("a query names one context"));
            }
        }
        start += field.len() + 1;
    }
    found.filter(|place| !place.is_empty()).ok_or_else(unbound_list)
}

/// The target with the id in it opened; None if it names none.
///
/// # Errors
///
/// `task_mismatch`, or what [`check_query`] refuses.
pub(in crate::protocol) fn open_target(
    method: &str,
    target: &str,
    service: &Service,
    binding: &Binding<'_>,
) -> Result<Option<String>, Denial> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if is_endpoint(path, service) || CARDS.contains(&path) {
        return Ok(None);
    }
    // What is no operation has passed for being exempt, and names nothing that the agent knows.
    let Ok(operation) = route::operation(method, path, service.rest_base()) else {
        return Ok(None);
    };
    let (what, place) = match operation {
        Operation::Task => (Sealed::Task, route::task_id(path)),
        Operation::List => {
            let (place, before) = (context(query)?, path.len() + 1);
            (Sealed::Context, before + place.start..before + place.end)
        }
        Operation::Send | Operation::Push | Operation::Card => return Ok(None),
    };
    let sealed = target.get(place.clone()).unwrap_or_default();
    let opened = binding.open(what, sealed)?.to_owned();
    Ok(Some(written(target, [(place, opened)])))
}

/// The body with every id in it opened; None if it names none.
///
/// # Errors
///
/// `task_mismatch`, `task_refused` or `a2a_malformed`, with the id of a JSON-RPC request if there is one.
pub(in crate::protocol) fn open_body(
    facts: &Facts,
    body: &[u8],
    service: &Service,
    binding: &Binding<'_>,
) -> Result<Option<String>, Denial> {
    let document = REFUSALS.parse(body)?;
    let root = document.root();
    let ids = if is_endpoint(&facts.path, service) {
        let envelope = Envelope::read(root, REFUSALS)?;
        let method = envelope.method(REFUSALS)?;
        let operation = Operation::of_method(method).ok_or_else(|| malformed("the method is not known"))?;
        named(operation, envelope.params, service)?
    } else {
        let operation = route::operation(&facts.method, &facts.path, service.rest_base())?;
        let ids = named(operation, Some(root), service)?;
        if operation == Operation::Task {
            repeats_path(&ids, &facts.path)?;
        }
        ids
    };
    let mut opened = Vec::with_capacity(ids.len());
    for Id { what, value } in ids {
        let sealed = value.as_str().unwrap_or_default();
        opened.push((value.span(), quoted(binding.open(what, &sealed)?)));
    }
    let text = std::str::from_utf8(body).map_err(|_| malformed("the body is not UTF-8"))?;
    Ok((!opened.is_empty()).then(|| written(text, opened)))
}

/// A body that names the task beside its path must name the same.
fn repeats_path(ids: &[Id<'_>], path: &str) -> Result<(), Denial> {
    let named = path.get(route::task_id(path));
    match ids.iter().all(|id| id.value.as_str().as_deref() == named) {
        true => Ok(()),
        false => Err(malformed("the body names another task than the path")),
    }
}
