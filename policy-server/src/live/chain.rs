//! One filter chain of a sidecar, as far as it matters whether our filter looks at what passes.

use std::fmt;

use serde::Serialize;

/// Which way a listener's traffic goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
    /// To the sidecar itself.
    Own,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Own => "own",
        })
    }
}

/// A filter chain of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Which way its traffic goes.
    pub direction: Direction,
    /// The listener's name, or its address where it has none.
    pub listener: String,
    /// The port that the listener is bound to or stands for.
    pub port: Option<u16>,
    /// The chain's own name; several may have the same.
    pub name: String,
    /// The port that traffic must be meant for.
    pub only_port: Option<u16>,
    /// What Envoy does with it.
    pub carries: Carries,
}

/// What a filter chain does with its traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Reads requests, and gives them to these filters in turn.
    Http(Vec<HttpFilter>),
    /// Hands bytes on, which no HTTP filter sees.
    Tcp {
        /// Whether Istio's authorization is asked for each connection.
        is_authorized: bool,
        /// Where they go.
        cluster: String,
    },
}

/// An HTTP filter of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpFilter {
    /// Its name in the chain.
    pub name: String,
    /// Whether it is there but switched off.
    pub is_disabled: bool,
    /// What it is to us.
    pub kind: FilterKind,
}

/// What an HTTP filter is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterKind {
    /// Ours.
    Ostiary(Plugin),
    /// A Wasm filter that the sidecar was to load and has not.
    NotLoaded(NotLoaded),
    /// The guard behind it; `denies` says whether it lets only marked requests pass.
    Guard {
        /// Whether what our filter has not looked at is denied.
        denies: bool,
    },
    /// Istio's own, which leave the request as it is.
    Harmless,
    /// What sends the request on.
    Router,
    /// Any other.
    Other,
}

/// What stands in the place of a Wasm filter that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLoaded {
    /// Nothing: the configuration has not come.
    NotReceived,
    /// Istio's filter that denies everything.
    DeniesAll,
    /// Istio's filter that lets everything pass.
    AllowsAll,
}

/// Our filter as a sidecar has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The module that it runs.
    pub module: Module,
    /// Whether Envoy holds request headers while the filter waits (`allow_on_headers_stop_iteration`).
    pub holds_headers: bool,
    /// Whether the filter was told so (`headers_stop_iteration`).
    pub was_told_so: bool,
    /// What becomes of requests when its VM fails.
    pub failure: Failure,
}

/// Which module a plugin runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Module {
    /// By its digest, without `sha256:`: of the image that it came in, or of the module where it came by HTTP.
    Sha256(String),
    /// By a file's name that holds no digest.
    File(String),
    /// Not to be told.
    Unknown,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{}", digest.get(..12).unwrap_or(digest)),
            Self::File(name) => f.write_str(name),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// What Envoy does with requests when a plugin's VM fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// Denies, until the pod is restarted.
    Closed,
    /// Denies, and starts a new VM.
    Reload,
    /// Lets them pass.
    Open,
}
