//! Sizes, times, failures and hours: each beside a twin that differs in one fact.

#![expect(clippy::indexing_slicing, reason = "tests")]

use super::*;

const HOUR_MS: u64 = 3_600_000;
const WAREHOUSE: &str = "data/warehouse";

/// An agent at work: its calls and their ends, from the same steps with the same spread of sizes and times.
#[derive(Debug, Clone, Default)]
struct Work {
    profile: Profile,
    at_ms: u64,
    number: u64,
}

/// What comes of a call, and what may be unlike the usual.
#[derive(Debug, Clone, Copy)]
struct Came {
    answer_times: u64,
    request_times: u64,
    slower: u64,
    failed: Option<bool>,
}

const USUAL: Came = Came {
    answer_times: 1,
    request_times: 1,
    slower: 1,
    failed: Some(false),
};

impl Work {
    /// Sixty days from 8 to 16 UTC, four requests an hour.
    fn known() -> Self {
        let mut work = Self::default();
        for hour in (0..60 * 24).filter(|hour| (8..16).contains(&(hour % 24))) {
            for quarter in 0..4 {
                work.at_ms = hour * HOUR_MS + quarter * 900_000;
                work.request(USUAL);
            }
        }
        assert_eq!(work.profile.taught, 60 * 8 * 4 * 3);
        work
    }

    fn at(mut self, hour: u64, minute: u64) -> Self {
        self.at_ms = 60 * 24 * HOUR_MS + hour * HOUR_MS + minute * 60_000;
        self
    }

    /// One request: it reads a table, works on it and writes a report.
    fn request(&mut self, came: Came) -> u8 {
        self.number += 1;
        let steps = [
            ("data/warehouse GET", Some("read:data.sales"), WAREHOUSE),
            ("pandas", None, "tools/mcp"),
            ("data/reports PUT", Some("write:report.draft"), "data/reports"),
        ];
        steps
            .into_iter()
            .map(|(step, data, service)| {
                let request = self.number;
                self.call(call(0, step, data, service, request), came)
            })
            .max()
            .unwrap()
    }

    /// A call 3 s after what was last, and its end.
    fn call(&mut self, seen: Observation, came: Came) -> u8 {
        self.at_ms += 3000;
        let id = format!("{}", self.at_ms);
        let mut made = seen.call.unwrap();
        made.id = Some(id.clone());
        let (service, request) = (made.service.clone().unwrap(), made.request.clone());
        // Between a half and four times a base.
        let drawn = (((self.number ^ (self.at_ms / 500)) * 2_654_435_761) >> 13) % 4;
        let spread = |base: u64| (base << drawn) / 2;
        let end = End {
            id: Some(id),
            service,
            request,
            request_bytes: Some(spread(400) * came.request_times),
            response_bytes: Some(spread(300_000) * came.answer_times),
            duration_us: Some(spread(80_000) * came.slower),
            failed: came.failed,
        };
        let made = self.observe(Some(made), None);
        self.at_ms += 500;
        made.max(self.observe(None, Some(end)))
    }

    fn observe(&mut self, call: Option<Call>, end: Option<End>) -> u8 {
        let seen = Observation {
            at_ms: self.at_ms,
            count: call.iter().count() as u64,
            call,
            end,
            denied: false,
        };
        self.profile.observe(&declared(), &seen, &SETTINGS, false);
        self.profile.score(self.at_ms, &SETTINGS)
    }

    /// How the end of a call of a known step would be judged.
    fn ended(&self, end: End) -> outcomes::Judged {
        let mut outcomes = self.profile.outcomes.clone();
        outcomes.begin(&Call {
            id: Some("asked".to_owned()),
            step: "data/warehouse GET".to_owned(),
            ..Call::default()
        });
        outcomes.judge(End {
            id: Some("asked".to_owned()),
            service: WAREHOUSE.to_owned(),
            ..end
        })
    }

    fn said(&self, part: &str) -> bool {
        self.profile.reasons().iter().any(|reason| reason.contains(part))
    }
}

