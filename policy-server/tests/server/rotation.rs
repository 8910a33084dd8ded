//! Keys take turns while sidecars poll: refused while one of them lacks the next key, and nothing denied by it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{ANALYST, Answer, MCP, NOW, ORCHESTRATOR, Place, Server, WAREHOUSE, answer, poll, post};
use authz::audit::SourceId;
use authz::jwks::{Jwk, Jwks};
use authz::policy::{Bundle, BundleKeys, PolicyError, RawBundle, Version};
use authz::state::{RawStateList, StateList};
use authz::token::{TokenError, UnverifiedToken};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Request, StatusCode};
use policy_server::app::{App, StartError};
use policy_server::clock::Clock;
use policy_server::config::Config;
use policy_server::keys::{KeyError, KeyKind, KeyState};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const OPERATOR: &str = "spiffe://cluster.local/ns/platform/sa/operator";

/// Of the configuration that the tests run with.
const MAX_STATE_AGE: u64 = 60;
const MAX_TTL: u64 = 300;

fn place() -> Place {
    let place = Place::new();
    place.configure(&format!("  {OPERATOR}: [operator]\n"));
    place
}

/// A server that has been up for long enough to know all sources that live.
async fn started(place: &Place) -> Server {
    let server = Server::start(place).await;
    server.advance(MAX_STATE_AGE);
    server
}

/// A Wasm VM of a sidecar, as far as keys go.
struct Vm {
    id: u8,
    workload: &'static str,
    /// Whether its filter is of the version before keys were reported.
    older: bool,
    /// The bundle keys of its configuration.
    trusted: Vec<Jwk>,
    bundle: Option<Bundle>,
    state: Option<StateList>,
    held: Option<JoinHandle<Answer>>,
}

impl Vm {
    /// One that trusts the bundle key that signs now.
    fn new(id: u8, workload: &'static str, server: &Server) -> Self {
        Self {
            id,
            workload,
            older: false,
            trusted: vec![server.app.keys.in_force().bundle.public().clone()],
            bundle: None,
            state: None,
            held: None,
        }
    }

    fn version(&self) -> Option<Version> {
        self.bundle.as_ref().map(Bundle::version)
    }

    fn request(&self) -> Request<Body> {
        let mut query = "formats=1".to_owned();
        if let Some(version) = self.version() {
            query.push_str(&format!("&bundle={version}"));
        }
        if let Some(state) = &self.state {
            query.push_str(&format!("&state={}", state.version()));
        }
        let mut request = poll(self.workload, &query);
        if self.older {
            return request;
        }
        let mut header = |name, value: String| {
            request
                .headers_mut()
                .insert(name, HeaderValue::try_from(value).unwrap());
        };
        header("ostiary-vm", SourceId([self.id; 16]).to_string());
        let keys: Vec<&str> = self.trusted.iter().map(|key| key.kid().as_str()).collect();
        header("ostiary-bundle-keys", keys.join(" "));
        if let Some(version) = self.version() {
            header("ostiary-bundle-in-use", version.to_string());
        }
        request
    }

    async fn hang_up(&mut self) {
        if let Some(held) = self.held.take() {
            held.abort();
            let _ = held.await;
        }
    }

    /// Hangs up, and polls anew until the server has noted it. What it is told is not taken over.
    async fn report(&mut self, server: &Server) {
        self.hang_up().await;
        // A task, so that it goes on by itself: it may hold what others wait for.
        let polling = tokio::spawn(answer(server.router.clone(), self.request()));
        let vm = (!self.older).then_some(SourceId([self.id; 16]));
        let (bundle, kids): (_, BTreeSet<_>) = match self.older {
            true => (self.version(), BTreeSet::new()),
            false => (
                self.version(),
                self.trusted.iter().map(|key| key.kid().clone()).collect(),
            ),
        };
        let is_noted = || {
            let (living, _) = server.app.sources.living();
            living.iter().any(|source| {
                let report = &source.report;
                source.workload.as_str() == self.workload
                    && (report.vm, report.bundle) == (vm, bundle)
                    && report.keys == kids
            })
        };
        while !is_noted() && !polling.is_finished() {
            tokio::task::yield_now().await;
        }
        self.held = Some(polling);
    }

