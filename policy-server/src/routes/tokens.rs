//! `POST /v1/tokens`: a capability token for an agent, asked for by whom the agent's file names.

use std::sync::Arc;

use authz::identity::{Jti, SpiffeId, TransactionId};
use authz::json::{self, Kind, Limits};
use authz::manifest::{Grant, GrantLimits, GrantRefusal, Mesh, TokenRequest};
use authz::state::AgentState;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{StatusCode, header};
use serde::Serialize;

use super::{MAX_TOKEN_REQUEST_BYTES, authenticate, read_body, require_media_type};
use crate::app::App;
use crate::config::Role;
use crate::error::Problem;
use crate::store::work::Work;
use crate::store::{IssuedToken, LiveClaims};

mod narrow;

use narrow::Narrowed;

/// A request is flat and short; deeper or longer ones are not ours.
const REQUEST_LIMITS: Limits = Limits {
    max_bytes: MAX_TOKEN_REQUEST_BYTES,
    max_depth: 4,
    max_nodes: 4096,
};

/// The fields of a request and their types.
const FIELDS: [(&str, Kind); 9] = [
    ("agent_id", Kind::String),
    ("operation_id", Kind::String),
    ("scope", Kind::Array),
    ("tools", Kind::Array),
    ("forbidden_tools", Kind::Array),
    ("ttl_seconds", Kind::Number),
    ("max_tokens", Kind::Number),
    ("txn", Kind::String),
    ("aud", Kind::Array),
];

/// What the caller gets.
#[derive(Debug, Serialize)]
struct Issued {
    token: String,
    jti: Jti,
    txn: TransactionId,
    expires_at: u64,
    /// What was asked for and is not in it, for the agent's score.
    #[serde(skip_serializing_if = "Option::is_none")]
    narrowed: Option<Narrowed>,
}

/// Issues a token, or says which field asks for what is not granted.
pub async fn issue(State(app): State<Arc<App>>, request: Request) -> Response {
    match answer(&app, request).await {
        Ok(issued) => {
            app.metrics.token("ok");
            ([(header::CACHE_CONTROL, "no-store")], Json(issued)).into_response()
        }
        Err(problem) => {
            app.metrics.token(problem.code());
            problem.into_response()
        }
    }
}

async fn answer(app: &App, request: Request) -> Result<Issued, Problem> {
    let principal = authenticate(app, request.headers())?;
    let _place = app
        .token_shares
        .take(&principal)
        .ok_or_else(|| Problem::too_many_requests("this caller has as many requests waiting as it may"))?;
    let issued = answer_principal(app, &principal, request).await;
    if let Err(problem) = &issued {
        tracing::debug!(%principal, code = problem.code(), "token refused");
        app.count_refusal(&principal, problem.code());
    }
    issued
}

async fn answer_principal(app: &App, principal: &SpiffeId, request: Request) -> Result<Issued, Problem> {
    if !app.config.has_role(principal, Role::Issuer) {
        return Err(Problem::forbidden("role_missing", "this caller may not ask for tokens"));
    }
    require_media_type(request.headers(), "application/json")?;
    let body = read_body(request, MAX_TOKEN_REQUEST_BYTES).await?;
    let request = parse(&body)?;
    let mesh = app
        .feed
        .policy()
        .ok_or_else(|| Problem::unavailable("policy_unavailable", "no valid policy has been read yet"))?;
    let mut grant = decide(app, &mesh, principal, &request)?;
    let narrowed = narrow::to_the_score(app, &mut grant)?;
    sign(app, principal.clone(), grant, narrowed).await
}