#[test]
fn an_answer_that_is_larger_than_ever_is_told_and_pauses_nobody() {
    let known = Work::known().at(12, 0);
    let mut usual = known.clone();
    assert!(usual.request(USUAL) < 10, "{:?}", usual.profile.reasons());
    let mut large = known;
    let answers = Came {
        answer_times: 40,
        ..USUAL
    };
    let score = large.request(answers);
    assert!(
        (20..SETTINGS.pause_at).contains(&score),
        "{score} {:?}",
        large.profile.reasons()
    );
    assert!(large.said("in an answer to data/warehouse GET, usually ") && large.said(" at most"));
    // However many there are in a request, and however large: of its kind it is one request.
    for _ in 0..20 {
        let seen = call(0, "pandas", None, "tools/mcp", large.number);
        large.call(
            seen,
            Came {
                answer_times: 1 << 20,
                ..USUAL
            },
        );
    }
    let surprise = |at_ms| {
        let request = large.number.to_string();
        large.profile.outcomes.surprise(Some(&request), at_ms, &SETTINGS)
    };
    assert!(surprise(large.at_ms) > Bits::whole(8) && surprise(large.at_ms) <= Bits::whole(9));
    assert_eq!(surprise(large.at_ms + 601_000), Bits::ZERO, "it is too long ago");
}

#[test]
fn a_request_that_sends_more_than_ever_is_told() {
    let mut sends = Work::known().at(12, 0);
    let mut usual = sends.clone();
    let score = sends.request(Came {
        request_times: 100,
        ..USUAL
    });
    assert!(score >= 20 && sends.said("in a request to data/reports PUT"), "{score}");
    assert!(usual.request(USUAL) < 10 && !usual.said("in a request"));
}

/// All that one service does takes 64 times as long, for hours; and the same for a single step of an agent.
#[test]
fn a_slow_service_stops_nobody() {
    let mut work = Work::known();
    let slow = Came { slower: 64, ..USUAL };
    let mut highest = 0;
    for hour in 9..15 {
        work = work.at(hour, 0);
        for _ in 0..20 {
            highest = highest.max(work.request(slow));
        }
    }
    assert!(highest < SETTINGS.learn_below, "{highest} {:?}", work.profile.reasons());
    assert!(work.profile.score(work.at_ms, &SETTINGS) < 10);
    // An answer that is late as others of its service are is no surprise; alone it is a little one.
    let surprise = |work: &Work| {
        let end = End {
            duration_us: Some(80_000 * 64),
            ..End::default()
        };
        work.ended(end).measures[0].surprise
    };
    assert_eq!(surprise(&work), Bits::ZERO);
    let alone = surprise(&Work::known());
    assert!(alone > Bits::whole(4) && alone <= Bits::whole(6), "{alone:?}");
}

#[test]
fn calls_that_fail_more_often_than_usual_are_told_and_what_ails_the_service_is_not() {
    let known = Work::known().at(12, 0);
    let fail = |failed| {
        let mut work = known.clone();
        let scores: Vec<u8> = (0..5).map(|_| work.request(Came { failed, ..USUAL })).collect();
        (scores.into_iter().max().unwrap(), work.said("calls failed in 60 s"))
    };
    let (score, said) = fail(Some(true));
    assert!((20..SETTINGS.pause_at).contains(&score) && said, "{score}");
    for usual in [Some(false), None] {
        let (score, said) = fail(usual);
        assert!(score < 15 && !said, "{score} {usual:?}");
    }
}

/// All of them under status 200: what its protocol says is in the record, and the same records give the same score again.
#[test]
fn tools_that_fail_are_told_from_their_records() {
    use crate::audit::{Kind, Outcome, Record, RecordedFacts};
    use crate::request::Side;
    let scored = |outcome: &'static str| {
        let mut profile = Profile::default();
        for number in 1..=210_u64 {
            let of = |kind, time_ms| Record {
                agent_id: Some("analyst-7".into()),
                side: Some(Side::Inbound),
                verdict: Some(Outcome::Permit),
                service: Some("tools/mcp".into()),
                call: Some(number.to_string().into()),
                ..Record::new(kind, time_ms)
            };
            let at_ms = 4000 * number;
            let called = Record {
                facts: Some(RecordedFacts {
                    tool: Some("pandas".into()),
                    ..RecordedFacts::default()
                }),
                ..of(Kind::Decision, at_ms)
            };
            let ended = Record {
                end: Some("complete".into()),
                status: Some(200),
                outcome: Some(if number > 200 { outcome } else { "result" }.into()),
                ..of(Kind::Completion, at_ms + 500)
            };
            for record in [called, ended] {
                let (_, seen) = reading::read(&record, record.time_ms).unwrap();
                profile.observe(&declared(), &seen, &SETTINGS, false);
            }
        }
        let said = profile
            .reasons()
            .iter()
            .any(|reason| reason.contains("calls failed in 60 s"));
        (profile.score_thousandths(profile.at_ms, &SETTINGS), said)
    };
    let (fine, failed) = (scored("result"), scored("tool_error"));
    assert!(failed.0 > fine.0 + 10_000 && failed.1 && !fine.1, "{fine:?} {failed:?}");
    assert_eq!((scored("rpc_error"), scored("tool_error")), (failed, failed));
}

