//! A policy feed that a test holds in its hand: it signs what it is told to, and can be slow, wrong or full of rubbish.
//!
//! It serves whoever asks, so each sidecar gets a feed of its own. It speaks plain HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task;
use std::time::{Duration, Instant};

use anyhow::Result;
use authz::audit::{WAITING_HEADER, read_waiting};
use authz::policy::{BundleClaims, PageDigest, PageTexts};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{StatusCode, header};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::sidecar::PolicyUpstream;
use crate::signing::TestKey;
use crate::wait;

/// How long a poll is held.
const HOLD: Duration = Duration::from_secs(20);

/// How often the state list is renewed while nothing happens.
const RENEW: Duration = Duration::from_secs(15);

/// How the feed answers polls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// As the policy server does.
    #[default]
    Proper,
    /// So much later.
    Slow(Duration),
    /// Properly, but with so much time between two bytes.
    Trickle(Duration),
    /// With the first half of what is proper, and then a broken stream.
    Break,
    /// Properly, but with a space at the end of each page, so that it is not what was signed.
    AlteredPages,
    /// With this status and body, whatever was asked.
    Rubbish(u16, Vec<u8>),
}

/// How the feed answers records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Intake {
    /// Accepts them all.
    #[default]
    Accept,
    /// Accepts them all and only counts them, for as many as a load makes.
    Count,
    /// Answers with this status and problem code, and keeps nothing.
    Refuse(u16, String),
    /// Never answers.
    Hang,
    /// Answers as it is told next, and not before.
    Hold,
}

/// A poll that came in.
#[derive(Debug, Clone)]
pub struct Poll {
    /// When.
    pub at: Instant,
    /// The bundle's version that the filter has.
    pub bundle: Option<String>,
    /// The state list's version that the filter has.
    pub state: Option<String>,
}

#[derive(Debug, Default, Clone)]
struct Signed {
    version: String,
    jws: String,
}

#[derive(Debug, Default)]
struct Inner {
    bundle: Option<Signed>,
    pages: PageTexts,
    state: Option<Signed>,
    state_claims: Option<Value>,
    renews: bool,
    behaviour: Behaviour,
    intake: Intake,
    standing: Value,
    held: usize,
    polls: Vec<Poll>,
    bytes: usize,
    records: Vec<Value>,
    counted: u64,
    callouts: Vec<http::HeaderMap>,
}

#[derive(Debug, Clone)]
struct Shared {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<u64>>,
    key: TestKey,
}

/// The feed; it ends when it is dropped.
#[derive(Debug)]
pub struct Feed {
    address: SocketAddr,
    shared: Shared,
    tasks: Vec<JoinHandle<()>>,
}

