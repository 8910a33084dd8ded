//! `/v1/keys`: what keys there are, and their turns, for operators.

use std::sync::Arc;

use authz::identity::KeyId;
use authz::json::{self, Limits};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header;
use serde::{Deserialize, Serialize};

use super::{authenticate, read_body, require_media_type};
use crate::app::App;
use crate::config::Role;
use crate::error::Problem;
use crate::keys::known::{self, Known};
use crate::keys::rotation;
use crate::keys::{KeyError, KeyKind, KeyState};

/// The longest body of a request here.
pub const MAX_KEY_REQUEST_BYTES: usize = 4 << 10;

const REQUEST_LIMITS: Limits = Limits {
    max_bytes: MAX_KEY_REQUEST_BYTES,
    max_depth: 2,
    max_nodes: 16,
};

/// Marks requests of the server's own user, who came by the operator socket.
#[derive(Debug, Clone, Copy)]
pub struct OwnUser;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    kind: KeyKind,
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetireRequest {
    kid: KeyId,
    now: bool,
}

/// A key as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    kid: KeyId,
    kind: KeyKind,
    state: KeyState,
    since: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
}

/// All keys, and who knows those that sign.
#[derive(Debug, Serialize)]
struct Keys {
    keys: Vec<Shown>,
    token: Known,
    bundle: Known,
}

/// Shows the keys.
pub async fn show(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(operator(&app, &request).map(|_| shown(&app)))
}

/// Takes a rotation as far as it goes.
pub async fn rotate(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(rotated(app, request).await)
}

/// Ends a key's time.
pub async fn retire(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(retired(app, request).await)
}

fn shown(app: &App) -> Keys {
    let in_force = app.keys.in_force();
    let mut known = known::signing_known(app, &in_force);
    let keys = in_force.stored().iter().map(|key| Shown {
        kid: key.kid().clone(),
        kind: key.kind,
        state: key.state,
        since: key.since,
        until: key.until,
    });
    Keys {
        keys: keys.collect(),
        token: known.remove(&KeyKind::Token).unwrap_or_default(),
        bundle: known.remove(&KeyKind::Bundle).unwrap_or_default(),
    }
}

async fn rotated(app: Arc<App>, request: Request) -> Result<rotation::Rotation, Problem> {
    let by = operator(&app, &request)?;
    let RotateRequest { kind, dry_run } = parse(request).await?;
    to_its_end(&app, {
        let app = Arc::clone(&app);
        async move { rotation::rotate(&app, kind, dry_run, &by).await }
    })
    .await
}

async fn retired(app: Arc<App>, request: Request) -> Result<rotation::Retirement, Problem> {
    let by = operator(&app, &request)?;
    let RetireRequest { kid, now } = parse(request).await?;
    to_its_end(&app, {
        let app = Arc::clone(&app);
        async move { rotation::retire(&app, &kid, now, &by).await }
    })
    .await
}

/// Goes on when the caller goes away, so that what is stored is put in force too.
async fn to_its_end<T: Send + 'static>(
    app: &App,
    change: impl Future<Output = Result<T, KeyError>> + Send + 'static,
) -> Result<T, Problem> {
    let changed = tokio::spawn(change).await.map_err(|error| Problem::internal(&error))?;
    changed.map_err(|error| problem(app, &error))
}

fn answer<T: Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Who asks, if it is an operator.
fn operator(app: &App, request: &Request) -> Result<String, Problem> {
    if request.extensions().get::<OwnUser>().is_some() {
        return Ok("the server's own user".to_owned());
    }
    let principal = authenticate(app, request.headers())?;
    if app.config.has_role(&principal, Role::Operator) {
        Ok(principal.to_string())
    } else {
        Err(Problem::forbidden("role_missing", "this caller is no operator"))
    }
}

async fn parse<T: for<'de> Deserialize<'de>>(request: Request) -> Result<T, Problem> {
    require_media_type(request.headers(), "application/json")?;
    let body = read_body(request, MAX_KEY_REQUEST_BYTES).await?;
    json::strict(&body, &REQUEST_LIMITS).map_err(|error| Problem::malformed(error.to_string()))
}

fn problem(app: &App, error: &KeyError) -> Problem {
    match error {
        KeyError::Unknown(_) => {
            Problem::new(http::StatusCode::NOT_FOUND, "key_unknown", error.to_string()).field("kid")
        }
        KeyError::Store(_) => {
            app.metrics.store_failures.inc();
            tracing::error!(%error, "keys could not be changed");
            Problem::unavailable("store_unavailable", "the change could not be recorded")
        }
        // Operators alone are told, and it is theirs to mend.
        _ => Problem::new(http::StatusCode::CONFLICT, "key_unusable", error.to_string()),
    }
}
