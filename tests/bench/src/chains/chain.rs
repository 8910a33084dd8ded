//! One Envoy with one chain of filters, shown to deny before it is measured.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::client::{Call, Client};
use tests::envoy::Envoy;
use tests::feed::Feed;
use tests::load::wire::Request;
use tests::process::Process;
use tests::sidecar::{Inbound, Sidecar};
use tests::wait;

use super::bed::{Bed, Place};
use super::ours::Policy;
use super::traffic::Traffic;
use super::{ours, peers};
use crate::cpu;
use crate::drive::{Connection, Reply};
use crate::plan::Plan;

const SERVICE_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 15_000;
const POLICY_PORT: u16 = 9090;
const AUTHORIZER_PORT: u16 = 9191;

/// How long a chain may take until it decides by its policy.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// How long records may take to be taken.
const RECORDS_LIMIT: Duration = Duration::from_secs(20);

/// What stands in the chain before the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filters {
    /// Nothing.
    None,
    /// A wasm filter that does nothing.
    Noop,
    /// `lua`, which looks at one header.
    Lua,
    /// `jwt_authn`, with or without its cache, and `rbac`.
    Jwt { cached: bool },
    /// `jwt_authn` with its cache, `mcp`, and `rbac` on what `mcp` has read.
    JwtMcp,
    /// `ext_authz` over gRPC.
    ExtAuthz,
    /// The same with the request's body.
    ExtAuthzBody,
    /// The real filter and the guard behind it.
    Ours(Policy),
}

/// What answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// Envoy itself.
    Direct,
    /// An application behind it.
    Upstream,
}

/// Which chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) filters: Filters,
    pub(super) backend: Backend,
}

impl Kind {
    /// The chain without filters in front of the same.
    pub(super) fn base(self) -> Self {
        Self {
            filters: Filters::None,
            ..self
        }
    }

    fn asks_authorizer(self) -> bool {
        matches!(self.filters, Filters::ExtAuthz | Filters::ExtAuthzBody)
    }
}

/// A request that must be answered so; a code is the filter's own, in its header.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    pub(super) what: &'static str,
    pub(super) request: Vec<u8>,
    pub(super) status: u16,
    pub(super) code: Option<&'static str>,
}

impl Proof {
    /// It passes.
    pub(super) fn allowed(request: Request) -> Self {
        Self::denied("a good request", request, 200)
    }

    /// It is answered with this status.
    pub(super) fn denied(what: &'static str, request: Request, status: u16) -> Self {
        Self {
            what,
            request: request.bytes(1),
            status,
            code: None,
        }
    }
}

/// A running chain.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) kind: Kind,
    pub(super) client: Client,
    envoy: Envoy,
    feed: Option<Feed>,
    authorizer: Option<Authorizer>,
}

#[derive(Debug)]
struct Authorizer {
    process: Process,
    client: Client,
}

impl Chain {
    /// Starts it without waiting.
    ///
    /// # Errors
    ///
    /// When something of it cannot be started.
    pub(super) async fn start(kind: Kind, bed: &Bed, plan: &Plan) -> Result<Self> {
        let place = bed.place()?;
        let (address, name) = (place.socket(SERVICE_PORT), place.name("chain"));
        let feed = match kind.filters {
            Filters::Ours(policy) => {
                let agents = plan.agents(policy.agents);
                Some(ours::feed(Policy { agents, ..policy }, place.socket(POLICY_PORT)).await?)
            }
            _ => None,
        };
        let mut sidecar = Sidecar::new(&bed.service, &bed.ca, place.socket(ADMIN_PORT))
            .with_inbound(Inbound::new(address, bed.upstream.socket()));
        sidecar.name.clone_from(&name);
        sidecar.concurrency = 1;
        if let Some(feed) = &feed {
            sidecar = sidecar.with_filter(ours::plugin(feed)?, feed.upstream());
        }
        let mut config = sidecar.config(&bed.run);
        shape(&mut config, kind)?;
        let authorizer = if kind.asks_authorizer() {
            Some(add_authorizer(&mut config, bed, place)?)
        } else {
            None
        };
        let envoy = Envoy::spawn(&name, &config, sidecar.admin, sidecar.concurrency, &bed.run)?;
        Ok(Self {
            kind,
            client: bed.client(address)?,
            envoy,
            feed,
            authorizer,
        })
    }