impl Feed {
    /// Starts one that has no policy yet (polls get a 503).
    ///
    /// # Errors
    ///
    /// When the address is taken.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let inner = Inner {
            renews: true,
            ..Inner::default()
        };
        let shared = Shared {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::new(watch::Sender::new(0)),
            key: TestKey::named("bundle-1"),
        };
        let router = Router::new()
            .route("/v1/policy", get(poll))
            .route("/v1/policy/pages", get(pages))
            .route("/v1/records", post(records));
        let router = router.with_state(shared.clone());
        let serving = tokio::spawn(async move {
            // Serving ends only with the task.
            let _ = axum::serve(listener, router).await;
        });
        let renewing = tokio::spawn(renew(shared.clone()));
        Ok(Self {
            address,
            shared,
            tasks: vec![serving, renewing],
        })
    }

    /// Another hold on the same feed, for a task that changes what it serves.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// How a sidecar reaches it.
    pub fn upstream(&self) -> PolicyUpstream {
        PolicyUpstream {
            address: self.address,
            identity: None,
        }
    }

    /// The key that signs bundles and state lists.
    pub fn key(&self) -> &TestKey {
        &self.shared.key
    }

    /// Signs and serves a bundle.
    pub fn set_bundle(&self, claims: &Value) {
        let jws = self.key().sign("policy-bundle+jwt", claims);
        self.set_bundle_jws(&version_of(claims), &jws);
    }

    /// Signs and serves a bundle in format 2: the same claims, with the agents on pages.
    ///
    /// # Errors
    ///
    /// When the claims are not those of a bundle.
    pub fn set_paged_bundle(&self, claims: &Value) -> Result<()> {
        let paged = BundleClaims::deserialize(claims)?.paged()?;
        let signed = Signed {
            version: version_of(claims),
            jws: self
                .key()
                .sign("policy-bundle+jwt", &serde_json::to_value(&paged.head)?),
        };
        self.shared
            .change(|inner| (inner.bundle, inner.pages) = (Some(signed), paged.pages));
        Ok(())
    }

    /// Serves these bytes as a bundle of that version.
    pub fn set_bundle_jws(&self, version: &str, jws: &str) {
        self.shared.change(|inner| {
            inner.bundle = Some(Signed {
                version: version.to_owned(),
                jws: jws.to_owned(),
            })
        });
    }

    /// Signs and serves a state list, and renews it (version and `issued_at`) while nothing happens.
    pub fn set_state(&self, claims: &Value) {
        self.shared.set_state(claims.clone());
    }

    /// Serves these bytes as a state list of that version, and does not renew them.
    pub fn set_state_jws(&self, version: &str, jws: &str) {
        self.shared.change(|inner| {
            inner.state = Some(Signed {
                version: version.to_owned(),
                jws: jws.to_owned(),
            });
            inner.state_claims = None;
        });
    }

    /// Whether the state list is renewed while nothing happens (it is, at first).
    pub fn renews(&self, renews: bool) {
        self.shared.change(|inner| inner.renews = renews);
    }

    /// Sets how polls are answered; polls that are being held are answered so at once.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.change(|inner| inner.behaviour = behaviour);
    }

    /// Sets how records are answered.
    pub fn take_records(&self, intake: Intake) {
        self.shared.change(|inner| inner.intake = intake);
    }

    /// Sets what calls are told of their agents once their records are stored, beside that they are active.
    pub fn tell_of_agents(&self, standing: Value) {
        self.shared.change(|inner| inner.standing = standing);
    }

    /// How often a batch has been held so far.
    pub fn held(&self) -> usize {
        self.shared.lock().held
    }

    /// Every poll so far.
    pub fn polls(&self) -> Vec<Poll> {
        self.shared.lock().polls.clone()
    }

    /// How many records were accepted and only counted.
    pub fn counted(&self) -> u64 {
        self.shared.lock().counted
    }

    /// How many bytes of policy and state have been sent so far.
    pub fn bytes_sent(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Every accepted line of records (`{"hash", "record"}`) so far.
    pub fn record_lines(&self) -> Vec<Value> {
        self.shared.lock().records.clone()
    }

    /// Every accepted record so far.
    pub fn records(&self) -> Vec<Value> {
        self.record_lines()
            .iter()
            .filter_map(|line| line.get("record").cloned())
            .collect()
    }

    /// The headers of every callout so far.
    pub fn callouts(&self) -> Vec<http::HeaderMap> {
        self.shared.lock().callouts.clone()
    }

    /// Waits until a filter has said, by polling with it, that it holds this version of the bundle; of one in format 2,
    /// its head.
    ///
    /// One VM saying so is not all of them: ask for as many `vms` as poll (the workers and the main thread).
    ///
    /// # Errors
    ///
    /// When none has within 30 s.
    pub async fn adopted(&self, bundle: &str, vms: usize) -> Result<()> {
        let what = format!("{vms} VMs to hold bundle {bundle}");
        wait::until(&what, Duration::from_secs(30), async || {
            let inner = self.shared.lock();
            let holding = inner
                .polls
                .iter()
                .filter(|poll| poll.bundle.as_deref() == Some(bundle))
                .count();
            (holding >= vms).then_some(())
        })
        .await
    }

    /// The same for a list of states of this version or a later one.
    ///
    /// # Errors
    ///
    /// When not so many have within 60 s.
    pub async fn holding_state(&self, version: u64, vms: usize) -> Result<()> {
        let what = format!("{vms} VMs to hold state list {version}");
        wait::until(&what, Duration::from_secs(60), async || {
            let inner = self.shared.lock();
            let held = inner.polls.iter().filter_map(|poll| counter(poll.state.as_deref()?));
            (held.filter(|held| *held >= version).count() >= vms).then_some(())
        })
        .await
    }
}

/// A hold on a feed; the feed ends without it.
#[derive(Debug, Clone)]
pub struct Handle(Shared);

impl Handle {
    /// As [`Feed::set_state`].
    pub fn set_state(&self, claims: &Value) {
        self.0.set_state(claims.clone());
    }
}

