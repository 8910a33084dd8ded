#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::{super::tests as bundles, *};
use crate::{
    identity::{ServiceId, ToolName},
    policy::{
        BUNDLE_TYPE, Bundle, BundleClaims, MAX_PAGES_ANSWER_BYTES, PageTexts, PagedClaims, PendingBundle, RawBundle,
        Version,
    },
    scope::Scope,
    signing::TestKey,
};

fn agent(index: usize) -> Value {
    json!({
        "id": format!("agent-{index}"),
        "identity": format!("spiffe://cluster.local/ns/agents/sa/agent-{index}"),
        "tools": ["pandas", "data/mcp/sql_query", "tool-a", "tool-b", "tool-c"],
        "scope": (0..5).map(|n| format!("read:data.table_{index}_{n}")).collect::<Vec<_>>(),
        "reaches": ["data/warehouse", "data/mcp"],
    })
}

fn claims(version: u64, agents: &[Value]) -> BundleClaims {
    let mut claims = bundles::claims();
    claims["version"] = json!(version);
    claims["agents"] = json!(agents);
    serde_json::from_value(claims).unwrap()
}

fn paged(version: u64, agents: &[Value]) -> PagedClaims {
    claims(version, agents).paged().unwrap()
}

fn many(count: usize) -> Vec<Value> {
    (0..count).map(agent).collect()
}

fn open_after(head: &Value, held: Option<Version>) -> Result<PendingBundle, PolicyError> {
    RawBundle::new(&TestKey::new(1).sign(BUNDLE_TYPE, head)).open(
        &bundles::keys(),
        &bundles::workload(),
        held,
        bundles::NOW,
    )
}

fn open(paged: &PagedClaims) -> PendingBundle {
    open_after(&serde_json::to_value(&paged.head).unwrap(), None).unwrap()
}

fn whole(paged: &PagedClaims) -> Bundle {
    let mut pending = open(paged);
    for text in paged.pages.texts() {
        assert_eq!(pending.fill(text.as_bytes()), Ok(true));
    }
    pending.finish().unwrap()
}

/// A bundle whose one page among `count` is this text, and the text given to it.
fn with_page(at: usize, count: usize, text: &str) -> Result<bool, PolicyError> {
    let mut head = paged(1, &[]).head;
    head.agents = vec![None; count];
    head.agents[at] = Some(PageDigest::of(text.as_bytes()));
    let mut pending = open_after(&serde_json::to_value(&head).unwrap(), None).unwrap();
    let outcome = pending.fill(text.as_bytes());
    assert_eq!(outcome.is_ok(), pending.finish().is_ok());
    outcome
}

#[test]
fn places_are_the_low_bits_of_fnv_1a() {
    // Known answers of RFC 9923.
    assert_eq!(fnv_1a("".bytes()), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv_1a("a".bytes()), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv_1a("foobar".bytes()), 0x8594_4171_f739_67e8);
    assert_eq!(
        [0, 1, 2, 16, 4096].map(|count| place("foobar", count)),
        [0, 0, 0, 8, 0x7e8]
    );
    assert_eq!([1, 2, 16, 4096].map(|count| place("a", count)), [0, 0, 12, 0xc8c]);
}

#[test]
fn the_number_of_pages_follows_that_of_agents() {
    for (agents, pages) in [
        (0, 1),
        (1, 1),
        (64, 1),
        (65, 16),
        (127, 16),
        (128, 32),
        (511, 32),
        (512, 64),
        (10_000, 256),
        (MAX_AGENTS, 512),
        (usize::MAX, MAX_PAGES),
    ] {
        assert_eq!(page_count(agents), pages, "{agents}");
    }
    let pages = distribute(claims(1, &many(10_000)).agents, 256);
    assert_eq!(pages.len(), 256);
    assert_eq!(pages.iter().map(Vec::len).sum::<usize>(), 10_000);
    let fullest = pages.iter().map(Vec::len).max().unwrap();
    assert!(fullest < 80, "{fullest} agents on one page");
}

#[test]
fn a_bundle_names_its_key_before_and_after_its_pages_are_there() {
    let paged = paged(1, &many(2));
    let key = TestKey::new(1).jwk();
    assert_eq!(open(&paged).key(), Some(key.kid()));
    assert_eq!(whole(&paged).key(), Some(key.kid()));
}

