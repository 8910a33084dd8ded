//! The answer to an MCP call, read as it passes for how the call ended: by the HTTP status alone nobody can tell a tool that
//! failed from one that did its work.

use authz::protocol::list::{List, Media, Outcome};
use authz::request::Side;

use crate::host::Host;
use crate::known::Known;
use crate::response::media;

/// The longest answer that is kept to be read.
const MOST_BYTES: usize = 64 << 10;

/// An answer, as far as it has come.
#[derive(Debug)]
pub(crate) struct Reading {
    rpc_id: String,
    media: Option<Media>,
    /// None once it is too long.
    body: Option<Vec<u8>>,
}

impl Reading {
    /// The answer that a permitted request will have, where it is read: at the service's side, of a request to an MCP service
    /// that asks for no list. A policy server that tells no keys of sessions does not know the word in the record either.
    pub(crate) fn of(known: &Known) -> Option<Self> {
        let facts = known.facts.as_ref()?;
        let method = facts.rpc_method.as_deref()?;
        let bundle = &known.standing().ok()?.bundle.bundle;
        let is_read =
            known.side == Some(Side::Inbound) && !bundle.session_keys().is_empty() && List::of(method).is_none();
        let rpc_id = facts.rpc_id.clone().filter(|_| is_read && known.is_mcp())?;
        Some(Self {
            rpc_id,
            media: None,
            body: Some(Vec::new()),
        })
    }

    /// The headers are here.
    pub(crate) fn headers(&mut self, host: &impl Host) {
        self.media = media(host).ok();
        if self.media.is_none() {
            self.body = None;
        }
    }

    /// More of the body passes.
    pub(crate) fn add(&mut self, chunk: &[u8]) {
        if let Some(body) = &mut self.body {
            if body.len() + chunk.len() > MOST_BYTES {
                self.body = None;
            } else {
                body.extend_from_slice(chunk);
            }
        }
    }

    /// How the call ended, if that could be read.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        Outcome::of(&self.body?, self.media?, &self.rpc_id)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::{Value, json};

    use crate::host::Message;
    use crate::session::{Flow, Session};
    use crate::testing::{self, FakeHost, bearer, bundle, state};

    /// The outcome in the record of a call that was answered so, in two pieces.
    fn outcome(host: &FakeHost, fields: &Value, content_type: &str, body: &str) -> Value {
        let mut vm = testing::fresh_vm(host);
        let answer = json!({"bundle": bundle(testing::SERVICE, 1, fields), "state": state(1, &json!({}))});
        host.answer_poll(&mut vm, 200, &answer);
        let authorization = bearer(&json!({}));
        let more = [("authorization", &*authorization)];
        let (mut session, _) = testing::post_tool(host, &mut vm, Session::new(true), &more);
        let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "pandas"}}).to_string();
        host.set_body(Message::Request, call.as_bytes());
        assert_eq!(session.request_body(&mut vm, host, call.len(), true), Flow::Continue);
        host.set_response_headers(&[(":status", "200"), ("content-type", content_type)]);
        assert_eq!(session.response_headers(&mut vm, host, false), Flow::Continue);
        for (piece, end) in [body.split_at(body.len() / 2)]
            .iter()
            .flat_map(|(one, two)| [(one, false), (two, true)])
        {
            host.set_body(Message::Response, piece.as_bytes());
            assert_eq!(session.response_body(host, piece.len(), end), Flow::Continue);
            assert_eq!(host.response_body(), **piece, "it passes as it is");
        }
        session.finish(&mut vm, host, true);
        let record = host.published("ostiary_completion").pop().unwrap();
        assert_eq!((&record["status"], &record["end"]), (&Value::Null, &json!("complete")));
        record["outcome"].clone()
    }

    #[test]
    fn the_record_tells_a_failed_tool_from_one_that_did_its_work() {
        let bound = json!({"session_keys": ["A".repeat(43)]});
        let host = FakeHost::inbound();
        let failed = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#;
        assert_eq!(outcome(&host, &bound, "application/json", failed), "tool_error");
        let done = failed.replace("true", "false");
        assert_eq!(outcome(&host, &bound, "application/json", &done), "result");
        let events = format!("data: {failed}\n\n");
        assert_eq!(outcome(&host, &bound, "Text/Event-Stream; x=1", &events), "tool_error");
        assert_eq!(outcome(&host, &bound, "text/plain", failed), Value::Null);
        let long = format!("{failed}{}", " ".repeat(super::MOST_BYTES));
        assert_eq!(outcome(&host, &bound, "application/json", &long), Value::Null);
        assert_eq!(
            outcome(&host, &json!({}), "application/json", failed),
            Value::Null,
            "the server of the version before does not know the word"
        );
    }
}
