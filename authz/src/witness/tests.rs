#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::audit::{Chain, RecordedFacts, Sealed, SourceId};

const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const WRITER: &str = "spiffe://cluster.local/ns/agents/sa/writer-2";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const CALL: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A record of one call; `change` makes it what the test is about.
fn record(kind: Kind, side: Side, change: impl FnOnce(&mut Record<'static>)) -> Record<'static> {
    let is_end = kind == Kind::Completion;
    let facts = RecordedFacts {
        method: Some("PUT".into()),
        path: Some("/v1/reports/q1".into()),
        ..RecordedFacts::default()
    };
    let mut record = Record {
        call: Some(CALL.into()),
        end: is_end.then(|| COMPLETE.into()),
        facts: (!is_end).then_some(facts),
        peer: Some(ANALYST.into()),
        request_digest: is_end.then(|| Digest::of(b"asked")),
        response_digest: is_end.then(|| Digest::of(b"answered")),
        service: Some("data/warehouse".into()),
        side: Some(side),
        status: is_end.then_some(200),
        verdict: (!is_end).then_some(Outcome::Permit),
        workload: Some(if side == Side::Outbound { ANALYST } else { WAREHOUSE }.into()),
        ..Record::new(kind, 1000)
    };
    change(&mut record);
    record
}

fn same(_: &mut Record<'static>) {}

fn out(change: impl FnOnce(&mut Record<'static>)) -> Record<'static> {
    record(Kind::Decision, Side::Outbound, change)
}

fn arrived(change: impl FnOnce(&mut Record<'static>)) -> Record<'static> {
    record(Kind::Decision, Side::Inbound, change)
}

fn out_ended(change: impl FnOnce(&mut Record<'static>)) -> Record<'static> {
    record(Kind::Completion, Side::Outbound, change)
}

fn ended(change: impl FnOnce(&mut Record<'static>)) -> Record<'static> {
    record(Kind::Completion, Side::Inbound, change)
}

fn denied(record: &mut Record<'static>) {
    record.verdict = Some(Outcome::Deny);
}

fn status(status: u64) -> impl FnOnce(&mut Record<'static>) {
    move |record| record.status = Some(status)
}

fn end(end: &'static str) -> impl FnOnce(&mut Record<'static>) {
    move |record| record.end = Some(end.into())
}

fn asked(body: &'static [u8]) -> impl FnOnce(&mut Record<'static>) {
    move |record| record.request_digest = Some(Digest::of(body))
}

fn answered(body: &'static [u8]) -> impl FnOnce(&mut Record<'static>) {
    move |record| record.response_digest = Some(Digest::of(body))
}

fn path(path: &'static str) -> impl FnOnce(&mut Record<'static>) {
    move |record| record.facts.as_mut().unwrap().path = Some(path.into())
}

fn list(record: &mut Record<'static>) {
    record.facts.as_mut().unwrap().rpc_method = Some("tools/list".into());
}

fn at(time_ms: u64) -> impl FnOnce(&mut Record<'static>) {
    move |record| record.time_ms = time_ms
}

/// What the log says of the call, read in this order: every judgement that comes of it.
fn found(records: &[Record<'static>]) -> Vec<Mismatch> {
    let mut matcher = Matcher::new(100);
    for (position, record) in (1..).zip(records) {
        if let Some(sighting) = Sighting::read(sealed(record).record()) {
            matcher.see(position, 1000, sighting);
        }
    }
    assert_eq!(matcher.due(999), None, "nothing is judged before its window has closed");
    let mut found = Vec::new();
    while let Some(candidate) = matcher.due(1000) {
        assert_eq!(candidate.caller, ANALYST);
        found.extend(judge(records, candidate.phase).map(|judgement| judgement.mismatch));
    }
    assert_eq!(matcher.oldest(), None);
    found
}

fn sealed(record: &Record<'static>) -> Sealed {
    Chain::new(SourceId([1; 16])).seal(record)
}

/// Each row is a call; where it is found out, the row before differs in one fact and is well.
#[test]
fn the_table_of_calls() {
    use Mismatch::{CallerOnly, Differs, ServiceOnly};
    let whole = || vec![out(same), arrived(same), ended(same), out_ended(same)];
    for (name, records, expected) in [
        ("whole", whole(), &[][..]),
        ("in another order", whole().into_iter().rev().collect(), &[]),
        (
            "not recorded where it came from",
            vec![arrived(same), ended(same)],
            &[ServiceOnly],
        ),
        ("denied where it arrived", vec![out(same), arrived(denied)], &[]),
        ("the same, not from its sidecar", vec![arrived(denied)], &[ServiceOnly]),
        ("let out, and never arrived", vec![out(same)], &[]),
        ("denied where it came from", vec![out(denied)], &[]),
        (
            "the same, and arrived",
            vec![out(denied), arrived(same)],
            &[ServiceOnly],
        ),
        ("failed on its way", vec![out(same), out_ended(status(503))], &[]),
        ("the same, answered", vec![out(same), out_ended(same)], &[CallerOnly]),
        ("refused on its way", vec![out(same), out_ended(status(403))], &[]),
        (
            "redirected by nobody",
            vec![out(same), out_ended(status(302))],
            &[CallerOnly],
        ),
        (
            "broken off, arrived or not",
            vec![out(same), out_ended(end("broken"))],
            &[],
        ),
        (
            "still going on where it arrived",
            vec![out(same), arrived(same), out_ended(same)],
            &[],
        ),
        (
            "the decision lost with a VM",
            vec![arrived(same), ended(same), out_ended(same)],
            &[],
        ),
        (
            "tried twice",
            vec![
                out(same),
                arrived(same),
                ended(status(503)),
                arrived(same),
                ended(same),
                out_ended(same),
            ],
            &[],
        ),
        (
            "tried twice, another body each time",
            vec![
                out(same),
                arrived(same),
                ended(asked(b"other")),
                arrived(same),
                ended(same),
                out_ended(same),
            ],
            &[Differs],
        ),
        (
            "another request body",
            vec![out(same), arrived(same), ended(asked(b"other")), out_ended(same)],
            &[Differs],
        ),
        (
            "another answer",
            vec![out(same), arrived(same), ended(answered(b"other")), out_ended(same)],
            &[Differs],
        ),
        (
            "another answer, of a list",
            vec![out(list), arrived(list), ended(answered(b"other")), out_ended(same)],
            &[],
        ),
        (
            "another status",
            vec![out(same), arrived(same), ended(status(500)), out_ended(same)],
            &[Differs],
        ),
        (
            "cancelled where it arrived",
            vec![out(same), arrived(same), ended(end("cancelled")), out_ended(same)],
            &[],
        ),
        (
            "its id used once more for something else",
            vec![out(same), arrived(same), arrived(path("/v1/reports/q2"))],
            &[Differs],
        ),
        (
            "tried again within what clocks may differ",
            vec![
                out(same),
                arrived(same),
                out_ended(at(2000)),
                ended(same),
                arrived(at(2000 + SKEW_MS)),
            ],
            &[],
        ),
        (
            "tried again when it was over",
            vec![
                out(same),
                arrived(same),
                out_ended(at(2000)),
                ended(same),
                arrived(at(2001 + SKEW_MS)),
            ],
            &[ServiceOnly],
        ),
    ] {
        assert_eq!(found(&records), expected, "{name}");
    }
}

#[test]
fn what_came_without_an_id_is_a_call_of_its_own() {
    let nameless = |record: &mut Record<'static>| record.call = None;
    let mut matcher = Matcher::new(100);
    for (position, record) in (1..).zip([arrived(nameless), ended(nameless), arrived(nameless)]) {
        matcher.see(position, 1000, Sighting::read(sealed(&record).record()).unwrap());
    }
    let due: Vec<_> = std::iter::from_fn(|| matcher.due(1000)).collect();
    let places: Vec<_> = due.iter().map(|due| (due.position, due.call.as_deref())).collect();
    assert_eq!(places, [(1, None), (3, None)]);
    let alone = judge(&[arrived(nameless)], Phase::Decided).unwrap();
    assert_eq!(alone.mismatch, Mismatch::ServiceOnly);
}

#[test]
fn an_id_that_another_workload_uses_is_another_call() {
    let mut matcher = Matcher::new(100);
    let others = arrived(|record| record.peer = Some(WRITER.into()));
    for (position, record) in (1..).zip([out(same), others]) {
        matcher.see(position, 1000, Sighting::read(sealed(&record).record()).unwrap());
    }
    assert_eq!(matcher.due(1000).unwrap().caller, WRITER);
    assert_eq!(matcher.due(1000), None);
}

#[test]
fn what_is_for_the_policy_server_or_counted_is_passed_over() {
    let control_plane = out(|record| record.service = None);
    let counted = arrived(|record| (record.kind, record.call) = (Kind::Aggregate, None));
    for record in [control_plane, counted] {
        assert_eq!(Sighting::read(sealed(&record).record()), None);
    }
    assert_eq!(Sighting::read(b"{"), None);
}

#[test]
fn windows_close_in_the_order_of_the_log_and_what_is_open_is_known() {
    let mut matcher = Matcher::new(100);
    for (position, call) in [(5, "a"), (6, "b"), (7, "c")] {
        let seen = arrived(|record| record.call = Some(call.into()));
        matcher.see(
            position,
            1000 * position,
            Sighting::read(sealed(&seen).record()).unwrap(),
        );
    }
    let settles = out(|record| record.call = Some("a".into()));
    assert_eq!(matcher.oldest(), Some(5));
    matcher.see(8, 8000, Sighting::read(sealed(&settles).record()).unwrap());
    assert_eq!(matcher.oldest(), Some(6));
    assert_eq!(matcher.due(5999), None);
    assert_eq!(matcher.due(6000).unwrap().call.as_deref(), Some("b"));
    assert_eq!((matcher.due(6000), matcher.oldest()), (None, Some(7)));
}

#[test]
fn memory_is_bounded_and_what_is_dropped_is_counted() {
    let mut matcher = Matcher::new(2);
    for position in 1..=5 {
        let seen = arrived(|record| record.call = None);
        matcher.see(position, 1000, Sighting::read(sealed(&seen).record()).unwrap());
    }
    assert_eq!((matcher.take_dropped(), matcher.take_dropped()), (3, 0));
    let left: Vec<_> = std::iter::from_fn(|| matcher.due(1000))
        .map(|due| due.position)
        .collect();
    assert_eq!(left, [4, 5]);
    assert_eq!(
        (matcher.oldest(), format!("{matcher:?}").contains("open: 0")),
        (None, true)
    );
}

#[test]
fn words_are_read_back() {
    for mismatch in Mismatch::ALL {
        assert_eq!(Mismatch::parse(mismatch.as_str()), Some(mismatch));
    }
    assert_eq!(Mismatch::parse("other"), None);
}