#[test]
fn a_bundle_is_whole_when_every_page_is_there() {
    let paged = paged(7, &many(200));
    assert_eq!((paged.head.format, paged.head.agents.len()), (2, 32));
    let mut pending = open(&paged);
    assert_eq!(pending.version(), Version { epoch: 1, counter: 7 });
    let missing: Vec<PageDigest> = pending.missing().copied().collect();
    assert_eq!(missing, paged.head.agents.iter().flatten().copied().collect::<Vec<_>>());
    let (last, others) = missing.split_last().unwrap();
    for digest in others {
        let text = paged.pages.answer(&[*digest]).unwrap();
        assert_eq!(pending.fill(text.trim_end().as_bytes()), Ok(true));
        assert_eq!(
            pending.fill(text.trim_end().as_bytes()),
            Ok(false),
            "it is there already"
        );
    }
    assert_eq!(pending.missing().collect::<Vec<_>>(), [last]);
    assert_eq!(pending.clone().finish().map(drop), Err(PolicyError::PageMissing));
    let text = paged.pages.answer(&[*last]).unwrap();
    let altered = text.trim_end().replacen("agent", "agenT", 1);
    assert_eq!(pending.fill(altered.as_bytes()), Ok(false));
    assert_eq!(
        pending.fill(text.as_bytes()),
        Ok(false),
        "with its line feed it is another text"
    );
    assert_eq!(pending.fill(text.trim_end().as_bytes()), Ok(true));
    let bundle = pending.finish().unwrap();
    assert_eq!(bundle.agents().count(), 200);
    for index in 0..200 {
        let agent = bundle.agent(&format!("agent-{index}")).unwrap();
        let has = |of: usize| agent.has_scope(&Scope::parse(&format!("read:data.table_{of}_4")).unwrap());
        assert!(has(index) && !has(index + 1));
    }
    assert!(bundle.agent("agent-200").is_none());
}

#[test]
fn both_formats_say_the_same() {
    let agents = many(100);
    let one = RawBundle::new(&TestKey::new(1).sign(BUNDLE_TYPE, &serde_json::to_value(claims(7, &agents)).unwrap()))
        .verify(&bundles::keys(), &bundles::workload(), None, bundles::NOW)
        .unwrap();
    let two = whole(&paged(7, &agents));
    let told = |bundle: &Bundle| format!("{:?}", bundle.agents().map(Agent::identity).collect::<Vec<_>>());
    assert_eq!(told(&one), told(&two));
    assert_eq!(one.services(), two.services());
    assert_eq!(one.version(), two.version());
}

#[test]
fn only_the_newest_format_has_prompts_and_resources() {
    let mut agents = many(100);
    agents[0]["prompts"] = json!(["summary"]);
    agents[0]["resources"] = json!(["memo://a", "data/mcp/memo://b", "lab/memo://c"]);
    let mut claims = claims(7, &agents);
    claims.services[1].prompts = serde_json::from_value(json!({"summary": {}})).unwrap();
    claims.services[1].resources = serde_json::from_value(json!({"memo://a": {}})).unwrap();
    claims.services[0].routes[0].query = serde_json::from_value(json!({"row": "{row}"})).unwrap();
    claims.services[0].routes[0].scope = "read:{table}.{row}".to_owned();
    let (older, newer) = (claims.clone().paged().unwrap(), claims.named().unwrap());
    assert_eq!((older.head.format, newer.head.format), (2, 3));
    let mcp = ServiceId::parse("data/mcp").unwrap();
    let summary = ToolName::parse("summary").unwrap();
    for (claims, told) in [(older, false), (newer, true)] {
        let text = serde_json::to_string(&claims.head).unwrap();
        assert_eq!(text.contains("prompts") && text.contains("resources"), told);
        let bundle = whole(&claims);
        let agent = bundle.agent(agents[0]["id"].as_str().unwrap()).unwrap();
        assert_eq!(agent.lists_prompt(&mcp, &summary), told);
        for (uri, listed) in [
            ("memo://a", told),
            ("memo://b", told),
            ("memo://c", false),
            ("memo://d", false),
        ] {
            assert_eq!(agent.lists_resource(&mcp, uri), listed, "{uri}");
        }
        let service = bundle.service(bundle.service_with_id(&mcp).unwrap()).unwrap();
        assert_eq!(bundle.services()[1].routes().len(), if told { 2 } else { 1 });
        assert_eq!(service.prompt("summary").is_some(), told);
        assert_eq!(service.resource("memo://a").is_some(), told);
    }
}

