#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use authz::policy::{MAX_PAGES_ASKED, PageTexts};
use serde_json::{Value, json};

use super::*;
use crate::session::Flow;
use crate::testing::{self, BUNDLE_KEY, FakeHost, agents, bearer, get_table, paged_bundle, sign_head};

const SALES: &[&str] = &["read:data.sales"];

/// What a call of the agent meets.
fn verdict(host: &FakeHost, vm: &mut Vm) -> Option<String> {
    let answered = host.responses().len();
    let (_, flow) = get_table(host, vm, "sales", &[("authorization", &bearer(&json!({})))]);
    assert_eq!(flow == Flow::Continue, host.responses().len() == answered);
    (flow != Flow::Continue).then(|| host.denial().unwrap())
}

fn asked(host: &FakeHost) -> usize {
    let sent = host.sent().into_iter();
    sent.filter(|sent| sent.path.starts_with("/v1/policy/pages")).count()
}

fn in_use(host: &FakeHost) -> Option<String> {
    let poll = host.last_sent("/v1/policy").unwrap();
    poll.headers.get("ostiary-bundle-in-use").cloned()
}

fn last_poll(host: &FakeHost) -> String {
    host.last_sent("/v1/policy").unwrap().path
}

/// Answers requests for pages until none is asked for any more.
fn serve(host: &FakeHost, vm: &mut Vm, pages: &PageTexts) {
    let mut answered = asked(host) - 1;
    while asked(host) > answered {
        answered += 1;
        host.answer_pages(vm, 200, &pages.answer(&host.pages_asked()).unwrap());
    }
}

/// A VM whose policy came in format 2: 200 agents on 32 pages.
fn paged_vm(host: &FakeHost) -> Vm {
    let mut vm = testing::fresh_vm(host);
    let (head, pages) = paged_bundle(1, &json!({"agents": agents(SALES, 199)}));
    host.answer_poll(
        &mut vm,
        200,
        &json!({"bundle": head, "state": testing::state(1, &json!({}))}),
    );
    serve(host, &mut vm, &pages);
    vm
}

fn offer(host: &FakeHost, vm: &mut Vm, version: u64, scope: &[&str]) -> PageTexts {
    let (head, pages) = paged_bundle(version, &json!({"agents": agents(scope, 199)}));
    host.answer_poll(vm, 200, &json!({"bundle": head}));
    pages
}

#[test]
fn a_bundle_in_pages_counts_once_all_are_there() {
    let host = FakeHost::inbound();
    let mut vm = testing::fresh_vm(&host);
    let (head, pages) = paged_bundle(1, &json!({"agents": agents(SALES, 999)}));
    host.answer_poll(
        &mut vm,
        200,
        &json!({"bundle": head, "state": testing::state(1, &json!({}))}),
    );
    assert_eq!(
        last_poll(&host),
        "/v1/policy?formats=1,2,3,4,5&bundle=1.1&state=1.1",
        "asked again at once"
    );
    assert_eq!(in_use(&host), None, "it need not come again, and yet is not in use");
    let all = pages.digests().count();
    assert!(all > MAX_PAGES_ASKED);
    assert_eq!((asked(&host), host.pages_asked().len()), (1, MAX_PAGES_ASKED));
    let first = host.pages_asked();

    // The server may send fewer than were asked for.
    host.answer_pages(&mut vm, 200, &pages.answer(&first[..2]).unwrap());
    assert_eq!(asked(&host), 2, "asked on at once");
    assert!(!host.pages_asked().contains(&first[0]) && host.pages_asked().contains(&first[2]));
    while vm.policy.missing_pages().len() > 1 {
        assert_eq!(verdict(&host, &mut vm).as_deref(), Some("policy_unavailable"));
        let asked = host.pages_asked();
        let most = asked.len() - usize::from(asked.len() < MAX_PAGES_ASKED);
        host.answer_pages(&mut vm, 200, &pages.answer(&asked[..most]).unwrap());
    }
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("policy_unavailable"));
    serve(&host, &mut vm, &pages);
    assert_eq!(verdict(&host, &mut vm), None);
    host.answer_poll(&mut vm, 204, &json!(null));
    let settled = asked(&host);
    host.advance(Duration::from_secs(60));
    vm.tick(&host);
    assert_eq!(asked(&host), settled, "nothing is missing");
    assert_eq!(in_use(&host).as_deref(), Some("1.1"));
}

