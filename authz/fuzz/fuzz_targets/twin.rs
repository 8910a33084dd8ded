//! No permit for a request whose canonical re-encoding is denied, or would be permitted for something else.
//!
//! The first byte chooses a base of the vectors, the rest is its body, or its target where the target names the right.
#![no_main]

use std::sync::LazyLock;

use authz::request::{Facts, Right};
use authz_fuzz::{BASES, NOW, Scene};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// Above this a target whose bytes are all escaped may be too long to be judged (8 KiB).
const MAX_TARGET_BYTES: usize = 2 << 10;

static SCENES: LazyLock<[Scene; BASES.len()]> = LazyLock::new(|| BASES.map(Scene::of_base));

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let scene = &SCENES[usize::from(*choice) % BASES.len()];
    let request = scene.recipe.request(NOW);
    let by_body = serde_json::from_slice::<Value>(&request.body).is_ok();
    if !by_body {
        let target = std::str::from_utf8(rest).ok();
        let Some(target) = target.filter(|target| target.len() <= MAX_TARGET_BYTES) else {
            return;
        };
        let decide = |target: &str| scene.decide(target, &request.headers, &request.body);
        let Ok(facts) = decide(target) else {
            return;
        };
        for twin in targets(target) {
            let again = decide(&twin);
            assert!(
                again.as_ref().is_ok_and(|again| same(again, &facts)),
                "{target} is {:?}, its twin {twin} is {again:?}",
                facts.right
            );
        }
        return;
    }
    let decide = |body: &[u8]| scene.decide(&request.path, &request.headers, body);
    let Ok(facts) = decide(rest) else {
        return;
    };
    let body: Value = serde_json::from_slice(rest).expect("permitted, and no JSON to serde_json");
    for twin in [body.clone(), folded(&body)] {
        let text = twin.to_string();
        let again = decide(text.as_bytes());
        assert!(
            again.as_ref().is_ok_and(|again| same(again, &facts)),
            "{} is {:?}, its twin {text} is {again:?}",
            String::from_utf8_lossy(rest),
            facts.right
        );
    }
});

fn same(one: &Facts, other: &Facts) -> bool {
    let right = |facts: &Facts| match &facts.right {
        Right::Resources(needs) => format!("{:?}", needs),
        right => format!("{right:?}"),
    };
    right(one) == right(other) && one.captures == other.captures
}

/// The same target as readers might understand it: its path decoded, without dot and empty segments; its query's pairs decoded
/// and written anew, the last or the first of several kept.
fn targets(target: &str) -> Vec<String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split('/') {
        match &*decoded(segment) {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(encoded(segment)),
        }
    }
    let path = format!("/{}", segments.join("/"));
    let pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(&name.replace('+', " ")), decoded(&value.replace('+', " "))))
        .collect();
    let write = |pairs: &mut dyn Iterator<Item = &(String, String)>| {
        let mut kept: Vec<&(String, String)> = Vec::new();
        for pair in pairs {
            if !kept.iter().any(|(name, _)| *name == pair.0) {
                kept.push(pair);
            }
        }
        let query: Vec<String> = kept
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        if query.is_empty() {
            path.clone()
        } else {
            format!("{path}?{}", query.join("&"))
        }
    };
    vec![write(&mut pairs.iter()), write(&mut pairs.iter().rev())]
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escape = tail
            .get(..2)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        (out, rest) = match (byte, escape) {
            (b'%', Some(value)) => ([out, vec![value]].concat(), &tail[2..]),
            _ => ([out, vec![*byte]].concat(), tail),
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$'()*,:@".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// The message as a reader understands it to which keys have no case (Go's `encoding/json`), down to the parameters; what is in
/// `arguments` and `_meta` is the application's own.
fn folded(message: &Value) -> Value {
    let fold = |members: &Map<String, Value>| -> Map<String, Value> {
        let names = [
            "jsonrpc",
            "id",
            "method",
            "params",
            "name",
            "arguments",
            "uri",
            "ref",
            "message",
            "taskId",
            "contextId",
            "request",
        ];
        let lower = |key: &str| key.to_lowercase().replace('\u{17f}', "s").replace('\u{212a}', "k");
        let known = |key: &str| {
            names
                .iter()
                .find(|name| name.to_lowercase() == lower(key))
                .map_or(key.to_owned(), |name| (*name).to_owned())
        };
        members.iter().map(|(key, value)| (known(key), value.clone())).collect()
    };
    let Value::Object(members) = message else {
        return message.clone();
    };
    let mut members = fold(members);
    for inner in ["params", "message", "request"] {
        if let Some(Value::Object(inner)) = members.get_mut(inner) {
            *inner = fold(inner);
            if let Some(Value::Object(message)) = inner.get_mut("message") {
                *message = fold(message);
            }
        }
    }
    Value::Object(members)
}
