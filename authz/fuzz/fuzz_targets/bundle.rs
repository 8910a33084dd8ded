//! Bundles: any payload that the policy server might sign is read or refused, and one that is read can be decided by.
#![no_main]

use std::sync::LazyLock;

use authz::policy::RawBundle;
use authz_fuzz::{NOW, Scene, signed};
use libfuzzer_sys::fuzz_target;

static SCENE: LazyLock<Scene> = LazyLock::new(|| Scene::of_base("tool"));

fuzz_target!(|payload: &[u8]| {
    if let Ok(compact) = std::str::from_utf8(payload) {
        // Nobody signs what the fuzzer makes up.
        assert!(
            RawBundle::new(compact)
                .verify(&SCENE.keys, &SCENE.workload, None, NOW)
                .is_err()
        );
    }
    let compact = signed("bundle", "policy-bundle+jwt", payload);
    let Ok(bundle) = RawBundle::new(&compact).verify(&SCENE.keys, &SCENE.workload, None, NOW) else {
        return;
    };
    assert!(!bundle.expired(NOW));
    assert_eq!(bundle.workload(), &SCENE.workload);
    for service in bundle.services() {
        let index = bundle
            .service_with_id(service.id())
            .expect("a service is found by its id");
        assert!(bundle.service(index).is_some_and(|found| found.id() == service.id()));
    }
    for agent in bundle.agents() {
        assert!(bundle.agent(agent.id()).is_some(), "an agent is found by its id");
    }
    // The same again is no older than itself; anything older than what is held is refused.
    let held = Some(bundle.version());
    assert!(
        RawBundle::new(&compact)
            .verify(&SCENE.keys, &SCENE.workload, held, NOW)
            .is_ok()
    );
});
