//! The vectors of `authz/vectors` through a real Envoy with the shipped filter, on the real clock.
//!
//! Requests are written byte by byte, so that no client library makes them better than they are: each in HTTP/1.1 and HTTP/2,
//! its body in one piece and in many with trailers behind them. A denial must carry its code in status and body (and header),
//! and nothing of it may reach the application; a permit must reach it once, with the very body, without the capability.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use authz::protocol::list::List;
use tests::backends::{Backend, Seen};
use tests::client::{Answer, Client};
use tests::envoy::Envoy;
use tests::feed::Feed;
use tests::loopback::Loopback;
use tests::pki::{Ca, Credential, Workload};
use tests::run::RunDirectory;
use tests::sidecar::{Destination, Inbound, Outbound, POLICY_AUTHORITY, Plugin, Sidecar};
use tests::wait;
use tests::wire::{Told, Wire, Written};

use crate::vectors::{self, Expect, Placed, Recipe, Runs};

/// Envoys of one worker have two VMs that poll: the worker's and the main thread's.
const VMS: usize = 2;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Vectors that one policy and one state list serve.
type Groups = BTreeMap<String, Vec<Placed>>;

#[tokio::test]
async fn inbound_vectors_are_decided_as_they_say() {
    run_side("inbound").await;
}

#[tokio::test]
async fn outbound_vectors_are_decided_as_they_say() {
    run_side("outbound").await;
}

async fn run_side(side: &str) {
    let mut workloads: BTreeMap<String, Groups> = BTreeMap::new();
    for placed in vectors::all() {
        if placed.vector.runs.contains(&Runs::Envoy) && placed.recipe.side == side {
            let groups = workloads.entry(placed.recipe.workload.clone()).or_default();
            groups.entry(placed.recipe.policy_key()).or_default().push(placed);
        }
    }
    let mesh = Mesh::create(side);
    let (mut count, mut outcome) = (0, Outcome::default());
    for (host, (workload, groups)) in (30..).zip(workloads) {
        let under_test = mesh.start(side, &workload, host).await;
        for (number, group) in (1..).zip(groups.into_values()) {
            count += group.len();
            under_test.run(number, &group, &mut outcome).await;
        }
    }
    let Outcome { sent, ended, failures } = outcome;
    println!("{count} vectors through Envoy, {side}: {sent:?} requests; Envoy itself ended {ended:?}");
    assert!(
        failures.is_empty(),
        "{} of {count} wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What came of all exchanges, by wire.
#[derive(Default)]
struct Outcome {
    sent: BTreeMap<String, usize>,
    /// Requests that Envoy refused before the filter saw them.
    ended: BTreeMap<String, usize>,
    failures: Vec<String>,
}

/// What can be so wrong with the form of a request that Envoy's reader of HTTP/2 ends the stream.
const OF_THE_FORM: [&str; 4] = [
    "request_malformed",
    "header_duplicate",
    "path_not_canonical",
    "upgrade_refused",
];

/// What all sidecars of a run share.
struct Mesh {
    run: RunDirectory,
    net: Loopback,
    ca: Ca,
}

/// A sidecar with the filter, its feed, and the applications that its requests may reach.
struct UnderTest<'m> {
    mesh: &'m Mesh,
    feed: Feed,
    applications: Vec<Backend>,
    client: Caller,
    _envoys: Vec<Envoy>,
}

/// How requests come to the sidecar.
enum Caller {
    /// Over mTLS, by the peer that the vector names.
    Inbound { host: u8 },
    /// Over loopback, as the agent's own process.
    Outbound(Client),
}

impl Mesh {
    fn create(side: &str) -> Self {
        let run = RunDirectory::create(&format!("vectors-{side}")).unwrap();
        let ca = Ca::create(&run.file("pki")).unwrap();
        Self {
            net: Loopback::claim().unwrap(),
            run,
            ca,
        }
    }

    async fn start(&self, side: &str, spiffe: &str, host: u8) -> UnderTest<'_> {
        let feed = Feed::start(self.net.socket(host, 9000)).await.unwrap();
        let plugin = Plugin::built(&feed.key().jwks()).unwrap();
        let credential = self.ca.issue(&workload(spiffe), &[&server_name(spiffe)]).unwrap();
        let mut sidecar = Sidecar::new(&credential, &self.ca, self.net.socket(host, 15_000));
        sidecar.concurrency = 1;
        let sidecar = sidecar.with_filter(plugin, feed.upstream());
        if side == "inbound" {
            let application = Backend::echo(&credential.workload.slug(), &self.run).unwrap();
            let inbound = Inbound::new(self.net.socket(host, 8080), application.socket());
            let envoys = vec![sidecar.with_inbound(inbound).start(&self.run).await.unwrap()];
            let client = Caller::Inbound { host };
            return UnderTest {
                mesh: self,
                feed,
                applications: vec![application],
                client,
                _envoys: envoys,
            };
        }
        let (mut envoys, mut applications, mut destinations) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (id, name, hostname)) in (host + 1..).zip([
            ("data", "warehouse", "warehouse.data.svc.cluster.local"),
            ("tools", "mcp", "mcp.tools.svc.cluster.local"),
            ("agents", "writer-2", "writer-2.agents.svc.cluster.local"),
            ("ostiary", "policy-server", POLICY_AUTHORITY),
        ]) {
            let (destination, envoy, application) = self.destination(&Workload::new(id, name), hostname, place).await;
            destinations.push(destination);
            envoys.push(envoy);
            applications.push(application);
        }
        let address = self.net.socket(host, 15_001);
        let outbound = Outbound {
            address,
            inside: None,
            destinations,
        };
        envoys.push(sidecar.with_outbound(outbound).start(&self.run).await.unwrap());
        let client = Caller::Outbound(Client::plain(address).within(PATIENCE));
        UnderTest {
            mesh: self,
            feed,
            applications,
            client,
            _envoys: envoys,
        }
    }

    /// A service whose own sidecar decides nothing: what reaches it was let through on the outbound side.
    async fn destination(&self, workload: &Workload, hostname: &str, host: u8) -> (Destination, Envoy, Backend) {
        let application = Backend::echo(&workload.service_account, &self.run).unwrap();
        let address = self.net.socket(host, 8080);
        let credential = self.ca.issue(workload, &[hostname]).unwrap();
        let sidecar = Sidecar::new(&credential, &self.ca, self.net.socket(host, 15_000));
        let envoy = sidecar
            .with_inbound(Inbound::new(address, application.socket()))
            .start(&self.run)
            .await
            .unwrap();
        let destination = Destination {
            name: workload.service_account.clone(),
            hosts: vec![hostname.to_owned()],
            address,
            identity: workload.spiffe(),
        };
        (destination, envoy, application)
    }
}