#[test]
fn calls_at_an_hour_without_any_are_told_and_pause_nobody() {
    let known = Work::known();
    for (hour, minute, said) in [
        (12, 0, false),
        (15, 59, false),
        (16, 5, false),
        (7, 0, false),
        (3, 0, true),
    ] {
        let mut work = known.clone().at(hour, minute);
        let score = work.request(USUAL);
        let words = format!("calls at {hour:02} UTC, never before in 5,760 calls");
        assert_eq!(work.said(&words), said, "{hour}:{minute} {:?}", work.profile.reasons());
        assert!(score < if said { 30 } else { 10 }, "{hour}:{minute} {score}");
        assert_eq!(score > 10, said, "{hour}:{minute} {score}");
    }
    // A whole night of it.
    let mut night = known.at(1, 0);
    let highest = (0..400).map(|_| night.request(USUAL)).max().unwrap();
    assert!(
        highest < SETTINGS.learn_below,
        "{highest} {:?}",
        night.profile.reasons()
    );
}

/// The same odd call in the same request, after a usual answer and after one larger than ever.
#[test]
fn sizes_make_odd_calls_odder() {
    let known = Work::known();
    let odd = |came| {
        let mut work = known.clone().at(12, 0);
        let data = Some("read:data.sales");
        work.call(call(0, "data/warehouse GET", data, WAREHOUSE, 99_999), came);
        work.call(call(0, "export", None, "tools/mcp", 99_999), USUAL)
    };
    let large = Came {
        answer_times: 40,
        ..USUAL
    };
    let (usual, larger) = (odd(USUAL), odd(large));
    assert!(usual >= 40 && larger > usual + 5, "{usual} {larger}");
    assert!(
        larger < SETTINGS.pause_at,
        "one call pauses nobody, whatever comes of it: {larger}"
    );
}

#[test]
fn an_end_is_no_call_and_one_of_an_unknown_call_is_its_services() {
    let mut work = Work::known().at(12, 0);
    let before = work.profile.clone();
    let end = End {
        id: Some("never begun".to_owned()),
        service: WAREHOUSE.to_owned(),
        response_bytes: Some(1 << 30),
        ..End::default()
    };
    for _ in 0..50 {
        work.observe(None, Some(end.clone()));
    }
    let after = &work.profile;
    assert_eq!((after.taught, &after.calibration), (before.taught, &before.calibration));
    assert_eq!(after.window.calls_in_step(), 0);
    assert_eq!(
        (&after.steps, &after.order, &after.reach),
        (&before.steps, &before.order, &before.reach)
    );
    assert!(
        work.profile.score(work.at_ms, &SETTINGS) < 10,
        "nothing is known of its service's ends"
    );
}

/// A hundred answers of one size in a minute teach at most two of them, and those of a paused agent none.
#[test]
fn odd_ends_teach_one_a_minute() {
    let mut work = Work::known().at(12, 0);
    let huge = |work: &Work| {
        let end = End {
            response_bytes: Some(1 << 40),
            ..End::default()
        };
        work.ended(end).measures[0].surprise
    };
    let before = huge(&work);
    let larger = Came {
        answer_times: 1 << 20,
        ..USUAL
    };
    for _ in 0..14 {
        let seen = call(0, "data/warehouse GET", None, WAREHOUSE, work.number);
        work.call(seen, larger);
    }
    let after = huge(&work);
    assert!(
        before > Bits::whole(10) && after > before - Bits::whole(2),
        "{before:?} {after:?}"
    );
    work.profile.forgive(1);
    let learnt = work.profile.outcomes.steps.clone();
    for frozen in [true, false] {
        work.at_ms += 120_000;
        let seen = Observation {
            at_ms: work.at_ms,
            call: None,
            end: Some(End {
                service: WAREHOUSE.to_owned(),
                response_bytes: Some(300_000),
                ..End::default()
            }),
            count: 0,
            denied: false,
        };
        work.profile.observe(&declared(), &seen, &SETTINGS, frozen);
        assert_eq!(work.profile.outcomes.steps == learnt, frozen);
    }
}

