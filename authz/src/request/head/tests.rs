#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const PLAIN: [(&str, &str); 4] = [
    (":method", "GET"),
    (":path", "/v1/tables/a"),
    (":authority", "warehouse:8080"),
    (":scheme", "https"),
];

fn code(extra: &[(&str, &str)]) -> Option<Code> {
    let pairs = [PLAIN.as_slice(), extra].concat();
    RequestHead::parse(&pairs).err().map(|denial| denial.code())
}

fn code_replacing(name: &str, value: &str) -> Option<Code> {
    let pairs = PLAIN.map(|(other, old)| (other, if other == name { value } else { old }));
    RequestHead::parse(&pairs).err().map(|denial| denial.code())
}

#[test]
fn reads_what_was_sent() {
    let pairs = [
        PLAIN.as_slice(),
        &[("host", "warehouse:8080"), ("x-a", "1"), ("x-a", "2")],
    ]
    .concat();
    let head = RequestHead::parse(&pairs).unwrap();
    assert_eq!(
        (head.method(), head.path(), head.query()),
        ("GET", "/v1/tables/a", None)
    );
    assert_eq!(
        (head.authority(), head.header("x-a"), head.header("x-b")),
        ("warehouse:8080", Some(&b"1"[..]), None)
    );
    let pairs = PLAIN.map(|(name, value)| (name, if name == ":path" { "/v1/tables/a?limit=3" } else { value }));
    let head = RequestHead::parse(&pairs).unwrap();
    assert_eq!((head.path(), head.query()), ("/v1/tables/a", Some("limit=3")));
}

#[test]
fn each_pseudo_header_is_there_once() {
    for (index, (name, value)) in PLAIN.into_iter().enumerate() {
        assert_eq!(code(&[(name, value)]), Some(Code::HeaderDuplicate), "{name}");
        let mut pairs = PLAIN.to_vec();
        pairs.remove(index);
        let missing = RequestHead::parse(&pairs).err().map(|denial| denial.code());
        assert_eq!(missing, (name != ":scheme").then_some(Code::RequestMalformed), "{name}");
    }
    assert_eq!(code(&[(":status", "200")]), Some(Code::RequestMalformed));
    assert_eq!(code(&[(":protocol", "websocket")]), Some(Code::UpgradeRefused));
    let invalid = [
        (&b":method"[..], &b"G\xffT"[..]),
        (b":path", b"/"),
        (b":authority", b"a"),
    ];
    assert_eq!(RequestHead::parse(&invalid).unwrap_err().code(), Code::RequestMalformed);
}

#[test]
fn what_must_occur_once_may_not_occur_twice() {
    for name in [
        "authorization",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "mcp-param-table",
        "ostiary-call",
        "ostiary-claims",
    ] {
        assert_eq!(code(&[(name, "1")]), None, "{name}");
        assert_eq!(
            code(&[(name, "1"), ("x-between", "2"), (name, "1")]),
            Some(Code::HeaderDuplicate),
            "{name}"
        );
    }
    assert_eq!(
        code(&[("content-length", "1"), ("content-length", "1")]),
        Some(Code::HeaderDuplicate)
    );
    assert_eq!(code(&[("accept", "a"), ("accept", "b")]), None);
    assert_eq!(code(&[("host", "warehouse:8080")]), None);
    assert_eq!(code(&[("host", "reports:8080")]), Some(Code::HeaderDuplicate));
}

#[test]
fn one_body_has_one_length() {
    for fine in ["10", "0000000000000000010", "9999999999999999999"] {
        assert_eq!(code(&[("content-length", fine)]), None, "{fine}");
    }
    assert_eq!(code(&[("transfer-encoding", "chunked")]), None);
    for bad in [
        &[("content-length", "10"), ("transfer-encoding", "chunked")][..],
        &[("content-length", "+1")],
        &[("content-length", "1,1")],
        &[("content-length", "")],
        &[("content-length", "00000000000000000010")],
        &[("content-length", "99999999999999999999")],
    ] {
        assert_eq!(code(bad), Some(Code::RequestMalformed), "{bad:?}");
    }
}

