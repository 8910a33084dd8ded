//! The numbered vectors of `authz/vectors`, made into cases at a given time.
//!
//! A vector is an RFC 7386 merge patch: an allow patches a base, a denial patches its twin, so that a denial can only
//! state what differs. Claims hold offsets from now, and are signed here. `authz/vectors/README.md` describes the form.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unreachable,
    reason = "tests"
)]
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "shared by several test crates, each with its own needs"
)]

use std::{collections::BTreeMap, sync::Arc};

use authz::{
    case::{self, Case},
    manifest::Mesh,
};
use serde::Deserialize;
use serde_json::{Map, Value};

pub mod bypass;
pub mod keys;
pub mod oracle;
pub mod recipe;

pub use recipe::Recipe;

/// Every file of vectors, in the order of its numbers.
pub const THEMES: [(&str, &str); 24] = [
    ("token-time", include_str!("../../vectors/token-time.json")),
    ("token-header", include_str!("../../vectors/token-header.json")),
    ("token-form", include_str!("../../vectors/token-form.json")),
    ("token-claims", include_str!("../../vectors/token-claims.json")),
    ("peer", include_str!("../../vectors/peer.json")),
    ("audience", include_str!("../../vectors/audience.json")),
    ("agent-state", include_str!("../../vectors/agent-state.json")),
    ("policy", include_str!("../../vectors/policy.json")),
    ("scope", include_str!("../../vectors/scope.json")),
    ("path", include_str!("../../vectors/path.json")),
    ("http-route", include_str!("../../vectors/http-route.json")),
    ("bearer", include_str!("../../vectors/bearer.json")),
    ("mcp", include_str!("../../vectors/mcp.json")),
    ("mcp-2026", include_str!("../../vectors/mcp-2026.json")),
    ("outbound", include_str!("../../vectors/outbound.json")),
    ("bundle", include_str!("../../vectors/bundle.json")),
    ("mcp-names", include_str!("../../vectors/mcp-names.json")),
    ("a2a", include_str!("../../vectors/a2a.json")),
    ("a2a-rest", include_str!("../../vectors/a2a-rest.json")),
    ("mcp-session", include_str!("../../vectors/mcp-session.json")),
    ("a2a-tasks", include_str!("../../vectors/a2a-tasks.json")),
    ("http-destination", include_str!("../../vectors/http-destination.json")),
    ("shadow", include_str!("../../vectors/shadow.json")),
    ("mcp-tasks", include_str!("../../vectors/mcp-tasks.json")),
];

const BASE: &str = include_str!("../../vectors/base.json");

/// One numbered case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    /// Four digits: two of the theme, two of the vector.
    pub id: String,
    /// What an allow patches.
    pub base: Option<String>,
    /// The allow that a denial patches.
    pub twin: Option<String>,
    /// One line: what this case shows.
    pub why: String,
    /// The merge patch.
    #[serde(default)]
    pub change: Map<String, Value>,
    /// Why the change has more than one leaf and is still one fact.
    pub facts: Option<String>,
    /// Why jwt-simple does not agree with us about the token.
    pub oracle: Option<String>,
    /// Where the vector runs; everywhere unless it says otherwise.
    #[serde(default = "everywhere")]
    pub runs: Vec<Runs>,
    /// Why it does not run everywhere.
    pub skip: Option<String>,
    pub expect: Expect,
}

/// A place where vectors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runs {
    Native,
    Wasm,
    Envoy,
}

/// What must be answered.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase", deny_unknown_fields)]
pub enum Expect {
    Permit,
    /// It goes on, and this would have denied it.
    Shadow {
        code: String,
        #[serde(default)]
        needed: BTreeMap<String, String>,
    },
    Deny {
        code: String,
        status: u16,
        /// What the request would have needed, as the caller is told.
        #[serde(default)]
        needed: BTreeMap<String, String>,
    },
}

/// A vector with its place and its recipe.
#[derive(Debug, Clone)]
pub struct Placed {
    pub theme: &'static str,
    pub vector: Vector,
    pub recipe: Recipe,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Theme {
    pub title: String,
    pub vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    trust_domain: String,
    issuers: BTreeMap<String, Vec<String>>,
    bases: BTreeMap<String, Value>,
}

/// Every vector with its recipe, in the order of the files; then what was recorded, and its bent forms.
pub fn all() -> Vec<Placed> {
    let base: Base = serde_json::from_str(BASE).unwrap();
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    let mut placed = Vec::new();
    for (theme, vector) in themes()
        .into_iter()
        .flat_map(|(name, theme)| theme.vectors.into_iter().map(move |v| (name, v)))
    {
        let mut recipe = match (&vector.base, &vector.twin) {
            (Some(name), None) => base.named(name),
            (None, Some(id)) => known
                .get(id)
                .unwrap_or_else(|| panic!("{}: no earlier {id}", vector.id))
                .clone(),
            _ => panic!("{}: `base` or `twin`, and not both", vector.id),
        };
        merge(&mut recipe, &Value::Object(vector.change.clone()));
        known.insert(vector.id.clone(), recipe.clone());
        let recipe = Recipe::new(recipe, &base.trust_domain, &base.issuers)
            .unwrap_or_else(|error| panic!("{}: {error}", vector.id));
        placed.push(Placed { theme, vector, recipe });
    }
    placed.extend(bypass::all());
    placed
}

/// The recipe of a base, changed as a vector would change it.
pub fn of_base(name: &str, change: &Value) -> Recipe {
    let base: Base = serde_json::from_str(BASE).unwrap();
    let mut recipe = base.named(name);
    merge(&mut recipe, change);
    Recipe::new(recipe, &base.trust_domain, &base.issuers).unwrap()
}

/// The files, parsed.
pub fn themes() -> Vec<(&'static str, Theme)> {
    let parse = |(name, text)| {
        (
            name,
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}.json: {error}")),
        )
    };
    THEMES.into_iter().map(parse).collect()
}

impl Base {
    fn named(&self, name: &str) -> Value {
        let mut value = self
            .bases
            .get(name)
            .unwrap_or_else(|| panic!("no base `{name}`"))
            .clone();
        let Some(Value::String(parent)) = value.get("extends").cloned() else {
            return value;
        };
        let change = value["change"].take();
        value = self.named(&parent);
        merge(&mut value, &change);
        value
    }
}

/// Decides a case in its written form, as `ostiary decide --cases` does.
pub fn decide(case: &Value) -> Expect {
    let case = Case::read(case.to_string().as_bytes(), |_, _| {
        Err::<Arc<Mesh>, _>("a vector brings its policy signed")
    });
    let verdict = case
        .and_then(|case| case::run(&case, &oracle::NativeVerifier))
        .unwrap_or_else(|error| panic!("{error}"));
    let needed = serde_json::from_value(serde_json::to_value(&verdict.needed).unwrap()).unwrap();
    let code = verdict.code.to_owned();
    match (verdict.verdict, verdict.status) {
        ("permit", 200) if code == "ok" => Expect::Permit,
        ("permit", 200) => Expect::Shadow { code, needed },
        (_, status) => Expect::Deny { code, status, needed },
    }
}

fn everywhere() -> Vec<Runs> {
    vec![Runs::Native, Runs::Wasm, Runs::Envoy]
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
