//! What a score takes from a token.
//!
//! A token is renewed by asking again, so each renewal is a moment to think again. An agent whose score is high, and not so
//! high that it is paused, goes on with what it is known for, and for a minute at a time.

use authz::claims::ToolGrant;
use authz::manifest::Grant;
use authz::scope::{Scope, ScopeSet};
use serde::Serialize;

use crate::app::App;
use crate::error::Problem;

/// How long the token of an agent with a high score lives: its next renewal looks at the score again.
const ELEVATED_TTL_SECONDS: u64 = 60;

/// What was asked for and not granted, and why.
#[derive(Debug, Serialize)]
pub(super) struct Narrowed {
    /// The lifetime instead of the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    /// Scopes left out: the agent has never used them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scope: Vec<Scope>,
    /// Tools left out, as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolGrant>,
    why: String,
}

/// Shortens and narrows a grant as the agent's score asks; None if it does not.
///
/// # Errors
///
/// 403 `risk_too_high` if the score is one that pauses, or if nothing is left of the grant.
pub(super) fn to_the_score(app: &App, grant: &mut Grant) -> Result<Option<Narrowed>, Problem> {
    let Some(elevated) = app.risk.elevated(&grant.agent_id, app.clock.millis()) else {
        return Ok(None);
    };
    let too_high = |why: String| Problem::forbidden("risk_too_high", why).field("agent_id");
    if elevated.refused {
        return Err(too_high(elevated.why));
    }
    let mut narrowed = Narrowed {
        ttl_seconds: None,
        scope: Vec::new(),
        tools: Vec::new(),
        why: elevated.why,
    };
    if grant.ttl_seconds > ELEVATED_TTL_SECONDS {
        grant.ttl_seconds = ELEVATED_TTL_SECONDS;
        narrowed.ttl_seconds = Some(ELEVATED_TTL_SECONDS);
    }
    let profile = &elevated.profile;
    // Of an agent that nobody knows yet, what it never used says nothing.
    if profile.is_known() {
        let asked_for_something = !(grant.scope.is_empty() && grant.tools.is_empty());
        let (known, new) = grant
            .scope
            .iter()
            .cloned()
            .partition(|scope| profile.has_used_data(scope.as_str()));
        grant.scope = ScopeSet::new(known);
        narrowed.scope = new;
        let tools = std::mem::take(&mut grant.tools);
        (grant.tools, narrowed.tools) = tools
            .into_iter()
            .partition(|tool| profile.has_used(tool.tool().as_ref()));
        if asked_for_something && grant.scope.is_empty() && grant.tools.is_empty() {
            return Err(too_high(format!(
                "nothing that the agent is known for was asked for: {}",
                narrowed.why
            )));
        }
    }
    if narrowed.ttl_seconds.is_none() && narrowed.scope.is_empty() && narrowed.tools.is_empty() {
        return Ok(None);
    }
    tracing::warn!(agent_id = %grant.agent_id, why = narrowed.why, "token narrowed");
    Ok(Some(narrowed))
}