impl UnderTest<'_> {
    /// Serves the policy of a group, then sends each of its requests, in every way.
    async fn run(&self, number: u64, group: &[Placed], outcome: &mut Outcome) {
        let now = wait::unix_now();
        let recipe = &group[0].recipe;
        // The feed renews the list in steps of one while a group runs.
        let state_version = number * 1000;
        self.feed.set_bundle(&recipe.bundle_claims(now, number));
        self.feed.set_state(&recipe.state_claims(now, state_version));
        self.adopted(&format!("1.{number}"), &format!("1.{state_version}"))
            .await;
        let mut clients = BTreeMap::new();
        for placed in group {
            // `not_before` is an offset from the same now as the token's times.
            let now = if placed.recipe.not_before.is_empty() {
                wait::unix_now()
            } else {
                now
            };
            let client = match &self.client {
                Caller::Outbound(client) => client,
                Caller::Inbound { host } => clients
                    .entry(placed.recipe.peer.clone())
                    .or_insert_with_key(|peer| self.caller(*host, peer.as_deref().unwrap(), &placed.recipe.workload)),
            };
            let request = written(placed, now);
            for wire in Wire::ALL.into_iter().filter(|wire| wire.can_write(&request)) {
                *outcome.sent.entry(format!("{wire:?}")).or_default() += 1;
                match self.check(placed, client, now, (wire, &request)).await {
                    Ok(Told::Ended) => *outcome.ended.entry(format!("{wire:?}")).or_default() += 1,
                    Ok(Told::Answer { .. }) => {}
                    Err(problem) => {
                        let line = format!("{} {wire:?} ({}): {problem}", placed.vector.id, placed.vector.why);
                        outcome.failures.push(line);
                    }
                }
            }
        }
    }

    fn caller(&self, host: u8, peer: &str, service: &str) -> Client {
        let credential: Arc<Credential> = self.mesh.ca.issue(&workload(peer), &[]).unwrap();
        let address = self.mesh.net.socket(host, 8080);
        Client::tls(address, &server_name(service), &self.mesh.ca, Some(&credential))
            .unwrap()
            .within(PATIENCE)
    }

    /// Waits until every VM has polled with both versions, and so holds them.
    async fn adopted(&self, bundle: &str, state: &str) {
        wait::until("every VM to hold the policy", Duration::from_secs(30), async || {
            let polls = self.feed.polls().into_iter();
            let holding = polls
                .filter(|poll| poll.bundle.as_deref() == Some(bundle) && poll.state.as_deref() == Some(state))
                .count();
            (holding >= VMS).then_some(())
        })
        .await
        .unwrap();
    }

    async fn check(
        &self,
        placed: &Placed,
        client: &Client,
        now: u64,
        (wire, request): (Wire, &Written),
    ) -> Result<Told, String> {
        let Placed { vector, recipe, .. } = placed;
        let mark = format!("{}-{wire:?}", vector.id);
        let mut marked = request.clone();
        marked.headers.push(("x-vector".to_owned(), mark.clone()));
        if wire.is_http2() {
            // Where HTTP/1.1 folds case and trims blanks, HTTP/2 has none to begin with.
            for (name, value) in &mut marked.headers {
                (*name, *value) = (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned());
            }
        }
        let exchanged = tokio::time::timeout(PATIENCE, wire.exchange(client, &marked)).await;
        let told = exchanged
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| format!("{error:#}"))?;
        let seen: Vec<_> = self
            .applications
            .iter()
            .flat_map(|application| application.seen_with("x-vector", &mark))
            .collect();
        let Told::Answer { status, headers, body } = told.clone() else {
            let of_the_form =
                matches!(&vector.expect, Expect::Deny { code, .. } if OF_THE_FORM.contains(&code.as_str()));
            return match of_the_form && seen.is_empty() && wire.is_http2() {
                true => Ok(told),
                false => Err(format!("was ended, seen {} times", seen.len())),
            };
        };
        let answer = Answer {
            status,
            headers,
            body: body.into(),
            elapsed: Duration::ZERO,
        };
        match &vector.expect {
            // The application's echo is no list, so nothing of it is told.
            Expect::Permit if is_list(&request.body) => {
                let withheld = (502, Some("response_withheld".to_owned()), 1);
                same((answer.status, answer.code(), seen.len()), withheld)?;
            }
            Expect::Permit | Expect::Shadow { .. } => passed(&answer, &seen, recipe, now)?,
            Expect::Deny { code, status, needed } => {
                // An answer to HEAD has no body.
                let in_body = (request.method != "HEAD").then(|| code.clone());
                let denial = (!wire.is_http2()).then(|| code.clone());
                same(
                    (
                        answer.status,
                        answer.code(),
                        answer.denial().map(str::to_owned),
                        told_needed(&answer),
                        seen.len(),
                    ),
                    (*status, in_body, denial, needed.clone(), 0),
                )?;
            }
        }
        Ok(told)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: T, expected: T) -> Result<(), String> {
    match got == expected {
        true => Ok(()),
        false => Err(format!("{got:?}; expected {expected:?}")),
    }
}

