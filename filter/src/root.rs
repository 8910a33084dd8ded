//! Callbacks of the root context: configuration, ticks, and answers to callouts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use authz::audit::SourceId;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType};

use crate::host::{Envoy, Host as _};
use crate::http::Http;
use crate::session::Session;
use crate::vm::Vm;

const TICK: Duration = Duration::from_millis(50);

thread_local! {
    static VM: Rc<RefCell<Vm>> = Rc::default();
}

/// One plugin of the VM.
pub(crate) struct Root {
    id: u32,
    vm: Rc<RefCell<Vm>>,
    /// A configuration that was handed over and is not yet in force.
    document: Cell<Option<Vec<u8>>>,
    headers_stop_iteration: Cell<bool>,
    /// A queue of the proxy that this context is called for whenever something is put into it.
    bell: Cell<Option<u32>>,
}

impl Root {
    pub(crate) fn new(id: u32) -> Self {
        Self {
            id,
            vm: VM.with(Rc::clone),
            document: Cell::default(),
            headers_stop_iteration: Cell::default(),
            bell: Cell::default(),
        }
    }

    /// Puts the configuration in force that is waiting for it, if one is.
    fn configure(&self, vm: &mut Vm) {
        let Some(document) = self.document.take() else { return };
        let refused = vm.configure(&Envoy, &document).err();
        self.headers_stop_iteration
            .set(vm.config().is_some_and(|config| config.headers_stop_iteration));
        match refused {
            None => {}
            Some(error) if vm.config().is_some() => log::error!("configuration refused, the last one stays: {error}"),
            Some(error) => log::error!("configuration refused, every request will be denied: {error}"),
        }
    }

    /// Hangs this context's bell where the VM has none. Queues are the whole proxy's, so that the name must be nobody else's:
    /// who rings it all the same only has batches posted a little earlier.
    fn hang_bell(&self, vm: &mut Vm) {
        let hung = self.bell.get().or_else(|| {
            let mut name = [0; 16];
            let name = Envoy.random(&mut name).then(|| SourceId(name).to_string())?;
            hostcalls::register_shared_queue(&name).ok()
        });
        self.bell.set(hung);
        if let Some(bell) = hung {
            vm.hang_bell(bell);
        }
    }
}

/// A root context goes when its configuration is replaced, and takes its callouts with it; the VM lives on.
impl Drop for Root {
    fn drop(&mut self) {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            vm.root_gone();
            if let Some(bell) = self.bell.get() {
                vm.take_bell_down(bell);
            }
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token_id: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            vm.answer(&Envoy, token_id, num_headers > 0, body_size);
            vm.end_calls(&Envoy, self.id);
        }
    }
}

impl RootContext for Root {
    /// Never false (see `config`), and does next to nothing: where a VM crashes here, Envoy lets the requests of its
    /// worker pass unfiltered; where it crashes later, it answers them itself. So the document is read later.
    fn on_configure(&mut self, size: usize) -> bool {
        let _ = hostcalls::set_tick_period(TICK);
        let document = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        self.document.set(Some(document.ok().flatten().unwrap_or_default()));
        true
    }

    fn on_tick(&mut self) {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            self.configure(&mut vm);
            self.hang_bell(&mut vm);
            vm.tick(&Envoy);
            vm.end_calls(&Envoy, self.id);
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(_)) = hostcalls::dequeue_shared_queue(queue) {}
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            vm.answer_bell(&Envoy);
            vm.end_calls(&Envoy, self.id);
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        if let Ok(mut vm) = self.vm.try_borrow_mut() {
            self.configure(&mut vm);
        }
        let session = Session::new(self.headers_stop_iteration.get()).in_context(context_id);
        Some(Box::new(Http::new(Rc::clone(&self.vm), session)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
