//! The end of a stream, and its record.

use authz::audit::{Kind, Record};
use authz::digest::Hasher;

use super::answer::from_upstream;
use super::passage::Passing;
use super::{Phase, Session};
use crate::connection;
use crate::host::Host;
use crate::reading::Reading;
use crate::response::Listing;
use crate::slots::Reservation;
use crate::vm::Vm;

/// Where access logs read the record of the end of what was permitted.
const COMPLETION_KEY: &str = "ostiary_completion";

impl Session {
    /// The stream is over, however it ended; `logging` says that its access log is about to be written.
    pub(crate) fn finish(&mut self, vm: &mut Vm, host: &impl Host, logging: bool) {
        self.wake(vm);
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        if self.call.is_some() {
            vm.calls.end(self.context);
        }
        if matches!(phase, Phase::Passing(_) | Phase::Waiting(_) | Phase::Held(_)) {
            self.now = self.started.until_now(host);
        }
        match phase {
            Phase::Passing(passing) => self.complete(vm, host, *passing, logging),
            Phase::Waiting(waiting) => self.not_delivered(vm, host, *waiting, logging),
            Phase::Held(held) => {
                let end = if status(host).is_some() { "refused" } else { "aborted" };
                let record = Record {
                    request_bytes: Some(held.body_bytes as u64),
                    end: Some(end.into()),
                    status: status(host),
                    duration_us: Some(self.now.micros_since(self.started)),
                    ..self.known.record(Kind::Completion, self.now)
                };
                self.close(vm, host, held.reservation, &record, logging);
            }
            Phase::Fresh | Phase::Denied | Phase::Withheld | Phase::Ended => {}
        }
    }

    pub(super) fn complete(&self, vm: &mut Vm, host: &impl Host, passing: Passing, logging: bool) {
        let Passing {
            reservation,
            request,
            request_bytes,
            response,
            response_ended,
            listing,
            tail: _,
            reading,
            sealing: _,
        } = passing;
        let withheld = listing.as_ref().and_then(Listing::withheld);
        let end = match (withheld, response_ended) {
            (Some(_), _) => "withheld",
            (None, true) => "complete",
            (None, false) => "broken",
        };
        let response_bytes = response.bytes();
        let status = status(host);
        let ended = self
            .call
            .as_ref()
            .and_then(|call| call.ending(status, from_upstream(host), response_ended));
        let record = Record {
            response_digest: (response_bytes > 0).then(|| response.finish()),
            response_bytes: Some(response_bytes),
            code: withheld,
            outcome: reading
                .and_then(Reading::outcome)
                .map(|outcome| outcome.as_str().into()),
            drifted: listing.iter().flat_map(Listing::drifted).map(Into::into).collect(),
            end: Some(ended.unwrap_or(end).into()),
            ..self.completion(request, request_bytes, status)
        };
        self.close(vm, host, reservation, &record, logging);
    }

    /// The record of the end of a call that was permitted, but for how it ended.
    pub(super) fn completion(&self, request: Option<Hasher>, request_bytes: u64, status: Option<u64>) -> Record<'_> {
        Record {
            request_digest: request
                .filter(|hasher| hasher.bytes() > 0)
                .map(Hasher::finish)
                .or(self.known.request_digest),
            request_bytes: Some(request_bytes),
            status,
            duration_us: Some(self.now.micros_since(self.started)),
            ..self.known.record(Kind::Completion, self.now)
        }
    }

    pub(super) fn close(
        &self,
        vm: &mut Vm,
        host: &impl Host,
        mut reservation: Reservation,
        record: &Record<'_>,
        logging: bool,
    ) {
        if let Some(sealed) = vm.records.write(host, &mut reservation, record)
            && logging
        {
            host.publish(COMPLETION_KEY, sealed.record());
        }
        vm.records.release(reservation);
    }
}

/// The status that went back to the caller, if any did.
pub(super) fn status(host: &impl Host) -> Option<u64> {
    connection::integer(host, &["response", "code"])
        .and_then(|code| u64::try_from(code).ok())
        .filter(|code| *code > 0)
}
