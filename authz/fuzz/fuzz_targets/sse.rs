//! Lists as server-sent events: whatever reads what goes on, it is told of nothing that the caller may not use.
#![no_main]

use authz::protocol::list::{self, List, Media};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const TOLD: &str = "pandas";

fuzz_target!(|body: &[u8]| {
    let filter = |body: &[u8], media| list::filter(body, media, List::Tools, "1", &|name, _| name == TOLD);
    if let Ok(out) = filter(body, Media::Json) {
        innocent(&String::from_utf8(out.clone()).expect("text goes on"));
        assert_eq!(filter(&out, Media::Json), Ok(out), "filtered again");
    }
    let Ok(out) = filter(body, Media::Events) else {
        return;
    };
    assert_eq!(filter(&out, Media::Events).as_ref(), Ok(&out), "filtered again");
    let text = String::from_utf8(out).expect("text goes on");
    // Three readers: by the specification, one that takes each line for itself, and one to which a field's name has no case.
    for event in text.replace("\r\n", "\n").replace('\r', "\n").split("\n\n") {
        let field = |line: &str, fold: bool| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let is_data = if fold {
                name.trim().eq_ignore_ascii_case("data")
            } else {
                name == "data"
            };
            is_data.then(|| value.strip_prefix(' ').unwrap_or(value).to_owned())
        };
        for fold in [false, true] {
            let lines: Vec<String> = event.lines().filter_map(|line| field(line, fold)).collect();
            innocent(&lines.join("\n"));
            innocent(&lines.concat());
            lines.iter().for_each(|line| innocent(line));
        }
    }
});

/// Panics if text is a message that tells of another tool.
fn innocent(text: &str) {
    let Ok(message) = serde_json::from_str::<Value>(text) else {
        return;
    };
    for tool in message["result"]["tools"].as_array().into_iter().flatten() {
        assert_eq!(tool["name"], TOLD, "{text}");
    }
}
