//! What the caller is sent.

use serde::Serialize;

use super::{Code, Denial, Needed};

/// What the registry of codes is called in a problem's `type`.
const TYPE_PREFIX: &str = "https://ostiary.dev/denials#";

/// The response header that names the code, so that operators and tests tell our denials from the application's.
pub const DENIAL_HEADER: &str = "ostiary-denial";

/// The form in which a caller understands a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 9457 `application/problem+json`.
    Problem,
    /// A JSON-RPC error, for callers of MCP and of A2A over JSON-RPC.
    JsonRpc,
}

/// What is sent to the caller in place of the application's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Denial {
    /// Renders the denial in the caller's form. The JSON-RPC id is the denial's own, else `rpc_id` (raw JSON), else null.
    pub fn render(&self, form: Form, rpc_id: Option<&str>, trace_id: Option<&str>) -> Response {
        let (content_type, body) = match form {
            Form::Problem => ("application/problem+json", self.problem(trace_id)),
            Form::JsonRpc => ("application/json", self.rpc_error(rpc_id, trace_id)),
        };
        let mut headers = vec![
            ("content-type", content_type.to_owned()),
            ("cache-control", "no-store".to_owned()),
            (DENIAL_HEADER, self.code.as_str().to_owned()),
        ];
        if let Some(challenge) = self.challenge() {
            headers.push(("www-authenticate", challenge));
        }
        if let Some(seconds) = self.code.retry_after_seconds() {
            headers.push(("retry-after", seconds.to_string()));
        }
        if let Some(allow) = self.extra.as_deref().and_then(|extra| extra.allow) {
            headers.push(("allow", allow.to_owned()));
        }
        Response {
            status: self.code.status(),
            headers,
            body,
        }
    }

    /// The challenge of RFC 6750, section 3.
    fn challenge(&self) -> Option<String> {
        if !matches!(self.code.status(), 401 | 403) {
            return None;
        }
        let mut challenge = "Bearer realm=\"ostiary\"".to_owned();
        if let Some(error) = self.code.bearer_error() {
            challenge.push_str(", error=\"");
            challenge.push_str(error);
            challenge.push('"');
            if let Some(scope) = self.needed().and_then(|needed| needed.scope.as_deref()) {
                challenge.push_str(", scope=\"");
                // The grammar of scopes admits neither quotes nor backslashes; filter all the same, as this is a header.
                challenge.extend(
                    scope
                        .chars()
                        .filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\'),
                );
                challenge.push('"');
            }
        }
        Some(challenge)
    }

    fn problem(&self, trace_id: Option<&str>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            code: Code,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            needed: Option<&'a Needed>,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace_id: Option<&'a str>,
        }
        encode(&Problem {
            r#type: format!("{TYPE_PREFIX}{}", self.code),
            title: self.code.title(),
            status: self.code.status(),
            code: self.code,
            detail: &self.detail,
            needed: self.needed(),
            trace_id,
        })
    }

    fn rpc_error(&self, rpc_id: Option<&str>, trace_id: Option<&str>) -> Vec<u8> {
        #[derive(Serialize)]
        struct RpcError<'a> {
            code: i32,
            message: &'a str,
            data: Data<'a>,
        }
        #[derive(Serialize)]
        struct Data<'a> {
            code: Code,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            needed: Option<&'a Needed>,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace_id: Option<&'a str>,
        }
        let error = encode(&RpcError {
            code: self
                .extra
                .as_deref()
                .and_then(|extra| extra.rpc_code)
                .unwrap_or(self.code.rpc_code()),
            message: self.code.title(),
            data: Data {
                code: self.code,
                detail: &self.detail,
                needed: self.needed(),
                trace_id,
            },
        });
        let id = self.rpc_id().or(rpc_id).unwrap_or("null");
        let mut body = Vec::with_capacity(error.len() + id.len() + 40);
        body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(b",\"error\":");
        body.extend_from_slice(&error);
        body.push(b'}');
        body
    }
}

/// Serializes what cannot fail: structs of strings and numbers.
fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