#[test]
fn a_change_of_one_agent_asks_for_one_page() {
    let host = FakeHost::inbound();
    let mut vm = paged_vm(&host);
    assert_eq!(verdict(&host, &mut vm), None);
    let pages = offer(&host, &mut vm, 2, &["read:data.costs"]);
    assert_eq!(host.pages_asked().len(), 1);
    assert_eq!(
        verdict(&host, &mut vm),
        None,
        "the old policy stays in force until then"
    );
    serve(&host, &mut vm, &pages);
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("scope_not_in_policy"));
    // And back: the filter keeps only what is in use.
    let pages = offer(&host, &mut vm, 3, SALES);
    serve(&host, &mut vm, &pages);
    assert_eq!(verdict(&host, &mut vm), None);
    // The same agents under another version need no page.
    let settled = asked(&host);
    offer(&host, &mut vm, 4, SALES);
    assert_eq!(asked(&host), settled);
    assert_eq!(vm.policy.bundle().unwrap().version, "1.4");
}

#[test]
fn a_page_that_was_not_signed_changes_nothing_and_is_asked_for_again() {
    let host = FakeHost::inbound();
    let mut vm = paged_vm(&host);
    let pages = offer(&host, &mut vm, 2, &["read:data.costs"]);
    let good = pages.answer(&host.pages_asked()).unwrap();
    for (status, answer) in [
        (200, good.replace("costs", "sales")),
        (200, format!(" {good}")),
        (200, String::new()),
        (200, "[]\n".to_owned()),
        (200, "x".repeat(MAX_PAGES_ANSWER_BYTES + 1)),
        (404, good.clone()),
        (500, String::new()),
    ] {
        let before = asked(&host);
        host.answer_pages(&mut vm, status, &answer);
        vm.tick(&host);
        assert_eq!(
            (asked(&host), verdict(&host, &mut vm)),
            (before, None),
            "{status} {answer:.9}"
        );
        host.advance(Duration::from_secs(5));
        vm.tick(&host);
        assert_eq!(asked(&host), before + 1, "asked again after a while");
    }
    serve(&host, &mut vm, &pages);
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("scope_not_in_policy"));
}

#[test]
fn a_kill_arrives_while_pages_are_missing() {
    let host = FakeHost::inbound();
    let mut vm = paged_vm(&host);
    offer(&host, &mut vm, 2, SALES);
    offer(&host, &mut vm, 3, &["read:data.costs"]);
    host.answer_pages(&mut vm, 200, "rubbish");
    assert_eq!(last_poll(&host), "/v1/policy?formats=1,2,3,4,5&bundle=1.3&state=1.1");
    let killed = testing::state(2, &json!({"agents": {"analyst-7": "killed"}}));
    host.answer_poll(&mut vm, 200, &json!({"state": killed}));
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("agent_killed"));
}

#[test]
fn a_signed_page_that_breaks_a_rule_refuses_its_bundle() {
    let host = FakeHost::inbound();
    let mut vm = paged_vm(&host);
    let wide = r#"[{"id":"analyst-7","identity":"spiffe://cluster.local/ns/agents/sa/analyst-7","surprise":1}]"#;
    let (_, pages) = paged_bundle(2, &json!({"agents": agents(&["read:data.costs"], 199)}));
    let head = |version: u64, page: &str| {
        let mut digests = vec![Value::Null; 32];
        digests[3] = json!(PageDigest::of(page.as_bytes()));
        let services: Value = json!([]);
        let mut claims = testing::bundle_claims(testing::SERVICE, version, &json!({"services": services}));
        (claims["format"], claims["agents"]) = (json!(2), json!(digests));
        sign_head(&claims)
    };
    host.answer_poll(&mut vm, 200, &json!({"bundle": head(2, wide)}));
    assert_eq!(last_poll(&host), "/v1/policy?formats=1,2,3,4,5&bundle=1.2&state=1.1");
    host.answer_pages(&mut vm, 200, wide);
    let settled = asked(&host);
    host.advance(Duration::from_secs(6));
    vm.tick(&host);
    assert_eq!(
        (asked(&host), verdict(&host, &mut vm)),
        (settled, None),
        "the last good one stays"
    );
    // The poll that was out is answered; the next one says what is in use, so that the bundle is offered once more.
    host.answer_poll(&mut vm, 204, &json!(null));
    assert_eq!(last_poll(&host), "/v1/policy?formats=1,2,3,4,5&bundle=1.1&state=1.1");
    let (mended, _) = paged_bundle(2, &json!({"agents": agents(&["read:data.costs"], 199)}));
    host.answer_poll(&mut vm, 200, &json!({"bundle": mended}));
    serve(&host, &mut vm, &pages);
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("scope_not_in_policy"));
}