    /// Polls, takes over what it is told, and reports that.
    async fn hear(&mut self, server: &Server) -> Result<(), PolicyError> {
        self.hang_up().await;
        let polled = tokio::time::timeout(Duration::from_secs(15), answer(server.router.clone(), self.request()));
        let polled = polled.await.unwrap();
        assert_eq!(polled.status, StatusCode::OK, "{polled:?}");
        let keys = BundleKeys::new(Jwks::new(self.trusted.clone()).unwrap()).unwrap();
        let now = server.app.clock.seconds();
        let mut heard = Ok(());
        if let Some(bundle) = polled.text("bundle") {
            let workload = self.workload.parse().unwrap();
            match RawBundle::new(&bundle).verify(&keys, &workload, self.version(), now) {
                Ok(bundle) => self.bundle = Some(bundle),
                Err(error) => heard = Err(error),
            }
        }
        if let Some(state) = polled.text("state") {
            let held = self.state.as_ref().map(StateList::version);
            match RawStateList::new(&state).verify(&keys, held, now) {
                Ok(state) => self.state = Some(state),
                Err(error) => heard = Err(error),
            }
        }
        self.report(server).await;
        heard
    }

    /// Verifies a token by the bundle in use.
    fn verify(&self, token: &str, server: &Server) -> Result<(), TokenError> {
        let bundle = self.bundle.as_ref().unwrap();
        let now = server.app.clock.seconds();
        let token = UnverifiedToken::parse(token).unwrap();
        let verified = token.verify(bundle.issuers(), bundle.token_limits(), now, &authz::jws::NoExternal);
        verified.map(drop)
    }
}

fn kid(server: &Server, kind: KeyKind, state: KeyState) -> Option<String> {
    let keys = server.app.keys.in_force();
    keys.key(kind, state).map(|key| key.kid().to_string())
}

fn signing(server: &Server, kind: KeyKind) -> String {
    kid(server, kind, KeyState::Signing).unwrap()
}

async fn token(server: &Server) -> String {
    let body = json!({
        "agent_id": "analyst-7", "operation_id": "o", "scope": ["read:data.sales"], "ttl_seconds": MAX_TTL,
    });
    server.token(ORCHESTRATOR, &body).await.text("token").unwrap()
}

