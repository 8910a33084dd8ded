//! Prometheus metrics. Labels come from closed sets, so that no caller can make them grow.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What the server counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    tokens: Family<CodeLabels, Counter>,
    /// Batches of records by outcome.
    batches: Family<CodeLabels, Counter>,
    /// Records stored for the first time.
    pub records: Counter,
    commit_seconds: Histogram,
    /// Batches that wait for the disk.
    pub record_queue: Gauge,
    /// Polls that are held.
    pub polls: Gauge,
    reloads: Family<CodeLabels, Counter>,
    /// 1 while the policy in force is what its source says.
    pub policy_current: Gauge,
    /// Agents in the policy in force.
    pub policy_agents: Gauge,
    /// Services in the policy in force.
    pub policy_services: Gauge,
    /// When the state list was last signed.
    pub state_issued_at: Gauge<u64, AtomicU64>,
    /// Failures of the store.
    pub store_failures: Counter,
    /// Attempts to tell a webhook that failed.
    pub webhook_failures: Counter,
    /// Records under the last checkpoint.
    pub log_signed: Gauge,
    /// Failures to sign or mirror the log.
    pub log_failures: Counter,
    findings: Family<KindLabels, Counter>,
    /// Calls that could not be judged.
    pub calls_unjudged: Counter,
    keys: Family<KeyLabels, Gauge>,
    sources: Gauge,
    sources_without_key: Family<KindLabels, Gauge>,
    sources_silent: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u16,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KeyLabels {
    kind: &'static str,
    kid: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

impl Metrics {
    /// Makes and registers all metrics.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("ostiary");
        let metrics = Self {
            requests: registered(&mut registry, "http_requests", "requests by route, status and code"),
            tokens: registered(&mut registry, "token_requests", "requests for tokens by outcome"),
            batches: registered(&mut registry, "record_batches", "batches of records by outcome"),
            records: registered(&mut registry, "records", "records stored"),
            commit_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            record_queue: registered(
                &mut registry,
                "record_queue",
                "batches of records that wait for the disk",
            ),
            polls: registered(&mut registry, "polls_held", "policy polls that are held"),
            reloads: registered(&mut registry, "policy_reloads", "reloads of the policy by outcome"),
            policy_current: registered(
                &mut registry,
                "policy_current",
                "1 while the policy in force is what files or API server say",
            ),
            policy_agents: registered(&mut registry, "policy_agents", "agents in the policy in force"),
            policy_services: registered(&mut registry, "policy_services", "services in the policy in force"),
            state_issued_at: registered(
                &mut registry,
                "state_issued_at_seconds",
                "when the state list was signed",
            ),
            store_failures: registered(&mut registry, "store_failures", "failures of the store"),
            webhook_failures: registered(&mut registry, "webhook_failures", "failed attempts to tell a webhook"),
            log_signed: registered(&mut registry, "log_signed", "records under the last checkpoint"),
            log_failures: registered(&mut registry, "log_failures", "failures to sign or mirror the log"),
            findings: registered(
                &mut registry,
                "findings",
                "calls that only one side saw, or both saw differently, by kind",
            ),
            calls_unjudged: registered(
                &mut registry,
                "calls_unjudged",
                "calls that one side alone told of, and of which nothing is known",
            ),
            keys: registered(
                &mut registry,
                "key_info",
                "keys and what they are for: since when, in seconds",
            ),
            sources: registered(&mut registry, "sources", "sidecar VMs that live"),
            sources_without_key: registered(
                &mut registry,
                "sources_without_key",
                "sidecar VMs that live and cannot verify what the key that signs signs",
            ),
            sources_silent: registered(
                &mut registry,
                "sources_silent",
                "sidecar VMs that live and send neither records nor heartbeats",
            ),
            registry: Registry::default(),
        };
        registry.register_with_unit(
            "record_commit",
            "time to store a group of batches durably",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        Self { registry, ..metrics }
    }

    /// Counts an answered request.
    pub fn request(&self, route: &str, status: u16, code: &'static str) {
        self.requests
            .get_or_create(&RequestLabels {
                route: route.to_owned(),
                status,
                code,
            })
            .inc();
    }

    /// Counts a request for a token.
    pub fn token(&self, code: &'static str) {
        self.tokens.get_or_create(&CodeLabels { code }).inc();
    }

    /// Counts a batch of records.
    pub fn batch(&self, code: &'static str) {
        self.batches.get_or_create(&CodeLabels { code }).inc();
    }

    /// Counts a reload of the policy.
    pub fn reload(&self, code: &'static str) {
        self.reloads.get_or_create(&CodeLabels { code }).inc();
    }

    /// Counts a durable group of batches.
    pub fn commit(&self, duration: Duration) {
        self.commit_seconds.observe(duration.as_secs_f64());
    }

    /// Counts a finding.
    pub fn finding(&self, kind: &'static str) {
        self.findings.get_or_create(&KindLabels { kind }).inc();
    }

    /// Sets the keys that there are: kind, id, state, and since when.
    pub fn set_keys<'a>(&self, keys: impl Iterator<Item = (&'static str, &'a str, &'static str, u64)>) {
        self.keys.clear();
        for (kind, kid, state, since) in keys {
            let kid = kid.to_owned();
            let since = i64::try_from(since).unwrap_or(i64::MAX);
            self.keys.get_or_create(&KeyLabels { kind, kid, state }).set(since);
        }
    }

    /// Sets how many sources live, and how many of them lack the key of a kind that signs.
    pub fn set_sources(&self, kind: &'static str, live: usize, lacking: usize) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.sources.set(gauge(live));
        self.sources_without_key
            .get_or_create(&KindLabels { kind })
            .set(gauge(lacking));
    }

    /// Sets how many sources live and are silent.
    pub fn set_silent(&self, sources: usize) {
        self.sources_silent.set(i64::try_from(sources).unwrap_or(i64::MAX));
    }

    /// The OpenMetrics text.
    ///
    /// # Errors
    ///
    /// If a metric does not encode.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn registered<M>(registry: &mut Registry, name: &'static str, help: &'static str) -> M
where
    M: prometheus_client::registry::Metric + Default + Clone,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}
