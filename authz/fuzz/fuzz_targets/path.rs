//! Request heads: a path that is taken is the only way to write it. The first line is the target, the others are headers.
#![no_main]

use authz::request::RequestHead;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let mut pairs: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"GET"),
        (b":path", target),
        (b":scheme", b"https"),
        (b":authority", b"warehouse.data.svc.cluster.local"),
    ];
    pairs.extend(lines.filter_map(|line| {
        let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
        Some((line.get(..colon)?, line.get(colon + 1..)?))
    }));
    let Ok(head) = RequestHead::parse(&pairs) else {
        return;
    };
    let path = head.path();
    assert!(path.starts_with('/'));
    for segment in path[1..].split('/') {
        assert!(!matches!(segment, "." | ".."), "a dot segment in {path}");
        assert!(!segment.contains(['\\', ';']), "{path}");
        let decoded = decoded(segment);
        // A reserved character is another one when it is escaped, so both stand for themselves.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        for escape in segment.split('%').skip(1) {
            let digits = escape.get(..2).expect("two digits");
            assert!(
                !digits.contains(|digit: char| digit.is_ascii_lowercase()),
                "another way to write {path}"
            );
            assert!(
                !plain(u8::from_str_radix(digits, 16).expect("a byte")),
                "another way to write {path}"
            );
        }
        assert!(
            !decoded
                .iter()
                .any(|byte| matches!(byte, b'/' | b'\\' | b';' | 0..=0x1f | 0x7f)),
            "{path}"
        );
    }
    assert!(!path.contains("//"), "an empty segment in {path}");
    assert_eq!(
        head.query()
            .map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
            .as_bytes(),
        target
    );
});

fn decoded(segment: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escape = tail
            .get(..2)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (byte, escape) {
            (b'%', Some(value)) => (rest = &tail[2..], out.push(value)).1,
            _ => (rest = tail, out.push(*byte)).1,
        }
    }
    out
}
