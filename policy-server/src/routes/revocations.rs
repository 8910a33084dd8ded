//! `/v1/revocations`: how operators end one token, one operation or one user request.

use std::sync::Arc;

use authz::identity::{Jti, OperationId, TransactionId};
use authz::state::transition::Role as Acting;
use authz::token::SKEW_SECONDS;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::agents::{actor, answer, parse, problem, to_its_end, usable_reason};
use crate::agents;
use crate::app::App;
use crate::error::Problem;
use crate::store::agents::Revocation;
use crate::store::work::{EndWork, Work};

/// Exactly one of the first three.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    jti: Option<String>,
    operation_id: Option<String>,
    txn: Option<String>,
    reason: String,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum RevokeAnswer {
    Token {
        jti: Jti,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_id: Option<String>,
        expires_at: u64,
    },
    Work {
        #[serde(skip_serializing_if = "Option::is_none")]
        operation_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        txn: Option<String>,
        /// Tokens that died.
        tokens: u64,
        /// When the last of them would have expired; none if there was none.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        /// Until when no token is issued for it; for ever, if it is not there.
        #[serde(skip_serializing_if = "Option::is_none")]
        refused_until: Option<u64>,
    },
}

/// What is revoked.
enum Target {
    Token(Jti),
    Work(Work),
}

/// Revokes a token, or every live one of an operation or a user request.
pub async fn revoke(State(app): State<Arc<App>>, request: Request) -> Response {
    answer(revoked(app, request).await)
}

async fn revoked(app: Arc<App>, request: Request) -> Result<RevokeAnswer, Problem> {
    let caller = actor(&app, &request, true)?;
    if !caller.roles.contains(&Acting::Operator) {
        return Err(Problem::forbidden("role_missing", "only an operator may revoke tokens"));
    }
    let request: RevokeRequest = parse(request).await?;
    let reason = usable_reason(request.reason)?;
    let target = target(request.jti, request.operation_id, request.txn)?;
    match target {
        Target::Token(jti) => token(app, caller.by, jti, reason).await,
        Target::Work(work) => end(app, caller.by, work, reason).await,
    }
}

fn target(jti: Option<String>, operation_id: Option<String>, txn: Option<String>) -> Result<Target, Problem> {
    let malformed = |field: &str, detail: String| Problem::malformed(detail).field(field);
    match (jti, operation_id, txn) {
        (Some(jti), None, None) => Jti::try_from(jti)
            .map(Target::Token)
            .map_err(|error| malformed("jti", error.to_string())),
        (None, Some(operation), None) => OperationId::try_from(operation)
            .map(|operation| Target::Work(Work::Operation(operation.to_string())))
            .map_err(|error| malformed("operation_id", error.to_string())),
        (None, None, Some(txn)) => TransactionId::try_from(txn)
            .map(|txn| Target::Work(Work::Txn(txn.to_string())))
            .map_err(|error| malformed("txn", error.to_string())),
        _ => Err(Problem::malformed("name one of jti, operation_id and txn")),
    }
}

/// When a token expires at the latest that may be alive now, as sidecars see it.
pub(super) fn latest_expiry(app: &App, now: u64) -> u64 {
    now.saturating_add(app.config.token_max_ttl_seconds)
        .saturating_add(SKEW_SECONDS)
}

/// One token.
async fn token(app: Arc<App>, by: String, jti: Jti, reason: String) -> Result<RevokeAnswer, Problem> {
    let now = app.clock.seconds();
    let revocation = Revocation {
        jti: jti.clone(),
        by,
        reason,
        at: now,
        latest_expiry: latest_expiry(&app, now),
    };
    let held = Arc::clone(&app);
    let done = to_its_end(async move { agents::revoke(&held, &revocation).await });
    let done = done.await?.map_err(|error| problem(&app, &error))?;
    Ok(RevokeAnswer::Token {
        jti,
        agent_id: done.agent_id,
        expires_at: done.expires_at,
    })
}

/// A user request has a name of its own, and so is over for good. An operation's name comes again: it is refused until every
/// client that still refreshes its tokens has learnt of it.
async fn end(app: Arc<App>, by: String, work: Work, reason: String) -> Result<RevokeAnswer, Problem> {
    let now = app.clock.seconds();
    let refused_until = match work {
        Work::Operation(_) => Some(latest_expiry(&app, now)),
        Work::Txn(_) => None,
    };
    let asked = EndWork {
        work: work.clone(),
        by,
        reason,
        at: now,
        refused_until,
    };
    let held = Arc::clone(&app);
    let done = to_its_end(async move { agents::end_work(&held, &asked).await });
    let (tokens, expires_at) = done.await?.map_err(|error| problem(&app, &error))?;
    let (operation_id, txn) = match work {
        Work::Operation(name) => (Some(name), None),
        Work::Txn(name) => (None, Some(name)),
    };
    Ok(RevokeAnswer::Work {
        operation_id,
        txn,
        tokens,
        expires_at,
        refused_until,
    })
}