/// Reads a request strictly and names the field that is wrong.
fn parse(body: &[u8]) -> Result<TokenRequest, Problem> {
    let document =
        json::parse(body, &REQUEST_LIMITS).map_err(|error| Problem::malformed(format!("not strict JSON: {error}")))?;
    let entries = document
        .root()
        .entries()
        .ok_or_else(|| Problem::malformed("not a JSON object"))?;
    for (name, value) in entries {
        let Some((_, kind)) = FIELDS.iter().find(|(field, _)| *field == name) else {
            return Err(Problem::malformed("this field is not known").field(name));
        };
        if value.kind() != *kind {
            return Err(Problem::malformed(format!("must be {}", type_name(*kind))).field(name));
        }
        if *kind == Kind::Number && value.as_u64().is_none() {
            return Err(Problem::malformed("must be a whole number, not negative").field(name));
        }
        for (index, element) in value.as_array().into_iter().flatten().enumerate() {
            if element.kind() != Kind::String {
                return Err(Problem::malformed("must be text").field(format!("{name}/{index}")));
            }
        }
    }
    for required in ["agent_id", "operation_id"] {
        if document.root().get(required).is_none() {
            return Err(Problem::malformed("this field is missing").field(required));
        }
    }
    json::strict(body, &REQUEST_LIMITS).map_err(|error| Problem::malformed(error.to_string()))
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Array => "a list of texts",
        Kind::Number => "a whole number",
        _ => "text",
    }
}

/// Holds the request to the agent's file: who asks, what for, and whether the agent may act at all.
fn decide(app: &App, mesh: &Mesh, principal: &SpiffeId, request: &TokenRequest) -> Result<Grant, Problem> {
    let agent = request.agent_id.parse().ok().and_then(|id| mesh.agent(&id));
    if agent.is_some_and(|agent| !agent.issuers.contains(principal)) {
        return Err(Problem::forbidden(
            "issuer_not_listed",
            "the agent's file does not list this caller as an issuer",
        )
        .field("agent_id"));
    }
    let limits = GrantLimits {
        max_ttl_seconds: app.config.token_max_ttl_seconds,
        default_ttl_seconds: app.config.token_default_ttl_seconds,
    };
    let grant = mesh.grant(request, &limits).map_err(|error| {
        Problem::new(status(error.refusal), error.refusal.code(), error.refusal.to_string()).field(error.field)
    })?;
    let inactive = match app.feed.agent_state(&grant.agent_id) {
        AgentState::Active => return Ok(grant),
        AgentState::Paused => "agent_paused",
        AgentState::Suspended => "agent_suspended",
        AgentState::Killed => "agent_killed",
    };
    Err(Problem::forbidden(inactive, "the agent may not act now").field("agent_id"))
}

fn status(refusal: GrantRefusal) -> StatusCode {
    use GrantRefusal as Refusal;
    match refusal {
        Refusal::AgentUnknown => StatusCode::NOT_FOUND,
        Refusal::ScopeNotInPolicy
        | Refusal::ToolNotInPolicy
        | Refusal::ToolForbidden
        | Refusal::AudienceNotReached
        | Refusal::BudgetExceeded => StatusCode::FORBIDDEN,
        Refusal::Invalid(_)
        | Refusal::Wildcard
        | Refusal::ToolAmbiguous
        | Refusal::AudienceEmpty
        | Refusal::TtlOutOfRange { .. }
        | Refusal::TooMany => StatusCode::BAD_REQUEST,
    }
}

/// Signs, and records durably that it was signed before anybody is given it.
async fn sign(app: &App, principal: SpiffeId, mut grant: Grant, narrowed: Option<Narrowed>) -> Result<Issued, Problem> {
    let txn = match grant.txn.take() {
        Some(txn) => txn,
        None => random_name()?,
    };
    grant.txn = Some(txn.clone());
    let jti: Jti = random_name()?;
    let now = app.clock.seconds();
    // The agent was resumed in this very second, and its tokens of this second are dead with those before.
    if app
        .feed
        .not_before(&grant.agent_id)
        .is_some_and(|not_before| now < not_before)
    {
        return Err(Problem::unavailable(
            "tokens_reset",
            "the agent's tokens have just been reset; the next second's count",
        ));
    }
    let claims = grant.into_claims(app.config.issuer.clone(), principal, jti.clone(), now);
    // Taken after the time: what a key signs was issued before it gave way, so that it is known when the last expires.
    let keys = app.keys.in_force();
    let token = keys
        .token
        .sign(authz::claims::TOKEN_TYPE, &claims)
        .map_err(|error| Problem::internal(&error))?;
    if token.len() > authz::jws::MAX_TOKEN_BYTES {
        return Err(Problem::malformed(
            "the token would be longer than sidecars accept; ask for less at once",
        ));
    }
    let record = IssuedToken {
        jti: jti.to_string(),
        agent_id: claims.agent_id.to_string(),
        operation_id: claims.operation_id.to_string(),
        txn: txn.to_string(),
        issued_by: claims.issued_by.to_string(),
        issued_at: claims.iat,
        expires_at: claims.exp,
    };
    let says = LiveClaims {
        sub: claims.sub.to_string(),
        claims: serde_json::to_string(&claims).map_err(|error| Problem::internal(&error))?,
    };
    write_down(app, &record, &says).await?;
    tracing::info!(%jti, agent_id = %claims.agent_id, operation_id = %claims.operation_id, %txn, issued_by = %claims.issued_by, expires_at = claims.exp, "token");
    Ok(Issued {
        token,
        jti,
        txn,
        expires_at: claims.exp,
        narrowed,
    })
}

