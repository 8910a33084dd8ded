//! `/v1/agents`: how people see agents' states and change them.
//!
//! No agent decides about agents, itself least of all: an identity that a file gives to an agent is refused whatever roles
//! the configuration gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use authz::identity::{AgentId, SpiffeId};
use authz::json::{self, Limits};
use authz::state::AgentState;
use authz::state::transition::{Change, Role as Acting};
use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::keys::OwnUser;
use super::{authenticate, read_body, require_media_type};
use crate::agents::{self, AgentError, Asked, MAX_REASON_BYTES};
use crate::app::App;
use crate::config::Role;
use crate::error::Problem;
use crate::store::agents::{AgentChange, ChangeOutcome};

/// The longest body of a request here.
pub const MAX_REQUEST_BYTES: usize = 4 << 10;

const REQUEST_LIMITS: Limits = Limits {
    max_bytes: MAX_REQUEST_BYTES,
    max_depth: 2,
    max_nodes: 8,
};

/// Agents in one answer: with the longest reasons it stays below a megabyte.
const PAGE: usize = 200;

/// Changes of one agent that are shown.
const SHOWN_CHANGES: u32 = 50;

/// An agent as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    agent_id: AgentId,
    state: AgentState,
    /// By its file; none if no file names it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<SpiffeId>,
    /// From 0 to 100.
    score: u8,
    /// Why the score is what it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    score_reasons: Vec<String>,
    /// The change that led to this state; none if there never was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_change: Option<ShownChange>,
}

#[derive(Debug, Serialize)]
struct ShownChange {
    change: &'static str,
    from: AgentState,
    to: AgentState,
    role: String,
    by: String,
    reason: String,
    at: u64,
}

#[derive(Debug, Serialize)]
struct List {
    agents: Vec<Shown>,
    /// Where the next page starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<AgentId>,
}

#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    agent: Shown,
    changes: Vec<ShownChange>,
}

#[derive(Debug, Serialize)]
struct ChangeAnswer {
    agent_id: AgentId,
    state: AgentState,
    changed: bool,
    state_version: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRequest {
    reason: String,
}

/// Who asks, and as what.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) by: String,
    pub(super) roles: Vec<Acting>,
    may_read: bool,
}

/// Shows agents and their states.
pub async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery, request: Request) -> Response {
    let allowed = reader(&app, &request);
    answer(match allowed {
        Ok(()) => listed(&app, query.as_deref().unwrap_or_default()).await,
        Err(problem) => Err(problem),
    })
}

/// Shows one agent and its changes.
pub async fn show(State(app): State<Arc<App>>, Path(agent): Path<String>, request: Request) -> Response {
    let allowed = reader(&app, &request);
    answer(match allowed {
        Ok(()) => shown(&app, &agent).await,
        Err(problem) => Err(problem),
    })
}

/// Changes an agent's state.
pub async fn change(State(app): State<Arc<App>>, Path(path): Path<(String, String)>, request: Request) -> Response {
    answer(changed(app, path, request).await)
}

async fn listed(app: &App, query: &str) -> Result<List, Problem> {
    let (state, after) = parse_query(query)?;
    let mut last = last_changes(app).await?;
    let mesh = app.feed.policy();
    let named = mesh.iter().flat_map(|mesh| mesh.agents());
    let mut ids: BTreeSet<AgentId> = named.map(|agent| agent.claims.id.clone()).collect();
    // One whose file was deleted keeps its state: it has it again when the file comes back.
    ids.extend(
        last.values()
            .filter(|change| change.to != AgentState::Active)
            .map(|change| change.agent.clone()),
    );
    let mut matching = ids
        .into_iter()
        .filter(|id| after.as_ref().is_none_or(|after| id > after))
        .filter_map(|id| {
            let agent = describe(app, id.clone(), last.remove(&id));
            state.is_none_or(|state| agent.state == state).then_some(agent)
        });
    let agents: Vec<Shown> = matching.by_ref().take(PAGE).collect();
    let more = matching.next().is_some();
    let next = agents.last().filter(|_| more).map(|agent| agent.agent_id.clone());
    Ok(List { agents, next })
}

