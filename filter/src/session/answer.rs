//! The response on its way to the caller.

use super::passage::Passing;
use super::{Flow, Phase, Session, internal};
use crate::bound;
use crate::events;
use crate::host::Host;
use crate::sealing::Sealing;
use crate::vm::Vm;

impl Session {
    /// The response's headers are here. What answers a request without a verdict is not the application's to give.
    pub(crate) fn response_headers(&mut self, vm: &mut Vm, host: &impl Host, end: bool) -> Flow {
        self.wake(vm);
        match &mut self.phase {
            Phase::Passing(passing) => {
                if let Some(call) = &self.call {
                    // What comes by is our denial, and no list of the service.
                    if call.is_answered() && !from_upstream(host) {
                        (passing.listing, passing.reading, passing.sealing) = (None, None, None);
                    }
                    // Once they have gone they cannot be read any more.
                    call.begins_to_answer(!end && events::is_stream(host));
                }
                bound::seal(&self.known, host);
                if let Some(reading) = &mut passing.reading {
                    reading.headers(host);
                }
                if let Some(sealing) = passing.sealing.as_mut().filter(|_| !end) {
                    sealing.headers(host, &self.known);
                }
                passing.response_ended |= end;
                match &mut passing.listing {
                    Some(listing) => listing.headers(host, end),
                    None => Flow::Continue,
                }
            }
            Phase::Held(_) if from_upstream(host) => {
                let denial = internal("the service answered before the whole request could be decided on");
                let flow = self.deny_held(vm, host, denial);
                self.phase = Phase::Withheld;
                flow
            }
            Phase::Waiting(_) => self.waiting_response(vm, host),
            Phase::Withheld => Flow::Pause,
            // Envoy's own answer (413, 408, no upstream), or ours.
            Phase::Held(_) | Phase::Fresh | Phase::Denied | Phase::Ended => Flow::Continue,
        }
    }

    /// The next bytes of the response's body.
    pub(crate) fn response_body(&mut self, host: &impl Host, size: usize, end: bool) -> Flow {
        match &mut self.phase {
            Phase::Passing(passing) => {
                if let Some(event) = self.call.as_ref().and_then(|call| call.last_event()) {
                    passing.put_last_event(host, size, &event);
                    return Flow::Continue;
                }
                passing.response_ended |= end;
                let Passing { listing, response, .. } = &mut **passing;
                if let Some(listing) = listing.as_mut().filter(|listing| listing.is_holding()) {
                    return listing.body(host, &self.known, self.now, size, end, response);
                }
                passing.response_chunk(host, &self.known, size, end);
                Flow::Continue
            }
            Phase::Waiting(waiting) => waiting.response(),
            Phase::Withheld => Flow::Pause,
            Phase::Held(_) | Phase::Fresh | Phase::Denied | Phase::Ended => Flow::Continue,
        }
    }

    /// The response ends with trailers.
    pub(crate) fn response_trailers(&mut self, host: &impl Host) -> Flow {
        match &mut self.phase {
            Phase::Passing(passing) => {
                passing.response_ended = self.call.as_ref().is_none_or(|call| call.last_event().is_none());
                if passing.sealing.as_ref().is_some_and(Sealing::is_holding) {
                    // What is held cannot go on any more.
                    passing.break_off(host);
                }
                let Passing { listing, response, .. } = &mut **passing;
                match listing {
                    Some(listing) => listing.settle(host, &self.known, self.now, response),
                    None => Flow::Continue,
                }
            }
            Phase::Waiting(waiting) => waiting.response(),
            Phase::Withheld => Flow::Pause,
            Phase::Held(_) | Phase::Fresh | Phase::Denied | Phase::Ended => Flow::Continue,
        }
    }
}

/// Whether a response comes from the service and not from this proxy.
pub(super) fn from_upstream(host: &impl Host) -> bool {
    host.property(&["response", "code_details"])
        .is_some_and(|details| details.starts_with(b"via_upstream"))
}
