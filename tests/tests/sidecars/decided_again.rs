//! A stored record, with the bundle and the state list that it names, is enough to decide again as the filter did.

use std::borrow::Cow;
use std::time::Duration;

use authz::audit::{self, Kind, Outcome, Record, RecordedFacts};
use authz::decision::{self, Question};
use authz::denial::Code;
use authz::identity::{AgentId, SpiffeId, ToolName};
use authz::jws::NoExternal;
use authz::policy::{Bundle, BundleKeys, Protocol, RawBundle};
use authz::request::{Facts, ResourceNeed, Right, Side};
use authz::scope::Scope;
use authz::state::{RawStateList, StateList};
use authz::token::UnverifiedToken;
use serde_json::{Value, json};
use tests::client::{Call, Client};
use tests::feed::{Feed, state_claims};
use tests::signing::TestKey;
use tests::stand::{self, HOST, Stand};
use tests::{mcp, wait};

/// What one sidecar was told, and what it wrote.
struct Written {
    bundle: String,
    state: String,
    records: Vec<Record<'static>>,
}

impl Written {
    /// Makes the calls, and waits until a decision of each outcome has come to be stored.
    async fn by(
        name: &str,
        service: Value,
        outcomes: &[Result<(), Code>],
        calls: impl Fn(&Stand) -> Vec<(Client, Call)>,
    ) -> Self {
        Self::of(name, service, &json!({}), outcomes, calls).await
    }

    /// The same, where `analyst-7` is granted more.
    async fn of(
        name: &str,
        service: Value,
        granted: &Value,
        outcomes: &[Result<(), Code>],
        calls: impl Fn(&Stand) -> Vec<(Client, Call)>,
    ) -> Self {
        let stand = Stand::start(name, service, |_| {}).await.unwrap();
        let feed = stand.feed().await.unwrap();
        let mut bundle = stand.bundle(1, &json!({"max_state_age_seconds": 3600}));
        for agent in bundle["agents"].as_array_mut().unwrap() {
            if agent["id"] == "analyst-7" {
                let granted = granted.as_object().unwrap().clone();
                agent.as_object_mut().unwrap().extend(granted);
            }
        }
        let state = state_claims(1, &json!({"agents": {"keeper": "paused"}}));
        feed.renews(false);
        feed.set_bundle(&bundle);
        feed.set_state(&state);
        stand
            .eventually_allowed(&stand.inbound, || stand.good_call())
            .await
            .unwrap();
        for (client, call) in calls(&stand) {
            client.send(call).await.unwrap();
        }
        let records = wait::until("a record of each outcome", Duration::from_secs(30), async || {
            let records = decisions(&feed);
            let written = |outcome: &Result<(), Code>| records.iter().any(|record| recorded(record) == *outcome);
            outcomes.iter().all(written).then_some(records)
        });
        let key = feed.key();
        Self {
            records: records.await.unwrap(),
            bundle: key.sign("policy-bundle+jwt", &bundle),
            state: key.sign("agent-state+jwt", &state),
        }
    }

    fn keys() -> BundleKeys {
        let jwks = TestKey::named("bundle-1").jwks();
        BundleKeys::new(serde_json::from_value(jwks).unwrap()).unwrap()
    }

    /// The bundle that a record names, as the workload that wrote it verified it.
    fn bundle(&self, record: &Record<'_>) -> Bundle {
        let bundle = RawBundle::new(&self.bundle)
            .verify(
                &Self::keys(),
                &identity(record.workload.as_deref()),
                None,
                seconds(record),
            )
            .unwrap();
        assert_eq!(record.bundle.as_deref(), Some(&*bundle.version().to_string()));
        bundle
    }

    fn state(&self, record: &Record<'_>) -> StateList {
        let state = RawStateList::new(&self.state)
            .verify(&Self::keys(), None, seconds(record))
            .unwrap();
        assert_eq!(record.state.as_deref(), Some(&*state.version().to_string()));
        state
    }

