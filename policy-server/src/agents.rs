//! Agents' states: changed by people and by the risk engine, recorded, and told to every sidecar.
//!
//! Which change is possible, and for whom, is the table of [`authz::state::transition`]; it is looked up in the same
//! transaction that stores the change, so that two who change an agent at once cannot both start from what was before.

use authz::identity::AgentId;
use authz::policy::Version;
use authz::state::transition::{Change, Role, TransitionError};

use crate::app::App;
use crate::feed::FeedError;
use crate::store::StoreError;
use crate::store::agents::{AskedChange, ChangeOutcome, Revocation, Revoked};
use crate::store::work::{EndWork, WorkEnded};

/// Who acts where no person does.
pub const RISK_ENGINE: &str = "risk-engine";

/// The longest reason, in bytes: a sentence or a few, not a report.
pub const MAX_REASON_BYTES: usize = 1000;

/// Why an agent's state or token was not changed, or not yet told.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The table has no such change, or not for this caller.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// So many tokens would die one by one that the state list would grow too long.
    #[error("{tokens} live tokens are too many to revoke one by one")]
    TooMany {
        /// How many.
        tokens: u64,
    },
    /// It is stored, and sidecars go by the old list until the next is signed.
    #[error("it is stored, but sidecars could not be told yet: {0}")]
    NotTold(FeedError),
}

/// A change that happened, or need not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// What was stored.
    pub outcome: ChangeOutcome,
    /// The state list that tells.
    pub version: Version,
}

/// Who asks, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The agent.
    pub agent: &'a AgentId,
    /// What is asked for.
    pub change: Change,
    /// What the asker may be.
    pub roles: &'a [Role],
    /// Who asks.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// Changes an agent's state, durably, and tells every sidecar.
///
/// A change to the state that the agent is in already is told again: the first answer, or the list, may have been lost.
///
/// # Errors
///
/// [`AgentError`]. After `NotTold` the next renewal tells, or asking again.
pub async fn change(app: &App, asked: Asked<'_>) -> Result<Changed, AgentError> {
    let stored = app
        .store()
        .change_agent(&AskedChange {
            agent: asked.agent.clone(),
            change: asked.change,
            roles: asked.roles.to_vec(),
            by: asked.by.to_owned(),
            reason: asked.reason.to_owned(),
            at: app.clock.seconds(),
        })
        .await;
    // One that failed may have been stored.
    app.risk.agent_changed();
    let outcome = stored??;
    if let ChangeOutcome::Changed(change) = &outcome {
        tracing::warn!(
            agent = %change.agent, from = %change.from, to = %change.to, by = change.by, role = change.role,
            reason = change.reason, "agent state"
        );
    }
    let version = app.feed.renew_state().await.map_err(AgentError::NotTold)?;
    Ok(Changed { outcome, version })
}

/// Revokes one token, durably, and tells every sidecar.
///
/// # Errors
///
/// [`AgentError`], never `Transition`.
pub async fn revoke(app: &App, revocation: &Revocation) -> Result<Revoked, AgentError> {
    let revoked = app.store().revoke(revocation).await?;
    tracing::warn!(jti = %revocation.jti, by = revocation.by, reason = revocation.reason, "token revoked");
    app.feed.renew_state().await.map_err(AgentError::NotTold)?;
    Ok(revoked)
}

/// Ends an operation or a user request, durably, and tells every sidecar which tokens died with it.
///
/// # Errors
///
/// [`AgentError`], never `Transition`.
pub async fn end_work(app: &App, asked: &EndWork) -> Result<(u64, Option<u64>), AgentError> {
    match app.store().end_work(asked).await? {
        WorkEnded::TooMany { tokens } => Err(AgentError::TooMany { tokens }),
        WorkEnded::Ended {
            tokens,
            last_expires_at,
        } => {
            tracing::warn!(
                kind = asked.work.kind(),
                name = asked.work.name(),
                tokens,
                by = asked.by,
                reason = asked.reason,
                "work ended"
            );
            app.feed.renew_state().await.map_err(AgentError::NotTold)?;
            Ok((tokens, last_expires_at))
        }
    }
}
