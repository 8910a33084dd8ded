//! The functions of `authz` that a call waits for, one by one: what each costs natively and in Envoy's V8.
//!
//! - `works`: the functions, one list for both.
//! - `fixture`: the policy, token, request and record that they work on.
//! - `vm`: runs them in Envoy; `benches/native.rs` runs them under criterion.

pub mod fixture;
mod vm;
pub mod works;

/// What Envoy calls first.
mod entry {
    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|_| Box::new(crate::vm::Root));
    }}
}
