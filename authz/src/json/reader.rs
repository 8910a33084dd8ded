//! The one pass over a document.
//!
//! The filter is compiled to be small: what runs for each value, or each byte, says that it is to be inlined all the same.

use std::borrow::Cow;

use super::{JsonError, Kind, Limits, Node, string};
use crate::order;

/// Objects of up to this many keys are searched for duplicates pair by pair; larger ones are sorted, if they are not yet.
const FEW_KEYS: usize = 8;

/// Ordinary documents have no more keys in all objects that are open at once.
const MANY_KEYS: usize = 48;

/// Reads a document into its nodes, in pre-order.
pub(super) fn read(source: &str, limits: &Limits) -> Result<Vec<Node>, JsonError> {
    let mut reader = Reader::<true>::new(source, limits);
    // A node for every 16 bytes is more than ordinary documents have.
    reader.nodes.reserve(source.len() / 16 + 1);
    reader.keys.reserve(MANY_KEYS);
    reader.document()?;
    Ok(reader.nodes)
}

/// Reads a document only to check it.
pub(super) fn check(source: &str, limits: &Limits) -> Result<(), JsonError> {
    Reader::<false>::new(source, limits).document()
}

/// A key of an object that is still open.
#[derive(Clone, Copy)]
struct Key {
    start: u32,
    end: u32,
    escaped: bool,
}

struct Reader<'s, const KEEP: bool> {
    source: &'s str,
    bytes: &'s [u8],
    at: usize,
    limits: Limits,
    count: u32,
    nodes: Vec<Node>,
    /// The keys of all open objects, the innermost last.
    keys: Vec<Key>,
}

impl<'s, const KEEP: bool> Reader<'s, KEEP> {
    fn new(source: &'s str, limits: &Limits) -> Self {
        Self {
            source,
            bytes: source.as_bytes(),
            at: 0,
            limits: *limits,
            count: 0,
            nodes: Vec::new(),
            keys: Vec::new(),
        }
    }

