//! The condition `Ready` of each object: what it should say, and the writing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::DefaultBackoff;
use serde_json::json;
use tokio::sync::watch;

use super::AT_MOST;
use super::shelf::{Held, Name, READY};
use crate::clock::Clock;
use crate::files::ObjectMistake;

/// Who owns the condition, for server-side apply.
const MANAGER: &str = "ostiary-policy-server";

/// The most mistakes that one object is told, and the longest message; the rest follows once these are mended.
const MAX_MISTAKES: usize = 10;
const MAX_MESSAGE_BYTES: usize = 4096;

/// What was found when all objects were last judged.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// What the last good policy holds: uid and generation.
    in_force: BTreeMap<Name, (String, i64)>,
    /// What is wrong now; nothing while the policy in force is what the objects say.
    mistakes: BTreeMap<Name, Vec<ObjectMistake>>,
    refused: bool,
}

/// A condition, without the time of its change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ready {
    status: &'static str,
    reason: &'static str,
    message: String,
    generation: i64,
}

/// A condition to be written.
#[derive(Debug, Clone)]
pub(super) struct Write {
    name: Name,
    uid: String,
    ready: Ready,
    /// Since when it has been so, if the status has that already.
    since: Option<Time>,
}

impl Verdict {
    /// All of these are in force.
    pub(super) fn in_force(held: Vec<(Name, Held)>) -> Self {
        Self {
            in_force: held
                .into_iter()
                .map(|(name, held)| (name, (held.uid, held.generation)))
                .collect(),
            ..Self::default()
        }
    }

    /// The last good policy stays in force, because of these.
    pub(super) fn refuse(&mut self, mistakes: BTreeMap<Name, Vec<ObjectMistake>>) {
        self.mistakes = mistakes;
        self.refused = true;
    }

    /// What is to be written so that every object's status is true.
    pub(super) fn writes<'h>(&self, held: impl Iterator<Item = (&'h Name, &'h Held)>) -> Vec<Write> {
        held.filter_map(|(name, held)| {
            let ready = self.ready(name, held)?;
            let seen = held.ready.as_ref();
            let is_told = seen.is_some_and(|seen| ready.is(seen));
            (!is_told).then(|| Write {
                since: seen
                    .filter(|seen| seen.status == ready.status)
                    .map(|seen| seen.last_transition_time.clone()),
                name: name.clone(),
                uid: held.uid.clone(),
                ready,
            })
        })
        .collect()
    }

    /// What an object's status should say; nothing if it has not been judged.
    fn ready(&self, name: &Name, held: &Held) -> Option<Ready> {
        let in_force = self
            .in_force
            .get(name)
            .filter(|(uid, _)| *uid == held.uid)
            .map(|(_, generation)| *generation);
        let (status, reason, message) = match self.mistakes.get(name) {
            Some(mistakes) => ("False", "Refused", listed(mistakes)),
            None if in_force == Some(held.generation) => {
                ("True", "InForce", format!("generation {} is in force", held.generation))
            }
            None if self.refused => ("False", "Held", held_back(in_force)),
            None => return None,
        };
        Some(Ready {
            status,
            reason,
            message,
            generation: held.generation,
        })
    }
}

fn listed(mistakes: &[ObjectMistake]) -> String {
    let told: Vec<_> = mistakes.iter().take(MAX_MISTAKES).map(ToString::to_string).collect();
    let mut message = told.join("\n");
    if let Some(more) = mistakes.len().checked_sub(MAX_MISTAKES + 1) {
        message.push_str(&format!("\nand {} more", more + 1));
    }
    while message.len() > MAX_MESSAGE_BYTES {
        message.pop();
    }
    message
}

/// Says the same whichever others are wrong: a status for each object that changes would be many writes.
fn held_back(in_force: Option<i64>) -> String {
    let meanwhile = match in_force {
        Some(generation) => format!("generation {generation} stays in force"),
        None => "it waits".to_owned(),
    };
    format!("right by itself, but another agent or service is refused, and policy changes as a whole: {meanwhile}")
}

impl Ready {
    fn is(&self, seen: &Condition) -> bool {
        let Self {
            status,
            reason,
            message,
            generation,
        } = self;
        seen.status == *status
            && seen.reason == *reason
            && seen.message == *message
            && seen.observed_generation == Some(*generation)
    }
}

/// Writes conditions, one after the other.
pub(super) struct Writer {
    client: Client,
    clock: Clock,
    writes: watch::Receiver<Arc<Vec<Write>>>,
    /// What was written and has not been seen in the object's status yet.
    written: BTreeMap<Name, (String, Ready)>,
}

impl Writer {
    /// A writer, and where it is told what to write; what it was told before is forgotten then.
    pub(super) fn new(client: Client, clock: Clock) -> (Self, watch::Sender<Arc<Vec<Write>>>) {
        let (sender, writes) = watch::channel(Arc::default());
        let writer = Self {
            client,
            clock,
            writes,
            written: BTreeMap::new(),
        };
        (writer, sender)
    }

    pub(super) async fn run(mut self) {
        let mut pauses = DefaultBackoff::default();
        loop {
            let all_written = self.write_all().await;
            let changed = self.writes.changed();
            let heard = if all_written {
                changed.await
            } else {
                match tokio::time::timeout(pauses.next().unwrap_or(AT_MOST), changed).await {
                    Ok(heard) => heard,
                    Err(_) => Ok(()),
                }
            };
            if heard.is_err() {
                return;
            }
        }
    }

    /// Writes what there is to write; whether all of it could be written.
    async fn write_all(&mut self) -> bool {
        let writes = Arc::clone(&self.writes.borrow_and_update());
        let names: BTreeSet<_> = writes.iter().map(|write| &write.name).collect();
        self.written.retain(|name, _| names.contains(name));
        let mut all_written = true;
        for write in writes.iter() {
            let content = (write.uid.clone(), write.ready.clone());
            if self.written.get(&write.name) == Some(&content) {
                continue;
            }
            match self.write(write).await {
                Ok(()) => {
                    self.written.insert(write.name.clone(), content);
                }
                Err(error) => {
                    all_written = false;
                    tracing::warn!(object = %write.name, %error, "a status could not be written");
                }
            }
            // What was to be written may be so no more.
            if self.writes.has_changed().unwrap_or(false) {
                return true;
            }
        }
        all_written
    }

    async fn write(&self, write: &Write) -> Result<(), kube::Error> {
        let resource = write.name.kind.resource();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &write.name.namespace, &resource);
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            // With the uid, so that a namesake that has taken its place is not told this.
            "metadata": {"name": write.name.name, "namespace": write.name.namespace, "uid": write.uid},
            "status": {"conditions": [self.condition(write)]},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        match api
            .patch_status(&write.name.name, &parameters, &Patch::Apply(&patch))
            .await
        {
            Ok(_) => Ok(()),
            // Gone, or another object by now: its own event says what is to be written to that.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn condition(&self, write: &Write) -> Condition {
        let Ready {
            status,
            reason,
            message,
            generation,
        } = &write.ready;
        let now = || {
            let seconds = i64::try_from(self.clock.seconds()).unwrap_or(i64::MAX);
            Time(Timestamp::from_second(seconds).unwrap_or_default())
        };
        Condition {
            type_: READY.to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: message.clone(),
            observed_generation: Some(*generation),
            last_transition_time: write.since.clone().unwrap_or_else(now),
        }
    }
}
