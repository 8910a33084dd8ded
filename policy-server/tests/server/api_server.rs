//! What an API server of Kubernetes says of agents and services, on loopback: lists in pages, watches, and the patching of
//! statuses. It can lose its log, break off, refuse, and be gone.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Json, Router};
use futures_util::stream;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Plural, namespace and name.
type Key = (String, String, String);

/// An API server; objects outlive its being gone.
pub(crate) struct ApiServer {
    held: Arc<Held>,
    address: SocketAddr,
    /// A runtime of its own: with it all connections end.
    running: Option<tokio::runtime::Runtime>,
}

struct Held {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    objects: BTreeMap<Key, Value>,
    /// Version, plural and event.
    log: Vec<(u64, String, Value)>,
    /// What was before this version is not in the log any more.
    log_starts: u64,
    patches: Vec<Value>,
    lists: usize,
    refused: Option<(StatusCode, &'static str)>,
    /// Lists of this plural break off after their first page.
    broken: Option<&'static str>,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let held = Held {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        let mut server = Self {
            held: Arc::new(held),
            address: ([127, 0, 0, 1], 0).into(),
            running: None,
        };
        server.come_back();
        server
    }

    /// Takes no connections any more, and breaks off those that it has.
    pub(crate) fn go(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) fn come_back(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let router = router(Arc::clone(&self.held));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        self.running = Some(runtime);
    }

    pub(crate) fn write_kubeconfig(&self, path: &Path) {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        });
        std::fs::write(path, text.to_string()).unwrap();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.held.inner.lock().unwrap()
    }

    /// Makes or replaces an object, as a YAML file says it.
    pub(crate) fn apply(&self, file: &str) {
        let object: Value = serde_saphyr::from_str(file).unwrap();
        self.held.apply(object);
    }

    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut inner = self.inner();
        inner.version += 1;
        let version = inner.version;
        let mut object = inner.objects.remove(&key).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        inner
            .log
            .push((version, key.0, json!({"type": "DELETED", "object": object})));
        drop(inner);
        self.held.changed.send_replace(version);
    }

    /// Deletes an object so that no watch ever says so, and loses the log: watches are told 410 Gone.
    pub(crate) fn delete_unseen(&self, plural: &str, namespace: &str, name: &str) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut inner = self.inner();
        inner.objects.remove(&key).unwrap();
        inner.version += 1;
        inner.log.clear();
        inner.log_starts = inner.version;
        let version = inner.version;
        drop(inner);
        self.held.changed.send_replace(version);
    }

    /// Answers every request with an error, or no longer.
    pub(crate) fn refuse(&self, with: Option<(StatusCode, &'static str)>) {
        self.inner().refused = with;
    }

    /// Breaks off lists of this plural after their first page, or no longer.
    pub(crate) fn break_lists(&self, plural: Option<&'static str>) {
        self.inner().broken = plural;
    }

    pub(crate) fn lists(&self) -> usize {
        self.inner().lists
    }

    /// What statuses were written, in order.
    pub(crate) fn patches(&self) -> Vec<Value> {
        self.inner().patches.clone()
    }

    /// The condition `Ready` of an object.
    pub(crate) fn ready(&self, plural: &str, namespace: &str, name: &str) -> Value {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let inner = self.inner();
        let object = inner.objects.get(&key);
        object.map_or(Value::Null, |object| object["status"]["conditions"][0].clone())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.go();
    }
}

impl Held {
    fn apply(&self, mut object: Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let plural = format!("{}s", text("/kind").to_lowercase());
        let key = (plural, text("/metadata/namespace"), text("/metadata/name"));
        let mut inner = self.inner.lock().unwrap();
        let version = inner.version + 1;
        let known = inner.objects.get(&key).cloned();
        let generation = known
            .as_ref()
            .map_or(0, |known| known["metadata"]["generation"].as_u64().unwrap());
        let changed = known.as_ref().is_none_or(|known| known["spec"] != object["spec"]);
        object["metadata"]["generation"] = json!(generation + u64::from(changed));
        object["metadata"]["uid"] = match &known {
            Some(known) => known["metadata"]["uid"].clone(),
            None => json!(format!("uid-{version}")),
        };
        if let Some(status) = known.as_ref().and_then(|known| known.get("status")) {
            object["status"] = status.clone();
        }
        inner.store(key, object, known.is_none());
        drop(inner);
        self.changed.send_replace(version);
    }
}

impl Inner {
    fn store(&mut self, key: Key, mut object: Value, is_new: bool) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if is_new { "ADDED" } else { "MODIFIED" };
        let event = json!({"type": kind, "object": object.clone()});
        self.log.push((self.version, key.0.clone(), event));
        self.objects.insert(key, object);
    }
}

