#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use super::*;

mod circumstances;

const SETTINGS: Settings = Settings {
    pause_at: 70,
    suspend_at: 90,
    full_bits: 15,
    half_life_seconds: 600,
    learn_below: 50,
};

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn declared() -> Declared {
    Declared {
        steps: set(&[
            "pandas",
            "matplotlib",
            "export",
            "data/warehouse GET",
            "data/reports PUT",
        ]),
        data: set(&["read:data.sales", "read:data.stock", "write:report.draft"]),
        services: set(&["data/warehouse", "data/reports", "tools/mcp"]),
    }
}

fn call(at_ms: u64, step: &str, data: Option<&str>, service: &str, request: u64) -> Observation {
    Observation {
        at_ms,
        call: Some(Call {
            step: step.to_owned(),
            data: data.map(str::to_owned),
            service: Some(service.to_owned()),
            request: Some(request.to_string()),
            id: None,
        }),
        end: None,
        count: 1,
        denied: false,
    }
}

fn denied(seen: Observation) -> Observation {
    Observation { denied: true, ..seen }
}

/// The honest agent: it reads one of two tables, works on it, mostly draws it, and writes a report. One call in 3 s.
fn honest(calls: usize) -> Vec<Observation> {
    let mut seen = Vec::new();
    for request in 0.. {
        let table = if request % 4 == 0 {
            "read:data.stock"
        } else {
            "read:data.sales"
        };
        let mut at = |step: &str, data: Option<&str>, service: &str| {
            let at_ms = 3000 * seen.len() as u64;
            seen.push(call(at_ms, step, data, service, request));
        };
        at("data/warehouse GET", Some(table), "data/warehouse");
        at("pandas", None, "tools/mcp");
        if request % 3 != 0 {
            at("matplotlib", None, "tools/mcp");
        }
        at("data/reports PUT", Some("write:report.draft"), "data/reports");
        if seen.len() >= calls {
            seen.truncate(calls);
            return seen;
        }
    }
    seen
}

/// What becomes of a profile: the highest score, and after how many observations the agent was first paused.
fn run(profile: &mut Profile, observations: &[Observation]) -> (u8, Option<usize>) {
    let (mut highest, mut paused) = (0, None);
    for (index, seen) in observations.iter().enumerate() {
        profile.observe(&declared(), seen, &SETTINGS, false);
        let score = profile.score(seen.at_ms, &SETTINGS);
        highest = highest.max(score);
        if score >= SETTINGS.pause_at && paused.is_none() {
            paused = Some(index + 1);
        }
    }
    (highest, paused)
}

/// An agent with a past, and the time of its last call.
fn known() -> (Profile, u64) {
    let mut profile = Profile::default();
    let past = honest(2310);
    run(&mut profile, &past);
    (profile, past.last().unwrap().at_ms)
}

#[test]
fn an_honest_agent_stays_low_from_its_first_call_on() {
    let mut profile = Profile::default();
    let (highest, paused) = run(&mut profile, &honest(5000));
    assert_eq!(paused, None);
    assert!(highest < SETTINGS.learn_below, "{highest}: {:?}", profile.reasons());
    assert_eq!(profile.taught, 5000);
}

#[test]
fn a_single_odd_call_pauses_nobody() {
    let (mut profile, last) = known();
    let odd = denied(call(
        last + 3000,
        "bash",
        Some("read:data.secrets"),
        "tools/other",
        9999,
    ));
    let (highest, paused) = run(&mut profile, &[odd]);
    assert!(paused.is_none() && highest > 10, "{highest}");
}