#[test]
fn the_same_agents_give_the_same_pages_and_one_change_changes_one() {
    let mut agents = many(200);
    let before = paged(1, &agents).head.agents;
    agents.reverse();
    assert_eq!(paged(2, &agents).head.agents, before);
    let differing = |agents: &[Value]| {
        let after = paged(2, agents).head.agents;
        before.iter().zip(&after).filter(|(one, two)| one != two).count()
    };
    agents[0]["tools"] = json!([]);
    assert_eq!(differing(&agents), 1);
    agents[0] = agent(199);
    agents.push(agent(200));
    assert_eq!(differing(&agents), 1);
    agents.truncate(199);
    assert_eq!(differing(&agents), 1);
}

#[test]
fn pages_of_the_bundle_in_use_are_shared() {
    let mut agents = many(200);
    let held = whole(&paged(1, &agents));
    agents[0]["tools"] = json!([]);
    let next = paged(2, &agents);
    let changed: Vec<PageDigest> = next.pages.digests().copied().collect();
    let changed: Vec<&PageDigest> = changed
        .iter()
        .filter(|digest| !paged(1, &many(200)).pages.digests().any(|held| held == *digest))
        .collect();
    assert_eq!(changed.len(), 1);
    let mut pending = open(&next);
    pending.share(&held);
    assert_eq!(pending.missing().collect::<Vec<_>>(), changed);

    // What has come for one version serves the next.
    let mut third = open(&paged(3, &agents));
    third.share_pending(&pending);
    assert_eq!(third.missing().collect::<Vec<_>>(), changed);

    // Among another number of pages an agent has another place.
    let mut more = open(&paged(2, &many(600)));
    let expected = more.missing().count();
    more.share(&held);
    assert_eq!(more.missing().count(), expected);

    // A bundle that has no digests has nothing to share.
    let mut pending = open(&next);
    let expected = pending.missing().count();
    pending.share(&Bundle::from_own_claims(claims(1, &many(200)), bundles::NOW).unwrap());
    assert_eq!(pending.missing().count(), expected);
}

#[test]
fn a_page_that_breaks_a_rule_refuses_the_bundle() {
    let id = |name: &str| json!({"id": name, "identity": format!("spiffe://d/{name}")});
    let content = |error| {
        Err(PolicyError::Content {
            field: "pages/12".into(),
            error,
        })
    };
    let (good, text) = (json!([id("a")]), |page: &Value| page.to_string());
    assert_eq!(with_page(12, 16, &text(&good)), Ok(true));
    assert_eq!(with_page(12, 16, "[]"), Ok(true));
    assert_eq!(
        with_page(11, 16, &text(&good)).map_err(|error| error.to_string()),
        Err("`pages/11`: an agent belongs on another page".into())
    );
    assert_eq!(
        with_page(12, 16, &text(&json!([id("a"), id("foobar")]))),
        content(ContentError::Misplaced)
    );
    assert_eq!(
        with_page(12, 16, &text(&json!([id("a"), id("a")]))),
        content(ContentError::Twice)
    );
    for page in [
        "{}".to_owned(),
        "null".to_owned(),
        String::new(),
        format!("{good}x"),
        text(&json!([{"id": "a", "identity": "spiffe://d/a", "surprise": 1}])),
        text(&json!([{"id": "a"}])),
        text(&json!([{"id": "a", "identity": "spiffe://d/a", "tools": ["*"]}])),
        text(&json!([{"id": "a", "identity": "spiffe://d/a", "scope": [["read:a"]]}])),
        r#"[{"id":"a","id":"a","identity":"spiffe://d/a"}]"#.to_owned(),
    ] {
        assert!(matches!(with_page(12, 16, &page), Err(PolicyError::Json(_))), "{page}");
    }
}

