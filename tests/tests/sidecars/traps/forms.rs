//! Requests of a form that no client library writes: what HTTP/2 has in place of HTTP/1.1's ambiguities.

use tests::wire::{Told, Wire, Written};

use super::{HOST, Stand, as_it_is, tool_body};

/// A call that passes.
fn honest(stand: &Stand) -> Written {
    let headers = [
        ("host", format!("{HOST}:8080")),
        ("content-type", "application/json".to_owned()),
        ("authorization", format!("Bearer {}", stand.token())),
    ];
    Written {
        method: "POST".to_owned(),
        path: "/mcp".to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
        body: tool_body("pandas", 100).to_string().into_bytes(),
    }
}

type Bend = fn(&mut Written);

/// What is done to the honest call.
const BENT: [(&str, Bend); 15] = [
    ("a tunnel", |request| "CONNECT".clone_into(&mut request.method)),
    ("an extended tunnel", |request| {
        "CONNECT".clone_into(&mut request.method);
        add(request, ":protocol", "websocket");
    }),
    ("a protocol without a tunnel", |request| {
        add(request, ":protocol", "websocket")
    }),
    ("an upgrade", |request| add(request, "upgrade", "h2c")),
    ("a connection's header", |request| add(request, "connection", "upgrade")),
    ("a transfer coding", |request| {
        add(request, "transfer-encoding", "chunked")
    }),
    ("a second path", |request| add(request, ":path", "/healthz")),
    ("a second method", |request| add(request, ":method", "GET")),
    ("a second authority", |request| add(request, ":authority", HOST)),
    ("an unknown pseudo header", |request| add(request, ":tool", "bash")),
    ("a name in upper case", |request| {
        add(request, "Authorization", "Bearer x")
    }),
    ("a line feed in a value", |request| {
        add(request, "x-a", "1\r\nauthorization: Bearer x")
    }),
    ("a NUL in a value", |request| add(request, "x-a", "1\0")),
    ("a length that is too short", |request| {
        add(request, "content-length", "7")
    }),
    ("the absolute form", |request| {
        request.path = format!("https://{HOST}/mcp")
    }),
];

fn add(request: &mut Written, name: &str, value: &str) {
    request.headers.push((name.to_owned(), value.to_owned()));
}

#[tokio::test]
async fn no_other_form_of_a_request_passes() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    let client = stand.client.clone();
    for wire in [Wire::Http2, Wire::Http2Frames] {
        let (mut refused, mut ended) = (0, 0);
        for (number, (what, bend)) in BENT.iter().enumerate() {
            let mark = format!("{number}-{wire:?}");
            let mut request = honest(&stand);
            add(&mut request, "x-case", &format!("honest-{mark}"));
            let told = wire.exchange(&client, &request).await.unwrap();
            assert!(
                matches!(told, Told::Answer { status: 200, .. }),
                "beside {what}: {told:?}"
            );
            let mut request = honest(&stand);
            add(&mut request, "x-case", &format!("bent-{mark}"));
            bend(&mut request);
            match wire.exchange(&client, &request).await.unwrap() {
                Told::Answer { status, .. } if status >= 400 => refused += 1,
                Told::Ended => ended += 1,
                told @ Told::Answer { .. } => panic!("{what}: {told:?}"),
            }
            let seen = |case: &str| stand.application.seen_with("x-case", &format!("{case}-{mark}")).len();
            assert_eq!((seen("honest"), seen("bent")), (1, 0), "{what}");
        }
        println!("{wire:?}: {refused} refused, {ended} ended by Envoy");
    }
    stand.unharmed().await;
}
