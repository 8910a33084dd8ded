//! What a caller is told when a request fails: RFC 9457 `application/problem+json` with a stable `code`.
//!
//! A problem names the field of the request that was wrong and never what somebody else may do.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// A refusal or failure as the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    oauth_error: Option<&'static str>,
    retry_after_seconds: Option<u32>,
}

/// The wire form; field order is that of RFC 9457.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: String,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Problem {
    /// A problem with a status, a stable code and a sentence for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            field: None,
            oauth_error: None,
            retry_after_seconds: None,
        }
    }

    /// 400 `request_malformed`.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request_malformed", detail)
    }

    /// 401 `peer_unauthenticated`.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "peer_unauthenticated", detail)
    }

    /// 403 with a code of its own.
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// 404 `workload_unknown`: neither an agent nor a service has this identity.
    pub fn workload_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "workload_unknown",
            "no agent or service file names this workload",
        )
    }

    /// 413 `body_too_large`.
    pub fn body_too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body may have at most {limit_bytes} bytes"),
        )
    }

    /// 429 `too_many_requests`: the caller's share is used up, other callers' is not.
    pub fn too_many_requests(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail).retry_after(1)
    }

    /// 503 with a code of its own; the caller may try again.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
    }

    /// 500 `internal_error`; the reason is logged, not told.
    pub fn internal(reason: &dyn std::error::Error) -> Self {
        tracing::error!(error = %reason, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server failed; its log says why",
        )
    }

    /// Names the field of the request that was wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds the word that an OAuth client looks for.
    #[must_use]
    pub fn oauth_error(mut self, error: &'static str) -> Self {
        self.oauth_error = Some(error);
        self
    }

    /// Tells the caller when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The field of the request that was wrong.
    pub fn named_field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("https://ostiary.dev/problems#{}", self.code),
            title: self.code.replace('_', " "),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            field: self.field.as_deref(),
            error: self.oauth_error,
        };
        // INVARIANT: a struct of strings and numbers always serialises.
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"ostiary\""),
            );
        }
        response.extensions_mut().insert(ProblemCode(self.code));
        response
    }
}

/// The code of the problem that a response carries, for the request log and metrics.
#[derive(Debug, Clone, Copy)]
pub struct ProblemCode(pub &'static str);
