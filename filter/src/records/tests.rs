#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::session::Flow;
use crate::testing::{self, BUNDLE_KEY, FakeHost, SERVICE, bearer, get_table};
use crate::vm::Vm;

/// Makes `count` calls, each of which leaves a decision and a completion.
fn call(host: &FakeHost, vm: &mut Vm, count: usize) -> usize {
    let authorization = bearer(&json!({}));
    let mut passed = 0;
    for _ in 0..count {
        let (mut session, flow) = get_table(host, vm, "sales", &[("authorization", &authorization)]);
        passed += usize::from(flow == Flow::Continue);
        session.finish(vm, host, true);
    }
    passed
}

fn later(host: &FakeHost, vm: &mut Vm) {
    host.advance(Duration::from_secs(5));
    vm.tick(host);
}

fn batches(host: &FakeHost) -> Vec<Vec<Value>> {
    let posts = host.sent().into_iter().filter(|sent| sent.path == "/v1/records");
    let lines = |body: &[u8]| -> Vec<Value> {
        let lines = std::str::from_utf8(body).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    posts.map(|post| lines(&post.body)).collect()
}

/// A batch is what the policy server accepts: lines that verify, one source, no gap.
fn check(batch: &[Value]) {
    let lines: Vec<String> = batch.iter().map(Value::to_string).collect();
    let verified: Vec<_> = lines
        .iter()
        .map(|line| audit::verify_line(line.as_bytes()).unwrap())
        .collect();
    audit::check_batch(&verified).unwrap();
}

#[test]
fn one_batch_is_out_and_what_nobody_waits_for_gathers_until_the_next_tick() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    call(&host, &mut vm, 3);
    vm.tick(&host);
    call(&host, &mut vm, 2);
    vm.tick(&host);
    assert_eq!(batches(&host).len(), 1);
    host.store_batch(&mut vm);
    assert_eq!(batches(&host).len(), 1);
    vm.tick(&host);
    let sent = batches(&host);
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [7, 4]);
    check(&sent.concat());
    host.store_batch(&mut vm);
    assert_eq!(vm.records.len(), 0);
}

#[test]
fn much_that_is_queued_follows_the_answer_at_once() {
    for (calls, sent) in [(127, 1), (128, 2)] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        call(&host, &mut vm, 1);
        vm.tick(&host);
        call(&host, &mut vm, calls);
        host.store_batch(&mut vm);
        assert_eq!(batches(&host).len(), sent, "{calls} calls, two records each");
    }
}

#[test]
fn batches_are_bounded_in_records_and_bytes() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    call(&host, &mut vm, 400);
    while vm.records.len() > 0 {
        later(&host, &mut vm);
        host.store_batch(&mut vm);
    }
    let sent = batches(&host);
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [512, 289]);
    assert!(host.sent().iter().all(|sent| sent.body.len() <= MOST_BYTES_A_BATCH));
}

#[test]
fn what_is_not_stored_is_kept_and_sent_again() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    call(&host, &mut vm, 1);
    vm.tick(&host);
    for (status, body) in [
        (503, &b""[..]),
        (200, b"rubbish"),
        (200, b"{\"source\":\"other\",\"accepted_through\":9}"),
    ] {
        let batch = host.last_sent("/v1/records").unwrap();
        host.answer(&mut vm, batch.token, status, body);
        vm.tick(&host);
        assert_eq!(host.last_sent("/v1/records").unwrap().token, batch.token, "not at once");
        later(&host, &mut vm);
        assert_eq!(host.last_sent("/v1/records").unwrap().body, batch.body);
    }
    // Half of it arrived.
    let batch = host.last_sent("/v1/records").unwrap();
    let source = batches(&host)[0][0]["record"]["source"].clone();
    let body = json!({"source": source, "accepted_through": 0}).to_string();
    host.answer(&mut vm, batch.token, 200, body.as_bytes());
    later(&host, &mut vm);
    assert_eq!(batches(&host).last().unwrap()[0]["record"]["seq"], 1);
    host.store_batch(&mut vm);
    assert_eq!(vm.records.len(), 0);
}

#[test]
fn a_batch_that_is_too_large_is_halved() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    call(&host, &mut vm, 8);
    vm.tick(&host);
    let batch = host.last_sent("/v1/records").unwrap();
    host.answer(&mut vm, batch.token, 413, b"");
    later(&host, &mut vm);
    assert_eq!(batches(&host).iter().map(Vec::len).collect::<Vec<_>>(), [17, 8]);
}

#[test]
fn a_refused_chain_is_continued_by_a_new_source_that_names_it() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    call(&host, &mut vm, 1);
    vm.tick(&host);
    host.store_batch(&mut vm);
    call(&host, &mut vm, 1);
    vm.tick(&host);
    let refused = host.last_sent("/v1/records").unwrap();
    host.answer(&mut vm, refused.token, 409, b"{\"code\":\"chain_fork\"}");
    call(&host, &mut vm, 1);
    later(&host, &mut vm);
    let sent = batches(&host);
    let (first, last) = (&sent[0], &sent[2]);
    check(last);
    let source = &last[0]["record"];
    assert_eq!((&source["kind"], &source["seq"]), (&json!("source"), &json!(0)));
    assert_ne!(source["source"], first[0]["record"]["source"]);
    assert_eq!(source["previous_source"], first[0]["record"]["source"]);
    assert_eq!(
        source["previous_hash"], first[2]["hash"],
        "the last that was acknowledged"
    );
    let kinds: Vec<_> = last
        .iter()
        .map(|line| line["record"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["source", "decision", "completion", "decision", "completion"]);
    host.store_batch(&mut vm);
    assert_eq!(call(&host, &mut vm, 1), 1);
}

