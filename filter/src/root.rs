//! Callbacks of the root context: configuration, ticks, and answers to callouts.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};

use crate::host::Envoy;
use crate::http::Http;
use crate::session::Session;
use crate::vm::Vm;

const TICK: Duration = Duration::from_millis(50);

thread_local! {
    static VM: Rc<RefCell<Vm>> = Rc::default();
}

/// One plugin of the VM.
pub(crate) struct Root {
    vm: Rc<RefCell<Vm>>,
    headers_stop_iteration: bool,
}

impl Root {
    pub(crate) fn new() -> Self {
        Self {
            vm: VM.with(Rc::clone),
            headers_stop_iteration: false,
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token_id: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            vm.answer(&Envoy, token_id, num_headers > 0, body_size);
        }
    }
}

impl RootContext for Root {
    /// Never false: see `config`.
    fn on_configure(&mut self, size: usize) -> bool {
        let _ = hostcalls::set_tick_period(TICK);
        let document = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size)
            .ok()
            .flatten();
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            let refused = vm.configure(&Envoy, document.as_deref().unwrap_or_default()).err();
            self.headers_stop_iteration = vm.config().is_some_and(|config| config.headers_stop_iteration);
            match refused {
                None => {}
                Some(error) if vm.config().is_some() => {
                    log::error!("configuration refused, the last one stays: {error}")
                }
                Some(error) => log::error!("configuration refused, every request will be denied: {error}"),
            }
        }
        true
    }

    fn on_tick(&mut self) {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            vm.tick(&Envoy);
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Http::new(
            Rc::clone(&self.vm),
            Session::new(self.headers_stop_iteration),
        )))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
