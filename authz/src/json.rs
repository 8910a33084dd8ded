//! A strict JSON reader for hostile input (RFC 8259, I-JSON of RFC 7493 where that is narrower).
//!
//! Two readers that disagree about one body are a bypass: the filter would decide on one reading and the application
//! act on the other. So whatever readers are known to disagree about is refused here: duplicate keys at any depth
//! (compared after unescaping), a byte-order mark, trailing bytes, invalid UTF-8, lone surrogates, control characters
//! in strings, leading zeros and anything else outside the grammar.
//!
//! The reader makes one pass into a flat arena of 16-byte nodes over the source; it allocates nothing a node, decodes
//! strings only when asked, and its work is bounded by [`Limits`].

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;

pub(crate) mod canonical;
mod reader;
mod string;

pub(crate) use string::find_special;

/// Bounds on a document; each stops a small input from costing much memory, stack or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest document, in bytes; never more than `u32::MAX`.
    pub max_bytes: usize,
    /// The deepest nesting of arrays and objects.
    pub max_depth: u16,
    /// The most nodes: values, and the keys of objects.
    pub max_nodes: u32,
}

impl Limits {
    /// For what comes with a request: bodies (bounded further by the service's own limit) and tokens.
    pub const REQUEST: Self = Self {
        max_bytes: 16 << 20,
        max_depth: 64,
        max_nodes: 1 << 16,
    };

    /// For documents signed by the policy server: 10,000 agents are about half a million nodes.
    pub const POLICY: Self = Self {
        max_bytes: 16 << 20,
        max_depth: 16,
        max_nodes: 1 << 22,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::REQUEST
    }
}

/// Why a document was refused. Offsets are in bytes from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than [`Limits::max_bytes`].
    #[error("the document is too long")]
    TooLong,
    /// Deeper than [`Limits::max_depth`].
    #[error("nested too deeply at byte {0}")]
    TooDeep(usize),
    /// More nodes than [`Limits::max_nodes`].
    #[error("too many values")]
    TooManyNodes,
    /// Not UTF-8.
    #[error("invalid UTF-8 at byte {0}")]
    InvalidUtf8(usize),
    /// A byte-order mark at the start.
    #[error("a byte-order mark is not allowed")]
    ByteOrderMark,
    /// The document ends inside a value.
    #[error("unexpected end")]
    UnexpectedEnd,
    /// A byte that the grammar has no place for.
    #[error("unexpected byte at {0}")]
    Unexpected(usize),
    /// Something follows the value.
    #[error("trailing bytes at {0}")]
    TrailingBytes(usize),
    /// A number that the grammar does not have, such as `01` or `1.`.
    #[error("invalid number at byte {0}")]
    InvalidNumber(usize),
    /// An unknown escape, or half of a surrogate pair.
    #[error("invalid escape at byte {0}")]
    InvalidEscape(usize),
    /// An unescaped control character in a string.
    #[error("control character in a string at byte {0}")]
    ControlCharacter(usize),
    /// An object has the same key twice.
    #[error("duplicate key in the object that ends at byte {0}")]
    DuplicateKey(usize),
    /// The JSON is well formed but not of the shape that was asked for (only from [`strict`]).
    #[error("not of the expected shape, at line {line} column {column}")]
    Shape {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// Any number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// One value or key: where it stands in the source, and where its subtree ends in the arena.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    /// The index of the first node after this one's subtree.
    next: u32,
    kind: Kind,
    /// Whether a string holds escapes.
    escaped: bool,
}

/// A document that was read whole and found well formed.
#[derive(Debug, Clone)]
pub struct Document<'s> {
    source: &'s str,
    nodes: Vec<Node>,
}

/// A value of a [`Document`].
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    document: &'a Document<'a>,
    index: u32,
    node: Node,
}

/// Reads one document.
///
/// # Errors
///
/// [`JsonError`] for anything but exactly one well-formed value within `limits`.
pub fn parse<'s>(source: &'s [u8], limits: &Limits) -> Result<Document<'s>, JsonError> {
    let source = text(source, limits)?;
    Ok(Document {
        source,
        nodes: reader::read(source, limits)?,
    })
}

/// Reads one document strictly, then into `T`.
///
/// The strict pass keeps no nodes; it exists because serde's derived readers take the last of duplicate keys in maps.
///
/// # Errors
///
/// As [`parse`], and [`JsonError::Shape`] where `T` refuses the document.
pub fn strict<T: DeserializeOwned>(source: &[u8], limits: &Limits) -> Result<T, JsonError> {
    let source = text(source, limits)?;
    reader::check(source, limits)?;
    read_checked(source)
}

