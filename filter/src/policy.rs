//! The bundle and the state list in use, and what is accepted in their place.

use std::rc::Rc;
use std::time::Duration;

use authz::identity::SpiffeId;
use authz::json::{self, JsonError, Limits};
use authz::policy::{Bundle, BundleKeys, PolicyError, RawBundle};
use authz::state::{RawStateList, StateList};
use serde::Deserialize;

/// An answer to a poll. Fields of later servers are ignored; what counts is signed.
#[derive(Deserialize)]
struct Answer {
    bundle: Option<String>,
    state: Option<String>,
}

/// Why an answer, or a part of it, was not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the answer is not usable: {0}")]
    Envelope(JsonError),
    #[error("the bundle is refused: {0}")]
    Bundle(PolicyError),
    #[error("the state list is refused: {0}")]
    State(PolicyError),
}

/// A bundle with its version as records name it.
#[derive(Debug)]
pub(crate) struct BundleInUse {
    pub(crate) bundle: Bundle,
    pub(crate) version: String,
}

/// A state list with its version as records name it.
#[derive(Debug)]
pub(crate) struct StateInUse {
    pub(crate) list: StateList,
    pub(crate) version: String,
    /// When the poll that brought it was sent, on the monotonic clock.
    polled: Duration,
}

impl StateInUse {
    /// Seconds since the poll that brought the list was sent.
    pub(crate) fn seconds_since_poll(&self, monotonic: Duration) -> u64 {
        monotonic.saturating_sub(self.polled).as_secs()
    }
}

/// What changed with an answer.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) bundle: bool,
    pub(crate) state: bool,
}

/// What a VM knows of policy; nothing at first.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    bundle: Option<Rc<BundleInUse>>,
    state: Option<Rc<StateInUse>>,
}

impl Policy {
    pub(crate) fn bundle(&self) -> Option<&Rc<BundleInUse>> {
        self.bundle.as_ref()
    }

    pub(crate) fn state(&self) -> Option<&Rc<StateInUse>> {
        self.state.as_ref()
    }

    /// Takes over what an answer brings, each part on its own: a bad bundle must not keep a kill from arriving.
    pub(crate) fn accept(
        &mut self,
        answer: &[u8],
        keys: &BundleKeys,
        workload: &SpiffeId,
        polled: Duration,
        now: u64,
    ) -> (News, Vec<AnswerError>) {
        let mut news = News::default();
        let mut errors = Vec::new();
        let answer: Answer = match json::strict(answer, &Limits::POLICY) {
            Ok(answer) => answer,
            Err(error) => return (news, vec![AnswerError::Envelope(error)]),
        };
        if let Some(bundle) = answer.bundle {
            let held = self.bundle.as_ref().map(|held| held.bundle.version());
            match RawBundle::new(&bundle).verify(keys, workload, held, now) {
                Ok(bundle) => {
                    news.bundle = held != Some(bundle.version());
                    self.bundle = Some(Rc::new(BundleInUse {
                        version: bundle.version().to_string(),
                        bundle,
                    }));
                }
                Err(error) => errors.push(AnswerError::Bundle(error)),
            }
        }
        if let Some(state) = answer.state {
            let held = self.state.as_ref().map(|held| held.list.version());
            match RawStateList::new(&state).verify(keys, held, now) {
                Ok(list) => {
                    news.state = held != Some(list.version());
                    self.state = Some(Rc::new(StateInUse {
                        version: list.version().to_string(),
                        list,
                        polled,
                    }));
                }
                Err(error) => errors.push(AnswerError::State(error)),
            }
        }
        (news, errors)
    }

    /// Forgets everything: the keys that vouched for it are no longer trusted.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
