//! `GET /healthz` and `GET /readyz`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

use crate::app::App;

/// The process runs. Says nothing more, so that a failing disk does not get the process restarted.
pub async fn alive() -> Response {
    Json(serde_json::json!({"status": "ok"})).into_response()
}

/// What the server needs to do its work, and whether it has it.
#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    /// A write reached the disk within the last second.
    store: bool,
    /// There is a policy in force.
    policy: bool,
    /// The policy in force is what files or API server say now; if not, the last good one is kept and the server stays
    /// ready.
    policy_current: bool,
    /// What is wrong with them, if something is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policy_problems: Vec<String>,
    /// The state list is young enough for sidecars.
    state: bool,
    /// The ids of the keys that sign.
    keys: [String; 2],
}

/// Answers 200 if the server can issue, tell and store; 503 with what is missing if not.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let store = app.store_is_writable().await;
    let status = app.policy_status();
    let now = app.clock.seconds();
    let state = app.feed.state();
    let state = state.is_some_and(|s| now.saturating_sub(s.issued_at) <= app.config.state_max_age_seconds);
    let policy = app.feed.policy().is_some();
    let ready = store && policy && state;
    let keys = app.keys.in_force();
    let body = Readiness {
        status: if ready { "ready" } else { "not ready" },
        store,
        policy,
        policy_current: status.current,
        policy_problems: status.problems,
        state,
        keys: [keys.token.kid().to_owned(), keys.bundle.kid().to_owned()],
    };
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(body)).into_response()
}
