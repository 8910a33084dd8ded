//! Agents and services as an API server hands them out: documents without lines, read exactly as files are.

use std::fmt;
use std::path::PathBuf;

use authz::manifest::Mesh;
use serde_json::Value as Json;

use super::yaml::{Entry, Node, Place, Value};
use super::{Loader, MAX_FILES};

/// As many as there may be files.
pub const MAX_OBJECTS: usize = MAX_FILES;

/// No sound document is half as deep.
const MAX_DEPTH: usize = 32;

/// One mistake in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMistake {
    /// The place of the object in what was given.
    pub object: usize,
    /// The field, such as `spec.tools[0]`; empty where it is the object as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it, such as `write instead …`.
    pub advice: String,
}

impl fmt::Display for ObjectMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.field.is_empty() { "" } else { ": " };
        write!(f, "{}{separator}{}; {}", self.field, self.message, self.advice)
    }
}

/// Reads the agents and services of a mesh from documents, one each.
///
/// # Errors
///
/// Every mistake, in the order of the documents.
pub fn read_objects<'j>(
    documents: impl IntoIterator<Item = &'j Json>,
    trust_domain: &str,
) -> Result<Mesh, Vec<ObjectMistake>> {
    let mut loader = Loader {
        complete: true,
        ..Loader::default()
    };
    let mut fields = Vec::new();
    for document in documents {
        let mut numbered = Fields::default();
        let node = numbered.node(document, String::new(), 0);
        fields.push(numbered);
        loader.file(PathBuf::new()).document(node);
    }
    loader.judge(trust_domain).map_err(|mut found| {
        found.sort();
        found.dedup();
        let mistakes = found.into_iter().map(|(object, place, message, advice)| ObjectMistake {
            field: fields.get(object).map(|fields| fields.at(place)).unwrap_or_default(),
            object,
            message,
            advice,
        });
        mistakes.collect()
    })
}

/// The fields of a document. It has no lines: each of its values is given a number, and has that as its line.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn at(&self, place: Place) -> String {
        self.0.get(place.line).cloned().unwrap_or_default()
    }

    fn node(&mut self, value: &Json, field: String, depth: usize) -> Node {
        let place = Place {
            line: self.0.len(),
            column: 0,
        };
        self.0.push(field.clone());
        // INVARIANT: what a manifest may hold ends far above this depth, so that a document which is cut off here is
        // refused for what leads here.
        let value = if depth > MAX_DEPTH {
            scalar("", true)
        } else {
            self.value(value, &field, depth)
        };
        Node { place, value }
    }

    fn value(&mut self, value: &Json, field: &str, depth: usize) -> Value {
        match value {
            Json::Null => scalar("", true),
            Json::Bool(value) => scalar(&value.to_string(), true),
            Json::Number(number) => scalar(&number.to_string(), true),
            Json::String(text) => scalar(text, false),
            Json::Array(items) => {
                let items = items.iter().enumerate();
                let nodes = items.map(|(index, item)| self.node(item, format!("{field}[{index}]"), depth + 1));
                Value::Sequence(nodes.collect())
            }
            Json::Object(entries) => {
                let entries = entries.iter().map(|(key, value)| self.entry(key, value, field, depth));
                Value::Mapping(entries.collect())
            }
        }
    }

    fn entry(&mut self, key: &str, value: &Json, field: &str, depth: usize) -> Entry {
        let field = match field {
            "" => key.to_owned(),
            field => format!("{field}.{key}"),
        };
        let value = self.node(value, field, depth + 1);
        Entry {
            key: key.to_owned(),
            key_place: value.place,
            value,
        }
    }
}

fn scalar(text: &str, plain: bool) -> Value {
    Value::Scalar {
        text: text.to_owned(),
        plain,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn service() -> Json {
        json!({
            "apiVersion": "ostiary.dev/v1alpha1",
            "kind": "Service",
            "metadata": {"name": "warehouse", "namespace": "data"},
            "spec": {
                "serviceAccount": "warehouse",
                "hosts": ["warehouse.data.svc.cluster.local"],
                "ports": [8080],
                "protocol": "http",
                "routes": [{"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"}],
            },
        })
    }

    /// What is told of the service when a part of it is replaced.
    fn told(pointer: &str, value: Json) -> Vec<String> {
        let mut document = service();
        *document.pointer_mut(pointer).unwrap() = value;
        let mistakes = read_objects([&document], "cluster.local").unwrap_err();
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_sound_document_is_a_mesh() {
        let mesh = read_objects([&service()], "cluster.local").unwrap();
        assert_eq!((mesh.services().len(), mesh.agents().len()), (1, 0));
    }

    #[test]
    fn mistakes_name_the_field() {
        for (pointer, value, start) in [
            ("/spec/routes/0/method", json!("get"), "spec.routes[0].method: "),
            (
                "/spec/ports/0",
                json!("8080"),
                "spec.ports[0]: item 1 of `ports` must be a whole number",
            ),
            ("/spec/ports/0", json!(8080.5), "spec.ports[0]: "),
            ("/spec/hosts", json!(null), "spec.hosts: `hosts` must be a list"),
            ("/spec/protocol", json!("llm"), "spec.protocol: "),
            ("/metadata/name", json!("ware.house"), "metadata.name: "),
            (
                "/spec",
                json!({"a": {"b": [[]]}}),
                "spec.a: the field `a` is not known here",
            ),
            ("", json!([]), "the document must be a mapping"),
        ] {
            let told = told(pointer, value.clone());
            let is_told = told.iter().any(|line| line.starts_with(start));
            assert!(is_told, "{pointer} {value}: {told:?}");
        }
    }

    #[test]
    fn mistakes_name_the_object() {
        let mut wrong = service();
        wrong["metadata"]["name"] = json!("twin");
        let mistakes = read_objects([&service(), &wrong], "cluster.local").unwrap_err();
        assert!(mistakes.iter().all(|mistake| mistake.object == 1), "{mistakes:?}");
        assert_eq!(mistakes[0].field, "spec.hosts[0]");
    }

    #[test]
    fn a_document_of_any_depth_is_refused_for_what_leads_there() {
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        assert!(told("/spec/hosts", deep.clone())[0].starts_with("spec.hosts[0]: "));
        assert!(told("/spec/ports", json!({"deep": deep}))[0].starts_with("spec.ports: "));
    }
}
