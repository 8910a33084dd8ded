//! `GET /metrics`: OpenMetrics text.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;

use crate::app::App;
use crate::error::Problem;
use crate::keys::known;

/// Shows the metrics.
pub async fn show(State(app): State<Arc<App>>) -> Response {
    let keys = app.keys.in_force();
    let stored = keys.stored().iter();
    app.metrics
        .set_keys(stored.map(|key| (key.kind.as_str(), key.kid().as_str(), key.state.as_str(), key.since)));
    for (kind, known) in known::signing_known(&app, &keys) {
        let lacking = known.lacking.iter().map(|lacking| lacking.sources).sum();
        app.metrics.set_sources(kind.as_str(), known.live, lacking);
    }
    let silent = app
        .sources
        .telling()
        .iter()
        .filter(|telling| telling.is_silent())
        .count();
    app.metrics.set_silent(silent);
    match app.metrics.encode() {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => Problem::internal(&error).into_response(),
    }
}
