//! The answer of a service whose tasks are bound, on its way to the caller, with the ids in it sealed.
//!
//! Parts are taken out of the proxy's buffer and kept here until a message or event is whole, so that no limit on what a proxy
//! buffers cuts a long answer short. The headers have gone by then, without the length of the body and what else is true of
//! the service's own bytes.

use authz::protocol::list::List;
use authz::protocol::tasks::Answer;
use authz::request::Side;

use crate::bound;
use crate::host::{Host, Message};
use crate::known::Known;
use crate::response;

/// An answer, as far as it has come.
#[derive(Debug)]
pub(crate) struct Sealing {
    /// None before its headers are here.
    answer: Option<Answer>,
}

/// The answer cannot be read, or not be put in the place of the service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealingError;

impl Sealing {
    /// The answer that a permitted request will have, where its ids are sealed.
    pub(crate) fn of(known: &Known) -> Option<Self> {
        if known.side != Some(Side::Inbound) || known.token.is_none() {
            return None;
        }
        // A list names no task, and is held by another.
        let method = known.facts.as_ref().and_then(|facts| facts.rpc_method.as_deref());
        if method.and_then(List::of).is_some() {
            return None;
        }
        let bundle = &known.standing().ok()?.bundle.bundle;
        bound::binding(known, bundle).map(|_| Self { answer: None })
    }

    /// The headers are here; a body follows.
    pub(crate) fn headers(&mut self, host: &impl Host, known: &Known) {
        let media = response::media_by(host, Answer::media);
        match media {
            Ok(_) => response::forget_body(host),
            Err(why) => log::warn!("{why}: nobody will be able to name the tasks that it gives"),
        }
        let facts = known.facts.as_deref();
        self.answer = facts.map(|facts| Answer::new(facts, media.ok()));
    }

    /// Whether something has come that has not gone on.
    pub(crate) fn is_holding(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::is_holding)
    }

    /// The next part is here, of `size` bytes; what goes on in its place.
    pub(crate) fn body(
        &mut self,
        host: &impl Host,
        known: &Known,
        size: usize,
        end: bool,
    ) -> Result<Vec<u8>, SealingError> {
        let Some(answer) = &mut self.answer else {
            return Err(SealingError);
        };
        let part = match size {
            0 => Vec::new(),
            _ => host.body(Message::Response, size).ok_or(SealingError)?,
        };
        if part.len() != size {
            return Err(SealingError);
        }
        let bundle = &known.standing().map_err(|_| SealingError)?.bundle.bundle;
        let (_, binding) = bound::binding(known, bundle).ok_or(SealingError)?;
        let sealed = answer.push(part, end, &binding);
        match host.replace_response_body(size, &sealed) {
            true => Ok(sealed),
            false => Err(SealingError),
        }
    }
}

#[cfg(test)]
mod tests;
