#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use std::borrow::Cow;

use super::chain::hash_record;
use super::*;
use crate::claims::Claims;
use crate::denial::Code;
use crate::digest::{self, Digest};
use crate::identity::ServiceId;
use crate::json::{self, Limits};
use crate::request::Side;

const SOURCE: SourceId = SourceId([7; 16]);

fn claims() -> RecordedClaims<'static> {
    let claims = serde_json::json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server",
        "sub": "spiffe://cluster.local/ns/agents/sa/analyst-7",
        "aud": ["spiffe://cluster.local/ns/tools/sa/mcp", "spiffe://cluster.local/ns/data/sa/warehouse"],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": 1000, "nbf": 1000, "exp": 1300, "jti": "j-1", "txn": "t-1", "agent_id": "analyst-7",
        "operation_id": "report-2026-q1", "scope": ["write:b", "read:a"], "tools": ["pandas", "tools/mcp/sql_query"],
        "forbidden_tools": ["bash"], "max_tokens": 50000
    });
    let document = claims.to_string();
    let document = json::parse(document.as_bytes(), &Limits::REQUEST).unwrap();
    RecordedClaims::of(&Claims::read(document.root()).unwrap())
}

fn full() -> Record<'static> {
    let text = |text: &'static str| Some(Cow::Borrowed(text));
    Record {
        agent_id: text("analyst-7"),
        bundle: text("1.2"),
        call: text("AAAAAAAAAAAAAAAAAAAAAA"),
        claims: Some(claims()),
        code: Some(Code::ToolForbidden),
        count: Some(3),
        counts: vec![(Code::TokenMissing, 2), (Code::PeerMissing, 1)],
        duration_us: Some(17),
        end: text("reset"),
        facts: Some(RecordedFacts {
            captures: vec![
                (Cow::Borrowed("z"), Cow::Borrowed("1")),
                (Cow::Borrowed("a"), Cow::Borrowed("2")),
            ],
            method: text("POST"),
            own: text("analyst-7"),
            path: text("/mcp"),
            prompt: text("greet"),
            resources: vec![
                (Cow::Borrowed("memo://b"), Cow::Borrowed("read:memo.b")),
                (Cow::Borrowed("memo://a"), Cow::Borrowed("")),
            ],
            right: text("tool"),
            rpc_method: text("tools/call"),
            scope: text("read:data.a"),
            tool: text("ba\u{1}\"sh\u{e9}"),
        }),
        jti: text("j-1"),
        operation_id: text("report-2026-q1"),
        peer: text("spiffe://cluster.local/ns/agents/sa/analyst-7"),
        previous_hash: Some(Digest::of(b"previous")),
        previous_source: Some(SourceId([8; 16])),
        protocol: text("mcp"),
        request_bytes: Some(10),
        request_digest: Some(Digest::of(b"request")),
        response_bytes: Some(20),
        response_digest: Some(Digest::of(b"response")),
        service: text("tools/mcp"),
        side: Some(Side::Inbound),
        state: text("1.9"),
        status: Some(403),
        trace_id: text("4bf92f3577b34da6a3ce929d0e0e4736"),
        txn: text("t-1"),
        verdict: Some(Outcome::Deny),
        workload: text("spiffe://cluster.local/ns/tools/sa/mcp"),
        ..Record::new(Kind::Decision, 1_790_000_000_123)
    }
}

/// What RFC 8785 asks of values without floats and of keys in ASCII: sorted keys, no blanks.
fn assert_canonical(json: &[u8]) {
    let value: serde_json::Value = serde_json::from_slice(json).unwrap();
    // `serde_json::Map` is sorted unless a feature says otherwise.
    assert_eq!(String::from_utf8_lossy(json), serde_json::to_string(&value).unwrap());
}

