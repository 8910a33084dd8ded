//! A policy server, asked as sidecars, callers and people ask it.

mod agents;
mod api;
mod api_server;
mod called;
mod findings;
mod kept_policy;
mod kubernetes;
mod log;
mod pages;
mod refresh;
mod revocations;
mod risk;
mod rotation;
mod serve;
mod store;
mod successors;
mod support;
mod traces;
mod verifier;
mod waiting;
mod webhooks;
