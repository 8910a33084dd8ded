//! What all requests of one Wasm VM share.
//!
//! Envoy runs a VM a worker and one on the main thread, each with its own memory. Two plugins with the same module
//! share a VM and so share this: one policy, one poller, one chain of records.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use authz::audit::{SourceId, WAITING_HEADER};
use authz::definition::Drifts;
use authz::denial::{Code, Denial};
use authz::identity::SpiffeId;
use authz::jws::KeyTables;
use authz::request::Side;
use authz::token::UnverifiedToken;

use crate::backoff::LONGEST;
use crate::cache::{TokenCache, Verified};
use crate::calls::{Call, Calls};
use crate::config::{Config, ConfigError};
use crate::connection::Connections;
use crate::host::{Callout, Host, Message, Moment, jitter};
use crate::meters::{Meter, Meters, Verdict};
use crate::policy::{BundleInUse, Policy, StateInUse};
use crate::poll::Poller;
use crate::records::{Answer, POST_TIMEOUT, Records};
use crate::signature::HostVerifier;

mod expiry;
mod updates;

use updates::FETCH_TIMEOUT;

/// Marks what the filter itself sends, which applications cannot: their sidecar strips it.
const CALLOUT_HEADER: (&str, &str) = ("ostiary-callout", "1");

/// How often expired tokens are dropped and slow gauges are set.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// The longest answer that is read: a bundle of the longest size in its envelope.
const MOST_ANSWER_BYTES: usize = 33 << 20;

/// The state of one VM.
#[derive(Debug)]
pub(crate) struct Vm {
    /// By which the policy server tells the polls of this VM from those of others.
    name: Option<SourceId>,
    config: Option<Rc<Config>>,
    workload: Option<SpiffeId>,
    policy: Policy,
    poller: Poller,
    pub(crate) connections: Connections,
    pub(crate) calls: Calls,
    /// What a stream rings so that a root context posts a batch at once.
    bell: Option<u32>,
    /// It has been rung, and nobody has come yet.
    rung: bool,
    /// Asks for the pages of a bundle on its way.
    fetcher: Poller,
    /// Asks whether agents hold other tokens than those that are about to expire.
    asker: Poller,
    tokens: TokenCache,
    key_tables: KeyTables,
    pub(crate) records: Records,
    drifts: Rc<RefCell<Drifts>>,
    meters: Meters,
    last_housekeeping: Duration,
}

/// All that a decision needs of the VM, held together for one request.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) workload: SpiffeId,
    pub(crate) bundle: Rc<BundleInUse>,
    pub(crate) state: Rc<StateInUse>,
    /// What the VM has seen services define otherwise than it is pinned.
    pub(crate) drifts: Rc<RefCell<Drifts>>,
}

impl Default for Vm {
    fn default() -> Self {
        Self {
            name: None,
            config: None,
            workload: None,
            policy: Policy::default(),
            poller: Poller::default(),
            connections: Connections::default(),
            calls: Calls::default(),
            bell: None,
            rung: false,
            fetcher: Poller::default(),
            asker: Poller::default(),
            tokens: TokenCache::new(1),
            key_tables: KeyTables::default(),
            records: Records::new(0),
            drifts: Rc::default(),
            meters: Meters::default(),
            last_housekeeping: Duration::ZERO,
        }
    }
}