#[test]
fn a_full_queue_denies_and_recovers() {
    let host = FakeHost::inbound();
    let mut vm = Vm::default();
    vm.configure(&host, &testing::config(BUNDLE_KEY, &json!({"record_queue": 64})))
        .unwrap();
    vm.tick(&host);
    let answer = json!({"bundle": testing::bundle(SERVICE, 1, &json!({})), "state": testing::state(1, &json!({}))});
    host.answer_poll(&mut vm, 200, &answer);
    // One peer may hold half of the queue.
    assert_eq!(call(&host, &mut vm, 50), 16);
    assert_eq!(host.denial().as_deref(), Some("records_unavailable"));
    later(&host, &mut vm);
    host.store_batch(&mut vm);
    assert_eq!(call(&host, &mut vm, 50), 16);
    // The denials themselves come to be known, by count: the queue had no room for one record each.
    for _ in 0..4 {
        later(&host, &mut vm);
        host.store_batch(&mut vm);
    }
    let records: Vec<Value> = batches(&host)
        .concat()
        .into_iter()
        .map(|line| line["record"].clone())
        .collect();
    let counted = records
        .iter()
        .filter(|record| record["kind"] == "aggregate" || record["kind"] == "overflow");
    let sum: u64 = counted
        .map(|record| {
            record["count"]
                .as_u64()
                .or(record["counts"]["records_unavailable"].as_u64())
                .unwrap()
        })
        .sum();
    assert_eq!(sum, 68);
}

#[test]
fn counts_without_room_become_one_overflow_record() {
    let host = FakeHost::inbound();
    let mut records = Records::new(4);
    let workload = SpiffeId::parse(SERVICE).unwrap();
    let held = records.reserve(None, 2).unwrap();
    for second in 0..3 {
        records.count(second, Some(Side::Inbound), None, None, Code::TokenMissing);
        records.count(second, None, None, None, Code::DirectionUnknown);
    }
    // No room for any group of this peer: six denials end in one record, however often this is tried.
    for _ in 0..3 {
        records.settle_counts(&host, &workload, 10);
    }
    let batch = records.next_batch(Duration::ZERO).unwrap();
    let lines: Vec<Value> = std::str::from_utf8(&batch.body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let overflow: Vec<&Value> = lines
        .iter()
        .map(|line| &line["record"])
        .filter(|record| record["kind"] == "overflow")
        .collect();
    assert_eq!(overflow.len(), 1);
    records.release(held);
}

/// Answers the batch that is out as a policy server that wants heartbeats, or none.
fn stored(host: &FakeHost, vm: &mut Vm, heartbeat: &str) {
    let batch = host.last_sent("/v1/records").unwrap();
    let last: Value = serde_json::from_slice(
        batch
            .body
            .trim_ascii_end()
            .split(|byte| *byte == b'\n')
            .next_back()
            .unwrap(),
    )
    .unwrap();
    let (source, seq) = (&last["record"]["source"], &last["record"]["seq"]);
    let body = format!("{{\"source\":{source},\"accepted_through\":{seq}{heartbeat}}}");
    host.answer(vm, batch.token, 200, body.as_bytes());
}

/// Lets time pass in which nothing is called.
fn quiet(host: &FakeHost, vm: &mut Vm, seconds: u64) {
    for _ in 0..seconds {
        host.advance(Duration::from_secs(1));
        vm.tick(host);
    }
}

#[test]
fn a_source_that_has_nothing_to_tell_says_so_where_that_is_wanted() {
    for (answer, beats) in [
        (",\"heartbeat_seconds\":30", true),
        ("", false),
        (",\"heartbeat_seconds\":0", false),
        (",\"heartbeat_seconds\":3601", false),
    ] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        quiet(&host, &mut vm, 40);
        assert_eq!(batches(&host).len(), 0, "no source yet");
        call(&host, &mut vm, 1);
        vm.tick(&host);
        stored(&host, &mut vm, answer);
        assert_eq!(vm.records.told_source().is_some(), beats, "{answer}");
        quiet(&host, &mut vm, 29);
        assert_eq!(batches(&host).len(), 1, "{answer}");
        // One alone, however long it takes to be stored.
        quiet(&host, &mut vm, 100);
        let sent = batches(&host);
        let Some(beat) = sent.get(1) else {
            assert!(!beats, "{answer}");
            continue;
        };
        assert!(beats, "{answer}");
        check(&[sent[0].clone(), beat.clone()].concat());
        let record = &beat[0]["record"];
        assert_eq!(
            (
                &record["kind"],
                &record["count"],
                &record["bundle"],
                &record["workload"]
            ),
            (&"aggregate".into(), &0.into(), &"1.1".into(), &SERVICE.into())
        );
        assert_eq!((beat.len(), vm.records.len()), (1, 1));
        stored(&host, &mut vm, answer);
        let before = batches(&host).len();
        quiet(&host, &mut vm, 29);
        assert_eq!(batches(&host).len(), before);
        quiet(&host, &mut vm, 3);
        assert_eq!(batches(&host).len(), before + 1);
    }
}
