//! `GET /.well-known/jwks.json`: the public keys of tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::app::App;

/// Shows the key set. It is public, so nobody is asked who they are.
pub async fn show(State(app): State<Arc<App>>) -> Response {
    ([(header::CACHE_CONTROL, "max-age=60")], Json(&app.jwks)).into_response()
}
