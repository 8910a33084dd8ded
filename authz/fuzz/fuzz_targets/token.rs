//! Tokens: any text is read or refused, and any claims that an issuer might sign; what is taken says what another reader reads.
#![no_main]

use std::sync::LazyLock;

use authz::token::UnverifiedToken;
use authz_fuzz::vectors::oracle::NativeVerifier;
use authz_fuzz::{NOW, Scene, signed};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static SCENE: LazyLock<Scene> = LazyLock::new(|| Scene::of_base("read"));

fuzz_target!(|claims: &[u8]| {
    let verify = |token: UnverifiedToken<'_>| {
        token.verify(
            SCENE.bundle.issuers(),
            SCENE.bundle.token_limits(),
            NOW,
            &NativeVerifier,
        )
    };
    if let Some(token) = std::str::from_utf8(claims)
        .ok()
        .and_then(|text| UnverifiedToken::parse(text).ok())
    {
        assert!(verify(token).is_err(), "nobody signs what the fuzzer makes up");
    }
    let compact = signed("issuer", "cap+jwt", claims);
    let Ok(Ok(token)) = UnverifiedToken::parse(&compact).map(verify) else {
        return;
    };
    let theirs: Value = serde_json::from_slice(claims).expect("taken, and no JSON to serde_json");
    let ours = token.claims();
    assert_eq!(theirs["agent_id"].as_str(), Some(ours.agent_id.as_str()));
    assert_eq!(theirs["operation_id"].as_str(), Some(ours.operation_id.as_str()));
    let time = |name: &str| theirs[name].as_u64().expect("a time");
    let skew = SCENE.bundle.token_limits().skew_seconds;
    assert!(time("exp") + skew > NOW && time("nbf") <= NOW + skew && time("iat") <= NOW + skew);
    assert!(time("exp") - time("iat") <= SCENE.bundle.token_limits().max_lifetime_seconds);
});