    /// Decides on what a record says, and on nothing else but the policy that it names.
    fn decide(&self, record: &Record<'_>) -> Result<(), Code> {
        let (bundle, state) = (self.bundle(record), self.state(record));
        // Only a verified token has claims: its issuer signs once more what the record says that it said.
        let claims = serde_json::from_slice(record.claims.as_ref().unwrap().encoding()).unwrap();
        let token = stand::issuer().sign("cap+jwt", &claims);
        let token = UnverifiedToken::parse(&token)
            .and_then(|token| token.verify(bundle.issuers(), bundle.token_limits(), seconds(record), &NoExternal))
            .unwrap();
        let question = Question {
            now: seconds(record),
            side: record.side.unwrap(),
            workload: &identity(record.workload.as_deref()),
            peer: Some(&identity(record.peer.as_deref())),
            token: Some(&token),
            flaw: None,
            bundle: &bundle,
            state: &state,
            seconds_since_poll: 0,
        };
        let decided = decision::decide(&question, &facts(record));
        decided.map(drop).map_err(|denial| denial.code())
    }
}

/// The decisions that are stored, each read from a line whose hash and form are right.
fn decisions(feed: &Feed) -> Vec<Record<'static>> {
    let lines = feed.record_lines();
    let records = lines.iter().map(|line| {
        let line = serde_json::to_vec(line).unwrap();
        let verified = audit::verify_line(&line).unwrap();
        audit::read(verified.canonical).unwrap().1
    });
    records.filter(|record| record.kind == Kind::Decision).collect()
}

fn recorded(record: &Record<'_>) -> Result<(), Code> {
    match record.verdict.unwrap() {
        Outcome::Permit => Ok(()),
        Outcome::Deny => Err(record.code.unwrap()),
    }
}

fn identity(recorded: Option<&str>) -> SpiffeId {
    SpiffeId::parse(recorded.unwrap()).unwrap()
}

fn seconds(record: &Record<'_>) -> u64 {
    record.time_ms / 1000
}

fn facts(record: &Record<'_>) -> Facts {
    let facts = record.facts.as_ref().unwrap();
    let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
    let captures = facts.captures.iter();
    Facts {
        service: record.service.as_deref().map(|service| service.parse().unwrap()),
        protocol: match record.protocol.as_deref() {
            Some("mcp") => Protocol::Mcp,
            Some("a2a") => Protocol::A2a,
            _ => Protocol::Http,
        },
        method: owned(&facts.method).unwrap(),
        path: owned(&facts.path).unwrap(),
        captures: captures
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        own: owned(&facts.own),
        right: right(facts),
        destination: match facts.right.as_deref() {
            Some("scope") => facts.resources.first().map(resource),
            _ => None,
        },
        // Echoed in an answer; nothing is decided on it.
        rpc_id: None,
        task: None,
        rpc_method: owned(&facts.rpc_method),
    }
}

fn right(facts: &RecordedFacts<'_>) -> Right {
    let scope = facts.scope.as_deref().map(|scope| Scope::parse(scope).unwrap());
    match (facts.right.as_deref(), scope) {
        (Some("scope"), Some(scope)) => Right::Scope(scope),
        (Some("tool"), scope) => Right::Tool {
            name: ToolName::parse(facts.tool.as_deref().unwrap()).unwrap(),
            scope,
        },
        (Some("prompt"), scope) => Right::Prompt {
            name: ToolName::parse(facts.prompt.as_deref().unwrap()).unwrap(),
            scope,
        },
        (Some("resources"), None) => Right::Resources(facts.resources.iter().map(resource).collect()),
        (Some("call"), Some(scope)) => Right::Call {
            agent: AgentId::parse(scope.called_agent().unwrap()).unwrap(),
            scope,
        },
        (Some("session"), None) => Right::Session,
        (Some("exempt"), None) => Right::Exempt,
        (right, _) => panic!("the right {right:?} has no verdict here"),
    }
}

fn resource((uri, scope): &(Cow<'_, str>, Cow<'_, str>)) -> ResourceNeed {
    ResourceNeed {
        uri: uri.to_string(),
        scope: (!scope.is_empty()).then(|| Scope::parse(scope).unwrap()),
    }
}

