//! `GET /.well-known/jwks.json`: the public keys of tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::app::App;
use crate::keys::known::JWKS_MAX_AGE_SECONDS;

/// Shows the key set. It is public, so nobody is asked who they are.
pub async fn show(State(app): State<Arc<App>>) -> Response {
    let max_age = format!("max-age={JWKS_MAX_AGE_SECONDS}");
    let keys = app.keys.in_force();
    ([(header::CACHE_CONTROL, max_age)], Json(&keys.published)).into_response()
}