fn router(held: Arc<Held>) -> Router {
    Router::new()
        .route("/apis/ostiary.dev/v1alpha1/{plural}", get(all))
        .route(
            "/apis/ostiary.dev/v1alpha1/namespaces/{namespace}/{plural}",
            get(within),
        )
        .route(
            "/apis/ostiary.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}/status",
            patch(patch_status),
        )
        .with_state(held)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    watch: bool,
    resource_version: Option<u64>,
    r#continue: Option<usize>,
}

async fn all(State(held): State<Arc<Held>>, UrlPath(plural): UrlPath<String>, asked: Query<Asked>) -> Response {
    answer(held, plural, None, &asked)
}

async fn within(
    State(held): State<Arc<Held>>,
    UrlPath((namespace, plural)): UrlPath<(String, String)>,
    asked: Query<Asked>,
) -> Response {
    answer(held, plural, Some(namespace), &asked)
}

fn answer(held: Arc<Held>, plural: String, namespace: Option<String>, asked: &Asked) -> Response {
    if let Some((code, message)) = held.inner.lock().unwrap().refused {
        return failure(code, message);
    }
    match asked.watch {
        true => follow(held, plural, namespace, asked.resource_version.unwrap()),
        false => list(
            &held,
            &plural,
            namespace.as_deref(),
            asked.r#continue.unwrap_or_default(),
        ),
    }
}

fn failure(code: StatusCode, message: &str) -> Response {
    (code, Json(status(code, message))).into_response()
}

fn status(code: StatusCode, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": message, "reason": "", "code": code.as_u16(),
    })
}

/// Pages of two, whatever was asked for.
fn list(held: &Held, plural: &str, namespace: Option<&str>, from: usize) -> Response {
    let mut inner = held.inner.lock().unwrap();
    if from > 0 && inner.broken == Some(plural) {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, "etcd is gone");
    }
    inner.lists += 1;
    let of = |(of, within, _): &Key| *of == plural && namespace.is_none_or(|namespace| namespace == within);
    let all: Vec<_> = inner
        .objects
        .iter()
        .filter(|(key, _)| of(key))
        .map(|(_, object)| object.clone())
        .collect();
    let next = if from + 2 < all.len() {
        (from + 2).to_string()
    } else {
        String::new()
    };
    let items: Vec<_> = all.into_iter().skip(from).take(2).collect();
    Json(json!({
        "apiVersion": "ostiary.dev/v1alpha1",
        "kind": "List",
        "metadata": {"resourceVersion": inner.version.to_string(), "continue": next},
        "items": items,
    }))
    .into_response()
}

struct Watching {
    held: Arc<Held>,
    changed: watch::Receiver<u64>,
    plural: String,
    namespace: Option<String>,
    seen: u64,
    is_over: bool,
}

fn follow(held: Arc<Held>, plural: String, namespace: Option<String>, seen: u64) -> Response {
    let watching = Watching {
        changed: held.changed.subscribe(),
        held,
        plural,
        namespace,
        seen,
        is_over: false,
    };
    let lines = stream::unfold(watching, |mut watching| async move {
        let lines = watching.next().await?;
        Some((Ok::<_, std::io::Error>(Bytes::from(lines)), watching))
    });
    Body::from_stream(lines).into_response()
}

impl Watching {
    /// The next events, a line each.
    async fn next(&mut self) -> Option<String> {
        while !self.is_over {
            self.changed.borrow_and_update();
            let lines = self.lines();
            if !lines.is_empty() {
                return Some(lines);
            }
            self.changed.changed().await.ok()?;
        }
        None
    }

    fn lines(&mut self) -> String {
        let inner = self.held.inner.lock().unwrap();
        if self.seen < inner.log_starts {
            self.is_over = true;
            let gone = status(StatusCode::GONE, "too old resource version");
            return format!("{}\n", json!({"type": "ERROR", "object": gone}));
        }
        let within = |event: &Value| {
            self.namespace
                .as_ref()
                .is_none_or(|namespace| event["object"]["metadata"]["namespace"] == **namespace)
        };
        let news = inner
            .log
            .iter()
            .filter(|(version, plural, event)| *version > self.seen && *plural == self.plural && within(event));
        let lines: String = news.map(|(_, _, event)| format!("{event}\n")).collect();
        self.seen = inner.version;
        lines
    }
}

async fn patch_status(
    State(held): State<Arc<Held>>,
    UrlPath((namespace, plural, name)): UrlPath<(String, String, String)>,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut inner = held.inner.lock().unwrap();
    if let Some((code, message)) = inner.refused {
        return failure(code, message);
    }
    let key = (plural, namespace, name);
    let Some(mut object) = inner.objects.get(&key).cloned() else {
        return failure(StatusCode::NOT_FOUND, "not found");
    };
    if body["metadata"]["uid"] != object["metadata"]["uid"] {
        return failure(StatusCode::CONFLICT, "another uid");
    }
    inner.patches.push(body.clone());
    object["status"] = body["status"].clone();
    inner.store(key, object.clone(), false);
    let version = inner.version;
    drop(inner);
    held.changed.send_replace(version);
    Json(object).into_response()
}
