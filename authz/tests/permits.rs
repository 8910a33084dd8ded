//! What a permit says of the call that it lets through, on the policy and tokens of the vectors.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use authz::{
    decision::{self, Permit, Question},
    identity::SpiffeId,
    policy::{Bundle, BundleKeys, RawBundle},
    request::{Extraction, Facts, Listener, RequestHead, Side, extract},
    state::{RawStateList, StateList},
    token::{UnverifiedToken, VerifiedToken},
};
use serde_json::{Value, json};

mod vectors;

use vectors::{Recipe, oracle::NativeVerifier};

const NOW: u64 = 1_795_456_800;

/// All that a decision takes, made from a base.
struct Scene {
    side: Side,
    workload: SpiffeId,
    peer: SpiffeId,
    bundle: Bundle,
    state: StateList,
    facts: Facts,
    token: Option<VerifiedToken>,
}

impl Scene {
    fn new(recipe: &Recipe) -> Self {
        let case = recipe.case("scene", NOW);
        let keys = BundleKeys::new(serde_json::from_value(case["trust"].clone()).unwrap()).unwrap();
        let workload = SpiffeId::parse(&recipe.workload).unwrap();
        let bundle = RawBundle::new(case["bundle"].as_str().unwrap())
            .verify(&keys, &workload, None, NOW)
            .unwrap();
        let state = RawStateList::new(case["state"].as_str().unwrap())
            .verify(&keys, None, NOW)
            .unwrap();
        let side = if recipe.side == "inbound" {
            Side::Inbound
        } else {
            Side::Outbound
        };
        let request = recipe.request(NOW);
        let mut pairs = vec![
            (":method".to_owned(), request.method),
            (":path".to_owned(), request.path),
        ];
        pairs.extend(request.headers.into_iter().map(|(name, value)| match name.as_str() {
            "host" => (":authority".to_owned(), value),
            _ => (name, value),
        }));
        let head = RequestHead::parse(&pairs).unwrap();
        let listener = Listener {
            side,
            local_port: recipe.port,
        };
        let facts = match extract(&head, listener, &bundle, request.body.is_empty()).unwrap() {
            Extraction::Ready(facts) => facts,
            Extraction::NeedsBody(pending) => {
                assert_eq!(pending.body_limit_bytes(), 8192, "as the service's file says");
                pending.finish(&bundle, &request.body).unwrap()
            }
        };
        let service = facts
            .service
            .as_ref()
            .and_then(|id| bundle.service(bundle.service_with_id(id)?));
        let compact = service.and_then(|service| head.bearer(service).unwrap());
        let token = compact.map(|compact| {
            let token = UnverifiedToken::parse(compact).unwrap();
            token
                .verify(bundle.issuers(), bundle.token_limits(), NOW, &NativeVerifier)
                .unwrap()
        });
        Self {
            side,
            peer: SpiffeId::parse(recipe.peer.as_ref().unwrap()).unwrap(),
            workload,
            bundle,
            state,
            facts,
            token,
        }
    }

    fn question(&self) -> Question<'_> {
        Question {
            now: NOW,
            side: self.side,
            workload: &self.workload,
            peer: Some(&self.peer),
            token: self.token.as_ref(),
            flaw: None,
            bundle: &self.bundle,
            state: &self.state,
            seconds_since_poll: 0,
        }
    }

    fn exempt(&self) -> bool {
        decision::exempt(&self.question(), &self.facts)
    }

    fn permit(&self) -> Permit<'_> {
        decision::decide(&self.question(), &self.facts).unwrap()
    }
}

fn scene(base: &str, change: Value) -> Scene {
    Scene::new(&vectors::of_base(base, &change))
}

fn warehouse(spec: Value) -> Value {
    json!({ "policy": { "services": { "data/warehouse": spec } } })
}

#[test]
fn a_capability_names_its_agent_and_its_service() {
    let scene = scene("read", json!({}));
    let permit = scene.permit();
    assert!(!scene.exempt());
    assert_eq!(permit.agent_id().unwrap().as_str(), "analyst-7");
    assert_eq!(permit.claims().unwrap().operation_id.as_str(), "report-2026-q1");
    assert_eq!(permit.service().unwrap().id().to_string(), "data/warehouse");
    assert_eq!(scene.facts.captures, [("table".to_owned(), "sales_q1_2026".to_owned())]);
}

#[test]
fn a_tool_call_is_decided_on_what_its_body_names() {
    let scene = scene("tool", json!({}));
    assert_eq!(scene.permit().service().unwrap().id().to_string(), "tools/mcp");
    assert_eq!(scene.facts.rpc_method.as_deref(), Some("tools/call"));
    assert_eq!(scene.facts.rpc_id.as_deref(), Some("1"));
}

#[test]
fn an_application_is_told_what_its_file_asks_for_and_no_more() {
    for (token, claims) in [(false, false), (true, false), (false, true), (true, true)] {
        let scene = scene(
            "read",
            warehouse(json!({ "forwardToken": token, "forwardClaims": claims })),
        );
        let permit = scene.permit();
        assert_eq!((permit.forward_token(), permit.forward_claims()), (token, claims));
    }
}

#[test]
fn an_exempt_caller_has_a_service_but_no_claims() {
    let scene = scene(
        "metrics",
        warehouse(json!({ "forwardToken": true, "forwardClaims": true })),
    );
    let permit = scene.permit();
    assert!(scene.exempt());
    assert!(permit.claims().is_none() && permit.agent_id().is_none());
    assert_eq!(permit.service().unwrap().id().to_string(), "data/warehouse");
    assert!(permit.forward_token(), "the file says so, whoever calls");
    assert!(!permit.forward_claims(), "there are none");
}

#[test]
fn the_policy_server_is_called_without_service_or_claims() {
    let scene = scene("outbound-issuer", json!({}));
    let permit = scene.permit();
    assert!(scene.exempt());
    assert!(permit.claims().is_none() && permit.service().is_none());
    assert!(!permit.forward_token() && !permit.forward_claims());
}

#[test]
fn the_policy_servers_endpoints_are_exempt_on_the_outbound_side_alone() {
    let mut scene = scene("outbound-issuer", json!({}));
    scene.side = Side::Inbound;
    assert!(!scene.exempt());
    assert!(decision::decide(&scene.question(), &scene.facts).is_err());
}

#[test]
fn a_state_list_is_as_old_as_the_poll_that_brought_it() {
    let scene = scene("read", json!({}));
    let decided = |seconds_since_poll| {
        let question = Question {
            seconds_since_poll,
            ..scene.question()
        };
        decision::decide(&question, &scene.facts)
            .map(drop)
            .map_err(|denial| denial.code().as_str())
    };
    assert_eq!(decided(60), Ok(()));
    assert_eq!(decided(61), Err("policy_unavailable"), "whatever a stepped clock says");
}
