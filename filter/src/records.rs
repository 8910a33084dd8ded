//! Audit records on their way out: sealed into the chain of this VM, queued, posted in batches.
//!
//! A record leaves the queue when the policy server has acknowledged it, never before. One batch is in flight, so the
//! chain arrives in order; what is written meanwhile joins the next. That goes out with the next tick, or as soon as it may if a
//! call waits for it or much is queued.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use authz::audit::{self, Aggregates, Chain, Kind, MAX_HEARTBEAT_SECONDS, Record, Sealed, SourceId, Stored};
use authz::denial::Code;
use authz::digest::Digest;
use authz::identity::{ServiceId, SpiffeId};
use authz::request::Side;

use crate::backoff::{Backoff, LONGEST};
use crate::host::{Host, jitter};
use crate::slots::{Account, Reservation, Slots};

const MOST_RECORDS_A_BATCH: usize = 512;
const MOST_BYTES_A_BATCH: usize = 1 << 20;

/// How long the policy server may take to store a batch.
pub(crate) const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its own timeout a callout counts as lost: its root context may have gone.
const GRACE: Duration = Duration::from_secs(5);

/// Different (peer, code, service) of one second; what goes beyond is counted by code.
const MOST_AGGREGATES: usize = 512;

/// A sealed record that has not been acknowledged.
#[derive(Debug)]
struct Queued {
    sealed: Sealed,
    /// On whose account its slot is; the records that open a source or tell of overflow are on none.
    account: Option<Rc<Account>>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    token: u32,
    sent: Duration,
    records: usize,
}

/// What the policy server said to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// 200 with this body.
    Stored(&'a [u8]),
    /// 409: the chain of this source does not continue what is stored.
    Refused,
    /// 413.
    TooLarge,
    /// Anything else, or nothing.
    Failed,
}

/// The record queue of one VM.
#[derive(Debug)]
pub(crate) struct Records {
    slots: Slots,
    aggregates: Aggregates,
    chain: Option<Chain>,
    /// The hash of the last record that was acknowledged of the present chain.
    acknowledged: Option<Digest>,
    queue: VecDeque<Queued>,
    in_flight: Option<InFlight>,
    not_before: Duration,
    backoff: Backoff,
    batch_limit: usize,
    /// How long there may be nothing to tell before that is told; None where the policy server does not want it.
    heartbeat: Option<Duration>,
    /// Since when there has been nothing to tell.
    quiet_since: Option<Duration>,
}