/// A permit reaches the application once, as it was sent but for what was sealed, and inbound without the capability.
fn passed(answer: &Answer, seen: &[Seen], recipe: &Recipe, now: u64) -> Result<(), String> {
    let [seen] = seen else {
        let (status, code) = (answer.status, answer.code());
        return Err(format!(
            "{status} {code:?}, seen {} times; expected to pass",
            seen.len()
        ));
    };
    if answer.status != 200 {
        return Err(format!("{} {:?}; expected to pass", answer.status, answer.code()));
    }
    let opened = recipe.opened(now);
    let of_session = |headers: &[(String, String)]| -> Vec<(String, String)> {
        let of_session = |(name, _): &&(String, String)| name == "mcp-session-id";
        headers.iter().filter(of_session).cloned().collect()
    };
    same(
        (&*seen.path, of_session(&seen.headers)),
        (&*opened.path, of_session(&opened.headers)),
    )?;
    if seen.body != opened.body {
        return Err("the application was sent another body".into());
    }
    let token = recipe.token(now);
    let shown = seen.headers.iter().any(|(_, value)| value.contains(&token));
    match recipe.side == "inbound" && shown {
        true => Err("the application was shown the capability".into()),
        false => Ok(()),
    }
}

/// Whether a request asks for a list, whose answer is filtered.
fn is_list(body: &[u8]) -> bool {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let method = body.as_ref().and_then(|body| body["method"].as_str());
    method.is_some_and(|method| List::of(method).is_some())
}

/// What a problem document or a JSON-RPC error says that the request would have needed.
fn told_needed(answer: &Answer) -> BTreeMap<String, String> {
    let body = answer.json();
    let needed = body.get("needed").or_else(|| body.pointer("/error/data/needed"));
    needed
        .map(|needed| serde_json::from_value(needed.clone()).unwrap())
        .unwrap_or_default()
}

/// The request of a vector.
fn written(placed: &Placed, now: u64) -> Written {
    let vectors::recipe::RawRequest {
        method,
        path,
        headers,
        body,
    } = placed.recipe.request(now);
    Written {
        method,
        path,
        headers,
        body,
    }
}

fn workload(spiffe: &str) -> Workload {
    let (namespace, account) = spiffe
        .strip_prefix("spiffe://cluster.local/ns/")
        .and_then(|path| path.split_once("/sa/"))
        .unwrap_or_else(|| panic!("`{spiffe}` is no workload of the mesh"));
    Workload::new(namespace, account)
}

fn server_name(spiffe: &str) -> String {
    let Workload {
        namespace,
        service_account,
    } = workload(spiffe);
    format!("{service_account}.{namespace}.svc.cluster.local")
}