#[test]
fn tunnels_and_overrides_are_refused() {
    for upgrade in [
        ("upgrade", "h2c"),
        ("connection", "keep-alive, Upgrade"),
        ("http2-settings", "AAMA"),
    ] {
        assert_eq!(code(&[upgrade]), Some(Code::UpgradeRefused), "{upgrade:?}");
    }
    assert_eq!(code(&[("connection", "keep-alive")]), None);
    assert_eq!(code_replacing(":method", "CONNECT"), Some(Code::UpgradeRefused));
    assert_eq!(code_replacing(":method", "GET "), Some(Code::RequestMalformed));
    assert_eq!(code_replacing(":method", ""), Some(Code::RequestMalformed));
    for name in [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x_http_method_override",
    ] {
        assert_eq!(code(&[(name, "DELETE")]), Some(Code::MethodOverrideRefused), "{name}");
    }
    for name in ["x-http-methods", "x.http-method", "x-http-metho_"] {
        assert_eq!(code(&[(name, "DELETE")]), None, "{name}");
    }
    for name in ["x-original-url", "x-rewrite-url", "x_original_url"] {
        assert_eq!(code(&[(name, "/v1/tables/b")]), Some(Code::PathNotCanonical), "{name}");
    }
    for name in ["x-original-uri", "x-original-urls", "x-original-ur_"] {
        assert_eq!(code(&[(name, "/v1/tables/b")]), None, "{name}");
    }
}

#[test]
fn names_are_lower_case_tokens_and_underscores_hide_nothing() {
    for name in [
        "Authorization",
        "a b",
        "",
        "a:b",
        "ostiary_claims",
        "mcp_method",
        "mcp-method_x",
    ] {
        assert_eq!(code(&[(name, "1")]), Some(Code::RequestMalformed), "{name}");
    }
    for name in ["my_header", "ostiaryx", "x-ostiary_claims"] {
        assert_eq!(code(&[(name, "1")]), None, "{name}");
    }
    for authority in ["", "a b", "caf\u{e9}"] {
        assert_eq!(
            code_replacing(":authority", authority),
            Some(Code::RequestMalformed),
            "{authority}"
        );
    }
    let of_length = |bytes| code_replacing(":authority", &"a".repeat(bytes));
    assert_eq!(of_length(MAX_AUTHORITY_BYTES), None);
    assert_eq!(of_length(MAX_AUTHORITY_BYTES + 1), Some(Code::RequestMalformed));
}

#[test]
fn the_target_is_checked() {
    assert_eq!(code_replacing(":path", "/v1/../a"), Some(Code::PathNotCanonical));
    assert_eq!(code_replacing(":path", "/v1/a?x=1"), None);
    assert_eq!(
        code_replacing(":path", "/v1/a?access_token=1"),
        Some(Code::TokenInQuery)
    );
    assert_eq!(
        code_replacing(":path", "/v1/a?_method=DELETE"),
        Some(Code::MethodOverrideRefused)
    );
}

#[test]
fn a_bearer_token_has_one_form() {
    for fine in ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER a.b-c_d"] {
        assert_eq!(bearer_token(fine.as_bytes()).unwrap(), "a.b-c_d");
    }
    for (other, code) in [
        ("Basic YTpi", Code::TokenMissing),
        ("", Code::TokenMissing),
        ("Bearera.b", Code::TokenMissing),
        ("a.b.c", Code::TokenMissing),
        ("Bearer", Code::TokenMalformed),
        ("Bearer ", Code::TokenMalformed),
        ("Bearer  a", Code::TokenMalformed),
        ("Bearer a b", Code::TokenMalformed),
        ("Bearer a ", Code::TokenMalformed),
        ("Bearer \"a\"", Code::TokenMalformed),
        ("Bearer a\u{e9}", Code::TokenMalformed),
    ] {
        assert_eq!(bearer_token(other.as_bytes()).unwrap_err().code(), code, "{other:?}");
    }
}
