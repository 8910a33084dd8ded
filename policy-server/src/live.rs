//! What sidecars really run, held against what a mesh of ours must run.
//!
//! Manifests say what is wanted; only an Envoy knows what it has: a module that could not be fetched, a patch that
//! matched nothing, a port that Istio took for TCP look right in every file. [`pods`] says whom to ask, [`dump`] reads
//! what an Envoy answers, [`verdict`] says what is wrong with it, and [`report`] puts a mesh together.
//!
//! Dumps come from pods that may be hostile: they are read as data of any shape, and what is not understood is not
//! taken for right.

pub mod chain;
pub mod dump;
pub mod pods;
pub mod report;
pub mod verdict;