fn signed_by(jws: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(jws.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

async fn ask(server: &Server, path: &str, body: &Value) -> Answer {
    server
        .send(post(path, OPERATOR, "application/json", body.to_string()))
        .await
}

/// One step of `ostiary keys rotate`.
async fn rotate(server: &Server, kind: KeyKind) -> Value {
    let answer = ask(server, "/v1/keys/rotate", &json!({"kind": kind, "dry_run": false})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn dry_run(server: &Server, kind: KeyKind) -> Value {
    let answer = ask(server, "/v1/keys/rotate", &json!({"kind": kind, "dry_run": true})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn retire(server: &Server, kid: &str, now: bool) -> Value {
    let answer = ask(server, "/v1/keys/retire", &json!({"kid": kid, "now": now})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

fn lacking(answer: &Value) -> Vec<(&str, &str, u64)> {
    let lacking = answer.pointer("/sources/lacking").or_else(|| answer.get("lacking"));
    let lacking = lacking.unwrap().as_array().unwrap().iter();
    lacking
        .map(|lacking| {
            let text = |name: &str| lacking[name].as_str().unwrap();
            (text("workload"), text("reason"), lacking["sources"].as_u64().unwrap())
        })
        .collect()
}

async fn get(server: &Server, path: &str) -> Answer {
    let mut request = Request::get(path).body(Body::empty()).unwrap();
    let peer = crate::support::xfcc(OPERATOR).parse().unwrap();
    request.headers_mut().insert("x-forwarded-client-cert", peer);
    server.send(request).await
}

async fn published(server: &Server) -> Vec<String> {
    let set = get(server, "/.well-known/jwks.json").await.json();
    let keys = set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn a_token_key_signs_once_every_live_source_decides_by_a_bundle_that_names_it() {
    let place = place();
    let server = started(&place).await;
    let mut vms = [
        Vm::new(1, WAREHOUSE, &server),
        Vm::new(2, WAREHOUSE, &server),
        Vm::new(1, ANALYST, &server),
    ];
    for vm in &mut vms {
        vm.hear(&server).await.unwrap();
    }
    let old = signing(&server, KeyKind::Token);
    let old_token = token(&server).await;

    let asked = dry_run(&server, KeyKind::Token).await;
    assert_eq!((&asked["stage"], &asked["next"]), (&json!("waiting"), &Value::Null));
    assert_eq!(published(&server).await, [old.as_str()], "a dry run changes nothing");

    let answer = rotate(&server, KeyKind::Token).await;
    let new = answer["next"].as_str().unwrap().to_owned();
    assert_eq!(
        (&answer["stage"], &answer["sources"]["have"]),
        (&json!("waiting"), &json!(0))
    );
    let all = [(ANALYST, "bundle_not_in_use", 1), (WAREHOUSE, "bundle_not_in_use", 2)];
    assert_eq!(lacking(&answer), all);
    assert_eq!(published(&server).await.len(), 2);

    // All but one take over the bundle that names it. Being told is not enough: that one has been told, too.
    for vm in &mut vms[..2] {
        vm.hear(&server).await.unwrap();
    }
    vms[2].report(&server).await;
    server.advance(5);
    let answer = rotate(&server, KeyKind::Token).await;
    assert_eq!(lacking(&answer), [(ANALYST, "bundle_not_in_use", 1)]);
    assert_eq!(
        (&answer["stage"], &answer["sources"]["live"]),
        (&json!("waiting"), &json!(3))
    );
    assert_eq!(signed_by(&token(&server).await), old);

    vms[2].hear(&server).await.unwrap();
    assert_eq!(dry_run(&server, KeyKind::Token).await["stage"], "ready");
    let answer = rotate(&server, KeyKind::Token).await;
    assert_eq!(
        (&answer["stage"], &answer["signing"]),
        (&json!("switched"), &json!(new))
    );
    let new_token = token(&server).await;
    assert_eq!(signed_by(&new_token), new);
    for vm in &vms {
        assert_eq!(
            (vm.verify(&old_token, &server), vm.verify(&new_token, &server)),
            (Ok(()), Ok(()))
        );
    }

    // Asked again, nothing more happens while the old key retires.
    let again = rotate(&server, KeyKind::Token).await;
    assert_eq!((&again["stage"], &again["signing"]), (&json!("overlap"), &json!(new)));
    assert_eq!(again["retiring"][0], old.as_str());
    server.stop().await;
}

#[tokio::test]
async fn a_retiring_token_key_is_published_until_what_it_signed_has_expired() {
    let place = place();
    let server = started(&place).await;
    let old = signing(&server, KeyKind::Token);
    let mut vm = Vm::new(1, WAREHOUSE, &server);
    vm.hear(&server).await.unwrap();
    rotate(&server, KeyKind::Token).await;
    vm.hear(&server).await.unwrap();
    server.advance(5);
    let last = token(&server).await;
    let expires_at = server.app.clock.seconds() + MAX_TTL;
    let until = rotate(&server, KeyKind::Token).await["retiring"][1].as_u64().unwrap();
    assert!(until > expires_at + 5, "sidecars accept it for the skew longer");

    server.advance(until - 1 - server.app.clock.seconds());
    vm.report(&server).await;
    assert!(published(&server).await.contains(&old), "its time is not over");
    server.advance(1);
    eventually("the old key to go", async || !published(&server).await.contains(&old)).await;
    assert_eq!(kid(&server, KeyKind::Token, KeyState::Retired), Some(old));
    vm.hear(&server).await.unwrap();
    assert!(vm.verify(&last, &server).is_err());
    assert_eq!(vm.verify(&token(&server).await, &server), Ok(()));
    server.stop().await;
}

#[tokio::test]
async fn a_bundle_key_signs_once_every_live_source_is_configured_with_it() {
    let place = place();
    let server = started(&place).await;
    let mut vms = [Vm::new(1, WAREHOUSE, &server), Vm::new(2, ANALYST, &server)];
    for vm in &mut vms {
        vm.hear(&server).await.unwrap();
    }
    let old = signing(&server, KeyKind::Bundle);
    let answer = rotate(&server, KeyKind::Bundle).await;
    let both = [(ANALYST, "key_not_configured", 1), (WAREHOUSE, "key_not_configured", 1)];
    assert_eq!(lacking(&answer), both);

    let keys = server.app.keys.in_force();
    let next = keys.key(KeyKind::Bundle, KeyState::Next).unwrap().public.clone();
    vms[0].trusted.push(next.clone());
    vms[0].report(&server).await;
    let answer = rotate(&server, KeyKind::Bundle).await;
    assert_eq!(lacking(&answer), [(ANALYST, "key_not_configured", 1)]);
    assert_eq!(signing(&server, KeyKind::Bundle), old, "refused");

    vms[1].trusted.push(next.clone());
    vms[1].report(&server).await;
    let answer = rotate(&server, KeyKind::Bundle).await;
    assert_eq!(
        (&answer["stage"], &answer["signing"]),
        (&json!("switched"), &json!(next.kid()))
    );
    for vm in &mut vms {
        vm.hear(&server).await.unwrap();
        let (bundle, state) = (vm.bundle.as_ref().unwrap(), vm.state.as_ref().unwrap());
        assert_eq!((bundle.key(), state.key()), (Some(next.kid()), Some(next.kid())));
    }

    // One that comes later without the key is told nothing that it believes, and is told of.
    let mut late = Vm::new(3, ANALYST, &server);
    late.trusted = vec![keys.bundle.public().clone()];
    assert!(late.hear(&server).await.is_err());
    let shown = get(&server, "/v1/keys").await.json();
    assert_eq!(
        lacking(&json!({"sources": shown["bundle"]})),
        [(ANALYST, "key_not_configured", 1)]
    );
    let metrics = String::from_utf8(get(&server, "/metrics").await.body).unwrap();
    for line in [
        "ostiary_sources 3",
        "ostiary_sources_without_key{kind=\"bundle\"} 1",
        "ostiary_sources_without_key{kind=\"token\"} 1",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    }
    let info = format!("ostiary_key_info{{kind=\"bundle\",kid=\"{old}\",state=\"retiring\"}} ");
    assert!(metrics.contains(&info), "{info}: {metrics}");
    late.trusted.push(next);
    late.hear(&server).await.unwrap();
    assert_eq!(
        lacking(&json!({"sources": get(&server, "/v1/keys").await.json()["bundle"]})),
        []
    );
    server.stop().await;
}

/// What the claims of a workload's bundle hold of keys of sessions.
async fn session_keys(server: &Server, workload: &str, formats: &str) -> Vec<String> {
    let answer = server.poll(workload, &format!("formats={formats}")).await;
    let bundle = answer.text("bundle").unwrap();
    let payload = URL_SAFE_NO_PAD.decode(bundle.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    let keys = claims.get("session_keys").cloned().unwrap_or(json!([]));
    serde_json::from_value(keys).unwrap()
}

/// Every replica of the server has the same: they are derived of what it signs with.
#[tokio::test]
async fn keys_of_sessions_turn_with_the_bundle_keys_and_are_told_to_the_service_alone() {
    let place = place();
    let server = started(&place).await;
    let [old] = <[String; 1]>::try_from(session_keys(&server, MCP, "1,2,3,4,5").await).unwrap();
    assert_eq!(
        session_keys(&server, MCP, "1,2,3,4").await,
        [""; 0],
        "a filter of the version before"
    );
    for workload in [ANALYST, WAREHOUSE] {
        assert_eq!(
            session_keys(&server, workload, "1,2,3,4,5").await,
            [""; 0],
            "{workload}"
        );
    }
    rotate(&server, KeyKind::Bundle).await;
    let told = session_keys(&server, MCP, "5").await;
    let [first, next] = <[String; 2]>::try_from(told).unwrap();
    assert_eq!(first, old, "the next key only opens");
    assert_ne!(next, old);
    // Whoever polled here has gone: nobody lacks the key.
    server.advance(MAX_STATE_AGE + 1);
    assert_eq!(rotate(&server, KeyKind::Bundle).await["stage"], "switched");
    assert_eq!(session_keys(&server, MCP, "5").await, [next.clone(), old.clone()]);
    server.stop().await;
    let server = started(&place).await;
    assert_eq!(
        session_keys(&server, MCP, "5").await,
        [next.clone(), old],
        "after a restart"
    );
    let retiring = kid(&server, KeyKind::Bundle, KeyState::Retiring).unwrap();
    retire(&server, &retiring, true).await;
    assert_eq!(session_keys(&server, MCP, "5").await, [next]);
    server.stop().await;
}

#[tokio::test]
async fn filters_of_the_version_before_are_served_and_rotate_token_keys_alone() {
    let place = place();
    let server = started(&place).await;
    let mut older = Vm::new(1, WAREHOUSE, &server);
    older.older = true;
    older.hear(&server).await.unwrap();

    rotate(&server, KeyKind::Token).await;
    server.advance(5);
    older.report(&server).await;
    let answer = rotate(&server, KeyKind::Token).await;
    // One that held nothing polled not long ago, and nobody knows that it was the same.
    assert_eq!(lacking(&answer), [(WAREHOUSE, "bundle_not_in_use", 2)]);
    older.hear(&server).await.unwrap();
    // Another one of that workload might hold the older bundle still, until it has been silent for too long.
    assert_eq!(rotate(&server, KeyKind::Token).await["stage"], "waiting");
    server.advance(MAX_STATE_AGE + 1);
    assert_eq!(rotate(&server, KeyKind::Token).await["stage"], "switched");

    rotate(&server, KeyKind::Bundle).await;
    let keys = server.app.keys.in_force();
    let next = keys.key(KeyKind::Bundle, KeyState::Next).unwrap().public.clone();
    older.trusted.push(next);
    older.report(&server).await;
    let answer = rotate(&server, KeyKind::Bundle).await;
    assert_eq!(
        lacking(&answer),
        [(WAREHOUSE, "key_not_reported", 1)],
        "it cannot say so"
    );
    // Its filter is upgraded.
    older.older = false;
    older.report(&server).await;
    server.advance(MAX_STATE_AGE + 1);
    assert_eq!(rotate(&server, KeyKind::Bundle).await["stage"], "switched");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_has_just_started_knows_no_sources_and_waits_for_them() {
    let place = place();
    let server = Server::start(&place).await;
    let answer = rotate(&server, KeyKind::Bundle).await;
    assert_eq!(
        (&answer["stage"], &answer["sources"]["live"]),
        (&json!("waiting"), &json!(0))
    );
    assert_eq!(answer["sources"]["wait_seconds"], MAX_STATE_AGE);
    server.advance(MAX_STATE_AGE - 1);
    assert_eq!(rotate(&server, KeyKind::Bundle).await["stage"], "waiting");
    server.advance(1);
    assert_eq!(rotate(&server, KeyKind::Bundle).await["stage"], "switched");
    server.stop().await;
}

#[tokio::test]
async fn a_workload_with_more_sources_than_are_noted_is_named() {
    let place = place();
    place.configure(&format!("  {OPERATOR}: [operator]\nlimits: {{ pollsPerPeer: 1 }}\n"));
    let server = started(&place).await;
    for id in 1..=2 {
        Vm::new(id, WAREHOUSE, &server).report(&server).await;
    }
    assert_eq!(lacking(&dry_run(&server, KeyKind::Bundle).await).len(), 1);
    let third = Vm::new(3, WAREHOUSE, &server);
    server.send(third.request()).await;
    let answer = dry_run(&server, KeyKind::Bundle).await;
    assert_eq!(lacking(&answer)[1], (WAREHOUSE, "too_many_sources", 1));
    server.stop().await;
}

/// Whatever the server was doing, it goes on where it was.
#[tokio::test]
async fn a_restart_in_any_state_keeps_the_keys_and_goes_on() {
    let place = place();
    let mut server = started(&place).await;
    let restart = async |server: Server| {
        let states = |server: &Server| {
            let keys = server.app.keys.in_force();
            let keys = keys.stored().iter();
            keys.map(|key| (key.kid().to_string(), key.state, key.since, key.until))
                .collect::<Vec<_>>()
        };
        let (before, now) = (states(&server), server.app.clock.seconds());
        server.stop().await;
        let server = Server::start_at(&place.config(), now).await;
        assert_eq!(states(&server), before);
        server
    };
    for kind in KeyKind::ALL {
        let first = signing(&server, kind);
        // A key that was made, and the server killed before it was noted, is taken up.
        let made = server.app.keys.folder().make(kind).unwrap().kid().to_owned();
        server = restart(server).await;
        assert_eq!(signing(&server, kind), first);
        assert_eq!(rotate(&server, kind).await["next"], made.as_str());
        server = restart(server).await;
        assert_eq!(rotate(&server, kind).await["next"], made.as_str(), "the same again");
        server.advance(MAX_STATE_AGE);
        assert_eq!(rotate(&server, kind).await["stage"], "switched");
        server = restart(server).await;
        assert_eq!(signing(&server, kind), made);
        assert_eq!(rotate(&server, kind).await["stage"], "overlap");
        // Nothing that the old key signed needs its private half any more.
        std::fs::remove_file(place.path(&format!("data/keys/{kind}.json"))).unwrap();
        server = restart(server).await;
        assert_eq!(rotate(&server, kind).await["retiring"][0], first.as_str());
        server.advance(3700);
        server = restart(server).await;
        eventually("the old key's end", async || {
            kid(&server, kind, KeyState::Retiring).is_none()
        })
        .await;
        server = restart(server).await;
        assert_eq!(kid(&server, kind, KeyState::Retired), Some(first));
    }
    server.stop().await;
}

#[tokio::test]
async fn retiring_a_key_early_says_what_breaks_and_does_it_only_when_told() {
    let place = place();
    let server = started(&place).await;
    let mut vm = Vm::new(1, WAREHOUSE, &server);
    vm.hear(&server).await.unwrap();
    let old_token = token(&server).await;
    let first = signing(&server, KeyKind::Token);

    let answer = retire(&server, &first, false).await;
    assert_eq!((&answer["retired"], &answer["tokens"]), (&json!(false), &json!(1)));
    assert_eq!(signing(&server, KeyKind::Token), first);
    let answer = retire(&server, &first, true).await;
    let second = signing(&server, KeyKind::Token);
    assert_eq!((&answer["retired"], &answer["signing"]), (&json!(true), &json!(second)));
    assert_eq!(published(&server).await, [second.as_str()]);
    vm.hear(&server).await.unwrap();
    assert!(vm.verify(&old_token, &server).is_err(), "the token is dead");
    assert_eq!(vm.verify(&token(&server).await, &server), Ok(()));
    assert_eq!(retire(&server, &first, false).await["retired"], true, "it is already");

    // The overlap of a rotation.
    let rotated = rotate(&server, KeyKind::Token).await;
    vm.hear(&server).await.unwrap();
    server.advance(5);
    assert_eq!(rotate(&server, KeyKind::Token).await["stage"], "switched", "{rotated}");
    let answer = retire(&server, &second, false).await;
    assert_eq!((&answer["retired"], &answer["tokens"]), (&json!(false), &json!(2)));
    assert!(published(&server).await.contains(&second));
    assert_eq!(retire(&server, &second, true).await["retired"], true);
    assert!(!published(&server).await.contains(&second));

    // A next key has signed nothing.
    let next = rotate(&server, KeyKind::Bundle).await["next"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(retire(&server, &next, false).await["retired"], true);
    let other = rotate(&server, KeyKind::Bundle).await;
    assert_ne!(other["next"], next.as_str(), "its file does not bring it back");
    let unknown = ask(&server, "/v1/keys/retire", &json!({"kid": "nobody", "now": true})).await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (StatusCode::NOT_FOUND, "key_unknown")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_retiring_bundle_key_goes_without_harm_once_nobody_decides_by_what_it_signed() {
    let place = place();
    let server = started(&place).await;
    let mut vm = Vm::new(1, WAREHOUSE, &server);
    vm.hear(&server).await.unwrap();
    let old = signing(&server, KeyKind::Bundle);
    rotate(&server, KeyKind::Bundle).await;
    let keys = server.app.keys.in_force();
    vm.trusted
        .push(keys.key(KeyKind::Bundle, KeyState::Next).unwrap().public.clone());
    vm.report(&server).await;
    assert_eq!(rotate(&server, KeyKind::Bundle).await["stage"], "switched");
    let answer = retire(&server, &old, false).await;
    assert_eq!(answer["retired"], false);
    assert_eq!(lacking(&answer), [(WAREHOUSE, "bundle_not_in_use", 1)]);
    vm.hear(&server).await.unwrap();
    assert_eq!(retire(&server, &old, false).await["retired"], true);
    server.stop().await;
}

#[tokio::test]
async fn operators_alone_change_keys() {
    let place = place();
    let server = started(&place).await;
    let kid = signing(&server, KeyKind::Token);
    for (path, body) in [
        ("/v1/keys/rotate", json!({"kind": "token", "dry_run": true})),
        ("/v1/keys/retire", json!({"kid": kid, "now": false})),
    ] {
        let send = |peer| server.send(post(path, peer, "application/json", body.to_string()));
        let refused = send(ORCHESTRATOR).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::FORBIDDEN, "role_missing")
        );
        assert_eq!(send(OPERATOR).await.status, StatusCode::OK);
        let nobody = Request::post(path).header("content-type", "application/json");
        let nobody = server.send(nobody.body(Body::from(body.to_string())).unwrap()).await;
        assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
        for malformed in [
            json!({}),
            json!({"kind": "token"}),
            json!({"kid": "a", "now": true, "by": "me"}),
        ] {
            assert_eq!(ask(&server, path, &malformed).await.status, StatusCode::BAD_REQUEST);
        }
    }
    let shown = server.send(Request::get("/v1/keys").body(Body::empty()).unwrap()).await;
    assert_eq!(shown.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&server, "/v1/keys").await.status, StatusCode::OK);
    server.stop().await;
}

async fn refused(place: &Place) -> KeyError {
    let started = App::start(
        Config::load(&place.config()).unwrap(),
        Clock::from_millis(|| NOW * 1000),
    )
    .await;
    match started {
        Err(StartError::Keys(error)) => error,
        other => panic!("{:?}", other.map(drop)),
    }
}

#[tokio::test]
async fn a_folder_of_keys_that_does_not_settle_which_signs_is_refused() {
    let place = place();
    let roles = format!("  {OPERATOR}: [operator]\n");
    place.configure(&format!("{roles}keys: secret\n"));
    assert!(matches!(refused(&place).await, KeyError::Folder { .. }));
    let secret = policy_server::keys::folder::KeyFolder {
        path: place.path("secret"),
        own: false,
    };
    std::fs::create_dir(&secret.path).unwrap();
    let nothing = refused(&place).await;
    assert!(
        matches!(
            nothing,
            KeyError::None {
                kind: KeyKind::Token,
                ..
            }
        ),
        "the server makes none: {nothing}"
    );
    let first = secret.make(KeyKind::Token).unwrap();
    secret.make(KeyKind::Bundle).unwrap();
    let second = secret.make(KeyKind::Token).unwrap();
    assert!(matches!(
        refused(&place).await,
        KeyError::Ambiguous {
            kind: KeyKind::Token,
            ..
        }
    ));

    std::fs::rename(second.path(), place.path("aside.json")).unwrap();
    let server = Server::start(&place).await;
    assert_eq!(signing(&server, KeyKind::Token), first.kid());
    server.stop().await;
    // From then on the database settles it, whatever else lies there.
    std::fs::rename(place.path("aside.json"), second.path()).unwrap();
    let third = secret.make(KeyKind::Token).unwrap();
    let server = Server::start(&place).await;
    assert_eq!(signing(&server, KeyKind::Token), first.kid());
    server.stop().await;
    std::fs::remove_file(first.path()).unwrap();
    assert!(matches!(refused(&place).await, KeyError::Lost { .. }));
    // The only one that there is takes its place.
    std::fs::remove_file(third.path()).unwrap();
    let server = Server::start(&place).await;
    assert_eq!(signing(&server, KeyKind::Token), second.kid());
    assert_eq!(
        kid(&server, KeyKind::Token, KeyState::Retired).as_deref(),
        Some(first.kid())
    );
    server.stop().await;
}

#[tokio::test]
async fn a_data_folder_of_the_version_before_keeps_its_keys() {
    let place = place();
    let keys = place.path("data/keys");
    std::fs::create_dir_all(&keys).unwrap();
    let kids = ["token", "bundle"].map(|name| {
        let signer = policy_server::signer::Signer::read_or_make(&keys.join(format!("{name}.json"))).unwrap();
        signer.kid().to_owned()
    });
    let server = Server::start(&place).await;
    assert_eq!(KeyKind::ALL.map(|kind| signing(&server, kind)), kids);
    server.stop().await;
}
