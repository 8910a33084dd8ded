//! YAML with places: a small tree in which every node knows its line and column.
//!
//! A policy file is reviewed by people, so what it means must be what it shows. Anchors, aliases and tags let
//! one line change what another says, and a duplicate key hides one of two values: all are refused here, before
//! anything is read from the tree. The tree is bounded in depth and size, because files may come from a pull
//! request that nobody has read yet.

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput};

/// Nesting in a policy file is seven levels at most; a deeper file is an attack on the reader's stack.
const MAX_DEPTH: usize = 32;

/// A megabyte of `[,,,,` would otherwise grow to some hundred megabytes of nodes.
const MAX_NODES: usize = 200_000;

/// Where something stands in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

impl From<&Marker> for Place {
    fn from(marker: &Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
        }
    }
}

/// A mistake in the file itself, before its content means anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) advice: String,
    /// Whether part of the file was not read because of it.
    pub(super) fatal: bool,
}

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Text; `plain` text without quotes may still mean a number, a boolean or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

/// Everything that a file holds: its documents, and what is wrong with its YAML.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) documents: Vec<Node>,
    pub(super) faults: Vec<Fault>,
}

/// Reads all documents of a file. Empty documents are skipped.
///
/// A syntax error ends the reading, since nothing after it can be trusted to be what was meant; documents before
/// it are kept, so that their mistakes are reported too.
pub(super) fn read(source: &str) -> Stream {
    let mut reader = Reader {
        parser: Parser::new_from_str(source),
        stream: Stream::default(),
        nodes: 0,
    };
    if let Err(fault) = reader.documents() {
        reader.stream.faults.push(fault);
    }
    reader.stream
}

struct Reader<'s> {
    parser: Parser<'s, StrInput<'s>>,
    stream: Stream,
    nodes: usize,
}

impl<'s> Reader<'s> {
    fn documents(&mut self) -> Result<(), Fault> {
        while let Some((event, span)) = self.next()? {
            let node = match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => continue,
                Event::StreamEnd => break,
                event => self.node(event, &span, 0)?,
            };
            if !node.is_null() {
                self.stream.documents.push(node);
            }
        }
        Ok(())
    }

    /// The next event that says something.
    fn next(&mut self) -> Result<Option<(Event<'s>, Span)>, Fault> {
        loop {
            let next = self.parser.next_event().transpose().map_err(|error| Fault {
                place: Place::from(error.marker()),
                message: format!("this is not YAML: {}", error.info()),
                advice: "the indentation and quotes that YAML asks for; the mistake may stand on the line before"
                    .to_owned(),
                fatal: true,
            })?;
            if !matches!(next, Some((Event::Comment(..), _))) {
                return Ok(next);
            }
        }
    }

    /// The next event inside a document; the parser reports an unfinished one as an error before it ends.
    fn inner(&mut self, place: Place) -> Result<(Event<'s>, Span), Fault> {
        self.next()?.ok_or_else(|| Fault {
            place,
            message: "the file ends in the middle of this".to_owned(),
            advice: "the rest of it, or remove it".to_owned(),
            fatal: true,
        })
    }

    fn node(&mut self, event: Event<'s>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let place = Place::from(&span.start);
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(Fault {
                place,
                message: format!("more than {MAX_DEPTH} levels or {MAX_NODES} values in one file"),
                advice: "several smaller files".to_owned(),
                fatal: true,
            });
        }
        self.refuse_indirection(&event, place)?;
        let value = match event {
            Event::Scalar(text, style, ..) => Value::Scalar {
                text: text.into_owned(),
                plain: style == ScalarStyle::Plain,
            },
            Event::SequenceStart(..) => self.sequence(place, depth)?,
            Event::MappingStart(..) => self.mapping(place, depth)?,
            _ => Value::null(),
        };
        Ok(Node { place, value })
    }

    fn sequence(&mut self, place: Place, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            match self.inner(place)? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                (event, span) => items.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, place: Place, depth: usize) -> Result<Value, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines = std::collections::HashMap::new();
        loop {
            let (event, span) = self.inner(place)?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Mapping(entries));
            }
            let node = self.node(event, &span, depth + 1)?;
            let (key_place, Value::Scalar { text: key, .. }) = (node.place, node.value) else {
                return Err(Fault {
                    place: Place::from(&span.start),
                    message: "a key must be a word, not a list or a mapping".to_owned(),
                    advice: "`key: value` (braces in a value need quotes around it)".to_owned(),
                    fatal: true,
                });
            };
            let (event, span) = self.inner(place)?;
            let value = self.node(event, &span, depth + 1)?;
            if let Some(first) = lines.get(&key) {
                self.stream.faults.push(Fault {
                    place: key_place,
                    message: format!("`{key}` is given twice, first on line {first}"),
                    advice: format!("`{key}` once"),
                    fatal: false,
                });
                continue;
            }
            lines.insert(key.clone(), key_place.line);
            entries.push(Entry { key, key_place, value });
        }
    }

    /// An alias ends the reading of the file, because what it stands for is not in the tree; the others are noted.
    fn refuse_indirection(&mut self, event: &Event<'s>, place: Place) -> Result<(), Fault> {
        let fault = |message: &str, advice: &str, fatal| Fault {
            place,
            message: message.to_owned(),
            advice: advice.to_owned(),
            fatal,
        };
        if event.is_alias() {
            return Err(fault(
                "a YAML alias (`*name`) is not taken in policy files",
                "the value itself, here too",
                true,
            ));
        }
        if event.anchor_id().is_some() {
            let fault = fault(
                "a YAML anchor (`&name`) is not taken in policy files",
                "the value without it",
                false,
            );
            self.stream.faults.push(fault);
        }
        if let Some(tag) = event.tag() {
            let message = format!("the YAML tag `{}` is not taken in policy files", tag.original());
            self.stream.faults.push(fault(&message, "the value without it", false));
        }
        Ok(())
    }
}

