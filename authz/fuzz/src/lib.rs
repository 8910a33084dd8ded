//! What the fuzz targets share: the policy, the keys and the requests of the vectors.

#![expect(clippy::unwrap_used, reason = "what is broken here ends a run, and should")]

use authz::{
    decision::{self, Question},
    denial::Denial,
    identity::SpiffeId,
    policy::{Bundle, BundleKeys, RawBundle},
    request::{Extraction, Facts, Listener, RequestHead, Side, extract},
    state::{RawStateList, StateList},
    token::{UnverifiedToken, VerifiedToken},
};
use serde_json::json;

#[path = "../../tests/vectors/mod.rs"]
pub mod vectors;

mod bases;
pub mod files;

pub use bases::BASES;

use vectors::{Recipe, keys::SigningKey, oracle::NativeVerifier, recipe};

/// When everything happens.
pub const NOW: u64 = 1_795_456_800;

/// A service's sidecar, and an agent whose request it would let through.
pub struct Scene {
    pub recipe: Recipe,
    pub keys: BundleKeys,
    pub workload: SpiffeId,
    pub bundle: Bundle,
    pub state: StateList,
    pub token: VerifiedToken,
    peer: SpiffeId,
}

impl Scene {
    /// That of a base of the vectors.
    pub fn of_base(name: &str) -> Self {
        let recipe = vectors::of_base(name, &json!({}));
        let case = recipe.case("fuzz", NOW);
        let keys = bundle_keys();
        let workload = SpiffeId::parse(&recipe.workload).unwrap();
        let text = |field: &str| case[field].as_str().unwrap().to_owned();
        let bundle = RawBundle::new(&text("bundle"))
            .verify(&keys, &workload, None, NOW)
            .unwrap();
        let state = RawStateList::new(&text("state")).verify(&keys, None, NOW).unwrap();
        let compact = recipe.token(NOW);
        let token = UnverifiedToken::parse(&compact).unwrap();
        let token = token
            .verify(bundle.issuers(), bundle.token_limits(), NOW, &NativeVerifier)
            .unwrap();
        let peer = SpiffeId::parse(recipe.peer.as_ref().unwrap()).unwrap();
        Self {
            recipe,
            keys,
            workload,
            bundle,
            state,
            token,
            peer,
        }
    }

    /// Decides the base's request with another path or body; the token is verified already.
    pub fn decide(&self, path: &str, headers: &[(String, String)], body: &[u8]) -> Result<Facts, Denial> {
        let method = self.recipe.request(NOW).method;
        let mut pairs = vec![(":method", method.as_str()), (":path", path), (":scheme", "https")];
        pairs.extend(headers.iter().map(|(name, value)| match name.as_str() {
            "host" => (":authority", value.as_str()),
            name => (name, value.as_str()),
        }));
        let head = RequestHead::parse(&pairs)?;
        let listener = Listener {
            side: Side::Inbound,
            local_port: self.recipe.port,
        };
        let facts = match extract(&head, listener, &self.bundle, body.is_empty())? {
            Extraction::Ready(facts) => facts,
            Extraction::NeedsBody(pending) => pending.finish(&self.bundle, body)?,
        };
        let _permit = decision::decide(&self.question(), &facts)?;
        Ok(facts)
    }

    fn question(&self) -> Question<'_> {
        Question {
            now: NOW,
            side: Side::Inbound,
            workload: &self.workload,
            peer: Some(&self.peer),
            token: Some(&self.token),
            flaw: None,
            bundle: &self.bundle,
            state: &self.state,
            seconds_since_poll: 0,
        }
    }
}

/// The keys that policy is trusted from.
pub fn bundle_keys() -> BundleKeys {
    BundleKeys::new(serde_json::from_value(recipe::bundle_keys()).unwrap()).unwrap()
}

/// A payload, whatever it is, signed as what a JWS of this type should be.
pub fn signed(key: &str, typ: &str, payload: &[u8]) -> String {
    let header = json!({"alg": "EdDSA", "kid": key, "typ": typ}).to_string();
    let signed = SigningKey::named(key).sign(header.as_bytes(), payload);
    use base64::Engine as _;
    let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&signed.signature);
    format!("{}.{}.{signature}", signed.header, signed.payload)
}