    fn document(&mut self) -> Result<(), JsonError> {
        self.space();
        self.value(0)?;
        self.space();
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(JsonError::TrailingBytes(self.at))
        }
    }

    fn value(&mut self, depth: u16) -> Result<(), JsonError> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.nested(depth, Kind::Object),
            b'[' => self.nested(depth, Kind::Array),
            b't' => self.word("true", Kind::Bool),
            b'f' => self.word("false", Kind::Bool),
            b'n' => self.word("null", Kind::Null),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(JsonError::Unexpected(self.at)),
        }
    }

    /// An array or object, from its opening bracket to its closing one.
    fn nested(&mut self, depth: u16, kind: Kind) -> Result<(), JsonError> {
        if depth >= self.limits.max_depth {
            return Err(JsonError::TooDeep(self.at));
        }
        let start = self.at;
        let index = self.open(kind)?;
        self.at += 1;
        self.space();
        if kind == Kind::Object {
            self.members(depth + 1)?;
        } else {
            self.elements(depth + 1)?;
        }
        self.close(index, start);
        Ok(())
    }

    fn elements(&mut self, depth: u16) -> Result<(), JsonError> {
        if self.taken(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.space();
            if self.taken(b']') {
                return Ok(());
            }
            self.expect(b',')?;
            self.space();
        }
    }

    fn members(&mut self, depth: u16) -> Result<(), JsonError> {
        if self.taken(b'}') {
            return Ok(());
        }
        let first_key = self.keys.len();
        loop {
            if self.peek()? != b'"' {
                return Err(JsonError::Unexpected(self.at));
            }
            let key = self.string()?;
            self.keys.push(key);
            self.space();
            self.expect(b':')?;
            self.space();
            self.value(depth)?;
            self.space();
            if self.taken(b'}') {
                break;
            }
            self.expect(b',')?;
            self.space();
        }
        if self.has_duplicate(first_key) {
            return Err(JsonError::DuplicateKey(self.at - 1));
        }
        self.keys.truncate(first_key);
        Ok(())
    }

    fn has_duplicate(&self, first_key: usize) -> bool {
        let keys = self.keys.get(first_key..).unwrap_or_default();
        if !keys.iter().any(|key| key.escaped) {
            let bytes = |key: &Key| self.bytes.get(key.start as usize..key.end as usize);
            if keys.is_sorted_by(|key, next| bytes(key) < bytes(next)) {
                return false;
            }
            if keys.len() <= FEW_KEYS {
                return keys
                    .iter()
                    .enumerate()
                    .any(|(index, key)| keys.iter().skip(index + 1).any(|other| bytes(key) == bytes(other)));
            }
        }
        let mut texts: Vec<Cow<'_, str>> = keys.iter().map(|key| self.text(key)).collect();
        order::sort(&mut texts);
        texts.iter().zip(texts.iter().skip(1)).any(|(text, next)| text == next)
    }

    fn inner(&self, key: &Key) -> &'s str {
        self.source
            .get(key.start as usize + 1..key.end as usize - 1)
            .unwrap_or_default()
    }

    fn text(&self, key: &Key) -> Cow<'s, str> {
        let inner = self.inner(key);
        if key.escaped {
            Cow::Owned(string::unescape(inner))
        } else {
            Cow::Borrowed(inner)
        }
    }

    #[inline]
    fn string(&mut self) -> Result<Key, JsonError> {
        let start = self.at;
        let scanned = string::scan(self.bytes, start)?;
        self.at = scanned.end;
        let key = Key {
            start: offset(start),
            end: offset(scanned.end),
            escaped: scanned.escaped,
        };
        self.leaf(start, Kind::String, scanned.escaped)?;
        Ok(key)
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<(), JsonError> {
        let start = self.at;
        if !self
            .bytes
            .get(start..)
            .is_some_and(|rest| rest.starts_with(word.as_bytes()))
        {
            return Err(JsonError::Unexpected(start));
        }
        self.at += word.len();
        self.leaf(start, kind, false)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.taken(b'-');
        let leading_zero = self.taken(b'0');
        let mut well_formed = if leading_zero {
            self.digits() == 0
        } else {
            self.digits() > 0
        };
        if self.taken(b'.') {
            well_formed &= self.digits() > 0;
        }
        if self.taken(b'e') || self.taken(b'E') {
            let _sign = self.taken(b'+') || self.taken(b'-');
            well_formed &= self.digits() > 0;
        }
        if well_formed {
            self.leaf(start, Kind::Number, false)
        } else {
            Err(JsonError::InvalidNumber(start))
        }
    }

    #[inline]
    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    #[inline]
    fn peek(&self) -> Result<u8, JsonError> {
        self.bytes.get(self.at).copied().ok_or(JsonError::UnexpectedEnd)
    }

    #[inline]
    fn taken(&mut self, byte: u8) -> bool {
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek()? != byte {
            return Err(JsonError::Unexpected(self.at));
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn leaf(&mut self, start: usize, kind: Kind, escaped: bool) -> Result<(), JsonError> {
        let next = self.counted()?;
        if KEEP {
            self.nodes.push(Node {
                start: offset(start),
                end: offset(self.at),
                next,
                kind,
                escaped,
            });
        }
        Ok(())
    }

    #[inline]
    fn open(&mut self, kind: Kind) -> Result<usize, JsonError> {
        let next = self.counted()?;
        if KEEP {
            self.nodes.push(Node {
                start: 0,
                end: 0,
                next,
                kind,
                escaped: false,
            });
        }
        Ok(next as usize - 1)
    }

    #[inline]
    fn close(&mut self, index: usize, start: usize) {
        let (end, next) = (offset(self.at), self.count);
        if let Some(node) = self.nodes.get_mut(index) {
            (node.start, node.end, node.next) = (offset(start), end, next);
        }
    }

    /// Counts a node; gives the index of the one after it.
    #[inline]
    fn counted(&mut self) -> Result<u32, JsonError> {
        if self.count >= self.limits.max_nodes {
            return Err(JsonError::TooManyNodes);
        }
        self.count += 1;
        Ok(self.count)
    }
}

/// INVARIANT: documents longer than `u32::MAX` are refused before they are read.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
