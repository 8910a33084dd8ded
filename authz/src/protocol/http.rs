//! HTTP: the route table of a service.

use crate::denial::{Code, Denial};
use crate::policy::{Captures, QueryCapture, Route, Service};
use crate::request::{self, RequestHead, Right};
use crate::scope::{self, Capture};

/// What a route makes of a request.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) right: Right,
    pub(crate) captures: Vec<(String, String)>,
    pub(crate) own: Option<String>,
}

/// Finds the route of a request.
///
/// The method is compared exactly: `HEAD` and `OPTIONS` are not `GET`. No two routes of one method overlap, so there
/// is at most one.
///
/// # Errors
///
/// `route_unknown`.
pub(crate) fn route(head: &RequestHead<'_>, service: &Service) -> Result<Match, Denial> {
    let mut other_method = false;
    for route in service.routes() {
        let Some(captures) = route.path.captures(head.path()) else {
            continue;
        };
        if route.method.as_str() == head.method() {
            return apply(route, captures, head.query());
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
    service
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
