//! `POST /v1/successors`: which live tokens agents hold for operations whose calls are on their way, asked by the sidecar of
//! the service that they were made to.

use std::sync::Arc;

use authz::identity::SpiffeId;
use authz::json::{self, Limits};
use authz::successor::{MAX_OPERATIONS, MAX_TOKENS, Question};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;

use super::{authenticate, read_body, require_callout, require_media_type};
use crate::app::App;
use crate::error::Problem;

/// The longest body: as many operations as may be named, by the longest names that service accounts and operations have.
pub const MAX_REQUEST_BYTES: usize = 256 << 10;

const REQUEST_LIMITS: Limits = Limits {
    max_bytes: MAX_REQUEST_BYTES,
    max_depth: 4,
    max_nodes: 4096,
};

/// Tokens of an operation that are looked at, to find those for the service that asks.
const LOOKED_AT: u32 = 16;

/// Tells what the tokens say that may be shown to the caller, and nothing of any other.
pub async fn tell(State(app): State<Arc<App>>, request: Request) -> Response {
    match answer(&app, request).await {
        Ok(body) => {
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            (headers, body).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn answer(app: &App, request: Request) -> Result<String, Problem> {
    let peer = authenticate(app, request.headers())?;
    require_callout(request.headers())?;
    require_media_type(request.headers(), "application/json")?;
    let _share = app
        .successor_shares
        .take(&peer)
        .ok_or_else(|| Problem::too_many_requests("this workload has as many questions waiting as it may"))?;
    let body = read_body(request, MAX_REQUEST_BYTES).await?;
    let Question { operations } =
        json::strict(&body, &REQUEST_LIMITS).map_err(|error| Problem::malformed(error.to_string()))?;
    if operations.len() > MAX_OPERATIONS {
        let detail = format!("at most {MAX_OPERATIONS} operations may be named");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).field("operations"));
    }
    let mut told = Vec::new();
    for operation in operations {
        let now = app.clock.seconds();
        let claims = app.store().live_claims(&operation, now, LOOKED_AT);
        let claims = claims.await.map_err(|error| super::agents::store_failed(app, &error))?;
        told.extend(
            claims
                .into_iter()
                .filter(|claims| is_for(claims, &peer))
                .take(MAX_TOKENS),
        );
    }
    Ok(format!("{{\"tokens\":[{}]}}", told.join(",")))
}

/// Whether a token with these claims may be shown to a workload.
fn is_for(claims: &str, workload: &SpiffeId) -> bool {
    #[derive(Deserialize)]
    struct Audience {
        aud: Vec<SpiffeId>,
    }
    serde_json::from_str(claims).is_ok_and(|audience: Audience| audience.aud.contains(workload))
}
