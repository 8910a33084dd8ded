//! Trap 11: a response's headers are held, or go ahead of its body, and the body is replaced, however the service writes it.

use serde_json::json;
use tests::client::{Answer, Call};
use tests::sidecar::Sidecar;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::{HOST, Stand, reloads};

const LISTED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"bash"},{"name":"pandas"}]}}"#;
const TOLD: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"pandas"}]}}"#;

/// An event without an end: its service writes until nobody listens.
const NEVER_ENDING: &str = "an event that never ends";

/// What comes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The caller is told what it may use.
    Filtered,
    /// It gets an error in place of the answer.
    Withheld,
    /// It gets no answer, or an error of ours or of Envoy's: whose bound is met first depends on the protocol.
    Nothing,
    /// There is no body.
    Empty,
}

/// Answers as a service writes them, by name, and what the caller is told.
fn answers() -> Vec<(&'static str, Vec<u8>, Told)> {
    let json = "content-type: application/json\r\n";
    let sized = |head: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {head}content-length: {length}\r\n\r\n{body}").into_bytes()
    };
    let chunked = |head: &str, body: &str, trailers: &str| {
        let chunks = body.as_bytes().chunks(23);
        let chunks = chunks.map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)));
        let chunks: String = chunks.collect();
        format!("HTTP/1.1 200 OK\r\n{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n{trailers}\r\n").into_bytes()
    };
    let events = "content-type: Text/Event-Stream; charset=UTF-8\r\n";
    let split = LISTED.replace("\"result\"", "\r\ndata: \"result\"");
    let event = format!(": hello\r\n\r\nevent: message\r\ndata: {split}\r\n\r\n");
    let long = format!("{LISTED}{}", " ".repeat(5 << 20));
    let mut broken = sized(&format!("200 OK\r\n{json}"), LISTED);
    broken.truncate(broken.len() - 10);
    vec![
        ("sized", sized(&format!("200 OK\r\n{json}"), LISTED), Told::Filtered),
        ("chunked", chunked(json, LISTED, ""), Told::Filtered),
        ("trailers", chunked(json, LISTED, "x-end: 1\r\n"), Told::Filtered),
        ("events", chunked(events, &event, ""), Told::Filtered),
        (
            "events with trailers",
            chunked(events, &event, "x-end: 1\r\n"),
            Told::Filtered,
        ),
        (
            "another success",
            sized("299 Fine\r\ncontent-type: APPLICATION/json;x=y\r\n", LISTED),
            Told::Filtered,
        ),
        (
            "encoded",
            sized(&format!("200 OK\r\n{json}content-encoding: gzip\r\n"), LISTED),
            Told::Withheld,
        ),
        (
            "two types",
            sized(&format!("200 OK\r\n{json}{json}"), LISTED),
            Told::Withheld,
        ),
        ("no type", sized("200 OK\r\n", LISTED), Told::Withheld),
        (
            "text",
            sized("200 OK\r\ncontent-type: text/plain\r\n", LISTED),
            Told::Withheld,
        ),
        (
            "a batch",
            chunked(json, &format!("[{LISTED}]"), "x-end: 1\r\n"),
            Told::Withheld,
        ),
        (
            "a byte-order mark",
            sized(&format!("200 OK\r\n{json}"), &format!("\u{feff}{LISTED}")),
            Told::Withheld,
        ),
        ("broken off", broken, Told::Nothing),
        ("too long", sized(&format!("200 OK\r\n{json}"), &long), Told::Nothing),
        (
            NEVER_ENDING,
            format!("HTTP/1.1 200 OK\r\n{events}\r\ndata: {LISTED}").into_bytes(),
            Told::Nothing,
        ),
        ("empty", sized(&format!("200 OK\r\n{json}"), ""), Told::Empty),
    ]
}

/// Writes the answer that a request's header `x-answer` names, in small pieces, and closes.
async fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"}") {
        let count = stream.read(&mut piece).await?;
        request.extend_from_slice(&piece[..count]);
        if count == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let named = |name: &str| request.contains(&format!("x-answer: {name}\r\n"));
    let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec();
    let answer = answers().into_iter().find(|(name, ..)| named(name));
    let answer = answer.map_or(plain, |(_, answer, _)| answer);
    for piece in answer.chunks(if answer.len() > 10_000 { 100_000 } else { 50 }) {
        stream.write_all(piece).await?;
        stream.flush().await?;
        tokio::task::yield_now().await;
    }
    while named(NEVER_ENDING) {
        stream.write_all(&[b'x'; 1 << 16]).await?;
    }
    stream.shutdown().await
}

#[tokio::test]
async fn a_list_is_filtered_however_its_service_writes_it() {
    for flag in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("lists");
        let listener = UnixListener::bind(&socket).unwrap();
        let service = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        let before = |sidecar: &mut Sidecar| sidecar.inbound.as_mut().unwrap().application = socket.clone();
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), before).await;
        for http2 in [true, false] {
            for (name, _, told) in answers() {
                let call = Call::new("POST", &format!("{HOST}:8080"), "/mcp")
                    .bearer(&stand.token())
                    .header("x-answer", name)
                    .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
                let client = stand.client.clone();
                let client = if http2 { client.http2() } else { client };
                let answer = client.send(call).await.ok();
                check(
                    &format!("{name}, held: {flag}, HTTP/2: {http2}"),
                    answer.as_ref(),
                    told,
                    flag,
                );
            }
        }
        stand.unharmed().await;
        assert_eq!(reloads(&stand.envoy).await, 0);
        service.abort();
    }
}

fn check(case: &str, answer: Option<&Answer>, told: Told, held: bool) {
    let body = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
    let body = body.unwrap_or_default();
    assert!(!body.contains("bash"), "{case}: {body}");
    let Some(answer) = answer.filter(|_| told != Told::Nothing) else {
        assert_eq!(told, Told::Nothing, "{case}");
        assert!(!body.contains("pandas"), "{case}: {body}");
        return;
    };
    match told {
        Told::Filtered => {
            assert_eq!(
                answer.json(),
                serde_json::from_str::<serde_json::Value>(TOLD).unwrap(),
                "{case}: {body}"
            );
            assert!((200..300).contains(&answer.status), "{case}: {}", answer.status);
            assert_eq!(answer.header("cache-control"), Some("private, no-store"), "{case}");
            assert_eq!(answer.denial(), None, "{case}");
        }
        Told::Withheld => {
            assert_eq!(
                answer.json()["error"]["data"]["code"],
                "response_withheld",
                "{case}: {body}"
            );
            assert_eq!(answer.status, if held { 502 } else { 200 }, "{case}");
            assert_eq!(answer.denial(), held.then_some("response_withheld"), "{case}");
            assert_eq!(answer.header("content-encoding"), None, "{case}");
        }
        Told::Empty => assert_eq!((answer.status, &*body), (200, ""), "{case}"),
        Told::Nothing => {}
    }
}
