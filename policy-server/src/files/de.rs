//! From a YAML tree to a manifest's type, through serde, so that the types of `authz` stay the only description of
//! what a file may hold.
//!
//! What serde reports as text is kept as data here ([`Mistake`]): where it is, what was expected, which names would
//! have been known. Without that no advice could be given.

use std::fmt;

use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer};
use serde::forward_to_deserialize_any;

use super::yaml::{Entry, Node, Place, Scalar, Value};

/// One step from a document's root towards a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The first thing in a document that does not fit its type.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    pub(super) place: Place,
    pub(super) path: Vec<Step>,
    pub(super) kind: MistakeKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum MistakeKind {
    UnknownField {
        field: String,
        known: &'static [&'static str],
    },
    MissingField(String),
    UnknownVariant {
        variant: String,
        known: &'static [&'static str],
    },
    WrongType {
        found: String,
        text: Option<String>,
        wanted: Wanted,
    },
    /// The value has the right type, and its own rules refuse it.
    Refused(String),
}

impl MistakeKind {
    /// A value of another type than the one that is wanted.
    pub(super) fn wrong_type(node: &Node, wanted: Wanted) -> Self {
        // The parser shows an empty value as `~`; nothing was written, and nothing can be made of it.
        let text = if node.is_null() { Some("") } else { node.text() };
        Self::WrongType {
            found: describe(node),
            text: text.map(str::to_owned),
            wanted,
        }
    }
}

/// The type that a place asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Text,
    Number,
    Boolean,
    List,
    Mapping,
    Nothing,
}

/// Reads a value of type `T` from a tree.
///
/// # Errors
///
/// The first mistake met, in the order of the file.
pub(super) fn from_node<T: de::DeserializeOwned>(node: &Node) -> Result<T, Mistake> {
    T::deserialize(Reader { node }).map_err(|error| {
        let mut path = error.path;
        path.reverse();
        Mistake {
            place: error.place.unwrap_or(node.place),
            path,
            kind: error.kind,
        }
    })
}

/// A mistake on its way out of the tree: `path` grows from the innermost step.
#[derive(Debug)]
struct Error {
    place: Option<Place>,
    path: Vec<Step>,
    kind: MistakeKind,
}

impl Error {
    fn new(kind: MistakeKind) -> Self {
        Self {
            place: None,
            path: Vec::new(),
            kind,
        }
    }

    fn within(mut self, step: Step, place: Place) -> Self {
        self.place.get_or_insert(place);
        self.path.push(step);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(MistakeKind::Refused(message.to_string()))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(MistakeKind::UnknownField {
            field: field.to_owned(),
            known,
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(MistakeKind::MissingField(field.to_owned()))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::new(MistakeKind::UnknownVariant {
            variant: variant.to_owned(),
            known,
        })
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "u16" => "a whole number from 0 to 65535".to_owned(),
            "u32" | "u64" => "a whole number from 0".to_owned(),
            other => other.to_owned(),
        };
        Self::custom(format_args!("{unexpected} is not {expected}"))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("{unexpected} is not {expected}"))
    }
}

fn describe(node: &Node) -> String {
    match (node.scalar(), &node.value) {
        (Some(Scalar::Null), _) => "nothing".to_owned(),
        (Some(Scalar::Bool(value)), _) => format!("`{value}`, which is true or false,"),
        (Some(Scalar::Unsigned(_) | Scalar::Signed(_) | Scalar::Float(_)), Value::Scalar { text, .. }) => {
            format!("the number `{text}`")
        }
        (_, Value::Scalar { text, .. }) => format!("the text `{text}`"),
        (_, Value::Sequence(_)) => "a list".to_owned(),
        (_, Value::Mapping(_)) => "a mapping".to_owned(),
    }
}

/// Reads one node. Types are asked for by name, so a value of another type is refused, never converted.
#[derive(Clone, Copy)]
struct Reader<'n> {
    node: &'n Node,
}

impl<'n> Reader<'n> {
    fn wrong(self, wanted: Wanted) -> Error {
        Error::new(MistakeKind::wrong_type(self.node, wanted))
    }

    fn entries(self, wanted: Wanted) -> Result<&'n [Entry], Error> {
        match &self.node.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Scalar { .. } | Value::Sequence(_) => Err(self.wrong(wanted)),
        }
    }

    fn number<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Unsigned(number)) => visitor.visit_u64(number),
            Some(Scalar::Signed(number)) => visitor.visit_i64(number),
            Some(Scalar::Float(number)) => visitor.visit_f64(number),
            _ => Err(self.wrong(Wanted::Number)),
        }
    }

    fn integer<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Unsigned(_) | Scalar::Signed(_)) => self.number(visitor),
            _ => Err(self.wrong(Wanted::Number)),
        }
    }
}

macro_rules! read_as {
    ($($method:ident => $reader:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$reader(visitor)
        })*
    };
}

