//! JSON-RPC bodies: read as another reader reads them, or refused.
#![no_main]

use std::sync::LazyLock;

use authz::json::{self, Kind, Limits};
use authz_fuzz::{NOW, Scene};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static SCENES: LazyLock<[Scene; 2]> = LazyLock::new(|| ["tool", "a2a"].map(Scene::of_base));

fuzz_target!(|body: &[u8]| {
    let theirs = serde_json::from_slice::<Value>(body);
    match (json::parse(body, &Limits::REQUEST), &theirs) {
        (Ok(ours), Ok(theirs)) => assert!(same(ours.root(), theirs), "read differently"),
        // A float that no float can hold is the one thing that serde_json refuses and the grammar does not.
        (Ok(_), Err(error)) => assert!(error.to_string().starts_with("number out of range"), "{error}"),
        (Err(_), _) => {}
    }
    for scene in SCENES.iter() {
        let request = scene.recipe.request(NOW);
        let decided = scene.decide(&request.path, &request.headers, body);
        assert!(
            decided.is_err() || theirs.is_ok(),
            "permitted, and no JSON to serde_json"
        );
    }
});

fn same(ours: json::Value<'_>, theirs: &Value) -> bool {
    match theirs {
        Value::Null => ours.is_null(),
        Value::Bool(theirs) => ours.as_bool() == Some(*theirs),
        Value::Number(theirs) => {
            let integer = ours.as_u64().is_some() || ours.as_i64().is_some();
            ours.kind() == Kind::Number
                && (!integer || (ours.as_u64(), ours.as_i64()) == (theirs.as_u64(), theirs.as_i64()))
        }
        Value::String(theirs) => ours.as_str().as_deref() == Some(theirs),
        Value::Array(theirs) => ours.as_array().is_some_and(|ours| {
            let ours: Vec<_> = ours.collect();
            ours.len() == theirs.len() && ours.into_iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }),
        Value::Object(theirs) => ours.entries().is_some_and(|ours| {
            let ours: Vec<_> = ours.collect();
            ours.len() == theirs.len()
                && ours
                    .into_iter()
                    .all(|(key, ours)| theirs.get(&*key).is_some_and(|theirs| same(ours, theirs)))
        }),
    }
}
