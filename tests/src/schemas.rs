//! JSON schemas of everything that a cluster's API server takes, for kubeconform: from its OpenAPI description and from the
//! CustomResourceDefinitions in it.
//!
//! Strict: what a schema does not name is refused.
#![expect(clippy::indexing_slicing, reason = "a JSON value without the field answers null")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::cluster::Cluster;

/// Where the definitions that objects share are written.
const SHARED: &str = "shared.json";

/// Writes a schema a kind and version to a folder; answers with the kinds that come from CustomResourceDefinitions.
///
/// # Errors
///
/// When the cluster does not answer, or with something else.
pub fn write(cluster: &Cluster, folder: &Path) -> Result<BTreeSet<String>> {
    fs::create_dir_all(folder)?;
    builtin(cluster, folder)?;
    custom(cluster, folder)
}

/// kubeconform's name for the files of [`write`].
#[must_use]
pub fn location(folder: &Path) -> String {
    format!(
        "{}/{{{{.Group}}}}-{{{{.ResourceAPIVersion}}}}-{{{{.ResourceKind}}}}.json",
        folder.display()
    )
}

fn name(group: &str, version: &str, kind: &str) -> String {
    // kubeconform takes all before the slash of `apiVersion` for the group, also where there is no slash.
    let group = if group.is_empty() { version } else { group };
    format!("{group}-{version}-{}.json", kind.to_lowercase())
}

fn builtin(cluster: &Cluster, folder: &Path) -> Result<()> {
    let described: Value = serde_json::from_str(&cluster.kubectl(["get", "--raw", "/openapi/v2"])?)?;
    let mut definitions = described["definitions"].as_object().context("no definitions")?.clone();
    for (definition, schema) in &mut definitions {
        for known in schema["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let part = |field: &str| known[field].as_str().unwrap_or_default();
            let file = name(part("group"), part("version"), part("kind"));
            let reference = json!({"$ref": format!("{SHARED}#/definitions/{definition}")});
            fs::write(folder.join(file), reference.to_string())?;
        }
        // Written as a number or as text, whatever the description says.
        if definition.ends_with(".Quantity") || definition.ends_with(".IntOrString") {
            *schema = json!({"type": ["string", "number"]});
        }
        close(schema);
    }
    let shared = json!({"definitions": definitions}).to_string();
    fs::write(
        folder.join(SHARED),
        shared.replace("\"#/definitions/", &format!("\"{SHARED}#/definitions/")),
    )?;
    Ok(())
}

fn custom(cluster: &Cluster, folder: &Path) -> Result<BTreeSet<String>> {
    let list: Value = serde_json::from_str(&cluster.kubectl(["get", "crds", "--output=json"])?)?;
    let mut kinds = BTreeSet::new();
    for definition in list["items"].as_array().context("no list")? {
        let spec = &definition["spec"];
        let kind = spec["names"]["kind"].as_str().context("no kind")?;
        for version in spec["versions"].as_array().context("no versions")? {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            // What every object has, and this schema leaves to the API server.
            for (field, own) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
                schema["properties"][field] = json!({"type": own});
            }
            close(&mut schema);
            let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let file = name(&part(&spec["group"]), &part(&version["name"]), kind);
            fs::write(folder.join(file), schema.to_string())?;
        }
        kinds.insert(kind.to_owned());
    }
    Ok(kinds)
}

/// Refuses fields that a schema does not name, except where it says that it keeps them.
fn close(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        fields.remove("anyOf");
        fields.insert("type".to_owned(), json!(["string", "integer"]));
    }
    let keeps = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") && !keeps {
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    // Branches (`oneOf` and its like) say what else holds of an object, and name only some of its fields.
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(field) {
            close(inner);
        }
    }
    let inner = fields.get_mut("properties").and_then(Value::as_object_mut);
    inner.map(Map::values_mut).into_iter().flatten().for_each(close);
}
