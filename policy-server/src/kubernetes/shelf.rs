//! What the API server holds, as far as it has been told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::stream::News;

pub(super) const GROUP: &str = "ostiary.dev";
pub(super) const VERSION: &str = "v1alpha1";

/// The condition that says whether an object is in force.
pub(super) const READY: &str = "Ready";

/// A kind of object that is part of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Agent,
    Service,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Agent, Self::Service];

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Agent => ("Agent", "agents"),
            Self::Service => ("Service", "services"),
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let (kind, plural) = self.names();
        ApiResource {
            group: GROUP.to_owned(),
            version: VERSION.to_owned(),
            api_version: format!("{GROUP}/{VERSION}"),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.names().0, self.namespace, self.name)
    }
}

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// What a file would say.
    pub(super) document: Arc<Value>,
    pub(super) uid: String,
    pub(super) generation: i64,
    /// What its status says already.
    pub(super) ready: Option<Condition>,
}

/// What news change; the later of two is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Nothing,
    /// What is known of the objects, but not what they say.
    Status,
    /// What the objects say.
    Policy,
}

/// All objects, by stream.
#[derive(Debug, Default)]
pub(super) struct Shelf(Vec<Stream>);

#[derive(Debug)]
struct Stream {
    kind: Kind,
    /// None before the first whole list.
    objects: Option<BTreeMap<Name, Held>>,
    /// A list that is not whole yet.
    arriving: BTreeMap<Name, Held>,
    trouble: Option<String>,
}

impl Shelf {
    /// Makes room for what a stream tells.
    pub(super) fn stream(&mut self, kind: Kind) -> usize {
        self.0.push(Stream {
            kind,
            objects: None,
            arriving: BTreeMap::new(),
            trouble: None,
        });
        self.0.len() - 1
    }

    pub(super) fn take(&mut self, stream: usize, news: News) -> Change {
        match (self.0.get_mut(stream), news) {
            (Some(stream), Ok(event)) => stream.event(event),
            (Some(stream), Err(trouble)) => {
                stream.trouble = Some(trouble);
                Change::Status
            }
            (None, _) => Change::Nothing,
        }
    }

    /// Whether every stream has told everything at least once.
    pub(super) fn is_whole(&self) -> bool {
        self.0.iter().all(|stream| stream.objects.is_some())
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (&Name, &Held)> {
        self.0.iter().filter_map(|stream| stream.objects.as_ref()).flatten()
    }

    /// What cannot be known now, and why.
    pub(super) fn troubles(&self) -> Vec<String> {
        let of = |stream: &Stream| {
            let plural = stream.kind.names().1;
            match (&stream.trouble, &stream.objects) {
                (Some(trouble), _) => Some(format!("{plural}: {trouble}")),
                (None, None) => Some(format!("{plural}: the API server has not listed them yet")),
                (None, Some(_)) => None,
            }
        };
        let mut troubles: Vec<_> = self.0.iter().filter_map(of).collect();
        troubles.dedup();
        troubles
    }
}

impl Stream {
    fn event(&mut self, event: Event<DynamicObject>) -> Change {
        match event {
            Event::Init => {
                self.arriving.clear();
                Change::Nothing
            }
            Event::InitApply(object) => {
                if let Some((name, held)) = self.read(object) {
                    self.arriving.insert(name, held);
                }
                Change::Nothing
            }
            Event::InitDone => self.list(),
            Event::Apply(object) => self
                .read(object)
                .map_or(Change::Nothing, |(name, held)| self.apply(name, held)),
            Event::Delete(object) => self
                .read(object)
                .map_or(Change::Nothing, |(name, _)| self.delete(&name)),
        }
    }

    fn list(&mut self) -> Change {
        let listed = std::mem::take(&mut self.arriving);
        let known = self.objects.replace(listed);
        let was_troubled = self.trouble.take().is_some();
        let same = |known: &BTreeMap<Name, Held>, listed: &BTreeMap<Name, Held>| {
            known.len() == listed.len()
                && known
                    .iter()
                    .zip(listed)
                    .all(|((name, held), (other, listed))| name == other && held.says_as(listed))
        };
        match (known, &self.objects) {
            (Some(known), Some(listed)) if same(&known, listed) && !was_troubled => Change::Nothing,
            (Some(known), Some(listed)) if same(&known, listed) => Change::Status,
            _ => Change::Policy,
        }
    }

    fn apply(&mut self, name: Name, held: Held) -> Change {
        let known = self.objects.get_or_insert_default().insert(name, held.clone());
        match known {
            Some(known) if known.says_as(&held) => Change::Status,
            _ => Change::Policy,
        }
    }

    fn delete(&mut self, name: &Name) -> Change {
        let known = self.objects.as_mut().and_then(|objects| objects.remove(name));
        known.map_or(Change::Nothing, |_| Change::Policy)
    }

    fn read(&self, object: DynamicObject) -> Option<(Name, Held)> {
        let DynamicObject {
            types,
            metadata,
            mut data,
        } = object;
        let name = Name {
            kind: self.kind,
            namespace: metadata.namespace?,
            name: metadata.name?,
        };
        let fields = data.as_object_mut()?;
        let ready = fields.remove("status").and_then(ready);
        let types = types.unwrap_or_else(|| {
            let resource = self.kind.resource();
            kube::api::TypeMeta {
                api_version: resource.api_version,
                kind: resource.kind,
            }
        });
        fields.insert("apiVersion".to_owned(), types.api_version.into());
        fields.insert("kind".to_owned(), types.kind.into());
        fields.insert(
            "metadata".to_owned(),
            json!({"name": name.name, "namespace": name.namespace}),
        );
        let held = Held {
            document: Arc::new(data),
            uid: metadata.uid.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            ready,
        };
        Some((name, held))
    }
}

impl Held {
    /// Whether it is the same object in the same words, whatever its status says.
    fn says_as(&self, other: &Self) -> bool {
        (&self.uid, self.generation, &self.document) == (&other.uid, other.generation, &other.document)
    }
}

fn ready(mut status: Value) -> Option<Condition> {
    let conditions = status.get_mut("conditions")?.as_array_mut()?;
    let ready = conditions
        .iter_mut()
        .find(|condition| condition.get("type").is_some_and(|name| name == READY))?;
    serde_json::from_value(ready.take()).ok()
}
