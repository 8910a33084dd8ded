//! Strings: the scan that validates them and the decoding that happens later, if at all.

use super::JsonError;

/// The extent of a string that was scanned.
pub(super) struct Scanned {
    /// The offset just past the closing quote.
    pub(super) end: usize,
    /// Whether it holds escapes.
    pub(super) escaped: bool,
}

/// Scans a string whose opening quote stands at `start`.
#[inline]
pub(super) fn scan(bytes: &[u8], start: usize) -> Result<Scanned, JsonError> {
    let mut at = start + 1;
    let mut escaped = false;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += find_special(rest).ok_or(JsonError::UnexpectedEnd)?;
        match bytes.get(at) {
            Some(b'"') => return Ok(Scanned { end: at + 1, escaped }),
            Some(b'\\') => {
                escaped = true;
                at = scan_escape(bytes, at)?;
            }
            Some(_) => return Err(JsonError::ControlCharacter(at)),
            None => return Err(JsonError::UnexpectedEnd),
        }
    }
}

/// Where the first byte stands that a string cannot hold as it is: a quote, a backslash or a control character.
///
/// Looks at eight bytes at a time: most of what is read and written here is text.
#[inline]
pub(crate) fn find_special(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return Some(index * size_of::<u64>() + special.trailing_zeros() as usize / 8);
        }
    }
    let place = rest.iter().position(|&byte| matches!(byte, 0..=0x1f | b'"' | b'\\'))?;
    Some(bytes.len() - rest.len() + place)
}

/// Marks the special bytes of a word by their highest bits; above the lowest mark there may be false ones.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    (below(word, 0x20) | below(quote, 1) | below(backslash, 1)) & (ONES << 7)
}

/// Checks the escape at `at` (a surrogate pair counts as one) and gives the offset after it.
fn scan_escape(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    match bytes.get(at + 1) {
        None => Err(JsonError::UnexpectedEnd),
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match hex4(bytes, at + 2).ok_or(JsonError::InvalidEscape(at))? {
            0xd800..=0xdbff => match (bytes.get(at + 6..at + 8), hex4(bytes, at + 8)) {
                (Some(br"\u"), Some(0xdc00..=0xdfff)) => Ok(at + 12),
                _ => Err(JsonError::InvalidEscape(at)),
            },
            0xdc00..=0xdfff => Err(JsonError::InvalidEscape(at)),
            _ => Ok(at + 6),
        },
        Some(_) => Err(JsonError::InvalidEscape(at)),
    }
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .iter()
        .try_fold(0, |value, &byte| Some(value << 4 | char::from(byte).to_digit(16)?))
}

/// Decodes the inside of a string that [`scan`] accepted.
pub(super) fn unescape(inner: &str) -> String {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (character, taken) = decode_escape(escape.as_bytes());
        text.push(character);
        rest = escape.get(taken..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

/// The character that an escape stands for, and how many bytes it takes after its backslash.
fn decode_escape(bytes: &[u8]) -> (char, usize) {
    match bytes.first() {
        Some(b'u') => {
            let unit = hex4(bytes, 1).unwrap_or(0);
            if (0xd800..0xdc00).contains(&unit) {
                let low = hex4(bytes, 7).unwrap_or(0xdc00);
                let code = 0x10000 + ((unit - 0xd800) << 10) + (low & 0x3ff);
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11)
            } else {
                (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
            }
        }
        Some(b'b') => ('\u{8}', 1),
        Some(b'f') => ('\u{c}', 1),
        Some(b'n') => ('\n', 1),
        Some(b'r') => ('\r', 1),
        Some(b't') => ('\t', 1),
        Some(&byte) => (char::from(byte), 1),
        None => (char::REPLACEMENT_CHARACTER, 0),
    }
}
