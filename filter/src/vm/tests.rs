#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::session::Flow;
use crate::testing::{self, AGENT, BUNDLE_KEY, FakeHost, SERVICE, bearer, get_table};

fn policy(version: u64, bundle: &Value) -> Value {
    json!({"bundle": testing::bundle(SERVICE, version, bundle), "state": testing::state(version, &json!({}))})
}

fn polls(host: &FakeHost) -> Vec<String> {
    host.sent()
        .into_iter()
        .map(|sent| sent.path)
        .filter(|path| path.starts_with("/v1/policy?"))
        .collect()
}

fn flow(host: &FakeHost, vm: &mut Vm) -> Flow {
    get_table(host, vm, "sales", &[("authorization", &bearer(&json!({})))]).1
}

#[test]
fn one_poll_is_out_and_says_what_is_held() {
    let host = FakeHost::inbound();
    let mut vm = testing::fresh_vm(&host);
    vm.tick(&host);
    assert_eq!(polls(&host), ["/v1/policy?formats=1,2,3,4,5"]);
    host.answer_poll(&mut vm, 200, &policy(1, &json!({})));
    vm.tick(&host);
    assert_eq!(
        polls(&host)[1..],
        ["/v1/policy?formats=1,2,3,4,5&bundle=1.1&state=1.1"],
        "asked again at once, and once"
    );
    host.advance(Duration::from_secs(20));
    host.answer_poll(&mut vm, 204, &json!(null));
    assert_eq!(polls(&host).len(), 3);
}

#[test]
fn bad_answers_change_nothing_and_are_not_followed_at_once() {
    let host = FakeHost::inbound();
    let mut vm = testing::fresh_vm(&host);
    host.answer_poll(&mut vm, 200, &policy(2, &json!({})));
    let other_key = json!({"bundle": testing::bundle_signed_with(9, SERVICE, 3, &json!({}))});
    for (status, answer) in [
        (500, json!(null)),
        (200, json!("rubbish")),
        (200, json!({"bundle": "e30.e30.e30"})),
        (200, other_key),
        (200, json!({"bundle": testing::bundle(AGENT, 3, &json!({}))})),
        (200, policy(1, &json!({"agents": []}))),
    ] {
        let before = polls(&host).len();
        host.answer_poll(&mut vm, status, &answer);
        vm.tick(&host);
        assert_eq!(polls(&host).len(), before, "{status} {answer}");
        assert_eq!(flow(&host, &mut vm), Flow::Continue);
        host.advance(Duration::from_secs(5));
        vm.tick(&host);
        assert_eq!(
            polls(&host).last().unwrap(),
            "/v1/policy?formats=1,2,3,4,5&bundle=1.2&state=1.2"
        );
    }
}

#[test]
fn a_bad_bundle_does_not_keep_a_kill_from_arriving() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let killed = testing::state(2, &json!({"agents": {"analyst-7": "killed"}}));
    host.answer_poll(&mut vm, 200, &json!({"bundle": "e30.e30.e30", "state": killed}));
    assert_eq!(
        (flow(&host, &mut vm), host.denial().as_deref()),
        (Flow::Pause, Some("agent_killed"))
    );
}

#[test]
fn an_absent_cluster_and_a_lost_answer_are_tried_again() {
    let host = FakeHost::inbound();
    host.set_cluster_absent(true);
    let mut vm = testing::fresh_vm(&host);
    assert_eq!(polls(&host).len(), 0);
    host.set_cluster_absent(false);
    host.advance(Duration::from_secs(1));
    vm.tick(&host);
    assert_eq!(polls(&host).len(), 1);
    // No callback ever comes: the root context that asked has gone.
    host.advance(Duration::from_secs(36));
    vm.tick(&host);
    assert_eq!(polls(&host).len(), 2);
    vm.answer(&host, 99, true, 0);
    vm.answer(&host, 2, false, 0);
    host.advance(Duration::from_secs(1));
    vm.tick(&host);
    assert_eq!(polls(&host).len(), 3);
}

/// How long a VM waits after each failed poll from now on, for a time.
fn waits(host: &FakeHost, vm: &mut Vm, time: Duration) -> Vec<Duration> {
    let (mut waits, mut waited, mut spent) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    let step = Duration::from_millis(100);
    while spent < time {
        let before = polls(host).len();
        vm.tick(host);
        if polls(host).len() > before {
            waits.push(std::mem::take(&mut waited));
            host.answer_poll(vm, 503, &json!(null));
        }
        host.advance(step);
        (waited, spent) = (waited + step, spent + step);
    }
    waits
}

