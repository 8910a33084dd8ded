//! Server-sent events (WHATWG HTML, section 9.2), held whole.
//!
//! An event's data may be split over lines as its writer likes, so it is put together before it is read, and written anew.

use super::ListError;

/// Gives every event's data to `message` and writes the events with what it makes of them.
///
/// Lines of the fields `event`, `id` and `retry`, and comments, go on as they came; a client ignores all other fields, and
/// so they are left out. What follows the last blank line counts as an event, since some clients take it for one.
pub(super) fn filter(body: &[u8], message: impl Fn(&[u8]) -> Result<String, ListError>) -> Result<Vec<u8>, ListError> {
    let text = std::str::from_utf8(body).map_err(|_| ListError::Answer("the events are not UTF-8"))?;
    if text.starts_with('\u{feff}') {
        return Err(ListError::Answer("the events begin with a byte-order mark"));
    }
    let mut out = String::with_capacity(text.len());
    let mut event = Event::default();
    for line in lines(text).chain([""]) {
        if line.is_empty() {
            std::mem::take(&mut event).write(&message, &mut out)?;
        } else {
            event.take(line);
        }
    }
    Ok(out.into_bytes())
}

/// Lines that end in CRLF, LF or CR.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(['\r', '\n']).unwrap_or(rest.len());
        let (line, tail) = rest.split_at(end);
        rest = tail.strip_prefix("\r\n").or_else(|| tail.get(1..)).unwrap_or_default();
        Some(line)
    })
}

/// One event so far.
#[derive(Default)]
struct Event<'t> {
    /// The lines that are no data, in their order.
    kept: Vec<&'t str>,
    /// The data, lines joined by line feeds; None if there is no field of it.
    data: Option<String>,
}

impl<'t> Event<'t> {
    fn take(&mut self, line: &'t str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        match field {
            "data" => {
                let value = value.strip_prefix(' ').unwrap_or(value);
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                }
            }
            "event" | "id" | "retry" | "" => self.kept.push(line),
            _ => {}
        }
    }

    fn write(self, message: &impl Fn(&[u8]) -> Result<String, ListError>, out: &mut String) -> Result<(), ListError> {
        if self.kept.is_empty() && self.data.is_none() {
            return Ok(());
        }
        for line in self.kept {
            out.push_str(line);
            out.push('\n');
        }
        if let Some(data) = self.data {
            // An event without data tells an id to resume from (2025-11-25) and no message.
            let text = if data.is_empty() {
                data
            } else {
                message(data.as_bytes())?
            };
            // JSON holds line ends between its tokens only.
            for line in text.split(['\r', '\n']) {
                out.push_str("data: ");
                out.push_str(line);
                out.push('\n');
            }
        }
        out.push('\n');
        Ok(())
    }
}
