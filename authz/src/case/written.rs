//! A case as it is written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::{Case, CaseError, CaseId, CaseRequest, Rules, bad};
use crate::identity::{AgentId, Jti, SpiffeId};
use crate::json::{self, Limits};
use crate::jwks::Jwks;
use crate::manifest::Mesh;
use crate::policy::{BundleKeys, IssuerClaims};
use crate::request::Side;
use crate::state::AgentState;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    id: CaseId,
    now: u64,
    side: RawSide,
    workload: SpiffeId,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    local_port: Option<u16>,
    request: CaseRequest,
    bundle: Option<String>,
    state: Option<String>,
    trust: Option<Jwks>,
    policy: Option<String>,
    issuers: Option<Vec<IssuerClaims>>,
    states: Option<BTreeMap<AgentId, AgentState>>,
    not_before: Option<BTreeMap<AgentId, u64>>,
    revoked: Option<Vec<Jti>>,
    /// For people and for test harnesses; nothing is decided on it.
    #[serde(default, rename = "expect")]
    _expect: serde::de::IgnoredAny,
    /// For people.
    #[serde(default, rename = "note")]
    _note: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawSide {
    Inbound,
    Outbound,
}

impl Case {
    /// Reads a case. `load` gives what the files in the folder named by `policy` say, for the trust domain given.
    ///
    /// # Errors
    ///
    /// [`CaseError`], naming the field.
    pub fn read<E: fmt::Display>(
        line: &[u8],
        load: impl FnOnce(&str, &str) -> Result<Arc<Mesh>, E>,
    ) -> Result<Self, CaseError> {
        json::parse(line, &Limits::POLICY)?;
        let raw: RawCase = serde_json::from_slice(line).map_err(|error| CaseError::Shape(error.to_string()))?;
        let rules = match (raw.bundle, raw.state, raw.trust, raw.policy) {
            (Some(bundle), Some(state), Some(trust), None) => {
                let absent =
                    raw.issuers.is_none() && raw.states.is_none() && raw.not_before.is_none() && raw.revoked.is_none();
                if !absent {
                    return Err(bad(
                        "bundle",
                        "signed policy stands without `issuers`, `states`, `not_before`, `revoked`",
                    ));
                }
                Rules::Signed {
                    bundle,
                    state,
                    trust: BundleKeys::new(trust).map_err(|error| bad("trust", error))?,
                }
            }
            (None, None, None, Some(policy)) => Rules::Files {
                mesh: load(&policy, raw.workload.trust_domain()).map_err(|error| bad("policy", error))?,
                issuers: raw.issuers.ok_or_else(|| bad("issuers", "missing beside `policy`"))?,
                states: raw.states.unwrap_or_default(),
                not_before: raw.not_before.unwrap_or_default(),
                revoked: raw.revoked.unwrap_or_default(),
            },
            _ => {
                return Err(bad(
                    "policy",
                    "give either `bundle`, `state` and `trust`, or `policy` and `issuers`",
                ));
            }
        };
        Ok(Self {
            id: raw.id,
            now: raw.now,
            side: match raw.side {
                RawSide::Inbound => Side::Inbound,
                RawSide::Outbound => Side::Outbound,
            },
            workload: raw.workload,
            peer: raw.peer,
            local_port: raw.local_port,
            request: raw.request,
            rules,
        })
    }
}
