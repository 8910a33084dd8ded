//! What is applied to a cluster, and what is said of one that runs.

mod crds;
mod live;
mod live_mesh;
mod manifests;
mod probe;
#[path = "../seeds/mod.rs"]
mod seeds;
