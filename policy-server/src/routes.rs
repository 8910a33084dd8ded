//! The HTTP interface.

pub mod agents;
pub mod called;
pub mod findings;
pub mod health;
pub mod jwks;
pub mod keys;
pub mod log;
pub mod metrics;
pub mod oauth;
pub mod pages;
pub mod policy;
pub mod records;
pub mod revocations;
pub mod successors;
pub mod tokens;
pub mod traces;

use std::sync::Arc;
use std::time::Duration;

use authz::identity::SpiffeId;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{HeaderMap, StatusCode};

use crate::app::App;
use crate::error::{Problem, ProblemCode};

/// The longest body of a batch of records.
pub const MAX_RECORDS_BYTES: usize = 1 << 20;

/// The longest body of a request for a token.
pub const MAX_TOKEN_REQUEST_BYTES: usize = 64 << 10;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Says that a request is a sidecar's own and not its application's; the sidecar strips it from what applications send.
pub const CALLOUT: &str = "ostiary-callout";

/// What operators ask about keys, here and on a socket of their own.
fn key_routes() -> Router<Arc<App>> {
    let limit = || DefaultBodyLimit::max(keys::MAX_KEY_REQUEST_BYTES);
    Router::new()
        .route("/v1/keys", get(keys::show))
        .route("/v1/keys/rotate", post(keys::rotate).layer(limit()))
        .route("/v1/keys/retire", post(keys::retire).layer(limit()))
}

/// What auditors read, here and on the socket of the server's own user.
fn log_routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/log/checkpoint", get(log::checkpoint))
        .route("/v1/log/keys", get(log::keys))
        .route("/v1/log/checkpoints", get(log::checkpoints))
        .route("/v1/log/tile/{*path}", get(log::tile))
        .route("/v1/log/policy/keys", get(log::policy_keys))
        .route("/v1/log/policy/{kind}/{name}", get(log::policy))
        .route("/v1/receipts/{call}", get(log::receipt))
        .route("/v1/traces/{txn}", get(traces::show))
        .route("/v1/findings", get(findings::list))
}

/// What people ask about agents, here and on the operators' socket.
fn agent_routes() -> Router<Arc<App>> {
    let limit = || DefaultBodyLimit::max(agents::MAX_REQUEST_BYTES);
    Router::new()
        .route("/v1/agents", get(agents::list))
        .route("/v1/agents/{agent}", get(agents::show))
        .route("/v1/agents/{agent}/called", get(called::show))
        .route("/v1/agents/{agent}/{change}", post(agents::change).layer(limit()))
        .route("/v1/revocations", post(revocations::revoke).layer(limit()))
}

/// What OAuth clients ask.
fn oauth_routes() -> Router<Arc<App>> {
    let limit = || DefaultBodyLimit::max(oauth::MAX_REQUEST_BYTES);
    Router::new()
        .route("/oauth/revoke", post(oauth::revoke).layer(limit()))
        .route("/oauth/introspect", post(oauth::introspect).layer(limit()))
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(
            "/v1/tokens",
            post(tokens::issue).layer(DefaultBodyLimit::max(MAX_TOKEN_REQUEST_BYTES)),
        )
        .route("/v1/policy", get(policy::poll))
        .route("/v1/policy/pages", get(pages::show))
        .route(
            "/v1/records",
            post(records::append).layer(DefaultBodyLimit::max(MAX_RECORDS_BYTES)),
        )
        .route(
            "/v1/successors",
            post(successors::tell).layer(DefaultBodyLimit::max(successors::MAX_REQUEST_BYTES)),
        )
        .merge(key_routes())
        .merge(log_routes())
        .merge(agent_routes())
        .merge(oauth_routes())
        .route("/.well-known/jwks.json", get(jwks::show))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this resource has other methods",
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// What the server's own user may ask, on a socket that nobody else can open: see [`crate::operator`].
pub fn operator_router(app: Arc<App>) -> Router {
    key_routes()
        .merge(log_routes())
        .merge(agent_routes())
        .layer(Extension(keys::OwnUser))
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here") })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

/// Counts and logs each answer.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |p| p.as_str().to_owned());
    let trace_id = trace_id(request.headers()).unwrap_or_default();
    let response = next.run(request).await;
    let code = response.extensions().get::<ProblemCode>().map_or("ok", |code| code.0);
    let status = response.status();
    app.metrics.request(&route, status.as_u16(), code);
    if status.is_server_error() {
        tracing::warn!(route, status = status.as_u16(), code, trace_id, "request");
    } else {
        tracing::debug!(route, status = status.as_u16(), code, trace_id, "request");
    }
    response
}

/// The trace id of a W3C `traceparent`.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let id = parts.nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// Who sent the request.
fn authenticate(app: &App, headers: &HeaderMap) -> Result<SpiffeId, Problem> {
    app.config.authentication.authenticate(headers).map_err(|error| {
        tracing::debug!(%error, "unauthenticated");
        Problem::unauthenticated(error.to_string())
    })
}

/// Refuses what an application behind a sidecar sent: only the sidecar itself may ask for policy and post records.
fn require_callout(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(CALLOUT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"1" => Ok(()),
        _ => Err(Problem::forbidden("endpoint_refused", "this endpoint is for sidecars")),
    }
}

/// Reads a body of bounded length in bounded time.
async fn read_body(request: Request, limit_bytes: usize) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Problem::body_too_large(limit_bytes))
        }
        Ok(Err(_)) => Err(Problem::malformed("the body broke off")),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "the body took too long",
        )),
    }
}

/// Refuses a body of another media type.
fn require_media_type(headers: &HeaderMap, expected: &str) -> Result<(), Problem> {
    let refused = || {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media_type_refused",
            format!("the content type must be {expected}, unencoded"),
        )
    };
    let mut values = headers.get_all(http::header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused());
    };
    let essence = value
        .to_str()
        .map_err(|_| refused())?
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !essence.eq_ignore_ascii_case(expected) || headers.contains_key(http::header::CONTENT_ENCODING) {
        return Err(refused());
    }
    Ok(())
}