#[test]
fn every_field_is_encoded_canonically_and_read_back() {
    let mut chain = Chain::new(SOURCE);
    for mut record in [
        Record::source(1, "spiffe://cluster.local/ns/tools/sa/mcp", None),
        full(),
    ] {
        let sealed = chain.seal(&record);
        assert_canonical(sealed.record());
        assert_canonical(&sealed.line);
        let verified = verify_line(&sealed.line).unwrap();
        record.counts.sort_by_key(|(code, _)| code.as_str());
        if let Some(facts) = &mut record.facts {
            facts.captures.sort();
            facts.resources.sort();
        }
        assert_eq!(verified.record, record);
        assert_eq!((verified.hash, verified.link.seq), (sealed.hash, sealed.seq));
        assert_eq!(verified.canonical, sealed.record());
    }
    assert_eq!(
        chain.last_hash().map(|hash| hash.to_base64url()).unwrap().len(),
        digest::ENCODED_LEN
    );
}

#[test]
fn any_changed_byte_is_noticed() {
    let sealed = Chain::new(SOURCE).seal(&full());
    assert!(verify_line(&sealed.line).is_ok());
    for index in 0..sealed.line.len() {
        let mut line = sealed.line.clone();
        line[index] ^= 1;
        assert!(verify_line(&line).is_err(), "byte {index}");
    }
    assert_eq!(
        verify_line(&sealed.line[..sealed.line.len() - 2]).unwrap_err(),
        RecordError::Line
    );
    assert_eq!(
        verify_line(&vec![b' '; MAX_LINE_BYTES + 1]).unwrap_err(),
        RecordError::TooLong
    );
}

/// A line whose hash is right, whatever the record says.
fn line_of(record: &str) -> Vec<u8> {
    format!(
        "{{\"hash\":\"{}\",\"record\":{record}}}",
        hash_record(record.as_bytes()).to_base64url()
    )
    .into_bytes()
}

#[test]
fn a_right_hash_does_not_excuse_the_record() {
    let source = SOURCE.to_string();
    let minimal = format!("{{\"kind\":\"decision\",\"seq\":0,\"source\":\"{source}\",\"time_ms\":5,\"v\":1}}");
    assert!(verify_line(&line_of(&minimal)).is_ok());
    let with = |from: &str, to: &str| verify_line(&line_of(&minimal.replace(from, to))).unwrap_err();
    assert_eq!(with("\"seq\":0", "\"seq\": 0"), RecordError::NotCanonical);
    assert_eq!(
        with("\"kind\":\"decision\",\"seq\":0", "\"seq\":0,\"kind\":\"decision\""),
        RecordError::NotCanonical
    );
    assert_eq!(with("decision", "deci\\u0073ion"), RecordError::NotCanonical);
    assert_eq!(with("\"v\":1", "\"v\":2"), RecordError::Format);
    assert_eq!(with(",\"v\":1", ""), RecordError::Field("v"));
    assert_eq!(with("decision", "guess"), RecordError::Field("kind"));
    assert_eq!(with("\"seq\":0", "\"seq\":-1"), RecordError::Field("seq"));
    assert_eq!(with("\"seq\":0", "\"seq\":0.0"), RecordError::Field("seq"));
    assert_eq!(
        with("\"time_ms\":5", "\"time_ms\":9007199254740992"),
        RecordError::NotCanonical
    );
    assert_eq!(with("\"v\":1", "\"v\":1,\"x\":1"), RecordError::Field("(unknown)"));
    assert_eq!(with("\"v\":1", "\"v\":1,\"v\":1"), RecordError::Line);
    assert_eq!(with(&source, &source[1..]), RecordError::Field("source"));
}

