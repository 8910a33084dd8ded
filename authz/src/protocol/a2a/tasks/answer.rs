//! What an agent answers, with the ids in it sealed to its caller.
//!
//! Only what the answer itself is about gets a seal: the task, message or update that it brings, and where its history repeats
//! that task and context. Ids that are found elsewhere (references, metadata, text) may have been put there by whoever is to
//! be fooled, a model among them, and a seal on one would give away what it names.

use std::borrow::Cow;
use std::ops::Range;

use super::events::Events;
use super::{Binding, written};
use crate::json::{self, Limits, Value};
use crate::protocol::a2a::A2A_JSON;
use crate::protocol::list::Media;
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
    held: Held,
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

    /// An answer of this media type; None is one that is not known.
    #[must_use]
    pub fn new(media: Option<Media>) -> Self {
        let held = match media {
            Some(Media::Json) => Held::Json(Vec::new()),
            Some(Media::Events) => Held::Events(Events::default()),
            None => Held::Nothing,
        };
        Self { held }
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
                sealed(&whole, binding).map_or(whole, String::into_bytes)
            }
            Held::Events(events) => events.push(&part, end, &|data| sealed(data, binding)),
            Held::Nothing => part,
        }
    }
}

/// A message with its ids sealed; None if it has none that can be.
fn sealed(message: &[u8], binding: &Binding<'_>) -> Option<String> {
    let document = json::parse(message, &LIMITS).ok()?;
    let root = document.root();
    // JSON-RPC has it in `result`; no message of REST has such a member.
    let mut seals = Seals {
        binding,
        words: Vec::new(),
    };
    seals.payload(root.get("result").unwrap_or(root));
    let text = std::str::from_utf8(message).ok()?;
    (!seals.words.is_empty()).then(|| written(text, seals.words))
}

/// The ids found so far, sealed.
struct Seals<'a> {
    binding: &'a Binding<'a>,
    words: Vec<(Range<usize>, String)>,
}

impl Seals<'_> {
    /// What an operation brings: a list of tasks, or one of four by the member that holds it (1.0, and REST of 0.3), by its
    /// `kind` (JSON-RPC of 0.3), or a task that stands alone.
    fn payload(&mut self, result: Value<'_>) {
        let kind = result.get("kind").and_then(|kind| kind.as_str());
        match kind.as_deref() {
            Some("task") => return self.task(result),
            Some("message" | "status-update" | "artifact-update") => return self.of_task(result),
            _ => {}
        }
        for (key, value) in result.entries().into_iter().flatten() {
            match &*key {
                "tasks" => value.as_array().into_iter().flatten().for_each(|task| self.task(task)),
                "task" => self.task(value),
                "message" | "msg" | "statusUpdate" | "status_update" | "artifactUpdate" | "artifact_update" => {
                    self.of_task(value);
                }
                "status" if value.entries().is_some() => self.task(result),
                _ => {}
            }
        }
    }

    fn task(&mut self, task: Value<'_>) {
        let ids = Ids {
            task: text(task, &["id"]),
            context: text(task, &["contextId", "context_id"]),
        };
        self.put(Sealed::Task, ids.task.as_ref());
        self.put(Sealed::Context, ids.context.as_ref());
        let history = task.get("history").and_then(|history| history.as_array());
        for message in history.into_iter().flatten() {
            self.repeated(message, &ids);
        }
        self.status(task, &ids);
    }

    /// A message or an update, which names its task by `taskId`.
    fn of_task(&mut self, part: Value<'_>) {
        let ids = Ids {
            task: text(part, &["taskId", "task_id"]),
            context: text(part, &["contextId", "context_id"]),
        };
        self.put(Sealed::Task, ids.task.as_ref());
        self.put(Sealed::Context, ids.context.as_ref());
        self.status(part, &ids);
    }

    /// The message of a status; REST of 0.3 calls it `update`.
    fn status(&mut self, of: Value<'_>, ids: &Ids<'_>) {
        let Some(status) = of.get("status") else { return };
        for message in ["message", "update"].into_iter().filter_map(|name| status.get(name)) {
            self.repeated(message, ids);
        }
    }

    /// A message within a task, where it repeats the ids of that.
    fn repeated(&mut self, message: Value<'_>, ids: &Ids<'_>) {
        for (what, names, known) in [
            (Sealed::Task, ["taskId", "task_id"], &ids.task),
            (Sealed::Context, ["contextId", "context_id"], &ids.context),
        ] {
            let named = text(message, &names);
            let is_same = |named: &Word<'_>| known.as_ref().is_some_and(|known| known.text == named.text);
            self.put(what, named.filter(is_same).as_ref());
        }
    }

    fn put(&mut self, what: Sealed, word: Option<&Word<'_>>) {
        let Some(word) = word else { return };
        if let Some(sealed) = self.binding.seal(what, &word.text)
            // Of two readings of one place the first has it.
            && !self.words.iter().any(|(place, _)| *place == word.place)
        {
            // INVARIANT: what was sealed holds nothing that JSON escapes.
            self.words.push((word.place.clone(), format!("\"{sealed}\"")));
        }
    }
}

/// The ids of a task.
struct Ids<'a> {
    task: Option<Word<'a>>,
    context: Option<Word<'a>>,
}

/// A string and where it stands.
struct Word<'a> {
    text: Cow<'a, str>,
    place: Range<usize>,
}

/// The member of the first of these names.
fn text<'a>(of: Value<'a>, names: &[&str]) -> Option<Word<'a>> {
    let value = names.iter().find_map(|name| of.get(name))?;
    Some(Word {
        text: value.as_str()?,
        place: value.span(),
    })
}
