//! Finding every mistake of a document, not only its first.
//!
//! After a mistake is noted the tree is changed as its advice says (a misspelled field gets its right name) or, if
//! that is not known, the wrong part is taken out, and the document is read again. What comes out of a repair is
//! used only to look for more mistakes: a file with any mistake is never accepted.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::de::{Mistake, MistakeKind, Step, Wanted, from_node};
use super::nearest::nearest;
use super::yaml::{Node, Place, Value};

/// One file may not fill a screen a hundred times over; after these the rest waits for the next run.
const MAX_MISTAKES: usize = 50;

/// A document as its type, and what was wrong with it.
#[derive(Debug)]
pub(super) struct Reading<T> {
    /// The value, possibly after repairs.
    pub(super) value: Option<T>,
    pub(super) mistakes: Vec<Mistake>,
    /// Whether the repairs lost nothing, so that rules about the whole still mean something.
    pub(super) whole: bool,
}

/// Reads a document and repairs its tree on the way.
pub(super) fn read<T: DeserializeOwned>(node: &mut Node) -> Reading<T> {
    let mut reading = Reading {
        value: None,
        mistakes: Vec::new(),
        whole: true,
    };
    let mut removed = HashSet::new();
    while reading.mistakes.len() < MAX_MISTAKES {
        let mistake = match from_node(node) {
            Ok(value) => {
                reading.value = Some(value);
                return reading;
            }
            Err(mistake) => mistake,
        };
        let known = matches!(&mistake.kind, MistakeKind::MissingField(field) if {
            removed.contains(&child(&mistake.path, field))
        });
        let repair = repair(node, &mistake);
        if !known {
            reading.mistakes.push(mistake.clone());
        }
        match repair {
            Repair::Whole => {}
            Repair::Removed => {
                reading.whole &= is_nothing(&mistake);
                removed.insert(mistake.path);
            }
            Repair::Impossible => break,
        }
    }
    reading.whole = false;
    reading
}

/// Whether the mistake is an empty value, which can be taken out without loss.
fn is_nothing(mistake: &Mistake) -> bool {
    matches!(&mistake.kind, MistakeKind::WrongType { text: Some(text), .. } if text.is_empty())
}

enum Repair {
    Whole,
    Removed,
    Impossible,
}

fn repair(root: &mut Node, mistake: &Mistake) -> Repair {
    match mend(root, mistake) {
        Some(()) => Repair::Whole,
        None if matches!(mistake.kind, MistakeKind::MissingField(_)) => Repair::Impossible,
        None => remove(root, &mistake.path).map_or(Repair::Impossible, |()| Repair::Removed),
    }
}

/// Does what the advice says, where that is certain.
fn mend(root: &mut Node, mistake: &Mistake) -> Option<()> {
    match &mistake.kind {
        MistakeKind::UnknownField { field, known } => {
            let meant = nearest(field, known.iter().copied())?;
            let (_, parent) = mistake.path.split_last()?;
            rename(at(root, parent)?, field, meant)
        }
        MistakeKind::UnknownVariant { variant, known } => {
            let meant = nearest(variant, known.iter().copied())?;
            set_text(root, &mistake.path, meant)
        }
        MistakeKind::WrongType {
            text: Some(text),
            wanted: Wanted::Text,
            ..
        } if !text.is_empty() => set_text(root, &mistake.path, text),
        MistakeKind::WrongType {
            text: Some(text),
            wanted: Wanted::List,
            ..
        } if !text.is_empty() => {
            let node = at(root, &mistake.path)?;
            node.value = Value::Sequence(vec![node.clone()]);
            Some(())
        }
        MistakeKind::WrongType { .. } | MistakeKind::Refused(_) | MistakeKind::MissingField(_) => None,
    }
}

fn child(path: &[Step], field: &str) -> Vec<Step> {
    path.iter().cloned().chain([Step::Key(field.to_owned())]).collect()
}

