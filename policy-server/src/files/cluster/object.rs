//! Kubernetes objects, and what their selectors meet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::yaml::{Node, Value};

/// The labels of a pod or a namespace.
pub(super) type Labels<'c> = BTreeMap<&'c str, &'c str>;

/// A Kubernetes object and the file that it stands in.
pub(super) struct Object {
    pub(super) file: PathBuf,
    pub(super) node: Node,
}

impl Object {
    pub(super) fn kind(&self) -> &str {
        text(&self.node, &["kind"]).unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        text(&self.node, &["metadata", "name"]).unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        text(&self.node, &["metadata", "namespace"]).unwrap_or("default")
    }
}

pub(super) fn at<'n>(node: &'n Node, path: &[&str]) -> Option<&'n Node> {
    path.iter()
        .try_fold(node, |node, key| node.entry(key).map(|entry| &entry.value))
}

pub(super) fn text<'n>(node: &'n Node, path: &[&str]) -> Option<&'n str> {
    at(node, path)?.text()
}

pub(super) fn items<'n>(node: &'n Node, path: &[&str]) -> &'n [Node] {
    match at(node, path).map(|node| &node.value) {
        Some(Value::Sequence(items)) => items,
        _ => &[],
    }
}

pub(super) fn labels_at<'n>(node: &'n Node, path: &[&str]) -> Labels<'n> {
    match at(node, path).map(|node| &node.value) {
        Some(Value::Mapping(entries)) => entries
            .iter()
            .filter_map(|entry| Some((entry.key.as_str(), entry.value.text()?)))
            .collect(),
        _ => Labels::new(),
    }
}

/// Whether all wanted labels are there; none wanted meets everything.
pub(super) fn has_all(labels: &Labels<'_>, wanted: &Labels<'_>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a label selector (`matchLabels`, `matchExpressions`) meets labels; an empty one meets everything.
pub(super) fn meets(selector: &Node, labels: &Labels<'_>) -> bool {
    has_all(labels, &labels_at(selector, &["matchLabels"]))
        && items(selector, &["matchExpressions"])
            .iter()
            .all(|expression| holds(expression, labels))
}

fn holds(expression: &Node, labels: &Labels<'_>) -> bool {
    let value = text(expression, &["key"]).and_then(|key| labels.get(key));
    let is_listed = || {
        items(expression, &["values"])
            .iter()
            .any(|listed| listed.text() == value.copied())
    };
    match text(expression, &["operator"]) {
        Some("In") => value.is_some() && is_listed(),
        Some("NotIn") => value.is_none() || !is_listed(),
        Some("Exists") => value.is_some(),
        Some("DoesNotExist") => value.is_none(),
        // The API server refuses any other.
        _ => false,
    }
}
