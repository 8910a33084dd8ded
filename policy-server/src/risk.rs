//! The risk engine: scores every record that is stored, and pauses or suspends agents whose score is high.
//!
//! How a score comes about is [`authz::risk`]; `scorer` feeds it the records in the order in which they were accepted, as
//! of a position that is stored with the profiles: after a crash it goes on where it was, and the same records give the
//! same scores. They are stored every few seconds, and count at once: a call that waits for its record waits for its score too
//! ([`Risk::counted`]). It changes an agent's state by the same table as people do, as `risk-engine`, and before it stores how far
//! it has come, so that no crash loses a pause.
//!
//! A sidecar is believed of what it can know: a service's of agents that reach it, an agent's of that agent alone. So a
//! service that is owned can harm the agents that call it, and an agent's workload only itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use authz::identity::AgentId;
use authz::risk::{Declared, Observation, Profile, Settings};
use authz::state::transition::Change;
use tokio::sync::{Notify, watch};

use crate::agents::MAX_REASON_BYTES;
use crate::store::agents::AgentChange;

mod progress;
mod scorer;

pub use progress::Counted;
use progress::Progress;
pub(crate) use scorer::run;

/// What is known of how agents behave, as the routes see it.
#[derive(Debug)]
pub struct Risk {
    settings: Settings,
    /// Of agents that are judged otherwise.
    of_agents: BTreeMap<AgentId, Settings>,
    act: bool,
    profiles: RwLock<HashMap<AgentId, Profile>>,
    /// When it was last logged of an agent what would have been done, in milliseconds.
    logged: Mutex<HashMap<AgentId, u64>>,
    wake: Arc<Notify>,
    /// An agent's state has changed since the task last read what changed.
    agents_changed: AtomicBool,
    progress: watch::Sender<Progress>,
}

/// What an agent with a high score may have.
#[derive(Debug)]
pub struct Elevated {
    /// What it is known for.
    pub profile: Profile,
    /// The score is one that pauses: nothing.
    pub refused: bool,
    /// The score and its reasons in words.
    pub why: String,
}

/// Between two lines in the log on what would have been done to one agent: it is asked after each of its calls.
const BETWEEN_LINES_MS: u64 = 60_000;

impl Risk {
    /// Nothing is known yet. With `act` agents are paused and suspended; without it only their scores are shown.
    pub fn new(settings: Settings, of_agents: BTreeMap<AgentId, Settings>, act: bool) -> Self {
        Self {
            settings,
            of_agents,
            act,
            profiles: RwLock::default(),
            logged: Mutex::default(),
            wake: Arc::default(),
            agents_changed: AtomicBool::default(),
            progress: watch::Sender::default(),
        }
    }

    /// Whether a line on this agent is due.
    fn due(&self, agent: &AgentId, now_ms: u64) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged
            .get(agent)
            .is_none_or(|last| now_ms.saturating_sub(*last) >= BETWEEN_LINES_MS);
        if due {
            logged.insert(agent.clone(), now_ms);
        }
        due
    }

    /// An agent's state has changed, or may have.
    pub(crate) fn agent_changed(&self) {
        self.agents_changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Wakes the task, to be called when records have been stored.
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// The score of an agent at a time, and why it is that.
    pub fn score(&self, agent: &AgentId, now_ms: u64) -> (u8, Vec<String>) {
        let profiles = self.profiles.read().unwrap_or_else(PoisonError::into_inner);
        profiles.get(agent).map_or((0, Vec::new()), |profile| {
            (profile.score(now_ms, self.settings(agent)), profile.reasons())
        })
    }

    /// What tokens of an agent must be at a time; None if its score says nothing, or nothing is to come of scores.
    pub fn elevated(&self, agent: &AgentId, now_ms: u64) -> Option<Elevated> {
        if !self.act {
            return None;
        }
        let profile = self.profile(agent);
        let settings = self.settings(agent);
        profile.is_elevated(now_ms, settings).then(|| {
            let score = profile.score(now_ms, settings);
            Elevated {
                refused: score >= settings.pause_at,
                why: reason(score, &profile.reasons()),
                profile,
            }
        })
    }

    fn settings(&self, agent: &AgentId) -> &Settings {
        self.of_agents.get(agent).unwrap_or(&self.settings)
    }

    fn profile(&self, agent: &AgentId) -> Profile {
        let profiles = self.profiles.read().unwrap_or_else(PoisonError::into_inner);
        profiles.get(agent).cloned().unwrap_or_default()
    }

    /// Forgets what is not stored: it will be scored again.
    fn restore(&self, stored: Vec<(AgentId, Profile)>) {
        let mut profiles = self.profiles.write().unwrap_or_else(PoisonError::into_inner);
        *profiles = stored.into_iter().collect();
    }

    /// Forgives agents of whom something is known and that a person has decided about since; gives those whose profile that
    /// changes.
    fn forgive(&self, changes: &BTreeMap<AgentId, AgentChange>) -> Vec<AgentId> {
        let mut profiles = self.profiles.write().unwrap_or_else(PoisonError::into_inner);
        let mut forgiven = Vec::new();
        for change in changes.values().filter(|change| !change.change.takes_away()) {
            let profile = profiles.get_mut(&change.agent);
            if profile.is_some_and(|profile| profile.forgive(change.number)) {
                forgiven.push(change.agent.clone());
            }
        }
        forgiven
    }

    /// Lets a call count.
    fn observe(
        &self,
        agent: &AgentId,
        declared: &Declared,
        seen: &Observation,
        frozen: bool,
        last_change: Option<&AgentChange>,
    ) {
        let mut profiles = self.profiles.write().unwrap_or_else(PoisonError::into_inner);
        let profile = profiles.entry(agent.clone()).or_insert_with(|| {
            let mut profile = Profile::default();
            // One that is new has nothing to forgive, now or after the next start.
            if let Some(change) = last_change.filter(|change| !change.change.takes_away()) {
                profile.forgive(change.number);
            }
            profile
        });
        profile.observe(declared, seen, self.settings(agent), frozen);
    }

    /// What an agent's score asks for at a time, and the score and its reasons in words.
    fn verdict(&self, agent: &AgentId, now_ms: u64) -> Option<(Change, String)> {
        let profiles = self.profiles.read().unwrap_or_else(PoisonError::into_inner);
        let (profile, settings) = (profiles.get(agent)?, self.settings(agent));
        let change = profile.verdict(now_ms, settings)?;
        Some((change, reason(profile.score(now_ms, settings), &profile.reasons())))
    }
}
/// The score and what made it, in at most as many bytes as a reason may have.
fn reason(score: u8, reasons: &[String]) -> String {
    let mut text = format!("score {score}");
    for (index, reason) in reasons.iter().enumerate() {
        let separator = if index == 0 { ": " } else { "; " };
        // Names come from callers; what would move a terminal's cursor does not go on.
        let reason: String = reason.chars().filter(|c| !c.is_control()).collect();
        if text.len() + separator.len() + reason.len() > MAX_REASON_BYTES {
            break;
        }
        text.push_str(separator);
        text.push_str(&reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_bounded_and_moves_no_cursor() {
        assert_eq!(reason(70, &[]), "score 70");
        let reasons = ["bash never used in 2,310 calls", "14 denials\u{7} in 60 s"].map(str::to_owned);
        assert_eq!(
            reason(91, &reasons),
            "score 91: bash never used in 2,310 calls; 14 denials in 60 s"
        );
        let long = vec!["ä".repeat(300); 9];
        assert!(reason(70, &long).len() <= MAX_REASON_BYTES);
    }
}