impl Vm {
    /// Takes over a plugin configuration. One that is refused leaves the last good one in force, if there is any;
    /// without any, every request is denied.
    pub(crate) fn configure(&mut self, host: &impl Host, document: &[u8]) -> Result<(), ConfigError> {
        let config = match Config::parse(document) {
            Ok(config) => Rc::new(config),
            Err(error) => {
                self.meters.set(Meter::ConfigRejected, 1);
                return Err(error);
            }
        };
        self.meters.set(Meter::ConfigRejected, 0);
        self.workload = workload(host, &config.trust_domain);
        // They were read for the workload that it was.
        self.connections.clear();
        if self.workload.is_none() {
            log::error!("node metadata NAMESPACE and SERVICE_ACCOUNT name no workload: every request will be denied");
        }
        if let Some(old) = &self.config
            && self.policy.keep_signed_by(|key| config.still_trusts(old, key))
        {
            log::warn!("a bundle key was withdrawn: the policy that it signed is forgotten");
            self.tokens.clear();
            self.key_tables = KeyTables::default();
        }
        self.poller.hurry();
        self.fetcher.hurry();
        self.asker.hurry();
        self.tokens.resize(config.token_cache);
        self.records.resize(config.record_queue);
        self.config = Some(config);
        Ok(())
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Option<&Config> {
        self.config.as_deref()
    }

    /// What there is to decide on.
    ///
    /// # Errors
    ///
    /// `policy_unavailable`: no usable configuration, or no bundle or state list yet. `workload_mismatch`: the proxy
    /// does not know which workload it serves.
    pub(crate) fn standing(&self) -> Result<Standing, Denial> {
        let unavailable = |why| Denial::new(Code::PolicyUnavailable, why);
        if self.config.is_none() {
            return Err(unavailable("the sidecar's filter has no valid configuration"));
        }
        let workload = self
            .workload
            .clone()
            .ok_or_else(|| Denial::new(Code::WorkloadMismatch, "the sidecar does not know its own workload"))?;
        let bundle = self
            .policy
            .bundle()
            .ok_or_else(|| unavailable("the sidecar has received no policy yet"))?;
        let state = self
            .policy
            .state()
            .ok_or_else(|| unavailable("the sidecar has received no agent states yet"))?;
        Ok(Standing {
            workload,
            bundle: Rc::clone(bundle),
            state: Rc::clone(state),
            drifts: Rc::clone(&self.drifts),
        })
    }

    /// Verifies a token, or finds it verified.
    ///
    /// # Errors
    ///
    /// The denial of its flaw.
    pub(crate) fn verify(
        &mut self,
        host: &impl Host,
        compact: &str,
        bundle: &BundleInUse,
        now: u64,
    ) -> Result<Rc<Verified>, Denial> {
        if let Some(token) = self.tokens.get(compact, now) {
            return Ok(token);
        }
        let bundle = &bundle.bundle;
        let verifier = HostVerifier {
            host,
            tables: &self.key_tables,
        };
        let token = UnverifiedToken::parse(compact)
            .and_then(|token| token.verify(bundle.issuers(), bundle.token_limits(), now, &verifier))
            .map_err(|error| Denial::from(&error))?;
        let token = Rc::new(Verified::from(token));
        self.tokens.insert(compact, Rc::clone(&token), token.claims().exp);
        Ok(token)
    }

    /// How long one more call of a paused agent may be held.
    ///
    /// # Errors
    ///
    /// `agent_paused` if as many are held as may be.
    pub(crate) fn room_to_hold(&self) -> Result<Duration, Denial> {
        let config = self
            .config
            .as_ref()
            .filter(|config| self.calls.held() < config.held_calls);
        let full = || {
            Denial::new(
                Code::AgentPaused,
                "as many calls of paused agents wait for a person as may",
            )
        };
        config.map(|config| config.hold).ok_or_else(full)
    }

    /// Counts a decision; no code means that it was permitted.
    pub(crate) fn decided(&mut self, side: Option<Side>, verdict: Verdict) {
        self.meters.decided(side, verdict);
    }

    /// A call waits for its record, which is queued. A batch that is out is followed by the next; else a root context is
    /// called to post one: a stream's own callout would die with the stream.
    pub(crate) fn await_record(&mut self, host: &impl Host, stream: u32, call: Rc<Call>) {
        self.calls.wait(stream, call);
        if let Some(bell) = self.bell.filter(|_| !self.rung && !self.records.is_in_flight()) {
            self.rung = true;
            host.ring(bell);
        }
    }

    /// A root context comes when this bell is rung, if it has none yet. Until then batches are posted with the ticks.
    pub(crate) fn hang_bell(&mut self, bell: u32) {
        self.bell.get_or_insert(bell);
    }

    /// The root context of a bell has gone.
    pub(crate) fn take_bell_down(&mut self, bell: u32) {
        if self.bell == Some(bell) {
            (self.bell, self.rung) = (None, false);
        }
    }

    /// The bell was rung: posts what there is.
    pub(crate) fn answer_bell(&mut self, host: &impl Host) {
        self.rung = false;
        self.post(host);
    }

    /// Ends the calls of agents that a new state list suspended or killed, and lets those go on, or denies them, whose wait
    /// for their record is over. To be the last thing that a root context does in
    /// a callback: what else it asks of the proxy is its own.
    pub(crate) fn end_calls(&mut self, host: &impl Host, root: u32) {
        self.calls.cancel(host, root);
        self.meters.cancelled(self.calls.take_ended());
    }

    /// What is done ten times a second, from a root context.
    pub(crate) fn tick(&mut self, host: &impl Host) {
        let now = host.wall().as_secs();
        if let Some(workload) = &self.workload {
            let dropped = self.records.settle_counts(host, workload, now);
            if dropped > 0 {
                self.meters.dropped(dropped);
            }
            let bundle = self.policy.bundle().map(|bundle| bundle.version.as_str());
            let state = self.policy.state().map(|state| state.version.as_str());
            self.records.beat(host, workload, bundle, state);
        }
        // Should a ring have got lost, the next is not.
        self.rung = false;
        self.ask(host);
        self.post(host);
        let monotonic = host.monotonic();
        self.calls.expire(monotonic);
        if self.calls.held() > 0 {
            let standing = self.standing();
            self.calls.review(&standing, Moment::now(host));
        }
        if monotonic.saturating_sub(self.last_housekeeping) >= HOUSEKEEPING {
            self.last_housekeeping = monotonic;
            self.tokens.retain(now, |_| true);
            self.end_with_tokens(host, now, monotonic);
            self.gauge(now, monotonic);
        }
        self.meters.queued(self.records.len());
        self.meters.flush(host);
    }

    fn gauge(&mut self, now: u64, monotonic: Duration) {
        if let Some(bundle) = self.policy.bundle() {
            self.meters.set(Meter::BundleVersion, bundle.bundle.version().counter);
        }
        if let Some(state) = self.policy.state() {
            let age = state.list.age_seconds(now, state.seconds_since_poll(monotonic));
            self.meters.set(Meter::StateAgeSeconds, age);
        }
    }

    /// Sends the questions that are due: the next poll and the next request for pages.
    fn ask(&mut self, host: &impl Host) {
        let Some(config) = self.configured() else { return };
        let now = host.monotonic();
        if self.poller.due(now, config.poll_timeout) {
            self.poll(host, &config, now);
        }
        if self.fetcher.due(now, FETCH_TIMEOUT) {
            self.fetch(host, &config, now);
        }
    }

    /// The configuration, if there is one and the workload is known.
    fn configured(&self) -> Option<Rc<Config>> {
        self.config.clone().filter(|_| self.workload.is_some())
    }

    /// Posts the next batch, if there is one and none is out.
    fn post(&mut self, host: &impl Host) {
        let Some(config) = self.configured() else { return };
        let now = host.monotonic();
        if let Some(batch) = self.records.next_batch(now) {
            let awaited = self.calls.awaited(&batch.seqs);
            let mut headers = vec![
                (":method", "POST"),
                (":path", "/v1/records"),
                (":authority", config.policy_authority.as_str()),
                ("content-type", "application/x-ndjson"),
                CALLOUT_HEADER,
            ];
            headers.extend(awaited.as_deref().map(|awaited| (WAITING_HEADER, awaited)));
            let body = Some(batch.body.as_slice());
            let callout = Callout {
                cluster: &config.policy_cluster,
                headers: &headers,
                body,
                timeout: POST_TIMEOUT,
            };
            match host.call(&callout) {
                Ok(token) => self.records.sent(token, batch.records, now),
                Err(_) => {
                    self.records.failed(now, jitter(host));
                    self.calls.give_up();
                }
            }
        }
    }

    /// A root context has gone, and with it perhaps what was in flight: no answer may come. What was sent is sent again;
    /// should an answer come all the same, it is to a question that nobody asks any more.
    pub(crate) fn root_gone(&mut self) {
        self.poller.hurry();
        self.fetcher.hurry();
        self.asker.hurry();
        self.records.forget_in_flight();
    }

    /// The answer to a callout of this VM; `answered` is false for a timeout or a broken connection.
    pub(crate) fn answer(&mut self, host: &impl Host, token: u32, answered: bool, body_bytes: usize) {
        let status = if answered { status(host) } else { None };
        let now = host.monotonic();
        if let Some(sent) = self.poller.sent_at(token) {
            let outcome = self.polled(host, status, body_bytes, sent);
            self.settle_poll(host, outcome, now);
        } else if self.fetcher.sent_at(token).is_some() {
            let outcome = self.fetched(host, status, body_bytes);
            self.fetcher.settle(outcome, now, LONGEST, jitter(host));
        } else if self.asker.sent_at(token).is_some() {
            self.told_of_tokens(host, status, body_bytes);
        } else if self.records.awaits(token) {
            let body = match status {
                Some(200) => host
                    .body(Message::Answer, body_bytes.min(MOST_ANSWER_BYTES))
                    .unwrap_or_default(),
                _ => Vec::new(),
            };
            let answer = match status {
                Some(200) => Answer::Stored(&body),
                Some(409) => Answer::Refused,
                Some(413) => Answer::TooLarge,
                _ => Answer::Failed,
            };
            if answer == Answer::Failed {
                log::warn!(
                    "records were not stored (status {status:?}); {} are kept",
                    self.records.len()
                );
            }
            match self.records.answered(host, answer, now) {
                Some(stored) => self.calls.stored(&stored, self.policy.state().map(|state| &state.list)),
                None => self.calls.give_up(),
            }
        }
        self.ask(host);
        // The rest gathers until the next tick: a call that waits should find no batch out that nobody waits for.
        if self.calls.any_wait() || self.records.is_crowded() {
            self.post(host);
        }
    }
}

/// The workload that Istio's node metadata names.
fn workload(host: &impl Host, trust_domain: &str) -> Option<SpiffeId> {
    let metadata = |key| String::from_utf8(host.property(&["xds", "node", "metadata", key])?).ok();
    SpiffeId::for_service_account(trust_domain, &metadata("NAMESPACE")?, &metadata("SERVICE_ACCOUNT")?).ok()
}

fn status(host: &impl Host) -> Option<u16> {
    let status = host.header(Message::Answer, ":status")?;
    std::str::from_utf8(&status).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