#[test]
fn what_is_kept_of_ends_is_bounded() {
    let mut work = Work::known().at(12, 0);
    let long = "ä".repeat(10_000);
    for number in 0..2000_u64 {
        work.at_ms += 61_000;
        let name = format!("{number}{long}");
        let made = Call {
            id: Some(name.clone()),
            step: name.clone(),
            ..Call::default()
        };
        work.observe(Some(made), None);
        let end = End {
            id: Some(name.clone()),
            service: name.clone(),
            request: Some(name),
            request_bytes: Some(1 << (number % 64)),
            response_bytes: Some(u64::MAX >> (number % 64)),
            duration_us: Some(number),
            failed: Some(number % 2 == 0),
        };
        work.observe(None, Some(end));
    }
    let stored = serde_json::to_string(&work.profile.outcomes).unwrap();
    assert!(stored.len() < 64 << 10, "{}", stored.len());
}

#[test]
fn scores_are_the_same_however_profiles_are_stored_between() {
    let mut one = Work::known().at(3, 0);
    let mut two = one.clone();
    let large = Came {
        answer_times: 40,
        failed: Some(true),
        ..USUAL
    };
    for _ in 0..5 {
        let stored = serde_json::to_string(&two.profile).unwrap();
        two.profile = serde_json::from_str(&stored).unwrap();
        let scores = (one.request(large), two.request(large));
        assert_eq!(scores.0, scores.1);
        assert!(scores.0 > 20, "something was compared");
    }
    assert_eq!(one.profile, two.profile);
}

/// As the version before stored it: it knows nothing of what comes of calls.
#[test]
fn a_profile_of_the_version_before_is_read_and_keeps_its_habits() {
    let stored = r#"{"steps":{"uses":{"pandas":70},"total":70},"data":{"uses":{},"total":0},
        "services":{"uses":{"tools/mcp":70},"total":70},"order":{"rows":{"":{"pandas":70}}},"kinds":{"rows":{}},
        "reach":{"calls":[70],"any_step":[70],"steps":{"pandas":[70]}},"calibration":{"counts":[70],"total":70},
        "open":[{"name":"r","first":"pandas","last":"pandas","calls":1,"uses":{"pandas":1}}],
        "evidence":{"calls":[[1000,65536]],"odd":0,"at_ms":1000},
        "window":{"steps":[{"number":0,"calls":1,"denials":0},{"number":0,"calls":0,"denials":0},
            {"number":0,"calls":0,"denials":0},{"number":0,"calls":0,"denials":0},{"number":0,"calls":0,"denials":0},
            {"number":0,"calls":0,"denials":0}],
            "taught_steps":70,"taught_calls":70,"taught_outcomes":70,"taught_denials":1},
        "taught":70,"odd_taught_ms":0,"score":12000,"at_ms":1000,
        "reasons":[{"about":"odd","words":"an old reason","weight":300000}],"forgiven":4}"#;
    let mut profile: Profile = serde_json::from_str(stored).unwrap();
    assert_eq!(profile.score(1000, &SETTINGS), 12);
    assert_eq!(
        (profile.steps.uses("pandas"), profile.reasons()),
        (70, vec!["an old reason".to_owned()])
    );
    assert_eq!(
        (&profile.hours, &profile.outcomes),
        (&Hours::default(), &Outcomes::default())
    );
    profile.observe(
        &declared(),
        &call(2000, "pandas", None, "tools/mcp", 1),
        &SETTINGS,
        false,
    );
    assert_eq!(profile.taught, 71);
}

/// A task that is asked after once a second for ten minutes, then tells all; and the same questions, were they calls.
#[test]
fn asking_after_a_task_pauses_nobody() {
    let known = Work::known().at(12, 0);
    let asked = |is_call: bool| {
        let mut work = known.clone();
        work.request(USUAL);
        let mut highest = 0;
        for second in 1..=600 {
            work.at_ms += 1000;
            let made = call(0, "tools/mcp session", None, "tools/mcp", work.number).call;
            let end = End {
                id: None,
                service: "tools/mcp".to_owned(),
                request: Some(work.number.to_string()),
                request_bytes: Some(200),
                response_bytes: Some(if second < 600 { 150 } else { 400_000 }),
                duration_us: Some(2_000),
                failed: Some(false),
            };
            if is_call {
                highest = highest.max(work.observe(made, None));
            }
            highest = highest.max(work.observe(None, Some(end)));
        }
        (highest, work)
    };
    let (highest, mut after) = asked(false);
    assert!(
        highest < SETTINGS.learn_below,
        "{highest} {:?}",
        after.profile.reasons()
    );
    assert!(after.request(USUAL) < SETTINGS.learn_below);
    assert!(asked(true).0 >= SETTINGS.pause_at);
}
