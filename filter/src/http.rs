//! Callbacks of a request, handed on to its session.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::host::Envoy;
use crate::session::{Flow, Session};
use crate::vm::Vm;

/// One request.
pub(crate) struct Http {
    vm: Rc<RefCell<Vm>>,
    session: Session,
}

impl Http {
    pub(crate) fn new(vm: Rc<RefCell<Vm>>, session: Session) -> Self {
        Self { vm, session }
    }

    /// Runs a step of the session. The VM is never borrowed here already, as host calls do not call back; were it, the
    /// request would stay where it is.
    fn step(&mut self, step: impl FnOnce(&mut Session, &mut Vm) -> Flow) -> Action {
        match self.vm.try_borrow_mut().map(|mut vm| step(&mut self.session, &mut vm)) {
            Ok(Flow::Continue) => Action::Continue,
            Ok(Flow::Pause) | Err(_) => Action::Pause,
        }
    }

    fn finish(&mut self, logging: bool) {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            self.session.finish(&mut vm, &Envoy, logging);
        }
    }
}

impl Context for Http {
    fn on_done(&mut self) -> bool {
        self.finish(false);
        true
    }
}

impl HttpContext for Http {
    fn on_http_request_headers(&mut self, num_headers: usize, end_of_stream: bool) -> Action {
        self.step(|session, vm| session.request_headers(vm, &Envoy, num_headers, end_of_stream))
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        self.step(|session, vm| session.request_body(vm, &Envoy, body_size, end_of_stream))
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        self.step(|session, vm| session.request_trailers(vm, &Envoy))
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        self.step(|session, vm| session.response_headers(vm, &Envoy, end_of_stream))
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        self.step(|session, _| session.response_body(&Envoy, body_size, end_of_stream))
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        self.step(|session, _| session.response_trailers(&Envoy))
    }

    fn on_log(&mut self) {
        self.finish(true);
    }
}