#[test]
fn a_hijacked_agent_is_paused_within_a_few_calls_and_then_suspended_with_reasons() {
    let (mut profile, mut at) = known();
    let hijack: Vec<_> = (0..12)
        .map(|number| {
            at += 1500;
            let (step, data) = match number % 3 {
                0 => ("data/warehouse GET", Some("read:data.secrets")),
                1 => ("bash", None),
                _ => ("data/memory GET", Some("read:memory.writer-2")),
            };
            denied(call(at, step, data, "tools/mcp", 9999))
        })
        .collect();
    let (highest, paused) = run(&mut profile, &hijack);
    assert!(paused.unwrap() <= 4, "{paused:?}");
    assert!(highest >= SETTINGS.suspend_at, "{highest}");
    assert_eq!(profile.verdict(at, &SETTINGS), Some(Change::Suspend));
    let reasons = profile.reasons();
    assert!(
        reasons.contains(&"bash never used in 2,310 calls".to_owned()),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("denials in 60 s")),
        "{reasons:?}"
    );
}

/// It calls only what its file allows, and nothing is denied; but it never did this.
#[test]
fn a_hijack_that_stays_within_the_policy_is_paused_too() {
    let (mut profile, mut at) = known();
    let hijack: Vec<_> = (0..20)
        .map(|_| {
            at += 2000;
            call(at, "export", Some("read:data.stock"), "tools/mcp", 9999)
        })
        .collect();
    let (_, paused) = run(&mut profile, &hijack);
    assert!(
        paused.is_some_and(|calls| calls <= 8),
        "{paused:?} {:?}",
        profile.reasons()
    );
}

#[test]
fn a_burst_of_usual_calls_is_paused() {
    let (mut profile, last) = known();
    let burst: Vec<_> = (0..200)
        .map(|number| call(last + 10_000 + number * 20, "pandas", None, "tools/mcp", number))
        .collect();
    let (_, paused) = run(&mut profile, &burst);
    assert!(paused.is_some_and(|calls| calls < 60), "{paused:?}");
    let reasons = profile.reasons();
    assert!(
        reasons.iter().any(|reason| reason.contains("calls in 10 s, usually")),
        "{reasons:?}"
    );
}

/// Two hundred calls, one in five of them the new thing: it is not usual before it has paused the agent.
#[test]
fn slow_poisoning_is_paused_before_it_has_taught_anything() {
    let (mut profile, mut at) = known();
    let usual = honest(200);
    let poison: Vec<_> = usual
        .into_iter()
        .enumerate()
        .map(|(index, seen)| {
            at += 3000;
            match index % 5 {
                4 => call(at, "export", None, "tools/mcp", 9999),
                _ => Observation { at_ms: at, ..seen },
            }
        })
        .collect();
    let (_, paused) = run(&mut profile, &poison);
    assert!(
        paused.is_some_and(|calls| calls < 150),
        "{paused:?} {:?}",
        profile.reasons()
    );
    assert!(profile.steps.uses("export") < 10, "{}", profile.steps.uses("export"));
}

#[test]
fn the_same_observations_give_the_same_score_however_they_are_stored_between() {
    let mut observations = honest(600);
    let last = observations.last().unwrap().at_ms;
    observations.extend((0..5).map(|number| denied(call(last + number, "bash", None, "tools/mcp", 1))));
    let (mut one, mut two) = (Profile::default(), Profile::default());
    for seen in &observations {
        one.observe(&declared(), seen, &SETTINGS, false);
        two.observe(&declared(), seen, &SETTINGS, false);
        let stored = serde_json::to_string(&two).unwrap();
        two = serde_json::from_str(&stored).unwrap();
        assert_eq!(one.score(seen.at_ms, &SETTINGS), two.score(seen.at_ms, &SETTINGS));
    }
    assert_eq!(one, two);
    assert!(one.score(last + 4, &SETTINGS) > 0, "something was compared");
}