#[test]
fn pages_that_have_come_serve_a_newer_version() {
    let host = FakeHost::inbound();
    let mut vm = testing::fresh_vm(&host);
    let pages = offer(&host, &mut vm, 1, SALES);
    let first = host.pages_asked();
    assert_eq!(first.len(), 32);
    host.answer_pages(&mut vm, 200, &pages.answer(&first[..31]).unwrap());
    assert_eq!(host.pages_asked(), first[31..]);
    // The request is still out when the newer version comes; its answer counts for what of it is still wanted.
    let newer = offer(&host, &mut vm, 2, &["read:data.costs"]);
    assert!(vm.policy.missing_pages().len() <= 2);
    host.answer_pages(&mut vm, 200, &pages.answer(&host.pages_asked()).unwrap());
    host.advance(Duration::from_secs(5));
    vm.tick(&host);
    if !vm.policy.missing_pages().is_empty() {
        serve(&host, &mut vm, &newer);
    }
    assert_eq!(vm.policy.bundle().unwrap().version, "1.2");
    // An older one than is on its way is refused like one older than is in use.
    let mut vm = paged_vm(&host);
    offer(&host, &mut vm, 3, &["read:data.costs"]);
    offer(&host, &mut vm, 2, &["read:data.costs"]);
    assert_eq!(vm.policy.version_known().unwrap().counter, 3);
}

#[test]
fn a_request_for_pages_that_is_lost_is_sent_again() {
    let host = FakeHost::inbound();
    let mut vm = paged_vm(&host);
    let pages = offer(&host, &mut vm, 2, &["read:data.costs"]);
    let before = asked(&host);
    host.advance(FETCH_TIMEOUT);
    vm.tick(&host);
    assert_eq!(asked(&host), before);
    host.advance(Duration::from_secs(6));
    vm.tick(&host);
    assert_eq!(asked(&host), before + 1);
    vm.root_gone();
    vm.tick(&host);
    assert_eq!(asked(&host), before + 2);
    host.set_cluster_absent(true);
    let lost = host.last_sent("/v1/policy/pages").unwrap();
    vm.answer(&host, lost.token, false, 0);
    host.advance(Duration::from_secs(5));
    vm.tick(&host);
    assert_eq!(asked(&host), before + 2);
    host.set_cluster_absent(false);
    host.advance(Duration::from_secs(5));
    vm.tick(&host);
    assert_eq!(asked(&host), before + 3);
    serve(&host, &mut vm, &pages);
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("scope_not_in_policy"));
}

#[test]
fn a_bundle_on_its_way_by_a_withdrawn_key_is_forgotten() {
    let host = FakeHost::inbound();
    let mut vm = paged_vm(&host);
    let pages = offer(&host, &mut vm, 2, SALES);
    assert!(vm.policy.missing_pages().is_empty());
    let costs = offer(&host, &mut vm, 3, &["read:data.costs"]);
    let asked = host.pages_asked();
    vm.configure(&host, &testing::config(BUNDLE_KEY, &json!({"token_cache": 1})))
        .unwrap();
    assert_eq!(vm.policy.missing_pages(), asked, "the key is still trusted");
    vm.configure(&host, &testing::config(9, &json!({}))).unwrap();
    assert!(vm.policy.missing_pages().is_empty());
    assert_eq!(vm.policy.version_known(), None);
    assert!(
        !vm.policy
            .accept_pages(costs.answer(&asked).unwrap().as_bytes())
            .unwrap()
    );
    assert_eq!(verdict(&host, &mut vm).as_deref(), Some("policy_unavailable"));
    drop(pages);
}
