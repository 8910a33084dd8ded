//! `GET /v1/policy`: the long-poll of sidecars.

use std::sync::Arc;
use std::time::Duration;

use authz::policy::Version;
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::{authenticate, require_callout};
use crate::app::App;
use crate::error::Problem;
use crate::feed::{FeedError, Format, News};

/// How long a poll is held while nothing changes.
const HOLD: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
}

/// What the caller has, and the format that it is told the rest in.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    bundle: Option<Version>,
    state: Option<Version>,
    format: Format,
}

/// Answers at once if the caller's versions are not those in force, else when they change, else 204.
pub async fn poll(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    match news(&app, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(Some(news)) => {
            let answer = Answer {
                bundle: news.bundle.as_deref(),
                state: news.state.as_deref(),
            };
            ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
        }
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn news(app: &App, query: &str, headers: &HeaderMap) -> Result<Option<News>, Problem> {
    let workload = authenticate(app, headers)?;
    require_callout(headers)?;
    let held = parse_query(query)?;
    let _place = app
        .poll_shares
        .take(&workload)
        .ok_or_else(|| Problem::too_many_requests("this workload holds as many polls as it may"))?;
    // Subscribed before asking, so that a change in between is not missed.
    let mut changes = app.feed.changes();
    let mut stop = app.stop.clone();
    app.metrics.polls.inc();
    let _held = scopeguard(|| {
        app.metrics.polls.dec();
    });
    let deadline = tokio::time::sleep(HOLD);
    tokio::pin!(deadline);
    loop {
        changes.mark_unchanged();
        let news = app
            .feed
            .news(&workload, held.format, held.bundle, held.state)
            .await
            .map_err(problem)?;
        if news.bundle.is_some() || news.state.is_some() {
            return Ok(Some(news));
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(None) },
            () = &mut deadline => return Ok(None),
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

/// Runs something when it is dropped: also when the caller goes away and the poll's future with it.
fn scopeguard<F: Fn()>(run: F) -> impl Drop {
    struct Guard<F: Fn()>(F);
    impl<F: Fn()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(run)
}

pub(super) fn problem(error: FeedError) -> Problem {
    match error {
        FeedError::WorkloadUnknown => Problem::workload_unknown(),
        FeedError::NoPolicy => Problem::unavailable("policy_unavailable", "no valid policy has been read yet"),
        FeedError::Store(error) => {
            tracing::error!(%error, "a version could not be reserved");
            Problem::unavailable("policy_unavailable", "policy cannot be signed now")
        }
        error => Problem::internal(&error),
    }
}

/// `bundle=E.C&state=E.C&formats=1,2`, each at most once; the values need no percent-encoding, so none is decoded.
fn parse_query(query: &str) -> Result<Held, Problem> {
    let (mut bundle, mut state, mut formats) = (None, None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let twice = match name {
            "bundle" => bundle.replace(version(name, value)?).is_some(),
            "state" => state.replace(version(name, value)?).is_some(),
            "formats" => formats.replace(value).is_some(),
            _ => return Err(Problem::malformed("this parameter is not known").field(name)),
        };
        if twice {
            return Err(Problem::malformed("this parameter stands there twice").field(name));
        }
    }
    let format = formats.map_or(Some(Format::Whole), Format::newest_of).ok_or_else(|| {
        let ours = [Format::Whole, Format::Paged].map(Format::number);
        let detail = format!("this server signs the formats {ours:?}");
        Problem::new(StatusCode::NOT_ACCEPTABLE, "format_unsupported", detail).field("formats")
    })?;
    Ok(Held { bundle, state, format })
}

fn version(name: &str, value: &str) -> Result<Version, Problem> {
    Version::parse(value).map_err(|error| Problem::malformed(error.to_string()).field(name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_query_names_what_the_caller_has() {
        let nothing = Held {
            bundle: None,
            state: None,
            format: Format::Whole,
        };
        assert_eq!(parse_query("").unwrap(), nothing);
        let all = Held {
            bundle: Some(Version { epoch: 1, counter: 7 }),
            state: Some(Version { epoch: 2, counter: 3 }),
            format: Format::Paged,
        };
        assert_eq!(parse_query("bundle=1.7&state=2.3&formats=1,2").unwrap(), all);
    }

    #[test]
    fn a_query_that_is_not_exact_is_refused() {
        for query in [
            "bundle=7",
            "bundle=1.07",
            "bundle=1.7&bundle=1.7",
            "state=",
            "bundles=1.1",
            "bundle=1%2E7",
        ] {
            assert_eq!(
                parse_query(query).unwrap_err().status(),
                StatusCode::BAD_REQUEST,
                "{query}"
            );
        }
        assert_eq!(parse_query("formats=3,4").unwrap_err().code(), "format_unsupported");
    }
}
