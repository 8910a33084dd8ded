//! `GET /v1/policy/pages`: the pages of agents that a sidecar's bundle names by their digests.

use std::sync::Arc;

use authz::policy::{MAX_PAGES_ASKED, PageDigest};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::{authenticate, policy::problem, require_callout};
use crate::app::App;
use crate::error::Problem;

/// Answers with those of the pages that the caller's bundle in force has, a line each, as many as fit.
pub async fn show(State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    match pages(&app, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(pages) => {
            let headers = [
                (header::CACHE_CONTROL, "no-store"),
                (header::CONTENT_TYPE, "application/x-ndjson"),
            ];
            (headers, pages).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn pages(app: &App, query: &str, headers: &HeaderMap) -> Result<String, Problem> {
    let workload = authenticate(app, headers)?;
    require_callout(headers)?;
    let asked = parse_query(query)?;
    let pages = app.feed.pages(&workload, &asked).await.map_err(problem)?;
    pages.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "page_unknown",
            "the bundle in force has none of these pages",
        )
    })
}

/// `digests=D,D`; the values need no percent-encoding, so none is decoded.
fn parse_query(query: &str) -> Result<Vec<PageDigest>, Problem> {
    let digests = query
        .strip_prefix("digests=")
        .ok_or_else(|| Problem::malformed("`digests=` and nothing else is asked here"))?;
    if digests.split(',').nth(MAX_PAGES_ASKED).is_some() {
        let detail = format!("at most {MAX_PAGES_ASKED} pages can be asked for at once");
        return Err(Problem::malformed(detail).field("digests"));
    }
    digests
        .split(',')
        .map(|digest| PageDigest::parse(digest).map_err(|error| Problem::malformed(error.to_string()).field("digests")))
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_query_lists_digests_and_nothing_else() {
        let one = PageDigest::of(b"one");
        let two = PageDigest::of(b"two");
        assert_eq!(parse_query(&format!("digests={one}")).unwrap(), [one]);
        assert_eq!(parse_query(&format!("digests={two},{one}")).unwrap(), [two, one]);
        let most = vec![one.to_string(); MAX_PAGES_ASKED].join(",");
        assert_eq!(parse_query(&format!("digests={most}")).unwrap().len(), MAX_PAGES_ASKED);
        for query in [
            String::new(),
            "digests=".to_owned(),
            format!("digests={one},"),
            format!("digests={one}&digests={two}"),
            format!("digest={one}"),
            "digests=e30".to_owned(),
            format!("digests={most},{one}"),
        ] {
            assert_eq!(
                parse_query(&query).unwrap_err().status(),
                StatusCode::BAD_REQUEST,
                "{query}"
            );
        }
    }
}
