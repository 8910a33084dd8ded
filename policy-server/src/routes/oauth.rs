//! `/oauth/revoke` (RFC 7009) and `/oauth/introspect` (RFC 7662), for what speaks OAuth and not our own interface.
//!
//! Who asks is known by mTLS and has a role, as everywhere: an issuer for the tokens that it asked for, a reviewer or auditor
//! to look at any, an operator to end any. An identity of an agent may do neither.

use std::sync::Arc;

use authz::claims::Claims;
use authz::identity::{Jti, SpiffeId};
use authz::jws::{CompactJws, MAX_TOKEN_BYTES, NoExternal};
use authz::state::AgentState;
use authz::token::{Issuers, TokenLimits, UnverifiedToken};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::agents::{problem, store_failed, to_its_end};
use super::revocations::latest_expiry;
use super::{authenticate, read_body, require_media_type};
use crate::agents;
use crate::app::App;
use crate::config::Role;
use crate::error::Problem;
use crate::store::agents::Revocation;
use crate::store::work::KnownToken;

/// The longest body: a token and a few words.
pub const MAX_REQUEST_BYTES: usize = MAX_TOKEN_BYTES + (1 << 10);

/// Why it is gone, in the record of a revocation for which this interface has no word.
const REASON: &str = "revoked by its issuer (RFC 7009)";
const OPERATORS_REASON: &str = "revoked by an operator (RFC 7009)";

/// Who asks, and what about.
struct Caller {
    principal: SpiffeId,
    /// May ask about every token, and not only about those that it asked for.
    any: bool,
}

/// Revokes a token. 200 also if there is no such token: then it cannot be used either.
pub async fn revoke(State(app): State<Arc<App>>, request: Request) -> Response {
    match revoked(app, request).await {
        Ok(()) => ([(header::CACHE_CONTROL, "no-store")], StatusCode::OK).into_response(),
        Err(problem) => refusal(problem),
    }
}

/// Says whether a token may be used now, and what it says.
pub async fn introspect(State(app): State<Arc<App>>, request: Request) -> Response {
    match introspected(&app, request).await {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(problem) => refusal(problem),
    }
}

async fn revoked(app: Arc<App>, request: Request) -> Result<(), Problem> {
    let caller = caller(&app, &request, &[Role::Operator])?;
    let token = token_of(request).await?;
    let Some(jti) = unverified_jti(&token) else {
        return Ok(());
    };
    let known = known(&app, &jti).await?;
    // Whose the token is, the database says and not the token: nobody ends another's by writing its name into a forged one.
    let Some(known) = known else {
        return Ok(());
    };
    if !caller.may_know(&known) {
        return Err(Problem::forbidden(
            "role_missing",
            "this caller did not ask for this token",
        ));
    }
    let now = app.clock.seconds();
    let revocation = Revocation {
        jti,
        by: caller.principal.to_string(),
        reason: if caller.any { OPERATORS_REASON } else { REASON }.to_owned(),
        at: now,
        latest_expiry: latest_expiry(&app, now),
    };
    if known.revoked || known.issued.expires_at < now {
        return Ok(());
    }
    let held = Arc::clone(&app);
    let done = to_its_end(async move { agents::revoke(&held, &revocation).await });
    done.await?.map(drop).map_err(|error| problem(&app, &error))
}

async fn introspected(app: &App, request: Request) -> Result<Value, Problem> {
    let caller = caller(app, &request, &[Role::Operator, Role::Reviewer, Role::Auditor])?;
    let token = token_of(request).await?;
    let inactive = json!({ "active": false });
    let Some(claims) = verified(app, &token) else {
        return Ok(inactive);
    };
    // To whom it is none of their business, it is no token.
    let known = known(app, &claims.jti).await?;
    let good = known.is_some_and(|known| caller.may_know(&known) && !known.revoked);
    let reset = app.feed.not_before(&claims.agent_id).is_some_and(|at| claims.iat < at);
    if !good || reset || app.feed.agent_state(&claims.agent_id) != AgentState::Active {
        return Ok(inactive);
    }
    serde_json::to_value(Introspection::of(&claims)).map_err(|error| Problem::internal(&error))
}