impl Value {
    fn null() -> Self {
        Self::Scalar {
            text: String::new(),
            plain: true,
        }
    }
}

/// What a scalar means by the YAML 1.2 core schema: `yes` is a word, and so is `1_000`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'n> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'n str),
}

impl Node {
    /// What the node means if it is a scalar.
    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.value {
            Value::Scalar { text, plain: true } => Some(resolve(text)),
            Value::Scalar { text, plain: false } => Some(Scalar::Text(text)),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The scalar's text as it stands in the file, quotes and escapes resolved.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// Whether nothing was written: `null`, `~` or an empty value.
    pub(super) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// The entry of a mapping by its key.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Scalar { .. } | Value::Sequence(_) => None,
        }
    }
}

fn resolve(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        _ => {}
    }
    if let Some(integer) = integer(text) {
        return integer;
    }
    let numeric = text
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    let digits = text.chars().any(|c| c.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(float) if numeric && digits => Scalar::Float(float),
        _ => Scalar::Text(text),
    }
}

fn integer(text: &str) -> Option<Scalar<'_>> {
    let unsigned = match text.get(..2) {
        Some("0x") => u64::from_str_radix(text.get(2..)?, 16).ok(),
        Some("0o") => u64::from_str_radix(text.get(2..)?, 8).ok(),
        _ => text.parse::<u64>().ok(),
    };
    match unsigned {
        Some(number) => Some(Scalar::Unsigned(number)),
        None => text.parse::<i64>().ok().map(Scalar::Signed),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::unreachable, reason = "tests")]

    use super::*;

    fn faults(source: &str) -> Vec<(usize, usize, String)> {
        read(source)
            .faults
            .into_iter()
            .map(|fault| (fault.place.line, fault.place.column, fault.message))
            .collect()
    }

    #[test]
    fn every_node_knows_its_place() {
        let stream = read("# first\na: 1\nb:\n  - x\n  - {c: \"2\"}\n---\n\n---\nd: ~\n");
        assert_eq!(stream.faults, []);
        assert_eq!(stream.documents.len(), 2);
        let b = stream.documents[0].entry("b").unwrap();
        assert_eq!(b.key_place, Place { line: 3, column: 1 });
        let Value::Sequence(items) = &b.value.value else {
            unreachable!("a list was written")
        };
        assert_eq!(items[0].place, Place { line: 4, column: 5 });
        let c = items[1].entry("c").unwrap();
        assert_eq!(
            (c.key_place, c.value.place),
            (Place { line: 5, column: 6 }, Place { line: 5, column: 9 })
        );
        assert_eq!(c.value.scalar(), Some(Scalar::Text("2")));
        assert!(stream.documents[1].entry("d").unwrap().value.is_null());
    }

    #[test]
    fn a_comment_says_nothing_wherever_it_stands() {
        let bare = "a: 1\nb:\n  c:\n  - x\n  - {d: 2}\n  e: f\n";
        let commented = "# of the file\na: 1 # of a\n# before b\nb: # of b\n  # before c\n  c:\n  # before x\n  - x # of x\n  # before d\n  - {d: 2} # of d\n  # before e\n  e: # of e\n    # before f\n    f\n  # last\n";
        let values = |node: &Node| format!("{node:?}").replace(|c: char| c.is_ascii_digit(), "");
        let (bare, commented) = (read(bare), read(commented));
        assert_eq!((&bare.faults, &commented.faults), (&Vec::new(), &Vec::new()));
        let [bare, commented] = [bare, commented].map(|stream| stream.documents.iter().map(values).collect::<Vec<_>>());
        assert_eq!(commented, bare);
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, meaning) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("yes", Scalar::Text("yes")),
            ("no", Scalar::Text("no")),
            ("8080", Scalar::Unsigned(8080)),
            ("-3", Scalar::Signed(-3)),
            ("0x10", Scalar::Unsigned(16)),
            ("0o17", Scalar::Unsigned(15)),
            ("1.0", Scalar::Float(1.0)),
            ("1e3", Scalar::Float(1000.0)),
            ("inf", Scalar::Text("inf")),
            ("e", Scalar::Text("e")),
            ("analyst-7", Scalar::Text("analyst-7")),
            ("1.2.3", Scalar::Text("1.2.3")),
        ] {
            assert_eq!(resolve(text), meaning, "{text:?}");
        }
    }

    #[test]
    fn indirection_and_doubles_are_refused() {
        assert_eq!(faults("a: &x 1\nb: *x\n").len(), 2);
        assert_eq!(faults("a: &x 1\nb: *x\n")[1].0, 2);
        assert_eq!(faults("a: !!str 1\n").len(), 1);
        assert_eq!(
            faults("a: 1\nb: 2\na: 3\n"),
            [(3, 1, "`a` is given twice, first on line 1".to_owned())]
        );
        assert_eq!(faults("{a: 1}: b\n").len(), 1);
    }

    #[test]
    fn broken_yaml_keeps_what_stands_before_it() {
        let stream = read("a: 1\n---\nb: [1, 2\nc: 3\n");
        assert_eq!(stream.documents.len(), 1);
        assert_eq!(stream.faults.len(), 1);
        assert!(stream.faults[0].place.line >= 3);
    }

    #[test]
    fn depth_and_size_are_bounded() {
        assert_eq!(faults(&"[".repeat(100_000)).len(), 1);
        assert!(faults(&format!("[{}]", "1,".repeat(300_000)))[0].2.contains("values"));
        assert_eq!(faults(&"{a: ".repeat(10_000)).len(), 1);
        assert!(
            faults(&format!("{}{}", "[".repeat(40), "]".repeat(40)))[0]
                .2
                .contains("levels")
        );
    }
}