fn at<'n>(root: &'n mut Node, path: &[Step]) -> Option<&'n mut Node> {
    path.iter().try_fold(root, |node, step| match (&mut node.value, step) {
        (Value::Mapping(entries), Step::Key(key)) => entries
            .iter_mut()
            .find(|entry| entry.key == *key)
            .map(|entry| &mut entry.value),
        (Value::Sequence(items), Step::Index(index)) => items.get_mut(*index),
        _ => None,
    })
}

/// Replaces the value at a path by a text.
pub(super) fn set_text(root: &mut Node, path: &[Step], text: &str) -> Option<()> {
    at(root, path)?.value = Value::Scalar {
        text: text.to_owned(),
        plain: false,
    };
    Some(())
}

fn rename(parent: &mut Node, field: &str, meant: &str) -> Option<()> {
    if parent.entry(meant).is_some() {
        return None;
    }
    let Value::Mapping(entries) = &mut parent.value else {
        return None;
    };
    meant.clone_into(&mut entries.iter_mut().find(|entry| entry.key == field)?.key);
    Some(())
}

fn remove(root: &mut Node, path: &[Step]) -> Option<()> {
    let (last, parent) = path.split_last()?;
    match (&mut at(root, parent)?.value, last) {
        (Value::Mapping(entries), Step::Key(key)) => entries.retain(|entry| entry.key != *key),
        (Value::Sequence(items), Step::Index(index)) if *index < items.len() => {
            items.remove(*index);
        }
        _ => return None,
    }
    Some(())
}

/// Where the value stands that a path written as a JSON pointer leads to; if it leads nowhere, where it stops.
///
/// The rules on the whole name places this way (`/spec/routes/0/scope`), also of things that are not there.
pub(super) fn place_of(root: &Node, pointer: &str) -> Place {
    let mut place = root.place;
    let mut node = root;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        match &node.value {
            Value::Mapping(_) => {
                let Some(entry) = node.entry(&step) else { break };
                place = entry.place();
                node = &entry.value;
            }
            Value::Sequence(items) => {
                let Some(item) = step.parse().ok().and_then(|index: usize| items.get(index)) else {
                    break;
                };
                place = item.place;
                node = item;
            }
            Value::Scalar { .. } => break,
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::yaml;
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Sample {
        service_account: String,
        #[serde(default)]
        ports: Vec<u16>,
    }

    fn read_text(source: &str) -> (Reading<Sample>, Vec<usize>) {
        let mut document = yaml::read(source).documents.remove(0);
        let reading = read(&mut document);
        let lines = reading.mistakes.iter().map(|mistake| mistake.place.line).collect();
        (reading, lines)
    }

    #[test]
    fn repairs_that_lose_nothing_keep_the_whole() {
        let (reading, lines) = read_text("serviceAcount: 7\nports: 80\n");
        assert_eq!(lines, [1, 1, 2]);
        assert!(reading.whole);
        assert!(
            reading
                .value
                .is_some_and(|sample| sample.service_account == "7" && sample.ports == [80])
        );
    }

    #[test]
    fn what_was_taken_out_is_not_missed() {
        let (reading, lines) = read_text("serviceAccount: {}\nports: [80, x, 443, 99999]\npassword: x\n");
        assert_eq!(lines, [1, 2, 2, 3]);
        assert!(!reading.whole);
        assert!(reading.value.is_none());
    }

    #[test]
    fn what_is_missing_is_told_once() {
        let (reading, lines) = read_text("ports: []\n");
        assert_eq!(lines, [1]);
        assert!(reading.value.is_none());
    }

    #[test]
    fn pointers_become_places() {
        let document = yaml::read("spec:\n  routes:\n  - path: /a\n    scope: x\n  tools: {}\n")
            .documents
            .remove(0);
        let line = |pointer| place_of(&document, pointer).line;
        assert_eq!(line("/spec/routes/0/scope"), 4);
        assert_eq!(line("/spec/routes/0"), 3);
        assert_eq!(line("/spec/routes/7"), 2);
        assert_eq!(line("/spec/hosts"), 1);
        assert_eq!(line(""), 1);
        assert_eq!(
            place_of(&document, "/spec/routes/0/path"),
            Place { line: 3, column: 11 }
        );
    }
}