/// What RFC 7662 names, and what a capability says beside.
#[derive(Serialize)]
struct Introspection<'a> {
    active: bool,
    scope: String,
    client_id: &'a str,
    token_type: &'static str,
    exp: u64,
    iat: u64,
    nbf: u64,
    sub: &'a str,
    aud: &'a [SpiffeId],
    iss: String,
    jti: &'a str,
    agent_id: &'a str,
    operation_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<String>,
    tools: Vec<String>,
}

impl<'a> Introspection<'a> {
    fn of(claims: &'a Claims) -> Self {
        let scope: Vec<&str> = claims.scope.iter().map(|scope| scope.as_str()).collect();
        Self {
            active: true,
            scope: scope.join(" "),
            client_id: claims.issued_by.as_str(),
            token_type: "Bearer",
            exp: claims.exp,
            iat: claims.iat,
            nbf: claims.nbf,
            sub: claims.sub.as_str(),
            aud: &claims.aud,
            iss: claims.iss.to_string(),
            jti: claims.jti.as_str(),
            agent_id: claims.agent_id.as_str(),
            operation_id: claims.operation_id.to_string(),
            txn: claims.txn.as_ref().map(ToString::to_string),
            tools: claims.tools.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Caller {
    fn may_know(&self, known: &KnownToken) -> bool {
        self.any || known.issued.issued_by == self.principal.as_str()
    }
}

/// An issuer, or who has one of `roles`; never an agent.
fn caller(app: &App, request: &Request, roles: &[Role]) -> Result<Caller, Problem> {
    let principal = authenticate(app, request.headers())?;
    let is_agent = app
        .feed
        .policy()
        .is_some_and(|mesh| mesh.agents().iter().any(|agent| agent.claims.identity == principal));
    let any = roles.iter().any(|role| app.config.has_role(&principal, *role));
    if is_agent || !(any || app.config.has_role(&principal, Role::Issuer)) {
        let detail = "this caller has no role that this endpoint is for";
        return Err(Problem::forbidden("role_missing", detail));
    }
    Ok(Caller { principal, any })
}

/// The parameter `token` of a form. Others are passed over, as OAuth has it.
async fn token_of(request: Request) -> Result<String, Problem> {
    require_media_type(request.headers(), "application/x-www-form-urlencoded")?;
    let body = read_body(request, MAX_REQUEST_BYTES).await?;
    let text = std::str::from_utf8(&body).map_err(|_| Problem::malformed("the body is not text"))?;
    let mut found = None;
    for pair in text.split('&') {
        // A token has no character that a form encodes; one that is encoded all the same is no token of ours.
        if let Some(token) = pair.strip_prefix("token=")
            && found.replace(token).is_some()
        {
            return Err(Problem::malformed("stands there twice").field("token"));
        }
    }
    match found {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(Problem::malformed("this parameter is missing").field("token")),
    }
}

/// The name that a token claims to have.
fn unverified_jti(token: &str) -> Option<Jti> {
    #[derive(Deserialize)]
    struct Named {
        jti: Jti,
    }
    let parsed = CompactJws::parse(token, authz::claims::TOKEN_TYPE, MAX_TOKEN_BYTES).ok()?;
    let named: Named = serde_json::from_slice(parsed.unverified_payload()).ok()?;
    Some(named.jti)
}

/// The claims of a token that this server signed and that has not expired.
fn verified(app: &App, token: &str) -> Option<Claims> {
    let mut issuers = Issuers::default();
    issuers.insert(app.config.issuer.clone(), app.keys.in_force().published.clone());
    let limits = TokenLimits {
        max_lifetime_seconds: app.config.token_max_ttl_seconds,
        skew_seconds: 0,
    };
    let token = UnverifiedToken::parse(token).ok()?;
    let verified = token.verify(&issuers, &limits, app.clock.seconds(), &NoExternal).ok()?;
    Some(verified.claims().clone())
}

async fn known(app: &App, jti: &Jti) -> Result<Option<KnownToken>, Problem> {
    let known = app.store().token(jti).await;
    known.map_err(|error| store_failed(app, &error))
}

/// A refusal as RFC 6749 (5.2) has it: our own, with its member `error`.
fn refusal(problem: Problem) -> Response {
    let error = match problem.status() {
        StatusCode::UNAUTHORIZED => "invalid_client",
        StatusCode::FORBIDDEN => "unauthorized_client",
        status if status.is_server_error() => "temporarily_unavailable",
        _ => "invalid_request",
    };
    problem.oauth_error(error).into_response()
}
