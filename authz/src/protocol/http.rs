//! HTTP: the route table of a service.
//!
//! `COPY` and `MOVE` (WebDAV, RFC 4918) name a second resource, in `Destination`: it is written, so its route is that of a `PUT`
//! to it, and both rights are needed.

use crate::denial::{Code, Denial};
use crate::policy::{Captures, QueryCapture, Route, Service};
use crate::request::{self, RequestHead, ResourceNeed, Right};
use crate::scope::{self, Capture};

/// What a route makes of a request.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) right: Right,
    pub(crate) captures: Vec<(String, String)>,
    pub(crate) own: Option<String>,
    /// What is written besides.
    pub(crate) destination: Option<ResourceNeed>,
}

/// The methods that copy or move to a [`DESTINATION`].
const WITH_DESTINATION: [&str; 2] = ["COPY", "MOVE"];

/// The header that names it (RFC 4918, section 10.3).
pub(crate) const DESTINATION: &str = "destination";

/// The method by whose route a destination is written.
const WRITES: &str = "PUT";

/// Whether requests by this method name a second resource.
pub(crate) fn has_destination(method: &str) -> bool {
    WITH_DESTINATION.contains(&method)
}

/// Finds the route of a request, and that of its destination.
///
/// The method is compared exactly: `HEAD` and `OPTIONS` are not `GET`. No two routes of one method overlap, so there
/// is at most one.
///
/// # Errors
///
/// `route_unknown`; of a destination also `request_malformed`, `header_duplicate`, `path_not_canonical` or
/// `own_segment_mismatch`.
pub(crate) fn route(head: &RequestHead<'_>, service: &Service) -> Result<Match, Denial> {
    let found = route_of(head.method(), head.path(), head.query(), service)?;
    if !has_destination(head.method()) {
        return Ok(found);
    }
    let path = head
        .destination()?
        .ok_or_else(|| Denial::new(Code::RequestMalformed, "`Destination` is missing"))?;
    let Match { right, own, .. } = route_of(WRITES, path, None, service)?;
    let Right::Scope(scope) = right else {
        return Err(unknown("the destination has no route"));
    };
    let own = match (found.own, own) {
        (Some(one), Some(other)) if one != other => {
            let why = "source and destination are not one agent's own";
            return Err(Denial::new(Code::OwnSegmentMismatch, why));
        }
        (one, other) => one.or(other),
    };
    let destination = Some(ResourceNeed {
        uri: path.to_owned(),
        scope: Some(scope),
    });
    Ok(Match {
        own,
        destination,
        ..found
    })
}

fn route_of(method: &str, path: &str, query: Option<&str>, service: &Service) -> Result<Match, Denial> {
    let mut other_method = false;
    for route in service.routes() {
        let Some(captures) = route.path.captures(path) else {
            continue;
        };
        if route.method.as_str() == method {
            return apply(route, captures, query);
        }
        other_method = true;
    }
    Err(unknown(if other_method {
        "the path has no route for this method"
    } else {
        "the path matches no route"
    }))
}

/// Whether some peer may make this request without a capability; which one is for the decision.
pub(crate) fn is_exempt_for_some(method: &str, path: &str, service: &Service) -> bool {
    // Where it would copy or move to, no file says.
    !has_destination(method)
        && service
            .exempt()
            .iter()
            .any(|exempt| exempt.method.as_str() == method && exempt.path.captures(path).is_some())
}

fn apply<'t, 'p>(route: &'t Route, mut captures: Captures<'t, 'p>, query: Option<&'p str>) -> Result<Match, Denial> {
    for QueryCapture { parameter, capture } in &route.query {
        captures.push((capture, parameter_value(query.unwrap_or_default(), parameter)?));
    }
    if !captures.iter().all(|(_, value)| scope::is_segment(value)) {
        return Err(unknown("a captured segment may hold only a-z, 0-9, `_` and `-`"));
    }
    let value = |name: &str| {
        captures
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| *value)
    };
    let needed = route.scope.render(|capture| match capture {
        Capture::Path(name) => value(name),
        Capture::Argument(_) => None,
    });
    // INVARIANT: a bundle is refused if a route's scope or `own` names what its path does not capture.
    let needed = needed.map_err(|_| unknown("the captured segments make no scope"))?;
    let own = match route.own.as_deref() {
        None => None,
        Some(name) => Some(
            value(name)
                .ok_or_else(|| unknown("the route's own segment is not captured"))?
                .to_owned(),
        ),
    };
    Ok(Match {
        right: Right::Scope(needed),
        captures: captures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        own,
        destination: None,
    })
}

/// The value of a parameter that must be there once, in its one spelling.
///
/// Applications differ in which of two they take, in whether case, escapes and brackets (`table[]`, PHP) make another name
/// of it, and in whether `;` separates: what could be the parameter to any of them counts as it, and what is one to some only is
/// refused.
fn parameter_value<'p>(query: &'p str, name: &str) -> Result<&'p str, Denial> {
    let mut found = None;
    for field in query.split('&') {
        for part in field.split(';') {
            let (given, value) = part.split_once('=').unwrap_or((part, ""));
            if !request::could_name(given, name) {
                continue;
            }
            if part != field || given != name || found.replace(value).is_some() {
                return Err(Denial::new(
                    Code::RequestMalformed,
                    "a query parameter that names something must occur once, in its own spelling, between `&` alone",
                ));
            }
        }
    }
    found.ok_or_else(|| unknown("a query parameter that the route needs is missing"))
}

fn unknown(detail: &'static str) -> Denial {
    Denial::new(Code::RouteUnknown, detail)
}
