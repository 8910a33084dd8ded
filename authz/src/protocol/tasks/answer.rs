//! What a service answers, with the ids in it sealed to its caller.
//!
//! Only what the answer itself is about gets a seal. Ids that are found elsewhere (references, metadata, text) may have been put
//! there by whoever is to be fooled, a model among them, and a seal on one would give away what it names.

use std::borrow::Cow;
use std::ops::Range;

use super::events::Events;
use super::{Binding, quoted, written};
use crate::json::{self, Limits, Value};
use crate::policy::Protocol;
use crate::protocol::a2a::A2A_JSON;
use crate::protocol::list::Media;
use crate::protocol::{a2a, mcp};
use crate::request::Facts;
use crate::session::Sealed;

/// The longest answer, or event of a stream, that is held to be sealed. A longer one goes on as it comes, without seals.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;

const LIMITS: Limits = Limits {
    max_bytes: MAX_ANSWER_BYTES,
    max_depth: 64,
    max_nodes: 1 << 18,
};

/// An answer on its way, part by part.
#[derive(Debug)]
pub struct Answer {
    about: About,
    held: Held,
}

/// What was asked, as far as the answer is read by it.
#[derive(Debug)]
struct About {
    protocol: Protocol,
    /// The id of the task that an MCP message asked for, as the caller knows it.
    task: Option<String>,
}

#[derive(Debug)]
enum Held {
    /// One message, until it is whole.
    Json(Vec<u8>),
    /// A stream of events, each until it is whole.
    Events(Events),
    /// Nothing: it is not understood, or too long.
    Nothing,
}

impl Answer {
    /// Reads a `content-type`: as elsewhere, and REST's own type of JSON (1.0, section 11.1).
    #[must_use]
    pub fn media(content_type: &[u8]) -> Option<Media> {
        let essence = content_type.split(|byte| *byte == b';').next()?.trim_ascii();
        match essence.eq_ignore_ascii_case(A2A_JSON.as_bytes()) {
            true => Some(Media::Json),
            false => Media::of(content_type),
        }
    }

    /// The answer to a request, of this media type; None is one that is not known.
    #[must_use]
    pub fn new(facts: &Facts, media: Option<Media>) -> Self {
        let held = match media {
            Some(Media::Json) => Held::Json(Vec::new()),
            Some(Media::Events) => Held::Events(Events::default()),
            None => Held::Nothing,
        };
        let about = About {
            protocol: facts.protocol,
            task: facts.task.clone(),
        };
        Self { about, held }
    }

    /// Whether something of it has come and not gone on.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        match &self.held {
            Held::Json(held) => !held.is_empty(),
            Held::Events(events) => events.is_holding(),
            Held::Nothing => false,
        }
    }

    /// Takes the next part, and gives what can go on by now; `end` says that it is the last.
    pub fn push(&mut self, part: Vec<u8>, end: bool, binding: &Binding<'_>) -> Vec<u8> {
        match &mut self.held {
            Held::Json(held) => {
                held.extend(part);
                if held.len() > MAX_ANSWER_BYTES {
                    let long = std::mem::take(held);
                    self.held = Held::Nothing;
                    return long;
                }
                if !end {
                    return Vec::new();
                }
                let whole = std::mem::take(held);
                self.about.sealed(&whole, binding).map_or(whole, String::into_bytes)
            }
            Held::Events(events) => events.push(&part, end, &|data| self.about.sealed(data, binding)),
            Held::Nothing => part,
        }
    }
}

impl About {
    /// A message with its ids sealed; None if it has none that can be.
    fn sealed(&self, message: &[u8], binding: &Binding<'_>) -> Option<String> {
        let document = json::parse(message, &LIMITS).ok()?;
        let root = document.root();
        let mut seals = Seals {
            binding,
            words: Vec::new(),
        };
        match self.protocol {
            Protocol::A2a => a2a::tasks::seal(root, &mut seals),
            Protocol::Mcp => {
                let task = self.task.as_deref();
                let asked = task.and_then(|task| binding.open(Sealed::McpTask, task).ok());
                mcp::tasks::seal(root, asked, &mut seals);
            }
            Protocol::Http => {}
        }
        let text = std::str::from_utf8(message).ok()?;
        (!seals.words.is_empty()).then(|| written(text, seals.words))
    }
}

/// The ids found so far, sealed.
pub(in crate::protocol) struct Seals<'a> {
    binding: &'a Binding<'a>,
    words: Vec<(Range<usize>, String)>,
}

impl Seals<'_> {
    /// Seals an id where it stands, if it is one that can be.
    pub(in crate::protocol) fn put(&mut self, what: Sealed, word: Option<&Word<'_>>) {
        let Some(word) = word else { return };
        if let Some(sealed) = self.binding.seal(what, &word.text)
            // Of two readings of one place the first has it.
            && !self.words.iter().any(|(place, _)| *place == word.place)
        {
            self.words.push((word.place.clone(), quoted(&sealed)));
        }
    }
}

/// A string and where it stands.
pub(in crate::protocol) struct Word<'a> {
    pub(in crate::protocol) text: Cow<'a, str>,
    place: Range<usize>,
}

impl<'a> Word<'a> {
    /// None of what is no string.
    pub(in crate::protocol) fn of(value: Value<'a>) -> Option<Self> {
        Some(Self {
            text: value.as_str()?,
            place: value.span(),
        })
    }

    /// The member of the first of these names.
    pub(in crate::protocol) fn member(of: Value<'a>, names: &[&str]) -> Option<Self> {
        Self::of(names.iter().find_map(|name| of.get(name))?)
    }
}