    /// Waits until it decides, shows that it denies what it should, and keeps it on its core.
    ///
    /// # Errors
    ///
    /// When it does not start, or answers otherwise than it must.
    pub(super) async fn ready(&self, bed: &Bed) -> Result<()> {
        self.envoy.ready().await?;
        for process in self.processes() {
            bed.cores.map(|cores| cores.keep_measured(process)).transpose()?;
        }
        let proofs = match self.kind.filters {
            Filters::Ours(policy) => ours::proofs(policy),
            filters => peers::proofs(filters),
        };
        let allowed = proofs.first().context("a chain without proofs")?;
        let settled = wait::until("the chain to let a good request pass", SETTLE_LIMIT, async || {
            self.prove(allowed).await.ok()
        });
        settled.await.with_context(|| self.envoy.process().log_tail())?;
        for proof in &proofs {
            self.prove(proof).await.with_context(|| proof.what)?;
        }
        if let Some(authorizer) = &self.authorizer {
            self.heeds(authorizer, allowed)
                .await
                .context("an authorizer that says no")?;
        }
        Ok(())
    }

    async fn prove(&self, proof: &Proof) -> Result<()> {
        let reply = Connection::open(&self.client).await?.exchange(&proof.request).await?;
        let as_it_must = reply.status == proof.status && code(&reply) == proof.code;
        ensure!(
            as_it_must,
            "not answered with {} {:?} but with\n{}",
            proof.status,
            proof.code,
            reply.head
        );
        Ok(())
    }

    /// Denies what the authorizer denies, and lets it pass again when the authorizer does.
    async fn heeds(&self, authorizer: &Authorizer, allowed: &Proof) -> Result<()> {
        let denied = Proof {
            status: 403,
            ..allowed.clone()
        };
        for (path, proof) in [("/deny", &denied), ("/allow", allowed)] {
            authorizer.client.send(Call::new("POST", "authorizer", path)).await?;
            self.prove(proof).await?;
        }
        Ok(())
    }

    fn processes(&self) -> impl Iterator<Item = i32> {
        let authorizer = self.authorizer.iter().map(|authorizer| authorizer.process.id());
        authorizer.chain([self.envoy.process().id()])
    }

    /// How it must answer this traffic.
    pub(super) fn status(&self, traffic: Traffic) -> u16 {
        if traffic == Traffic::Denied && self.kind != self.kind.base() {
            403
        } else {
            200
        }
    }

    /// What it has used of the processor: Envoy, and the authorizer that it asks.
    ///
    /// # Errors
    ///
    /// When one has ended.
    pub(super) fn used(&self) -> Result<Duration> {
        self.processes().map(cpu::used).sum()
    }

    /// Whether it makes records.
    pub(super) fn makes_records(&self) -> bool {
        self.feed.is_some()
    }

    /// Records that its policy feed has taken.
    pub(super) fn records(&self) -> u64 {
        self.feed.as_ref().map_or(0, Feed::counted)
    }

    /// Waits until its policy feed has taken so many records in all.
    ///
    /// # Errors
    ///
    /// When it has not in time.
    pub(super) async fn recorded(&self, records: u64) -> Result<()> {
        if self.records() >= records {
            return Ok(());
        }
        let recorded = async || (self.records() >= records).then_some(());
        wait::until("the records to be taken", RECORDS_LIMIT, recorded).await
    }
}

fn code(reply: &Reply) -> Option<&str> {
    let mut lines = reply.head.lines();
    lines.find_map(|line| line.strip_prefix("ostiary-denial: "))
}

/// Makes a sidecar's configuration that of a chain: no access log, the chain's filters, the chain's backend.
fn shape(config: &mut Value, kind: Kind) -> Result<()> {
    let manager = config.pointer_mut("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config");
    let manager = manager
        .and_then(Value::as_object_mut)
        .context("no connection manager")?;
    manager.remove("access_log");
    let filters = manager.get_mut("http_filters").and_then(Value::as_array_mut);
    let filters = filters.context("no filters")?;
    filters.splice(0..0, peers::filters(kind.filters)?);
    if kind.backend == Backend::Direct {
        let routes = manager.get_mut("route_config");
        let Some(route) = routes.and_then(|routes| routes.pointer_mut("/virtual_hosts/0/routes/0")) else {
            bail!("no route");
        };
        *route = json!({
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
        });
    }
    Ok(())
}

/// Starts the chain's authorizer, and tells Envoy where it is.
fn add_authorizer(config: &mut Value, bed: &Bed, place: Place) -> Result<Authorizer> {
    let address = place.socket(AUTHORIZER_PORT);
    let clusters = config.pointer_mut("/static_resources/clusters");
    let clusters = clusters.and_then(Value::as_array_mut).context("no clusters")?;
    clusters.push(peers::authorizer_cluster(address));
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("authorizer").arg(address.to_string());
    let log = bed.run.file(&place.name("authorizer"));
    Ok(Authorizer {
        process: Process::spawn("authorizer", &command, &log)?,
        client: Client::plain(address).http2(),
    })
}
