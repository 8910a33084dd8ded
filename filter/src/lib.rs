//! The proxy-wasm filter of Ostiary: it stands in the Envoy sidecar of every agent and every service, and lets a
//! request pass only with a [`Permit`](authz::decision::Permit) of the core and a slot for its audit record.
//!
//! This crate decides nothing. It carries what Envoy knows (headers, bodies, certificates, clocks) to `authz`, and what
//! `authz` answers back; everything that goes wrong on the way is a denial.
//!
//! - `root`, `http`: Envoy's callbacks, handed on as they are.
//! - `session`: one request, from its first byte to its last; `known`, `connection`, `trace`: what is known of it;
//!   `headers`: what becomes of its headers; `bound`: of the ids of sessions and tasks in a request; `sealing`: of those in an answer; `response`: what becomes of an answer that the caller may not see all of; `reading`: how an answer ends a call.
//! - `vm`: what all requests of one Wasm VM share. `poll`, `policy`: the bundle and state list and how they arrive.
//!   `cache`, `signature`: verified tokens. `calls`: those on their way, which a suspension or kill ends. `records`, `slots`: the audit records and how they leave.
//! - `host`: all that is asked of the proxy. Only `host`, `http` and `root` know that it is Envoy.
//!
//! A panic would take the whole VM down with every request in it, so nothing here may panic; the lints see to that.

mod backoff;
mod bound;
mod cache;
mod calls;
mod config;
mod connection;
mod events;
mod headers;
mod host;
mod http;
mod known;
mod meters;
mod policy;
mod poll;
mod reading;
mod records;
mod response;
mod root;
mod sealing;
mod session;
mod signature;
mod slots;
#[cfg(test)]
mod testing;
mod trace;
mod vm;

/// What Envoy calls first.
mod entry {
    proxy_wasm::main! {{
        proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
        proxy_wasm::set_root_context(|id| Box::new(crate::root::Root::new(id)));
    }}
}
