//! How policy comes: the long-poll for bundles and state lists, and beside it the requests for the pages of a bundle, so
//! that neither a large bundle nor a bad one keeps a state list from arriving.

use std::time::Duration;

use authz::audit::{SOURCE_HEADER, SourceId};
use authz::jws::KeyTables;
use authz::policy::{MAX_PAGES_ANSWER_BYTES, PageDigest};

use super::{CALLOUT_HEADER, MOST_ANSWER_BYTES, Vm};
use crate::backoff::LONGEST;
use crate::config::Config;
use crate::host::{Callout, CalloutError, Host, Message, jitter};
use crate::policy::StateInUse;
use crate::poll::Outcome;

/// How long the answer to a request for pages may take.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// In how many parts of the time that is left until a state list is too old its successor is asked for again.
const TRIES_LEFT: u32 = 4;
/// To no less than this does the longest wait shrink, however little is left; jitter takes up to half of it away.
const SOONEST: Duration = Duration::from_millis(500);

impl Vm {
    /// Asks for news, and says what is held: by the query what there is to be told, by headers what tells whether keys may
    /// change. Older policy servers do not look at those headers, and would refuse a query that they do not know.
    pub(super) fn poll(&mut self, host: &impl Host, config: &Config, now: Duration) {
        let mut path = String::from("/v1/policy?formats=1,2,3,4,5");
        if let Some(version) = self.policy.version_known() {
            path.push_str("&bundle=");
            path.push_str(&version.to_string());
        }
        if let Some(state) = self.policy.state() {
            path.push_str("&state=");
            path.push_str(&state.version);
        }
        let name = self.name(host).map(|name| name.to_string());
        let source = self.records.told_source();
        let in_use = self.policy.bundle().map(|bundle| bundle.version.as_str());
        let report = [
            ("accept", Some("application/json")),
            ("ostiary-vm", name.as_deref()),
            ("ostiary-bundle-in-use", in_use),
            ("ostiary-bundle-keys", Some(config.reported_keys.as_str())),
            (SOURCE_HEADER, source.as_deref()),
        ];
        let report: Vec<_> = report
            .into_iter()
            .filter_map(|(header, value)| Some((header, value.filter(|value| !value.is_empty())?)))
            .collect();
        match get(host, config, &path, &report, config.poll_timeout) {
            Ok(token) => self.poller.sent(token, now),
            Err(CalloutError) => self.settle_poll(host, Outcome::Failed, now),
        }
    }

    /// Settles when to poll next. The less time is left until everything is denied, the sooner: a policy server that
    /// comes and goes is met while it is there.
    pub(super) fn settle_poll(&mut self, host: &impl Host, outcome: Outcome, now: Duration) {
        let left = self.policy.fresh_for(host.wall().as_secs(), now);
        let longest = left.map_or(LONGEST, |left| (left / TRIES_LEFT).max(SOONEST));
        self.poller.settle(outcome, now, longest, jitter(host));
    }

    /// The name of this VM, as long as it lives; none while no randomness can be had.
    fn name(&mut self, host: &impl Host) -> Option<SourceId> {
        if self.name.is_none() {
            let mut name = [0; 16];
            self.name = host.random(&mut name).then_some(SourceId(name));
        }
        self.name
    }

    /// Asks for pages that are missing, if any are.
    pub(super) fn fetch(&mut self, host: &impl Host, config: &Config, now: Duration) {
        let missing = self.policy.missing_pages();
        if missing.is_empty() {
            return;
        }
        let missing: Vec<String> = missing.iter().map(PageDigest::to_string).collect();
        let path = format!("/v1/policy/pages?digests={}", missing.join(","));
        match get(
            host,
            config,
            &path,
            &[("accept", "application/x-ndjson")],
            FETCH_TIMEOUT,
        ) {
            Ok(token) => self.fetcher.sent(token, now),
            Err(CalloutError) => self.fetcher.settle(Outcome::Failed, now, LONGEST, jitter(host)),
        }
    }

    /// Takes over the pages that an answer brings.
    pub(super) fn fetched(&mut self, host: &impl Host, status: Option<u16>, body_bytes: usize) -> Outcome {
        if status != Some(200) || body_bytes > MAX_PAGES_ANSWER_BYTES {
            log::warn!("no pages from the policy server (status {status:?}, {body_bytes} bytes)");
            return Outcome::Failed;
        }
        let body = host.body(Message::Answer, body_bytes).unwrap_or_default();
        match self.policy.accept_pages(&body) {
            Ok(changed) => {
                if changed {
                    self.bundle_changed();
                }
                Outcome::News
            }
            Err(error) => {
                log::error!("{error}");
                Outcome::Failed
            }
        }
    }

    /// Issuers may have changed with the bundle: signatures are checked again.
    fn bundle_changed(&mut self) {
        self.tokens.clear();
        if let Some(bundle) = self.policy.bundle() {
            self.key_tables = KeyTables::of(bundle.bundle.issuers(), std::mem::take(&mut self.key_tables));
        }
    }

    /// Takes over what the answer to a poll brings.
    pub(super) fn polled(
        &mut self,
        host: &impl Host,
        status: Option<u16>,
        body_bytes: usize,
        sent: Duration,
    ) -> Outcome {
        let (Some(config), Some(workload)) = (self.config.clone(), self.workload.clone()) else {
            return Outcome::Failed;
        };
        match status {
            Some(204) => return Outcome::Unchanged,
            Some(200) if body_bytes <= MOST_ANSWER_BYTES => {}
            _ => {
                log::warn!("no policy from the policy server (status {status:?})");
                return Outcome::Failed;
            }
        }
        let body = host.body(Message::Answer, body_bytes).unwrap_or_default();
        let before = self.policy.state().cloned();
        let (news, errors) = self
            .policy
            .accept(&body, &config.bundle_keys, &workload, sent, host.wall().as_secs());
        for error in &errors {
            log::error!("{error}");
        }
        if let Some(state) = self.policy.state().filter(|_| news.state) {
            self.calls.judge(&state.list);
        }
        if news.bundle {
            self.bundle_changed();
        } else if news.state {
            self.forget_tokens_of_changed_agents(host, before.as_deref());
        }
        match (errors.is_empty(), news.bundle || news.pending || news.state) {
            (true, true) => Outcome::News,
            (true, false) => Outcome::Unchanged,
            (false, _) => Outcome::Failed,
        }
    }

    fn forget_tokens_of_changed_agents(&mut self, host: &impl Host, before: Option<&StateInUse>) {
        let (Some(before), Some(after)) = (before, self.policy.state()) else {
            return;
        };
        let (before, after) = (&before.list, &after.list);
        self.tokens.retain(host.wall().as_secs(), |token| {
            let claims = token.claims();
            let agent = &claims.agent_id;
            before.agent_state(agent) == after.agent_state(agent)
                && before.not_before(agent) == after.not_before(agent)
                && !after.revoked(&claims.jti)
        });
    }
}

/// Sends a request that has no body.
fn get(
    host: &impl Host,
    config: &Config,
    path: &str,
    more: &[(&str, &str)],
    timeout: Duration,
) -> Result<u32, CalloutError> {
    let mut headers = vec![
        (":method", "GET"),
        (":path", path),
        (":authority", config.policy_authority.as_str()),
        CALLOUT_HEADER,
    ];
    headers.extend(more);
    host.call(&Callout {
        cluster: &config.policy_cluster,
        headers: &headers,
        body: None,
        timeout,
    })
}

#[cfg(test)]
mod tests;
