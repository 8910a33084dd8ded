//! HTTP: the route table of a service.

use crate::denial::{Code, Denial};
use crate::policy::{Captures, Route, Service};
use crate::request::{RequestHead, Right};
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
            return apply(route, &captures);
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

fn apply(route: &Route, captures: &Captures<'_, '_>) -> Result<Match, Denial> {
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

fn unknown(detail: &'static str) -> Denial {
    Denial::new(Code::RouteUnknown, detail)
}