/// The same record with its facts changed.
fn with_facts(record: &Record<'static>, change: impl FnOnce(&mut RecordedFacts<'static>)) -> Record<'static> {
    let mut record = record.clone();
    change(record.facts.as_mut().unwrap());
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_route_is_decided_again_from_its_record() {
    let (not_granted, not_in_policy, paused) = (
        Err(Code::ScopeNotGranted),
        Err(Code::ScopeNotInPolicy),
        Err(Code::AgentPaused),
    );
    let outcomes = [Ok(()), not_granted, not_in_policy, paused];
    let written = Written::by("again-http", stand::http_service(), &outcomes, |stand| {
        let tables = ["sales", "payroll", "costs"];
        let inbound = tables.map(|table| {
            (
                stand.inbound.clone(),
                stand::read(table).bearer(&stand::token("analyst-7")),
            )
        });
        inbound
            .into_iter()
            .chain([(stand.outbound.clone(), stand.own_call())])
            .collect()
    })
    .await;
    let table = |record: &Record<'static>, table: &str| {
        with_facts(record, |facts| facts.scope = Some(format!("read:data.{table}").into()))
    };
    for record in &written.records {
        assert_eq!(written.decide(record), recorded(record), "{record:?}");
        if record.side == Some(Side::Outbound) {
            let others = SpiffeId::parse("spiffe://cluster.local/ns/agents/sa/analyst-7").unwrap();
            let mut stolen = record.clone();
            stolen.peer = Some(others.to_string().into());
            assert_eq!(written.decide(&stolen), Err(Code::PeerMismatch));
        } else {
            assert_eq!(written.decide(&table(record, "sales")), Ok(()));
            assert_eq!(written.decide(&table(record, "payroll")), not_in_policy);
            assert_eq!(written.decide(&table(record, "costs")), not_granted);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_tool_is_decided_again_from_its_record() {
    let outcomes = [Ok(()), Err(Code::ToolForbidden)];
    let written = Written::by("again-mcp", stand::mcp_service(), &outcomes, |stand| {
        let call = mcp::call_tool(HOST, "bash", &json!({})).bearer(&stand::token("analyst-7"));
        vec![(stand.inbound.clone(), call)]
    })
    .await;
    let tool =
        |record: &Record<'static>, tool: &'static str| with_facts(record, |facts| facts.tool = Some(tool.into()));
    for record in &written.records {
        assert_eq!(written.decide(record), recorded(record), "{record:?}");
        assert_eq!(written.decide(&tool(record, "pandas")), Ok(()));
        assert_eq!(written.decide(&tool(record, "bash")), Err(Code::ToolForbidden));
        assert_eq!(written.decide(&tool(record, "http")), Err(Code::ToolNotGranted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_prompts_and_resources_is_decided_again_from_its_record() {
    let not_in_policy = Err(Code::ResourceNotInPolicy);
    let outcomes = [Ok(()), not_in_policy, Err(Code::PromptNotInPolicy)];
    let service = json!({
        "protocol": "mcp", "path": "/mcp", "tools": {"pandas": {}}, "body_limit_bytes": 64 << 10,
        "prompts": {"summary": {}, "audit": {}},
        "resources": {"memo://a": {}, "memo://b": {}, "table://{table}": {"scope": "read:data.{table}"}},
    });
    let named = json!({"prompts": ["summary"], "resources": ["memo://a", "table://{table}"]});
    let written = Written::of("again-named", service, &named, &outcomes, |stand| {
        let calls = [
            ("resources/read", json!({"uri": "memo://a"})),
            ("resources/read", json!({"uri": "memo://b"})),
            ("resources/read", json!({"uri": "table://sales"})),
            ("prompts/get", json!({"name": "summary"})),
            ("prompts/get", json!({"name": "audit"})),
        ];
        let call = |(method, params): (&str, Value)| {
            let call = mcp::request(HOST, mcp::LEGACY, method, &params);
            (stand.inbound.clone(), call.bearer(&stand::token("analyst-7")))
        };
        calls.into_iter().map(call).collect()
    })
    .await;
    let resource = |record: &Record<'static>, uri: &'static str, scope: &'static str| {
        with_facts(record, |facts| facts.resources = vec![(uri.into(), scope.into())])
    };
    let (mut resources, mut prompts) = (0, 0);
    for record in &written.records {
        assert_eq!(written.decide(record), recorded(record), "{record:?}");
        match record.facts.as_ref().unwrap().right.as_deref() {
            Some("resources") => {
                resources += 1;
                assert_eq!(written.decide(&resource(record, "memo://a", "")), Ok(()));
                assert_eq!(written.decide(&resource(record, "memo://b", "")), not_in_policy);
                assert_eq!(
                    written.decide(&resource(record, "table://sales", "read:data.sales")),
                    Ok(())
                );
                let costs = resource(record, "table://costs", "read:data.costs");
                assert_eq!(written.decide(&costs), Err(Code::ScopeNotGranted));
            }
            Some("prompt") => {
                prompts += 1;
                let audit = with_facts(record, |facts| facts.prompt = Some("audit".into()));
                assert_eq!(written.decide(&audit), Err(Code::PromptNotInPolicy));
            }
            _ => {}
        }
    }
    assert!(resources > 0 && prompts > 0, "{resources} and {prompts}");
}
