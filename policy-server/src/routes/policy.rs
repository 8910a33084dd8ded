//! `GET /v1/policy`: the long-poll of sidecars.

use std::sync::Arc;
use std::time::Duration;

use authz::audit::{SOURCE_HEADER, SourceId, read_source};
use authz::identity::{KeyId, SpiffeId};
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
use crate::keys::known::{self, Reason};
use crate::keys::sources::{Polling, Report, Source, Writes};
use crate::keys::{KeyKind, KeyState};

/// How long a poll is held while nothing changes.
const HOLD: Duration = Duration::from_secs(20);

/// Names the Wasm VM that asks.
const VM: &str = "ostiary-vm";
/// The version of the bundle that it decides by.
const BUNDLE_IN_USE: &str = "ostiary-bundle-in-use";
/// The ids of the bundle keys in its configuration, with spaces between.
const BUNDLE_KEYS: &str = "ostiary-bundle-keys";

/// A filter's configuration holds no more.
const MAX_REPORTED_KEYS: usize = 3;

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
    let report = report(headers, &held)?;
    // A workload that no file names is told nothing, so that it does not count.
    let named = app.feed.policy().is_some_and(|mesh| mesh.names(&workload));
    let _polling = named.then(|| note(app, &workload, report));
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

/// What the sidecar says that it knows. Older filters send none of these headers.
fn report(headers: &HeaderMap, held: &Held) -> Result<Report, Problem> {
    let malformed = |header: &str, what: &str| Problem::malformed(what).field(header);
    let vm = single(headers, VM)?;
    let vm = vm.map(|vm| SourceId::parse(vm).ok_or_else(|| malformed(VM, "must be 128 bits in base64url")));
    let vm = vm.transpose()?;
    let writes = single(headers, SOURCE_HEADER)?;
    let writes =
        writes.map(|value| read_source(value).ok_or_else(|| malformed(SOURCE_HEADER, "must be a source and seconds")));
    let writes = writes.transpose()?.map(|(source, seconds)| Writes {
        source,
        heartbeat: Duration::from_secs(seconds),
    });
    let in_use = single(headers, BUNDLE_IN_USE)?;
    let in_use = in_use.map(|value| version(BUNDLE_IN_USE, value)).transpose()?;
    let keys = single(headers, BUNDLE_KEYS)?.unwrap_or_default();
    if keys.split(' ').nth(MAX_REPORTED_KEYS).is_some() {
        return Err(malformed(BUNDLE_KEYS, "names more keys than a filter trusts"));
    }
    let keys = keys.split(' ').filter(|kid| !kid.is_empty());
    let keys = keys.map(|kid| KeyId::parse(kid).map_err(|error| malformed(BUNDLE_KEYS, &error.to_string())));
    Ok(Report {
        bundle: if vm.is_some() { in_use } else { held.bundle },
        vm,
        writes,
        keys: keys.collect::<Result<_, _>>()?,
    })
}

/// The value of a header that stands there once, if it stands there.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(http::HeaderValue::to_str).transpose();
    match (value, values.next()) {
        (Ok(value), None) => Ok(value),
        _ => Err(Problem::malformed("must stand there once, in visible ASCII").field(name)),
    }
}

/// Notes that a source lives, and says so if it cannot verify what is signed now.
fn note(app: &App, workload: &SpiffeId, report: Report) -> Option<Polling> {
    let (polling, news) = app.sources.polls(workload, report.clone());
    let keys = app.keys.in_force();
    let source = Source {
        workload: workload.clone(),
        report,
    };
    let signing = keys.key(KeyKind::Bundle, KeyState::Signing);
    if news
        && let Some(key) = signing
        && known::lacks(&source, key, &keys) == Some(Reason::KeyNotConfigured)
    {
        tracing::warn!(%workload, kid = %key.kid(), "a sidecar does not trust the bundle key that signs: it denies every call");
    }
    polling
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
        FeedError::Keys(error) => {
            tracing::error!(%error, "it is not known which key signs");
            Problem::unavailable("policy_unavailable", "policy cannot be signed now")
        }
        error => Problem::internal(&error),
    }
}

/// `bundle=E.C&state=E.C&formats=1,2,3,4,5`, each at most once; the values need no percent-encoding, so none is decoded.
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
        let ours = Format::ALL.map(Format::number);
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
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

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

    fn reported(headers: &[(&str, &str)]) -> Result<Report, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        report(&map, &parse_query("bundle=1.7").unwrap())
    }

    #[test]
    fn a_report_says_what_a_vm_trusts_and_decides_by() {
        let vm = SourceId([7; 16]);
        let name = vm.to_string();
        let whole = [(VM, name.as_str()), (BUNDLE_IN_USE, "1.6"), (BUNDLE_KEYS, "k1 k2 k3")];
        let report = reported(&whole).unwrap();
        assert_eq!(
            (report.vm, report.bundle.unwrap().to_string().as_str()),
            (Some(vm), "1.6")
        );
        let keys: Vec<&str> = report.keys.iter().map(KeyId::as_str).collect();
        assert_eq!(keys, ["k1", "k2", "k3"]);
        let nothing_in_use = reported(&[(VM, name.as_str())]).unwrap();
        assert_eq!((nothing_in_use.bundle, nothing_in_use.keys.len()), (None, 0));
        let older = reported(&[]).unwrap();
        assert_eq!((older.vm, older.bundle.unwrap().counter), (None, 7));
    }

    #[test]
    fn a_report_that_is_not_exact_is_refused() {
        let long = "k".repeat(129);
        for headers in [
            &[(VM, "short")][..],
            &[(VM, "AAAAAAAAAAAAAAAAAAAAAA"), (VM, "AAAAAAAAAAAAAAAAAAAAAA")],
            &[(BUNDLE_IN_USE, "7")],
            &[(BUNDLE_KEYS, "a b c d")],
            &[(BUNDLE_KEYS, long.as_str())],
            &[(BUNDLE_KEYS, "\u{e4}")],
        ] {
            let problem = reported(headers).unwrap_err();
            assert_eq!(problem.status(), StatusCode::BAD_REQUEST, "{headers:?}");
            assert_eq!(problem.named_field(), Some(headers[0].0));
        }
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
        assert_eq!(parse_query("formats=6,7").unwrap_err().code(), "format_unsupported");
    }
}
