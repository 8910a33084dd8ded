//! The answer to a list, held until what the caller may not use is taken out of it.
//!
//! ```text
//! Expected ── headers ──> Holding ── body, trailers ──> Settled
//!     └── nothing to filter ──> Through
//! ```
//!
//! Where Envoy lets a filter hold headers (`allow_on_headers_stop_iteration`), the response's are held too, so that an answer
//! that cannot be filtered becomes a 502. Where it does not, they go ahead of the body, already without its length: then the
//! error comes under the status of the service. Either way no byte of the body goes on before it is filtered whole.

use std::cell::RefCell;
use std::collections::BTreeMap;

use authz::decision::{self, Question};
use authz::denial::{Code, DENIAL_HEADER, Denial, Form};
use authz::digest::Hasher;
use authz::identity::ToolName;
use authz::json::Value;
use authz::protocol::list::{self, List, MAX_LIST_BYTES, Media};
use authz::request::Facts;

use crate::host::{Host, Message, Moment};
use crate::known::Known;
use crate::session::Flow;

/// What is true of the bytes that the service sent, and of no others. `etag` and its like would have a cache that stands
/// between two callers answer one with what the other was told.
const OF_THE_BODY: [&str; 11] = [
    "accept-ranges",
    "age",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "repr-digest",
];

/// The most tools that the record of one list names.
const MOST_DRIFTED: usize = 24;

/// Sees to it that the service does not encode what has to be read.
pub(crate) fn forgo_encoding(host: &impl Host) {
    host.remove_request_header("accept-encoding");
}

/// Leaves out what is true of the service's bytes alone.
pub(crate) fn forget_body(host: &impl Host) {
    for name in OF_THE_BODY {
        host.remove_response_header(name);
    }
}

/// The answer to a list, as far as it has come.
#[derive(Debug)]
pub(crate) struct Listing {
    list: List,
    rpc_id: String,
    /// Whether the headers wait for the body.
    headers_held: bool,
    stage: Stage,
    /// Tools that the service defines otherwise than its file pins them.
    drifted: Vec<ToolName>,
}

#[derive(Debug)]
enum Stage {
    /// No header has come.
    Expected,
    /// The body is being held.
    Holding {
        /// What the body is, or why it is withheld whatever it says.
        media: Result<Media, &'static str>,
        /// Whether the service told the body's length, and the headers can still tell that of what becomes of it.
        sized: bool,
        bytes: usize,
    },
    /// There is nothing to filter.
    Through,
    /// What the caller is told is on its way; the code if that is an error of ours.
    Settled(Option<Code>),
}

impl Listing {
    /// The answer that a permitted request will have, if it asks for a list.
    pub(crate) fn of(facts: &Facts, headers_held: bool) -> Option<Self> {
        let list = List::of(facts.rpc_method.as_deref()?)?;
        Some(Self {
            list,
            rpc_id: facts.rpc_id.clone()?,
            headers_held,
            stage: Stage::Expected,
            drifted: Vec::new(),
        })
    }

    /// Why the service's answer was withheld, if it was.
    pub(crate) fn withheld(&self) -> Option<Code> {
        match self.stage {
            Stage::Settled(code) => code,
            Stage::Expected | Stage::Holding { .. } | Stage::Through => None,
        }
    }

    /// The tools that the answer defined otherwise than they are pinned, at most [`MOST_DRIFTED`].
    pub(crate) fn drifted(&self) -> impl Iterator<Item = &str> {
        self.drifted.iter().map(ToolName::as_str)
    }

    /// Whether bytes of the body are ours to hold.
    pub(crate) fn is_holding(&self) -> bool {
        matches!(self.stage, Stage::Holding { .. })
    }

    /// The headers are here; `end` says that no body follows.
    pub(crate) fn headers(&mut self, host: &impl Host, end: bool) -> Flow {
        let status = host.header(Message::Response, ":status");
        let is_success = status.as_deref().is_none_or(|status| status.first() == Some(&b'2'));
        if end || !is_success {
            self.stage = Stage::Through;
            return Flow::Continue;
        }
        let media = media(host);
        let sized = self.headers_held && host.header(Message::Response, "content-length").is_some();
        forget_body(host);
        host.set_response_header("content-type", media.unwrap_or(Media::Json).content_type());
        host.set_response_header("cache-control", "private, no-store");
        self.stage = Stage::Holding { media, sized, bytes: 0 };
        if self.headers_held { Flow::Pause } else { Flow::Continue }
    }

    /// More of the body is here; `size` counts all of it so far.
    pub(crate) fn body(
        &mut self,
        host: &impl Host,
        known: &Known,
        now: Moment,
        size: usize,
        end: bool,
        digest: &mut Hasher,
    ) -> Flow {
        if let Stage::Holding { bytes, .. } = &mut self.stage {
            *bytes = size;
        }
        if end {
            self.settle(host, known, now, digest)
        } else {
            Flow::Pause
        }
    }