async fn shown(app: &App, agent: &str) -> Result<Whole, Problem> {
    let id = known_agent(app, agent).await?;
    let changes = app.store().agent_changes(&id, SHOWN_CHANGES).await;
    let changes = changes.map_err(|error| store_failed(app, &error))?;
    let agent = describe(app, id, changes.first().cloned());
    Ok(Whole {
        agent,
        changes: changes.into_iter().map(ShownChange::from).collect(),
    })
}

async fn changed(app: Arc<App>, (agent, change): (String, String), request: Request) -> Result<ChangeAnswer, Problem> {
    let Ok(change) = change.parse::<Change>() else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is nothing here",
        ));
    };
    let caller = actor(&app, &request, change.takes_away())?;
    let ChangeRequest { reason } = parse(request).await?;
    let reason = usable_reason(reason)?;
    let agent = known_agent(&app, &agent).await?;
    let asked = agent.clone();
    let held = Arc::clone(&app);
    let done = to_its_end(async move {
        let asked = Asked {
            agent: &asked,
            change,
            roles: &caller.roles,
            by: &caller.by,
            reason: &reason,
        };
        agents::change(&held, asked).await
    });
    let done = done.await?.map_err(|error| problem(&app, &error))?;
    let (state, changed) = match done.outcome {
        ChangeOutcome::Changed(change) => (change.to, true),
        ChangeOutcome::Already(state) => (state, false),
    };
    Ok(ChangeAnswer {
        agent_id: agent,
        state,
        changed,
        state_version: done.version.to_string(),
    })
}

/// Goes on when the caller goes away, so that what is stored is told too.
pub(super) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, AgentError>> + Send + 'static,
) -> Result<Result<T, AgentError>, Problem> {
    tokio::spawn(change).await.map_err(|error| Problem::internal(&error))
}

/// Who may change something. Without a policy nobody can be told from an agent: then trust is only taken away.
pub(super) fn actor(app: &App, request: &Request, takes_away: bool) -> Result<Caller, Problem> {
    let caller = caller(app, request)?;
    if caller.roles.is_empty() {
        return Err(Problem::forbidden(
            "role_missing",
            "this caller is neither reviewer nor operator",
        ));
    }
    let own_user = request.extensions().get::<OwnUser>().is_some();
    if !takes_away && !own_user && app.feed.policy().is_none() {
        let detail = "no valid policy has been read yet, so that it is not known which callers are agents";
        return Err(Problem::unavailable("policy_unavailable", detail));
    }
    Ok(caller)
}

pub(super) fn reader(app: &App, request: &Request) -> Result<(), Problem> {
    if caller(app, request)?.may_read {
        Ok(())
    } else {
        let detail = "this caller is neither reviewer nor operator nor auditor";
        Err(Problem::forbidden("role_missing", detail))
    }
}

fn caller(app: &App, request: &Request) -> Result<Caller, Problem> {
    if request.extensions().get::<OwnUser>().is_some() {
        return Ok(Caller {
            by: "the server's own user".to_owned(),
            roles: vec![Acting::Operator],
            may_read: true,
        });
    }
    let principal = authenticate(app, request.headers())?;
    let is_agent = app
        .feed
        .policy()
        .is_some_and(|mesh| mesh.agents().iter().any(|agent| agent.claims.identity == principal));
    if is_agent {
        return Err(Problem::forbidden("role_missing", "an agent decides about no agent"));
    }
    let has = |role| app.config.has_role(&principal, role);
    let roles: Vec<Acting> = [(Role::Reviewer, Acting::Reviewer), (Role::Operator, Acting::Operator)]
        .into_iter()
        .filter_map(|(role, acting)| has(role).then_some(acting))
        .collect();
    Ok(Caller {
        may_read: !roles.is_empty() || has(Role::Auditor),
        roles,
        by: principal.to_string(),
    })
}

/// An agent that a file names, or that once had another state than active: a mistyped name must not pass for a kill.
pub(super) async fn known_agent(app: &App, agent: &str) -> Result<AgentId, Problem> {
    let id = AgentId::parse(agent).map_err(|error| Problem::malformed(error.to_string()).field("agent"))?;
    let named = app.feed.policy().is_none_or(|mesh| mesh.agent(&id).is_some());
    if named {
        return Ok(id);
    }
    let changes = app.store().agent_changes(&id, 1).await;
    match changes.map_err(|error| store_failed(app, &error))?.is_empty() {
        false => Ok(id),
        true => Err(Problem::new(StatusCode::NOT_FOUND, "agent_unknown", "no file names this agent").field("agent")),
    }
}