fn read_checked<T: DeserializeOwned>(source: &str) -> Result<T, JsonError> {
    serde_json::from_str(source).map_err(|error| JsonError::Shape {
        line: error.line(),
        column: error.column(),
    })
}

fn text<'s>(source: &'s [u8], limits: &Limits) -> Result<&'s str, JsonError> {
    if source.len() > limits.max_bytes || u32::try_from(source.len()).is_err() {
        return Err(JsonError::TooLong);
    }
    if source.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::ByteOrderMark);
    }
    std::str::from_utf8(source).map_err(|error| JsonError::InvalidUtf8(error.valid_up_to()))
}

impl<'s> Document<'s> {
    /// The one value that the document is.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        // INVARIANT: a document that was read has at least one node; the fallback is never seen.
        self.value(0).unwrap_or(Value {
            document: self,
            index: 0,
            node: NOTHING,
        })
    }

    /// The document as it was read.
    pub(crate) fn source(&self) -> &'s str {
        self.source
    }

    /// Reads the whole document into `T`, which only sees what the strict pass let through.
    ///
    /// # Errors
    ///
    /// [`JsonError::Shape`] where `T` refuses the document.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, JsonError> {
        read_checked(self.source)
    }

    fn value(&self, index: u32) -> Option<Value<'_>> {
        let node = *self.nodes.get(index as usize)?;
        Some(Value {
            document: self,
            index,
            node,
        })
    }
}

const NOTHING: Node = Node {
    start: 0,
    end: 0,
    next: 0,
    kind: Kind::Null,
    escaped: false,
};

impl<'a> Value<'a> {
    /// The type of this value.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.node.kind
    }

    /// The source of this value, exactly as it came.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.document
            .source
            .get(self.node.start as usize..self.node.end as usize)
            .unwrap_or_default()
    }

    /// Where it stands in the document, in bytes.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.node.start as usize..self.node.end as usize
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.node.kind == Kind::Null
    }

    /// The truth value, if this is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        (self.node.kind == Kind::Bool).then(|| self.raw() == "true")
    }

    /// The decoded text, if this is a string; borrowed unless it holds escapes.
    #[must_use]
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        if self.node.kind != Kind::String {
            return None;
        }
        let inner = self
            .document
            .source
            .get(self.node.start as usize + 1..self.node.end as usize - 1)?;
        Some(if self.node.escaped {
            Cow::Owned(string::unescape(inner))
        } else {
            Cow::Borrowed(inner)
        })
    }

    /// The number, if this is an integer from 0 to `u64::MAX` written without fraction or exponent.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.integer()?.parse().ok()
    }

    /// The number, if this is an integer of 64 bits written without fraction or exponent. `-0` is none: other readers take it
    /// for the float that it is.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.integer().filter(|raw| *raw != "-0")?.parse().ok()
    }

    fn integer(&self) -> Option<&'a str> {
        let raw = self.raw();
        (self.node.kind == Kind::Number && !raw.contains(['.', 'e', 'E'])).then_some(raw)
    }

    /// The elements, if this is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<Elements<'a>> {
        (self.node.kind == Kind::Array).then(|| Elements(self.children()))
    }

    /// The keys (decoded) and values in their order, if this is an object.
    #[must_use]
    pub fn entries(&self) -> Option<Entries<'a>> {
        (self.node.kind == Kind::Object).then(|| Entries(self.children()))
    }

    /// The value under `key`, if this is an object that has it. Keys are compared exactly, after unescaping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.entries()?.find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn children(&self) -> Children<'a> {
        Children {
            document: self.document,
            index: self.index + 1,
            end: self.node.next,
        }
    }
}

#[derive(Debug, Clone)]
struct Children<'a> {
    document: &'a Document<'a>,
    index: u32,
    end: u32,
}

impl<'a> Iterator for Children<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.index >= self.end {
            return None;
        }
        let value = self.document.value(self.index)?;
        self.index = value.node.next;
        Some(value)
    }
}

/// The elements of an array.
#[derive(Debug, Clone)]
pub struct Elements<'a>(Children<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.0.next()
    }
}

/// The entries of an object.
#[derive(Debug, Clone)]
pub struct Entries<'a>(Children<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = (Cow<'a, str>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.as_str()?;
        Some((key, self.0.next()?))
    }
}

#[cfg(test)]
mod tests;