    /// The body is whole.
    pub(crate) fn settle(&mut self, host: &impl Host, known: &Known, now: Moment, digest: &mut Hasher) -> Flow {
        let Stage::Holding { media, sized, bytes } = self.stage else {
            return Flow::Continue;
        };
        if bytes == 0 {
            self.stage = Stage::Through;
            return Flow::Continue;
        }
        let filtered = self.filtered(host, known, now, media, bytes, digest);
        let told = match &filtered {
            Ok(told) => told.clone(),
            Err(denial) => self.error(host, known, media, denial),
        };
        if sized {
            host.set_response_header("content-length", &told.len().to_string());
        }
        self.stage = Stage::Settled(filtered.err().map(|denial| denial.code()));
        if host.replace_response_body(bytes, &told) {
            Flow::Continue
        } else {
            log::error!("a filtered answer could not be put in the place of the service's");
            Flow::Pause
        }
    }

    fn filtered(
        &mut self,
        host: &impl Host,
        known: &Known,
        now: Moment,
        media: Result<Media, &'static str>,
        bytes: usize,
        digest: &mut Hasher,
    ) -> Result<Vec<u8>, Denial> {
        if bytes > MAX_LIST_BYTES {
            return Err(withheld("the answer is too long to be filtered".to_owned()));
        }
        let body = host
            .body(Message::Response, bytes)
            .filter(|body| body.len() == bytes)
            .ok_or_else(|| withheld("the answer cannot be read".to_owned()))?;
        digest.update(&body);
        let media = media.map_err(|why| withheld(why.to_owned()))?;
        let standing = known.standing()?;
        let service = known.facts.as_ref().and_then(|facts| facts.service.as_ref());
        let service = service.ok_or_else(|| withheld("the service is not known".to_owned()))?;
        // By the policy and at the time by which the list was permitted: it is one decision.
        let question = Question {
            now: now.seconds(),
            side: known.side.ok_or_else(|| withheld("the side is not known".to_owned()))?,
            workload: &standing.workload,
            peer: known.peer.as_ref(),
            token: known.token.as_deref().map(|known| &known.token),
            flaw: known.flaw.as_ref(),
            bundle: &standing.bundle.bundle,
            state: &standing.state.list,
            seconds_since_poll: standing.state.seconds_since_poll(now.monotonic),
        };
        let told = decision::tell(&question, service)?;
        let seen = RefCell::new(BTreeMap::new());
        let is_told = |name: &str, entry: Value<'_>| {
            let drifts = told.drifts(self.list, name, entry).is_some_and(|(tool, drifts)| {
                // A tool that is listed twice is what is worse of the two.
                if let Ok(mut seen) = seen.try_borrow_mut() {
                    *seen.entry(tool).or_default() |= drifts;
                }
                drifts
            });
            told.is_told(self.list, name) && !(drifts && told.is_denied_if_it_drifts(name))
        };
        let filtered = list::filter(&body, media, self.list, &self.rpc_id, &is_told);
        let filtered = filtered.map_err(|error| withheld(error.to_string()))?;
        let seen: BTreeMap<&ToolName, bool> = seen.into_inner();
        if !seen.is_empty()
            && let Ok(mut drifts) = standing.drifts.try_borrow_mut()
        {
            let seen = seen.iter().map(|(tool, drifts)| (*tool, *drifts));
            drifts.note(&standing.bundle.bundle, told.service(), seen);
        }
        let drifted = seen.into_iter().filter(|(_, drifts)| *drifts);
        self.drifted = drifted.take(MOST_DRIFTED).map(|(tool, _)| tool.clone()).collect();
        Ok(filtered)
    }

    /// What the caller gets in place of an answer that is withheld.
    fn error(&self, host: &impl Host, known: &Known, media: Result<Media, &'static str>, denial: &Denial) -> Vec<u8> {
        log::warn!("an answer was withheld: {denial}");
        let response = denial.render(Form::JsonRpc, Some(&self.rpc_id), known.trace_id.as_deref());
        if self.headers_held {
            host.set_response_header(":status", &response.status.to_string());
            host.set_response_header("content-type", Media::Json.content_type());
            host.set_response_header(DENIAL_HEADER, denial.code().as_str());
        } else if media == Ok(Media::Events) {
            // The headers have said so.
            return [b"data: ", &*response.body, b"\n\n"].concat();
        }
        response.body
    }
}

/// What the body is, by headers that can be read in one way only.
pub(crate) fn media(host: &impl Host) -> Result<Media, &'static str> {
    media_by(host, Media::of)
}

/// The same, by another reading of `content-type`.
pub(crate) fn media_by(host: &impl Host, read: impl Fn(&[u8]) -> Option<Media>) -> Result<Media, &'static str> {
    let headers = host.response_headers().ok_or("the answer's headers cannot be read")?;
    let mut types = headers.iter().filter(|(name, _)| name == "content-type");
    let mut encodings = headers.iter().filter(|(name, _)| name == "content-encoding");
    if !encodings.all(|(_, encoding)| encoding.eq_ignore_ascii_case(b"identity")) {
        return Err("the answer is encoded");
    }
    match (types.next(), types.next()) {
        (Some((_, content_type)), None) => read(content_type).ok_or("the answer is neither JSON nor events"),
        _ => Err("the answer has not one media type"),
    }
}

fn withheld(why: String) -> Denial {
    Denial::new(Code::ResponseWithheld, why)
}

#[cfg(test)]
mod tests;
