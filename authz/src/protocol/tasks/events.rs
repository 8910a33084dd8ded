//! Server-sent events (WHATWG HTML, section 9.2), each held until it is whole.

use super::MAX_ANSWER_BYTES;
use crate::protocol::mcp::list::rewrite_events;

/// A stream, as far as it has come and not gone on.
#[derive(Debug)]
pub(super) struct Events {
    held: Vec<u8>,
    /// How much of `held` has been looked at.
    scanned: usize,
    /// Whether the line that is coming has nothing in it yet.
    blank: bool,
    /// Whether the last byte was a CR, which an LF may belong to.
    after_cr: bool,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            scanned: 0,
            blank: true,
            after_cr: false,
        }
    }
}

impl Events {
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the next part, and gives the events that are whole by now, with what `data` makes of their data; where that is
    /// nothing, as they came.
    pub(super) fn push(&mut self, part: &[u8], end: bool, data: &dyn Fn(&[u8]) -> Option<String>) -> Vec<u8> {
        self.held.extend_from_slice(part);
        let mut out = Vec::new();
        while let Some(event) = self.next_event() {
            out.extend(rewritten(event, data));
        }
        if end || self.held.len() > MAX_ANSWER_BYTES {
            // Some clients take what follows the last blank line for an event.
            self.scanned = 0;
            out.extend(rewritten(std::mem::take(&mut self.held), data));
        }
        out
    }

    /// Takes the first event that is whole, with the blank line at its end.
    fn next_event(&mut self) -> Option<Vec<u8>> {
        let mut ends = None;
        while let Some(&byte) = self.held.get(self.scanned) {
            let of_crlf = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match ends {
                Some(_) if of_crlf => ends = Some(self.scanned + 1),
                Some(_) => break,
                // An event that ended with its CR has gone on.
                None if of_crlf && self.scanned == 0 => ends = Some(1),
                None if of_crlf => {}
                None if matches!(byte, b'\r' | b'\n') => {
                    if std::mem::replace(&mut self.blank, true) {
                        ends = Some(self.scanned + 1);
                    }
                }
                None => self.blank = false,
            }
            self.scanned += 1;
        }
        let rest = self.held.split_off(ends?);
        self.scanned = 0;
        // What was looked at beyond the end is looked at again.
        self.after_cr = self.held.ends_with(b"\r") && rest.is_empty();
        Some(std::mem::replace(&mut self.held, rest))
    }
}

fn rewritten(event: Vec<u8>, data: &dyn Fn(&[u8]) -> Option<String>) -> Vec<u8> {
    rewrite_events(&event, data).unwrap_or(event)
}