#[test]
fn a_batch_is_one_unbroken_piece() {
    let mut chain = Chain::new(SOURCE);
    let sealed: Vec<_> = (0..4)
        .map(|time| chain.seal(&Record::new(Kind::Completion, time)))
        .collect();
    let lines: Vec<_> = sealed.iter().map(|sealed| verify_line(&sealed.line).unwrap()).collect();
    let pick = |indices: &[usize]| check_batch(&indices.iter().map(|index| lines[*index].clone()).collect::<Vec<_>>());
    assert_eq!(pick(&[]), Ok(()));
    assert_eq!(pick(&[0, 1, 2, 3]), Ok(()));
    assert_eq!(pick(&[2, 3]), Ok(()));
    assert_eq!(pick(&[0, 2]), Err(RecordError::Gap(2)));
    assert_eq!(pick(&[1, 1]), Err(RecordError::Fork(1)));
    assert_eq!(pick(&[1, 0]), Err(RecordError::Fork(0)));

    let mut fork = Chain::new(SOURCE);
    fork.seal(&Record::new(Kind::Completion, 99));
    let forked = fork.seal(&Record::new(Kind::Completion, 1));
    let forked = verify_line(&forked.line).unwrap();
    assert_eq!(check_batch(&[lines[0].clone(), forked]), Err(RecordError::Fork(1)));

    let mut other = Chain::new(SourceId([9; 16]));
    other.seal(&Record::new(Kind::Completion, 0));
    let other = other.seal(&Record::new(Kind::Completion, 1));
    assert_eq!(
        check_batch(&[lines[0].clone(), verify_line(&other.line).unwrap()]),
        Err(RecordError::Sources)
    );

    let mut orphan = lines[1].clone();
    orphan.link.prev_hash = None;
    assert_eq!(check_batch(&[orphan]), Err(RecordError::Fork(1)));
    let mut first = lines[0].clone();
    first.link.prev_hash = Some(Digest::of(b""));
    assert_eq!(check_batch(&[first]), Err(RecordError::Fork(0)));
}

#[test]
fn the_hash_is_that_of_the_prefix_and_the_record() {
    let sealed = Chain::new(SOURCE).seal(&Record::new(Kind::Decision, 5));
    let expected = Digest::of(&[b"ostiary.dev/record/v1\n", sealed.record()].concat());
    assert_eq!(sealed.hash, expected);
    assert!(
        sealed
            .line
            .starts_with(format!("{{\"hash\":\"{}\"", expected.to_base64url()).as_bytes())
    );
}

#[test]
fn a_flood_becomes_few_records() {
    let service = ServiceId::parse("data/warehouse").unwrap();
    let mut aggregates = Aggregates::new(8);
    for _ in 0..1000 {
        aggregates.count(
            10,
            Side::Inbound,
            Some("spiffe://a/b"),
            Some(&service),
            Code::TokenExpired,
        );
    }
    aggregates.count(
        11,
        Side::Inbound,
        Some("spiffe://a/b"),
        Some(&service),
        Code::TokenExpired,
    );
    let records = aggregates.drain(11, "spiffe://w/w");
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].kind, records[0].count, records[0].time_ms),
        (Kind::Aggregate, Some(1000), 10_000)
    );
    assert_eq!(
        (records[0].code, records[0].side),
        (Some(Code::TokenExpired), Some(Side::Inbound))
    );
    assert_eq!(aggregates.drain(12, "spiffe://w/w").len(), 1);
    assert!(aggregates.is_empty());
}

#[test]
fn one_peer_cannot_crowd_out_the_others() {
    let mut aggregates = Aggregates::new(8);
    for code in Code::ALL {
        aggregates.count(10, Side::Inbound, Some("spiffe://hostile/x"), None, *code);
    }
    aggregates.count(10, Side::Inbound, Some("spiffe://good/x"), None, Code::TokenExpired);
    let records = aggregates.drain(11, "spiffe://w/w");
    let of = |peer: &str| {
        records
            .iter()
            .filter(|record| record.peer.as_deref() == Some(peer))
            .count()
    };
    assert_eq!((of("spiffe://hostile/x"), of("spiffe://good/x")), (2, 1));
    aggregates.count(11, Side::Inbound, Some("spiffe://hostile/x"), None, Code::TokenExpired);
    assert_eq!(aggregates.drain(12, "spiffe://w/w").len(), 1);
    let overflow = records.iter().find(|record| record.kind == Kind::Overflow).unwrap();
    assert_eq!(
        overflow.counts.iter().map(|(_, count)| count).sum::<u64>(),
        Code::ALL.len() as u64 - 2
    );
}
