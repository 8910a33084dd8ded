//! The policy of a case: verified as a filter does, or made of files as the policy server does.

use super::{Case, CaseError, Rules, bad};
use crate::denial::{Code, Denial};
use crate::identity::{Issuer, SpiffeId};
use crate::manifest::{BundleHeader, Mesh};
use crate::policy::{Bundle, BundleKeys, FORMAT, IssuerClaims, PolicyError, PolicyServerClaims, RawBundle};
use crate::state::{RawStateList, StateClaims, StateList};

/// What a case assumes where it names files instead of signed policy: the defaults of the policy server.
const BUNDLE_LIFETIME_SECONDS: u64 = 3600;
const MAX_STATE_AGE_SECONDS: u64 = 60;
const MAX_TOKEN_TTL_SECONDS: u64 = 300;
const POLICY_SERVER_HOST: &str = "policy-server.ostiary.svc.cluster.local";

/// Bundle and state, or the denial of a filter that has none.
pub(super) fn current(case: &Case) -> Result<Result<(Bundle, StateList), Denial>, CaseError> {
    match &case.rules {
        Rules::Signed { bundle, state, trust } => Ok(signed(case, bundle, state, trust)),
        Rules::Files {
            mesh,
            issuers,
            states,
            not_before,
            revoked,
        } => {
            let (bundle, iss) = compile(case, mesh, issuers)?;
            let state = StateClaims {
                format: FORMAT,
                iss,
                epoch: 0,
                version: 1,
                issued_at: case.now,
                agents: states.clone(),
                not_before: not_before.clone(),
                revoked: revoked.iter().map(|jti| (jti.clone(), u64::MAX)).collect(),
            };
            let state = StateList::from_own_claims(state, case.now).map_err(|error| bad("states", error))?;
            Ok(Ok((bundle, state)))
        }
    }
}

/// A filter keeps what it has when a bundle or list is refused; a case has nothing else.
fn signed(case: &Case, bundle: &str, state: &str, trust: &BundleKeys) -> Result<(Bundle, StateList), Denial> {
    let unavailable = |error: PolicyError| match error {
        PolicyError::Audience => Denial::new(Code::WorkloadMismatch, "the policy was made for another workload"),
        error => Denial::new(Code::PolicyUnavailable, error.to_string()),
    };
    let bundle = RawBundle::new(bundle)
        .verify(trust, &case.workload, None, case.now)
        .map_err(unavailable)?;
    let state = RawStateList::new(state)
        .verify(trust, None, case.now)
        .map_err(unavailable)?;
    Ok((bundle, state))
}

fn compile(case: &Case, mesh: &Mesh, issuers: &[IssuerClaims]) -> Result<(Bundle, Issuer), CaseError> {
    let expires_at = case.now.saturating_add(BUNDLE_LIFETIME_SECONDS);
    let bundle = bundle_of_files(mesh, &case.workload, issuers, case.now, expires_at)?;
    let iss = bundle.issuer().clone();
    Ok((bundle, iss))
}

/// The bundle that a policy server would make of files for a workload.
///
/// # Errors
///
/// If it would be refused.
pub(crate) fn bundle_of_files(
    mesh: &Mesh,
    workload: &SpiffeId,
    issuers: &[IssuerClaims],
    issued_at: u64,
    expires_at: u64,
) -> Result<Bundle, CaseError> {
    let identity = SpiffeId::for_service_account(workload.trust_domain(), "ostiary", "policy-server")
        .map_err(|error| bad("workload", error))?;
    let header = BundleHeader {
        iss: Issuer::parse(identity.as_str()).map_err(|error| bad("workload", error))?,
        epoch: 0,
        version: 1,
        issued_at,
        expires_at,
        max_state_age_seconds: MAX_STATE_AGE_SECONDS,
        max_token_ttl_seconds: MAX_TOKEN_TTL_SECONDS,
        issuers: issuers.to_vec(),
        policy_server: PolicyServerClaims {
            identity,
            hosts: vec![POLICY_SERVER_HOST.to_owned()],
        },
    };
    let claims = mesh.compile(workload, header);
    Bundle::from_own_claims(claims, issued_at).map_err(|error| bad("policy", error))
}
