//! A call that is held with its permit until its record is stored, or until a person has approved its agent.
//!
//! Headers alone: the proxy holds them, and where it cannot hold headers while a body comes (`headers_stop_iteration`) the
//! body with them, by its flow control. Where it can, what comes of the body meanwhile is buffered by it, and goes on with
//! the part that comes next. A body that the right is named in is whole before the wait begins.

use std::rc::Rc;

use authz::audit::Record;
use authz::denial::Code;

use super::answer::from_upstream;
use super::ending::status;
use super::passage::Passing;
use super::{Flow, Phase, Session, internal};
use crate::calls::{Call, Wait};
use crate::host::Host;
use crate::meters::Verdict;
use crate::vm::Vm;

/// How the record of its end says that the application never saw it.
const NOT_DELIVERED: &str = "not_delivered";

#[derive(Debug)]
pub(super) struct Waiting {
    /// What it becomes when it is let go.
    passing: Box<Passing>,
    call: Rc<Call>,
    /// What the proxy holds of a body that is yet to be hashed.
    held_bytes: usize,
    /// The service has answered headers that went ahead: nothing of its answer may get through.
    withheld: bool,
}

impl Waiting {
    /// The next part of an answer: ours or the proxy's, unless the service's is withheld.
    pub(super) fn response(&self) -> Flow {
        if self.withheld { Flow::Pause } else { Flow::Continue }
    }
}

impl Session {
    /// Begins to wait.
    pub(super) fn wait(&mut self, vm: &mut Vm, host: &impl Host, passing: Box<Passing>, call: Call) -> Flow {
        let call = Rc::new(call);
        vm.await_record(host, self.context, Rc::clone(&call));
        self.call = Some(Rc::clone(&call));
        self.phase = Phase::Waiting(Box::new(Waiting {
            passing,
            call,
            held_bytes: 0,
            withheld: false,
        }));
        Flow::Pause
    }

    /// Takes note that a root context has let the call go. A body that is half there goes on with its next part.
    pub(super) fn wake(&mut self, vm: &mut Vm) {
        let Phase::Waiting(waiting) = &self.phase else { return };
        if waiting.call.wait() == Wait::Delivered && waiting.held_bytes == 0 {
            self.let_go(vm);
        }
    }

    fn let_go(&mut self, vm: &mut Vm) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Denied) {
            Phase::Waiting(waiting) => {
                vm.decided(self.known.side, Verdict::going_on(self.known.shadowed));
                Phase::Passing(waiting.passing)
            }
            other => other,
        };
    }

    /// A part of a body that comes while the headers are held; `size` counts all of it so far.
    pub(super) fn waiting_body(&mut self, vm: &mut Vm, host: &impl Host, size: usize, end: bool) -> Flow {
        let Phase::Waiting(waiting) = &mut self.phase else {
            return Flow::Pause;
        };
        waiting.held_bytes = size;
        if end {
            self.waiting_end(vm, host)
        } else {
            self.go_on_with_body(vm, host)
        }
    }

    /// The trailers come while the headers are held: the body is whole.
    pub(super) fn waiting_trailers(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
        self.waiting_end(vm, host)
    }

    /// The body is whole: the root context alone lets it go, unless it has done so.
    fn waiting_end(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
        let Phase::Waiting(waiting) = &mut self.phase else {
            return Flow::Pause;
        };
        waiting.call.set_mid_body(false);
        waiting.hash_body(host);
        self.wake(vm);
        if matches!(self.phase, Phase::Passing(_)) {
            Flow::Continue
        } else {
            Flow::Pause
        }
    }

    fn go_on_with_body(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
        let Phase::Waiting(waiting) = &mut self.phase else {
            return Flow::Pause;
        };
        if waiting.call.wait() == Wait::Delivered {
            return self.waiting_end(vm, host);
        }
        waiting.call.set_mid_body(true);
        Flow::Pause
    }

    /// An answer is here before the call was let go: our denial, the proxy's own answer, or one of the service to headers
    /// that went ahead.
    pub(super) fn waiting_response(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
        let Phase::Waiting(waiting) = &mut self.phase else {
            return Flow::Pause;
        };
        if waiting.withheld || !from_upstream(host) {
            return waiting.response();
        }
        waiting.withheld = true;
        vm.calls.end(self.context);
        if waiting.call.deny(Code::InternalError) {
            self.answer(host, &internal("the service answered before the call could go on"));
        }
        Flow::Pause
    }

    /// The stream is over, and the application has not seen the call.
    pub(super) fn not_delivered(&self, vm: &mut Vm, host: &impl Host, waiting: Waiting, logging: bool) {
        let Passing {
            reservation,
            request,
            request_bytes,
            ..
        } = *waiting.passing;
        let code = match waiting.call.wait() {
            Wait::Denied(code) => Some(code),
            // The caller has left.
            Wait::Waiting | Wait::Delivered => None,
        };
        if let Some(code) = code {
            vm.decided(self.known.side, Verdict::Deny(code));
        }
        let record = Record {
            code,
            end: Some(NOT_DELIVERED.into()),
            ..self.completion(request, request_bytes, status(host))
        };
        self.close(vm, host, reservation, &record, logging);
    }
}

impl Waiting {
    /// Hashes what the proxy holds of the body, once.
    fn hash_body(&mut self, host: &impl Host) {
        let held = std::mem::take(&mut self.held_bytes);
        self.passing.request_chunk(host, held);
    }
}