/// The counter of a version.
fn counter(version: &str) -> Option<u64> {
    version.split_once('.')?.1.parse().ok()
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Claims of a bundle for the workload `aud`, valid for an hour from now; fields of `with` are added or replace.
pub fn bundle_claims(aud: &str, version: u64, with: &Value) -> Value {
    let now = wait::unix_now();
    let claims = json!({
        "format": 1, "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "aud": aud,
        "epoch": 1, "version": version, "issued_at": now, "expires_at": now + 3600,
        "max_state_age_seconds": 60, "max_token_ttl_seconds": 300,
        "issuers": [], "services": [], "agents": [],
        "policy_server": {
            "identity": "spiffe://cluster.local/ns/ostiary/sa/policy-server",
            "hosts": [crate::sidecar::POLICY_AUTHORITY],
        },
    });
    merged(claims, with)
}

/// Claims of a state list issued now; fields of `with` are added or replace.
pub fn state_claims(version: u64, with: &Value) -> Value {
    let claims = json!({
        "format": 1, "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server",
        "epoch": 1, "version": version, "issued_at": wait::unix_now(),
        "agents": {}, "not_before": {}, "revoked": {},
    });
    merged(claims, with)
}

fn merged(mut claims: Value, with: &Value) -> Value {
    let none = Map::new();
    let with = with.as_object().unwrap_or(&none);
    if let Some(fields) = claims.as_object_mut() {
        fields.extend(with.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    claims
}

fn version_of(claims: &Value) -> String {
    let number = |name| claims.get(name).and_then(Value::as_u64).unwrap_or_default();
    format!("{}.{}", number("epoch"), number("version"))
}

#[derive(Debug, Deserialize)]
struct PollQuery {
    bundle: Option<String>,
    state: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    fn set_state(&self, claims: Value) {
        let signed = Signed {
            version: version_of(&claims),
            jws: self.key.sign("agent-state+jwt", &claims),
        };
        self.change(|inner| (inner.state, inner.state_claims) = (Some(signed), Some(claims)));
    }

    /// The answer to a poll, or none while there is nothing new.
    fn answer(&self, query: &PollQuery) -> Option<Response> {
        let mut inner = self.lock();
        if let Behaviour::Rubbish(status, body) = &inner.behaviour {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::IM_A_TEAPOT);
            return Some((status, body.clone()).into_response());
        }
        if inner.bundle.is_none() && inner.state.is_none() {
            return Some(StatusCode::SERVICE_UNAVAILABLE.into_response());
        }
        let news = |signed: &Option<Signed>, held: &Option<String>| {
            signed
                .as_ref()
                .filter(|signed| Some(&signed.version) != held.as_ref())
                .map(|signed| signed.jws.clone())
        };
        let mut changed = Map::new();
        for (name, jws) in [
            ("bundle", news(&inner.bundle, &query.bundle)),
            ("state", news(&inner.state, &query.state)),
        ] {
            changed.extend(jws.map(|jws| (name.to_owned(), json!(jws))));
        }
        if changed.is_empty() {
            return None;
        }
        let answer = Bytes::from(Value::Object(changed).to_string());
        inner.bytes += answer.len();
        let body = match &inner.behaviour {
            Behaviour::Trickle(pause) => Body::new(Dribble {
                pause: tokio::time::interval(*pause),
                piece: 1,
                least: 0,
                rest: answer,
            }),
            Behaviour::Break => Body::new(Dribble {
                pause: tokio::time::interval(Duration::from_millis(50)),
                piece: answer.len() / 2,
                least: answer.len() / 2,
                rest: answer,
            }),
            _ => Body::from(answer),
        };
        Some(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }
}

async fn poll(State(shared): State<Shared>, Query(query): Query<PollQuery>, headers: http::HeaderMap) -> Response {
    let behaviour = {
        let mut inner = shared.lock();
        inner.polls.push(Poll {
            at: Instant::now(),
            bundle: query.bundle.clone(),
            state: query.state.clone(),
        });
        inner.callouts.push(headers);
        inner.behaviour.clone()
    };
    let mut late = false;
    if let Behaviour::Slow(delay) = behaviour {
        tokio::time::sleep(delay).await;
        late = true;
    }
    let mut changes = shared.changed.subscribe();
    let held = tokio::time::timeout(HOLD, async {
        loop {
            if let Some(answer) = shared.answer(&query) {
                let behaviour = shared.lock().behaviour.clone();
                match behaviour {
                    // A poll that was already held when this began.
                    Behaviour::Slow(delay) if !late => {
                        tokio::time::sleep(delay).await;
                        late = true;
                        continue;
                    }
                    _ => return answer,
                }
            }
            // The sender lives as long as `shared`.
            let _ = changes.changed().await;
        }
    });
    held.await.unwrap_or_else(|_| StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Deserialize)]
struct PagesQuery {
    digests: String,
}

async fn pages(State(shared): State<Shared>, Query(query): Query<PagesQuery>, headers: http::HeaderMap) -> Response {
    let mut inner = shared.lock();
    inner.callouts.push(headers);
    let asked: Result<Vec<PageDigest>, _> = query.digests.split(',').map(PageDigest::parse).collect();
    let Some(mut answer) = asked.ok().and_then(|asked| inner.pages.answer(&asked)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if inner.behaviour == Behaviour::AlteredPages {
        answer = answer.replace('\n', " \n");
    }
    inner.bytes += answer.len();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], answer).into_response()
}

async fn records(State(shared): State<Shared>, headers: http::HeaderMap, body: String) -> Response {
    let mut changes = shared.changed.subscribe();
    loop {
        let intake = shared.lock().intake.clone();
        match intake {
            Intake::Hang => std::future::pending().await,
            // The sender lives as long as `shared`.
            Intake::Hold => {
                shared.lock().held += 1;
                let _ = changes.changed().await;
            }
            Intake::Refuse(status, code) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
                return (status, axum::Json(json!({"status": status.as_u16(), "code": code}))).into_response();
            }
            Intake::Count => {
                let mut inner = shared.lock();
                inner.counted += body.lines().count() as u64;
                return acknowledge(&body.lines().map(parsed).collect::<Vec<_>>(), &headers, &inner.standing);
            }
            Intake::Accept => {
                let lines: Vec<Value> = body.lines().map(parsed).filter(|line| !line.is_null()).collect();
                let mut inner = shared.lock();
                let answer = acknowledge(&lines, &headers, &inner.standing);
                inner.callouts.push(headers);
                inner.records.extend(lines);
                return answer;
            }
        }
    }
}

/// A line of records, or null.
fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}