/// Records a token, unless what it is for was ended.
async fn write_down(app: &App, record: &IssuedToken, says: &LiveClaims) -> Result<(), Problem> {
    let recorded = app.store().issued(record, says).await.map_err(|error| {
        app.metrics.store_failures.inc();
        tracing::error!(%error, "an issued token could not be recorded");
        Problem::unavailable(
            "store_unavailable",
            "the token could not be recorded, so it is not issued",
        )
    })?;
    recorded.map_err(|ended| match ended {
        Work::Operation(_) => {
            Problem::forbidden("operation_ended", "an operator has ended this operation").field("operation_id")
        }
        Work::Txn(_) => Problem::forbidden("txn_ended", "an operator has ended this user request").field("txn"),
    })
}

/// 128 random bits as a name.
fn random_name<T: TryFrom<String>>() -> Result<T, Problem>
where
    T::Error: std::error::Error,
{
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Problem::internal(&error))?;
    T::try_from(URL_SAFE_NO_PAD.encode(bytes)).map_err(|error| Problem::internal(&error))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_request_names_exactly_the_fields() {
        let request = parse(br#"{"agent_id":"a","operation_id":"o","scope":["read:x"],"tools":[],"forbidden_tools":["bash"],"ttl_seconds":300,"max_tokens":5,"txn":"t","aud":[]}"#).unwrap();
        assert_eq!(
            (request.agent_id.as_str(), request.ttl_seconds, request.max_tokens),
            ("a", Some(300), Some(5))
        );
        assert!(parse(br#"{"agent_id":"a","operation_id":"o"}"#).is_ok());
    }

    #[test]
    fn a_request_that_is_not_exact_is_refused_by_field() {
        for (body, field) in [
            (r#"{"agent_id":"a","operation_id":"o","sub":"x"}"#, Some("sub")),
            (r#"{"agent_id":1,"operation_id":"o"}"#, Some("agent_id")),
            (r#"{"operation_id":"o"}"#, Some("agent_id")),
            (r#"{"agent_id":"a"}"#, Some("operation_id")),
            (
                r#"{"agent_id":"a","operation_id":"o","ttl_seconds":1.0}"#,
                Some("ttl_seconds"),
            ),
            (
                r#"{"agent_id":"a","operation_id":"o","ttl_seconds":-1}"#,
                Some("ttl_seconds"),
            ),
            (
                r#"{"agent_id":"a","operation_id":"o","ttl_seconds":"300"}"#,
                Some("ttl_seconds"),
            ),
            (r#"{"agent_id":"a","operation_id":"o","scope":"read:x"}"#, Some("scope")),
            (
                r#"{"agent_id":"a","operation_id":"o","scope":["read:x",1]}"#,
                Some("scope/1"),
            ),
            (r#"{"agent_id":"a","operation_id":"o","txn":null}"#, Some("txn")),
            (r#"{"agent_id":"a","agent_id":"b","operation_id":"o"}"#, None),
            (r#"{"agent_id":"a","operation_id":"o"} "x""#, None),
            (r#"["agent_id"]"#, None),
            ("", None),
        ] {
            let problem = parse(body.as_bytes()).unwrap_err();
            assert_eq!(problem.status(), StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(problem.named_field(), field, "{body}");
        }
    }
}
