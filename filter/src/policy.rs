//! The bundle and the state list in use, and what is accepted in their place.

use std::rc::Rc;
use std::time::Duration;

use authz::identity::{KeyId, SpiffeId};
use authz::json::{self, JsonError, Limits};
use authz::policy::{Bundle, BundleKeys, MAX_PAGES_ASKED, PageDigest, PendingBundle, PolicyError, RawBundle, Version};
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
    #[error("the pages are not those that were asked for")]
    Pages,
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
    /// Another bundle is in use.
    pub(crate) bundle: bool,
    /// Another bundle is on its way.
    pub(crate) pending: bool,
    /// Another state list is in use.
    pub(crate) state: bool,
}

/// What a VM knows of policy; nothing at first.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    bundle: Option<Rc<BundleInUse>>,
    /// A newer one, of which pages are still missing. What is in use stays in use until it is whole.
    pending: Option<PendingBundle>,
    state: Option<Rc<StateInUse>>,
}

impl Policy {
    pub(crate) fn bundle(&self) -> Option<&Rc<BundleInUse>> {
        self.bundle.as_ref()
    }

    pub(crate) fn state(&self) -> Option<&Rc<StateInUse>> {
        self.state.as_ref()
    }

    /// How long the state list in use is still fresh, to the second; none if there is none, or it is too old.
    pub(crate) fn fresh_for(&self, now: u64, monotonic: Duration) -> Option<Duration> {
        let (bundle, state) = (self.bundle.as_ref()?, self.state.as_ref()?);
        let age = state.list.age_seconds(now, state.seconds_since_poll(monotonic));
        let left = bundle.bundle.max_state_age_seconds().checked_sub(age)?;
        Some(Duration::from_secs(left))
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
            let known = self.version_known();
            let opened = RawBundle::new(&bundle).open(keys, workload, known, now);
            match opened.and_then(|bundle| self.await_pages(bundle)) {
                Ok(changed) => news.bundle = changed,
                Err(error) => errors.push(AnswerError::Bundle(error)),
            }
            news.pending = self.version_known() != known;
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

    /// The newest version of the bundle that has come, whether or not all of its pages have.
    pub(crate) fn version_known(&self) -> Option<Version> {
        let pending = self.pending.as_ref().map(PendingBundle::version);
        pending.or_else(|| self.bundle.as_ref().map(|held| held.bundle.version()))
    }

    /// Pages to ask for, as many as may be asked for at once.
    pub(crate) fn missing_pages(&self) -> Vec<PageDigest> {
        let missing = self.pending.iter().flat_map(PendingBundle::missing);
        missing.take(MAX_PAGES_ASKED).copied().collect()
    }

    /// Takes over pages, a line each; says whether a bundle is in use with them that was not before.
    ///
    /// Who sent them does not matter, nor what else is sent: a page is known by its digest, which is signed.
    pub(crate) fn accept_pages(&mut self, answer: &[u8]) -> Result<bool, AnswerError> {
        let Some(mut pending) = self.pending.take() else {
            return Ok(false);
        };
        let mut taken = false;
        for page in answer.split(|&byte| byte == b'\n') {
            // A page that is signed and yet no page refuses the bundle: it is pending no longer.
            taken |= pending.fill(page).map_err(AnswerError::Bundle)?;
        }
        let changed = self.await_pages(pending).map_err(AnswerError::Bundle)?;
        if taken { Ok(changed) } else { Err(AnswerError::Pages) }
    }

    /// Keeps a bundle until all of its pages are there, and puts it in use when they are; says whether that changes what
    /// is in use.
    fn await_pages(&mut self, mut bundle: PendingBundle) -> Result<bool, PolicyError> {
        if let Some(pending) = self.pending.take() {
            bundle.share_pending(&pending);
        }
        if let Some(held) = &self.bundle {
            bundle.share(&held.bundle);
        }
        if bundle.missing().next().is_some() {
            self.pending = Some(bundle);
            return Ok(false);
        }
        let bundle = bundle.finish()?;
        let version = bundle.version();
        let changed = self.bundle.as_ref().is_none_or(|held| held.bundle.version() != version);
        self.bundle = Some(Rc::new(BundleInUse {
            version: version.to_string(),
            bundle,
        }));
        Ok(changed)
    }

    /// Forgets what was signed by a key that is no longer trusted; says whether there was any.
    ///
    /// What another key vouched for stays, so that the last step of a rotation, taking the old key out, denies nothing.
    pub(crate) fn keep_signed_by(&mut self, trusted: impl Fn(&KeyId) -> bool) -> bool {
        let stays = |key: Option<&KeyId>| key.is_some_and(&trusted);
        let before = (self.bundle.is_some(), self.pending.is_some(), self.state.is_some());
        self.bundle.take_if(|held| !stays(held.bundle.key()));
        self.pending.take_if(|pending| !stays(pending.key()));
        self.state.take_if(|held| !stays(held.list.key()));
        before != (self.bundle.is_some(), self.pending.is_some(), self.state.is_some())
    }
}
