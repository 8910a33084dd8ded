//! Agents and services that an API server of Kubernetes holds: watched, put in force together, and told what came of it.
//!
//! They are read as files are: all of them together make a policy, and one that is wrong keeps the last good policy in
//! force. Each object's condition `Ready` says whether what it says is in force, and if not, what to write instead.
//! While the API server does not answer, the last good policy stays as well, and `/readyz` says so.
//!
//! Every watch begins with a list. Nothing is put in force before there is a whole list of every kind and namespace, and
//! a list that comes again replaces what was known only when it is whole: there is never half a policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::config::{Config as ClientConfig, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher::DefaultBackoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::{App, PolicyStatus};
use crate::config::Kubernetes;
use crate::files::{self, MAX_OBJECTS, ObjectMistake};
use crate::reload::{self, SHOWN_PROBLEMS};

mod shelf;
mod status;
mod stream;

use shelf::{Change, Held, Kind, Name, Shelf};
use status::{Verdict, Writer};
use stream::News;

/// A folder is applied object by object: what comes within this time of the one before it is judged with it.
const QUIET: Duration = Duration::from_millis(100);

/// How long objects that do not stop coming may keep others waiting.
const AT_MOST: Duration = Duration::from_secs(1);

/// News that wait to be taken, of all streams together.
const WAITING: usize = 256;

/// An API server that takes connections and answers nothing is none. Longer than what a watch may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("this pod has no service account token for the API server: {0}")]
    InCluster(#[from] InClusterError),
    #[error("`policy.kubernetes.kubeconfig`: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("no client for the API server can be made: {0}")]
    Client(#[from] kube::Error),
}

/// Keeps the policy what the API server says, until the server stops.
pub async fn run(app: Arc<App>, source: Kubernetes, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = follow(&app, &source) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn follow(app: &App, source: &Kubernetes) {
    let client = connect_at_last(app, source).await;
    // Dropped with this future, and with it all tasks.
    let mut tasks = JoinSet::new();
    let (sender, mut news) = mpsc::channel(WAITING);
    let mut shelf = Shelf::default();
    let mut namespaces: Vec<_> = source.namespaces.iter().map(|name| Some(name.as_str())).collect();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    for kind in Kind::ALL {
        for namespace in &namespaces {
            let resource = kind.resource();
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            tasks.spawn(stream::run(shelf.stream(kind), api, sender.clone()));
        }
    }
    let (writer, writes) = Writer::new(client, app.clock.clone());
    tasks.spawn(writer.run());
    let mut keeper = Keeper {
        app,
        shelf,
        verdict: Verdict::default(),
        status: PolicyStatus::default(),
        writes,
    };
    keeper.tell();
    while let Some(change) = keeper.take(&mut news).await {
        keeper.settle(change).await;
    }
}

/// A client; a token that is not there yet, or a wrong kubeconfig, is told and looked for again.
async fn connect_at_last(app: &App, source: &Kubernetes) -> Client {
    let mut pauses = DefaultBackoff::default();
    loop {
        match connect(source).await {
            Ok(client) => return client,
            Err(error) => {
                tracing::error!(%error, "no policy can be had from the API server");
                app.set_policy_status(PolicyStatus {
                    current: false,
                    problems: vec![error.to_string()],
                });
            }
        }
        tokio::time::sleep(pauses.next().unwrap_or(AT_MOST)).await;
    }
}

async fn connect(source: &Kubernetes) -> Result<Client, ConnectError> {
    let mut config = match &source.kubeconfig {
        Some(path) => {
            let options = KubeConfigOptions::default();
            ClientConfig::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?
        }
        None => ClientConfig::incluster()?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // What fails is told at once, and tried again here.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Holds what was seen against what is in force.
struct Keeper<'a> {
    app: &'a App,
    shelf: Shelf,
    verdict: Verdict,
    /// What came of the last policy that was judged.
    status: PolicyStatus,
    writes: watch::Sender<Arc<Vec<status::Write>>>,
}

impl Keeper<'_> {
    /// Takes what comes together; `None` when nothing comes any more.
    async fn take(&mut self, news: &mut mpsc::Receiver<(usize, News)>) -> Option<Change> {
        let (stream, first) = news.recv().await?;
        let mut change = self.shelf.take(stream, first);
        let until = Instant::now() + AT_MOST;
        while let Ok(Some((stream, next))) = tokio::time::timeout(QUIET, news.recv()).await {
            change = change.max(self.shelf.take(stream, next));
            if Instant::now() > until {
                break;
            }
        }
        Some(change)
    }

    async fn settle(&mut self, change: Change) {
        if self.shelf.is_whole() {
            if change == Change::Policy {
                self.judge().await;
            }
            let writes = self.verdict.writes(self.shelf.held());
            self.writes.send_replace(Arc::new(writes));
        }
        if change != Change::Nothing {
            self.tell();
        }
    }

    /// Puts all that there is in force, if all of it is right.
    async fn judge(&mut self) {
        let held: Vec<(Name, Held)> = self
            .shelf
            .held()
            .map(|(name, held)| (name.clone(), held.clone()))
            .collect();
        if held.len() > MAX_OBJECTS {
            let problem = format!("more than {MAX_OBJECTS} agents and services");
            self.status = reload::settle(self.app, Err(vec![problem]), &SOURCE);
            return;
        }
        let trust_domain = self.app.config.trust_domain.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = files::read_objects(held.iter().map(|(_, held)| &*held.document), &trust_domain);
            (held, read)
        });
        let Ok((held, read)) = read.await else { return };
        match read {
            Ok(mesh) => {
                self.status = reload::settle(self.app, Ok(mesh), &SOURCE);
                self.verdict = Verdict::in_force(held);
            }
            Err(mistakes) => {
                let problems = mistakes.iter().map(|mistake| {
                    let name = held.get(mistake.object).map(|(name, _)| name.to_string());
                    format!("{}: {mistake}", name.unwrap_or_default())
                });
                self.status = reload::settle(self.app, Err(problems.collect()), &SOURCE);
                self.verdict.refuse(by_object(&held, mistakes));
            }
        }
    }

    /// Says what is known, for `/readyz` and the metrics.
    fn tell(&self) {
        let mut problems = self.shelf.troubles();
        let current = problems.is_empty() && self.status.current;
        problems.extend(self.status.problems.iter().cloned());
        problems.truncate(SHOWN_PROBLEMS);
        self.app.set_policy_status(PolicyStatus { current, problems });
    }
}

/// What logs say that a policy came from.
const SOURCE: &str = "API server";

fn by_object(held: &[(Name, Held)], mistakes: Vec<ObjectMistake>) -> BTreeMap<Name, Vec<ObjectMistake>> {
    let mut by_object: BTreeMap<Name, Vec<ObjectMistake>> = BTreeMap::new();
    for mistake in mistakes {
        if let Some((name, _)) = held.get(mistake.object) {
            by_object.entry(name.clone()).or_default().push(mistake);
        }
    }
    by_object
}
