//! RFC 8785 for the values that records hold: strings, integers, arrays of strings and objects.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::digest::Digest;
use crate::json::canonical::string;

/// Above this an integer is no longer exact as a JSON number (RFC 7493, section 2.2).
pub(super) const MAX_INTEGER: u64 = (1 << 53) - 1;

/// An object that is being written. Absent values are left out.
///
/// INVARIANT: keys are written in ascending order; tests of every record check it, and a reader refuses other orders.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    pub(super) fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    /// INVARIANT: keys hold nothing that JSON escapes; a name that came from outside is an [`Self::entry`].
    fn key(&mut self, key: &'static str) {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn separate(&mut self) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
    }

    pub(super) fn entry(&mut self, name: &str, value: &str) {
        self.separate();
        string(name, self.out);
        self.out.push(b':');
        string(value, self.out);
    }

    pub(super) fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(key);
            string(value, self.out);
        }
    }

    pub(super) fn integer(&mut self, key: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.key(key);
            integer(value.min(MAX_INTEGER), self.out);
        }
    }

    pub(super) fn digest(&mut self, key: &'static str, value: Option<&Digest>) {
        if let Some(value) = value {
            self.key(key);
            self.out.push(b'"');
            value.append_base64url(self.out);
            self.out.push(b'"');
        }
    }

    pub(super) fn bytes16(&mut self, key: &'static str, value: Option<&[u8; 16]>) {
        if let Some(value) = value {
            self.key(key);
            self.out.push(b'"');
            let mut buffer = [0; 22];
            // INVARIANT: 16 bytes encode to exactly 22 bytes.
            if URL_SAFE_NO_PAD.encode_slice(value, &mut buffer).is_ok() {
                self.out.extend_from_slice(&buffer);
            }
            self.out.push(b'"');
        }
    }

    pub(super) fn texts<'t>(&mut self, key: &'static str, values: impl IntoIterator<Item = &'t str>) {
        self.key(key);
        self.out.push(b'[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            string(value, self.out);
        }
        self.out.push(b']');
    }

    /// A value that is in its canonical encoding already.
    pub(super) fn encoded(&mut self, key: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.key(key);
            self.out.extend_from_slice(value);
        }
    }

    pub(super) fn object(&mut self, key: &'static str) -> Object<'_> {
        self.key(key);
        Object::open(self.out)
    }
}

fn integer(value: u64, out: &mut Vec<u8>) {
    let mut buffer = [0; 20];
    let mut rest = value;
    let mut length = 0;
    for slot in buffer.iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend(buffer.iter().skip(20 - length));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn integers_are_plain_and_bounded() {
        for value in [0, 7, 10, 1_234_567_890, MAX_INTEGER] {
            let mut out = Vec::new();
            integer(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.integer("a", Some(u64::MAX));
        object.integer("b", None);
        object.texts("c", ["x", "y"]);
        object.close();
        assert_eq!(out, b"{\"a\":9007199254740991,\"c\":[\"x\",\"y\"]}");
    }
}
