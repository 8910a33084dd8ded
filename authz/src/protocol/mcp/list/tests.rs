#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;

fn pandas(name: &str, _: crate::json::Value<'_>) -> bool {
    matches!(name, "pandas" | "memo://a" | "memo://{id}")
}

fn text(media: Media, list: List, body: &str) -> Result<String, ListError> {
    filter(body.as_bytes(), media, list, "7", &pandas).map(|bytes| String::from_utf8(bytes).unwrap())
}

fn json_of(body: &str) -> Result<String, ListError> {
    text(Media::Json, List::Tools, body)
}

fn events_of(body: &str) -> Result<String, ListError> {
    text(Media::Events, List::Tools, body)
}

const LISTED: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"bash"},{"name":"pandas", "title" : "\u0050"},{"name":"http"}]}}"#;
const TOLD: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"pandas", "title" : "\u0050"}]}}"#;

#[test]
fn what_the_caller_may_use_is_told_byte_for_byte_and_the_rest_is_not() {
    assert_eq!(json_of(LISTED).unwrap(), TOLD);
    assert_eq!(json_of(&format!(" {LISTED}\n")).unwrap(), TOLD);
    let none = json_of(r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"name":"bash"}]}}"#).unwrap();
    assert_eq!(none, r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}"#);
    let twice = json_of(&LISTED.replace("\"bash\"", "\"pandas\"")).unwrap();
    assert_eq!(twice, TOLD.replace("[", r#"[{"name":"pandas"},"#));
    let escaped = LISTED.replace("\"pandas\"", r#""p\u0061ndas""#);
    assert_eq!(
        json_of(&escaped).unwrap(),
        TOLD.replace("\"pandas\"", r#""p\u0061ndas""#)
    );
    for (list, member, key, told) in [
        (List::Prompts, "prompts", "name", "pandas"),
        (List::Resources, "resources", "uri", "memo://a"),
        (List::Templates, "resourceTemplates", "uriTemplate", "memo://{id}"),
    ] {
        let body = json!({"jsonrpc": "2.0", "id": 7, "result": {member: [{key: "x"}, {key: told}], "nextCursor": "n", "_meta": {}}});
        let answer: Value = serde_json::from_str(&text(Media::Json, list, &body.to_string()).unwrap()).unwrap();
        assert_eq!(answer["result"][member], json!([{key: told}]), "{member}");
        assert_eq!(answer["result"]["nextCursor"], "n");
        assert!(json_of(&body.to_string()).is_err(), "no answer to another list");
        assert_eq!(
            List::of(&format!("{}/list", member.replace("resourceT", "resources/t"))),
            Some(list)
        );
    }
    assert_eq!(
        (List::of("tools/list"), List::of("tools/call")),
        (Some(List::Tools), None)
    );
}

#[test]
fn a_list_of_the_newest_revision_is_the_callers_own() {
    let answer = |members: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"tools":[]{members}}}}}"#);
        let answer: Value = serde_json::from_str(&json_of(&body).unwrap()).unwrap();
        answer["result"]["cacheScope"].clone()
    };
    assert_eq!(
        answer(r#","resultType":"complete","ttlMs":60000,"cacheScope":"public""#),
        "private"
    );
    assert_eq!(answer(r#","cacheScope":"private""#), "private");
    assert_eq!(answer(r#","ttlMs":60000"#), "private");
    assert_eq!(answer(r#","resultType":"complete""#), "private");
    assert_eq!(answer(""), Value::Null);
}

#[test]
fn what_is_not_understood_is_withheld() {
    for body in [
        "",
        "[]",
        "null",
        &format!("[{LISTED}]"),
        &format!("\u{feff}{LISTED}"),
        &format!("{LISTED}{LISTED}"),
        &LISTED.replace("\"id\":7", "\"id\":8"),
        &LISTED.replace("\"id\":7", "\"id\":\"7\""),
        &LISTED.replace("\"id\":7", "\"id\":7.0"),
        &LISTED.replace("\"id\":7", "\"id\":null"),
        &LISTED.replace("\"id\":7,", ""),
        &LISTED.replace("2.0", "1.0"),
        &LISTED.replace("\"result\"", "\"Result\""),
        &LISTED.replace("\"tools\"", "\"Tools\""),
        &LISTED.replace("{\"tools\"", "{\"Tools\":[{\"name\":\"bash\"}],\"tools\""),
        &LISTED.replace("{\"tools\"", "{\"tools\":[],\"tools\""),
        &LISTED.replace("{\"name\":\"bash\"}", "\"bash\""),
        &LISTED.replace("{\"name\":\"bash\"}", "{}"),
        &LISTED.replace("{\"name\":\"bash\"}", "{\"name\":7}"),
        &LISTED.replace("{\"name\":\"bash\"}", "{\"name\":\"pandas\",\"Name\":\"bash\"}"),
        &LISTED.replace("{\"name\":\"bash\"}", "{\"name\":\"pandas\",\"name\":\"bash\"}"),
        &LISTED.replace("{\"name\":\"bash\"}", "{\"name\":\"\\ud800\"}"),
        r#"{"jsonrpc":"2.0","id":7,"result":{"tools":{"name":"bash"}}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":[]}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"resultType":"input_required"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"inputRequests":{}}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"nextCursor":["bash"]}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"ttlMs":"1"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[]},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":"bash"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}"#,
    ] {
        assert!(json_of(body).is_err(), "{body}");
    }
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":7,"result":{{"tools":[],"_meta":{{"a":{}}}}}}}"#,
        "[".repeat(10_000)
    );
    assert!(matches!(json_of(&deep), Err(ListError::Json(JsonError::TooDeep(_)))));
    assert!(filter(b"\xff", Media::Json, List::Tools, "7", &pandas).is_err());
    let padded = |bytes: usize| format!("{LISTED}{}", " ".repeat(bytes - LISTED.len()));
    assert!(json_of(&padded(MAX_LIST_BYTES)).is_ok());
    assert_eq!(json_of(&padded(MAX_LIST_BYTES + 1)), Err(ListError::TooLong));
}

#[test]
fn an_id_is_compared_as_what_it_says() {
    let with = |asked: &str, given: &str| {
        let body = LISTED.replace("\"id\":7", &format!("\"id\":{given}"));
        filter(body.as_bytes(), Media::Json, List::Tools, asked, &pandas).is_ok()
    };
    assert!(with("\"a\"", "\"a\""));
    assert!(with("\"a\"", r#""\u0061""#));
    assert!(!with("\"a\"", "\"A\""));
    assert!(!with("7", "70"));
}

#[test]
fn an_error_goes_on_as_it_came() {
    for error in [
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no lists here"}}"#,
        r#"{"jsonrpc": "2.0", "id": null, "error": {"code":-32700,"message":"x"}}"#,
        r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#,
    ] {
        assert_eq!(json_of(error).unwrap(), error);
    }
    assert!(json_of(r#"{"jsonrpc":"2.0","id":8,"error":{"code":1,"message":"x"}}"#).is_err());
}

#[test]
fn every_event_is_read_however_its_data_is_split() {
    let told = format!("event: message\nid: 1\ndata: {TOLD}\n\n");
    for body in [
        format!("event: message\nid: 1\ndata: {LISTED}\n\n"),
        format!("event: message\r\nid: 1\r\ndata:{LISTED}\r\n\r\n"),
        format!("event: message\rid: 1\rdata: {LISTED}\r\r"),
        format!("event: message\nid: 1\ndata: {LISTED}"),
        format!("event: message\nid: 1\nunknown: bash\ndata: {LISTED}\n\n"),
    ] {
        assert_eq!(events_of(&body).unwrap(), told, "{body}");
    }
    let (one, two) = LISTED.split_at(LISTED.find("\"result\"").unwrap());
    assert_eq!(
        events_of(&format!("data: {one}\ndata: {two}\n\n")).unwrap(),
        format!("data: {TOLD}\n\n")
    );
    let pretty = LISTED.replace(" \"title\"", "\n \"title\"");
    let pretty = pretty.replace('\n', "\ndata: ");
    let shown = events_of(&format!("data: {pretty}\n\n")).unwrap();
    assert_eq!(shown.matches("data: ").count(), 2);
    assert!(shown.contains("pandas") && !shown.contains("bash"));
}

#[test]
fn notifications_and_comments_go_on_between_and_questions_do_not() {
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
    let body = format!(": hello\n\nid: 0\ndata:\n\ndata: {notification}\n\ndata: {LISTED}\n\ndata: {LISTED}\n\n");
    let told = format!(": hello\n\nid: 0\ndata: \n\ndata: {notification}\n\ndata: {TOLD}\n\ndata: {TOLD}\n\n");
    assert_eq!(events_of(&body).unwrap(), told);
    for body in [
        "data: bash\n\n".to_owned(),
        format!("data: {LISTED}\ndata: {LISTED}\n\n"),
        format!("\u{feff}data: {LISTED}\n\n"),
        format!("event: ping\ndata: x\n\ndata: {LISTED}\n\n"),
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n\n".to_owned(),
        format!("data: [{LISTED}]\n\n"),
    ] {
        assert!(events_of(&body).is_err(), "{body}");
    }
    assert!(filter(b"data: \xff\n\n", Media::Events, List::Tools, "7", &pandas).is_err());
    assert_eq!(events_of("").unwrap(), "");
}

#[test]
fn a_media_type_is_known_in_every_spelling() {
    for (content_type, media) in [
        ("application/json", Some(Media::Json)),
        ("Application/JSON ; charset=utf-8", Some(Media::Json)),
        ("text/event-stream", Some(Media::Events)),
        ("TEXT/Event-Stream;x=y", Some(Media::Events)),
        ("application/jsonx", None),
        ("application/problem+json", None),
        ("text/plain", None),
        ("", None),
    ] {
        assert_eq!(Media::of(content_type.as_bytes()), media, "{content_type}");
    }
    assert_eq!(Media::of(Media::Json.content_type().as_bytes()), Some(Media::Json));
    assert_eq!(Media::of(Media::Events.content_type().as_bytes()), Some(Media::Events));
}

#[test]
fn definitions_are_those_of_the_list() {
    let listed = definitions(LISTED.as_bytes()).unwrap();
    let alone = json!({"tools": [{"title": "P", "name": "pandas"}]}).to_string();
    assert_eq!(listed.len(), 3);
    for (name, digest) in definitions(alone.as_bytes()).unwrap() {
        assert_eq!(listed[&name], digest, "however it is written");
    }
    for bad in [
        "{}",
        "[]",
        r#"{"tools":{}}"#,
        r#"{"tools":[{}]}"#,
        r#"{"tools":[{"name":"a b"}]}"#,
    ] {
        assert!(definitions(bad.as_bytes()).is_err(), "{bad}");
    }
    let twice = LISTED.replace("\"bash\"", "\"pandas\"");
    assert!(definitions(twice.as_bytes()).is_err());
}

#[test]
fn an_error_of_a_tool_is_no_error_of_the_protocol() {
    let of = |message: &str| {
        let events = format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}}\n\ndata: {message}\n\n"
        );
        let outcome = Outcome::of(message.as_bytes(), Media::Json, "7");
        assert_eq!(Outcome::of(events.as_bytes(), Media::Events, "7"), outcome);
        outcome.map(Outcome::as_str)
    };
    for (message, outcome) in [
        (
            r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":false}}"#,
            Some("result"),
        ),
        (r#"{"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#, Some("result")),
        (
            r#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isError":true}}"#,
            Some("tool_error"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#,
            Some("rpc_error"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#,
            Some("rpc_error"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required"}}"#,
            Some("input_required"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"text":"\"isError\":true"}]}}"#,
            Some("result"),
        ),
        (r#"{"jsonrpc":"2.0","id":8,"result":{"isError":true}}"#, None),
        (
            r#"{"jsonrpc":"2.0","id":8,"error":{"code":-32602,"message":"no"}}"#,
            None,
        ),
        (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, None),
        (r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#, None),
        (r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, None),
        ("{", None),
    ] {
        assert_eq!(of(message), outcome, "{message}");
    }
}
