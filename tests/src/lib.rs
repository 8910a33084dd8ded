//! The harness of Ostiary: a mesh in miniature of real Envoys, real mTLS, the real filter and the real policy server.
//!
//! Everything here runs on loopback addresses that a test claims for itself, so that several meshes can run at once, and
//! every process that the harness starts dies with the process that started it.
//!
//! * [`built`] finds what the build produced, [`run`] makes a directory for logs, [`process`] starts and ends children;
//! * [`loopback`], [`netns`] and [`pki`] give addresses, network namespaces and SPIFFE certificates;
//! * [`envoy`] runs an Envoy, [`sidecar`] writes the configuration of one that stands beside a workload;
//! * [`backends`] are the applications, which log every request that reaches them; [`policy_server`] starts `ostiary serve`;
//! * [`feed`] plays a policy server that misbehaves on demand, [`signing`] signs what it (or a forger) says;
//! * [`client`] speaks HTTP/1.1 and HTTP/2, plain or over mTLS, and raw bytes; [`wire`] writes requests byte by byte;
//! * [`forgery`] spoils good tokens, [`mcp`] writes calls of tools;
//! * [`stand`] is one sidecar with a feed of its own, [`trapdoor`] makes its filter crash;
//! * [`mesh`] puts it all together, [`demo`] tells the story; [`load`] makes calls by the hundred thousand;
//! * [`cluster`] is the Kubernetes cluster of the end-to-end tests, [`workload`] what runs in its pods;
//!   [`network`] is who reaches whom in it, [`schemas`] what it takes for an object.

pub mod backends;
pub mod built;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod docs;
pub mod envoy;
pub mod feed;
pub mod forgery;
pub mod load;
pub mod loopback;
pub mod mcp;
pub mod mesh;
pub mod netns;
pub mod network;
pub mod pki;
pub mod policy_server;
pub mod process;
pub mod run;
pub mod schemas;
pub mod sidecar;
pub mod signing;
pub mod stand;
pub mod trapdoor;
pub mod wait;
pub mod wire;
pub mod workload;
