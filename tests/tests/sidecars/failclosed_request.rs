//! Requests whose body decides: held to its end and whole, bounded, in whatever pieces it comes, on both protocols and
//! with Envoy's `allow_on_headers_stop_iteration` on and off.
//!
//! With the flag on the application sees nothing of a request that is denied. With it off Envoy has sent the headers on
//! before the body decides; then the application sees those at most, and never a byte of the body.

use serde_json::{Value, json};
use tests::client::{Call, Client};
use tests::feed::Feed;
use tests::mcp;
use tests::stand::{self, HOST, Stand};

/// As [`stand::mcp_service`] says.
const LIMIT: usize = 64 << 10;

/// Less than the limit of the service, so that Envoy's is the one that is met.
const SMALL_BUFFER: u32 = 16 << 10;

struct Setting {
    stand: Stand,
    _feed: Feed,
    /// Whether the application may see the headers of a request whose body is refused.
    headers_first: bool,
}

impl Setting {
    async fn start(name: &str, held: bool, buffer: Option<u32>) -> Self {
        let stand = Stand::start(name, stand::mcp_service(), |sidecar| {
            let plugin = sidecar.plugin.take();
            sidecar.plugin = plugin.map(|plugin| plugin.headers_stop_iteration(held));
            sidecar.buffer_limit_bytes = buffer.unwrap_or(sidecar.buffer_limit_bytes);
        });
        let stand = stand.await.unwrap();
        let feed = stand.settled_feed().await.unwrap();
        Self {
            stand,
            _feed: feed,
            headers_first: !held,
        }
    }

