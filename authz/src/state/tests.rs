#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::{jws::JwsError, signing::TestKey};

const NOW: u64 = 1000;

fn keys() -> BundleKeys {
    BundleKeys::new(TestKey::new(1).jwks()).unwrap()
}

fn claims() -> Value {
    json!({
        "format": 1, "iss": "ostiary", "epoch": 1, "version": 7, "issued_at": NOW,
        "agents": {"analyst-7": "paused", "writer-2": "killed", "x": "suspended"},
        "not_before": {"analyst-7": 990}, "revoked": {"n-1": 1300},
    })
}

fn verify(claims: &Value, held: Option<(u64, u64)>) -> Result<StateList, PolicyError> {
    let held = held.map(|(epoch, counter)| Version { epoch, counter });
    RawStateList::new(&TestKey::new(1).sign(STATE_TYPE, claims)).verify(&keys(), held, NOW)
}

#[test]
fn answers_for_each_agent_and_token() {
    let list = verify(&claims(), None).unwrap();
    let agent = |text: &str| AgentId::parse(text).unwrap();
    let states: Vec<_> = ["analyst-7", "writer-2", "x", "other"]
        .map(|name| list.agent_state(&agent(name)))
        .into();
    assert_eq!(
        states,
        [
            AgentState::Paused,
            AgentState::Killed,
            AgentState::Suspended,
            AgentState::Active
        ]
    );
    assert_eq!(list.not_before(&agent("analyst-7")), Some(990));
    assert_eq!(list.not_before(&agent("writer-2")), None);
    assert!(list.revoked(&Jti::parse("n-1").unwrap()));
    assert!(!list.revoked(&Jti::parse("n-2").unwrap()));
    assert_eq!((list.version().to_string().as_str(), list.issued_at()), ("1.7", NOW));
}

#[test]
fn names_the_key_that_signed_it() {
    let key = TestKey::new(1).jwk();
    assert_eq!(verify(&claims(), None).unwrap().key(), Some(key.kid()));
    let own = serde_json::from_value(claims()).unwrap();
    assert_eq!(StateList::from_own_claims(own, NOW).unwrap().key(), None);
}

#[test]
fn versions_never_fall() {
    for held in [None, Some((1, 7)), Some((1, 6)), Some((0, 9))] {
        assert!(verify(&claims(), held).is_ok(), "{held:?}");
    }
    for held in [(1, 8), (2, 0)] {
        assert!(
            matches!(verify(&claims(), Some(held)), Err(PolicyError::Older { .. })),
            "{held:?}"
        );
    }
}

#[test]
fn age_is_the_larger_of_two() {
    let list = verify(&claims(), None).unwrap();
    let cases = [
        (NOW, 0, true),
        (NOW + 60, 0, true),
        (NOW + 61, 0, false),
        (NOW, 60, true),
        (NOW, 61, false),
        // A clock that was set back keeps nothing fresh.
        (NOW - 500, 61, false),
    ];
    for (now, since_poll, fresh) in cases {
        assert_eq!(list.fresh(now, since_poll, 60), fresh, "{now} {since_poll}");
    }
}

#[test]
fn what_is_refused() {
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        verify(&claims, None).map(drop)
    };
    assert!(with("issued_at", json!(NOW + 5)).is_ok());
    assert_eq!(with("issued_at", json!(NOW + 6)), Err(PolicyError::IssuedInFuture));
    assert_eq!(with("format", json!(2)), Err(PolicyError::Format(2)));
    for (name, value) in [
        ("agents", json!({"analyst-7": "asleep"})),
        ("agents", json!({"Analyst": "paused"})),
        ("agents", json!(null)),
        ("not_before", json!({"analyst-7": 1.5})),
        ("surprise", json!(1)),
    ] {
        assert!(matches!(with(name, value), Err(PolicyError::Json(_))), "{name}");
    }
    let other = TestKey::new(2).sign(STATE_TYPE, &claims());
    assert_eq!(
        RawStateList::new(&other).verify(&keys(), None, NOW).unwrap_err(),
        PolicyError::Jws(JwsError::KeyUnknown)
    );
    let bundle = TestKey::new(1).sign("policy-bundle+jwt", &claims());
    assert_eq!(
        RawStateList::new(&bundle).verify(&keys(), None, NOW).unwrap_err(),
        PolicyError::Jws(JwsError::Type)
    );
}