async fn last_changes(app: &App) -> Result<BTreeMap<AgentId, AgentChange>, Problem> {
    let last = app.store().last_agent_changes().await;
    let last = last.map_err(|error| store_failed(app, &error))?;
    Ok(last.into_iter().map(|change| (change.agent.clone(), change)).collect())
}

/// The stored change says the state, and not the list in force: what is stored counts as soon as sidecars are told.
fn describe(app: &App, agent_id: AgentId, last: Option<AgentChange>) -> Shown {
    let mesh = app.feed.policy();
    let (score, score_reasons) = app.risk.score(&agent_id, app.clock.millis());
    Shown {
        score,
        score_reasons,
        state: last.as_ref().map_or(AgentState::Active, |change| change.to),
        identity: mesh.and_then(|mesh| mesh.agent(&agent_id).map(|agent| agent.claims.identity.clone())),
        last_change: last.map(ShownChange::from),
        agent_id,
    }
}

impl From<AgentChange> for ShownChange {
    fn from(change: AgentChange) -> Self {
        Self {
            change: change.change.as_str(),
            from: change.from,
            to: change.to,
            role: change.role,
            by: change.by,
            reason: change.reason,
            at: change.at,
        }
    }
}

/// `state=paused&after=AGENT`, each at most once; the values need no percent-encoding, so none is decoded.
fn parse_query(query: &str) -> Result<(Option<AgentState>, Option<AgentId>), Problem> {
    let (mut state, mut after) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let malformed = |what: String| Problem::malformed(what).field(name);
        let twice = match name {
            "state" => {
                let unknown = || malformed("must be active, paused, suspended or killed".to_owned());
                state.replace(AgentState::parse(value).ok_or_else(unknown)?).is_some()
            }
            "after" => after
                .replace(AgentId::parse(value).map_err(|error| malformed(error.to_string()))?)
                .is_some(),
            _ => return Err(malformed("this parameter is not known".to_owned())),
        };
        if twice {
            return Err(malformed("this parameter stands there twice".to_owned()));
        }
    }
    Ok((state, after))
}

pub(super) async fn parse<T: for<'de> Deserialize<'de>>(request: Request) -> Result<T, Problem> {
    require_media_type(request.headers(), "application/json")?;
    let body = read_body(request, MAX_REQUEST_BYTES).await?;
    json::strict(&body, &REQUEST_LIMITS).map_err(|error| Problem::malformed(error.to_string()))
}

/// Whoever reads the record later must learn something from it, and nothing that moves a terminal's cursor.
pub(super) fn usable_reason(reason: String) -> Result<String, Problem> {
    let problem = |detail: String| Err(Problem::malformed(detail).field("reason"));
    if reason.trim().is_empty() {
        return problem("say why".to_owned());
    }
    if reason.len() > MAX_REASON_BYTES {
        return problem(format!("may have at most {MAX_REASON_BYTES} bytes"));
    }
    if reason.chars().any(char::is_control) {
        return problem("may hold no control characters".to_owned());
    }
    Ok(reason)
}

pub(super) fn problem(app: &App, error: &AgentError) -> Problem {
    match error {
        AgentError::Transition(refused) => {
            use authz::state::transition::TransitionError;
            match refused {
                TransitionError::NotAllowed { .. } => Problem::forbidden("role_missing", refused.to_string()),
                TransitionError::Impossible { .. } => {
                    Problem::new(StatusCode::CONFLICT, "transition_impossible", refused.to_string())
                }
            }
        }
        AgentError::Store(error) => store_failed(app, error),
        AgentError::TooMany { .. } => {
            let detail = format!("{error}: suspend the agents that hold them");
            Problem::new(StatusCode::CONFLICT, "too_many_tokens", detail)
        }
        AgentError::NotTold(_) => {
            tracing::error!(%error, "agent state");
            let detail = "it is stored, but sidecars are not told yet; ask again";
            Problem::unavailable("state_unpublished", detail)
        }
    }
}

pub(super) fn store_failed(app: &App, error: &crate::store::StoreError) -> Problem {
    app.metrics.store_failures.inc();
    tracing::error!(%error, "agents' states");
    Problem::unavailable("store_unavailable", "agents' states cannot be read or written now")
}

pub(super) fn answer<T: Serialize>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(problem) => problem.into_response(),
    }
}
