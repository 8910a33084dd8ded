//! Past decisions made again, from what their records say and nothing else.
//!
//! A record holds the facts and the verified claims that were decided on. What led to them is not decided again: signatures
//! were checked and requests were read by the sidecar that wrote the record. Nor is what a record cannot tell, such as the
//! age of policy at that moment. Such a decision is [`Unplayed`], and says why.
//!
//! It is decided by the bundle and the state list that the record names, where an export has them ([`KeptPolicy`]), or by
//! files ([`Policy`]), which say nothing of the states of agents.
//!
//! With [`Facts::Recorded`] the facts are taken as they are, which tells whether the same policy still decides the same.
//! With [`Facts::Read`] they are read again by services that may have been edited, as far as the record has what is needed:
//! method, path and captures, but neither bodies nor queries.

use std::collections::HashMap;

use crate::audit::{Kind, Outcome, Record};
use crate::case;
use crate::claims::Claims;
use crate::decision::{self, Question};
use crate::denial::Code;
use crate::identity::SpiffeId;
use crate::json::{self, Limits};
use crate::manifest::Mesh;
use crate::policy::{Bundle, FORMAT};
use crate::request::Side;
use crate::state::{StateClaims, StateList};
use crate::token::VerifiedToken;

mod facts;
mod kept;
#[cfg(test)]
mod tests;
mod usage;

pub use kept::KeptPolicy;
pub use usage::{Removed, Usage};

/// Bundles that are kept; a log names no more workloads, unless somebody made it up.
const MOST_WORKLOADS: usize = 1 << 16;

/// What is decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// The facts as they were recorded.
    Recorded,
    /// What the services of the policy make of the request now.
    Read,
}

/// A verdict: the call went on, in shadow with the code of what would have denied it; or the code of its denial.
pub type Verdict = Result<Option<Code>, Code>;

/// A decision that was made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// As it was recorded.
    pub recorded: Verdict,
    /// As it is now.
    pub again: Verdict,
}

/// Why a record was not decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unplayed {
    /// It is of no single decision.
    NoDecision,
    /// It was denied by the state of its agent, its token, its session or its tool, which what it is decided by does not hold.
    State,
    /// It was denied before there were facts, or the facts that would be needed are not recorded.
    Unread,
    /// It was denied for what was the matter with the sidecar: no current policy, no place for records.
    Sidecar,
    /// The policy makes no bundle for its workload.
    Policy,
    /// The bundle or the state list that it names was not kept.
    NotKept,
}

impl Unplayed {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::NoDecision,
        Self::State,
        Self::Unread,
        Self::Sidecar,
        Self::Policy,
        Self::NotKept,
    ];

    /// The word in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoDecision => "no_decision",
            Self::State => "state",
            Self::Unread => "unread",
            Self::Sidecar => "sidecar",
            Self::Policy => "policy",
            Self::NotKept => "not_kept",
        }
    }
}

/// A policy by which past decisions are made again.
#[derive(Debug)]
pub struct Policy<'m> {
    mesh: &'m Mesh,
    bundles: HashMap<SpiffeId, Option<Bundle>>,
}

impl<'m> Policy<'m> {
    /// A policy of these files.
    pub fn new(mesh: &'m Mesh) -> Self {
        Self {
            mesh,
            bundles: HashMap::new(),
        }
    }

    /// Decides a record again.
    ///
    /// # Errors
    ///
    /// [`Unplayed`] where it cannot be.
    pub fn replay(&mut self, record: &Record<'_>, facts: Facts) -> Result<Replayed, Unplayed> {
        let recorded = outcome(record)?;
        if is_of_state(recorded) {
            return Err(Unplayed::State);
        }
        let workload = identity(record.workload.as_deref())?;
        let bundle = self.bundle(&workload).ok_or(Unplayed::Policy)?;
        let state = nobody(bundle, record.time_ms / 1000)?;
        let again = decide(record, &workload, bundle, &state, facts)?;
        Ok(Replayed { recorded, again })
    }

    fn bundle(&mut self, workload: &SpiffeId) -> Option<&Bundle> {
        if self.bundles.len() >= MOST_WORKLOADS && !self.bundles.contains_key(workload) {
            return None;
        }
        let mesh = self.mesh;
        let bundle = self.bundles.entry(workload.clone());
        bundle
            .or_insert_with(|| case::bundle_of_files(mesh, workload, &[], 0, u64::MAX).ok())
            .as_ref()
    }
}