#[test]
fn a_page_has_a_longest_length_and_a_most_of_names() {
    let page = |tools: usize, padding: usize| {
        let tools: Vec<String> = (0..tools).map(|tool| format!("{tool:x}")).collect();
        let page = json!([{"id": "a", "identity": "spiffe://d/a", "tools": tools}]).to_string();
        format!("{page}{}", " ".repeat(padding))
    };
    let short = page(1, 0).len();
    assert_eq!(with_page(0, 1, &page(1, MAX_PAGE_BYTES - short)), Ok(true));
    assert_eq!(
        with_page(0, 1, &page(1, MAX_PAGE_BYTES - short + 1)),
        Err(PolicyError::Json(json::JsonError::TooLong))
    );
    let names = |count: usize| -> BundleClaims {
        let tools: Vec<String> = (0..count).map(|tool| format!("{tool:x}")).collect();
        claims(1, &[json!({"id": "x1", "identity": "spiffe://d/x/x2", "tools": tools})])
    };
    // With its id and the halves of its identity, which no tool has; the numbers of names have 16 bits.
    assert!(Page::pack(names((1 << 16) - 3).agents).is_ok());
    assert_eq!(
        Page::pack(names((1 << 16) - 2).agents).map(drop),
        Err(ContentError::TooMany)
    );
}

#[test]
fn the_agents_are_checked_as_a_whole() {
    let finish = |agents: &[Value]| {
        let paged = paged(1, agents);
        let mut pending = open(&paged);
        for text in paged.pages.texts() {
            pending.fill(text.as_bytes())?;
        }
        pending.finish().map(drop)
    };
    let content = |field: &str, error| {
        Err(PolicyError::Content {
            field: field.into(),
            error,
        })
    };
    let agents = many(100);
    assert_eq!(finish(&agents), Ok(()));
    let with = |field: &str, value: Value| {
        let mut agents = agents.clone();
        agents[1][field] = value;
        agents
    };
    assert_eq!(
        finish(&with("identity", agents[0]["identity"].clone())),
        content("agents", ContentError::Twice)
    );
    assert_eq!(
        finish(&with("reaches", json!(["data/nowhere"]))),
        content("agents/reaches/data/nowhere", ContentError::Dangling)
    );
}

#[test]
fn a_bundle_has_a_most_of_agents() {
    let template = claims(1, &[json!({"id": "a", "identity": "spiffe://d/a"})])
        .agents
        .remove(0);
    let check = |count: usize| {
        let agents = (0..count).map(|index| AgentClaims {
            id: format!("a{index}").parse().unwrap(),
            identity: format!("spiffe://d/a{index}").parse().unwrap(),
            ..template.clone()
        });
        let mut faults = Faults::default();
        Pages::pack(agents.collect()).unwrap().check(&[], &mut faults);
        faults.none()
    };
    assert_eq!(check(MAX_AGENTS), Ok(()));
    assert_eq!(
        check(MAX_AGENTS + 1),
        Err(PolicyError::Content {
            field: "agents".into(),
            error: ContentError::TooMany
        })
    );
}

