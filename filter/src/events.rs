//! Streams of events (`text/event-stream`) that are ended before their time.

use authz::denial::Form;

use crate::host::{Host, Message};

/// Whether the answer is a stream of events whose headers are coming by.
pub(crate) fn is_stream(host: &impl Host) -> bool {
    let media = host.header(Message::Response, "content-type").unwrap_or_default();
    let essence = media.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// A denial as the last event of a stream. Clients of JSON-RPC read every message; to others it is an `error`.
pub(crate) fn of_denial(form: Form, body: &[u8]) -> Vec<u8> {
    let field: &[u8] = match form {
        Form::JsonRpc => b"data: ",
        Form::Problem => b"event: error\ndata: ",
    };
    // INVARIANT: a denial is rendered on one line.
    [field, body, b"\n\n"].concat()
}

/// The last bytes of a stream, which tell whether an event is whole.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    last: [u8; 4],
}

impl Tail {
    /// The next bytes.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        for byte in chunk.iter().skip(chunk.len().saturating_sub(self.last.len())) {
            self.last.rotate_left(1);
            if let Some(last) = self.last.last_mut() {
                *last = *byte;
            }
        }
    }

    /// Whether what follows is a new event.
    pub(crate) fn ends_an_event(&self) -> bool {
        let nothing_yet = self.last == [0; 4];
        nothing_yet || self.last.ends_with(b"\n\n") || self.last.ends_with(b"\r\r") || self.last == *b"\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_whole_at_an_empty_line() {
        for (parts, whole) in [
            (&[][..], true),
            (&["data: 1\n\n"], true),
            (&["data: 1\n", "\n"], true),
            (&["data: 1\r\n", "\r\n"], true),
            (&["data: 1\r", "\r"], true),
            (&["data: 1\n"], false),
            (&["data: 1\r\n"], false),
            (&["\n\n", "d"], false),
            (&[": ping\n\ndata: 1"], false),
        ] {
            let mut tail = Tail::default();
            parts.iter().for_each(|part| tail.push(part.as_bytes()));
            assert_eq!(tail.ends_an_event(), whole, "{parts:?}");
        }
    }
}
