//! The ways in which a recorded request is bent, and what each is then denied for.

use serde_json::Value;

use super::super::recipe::RawRequest;
use super::{Recorded, Way};

/// A body with a member more, before its last brace.
fn with_member(body: &str, key: &str) -> String {
    format!("{},\"{key}\":null}}", body.strip_suffix('}').unwrap())
}

fn media(request: &Recorded, raw: &mut RawRequest, content_type: &str) -> Option<&'static str> {
    request.json()?;
    raw.set("content-type", content_type);
    Some("media_type_refused")
}

fn encoded(request: &Recorded, raw: &mut RawRequest, encoding: &str) -> Option<&'static str> {
    request.json()?;
    raw.set("content-encoding", encoding);
    Some("body_encoded")
}

fn duplicated(raw: &mut RawRequest, name: &str) -> Option<&'static str> {
    raw.repeat(name)?;
    Some("header_duplicate")
}

fn targeted(raw: &mut RawRequest, path: String) -> Option<&'static str> {
    raw.path = path;
    Some("path_not_canonical")
}

fn overridden(raw: &mut RawRequest, name: &str) -> Option<&'static str> {
    raw.set(name, "DELETE");
    Some("method_override_refused")
}

fn queried(raw: &mut RawRequest, query: &str) -> Option<&'static str> {
    raw.path += query;
    Some("token_in_query")
}

fn by_method(request: &Recorded, raw: &mut RawRequest, method: &str) -> Option<&'static str> {
    raw.method = method.to_owned();
    let endpoint = request.is_mcp() || request.path == "/";
    Some(if endpoint {
        "method_not_allowed"
    } else {
        "route_unknown"
    })
}

/// Says something else in a header that repeats what the body says.
fn disagreeing(request: &Recorded, raw: &mut RawRequest, name: &str, value: &str) -> Option<&'static str> {
    request.header(name)?;
    raw.set(name, value);
    Some("mcp_header_mismatch")
}

fn unsaid(request: &Recorded, raw: &mut RawRequest, name: &str) -> Option<&'static str> {
    request.is_modern().then_some(())?;
    request.header(name)?;
    raw.remove(name);
    Some("mcp_header_mismatch")
}

const DUPLICATE_KEYS: &str = "duplicate JSON keys";
const KEYS: &str = "keys in another case or spelling";
const STRICT: &str = "a BOM, trailing bytes, JSON that is not strict";
const NAMES: &str = "homoglyphs, escapes and case in names";
const BATCHES: &str = "batches";
const MEDIA: &str = "media types that might be skipped";
const ENCODED: &str = "encoded bodies";
const LENGTH: &str = "bodies over the limit; split over chunks and frames; trailers";
const DISAGREE: &str = "header and body disagree";
const DUPLICATE_HEADERS: &str = "duplicate headers that decide";
const PATHS: &str = "other spellings of a path";
const OVERRIDES: &str = "method overrides, other paths in headers";
const TASKS: &str = "tasks and contexts of others";
const QUERY: &str = "a token in the query";
const TOKENS: &str = "the token's header, form, signature and claims";

macro_rules! ways {
    ($($attack:ident, $why:literal, $bend:expr;)*) => {
        [$(Way { attack: $attack, why: $why, bend: $bend }),*]
    };
}