#[test]
fn the_less_time_is_left_until_everything_is_denied_the_sooner_it_asks_again() {
    let host = FakeHost::inbound();
    // Nothing random: every wait is as long as it may be.
    host.set_random_absent(true);
    let mut vm = testing::ready_vm(&host);
    host.answer_poll(&mut vm, 503, &json!(null));
    let (second, longest) = (Duration::from_secs(1), Duration::from_secs(5));
    let early = waits(&host, &mut vm, 40 * second);
    assert_eq!(early.last(), Some(&longest), "{early:?}");
    let late = waits(&host, &mut vm, 19 * second);
    assert!(
        late.len() > 8 && late.iter().rev().take(2).all(|wait| *wait < second),
        "{late:?}"
    );
    host.set_random_absent(false);
    assert_eq!(flow(&host, &mut vm), Flow::Continue, "it is still fresh");
    waits(&host, &mut vm, 10 * second);
    assert_eq!(
        (flow(&host, &mut vm), host.denial().as_deref()),
        (Flow::Pause, Some("policy_unavailable"))
    );
    host.set_random_absent(true);
    let stale = waits(&host, &mut vm, 20 * second);
    assert_eq!(stale.last(), Some(&longest), "{stale:?}");
}

#[test]
fn what_went_with_a_root_context_is_sent_again_by_another() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    assert_eq!(flow(&host, &mut vm), Flow::Continue);
    vm.tick(&host);
    let (polled, posted) = (polls(&host).len(), host.last_sent("/v1/records").unwrap());
    vm.root_gone();
    vm.tick(&host);
    assert_eq!(polls(&host).len(), polled + 1);
    let again = host.last_sent("/v1/records").unwrap();
    assert_eq!((again.token != posted.token, again.body), (true, posted.body));
    // The first answer comes after all: it is not taken for the second's.
    host.answer(&mut vm, posted.token, 409, b"");
    host.store_batch(&mut vm);
    assert_eq!(vm.records.len(), 0);
}

#[test]
fn a_refused_configuration_keeps_the_last_good_one() {
    let host = FakeHost::inbound();
    let mut vm = Vm::default();
    assert!(vm.configure(&host, b"rubbish").is_err());
    assert_eq!(vm.standing().unwrap_err().code(), Code::PolicyUnavailable);
    vm.tick(&host);
    assert_eq!(polls(&host).len(), 0);

    let mut vm = testing::ready_vm(&host);
    assert!(
        vm.configure(&host, &testing::config(BUNDLE_KEY, &json!({"record_queue": 0})))
            .is_err()
    );
    assert_eq!(flow(&host, &mut vm), Flow::Continue);
}

#[test]
fn policy_by_a_withdrawn_key_is_forgotten() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    vm.configure(&host, &testing::config(BUNDLE_KEY, &json!({"token_cache": 1})))
        .unwrap();
    assert_eq!(flow(&host, &mut vm), Flow::Continue, "the key is still trusted");
    vm.configure(&host, &testing::config(9, &json!({}))).unwrap();
    assert_eq!(
        (flow(&host, &mut vm), host.denial().as_deref()),
        (Flow::Pause, Some("policy_unavailable"))
    );
}

/// A configuration that trusts the keys of these seeds, each under its thumbprint.
fn trusting(seeds: &[u8]) -> Vec<u8> {
    let keys: Vec<Value> = seeds.iter().map(|&seed| testing::named_key(seed).1).collect();
    testing::config(BUNDLE_KEY, &json!({"bundle_keys": {"keys": keys}}))
}

fn reported(host: &FakeHost, header: &str) -> Option<String> {
    host.last_sent("/v1/policy").unwrap().headers.get(header).cloned()
}

#[test]
fn polls_report_the_vm_its_keys_and_the_bundle_in_use() {
    let host = FakeHost::inbound();
    let mut vm = Vm::default();
    vm.configure(&host, &trusting(&[5])).unwrap();
    vm.tick(&host);
    let name = reported(&host, "ostiary-vm").unwrap();
    assert!(SourceId::parse(&name).is_some(), "{name}");
    let (old, next) = (testing::named_key(5).0, testing::named_key(6).0);
    assert_eq!(reported(&host, "ostiary-bundle-keys").as_ref(), Some(&old));
    assert_eq!(reported(&host, "ostiary-bundle-in-use"), None);

    host.answer_poll(&mut vm, 200, &testing::policy_by(5, 3));
    assert_eq!(reported(&host, "ostiary-bundle-in-use").as_deref(), Some("1.3"));
    vm.configure(&host, &trusting(&[5, 6])).unwrap();
    vm.tick(&host);
    assert_eq!(
        reported(&host, "ostiary-bundle-keys"),
        Some(format!("{old} {next}")),
        "a changed configuration is told at once"
    );
    assert_eq!(reported(&host, "ostiary-vm"), Some(name), "as long as the VM lives");
}

