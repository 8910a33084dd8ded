//! State lists: any payload that the policy server might sign is read or refused; one that is read is of its time.
#![no_main]

use std::sync::LazyLock;

use authz::policy::BundleKeys;
use authz::state::RawStateList;
use authz_fuzz::{NOW, bundle_keys, signed};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<BundleKeys> = LazyLock::new(bundle_keys);

fuzz_target!(|payload: &[u8]| {
    if let Ok(compact) = std::str::from_utf8(payload) {
        assert!(RawStateList::new(compact).verify(&KEYS, None, NOW).is_err());
    }
    let compact = signed("bundle", "agent-state+jwt", payload);
    let Ok(list) = RawStateList::new(&compact).verify(&KEYS, None, NOW) else {
        return;
    };
    assert!(list.issued_at() <= NOW + 5, "from the future");
    assert!(!list.fresh(NOW + 1_000, 1_000, 60), "fresh for ever");
    let held = Some(list.version());
    assert!(RawStateList::new(&compact).verify(&KEYS, held, NOW).is_ok());
});
