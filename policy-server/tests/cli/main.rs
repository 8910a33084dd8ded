//! The built `ostiary`, run as a person or a script would.

mod agent;
mod audit;
mod check;
mod decide;
mod issue;
mod keys;
mod live;
mod mistakes;
mod past;
mod pin;
mod render;
mod report;
#[path = "../seeds/mod.rs"]
mod seeds;
mod support;
mod usage;