/// The verdict of a record that is worth deciding again.
fn outcome(record: &Record<'_>) -> Result<Verdict, Unplayed> {
    let verdict = match (record.kind, record.verdict, record.code) {
        // What was shown in the place of a token is not recorded.
        (Kind::Decision, Some(Outcome::Permit), Some(Code::TokenExpired)) if record.claims.is_none() => {
            return Err(Unplayed::Unread);
        }
        (Kind::Decision, Some(Outcome::Permit), shadowed) => return Ok(Ok(shadowed)),
        (Kind::Decision, Some(Outcome::Deny), Some(code)) => code,
        _ => return Err(Unplayed::NoDecision),
    };
    match verdict {
        Code::SessionMismatch | Code::TaskMismatch | Code::McpTaskMismatch | Code::ToolDrifted => Err(Unplayed::State),
        Code::PolicyUnavailable | Code::WorkloadMismatch | Code::RecordsUnavailable | Code::InternalError => {
            Err(Unplayed::Sidecar)
        }
        code => Ok(Err(code)),
    }
}

/// Whether a call was denied by what a state list says.
fn is_of_state(verdict: Verdict) -> bool {
    use Code::{AgentKilled, AgentPaused, AgentSuspended, TokenRevoked, TokenSuperseded};
    matches!(
        verdict,
        Err(AgentPaused | AgentSuspended | AgentKilled | TokenRevoked | TokenSuperseded)
    )
}

fn identity(text: Option<&str>) -> Result<SpiffeId, Unplayed> {
    text.and_then(|text| text.parse().ok()).ok_or(Unplayed::Unread)
}

fn decide(
    record: &Record<'_>,
    workload: &SpiffeId,
    bundle: &Bundle,
    state: &StateList,
    facts: Facts,
) -> Result<Verdict, Unplayed> {
    let read = match facts {
        Facts::Recorded => Ok(facts::recorded(record).ok_or(Unplayed::Unread)?),
        Facts::Read => facts::read(record, bundle)?,
    };
    let facts = match read {
        Ok(facts) => facts,
        Err(code) => return Ok(Err(code)),
    };
    let now = record.time_ms / 1000;
    let peer = record.peer.as_deref().and_then(|peer| peer.parse().ok());
    let token = claims(record)?.map(VerifiedToken::recorded);
    let question = Question {
        now,
        side: record.side.ok_or(Unplayed::Unread)?,
        workload,
        peer: peer.as_ref(),
        token: token.as_ref(),
        flaw: None,
        bundle,
        state,
        seconds_since_poll: 0,
    };
    Ok(match decision::decide(&question, &facts) {
        Ok(permit) => Ok(permit.shadowed().map(|shadowed| shadowed.denial().code())),
        Err(denial) => Err(denial.code()),
    })
}

/// The verified claims of a record.
fn claims(record: &Record<'_>) -> Result<Option<Claims>, Unplayed> {
    let Some(recorded) = &record.claims else {
        return Ok(None);
    };
    let document = json::parse(recorded.encoding(), &Limits::REQUEST).map_err(|_| Unplayed::Unread)?;
    Claims::read(document.root()).map(Some).map_err(|_| Unplayed::Unread)
}

/// A state list that says nothing against anybody, and is fresh.
fn nobody(bundle: &Bundle, now: u64) -> Result<StateList, Unplayed> {
    let claims = StateClaims {
        format: FORMAT,
        iss: bundle.issuer().clone(),
        epoch: 0,
        version: 1,
        issued_at: now,
        agents: Default::default(),
        not_before: Default::default(),
        revoked: Default::default(),
    };
    StateList::from_own_claims(claims, now).map_err(|_| Unplayed::Policy)
}

/// Whether a decision tells how a call fared: at the service's side, which is the boundary that counts, or at the caller's
/// where it ended.
pub fn is_decisive(record: &Record<'_>) -> bool {
    match record.side {
        Some(Side::Inbound) => true,
        Some(Side::Outbound) => record.verdict == Some(Outcome::Deny),
        None => false,
    }
}
