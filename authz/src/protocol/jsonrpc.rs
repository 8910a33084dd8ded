//! JSON-RPC 2.0 as MCP and A2A carry it: one request or notification a body, read strictly.
//!
//! A member that is not known is refused, because a reader that folds case (Go's `encoding/json` takes `Method` for
//! `method`) would act on a member that this one ignored.

use std::borrow::Cow;

use crate::denial::{Code, Denial, RPC_PARSE_ERROR};
use crate::json::{self, Document, Kind, Limits, Value};

/// The longest JSON-RPC id that is accepted, in bytes: it is echoed and recorded.
const MAX_ID_BYTES: usize = 256;

/// By which words a protocol that is carried by JSON-RPC refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusals {
    /// Not a message.
    pub(crate) malformed: Code,
    /// Several messages.
    pub(crate) batch: Code,
    /// A method that is not served.
    pub(crate) method: Code,
}

impl Refusals {
    pub(crate) fn malformed(self, detail: impl Into<Cow<'static, str>>) -> Denial {
        Denial::new(self.malformed, detail)
    }

    /// Reads a body as strict JSON.
    ///
    /// # Errors
    ///
    /// `malformed`.
    pub(crate) fn parse(self, body: &[u8]) -> Result<Document<'_>, Denial> {
        json::parse(body, &Limits::REQUEST)
            .map_err(|error| self.malformed(error.to_string()).with_rpc_code(RPC_PARSE_ERROR))
    }
}

/// A JSON-RPC 2.0 message.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    /// Raw JSON; None for a notification.
    pub(crate) id: Option<&'a str>,
    pub(crate) params: Option<Value<'a>>,
    method: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    outcome: Option<Value<'a>>,
}

impl<'a> Envelope<'a> {
    /// Reads the members of a message.
    ///
    /// # Errors
    ///
    /// `malformed` or `batch`.
    pub(crate) fn read(root: Value<'a>, refusals: Refusals) -> Result<Self, Denial> {
        let Some(entries) = root.entries() else {
            return Err(match root.kind() {
                Kind::Array => Denial::new(refusals.batch, "send one message a request"),
                Kind::Null | Kind::Bool | Kind::Number | Kind::String | Kind::Object => {
                    refusals.malformed("the message is no object")
                }
            });
        };
        let mut envelope = Self {
            id: None,
            method: None,
            params: None,
            version: None,
            outcome: None,
        };
        for (key, value) in entries {
            match &*key {
                "jsonrpc" => envelope.version = value.as_str(),
                "id" => envelope.id = Some(request_id(value, refusals)?),
                "method" => {
                    let method = value.as_str();
                    envelope.method = Some(method.ok_or_else(|| refusals.malformed("`method` is no string"))?);
                }
                "params" if value.kind() == Kind::Object => envelope.params = Some(value),
                "params" => return Err(refusals.malformed("`params` is no object")),
                "result" | "error" => {
                    if envelope.outcome.replace(value).is_some() {
                        return Err(refusals.malformed("an answer is a result or an error, not both"));
                    }
                }
                _ => {
                    return Err(refusals.malformed("an unknown member beside `jsonrpc`, `id`, `method` and `params`"));
                }
            }
        }
        Ok(envelope)
    }

    /// The method of a request or notification.
    ///
    /// # Errors
    ///
    /// `malformed`; `method` for an answer, which no server is sent.
    pub(crate) fn method(&self, refusals: Refusals) -> Result<&str, Denial> {
        self.check_version(refusals)?;
        match (self.method.as_deref(), self.outcome.is_some()) {
            (Some(method), false) => Ok(method),
            (Some(_), true) => Err(refusals.malformed("a message is a request or an answer, not both")),
            (None, false) => Err(refusals.malformed("`method` is missing")),
            (None, true) => Err(Denial::new(
                refusals.method,
                "nobody is asked anything here that this could answer",
            )),
        }
    }

    /// The `result` or `error` of an answer.
    pub(crate) fn outcome(&self) -> Option<Value<'a>> {
        self.outcome
    }

    /// Whether this answers a request, instead of being one.
    ///
    /// # Errors
    ///
    /// `malformed` for an answer to nothing, with parameters, or that is no object.
    pub(crate) fn is_answer(&self, refusals: Refusals) -> Result<bool, Denial> {
        let (None, Some(outcome)) = (&self.method, self.outcome) else {
            return Ok(false);
        };
        self.check_version(refusals)?;
        match (self.id, self.params, outcome.kind()) {
            (Some(_), None, Kind::Object) => Ok(true),
            _ => Err(refusals.malformed("an answer has an `id` and an object, and no `params`")),
        }
    }

    fn check_version(&self, refusals: Refusals) -> Result<(), Denial> {
        match self.version.as_deref() {
            Some("2.0") => Ok(()),
            _ => Err(refusals.malformed("`jsonrpc` is not \"2.0\"")),
        }
    }
}

/// A string, or an integer of 64 bits; MCP forbids null.
fn request_id(value: Value<'_>, refusals: Refusals) -> Result<&str, Denial> {
    let valid = match value.kind() {
        Kind::String => true,
        Kind::Number => value.as_i64().is_some() || value.as_u64().is_some(),
        Kind::Null | Kind::Bool | Kind::Array | Kind::Object => false,
    };
    if valid && value.raw().len() <= MAX_ID_BYTES {
        Ok(value.raw())
    } else {
        Err(refusals.malformed("`id` is neither a short string nor an integer"))
    }
}