/// Says that all these lines are stored, and of the agents of calls that wait that they are active.
fn acknowledge(lines: &[Value], headers: &http::HeaderMap, standing: &Value) -> Response {
    let field = |line: &Value, path| line.pointer(path).cloned().unwrap_or_default();
    let waiting = headers.get(WAITING_HEADER).and_then(|value| value.to_str().ok());
    let waiting = waiting
        .and_then(|value| read_waiting(value, lines.len()))
        .unwrap_or_default();
    let waits = |line: &&Value| {
        field(line, "/record/seq")
            .as_u64()
            .is_some_and(|seq| waiting.contains(&seq))
    };
    let calls = lines.iter().filter(waits).map(|line| {
        let mut call = json!({"seq": field(line, "/record/seq"), "hash": field(line, "/hash")});
        if let (Some(id), Some(fields)) = (line.pointer("/record/agent_id"), call.as_object_mut()) {
            let agent = json!({"id": id, "state": "active", "risk": 0});
            fields.insert("agent".to_owned(), merged(agent, standing));
        }
        call
    });
    let calls: Vec<Value> = calls.collect();
    let last = lines.last().unwrap_or(&Value::Null);
    let stored = json!({
        "source": field(last, "/record/source"), "accepted_through": field(last, "/record/seq"), "calls": calls,
    });
    axum::Json(stored).into_response()
}

/// A body that comes slowly, or not to its end.
#[derive(Debug)]
struct Dribble {
    rest: Bytes,
    piece: usize,
    pause: tokio::time::Interval,
    /// With no more than this left, and not nothing, the stream breaks.
    least: usize,
}

impl hyper::body::Body for Dribble {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            return task::Poll::Ready(None);
        }
        task::ready!(self.pause.poll_tick(context));
        if self.least > 0 && self.rest.len() <= self.least + 1 {
            return task::Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into())));
        }
        let length = self.piece.min(self.rest.len());
        let piece = self.rest.split_to(length);
        task::Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

async fn renew(shared: Shared) {
    loop {
        tokio::time::sleep(RENEW).await;
        let claims = {
            let inner = shared.lock();
            inner.state_claims.clone().filter(|_| inner.renews)
        };
        if let Some(claims) = claims {
            let version = claims.get("version").and_then(Value::as_u64).unwrap_or_default() + 1;
            shared.set_state(merged(
                claims,
                &json!({"version": version, "issued_at": wait::unix_now()}),
            ));
        }
    }
}
