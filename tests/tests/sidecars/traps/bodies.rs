//! Traps about bodies: when they end, what is held, and what goes ahead of the verdict.

use serde_json::json;
use tests::client::Call;
use tests::sidecar::Sidecar;
use tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{SOON, Stand, as_it_is, reloads};

/// The body of a call in pieces of a few bytes.
fn in_pieces(call: Call) -> Call {
    let whole = call.chunks.concat();
    call.chunks(whole.chunks(17).map(<[u8]>::to_vec).collect())
}

/// Trap 2: with trailers no body callback ever says that the stream has ended.
#[tokio::test]
async fn a_body_that_ends_with_trailers_is_decided_on() {
    for flag in [true, false] {
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), |_| {}).await;
        for pieces in [false, true] {
            let shape = |call: Call| {
                let call = if pieces { in_pieces(call) } else { call };
                let forged = ["ostiary-claims", "ostiary_claims", "ostiary-call", "authorization"];
                forged
                    .into_iter()
                    .fold(call.trailer("x-end", "1"), |call, name| call.trailer(name, "forged"))
            };
            let refused = stand
                .send(shape(stand.tool("bash", 100)).header("x-case", "refused"))
                .await;
            assert_eq!((refused.status, refused.denial()), (403, Some("tool_forbidden")));
            let passed = stand
                .send(shape(stand.tool("pandas", 100)).header("x-case", "passed"))
                .await;
            assert_eq!(passed.status, 200);
        }
        let passed = stand.application.seen_with("x-case", "passed");
        assert_eq!(passed.len(), 2);
        // What no header may say no trailer says: some servers merge them.
        for seen in passed {
            assert_eq!(seen.trailers, [("x-end".to_owned(), "1".to_owned())]);
        }
        assert!(
            stand
                .application
                .seen_with("x-case", "refused")
                .iter()
                .all(|seen| seen.body.is_empty())
        );
        stand.unharmed().await;
    }
}

/// Trap 3, flag on: nothing of a request reaches the application before the verdict on its body.
#[tokio::test]
async fn with_the_flag_a_refused_request_never_reaches_the_application() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    for size in [0, 100, 200_000] {
        let refused = stand.send(in_pieces(stand.tool("bash", size))).await;
        assert_eq!((refused.status, refused.denial()), (403, Some("tool_forbidden")));
    }
    assert_eq!(stand.application.seen().len(), 0);
    for size in [0, 100, 200_000] {
        let call = in_pieces(stand.tool("pandas", size));
        let sent = call.chunks.concat();
        assert_eq!(stand.send(call).await.status, 200);
        assert_eq!(stand.application.seen().last().unwrap().body, sent);
    }
    stand.unharmed().await;
}

/// Trap 3, flag off: the application may see the headers, but not a byte of the body, and the token not even then.
#[tokio::test]
async fn without_the_flag_only_headers_precede_the_verdict() {
    let stand = Stand::start(|plugin| plugin.headers_stop_iteration(false), |_| {}).await;
    for size in [0, 100, 200_000] {
        let refused = stand.send(in_pieces(stand.tool("bash", size))).await;
        assert_eq!((refused.status, refused.denial()), (403, Some("tool_forbidden")));
        let call = in_pieces(stand.tool("pandas", size));
        let sent = call.chunks.concat();
        assert_eq!(stand.send(call).await.status, 200);
        assert_eq!(stand.application.seen().last().unwrap().body, sent);
    }
    for seen in stand.application.seen() {
        assert_eq!(seen.header("authorization"), None);
        assert!(seen.complete || seen.body.is_empty());
    }
    // What headers alone can refuse, they refuse at once.
    let before = stand.application.seen().len();
    let mut stranger = stand.tool("pandas", 0);
    stranger.headers.retain(|(name, _)| name != "authorization");
    assert_eq!(stand.send(stranger).await.denial(), Some("token_missing"));
    assert_eq!(stand.application.seen().len(), before);
    stand.unharmed().await;
}

/// Trap 3, flag off: an application that answers the headers alone must not get its answer past a missing verdict.
#[tokio::test]
async fn an_answer_before_the_verdict_is_withheld() {
    let early = tempfile::tempdir().unwrap();
    let socket = early.path().join("early");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let hasty = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 1];
                stream.read_exact(&mut first).await?;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret")
                    .await?;
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    let before_hasty = |sidecar: &mut Sidecar| sidecar.inbound.as_mut().unwrap().application = socket;
    let stand = Stand::start(|plugin| plugin.headers_stop_iteration(false), before_hasty).await;
    let answer = stand.client.raw(&stand.half_a_call(), SOON).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(tests::client::raw_status(&answer).unwrap(), 500, "{text}");
    assert!(
        text.contains("ostiary-denial: internal_error") && !text.contains("secret"),
        "{text}"
    );
    assert_eq!(reloads(&stand.envoy).await, 0);
    hasty.abort();
}

/// Trap 9: a root context has no stream to set a property of. Ours publishes records from streams alone, also of those
/// that break off.
#[tokio::test]
async fn broken_streams_are_recorded_and_harm_nothing() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    for _ in 0..10 {
        let mut connection = stand.client.connect().await.unwrap();
        // The response is dropped with the connection, its body unread.
        drop(connection.begin(stand.tool("pandas", 200_000)).await.unwrap());
        let mut stream = stand.client.open().await.unwrap();
        stream.write_all(&stand.half_a_call()).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
    }
    let aborted = wait::until("records of what broke off", SOON, async || {
        let records = stand.feed.records();
        let of = |end: &str| records.iter().filter(|record| record["end"] == end).count();
        (of("aborted") >= 10 && of("complete") + of("broken") >= 10).then_some(records)
    })
    .await
    .unwrap();
    assert!(
        aborted
            .iter()
            .filter(|record| record["end"] == "aborted")
            .all(|record| record["kind"] == "completion")
    );
    stand.unharmed().await;
}

/// Trap 10: Envoy answers 413 itself where a held body outgrows its buffer.
#[tokio::test]
async fn envoys_own_413_is_a_refusal_too() {
    for flag in [true, false] {
        let small = |sidecar: &mut Sidecar| sidecar.buffer_limit_bytes = 64 << 10;
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), small).await;
        // Over HTTP/2 it is the stream's window that bounds what is held.
        let over = stand.client.send(stand.tool("pandas", 300_000)).await.unwrap();
        assert_eq!((over.status, over.denial()), (413, None));
        assert!(stand.application.seen().iter().all(|seen| seen.body.is_empty()));
        let refused = stand.records(1).await;
        assert_eq!(
            (&refused[0]["kind"], &refused[0]["end"]),
            (&json!("completion"), &json!("refused"))
        );
        // Ours speaks first where its limit is the lower one.
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), |_| {}).await;
        let over = stand.send(stand.tool("pandas", (1 << 20) + 1)).await;
        assert_eq!((over.status, over.denial()), (413, Some("body_too_large")));
        stand.unharmed().await;
    }
}