impl Records {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            slots: Slots::new(capacity),
            aggregates: Aggregates::new(MOST_AGGREGATES),
            chain: None,
            acknowledged: None,
            queue: VecDeque::new(),
            in_flight: None,
            not_before: Duration::ZERO,
            backoff: Backoff::default(),
            batch_limit: MOST_RECORDS_A_BATCH,
            heartbeat: None,
            quiet_since: None,
        }
    }

    /// Sets the capacity of a changed configuration.
    pub(crate) fn resize(&mut self, capacity: usize) {
        self.slots.resize(capacity);
    }

    /// Records that are queued.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Room for `wanted` records on behalf of `peer`, or nothing: then the request must not pass.
    pub(crate) fn reserve(&mut self, peer: Option<&SpiffeId>, wanted: usize) -> Option<Reservation> {
        self.slots.reserve(peer.map_or("", SpiffeId::as_str), wanted)
    }

    /// Gives back what a stream did not use.
    pub(crate) fn release(&mut self, reservation: Reservation) {
        self.slots.release(reservation);
    }

    /// Whether the last batch could not be stored and the next is not due yet: what is written now is stored no sooner.
    pub(crate) fn is_failing(&self, now: Duration) -> bool {
        now < self.not_before
    }

    /// Whether so many records are queued that they are not to gather any longer.
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue.len() >= (self.slots.capacity() / 4).clamp(1, MOST_RECORDS_A_BATCH / 2)
    }

    /// Whether a batch is out: its answer is followed by the next.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Seals and queues a record in a slot of `reservation`, and gives it.
    ///
    /// None if the reservation is used up, or if no randomness can be had to name a source.
    pub(crate) fn write(
        &mut self,
        host: &impl Host,
        reservation: &mut Reservation,
        record: &Record<'_>,
    ) -> Option<&Sealed> {
        if self.chain.is_none() {
            self.start_source(host, record.workload.as_deref().unwrap_or_default(), None)?;
        }
        let account = reservation.take_one()?;
        self.seal(Some(account), record)
    }

    /// Counts a denial that gets no record of its own.
    pub(crate) fn count(
        &mut self,
        second: u64,
        side: Option<Side>,
        peer: Option<&SpiffeId>,
        service: Option<&ServiceId>,
        code: Code,
    ) {
        match side {
            Some(side) => self
                .aggregates
                .count(second, side, peer.map(SpiffeId::as_str), service, code),
            None => self.aggregates.count_overflow(code, 1),
        }
    }

    /// Turns the counts of past seconds into records. Answers how many denials are known by their code alone.
    pub(crate) fn settle_counts(&mut self, host: &impl Host, workload: &SpiffeId, second: u64) -> u64 {
        if self.aggregates.is_empty() {
            return 0;
        }
        let mut without_record = 0;
        for record in self.aggregates.drain(second, workload.as_str()) {
            let written = match record.kind {
                Kind::Overflow => self.write_overflow(host, &record),
                _ => self.write_aggregate(host, &record),
            };
            if !written {
                let counts = record.code.zip(record.count).into_iter().chain(record.counts);
                for (code, count) in counts {
                    self.aggregates.count_overflow(code, count);
                    without_record += u64::from(record.kind == Kind::Aggregate) * count;
                }
            }
        }
        without_record
    }

    /// Says that there was nothing to tell, once that has been so for long enough. At most one is queued, in a place beyond
    /// the queue's capacity; a VM that never had anything to tell has no source, and says nothing.
    pub(crate) fn beat(&mut self, host: &impl Host, workload: &SpiffeId, bundle: Option<&str>, state: Option<&str>) {
        let Some(heartbeat) = self.heartbeat.filter(|_| self.queue.is_empty()) else {
            return;
        };
        let now = host.monotonic();
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) >= heartbeat {
            let time_ms = u64::try_from(host.wall().as_millis()).unwrap_or(u64::MAX);
            self.seal(None, &Record::heartbeat(time_ms, workload.as_str(), bundle, state));
        }
    }

    /// What a poll says of the source; None before there is one, and where no heartbeats are wanted.
    pub(crate) fn told_source(&self) -> Option<String> {
        let source = self.chain.as_ref()?.source();
        Some(audit::write_source(source, self.heartbeat?.as_secs()))
    }

    fn write_aggregate(&mut self, host: &impl Host, record: &Record<'_>) -> bool {
        let Some(mut reservation) = self.slots.reserve(record.peer.as_deref().unwrap_or_default(), 1) else {
            return false;
        };
        let written = self.write(host, &mut reservation, record).is_some();
        self.slots.release(reservation);
        written
    }

    /// One overflow record has a place beyond the queue's capacity; until it has left, counts go on adding up.
    fn write_overflow(&mut self, host: &impl Host, record: &Record<'_>) -> bool {
        if self.queue.iter().any(|queued| queued.kind == Kind::Overflow) {
            return false;
        }
        if self.chain.is_none() {
            let workload = record.workload.as_deref().unwrap_or_default();
            if self.start_source(host, workload, None).is_none() {
                return false;
            }
        }
        self.seal(None, record).is_some()
    }

    fn start_source(
        &mut self,
        host: &impl Host,
        workload: &str,
        previous: Option<(SourceId, Option<Digest>)>,
    ) -> Option<()> {
        let mut id = [0; 16];
        if !host.random(&mut id) {
            return None;
        }
        self.chain = Some(Chain::new(SourceId(id)));
        self.acknowledged = None;
        let time_ms = u64::try_from(host.wall().as_millis()).unwrap_or(u64::MAX);
        self.seal(None, &Record::source(time_ms, workload, previous))
            .map(|_| ())
    }

    fn seal(&mut self, account: Option<Rc<Account>>, record: &Record<'_>) -> Option<&Sealed> {
        let sealed = self.chain.as_mut()?.seal(record);
        self.quiet_since = None;
        self.queue.push_back(Queued {
            sealed,
            account,
            kind: record.kind,
        });
        self.queue.back().map(|queued| &queued.sealed)
    }

    /// The next batch as a body to post, if there is one to send now.
    pub(crate) fn next_batch(&mut self, now: Duration) -> Option<Batch> {
        if let Some(in_flight) = self.in_flight {
            if now.saturating_sub(in_flight.sent) <= POST_TIMEOUT + GRACE {
                return None;
            }
            self.in_flight = None;
        }
        if self.queue.is_empty() || now < self.not_before {
            return None;
        }
        let mut body = Vec::new();
        let mut records = 0;
        let first = self.queue.front()?.sealed.seq;
        let mut last = first;
        for queued in self.queue.iter().take(self.batch_limit) {
            if records > 0 && body.len() + queued.sealed.line.len() >= MOST_BYTES_A_BATCH {
                break;
            }
            body.extend_from_slice(&queued.sealed.line);
            body.push(b'\n');
            records += 1;
            last = queued.sealed.seq;
        }
        Some(Batch {
            body,
            records,
            seqs: first..=last,
        })
    }

    /// The batch went out as callout `token`.
    pub(crate) fn sent(&mut self, token: u32, records: usize, now: Duration) {
        self.in_flight = Some(InFlight {
            token,
            sent: now,
            records,
        });
    }

    /// The batch could not be sent, or its answer did not help: it is kept and sent again later.
    pub(crate) fn failed(&mut self, now: Duration, random: u32) {
        self.in_flight = None;
        self.not_before = now + self.backoff.next(LONGEST, random);
    }

    /// No answer is to be expected to the batch in flight.
    pub(crate) fn forget_in_flight(&mut self) {
        self.in_flight = None;
    }

    /// Whether callout `token` is the batch in flight.
    pub(crate) fn awaits(&self, token: u32) -> bool {
        self.in_flight.is_some_and(|in_flight| in_flight.token == token)
    }

    /// Settles the batch in flight. None if nothing of it was stored.
    pub(crate) fn answered(&mut self, host: &impl Host, answer: Answer<'_>, now: Duration) -> Option<Stored> {
        let in_flight = self.in_flight.take()?;
        match answer {
            Answer::Stored(body) => {
                let stored = self.acknowledge(body, in_flight.records);
                if stored.is_some() {
                    self.backoff.reset();
                    self.batch_limit = MOST_RECORDS_A_BATCH;
                } else {
                    self.failed(now, jitter(host));
                }
                return stored;
            }
            Answer::Refused => {
                log::warn!("the policy server refused the chain of this source; starting a new one");
                self.restart(host);
                self.failed(now, jitter(host));
            }
            Answer::TooLarge => {
                self.batch_limit = (in_flight.records / 2).max(1);
                self.failed(now, jitter(host));
            }
            Answer::Failed => self.failed(now, jitter(host)),
        }
        None
    }

    /// Lets go of what was stored. None if that is nothing.
    fn acknowledge(&mut self, body: &[u8], sent: usize) -> Option<Stored> {
        let stored: Stored = serde_json::from_slice(body).ok()?;
        if self.chain.as_ref()?.source().to_string() != stored.source {
            return None;
        }
        let heartbeat = stored.heartbeat_seconds;
        let heartbeat = heartbeat.filter(|seconds| (1..=MAX_HEARTBEAT_SECONDS).contains(seconds));
        self.heartbeat = heartbeat.map(Duration::from_secs);
        let mut progress = false;
        for _ in 0..sent {
            let Some(queued) = self
                .queue
                .pop_front_if(|queued| queued.sealed.seq <= stored.accepted_through)
            else {
                break;
            };
            progress = true;
            self.acknowledged = Some(queued.sealed.hash);
            if let Some(account) = &queued.account {
                self.slots.release_one(account);
            }
        }
        progress.then_some(stored)
    }

    /// Starts a new source that names the old one, and seals what was not acknowledged into its chain.
    fn restart(&mut self, host: &impl Host) {
        let Some(old) = self.chain.as_ref().map(Chain::source) else {
            return;
        };
        let queue = std::mem::take(&mut self.queue);
        let workload = queue.iter().find_map(|queued| workload(&queued.sealed));
        let previous = Some((old, self.acknowledged));
        if self
            .start_source(host, &workload.unwrap_or_default(), previous)
            .is_none()
        {
            self.queue = queue;
            return;
        }
        for queued in queue {
            if let (Ok(verified), false) = (audit::verify_line(&queued.sealed.line), queued.kind == Kind::Source) {
                self.seal(queued.account, &verified.record);
            } else if let Some(account) = &queued.account {
                self.slots.release_one(account);
            }
        }
    }
}

/// Lines of one source, consecutive.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) body: Vec<u8>,
    pub(crate) records: usize,
    pub(crate) seqs: RangeInclusive<u64>,
}

fn workload(sealed: &Sealed) -> Option<String> {
    audit::verify_line(&sealed.line)
        .ok()?
        .record
        .workload
        .map(Cow::into_owned)
}

#[cfg(test)]
mod tests;
