//! From the bytes of a token to claims that may be relied on.
//!
//! The order is fixed: bounds and form, header rules, issuer by `iss` and key by `kid`, signature, claims, times. Before
//! the signature nothing is read from the payload but `iss`, and that only picks the keys that must have signed it.

use std::collections::BTreeMap;

use crate::{
    claims::{Claims, TOKEN_TYPE},
    identity::Issuer,
    json::{self, Document, Limits},
    jwks::Jwks,
    jws::{CompactJws, ExternalVerifier, JwsError, MAX_TOKEN_BYTES},
};

/// How far the clocks of an issuer and a filter may differ, in seconds.
pub const SKEW_SECONDS: u64 = 5;

/// Why a token was refused; each variant is one denial code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// `token_malformed`: not a compact JWS within bounds, or a header parameter that is refused.
    #[error("the token is malformed")]
    Malformed,
    /// `token_algorithm_refused`: `alg` is not served or not the key's.
    #[error("the token's algorithm is not allowed")]
    AlgorithmRefused,
    /// `token_type_refused`: `typ` is not that of a capability.
    #[error("the token is not a capability token")]
    TypeRefused,
    /// `token_issuer_unknown`: no listed issuer has this `iss`.
    #[error("the token's issuer is not known here")]
    IssuerUnknown,
    /// `token_key_unknown`: the issuer has no key with this `kid`, or none was named.
    #[error("the token's key is not known here")]
    KeyUnknown,
    /// `token_signature_invalid`.
    #[error("the token's signature is not valid")]
    SignatureInvalid,
    /// `token_claims_invalid`: a claim is missing, of the wrong type or outside its grammar.
    #[error("the token's claims are not valid")]
    ClaimsInvalid,
    /// `token_expired`.
    #[error("the token has expired")]
    Expired,
    /// `token_not_yet_valid`: `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `token_lifetime_exceeded`: `exp - iat` is more than allowed here.
    #[error("the token lives longer than allowed here")]
    LifetimeExceeded,
}

impl From<JwsError> for TokenError {
    fn from(error: JwsError) -> Self {
        match error {
            JwsError::TooLong | JwsError::Malformed | JwsError::Parameter => Self::Malformed,
            JwsError::Algorithm => Self::AlgorithmRefused,
            JwsError::Type => Self::TypeRefused,
            JwsError::KeyIdMissing | JwsError::KeyUnknown => Self::KeyUnknown,
            JwsError::Signature => Self::SignatureInvalid,
        }
    }
}

/// Bounds on time that every token is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimits {
    /// The longest `exp - iat`, in seconds.
    pub max_lifetime_seconds: u64,
    /// How far clocks may differ, in seconds.
    pub skew_seconds: u64,
}

impl Default for TokenLimits {
    fn default() -> Self {
        Self {
            max_lifetime_seconds: 300,
            skew_seconds: SKEW_SECONDS,
        }
    }
}

/// The issuers whose tokens are accepted, each with its own keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issuers(BTreeMap<Issuer, Jwks>);

impl Issuers {
    /// The keys of an issuer.
    #[must_use]
    pub fn keys(&self, issuer: &str) -> Option<&Jwks> {
        self.0.get(issuer)
    }

    /// Adds an issuer; false, changing nothing, if it was there already.
    pub fn insert(&mut self, issuer: Issuer, keys: Jwks) -> bool {
        if self.0.contains_key(&issuer) {
            return false;
        }
        self.0.insert(issuer, keys);
        true
    }

    /// The issuers and their keys, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&Issuer, &Jwks)> {
        self.0.iter()
    }
}

/// A token whose form and header are sound, and of which nothing else is known.
#[derive(Debug, Clone)]
pub struct UnverifiedToken<'a>(CompactJws<'a>);

impl<'a> UnverifiedToken<'a> {
    /// Parses the compact form.
    ///
    /// # Errors
    ///
    /// [`TokenError::Malformed`], [`TokenError::AlgorithmRefused`], [`TokenError::TypeRefused`],
    /// [`TokenError::KeyUnknown`] if it names no key.
    pub fn parse(compact: &'a str) -> Result<Self, TokenError> {
        Ok(Self(CompactJws::parse(compact, TOKEN_TYPE, MAX_TOKEN_BYTES)?))
    }

    /// Verifies the signature, then reads the claims and holds them to `limits` at `now` (unix seconds).
    ///
    /// # Errors
    ///
    /// [`TokenError`], by the order that the module describes.
    pub fn verify(
        self,
        issuers: &Issuers,
        limits: &TokenLimits,
        now: u64,
        external: &dyn ExternalVerifier,
    ) -> Result<VerifiedToken, TokenError> {
        let payload = json::parse(self.0.unverified_payload(), &Limits::REQUEST);
        let payload = payload.map_err(|_| TokenError::ClaimsInvalid)?;
        self.0.verify(issuer_keys(&payload, issuers)?, external)?;
        let claims = Claims::read(payload.root()).map_err(|_| TokenError::ClaimsInvalid)?;
        let token = VerifiedToken {
            claims,
            skew_seconds: limits.skew_seconds,
        };
        token.check_lifetime(limits)?;
        token.check_time(now)?;
        Ok(token)
    }
}

/// The keys that must have signed: all that an unverified payload is asked.
fn issuer_keys<'k>(payload: &Document<'_>, issuers: &'k Issuers) -> Result<&'k Jwks, TokenError> {
    let issuer = payload
        .root()
        .get("iss")
        .and_then(|value| value.as_str())
        .ok_or(TokenError::ClaimsInvalid)?;
    issuers.keys(&issuer).ok_or(TokenError::IssuerUnknown)
}

/// A token that a listed issuer signed, whose claims are well formed and whose times were right when it was verified.
///
/// Says nothing about who presented it: that is for the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    claims: Claims,
    skew_seconds: u64,
}

impl VerifiedToken {
    /// The claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Checks the times again; a token that was verified once is kept and asked this on every use.
    ///
    /// # Errors
    ///
    /// [`TokenError::NotYetValid`], [`TokenError::Expired`].
    pub fn check_time(&self, now: u64) -> Result<(), TokenError> {
        let latest_start = now.saturating_add(self.skew_seconds);
        if self.claims.iat > latest_start || self.claims.nbf > latest_start {
            return Err(TokenError::NotYetValid);
        }
        if self.claims.exp.saturating_add(self.skew_seconds) <= now {
            return Err(TokenError::Expired);
        }
        Ok(())
    }

    /// A token that is not at hand, whose claims are vouched for by another: a sidecar's record of a token that it had verified,
    /// or the policy server's answer about one that it issued. Only for deciding again what was decided by a token in full.
    pub(crate) fn recorded(claims: Claims) -> Self {
        Self {
            claims,
            skew_seconds: SKEW_SECONDS,
        }
    }

    fn check_lifetime(&self, limits: &TokenLimits) -> Result<(), TokenError> {
        let Claims { iat, nbf, exp, .. } = self.claims;
        let lifetime = exp
            .checked_sub(iat)
            .filter(|&seconds| seconds > 0)
            .ok_or(TokenError::ClaimsInvalid)?;
        if nbf >= exp {
            return Err(TokenError::ClaimsInvalid);
        }
        if lifetime > limits.max_lifetime_seconds {
            Err(TokenError::LifetimeExceeded)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