#[test]
fn a_vm_without_randomness_polls_without_a_name() {
    let host = FakeHost::inbound();
    host.set_random_absent(true);
    let mut vm = testing::fresh_vm(&host);
    assert_eq!((polls(&host).len(), reported(&host, "ostiary-vm")), (1, None));
    host.set_random_absent(false);
    host.answer_poll(&mut vm, 200, &policy(1, &json!({})));
    assert!(reported(&host, "ostiary-vm").is_some());
}

#[test]
fn a_rotation_of_the_bundle_key_denies_nothing() {
    let host = FakeHost::inbound();
    let mut vm = Vm::default();
    let step = |vm: &mut Vm, seeds: &[u8]| {
        vm.configure(&host, &trusting(seeds)).unwrap();
        vm.tick(&host);
    };
    step(&mut vm, &[5]);
    host.answer_poll(&mut vm, 200, &testing::policy_by(5, 1));
    assert_eq!(flow(&host, &mut vm), Flow::Continue);
    step(&mut vm, &[5, 6]);
    assert_eq!(flow(&host, &mut vm), Flow::Continue);
    host.answer_poll(&mut vm, 200, &testing::policy_by(6, 2));
    step(&mut vm, &[6]);
    assert_eq!(
        flow(&host, &mut vm),
        Flow::Continue,
        "the old key signed nothing in use"
    );
    // A list or a bundle that the withdrawn key did sign goes with it, each for itself.
    let by_both = json!({"bundle": testing::policy_by(6, 3)["bundle"], "state": testing::policy_by(5, 3)["state"]});
    step(&mut vm, &[5, 6]);
    host.answer_poll(&mut vm, 200, &by_both);
    assert_eq!(flow(&host, &mut vm), Flow::Continue);
    step(&mut vm, &[6]);
    assert_eq!(
        (flow(&host, &mut vm), host.denial().as_deref()),
        (Flow::Pause, Some("policy_unavailable"))
    );
    host.answer_poll(&mut vm, 200, &testing::policy_by(6, 3));
    assert_eq!(flow(&host, &mut vm), Flow::Continue);
}

#[test]
fn a_node_without_a_workload_denies() {
    let host = FakeHost::inbound();
    host.unset("xds.node.metadata.SERVICE_ACCOUNT");
    let mut vm = testing::fresh_vm(&host);
    assert_eq!(polls(&host).len(), 0);
    assert_eq!(
        (flow(&host, &mut vm), host.denial().as_deref()),
        (Flow::Pause, Some("workload_mismatch"))
    );
}

#[test]
fn verified_tokens_are_forgotten_where_their_agent_changes() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let compact = testing::token(&json!({}));
    let verify = |vm: &mut Vm| {
        let bundle = vm.standing().unwrap().bundle;
        vm.verify(&host, &compact, &bundle, host.now()).unwrap();
        assert!(vm.tokens.get(&compact, host.now()).is_some());
    };
    verify(&mut vm);
    let of_others = json!({"agents": {"writer-2": "killed"}, "not_before": {"writer-2": 5}, "revoked": {"jti-2": 9}});
    host.answer_poll(&mut vm, 200, &json!({"state": testing::state(2, &of_others)}));
    assert!(vm.tokens.get(&compact, host.now()).is_some());
    for (version, changed) in [
        (3, json!({"agents": {"analyst-7": "paused"}})),
        (4, json!({"not_before": {"analyst-7": 5}})),
        (5, json!({"revoked": {"jti-1": 9}})),
    ] {
        host.answer_poll(&mut vm, 200, &json!({"state": testing::state(version, &changed)}));
        assert!(vm.tokens.get(&compact, host.now()).is_none(), "{changed}");
        verify(&mut vm);
    }
    host.answer_poll(
        &mut vm,
        200,
        &json!({"bundle": testing::bundle(SERVICE, 2, &json!({}))}),
    );
    assert!(
        vm.tokens.get(&compact, host.now()).is_none(),
        "issuers may have changed"
    );
}
