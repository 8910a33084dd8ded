//! How calls end with their tokens: once a second the policy server is asked whether there are others, for all calls in one
//! question.

use std::time::Duration;

use authz::successor::{self, Question};

use super::{CALLOUT_HEADER, MOST_ANSWER_BYTES, Vm};
use crate::backoff::LONGEST;
use crate::host::{Callout, Host, Message, Moment, jitter};
use crate::poll::Outcome;

/// How long an answer may take: the question can still be asked again before the calls are ended.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

impl Vm {
    /// Ends the calls whose time is over, and asks about those whose time is over soon.
    pub(super) fn end_with_tokens(&mut self, host: &impl Host, now: u64, monotonic: Duration) {
        let operations = self.calls.expiring(now);
        let Some(config) = self.config.clone() else { return };
        if operations.is_empty() || !self.asker.due(monotonic, ASK_TIMEOUT) {
            return;
        }
        let Ok(body) = serde_json::to_vec(&Question { operations }) else {
            return;
        };
        let headers = [
            (":method", "POST"),
            (":path", "/v1/successors"),
            (":authority", config.policy_authority.as_str()),
            ("content-type", "application/json"),
            CALLOUT_HEADER,
        ];
        let callout = Callout {
            cluster: &config.policy_cluster,
            headers: &headers,
            body: Some(&body),
            timeout: ASK_TIMEOUT,
        };
        match host.call(&callout) {
            Ok(token) => self.asker.sent(token, monotonic),
            Err(_) => log::warn!("the policy server cannot be asked for other tokens"),
        }
    }

    /// Takes over what an answer tells.
    pub(super) fn told_of_tokens(&mut self, host: &impl Host, status: Option<u16>, body_bytes: usize) {
        // What brings nothing is asked again with the next second: there are only five.
        self.asker
            .settle(Outcome::News, host.monotonic(), LONGEST, jitter(host));
        if status != Some(200) || body_bytes > MOST_ANSWER_BYTES {
            log::warn!("the policy server tells of no other tokens (status {status:?})");
            return;
        }
        let body = host.body(Message::Answer, body_bytes).unwrap_or_default();
        match (successor::read_answer(&body), self.standing()) {
            (Ok(told), Ok(standing)) => self.calls.extend(&standing, Moment::now(host), &told),
            (Err(error), _) => log::error!("an answer about tokens cannot be read: {error}"),
            (Ok(_), Err(_)) => {}
        }
    }
}
