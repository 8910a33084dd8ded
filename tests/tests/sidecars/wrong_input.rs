//! Input that is wrong by its size: each is refused with a code and in clear words, the application sees nothing of it, and an
//! Envoy that has met all of it many times has grown by no more than it holds at once.
//!
//! `BLESS=1 cargo test -p tests --test sidecars wrong_input` writes the table of docs/conformance.md anew.

use serde_json::{Value, json};
use tests::client::Call;
use tests::docs;
use tests::mcp;
use tests::stand::{self, HOST, Stand};

/// What the service lets a body have; Envoy buffers as much.
const BODY_LIMIT: usize = 16 << 20;

/// How often everything is sent before memory is looked at again.
const ROUNDS: [usize; 4] = [3, 4, 4, 4];

/// What an Envoy may grow by in the least of the rounds that count: what is not given back is so each time. What it has once held
/// for a body it keeps, and how many it held at once depends on the machine.
const MOST_GROWTH_KIB: u64 = 16 << 10;
/// And in all of them.
const MOST_GROWTH_IN_ALL_KIB: u64 = 128 << 10;

/// What is refused: what it is, its call, and the status and code of the refusal; a code is none where Envoy itself refuses.
fn refused() -> Vec<(&'static str, Call, u16, Option<&'static str>)> {
    let body = |body: Vec<u8>| mcp::request(HOST, mcp::LEGACY, "tools/call", &json!({})).body(body);
    let arguments = |value: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"pandas","arguments":{value}}}}}"#)
            .into_bytes()
    };
    let keys: Vec<String> = (0..1_000_000).map(|number| format!(r#""{number:x}":0"#)).collect();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let mut utf8 = arguments(r#"{"a":"?"}"#);
    let place = utf8.iter().position(|byte| *byte == b'?').unwrap();
    utf8[place] = 0xff;
    let whole = vec![b' '; 64 << 20];
    let pieces = whole.chunks(1 << 20).map(<[u8]>::to_vec).collect();
    let id = br#"{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}"#.to_vec();
    let malformed = Some("mcp_malformed");
    vec![
        ("JSON nested 10,000 deep", body(arguments(&deep)), 400, malformed),
        (
            "a million keys",
            body(arguments(&format!("{{{}}}", keys.join(",")))),
            400,
            malformed,
        ),
        ("a byte that is no UTF-8", body(utf8), 400, malformed),
        ("an id of 2^64", body(id), 400, malformed),
        ("a body of 64 MiB", body(whole), 413, Some("body_too_large")),
        (
            "the same in chunks",
            body(Vec::new()).chunks(pieces),
            413,
            Some("body_too_large"),
        ),
        (
            "a header of 1 MiB",
            stand::read("sales").header("x-long", "x".repeat(1 << 20)),
            431,
            None,
        ),
    ]
}

#[tokio::test]
async fn wrong_input_is_refused_in_clear_words_and_leaves_nothing_behind() {
    let mut service = stand::mcp_service();
    service["body_limit_bytes"] = json!(BODY_LIMIT);
    let buffer = u32::try_from(BODY_LIMIT + (1 << 20)).unwrap();
    // One worker, so that the first rounds are all that it has to meet.
    let stand = Stand::start("wrong-input", service, |sidecar| {
        (sidecar.buffer_limit_bytes, sidecar.concurrency) = (buffer, 1);
    })
    .await
    .unwrap();
    let _feed = stand.settled_feed().await.unwrap();

    let mut table = "| input | status | code | what the caller is told |\n|---|---|---|---|\n".to_owned();
    let mut resident = Vec::with_capacity(ROUNDS.len());
    for (phase, rounds) in ROUNDS.into_iter().enumerate() {
        for round in 0..rounds {
            for (what, call, status, code) in refused() {
                let call = call.bearer(&stand::token("analyst-7"));
                let (answer, seen) = stand.refused(&stand.inbound, call, status, code).await.unwrap();
                assert!(seen.is_empty(), "{what}");
                if (phase, round) == (0, 0) {
                    let told = code.map_or_else(
                        || json!("Envoy's own words"),
                        |_| answer.json()["error"]["data"]["detail"].clone(),
                    );
                    let code = code.map_or_else(|| "none".to_owned(), |code| format!("`{code}`"));
                    table += &format!("| {what} | {status} | {code} | {} |\n", told.as_str().unwrap());
                }
            }
        }
        resident.push(stand.envoy.resident_kib());
    }
    println!("Envoy: {resident:?} KiB after it all {ROUNDS:?} times");
    let grown = resident.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    assert!(grown.min().unwrap() <= MOST_GROWTH_KIB, "{resident:?} KiB");
    let in_all = resident[ROUNDS.len() - 1].saturating_sub(resident[0]);
    assert!(in_all <= MOST_GROWTH_IN_ALL_KIB, "{resident:?} KiB");
    docs::hold_table("conformance.md", "wrong input", &table).unwrap();
    numbers_go_on_as_they_are(&stand).await;
}

/// A number that no float can hold is nobody's business but the application's: its very digits go on.
async fn numbers_go_on_as_they_are(stand: &Stand) {
    for number in [
        "9007199254740993",
        "-9007199254740993",
        "1e400",
        "0.1000000000000000055511151231257827",
    ] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{{"name":"pandas","arguments":{{"n":{number}}}}}}}"#
        );
        let call = mcp::request(HOST, mcp::LEGACY, "tools/call", &Value::Null);
        let call = call.body(body).bearer(&stand::token("analyst-7"));
        // What the application saw is held against what was sent.
        stand.allowed(&stand.inbound, call).await.unwrap();
    }
}