#[test]
fn a_score_decays_and_is_forgiven_once_for_each_approval() {
    let (mut profile, last) = known();
    let attack: Vec<_> = (0..6)
        .map(|number| denied(call(last + 1 + number, "bash", None, "tools/mcp", 1)))
        .collect();
    run(&mut profile, &attack);
    let at = last + 6;
    let high = profile.score(at, &SETTINGS);
    assert!(high >= 70);
    assert_eq!(profile.score(at + 600_000, &SETTINGS), high / 2);
    assert!(profile.score(at + 36_000_000, &SETTINGS) == 0);
    let habits = profile.steps.clone();
    profile.forgive(3);
    assert_eq!(
        (profile.score(at, &SETTINGS), profile.verdict(at, &SETTINGS)),
        (0, None)
    );
    assert!(profile.reasons().is_empty());
    assert_eq!(profile.steps, habits);
    run(
        &mut profile,
        &honest(1)
            .iter()
            .map(|seen| Observation {
                at_ms: at + 9,
                ..seen.clone()
            })
            .collect::<Vec<_>>(),
    );
    assert!(
        profile.score(at + 9, &SETTINGS) < 30,
        "what was forgiven does not come back"
    );
    let again: Vec<_> = attack
        .iter()
        .map(|seen| Observation {
            at_ms: at + 10,
            ..seen.clone()
        })
        .collect();
    run(&mut profile, &again);
    let score = profile.score(at + 10, &SETTINGS);
    assert!(score >= 70, "{score}");
    profile.forgive(3);
    assert_eq!(profile.score(at + 10, &SETTINGS), score, "an approval counts once");
}

#[test]
fn a_paused_agent_teaches_nothing_and_neither_does_one_whose_score_is_high() {
    let (mut profile, at) = known();
    let habits = (profile.steps.clone(), profile.taught);
    // Usual for it: the first call of a new request.
    let seen = |request| {
        let data = Some("read:data.sales");
        call(at + 3000, "data/warehouse GET", data, "data/warehouse", request)
    };
    profile.observe(&declared(), &seen(9001), &SETTINGS, true);
    assert_eq!((profile.steps.clone(), profile.taught), habits);
    profile.score = 50_000;
    profile.observe(&declared(), &seen(9002), &SETTINGS, false);
    assert_eq!((profile.steps.clone(), profile.taught), habits);
    profile.score = 0;
    profile.evidence = Evidence::default();
    profile.observe(&declared(), &seen(9003), &SETTINGS, false);
    assert_eq!(profile.taught, habits.1 + 1);
}

/// A flood that one record counts: the workload that sent it, and none but it, rises.
#[test]
fn a_flood_of_failures_before_any_token_counts_for_its_sender() {
    let (mut sender, at) = known();
    let flood = Observation {
        at_ms: at + 1,
        call: None,
        end: None,
        count: 1_000_000,
        denied: true,
    };
    let habits = sender.steps.clone();
    let (highest, paused) = run(&mut sender, &[flood]);
    assert_eq!((paused, highest), (Some(1), 100));
    assert_eq!(sender.steps, habits);
}

#[test]
fn time_only_advances_and_names_are_bounded() {
    let (mut profile, at) = known();
    profile.observe(
        &declared(),
        &call(at - 60_000, "pandas", None, "tools/mcp", 1),
        &SETTINGS,
        false,
    );
    assert_eq!(profile.at_ms, at);
    let long = "ä".repeat(10_000);
    for number in 0..100 {
        let mut seen = call(at + number, &long, Some(&long), &long, 0);
        seen.call.as_mut().unwrap().request = Some(format!("{number}{long}"));
        profile.observe(&declared(), &seen, &SETTINGS, false);
    }
    assert_eq!(profile.open.len(), 32);
    let stored = serde_json::to_string(&profile).unwrap();
    assert!(stored.len() < 64 << 10, "{}", stored.len());
}

#[test]
fn decay_is_never_too_fast() {
    assert_eq!(decayed(1000, 0, &SETTINGS), 1000);
    assert_eq!(decayed(1000, 600_000, &SETTINGS), 500);
    assert_eq!(decayed(1000, 300_000, &SETTINGS), 750, "the line lies above the curve");
    assert_eq!(decayed(1000, 1_200_000, &SETTINGS), 250);
    assert_eq!(decayed(u64::MAX, u64::MAX, &SETTINGS), 0);
    assert_eq!(decayed(u64::MAX, 0, &SETTINGS), u64::MAX);
}