#[test]
fn the_head_of_a_bundle_is_read_strictly() {
    let head = serde_json::to_value(paged(7, &many(100)).head).unwrap();
    assert!(open_after(&head, None).is_ok());
    let with = |field: &str, value: Value| {
        let mut head = head.clone();
        head[field] = value;
        open_after(&head, None).map(drop)
    };
    let digest = head["agents"][0].clone();
    assert!(digest.is_string());
    let content = Err(PolicyError::Content {
        field: "agents".into(),
        error: ContentError::PageCount,
    });
    for count in [1, 2, 4096] {
        assert_eq!(with("agents", json!(vec![&digest; count])), Ok(()), "{count}");
    }
    for count in [0, 3, 8192] {
        assert_eq!(with("agents", json!(vec![&digest; count])), content, "{count}");
    }
    assert_eq!(with("agents", json!([null])), Ok(()));
    for agents in [
        json!(["sha-256:ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"]),
        json!(["ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa1"]),
        json!([agent(0)]),
        json!([0]),
        json!(digest),
    ] {
        assert!(matches!(with("agents", agents), Err(PolicyError::Json(_))));
    }
    assert!(matches!(with("pages", json!([])), Err(PolicyError::Json(_))));
    assert_eq!(with("format", json!(6)), Err(PolicyError::Format(6)));
    assert_eq!(with("format", json!(5)), Ok(()));
    assert_eq!(with("format", json!(4)), Ok(()));
    assert_eq!(with("format", json!(3)), Ok(()));
    assert!(matches!(with("format", json!(1)), Err(PolicyError::Json(_))));
    assert_eq!(with("version", json!(8)), Ok(()));
    let newer = Some(Version { epoch: 1, counter: 8 });
    assert!(matches!(open_after(&head, newer), Err(PolicyError::Older { .. })));
    let mut own = claims(1, &[]);
    assert!(Bundle::from_own_claims(own.clone(), bundles::NOW).is_ok());
    own.format = 2;
    assert_eq!(
        Bundle::from_own_claims(own, bundles::NOW).map(drop),
        Err(PolicyError::Format(2))
    );
}

#[test]
fn pages_are_as_many_as_it_takes() {
    let long = |index: usize, tools: usize| {
        let tools: Vec<String> = (0..tools).map(|tool| format!("{tool:0128}")).collect();
        json!({"id": format!("agent-{index}"), "identity": format!("spiffe://d/agent-{index}"), "tools": tools})
    };
    // Each takes some 66 KiB: three fit on a page.
    let agents: Vec<Value> = (0..12).map(|index| long(index, 512)).collect();
    let paged = paged(1, &agents);
    assert!(paged.head.agents.len() > 2 && paged.head.agents.len().is_power_of_two());
    assert!(paged.pages.texts().all(|text| text.len() <= MAX_PAGE_BYTES));
    assert_eq!(whole(&paged).agents().count(), 12);
    assert_eq!(claims(1, &[long(0, 2000)]).paged().map(drop), Ok(()));
    assert_eq!(
        claims(1, &[long(0, 2005)]).paged().map(drop),
        Err(ContentError::PageTooLong)
    );
}

#[test]
fn an_answer_has_the_pages_that_were_asked_for_as_far_as_they_fit() {
    let paged = paged(1, &many(200));
    let digests: Vec<PageDigest> = paged.pages.digests().copied().collect();
    let texts: Vec<&str> = paged.pages.texts().collect();
    let unknown = PageDigest::of(b"unknown");
    let answer = |asked: &[PageDigest]| paged.pages.answer(asked);
    assert_eq!(answer(&[digests[1]]).unwrap(), format!("{}\n", texts[1]));
    let both = format!("{}\n{}\n", texts[1], texts[0]);
    assert_eq!(answer(&[digests[1], unknown, digests[0]]).unwrap(), both);
    assert_eq!((answer(&[]), answer(&[unknown])), (None, None));
    let page = |length: usize| {
        let text = "x".repeat(length);
        (PageDigest::of(text.as_bytes()), text)
    };
    let (longest, half, rest) = (
        page(MAX_PAGE_BYTES),
        page(MAX_PAGE_BYTES / 2),
        page(MAX_PAGE_BYTES / 2 - 1),
    );
    let texts = PageTexts::from_iter([longest.clone(), half.clone(), rest.clone()]);
    let length = |asked: &[PageDigest]| texts.answer(asked).unwrap().len();
    assert_eq!(length(&[longest.0, half.0]), MAX_PAGES_ANSWER_BYTES);
    assert_eq!(length(&[half.0, rest.0]), MAX_PAGES_ANSWER_BYTES);
    assert_eq!(length(&[half.0, half.0]), MAX_PAGE_BYTES / 2 + 1);
}

#[test]
fn ten_thousand_agents_fit() {
    let bundle = whole(&paged(1, &many(10_000)));
    assert_eq!(bundle.agents().count(), 10_000);
    let table = Scope::parse("read:data.table_9999_4").unwrap();
    assert!(bundle.agent("agent-9999").unwrap().has_scope(&table));
    let each = bundle.pages.heap_bytes() / 10_000;
    assert!(each <= 230, "{each} bytes an agent");
}