/// Every way.
pub const WAYS: [Way; 79] = ways![
    DUPLICATE_KEYS, "the first key again, at the end", |r, raw| {
        raw.write(&with_member(&r.body, &r.key()?));
        Some(r.malformed())
    };
    DUPLICATE_KEYS, "the first key again, its first letter escaped", |r, raw| {
        let key = r.key()?;
        let escaped = format!("\\u{:04x}{}", key.as_bytes()[0], &key[1..]);
        raw.write(&with_member(&r.body, &escaped));
        Some(r.malformed())
    };
    DUPLICATE_KEYS, "the first key twice at the beginning", |r, raw| {
        raw.write(&format!("{{\"{}\":null,{}", r.key()?, &r.body[1..]));
        Some(r.malformed())
    };
    DUPLICATE_KEYS, "a key twice in the innermost object", |r, raw| {
        let at = r.body.rfind("{\"")?;
        let key = r.body[at + 2..].split('"').next()?;
        raw.write(&format!("{}{{\"{key}\":null,{}", &r.body[..at], &r.body[at + 1..]));
        Some(r.malformed())
    };
    KEYS, "the first key in upper case beside it", |r, raw| {
        raw.write(&with_member(&r.body, &r.key()?.to_uppercase()));
        Some(r.malformed())
    };
    KEYS, "the first key with a long s in place of an s", |r, raw| {
        let key = r.key().filter(|key| key.contains('s'))?;
        raw.write(&with_member(&r.body, &key.replacen('s', "\u{17f}", 1)));
        Some(r.malformed())
    };
    KEYS, "`Params` beside `params`", |r, raw| {
        r.rpc_method()?;
        raw.write(&format!("{},\"Params\":{{\"name\":\"bash\"}}}}", r.body.strip_suffix('}')?));
        Some(r.malformed())
    };
    KEYS, "the first key with a blank behind it", |r, raw| {
        raw.write(&with_member(&r.body, &format!("{} ", r.key()?)));
        Some(r.malformed())
    };
    STRICT, "a byte-order mark", |r, raw| {
        r.json()?;
        raw.write(&format!("\u{feff}{}", r.body));
        Some(r.malformed())
    };
    STRICT, "two bodies in a row", |r, raw| {
        r.json()?;
        raw.write(&format!("{0}{0}", r.body));
        Some(r.malformed())
    };
    STRICT, "a letter behind it", |r, raw| {
        r.json()?;
        raw.write(&format!("{}x", r.body));
        Some(r.malformed())
    };
    STRICT, "a zero behind it", |r, raw| {
        r.json()?;
        raw.write(&format!("{}\0", r.body));
        Some(r.malformed())
    };
    STRICT, "a comment before it", |r, raw| {
        r.json()?;
        raw.write(&format!("/* */{}", r.body));
        Some(r.malformed())
    };
    STRICT, "a comment of one line behind it", |r, raw| {
        r.json()?;
        raw.write(&format!("{}//", r.body));
        Some(r.malformed())
    };
    STRICT, "apostrophes for quotation marks", |r, raw| {
        r.json()?;
        raw.write(&r.body.replace('"', "'"));
        Some(r.malformed())
    };
    STRICT, "a comma behind the last member", |r, raw| {
        raw.write(&format!("{},}}", r.body.strip_suffix('}')?));
        Some(r.malformed())
    };
    STRICT, "a byte that is no UTF-8", |r, raw| {
        r.json()?;
        raw.in_last_string(&[0xff]);
        Some(r.malformed())
    };
    STRICT, "an overlong form of a letter", |r, raw| {
        r.json()?;
        raw.in_last_string(&[0xc1, 0x81]);
        Some(r.malformed())
    };
    STRICT, "half of a surrogate pair", |r, raw| {
        r.json()?;
        raw.in_last_string(b"\\ud800");
        Some(r.malformed())
    };
    STRICT, "a line feed in a string", |r, raw| {
        r.json()?;
        raw.in_last_string(b"\n");
        Some(r.malformed())
    };
    STRICT, "cut off before its end", |r, raw| {
        raw.write(r.body.strip_suffix('}')?);
        Some(r.malformed())
    };
    STRICT, "UTF-16", |r, raw| {
        r.json()?;
        raw.body = r.body.encode_utf16().flat_map(u16::to_le_bytes).collect();
        Some(r.malformed())
    };
    STRICT, "a body of blanks", |r, raw| {
        r.json()?;
        raw.write("   ");
        Some(r.malformed())
    };
    STRICT, "a string in place of the object", |r, raw| {
        raw.write(&Value::from(serde_json::to_string(&r.json()?).unwrap()).to_string());
        Some(r.malformed())
    };
    NAMES, "the method with its first letter in the other case", |r, raw| {
        let method = r.rpc_method()?;
        let first = method.chars().next()?;
        let other = if first.is_lowercase() { first.to_ascii_uppercase() } else { first.to_ascii_lowercase() };
        raw.write(&r.body.replacen(&format!("\"{method}\""), &format!("\"{other}{}\"", &method[1..]), 1));
        Some(r.method_refused())
    };
    NAMES, "a Cyrillic letter in the method", |r, raw| {
        let method = r.rpc_method()?;
        let other = method.replacen('e', "\u{435}", 1).replacen('a', "\u{430}", 1);
        raw.write(&r.body.replacen(&format!("\"{method}\""), &format!("\"{other}\""), 1));
        Some(r.method_refused())
    };
    NAMES, "a blank behind the method", |r, raw| {
        let method = r.rpc_method()?;
        raw.write(&r.body.replacen(&format!("\"{method}\""), &format!("\"{method} \""), 1));
        Some(r.method_refused())
    };
    NAMES, "a Cyrillic letter in the name", |r, raw| {
        let name = r.json()?.pointer("/params/name")?.as_str()?.to_owned();
        raw.write(&r.body.replacen(&format!("\"{name}\""), &format!("\"{}\"", name.replacen('a', "\u{430}", 1)), 1));
        Some(r.malformed())
    };
    NAMES, "a zero behind the name", |r, raw| {
        let name = r.json()?.pointer("/params/name")?.as_str()?.to_owned();
        raw.write(&r.body.replacen(&format!("\"{name}\""), &format!("\"{name}\\u0000\""), 1));
        Some(r.malformed())
    };
    BATCHES, "a batch of one", |r, raw| {
        r.json()?;
        raw.write(&format!("[{}]", r.body));
        Some(batch(r))
    };
    BATCHES, "a batch of two", |r, raw| {
        r.json()?;
        raw.write(&format!("[{0},{0}]", r.body));
        Some(batch(r))
    };
    BATCHES, "an empty batch", |r, raw| {
        r.json()?;
        raw.write("[]");
        Some(batch(r))
    };
    MEDIA, "plain text", |r, raw| media(r, raw, "text/plain");
    MEDIA, "JSON with a parameter that nobody knows", |r, raw| media(r, raw, "application/json; x");
    MEDIA, "another `+json`", |r, raw| media(r, raw, "application/problem+json");
    MEDIA, "two types in one", |r, raw| media(r, raw, "application/json, text/plain");
    MEDIA, "a form", |r, raw| media(r, raw, "application/x-www-form-urlencoded");
    MEDIA, "parts", |r, raw| media(r, raw, "multipart/form-data; boundary=x");
    MEDIA, "UTF-16, as a parameter", |r, raw| media(r, raw, "application/json; charset=utf-16");
    MEDIA, "an empty type", |r, raw| media(r, raw, "");
    MEDIA, "no type", |r, raw| {
        r.json()?;
        raw.remove("content-type");
        Some("media_type_refused")
    };
    ENCODED, "gzip", |r, raw| encoded(r, raw, "gzip");
    ENCODED, "br", |r, raw| encoded(r, raw, "br");
    ENCODED, "zstd", |r, raw| encoded(r, raw, "zstd");
    ENCODED, "deflate, in upper case", |r, raw| encoded(r, raw, "DEFLATE");
    ENCODED, "identity and gzip", |r, raw| encoded(r, raw, "identity, gzip");
    LENGTH, "blanks up to one byte over the limit", |r, raw| {
        r.json()?;
        raw.body.resize(8193, b' ');
        Some("body_too_large")
    };
    DISAGREE, "`Mcp-Method` says something else", |r, raw| disagreeing(r, raw, "mcp-method", "ping");
    DISAGREE, "`Mcp-Method` in another case", |r, raw| {
        disagreeing(r, raw, "mcp-method", &r.header("mcp-method")?.to_uppercase())
    };
    DISAGREE, "no `Mcp-Method`", |r, raw| unsaid(r, raw, "mcp-method");
    DISAGREE, "`Mcp-Name` names something else", |r, raw| disagreeing(r, raw, "mcp-name", "matplotlib");
    DISAGREE, "`Mcp-Name` names something else, in base64", |r, raw| {
        disagreeing(r, raw, "mcp-name", "=?base64?bWF0cGxvdGxpYg==?=")
    };
    DISAGREE, "no `Mcp-Name`", |r, raw| unsaid(r, raw, "mcp-name");
    DISAGREE, "`Mcp-Name` where nothing is named, or not this", |r, raw| {
        (r.is_mcp() && r.header("mcp-name").is_none()).then(|| raw.set("mcp-name", "bash"))?;
        Some("mcp_header_mismatch")
    };
    DISAGREE, "another version in the header", |r, raw| {
        r.is_modern().then_some(())?;
        disagreeing(r, raw, "mcp-protocol-version", "2025-11-25")
    };
    DISAGREE, "a version that nobody knows", |r, raw| {
        if r.is_mcp() {
            raw.set("mcp-protocol-version", "2027-01-01");
            return Some("mcp_header_mismatch");
        }
        r.header("a2a-version")?;
        raw.set("a2a-version", "9.9");
        Some("a2a_version_refused")
    };
    DISAGREE, "another version in the query", |r, raw| {
        (!r.is_mcp()).then_some(())?;
        let other = if r.header("a2a-version")?.starts_with("1.") { "0.3" } else { "1.0" };
        raw.path += &format!("?A2A-Version={other}");
        Some("a2a_version_refused")
    };
    DUPLICATE_HEADERS, "the capability twice", |_, raw| duplicated(raw, "authorization");
    DUPLICATE_HEADERS, "`MCP-Protocol-Version` twice", |_, raw| duplicated(raw, "mcp-protocol-version");
    DUPLICATE_HEADERS, "`Mcp-Method` twice", |_, raw| duplicated(raw, "mcp-method");
    DUPLICATE_HEADERS, "`Mcp-Name` twice", |_, raw| duplicated(raw, "mcp-name");
    DUPLICATE_HEADERS, "`A2A-Version` twice", |_, raw| duplicated(raw, "a2a-version");
    PATHS, "an empty segment before it", |r, raw| targeted(raw, format!("/{}", r.path));
    PATHS, "a dot segment before it", |r, raw| targeted(raw, format!("/.{}", r.path));
    PATHS, "a segment and back", |r, raw| targeted(raw, format!("/x/..{}", r.path));
    PATHS, "a segment and back, escaped", |r, raw| targeted(raw, format!("/x/%2e%2e{}", r.path));
    PATHS, "an escaped slash", |r, raw| targeted(raw, format!("/%2F{}", &r.path[1..]));
    PATHS, "an escaped backslash", |r, raw| targeted(raw, format!("/%5C{}", &r.path[1..]));
    PATHS, "a parameter of the path", |r, raw| targeted(raw, format!("{};x", r.path));
    PATHS, "an escaped zero at its end", |r, raw| targeted(raw, format!("{}%00", r.path));
    PATHS, "a needless escape", |r, raw| {
        let first = *r.path.as_bytes().get(1)?;
        targeted(raw, format!("/%{first:02X}{}", &r.path[2..]))
    };
    OVERRIDES, "`X-HTTP-Method-Override`", |_, raw| overridden(raw, "x-http-method-override");
    OVERRIDES, "`X-HTTP-Method`", |_, raw| overridden(raw, "x-http-method");
    OVERRIDES, "`X-Method-Override`", |_, raw| overridden(raw, "x-method-override");
    OVERRIDES, "by PUT", |r, raw| by_method(r, raw, "PUT");
    TASKS, "a method of tasks", |r, raw| {
        let method = r.rpc_method()?;
        raw.write(&r.body.replacen(&format!("\"{method}\""), "\"tasks/get\"", 1));
        // A header that repeats the method disagrees first.
        Some(match r.method_refused() {
            "mcp_method_refused" | "a2a_method_refused" => "task_refused",
            disagrees => disagrees,
        })
    };
    QUERY, "the capability in the query", |_, raw| queried(raw, "?access_token=x");
    TOKENS, "no capability", |r, raw| {
        // Where headers name the right, a denial says what it would have needed: `a2a-rest.json` has that.
            r.json()?;
            raw.remove("authorization");
        Some("token_missing")
    };
    TOKENS, "two capabilities in one header", |_, raw| {
        raw.set("authorization", "Bearer {token}, Bearer {token}");
        Some("header_duplicate")
    };
];

fn batch(request: &Recorded) -> &'static str {
    match (request.is_mcp(), request.rpc_method()) {
        (true, _) => "mcp_batch",
        (false, Some(_)) => "a2a_batch",
        (false, None) => "a2a_malformed",
    }
}