impl<'n> de::Deserializer<'n> for Reader<'n> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match (self.node.scalar(), &self.node.value) {
            (Some(Scalar::Null), _) => visitor.visit_unit(),
            (Some(Scalar::Bool(value)), _) => visitor.visit_bool(value),
            (Some(Scalar::Text(text)), _) => visitor.visit_borrowed_str(text),
            (_, Value::Sequence(_)) => self.deserialize_seq(visitor),
            (_, Value::Mapping(_)) => self.deserialize_map(visitor),
            (_, Value::Scalar { .. }) => self.number(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Text(text)) => visitor.visit_borrowed_str(text),
            _ => Err(self.wrong(Wanted::Text)),
        }
    }

    fn deserialize_bool<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Bool(value)) => visitor.visit_bool(value),
            _ => Err(self.wrong(Wanted::Boolean)),
        }
    }

    fn deserialize_unit<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() {
            visitor.visit_unit()
        } else {
            Err(self.wrong(Wanted::Nothing))
        }
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Sequence(items) => visitor.visit_seq(Items {
                items: items.iter().enumerate(),
            }),
            Value::Scalar { .. } | Value::Mapping(_) => Err(self.wrong(Wanted::List)),
        }
    }

    fn deserialize_map<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries = self.entries(Wanted::Mapping)?;
        visitor.visit_map(Entries {
            entries: entries.iter(),
            current: None,
        })
    }

    fn deserialize_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.node.scalar() {
            Some(Scalar::Text(text)) => visitor.visit_enum(text.into_deserializer()),
            _ => Err(self.wrong(Wanted::Text)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    read_as! {
        deserialize_string => deserialize_str,
        deserialize_char => deserialize_str,
        deserialize_identifier => deserialize_str,
        deserialize_u8 => integer,
        deserialize_u16 => integer,
        deserialize_u32 => integer,
        deserialize_u64 => integer,
        deserialize_i8 => integer,
        deserialize_i16 => integer,
        deserialize_i32 => integer,
        deserialize_i64 => integer,
        deserialize_f32 => number,
        deserialize_f64 => number,
    }

    forward_to_deserialize_any! { <V: Visitor<'n>> bytes byte_buf unit_struct tuple tuple_struct }
}

struct Items<'n> {
    items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'n> de::SeqAccess<'n> for Items<'n> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        seed.deserialize(Reader { node })
            .map(Some)
            .map_err(|error| error.within(Step::Index(index), node.place))
    }
}

struct Entries<'n> {
    entries: std::slice::Iter<'n, Entry>,
    current: Option<&'n Entry>,
}

impl<'n> de::MapAccess<'n> for Entries<'n> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        let step = || Step::Key(entry.key.clone());
        seed.deserialize(key)
            .map(Some)
            .map_err(|error| error.within(step(), entry.key_place))
    }

    fn next_value_seed<S: DeserializeSeed<'n>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some(entry) = self.current.take() else {
            return Err(de::Error::custom("a value without a key"));
        };
        let step = || Step::Key(entry.key.clone());
        seed.deserialize(Reader { node: &entry.value })
            .map_err(|error| error.within(step(), entry.place()))
    }
}

impl Entry {
    /// Where to point for what this entry holds: at a value on the line, else at the key above it.
    pub(super) fn place(&self) -> Place {
        match self.value.value {
            Value::Scalar { .. } if !self.value.is_null() => self.value.place,
            Value::Scalar { .. } | Value::Sequence(_) | Value::Mapping(_) => self.key_place,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::super::yaml;
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        #[serde(default)]
        ports: Vec<u16>,
        #[serde(default)]
        side: Option<Side>,
        #[serde(default)]
        tools: BTreeMap<String, Empty>,
        #[serde(default)]
        on: bool,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Side {
        Inbound,
        Outbound,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Empty {}

    fn sample(source: &str) -> Result<Sample, Mistake> {
        from_node(&yaml::read(source).documents[0])
    }

    fn mistake(source: &str) -> ((usize, usize), MistakeKind) {
        let mistake = sample(source).unwrap_err();
        ((mistake.place.line, mistake.place.column), mistake.kind)
    }

    #[test]
    fn a_fitting_tree_is_read() {
        let read = sample("name: x\nports: [80, 443]\nside: inbound\ntools: {a: {}}\non: true\n").unwrap();
        assert_eq!(read.ports, [80, 443]);
        assert_eq!(read.side, Some(Side::Inbound));
        assert!(read.tools.contains_key("a") && read.on);
    }

    #[test]
    fn mistakes_know_their_place() {
        let (place, kind) = mistake("name: x\nport: [80]\n");
        assert_eq!(place, (2, 1));
        assert!(
            matches!(kind, MistakeKind::UnknownField { field, known } if field == "port" && known.contains(&"ports"))
        );

        let (place, kind) = mistake("ports: [80]\n");
        assert_eq!((place, kind), ((1, 1), MistakeKind::MissingField("name".to_owned())));

        let (place, kind) = mistake("name: 7\n");
        assert_eq!(place, (1, 7));
        assert!(matches!(
            kind,
            MistakeKind::WrongType {
                wanted: Wanted::Text,
                ..
            }
        ));

        let (place, kind) = mistake("name: x\nports:\n- 80\n- 70000\n");
        assert_eq!(place, (4, 3));
        assert!(matches!(kind, MistakeKind::Refused(_)));

        let (place, kind) = mistake("name: x\nports: 80\n");
        assert_eq!(place, (2, 8));
        assert!(matches!(
            kind,
            MistakeKind::WrongType {
                wanted: Wanted::List,
                ..
            }
        ));

        let (place, kind) = mistake("name: x\nside: inbund\n");
        assert_eq!(place, (2, 7));
        assert!(matches!(kind, MistakeKind::UnknownVariant { known, .. } if known == ["inbound", "outbound"]));

        let (place, _) = mistake("name: x\ntools:\n  a:\n    deep: 1\n");
        assert_eq!(place, (4, 5));
        let (place, _) = mistake("name: x\ntools:\n  a: []\n");
        assert_eq!(place, (3, 3));
    }

    #[test]
    fn paths_lead_to_the_mistake() {
        let path = sample("name: x\nports: [1, two]\n").unwrap_err().path;
        assert_eq!(path, [Step::Key("ports".to_owned()), Step::Index(1)]);
    }

    #[test]
    fn a_list_is_no_mapping() {
        assert!(matches!(
            mistake("[x, [], null, {}, true]").1,
            MistakeKind::WrongType {
                wanted: Wanted::Mapping,
                ..
            }
        ));
    }
}