    fn clients(&self) -> [(&'static str, Client); 2] {
        let client = &self.stand.inbound;
        [("HTTP/1.1", client.clone()), ("HTTP/2", client.clone().http2())]
    }

    async fn allowed(&self, what: &str, call: impl Fn() -> Call) {
        for (protocol, client) in self.clients() {
            let allowed = self.stand.allowed(&client, call()).await;
            assert!(allowed.is_ok(), "{what} on {protocol}: {allowed:?}");
        }
    }

    /// Denied for what the headers say: the application sees nothing, whatever the flag.
    async fn denied_by_headers(&self, what: &str, status: u16, code: &str, call: impl Fn() -> Call) {
        for (protocol, client) in self.clients() {
            let denied = self.stand.denied(&client, call(), status, code).await;
            assert!(denied.is_ok(), "{what} on {protocol}: {denied:?}");
        }
    }

    /// Denied for what the body says, or its size.
    async fn denied_by_body(&self, what: &str, status: u16, code: Option<&str>, call: impl Fn() -> Call) {
        for (protocol, client) in self.clients() {
            let refused = self.stand.refused(&client, call(), status, code).await;
            assert!(refused.is_ok(), "{what} on {protocol}: {refused:?}");
            let (_, seen) = refused.unwrap();
            assert!(self.headers_first || seen.is_empty(), "{what} on {protocol}: {seen:?}");
        }
    }
}

fn tool(name: &str, arguments: &Value) -> Call {
    mcp::call_tool(HOST, name, arguments).bearer(&stand::token("analyst-7"))
}

/// A good call whose body has exactly so many bytes.
fn sized(bytes: usize) -> Call {
    let empty = tool("pandas", &json!({"pad": ""})).chunks.concat().len();
    tool("pandas", &json!({"pad": "x".repeat(bytes - empty)}))
}

fn in_pieces(call: Call, size: usize) -> Call {
    let body = call.chunks.concat();
    call.chunks(body.chunks(size).map(<[u8]>::to_vec).collect())
}

/// The body of one call with the headers of another.
fn disguised(shown: &str, called: &str) -> Call {
    let body = tool(called, &json!({})).chunks;
    tool(shown, &json!({})).chunks(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_decide_with_the_headers_held() {
    bodies_decide(&Setting::start("held", true, None).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_decide_with_the_headers_gone_ahead() {
    let setting = Setting::start("ahead", false, None).await;
    bodies_decide(&setting).await;
    // The flag makes the difference that this file speaks of, else its tests of it show nothing.
    let seen = setting.stand.backend.seen();
    assert!(seen.iter().any(|seen| !seen.complete && seen.body.is_empty()));
    assert!(seen.iter().all(|seen| seen.complete || seen.body.is_empty()));
}

async fn bodies_decide(setting: &Setting) {
    let nothing = json!({});
    setting.allowed("a call", || tool("pandas", &nothing)).await;
    setting
        .denied_by_headers("a call without a token", 401, "token_missing", || {
            mcp::call_tool(HOST, "pandas", &nothing)
        })
        .await;
    setting
        .denied_by_body("a forbidden tool", 403, Some("tool_forbidden"), || {
            tool("bash", &nothing)
        })
        .await;
    setting
        .denied_by_body("a tool in a disguise", 400, Some("mcp_header_mismatch"), || {
            disguised("pandas", "bash")
        })
        .await;

    // Trailers: Envoy never says that the body has ended.
    let ended = |call: Call| call.header("trailer", "x-end").trailer("x-end", "1");
    setting.allowed("trailers", || ended(tool("pandas", &nothing))).await;
    setting
        .denied_by_body("trailers after a forbidden tool", 403, Some("tool_forbidden"), || {
            ended(tool("bash", &nothing))
        })
        .await;

    // Pieces.
    for size in [1, 7, 64] {
        let pieces = |call: Call| in_pieces(call, size);
        setting.allowed("pieces", || pieces(tool("pandas", &nothing))).await;
        setting
            .allowed("pieces, trailers", || ended(pieces(tool("pandas", &nothing))))
            .await;
        setting
            .denied_by_body("a forbidden tool in pieces", 403, Some("tool_forbidden"), || {
                pieces(tool("bash", &nothing))
            })
            .await;
        setting
            .denied_by_body("the same with trailers", 403, Some("tool_forbidden"), || {
                ended(pieces(tool("bash", &nothing)))
            })
            .await;
    }
    // The first piece alone would be a good call.
    let followed = |by: &[u8]| {
        let call = tool("pandas", &nothing);
        let chunks = call.chunks.iter().cloned().chain([by.to_vec()]).collect();
        call.chunks(chunks)
    };
    setting.allowed("a call and white space", || followed(b" \n")).await;
    let second = tool("bash", &nothing).chunks.concat();
    setting
        .denied_by_body("a call and another", 400, Some("mcp_malformed"), || followed(&second))
        .await;
    setting
        .denied_by_body("a call cut off", 400, Some("mcp_malformed"), || {
            let mut call = tool("pandas", &nothing);
            call.chunks
                .iter_mut()
                .for_each(|chunk| assert_eq!(chunk.pop(), Some(b'}')));
            call
        })
        .await;

    // The limit of the service, with and without a length that is known beforehand.
    for pieces in [LIMIT * 2, 4096] {
        let whole = |bytes| in_pieces(sized(bytes), pieces);
        setting.allowed("a body at the limit", || whole(LIMIT)).await;
        setting.allowed("the same with trailers", || ended(whole(LIMIT))).await;
        setting
            .denied_by_body("a body over the limit", 413, Some("body_too_large"), || {
                whole(LIMIT + 1)
            })
            .await;
        setting
            .denied_by_body("the same with trailers", 413, Some("body_too_large"), || {
                ended(whole(LIMIT + 1))
            })
            .await;
    }

    duplicates(setting).await;
}

async fn duplicates(setting: &Setting) {
    let call = || tool("pandas", &json!({}));
    setting
        .allowed("a header of the application's, twice", || {
            call().header("x-a", "1").header("x-a", "2")
        })
        .await;
    for (name, value) in [
        ("authorization", format!("Bearer {}", stand::token("analyst-7"))),
        ("mcp-name", "bash".to_owned()),
        ("mcp-name", "pandas".to_owned()),
        ("mcp-method", "tools/call".to_owned()),
        ("mcp-protocol-version", mcp::MODERN.to_owned()),
    ] {
        setting
            .denied_by_headers(&format!("`{name}` twice"), 400, "header_duplicate", || {
                call().header(name, &value)
            })
            .await;
    }

    // Envoy itself joins these with a comma, which is then no media type.
    setting
        .denied_by_headers("`content-type` twice", 415, "media_type_refused", || {
            call().header("content-type", "application/json")
        })
        .await;

    // Lengths that disagree are HTTP's own matter: Envoy ends such a connection before any filter is asked.
    let body = String::from_utf8(call().chunks.concat()).unwrap();
    let token = stand::token("analyst-7");
    let request = |lengths: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nmcp-protocol-version: {}\r\nmcp-method: tools/call\r\n\
             mcp-name: pandas\r\nx-raw: 1\r\nconnection: close\r\n{lengths}\r\n{body}",
            mcp::MODERN,
        )
    };
    let length = format!("content-length: {}\r\n", body.len());
    let shorter = format!("{length}content-length: {}\r\n", body.len() - 1);
    let chunked = format!("{length}transfer-encoding: chunked\r\n");
    let raw = async |lengths: &str| {
        let quiet = std::time::Duration::from_secs(10);
        let answer = setting
            .stand
            .inbound
            .raw(request(lengths).as_bytes(), quiet)
            .await
            .unwrap();
        tests::client::raw_status(&answer).unwrap()
    };
    assert_eq!(raw(&length).await, 200);
    for lengths in [&shorter, &chunked] {
        assert_eq!(raw(lengths).await, 400, "{lengths}");
    }
    assert_eq!(setting.stand.backend.seen_with("x-raw", "1").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_limit_denies_too() {
    for held in [true, false] {
        let name = if held { "small-held" } else { "small-ahead" };
        let setting = Setting::start(name, held, Some(SMALL_BUFFER)).await;
        let buffer = SMALL_BUFFER as usize;
        for pieces in [LIMIT * 2, 1024] {
            let whole = |bytes| in_pieces(sized(bytes), pieces);
            setting.allowed("a body that Envoy holds", || whole(buffer / 2)).await;
            let [(_, http1), (_, http2)] = setting.clients();
            let (answer, seen) = setting
                .stand
                .refused(&http1, whole(buffer * 3), 413, None)
                .await
                .unwrap();
            assert!(seen.is_empty() || setting.headers_first, "{seen:?}, {}", answer.status);
            // On HTTP/2 the stream's window bounds what Envoy holds, and so the service's limit is what is met.
            setting.stand.allowed(&http2, whole(buffer * 3)).await.unwrap();
            let over = setting
                .stand
                .refused(&http2, whole(LIMIT + 1), 413, Some("body_too_large"));
            let (answer, seen) = over.await.unwrap();
            assert!(seen.is_empty() || setting.headers_first, "{seen:?}, {}", answer.status);
        }
        setting.allowed("the next", || tool("pandas", &json!({}))).await;
    }
}
