//! What is wrong with a sidecar.

use std::fmt;

use serde::Serialize;

use super::chain::{Carries, Chain, Direction, Failure, FilterKind, HttpFilter, NotLoaded, Plugin};

/// Listeners of the sidecar's own that no application's traffic reaches: the kubelet asks them, and Prometheus.
const OWN_PORTS: [(u16, &str); 2] = [(15021, "health of the sidecar"), (15090, "statistics of the sidecar")];

/// Where Istio gathers what no other chain takes.
const CATCH_ALL: &str = "virtualInbound";

/// What is wrong with one chain, or why it needs no filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Everything that is wrong.
    pub faults: Vec<Fault>,
    /// Why it may be without the filter.
    pub excuse: Option<&'static str>,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Requests meet no filter of ours.
    Missing {
        /// Whether the guard denies them.
        guarded: bool,
    },
    /// A plugin whose module is not there.
    NotLoaded {
        /// The resource that names it.
        name: String,
        /// What is there instead.
        instead: Instead,
    },
    /// It is there and switched off.
    Disabled,
    /// It is there more than once: the two share one VM.
    Twice,
    /// Others come between it and what sends the request on.
    Between(Vec<String>),
    /// Nothing denies what it has not looked at.
    NoGuard,
    /// The guard lets pass what it should not.
    OpenGuard,
    /// The guard comes before it, and denies everything.
    EarlyGuard,
    /// Its failure lets requests pass.
    FailsOpen,
    /// Envoy and the filter's configuration disagree on whether headers are held.
    HeadersMismatch {
        /// What Envoy does.
        holds: bool,
    },
    /// Bytes for a port of the application pass unseen.
    TcpPort(u16),
    /// Connections come in that nobody asked about.
    UncheckedTcp,
}

/// What is in the place of a module that was not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instead {
    /// Nothing yet.
    Nothing,
    /// Istio's filter that denies everything.
    DenyAll,
    /// Istio's filter that lets everything pass.
    AllowAll,
}

impl Fault {
    /// The word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "filter_missing",
            Self::NotLoaded { .. } => "filter_not_loaded",
            Self::Disabled => "filter_disabled",
            Self::Twice => "filter_twice",
            Self::Between(_) => "filter_not_last",
            Self::NoGuard => "guard_missing",
            Self::OpenGuard => "guard_open",
            Self::EarlyGuard => "guard_before_filter",
            Self::FailsOpen => "fails_open",
            Self::HeadersMismatch { .. } => "headers_mismatch",
            Self::TcpPort(_) => "tcp_port",
            Self::UncheckedTcp => "tcp_unchecked",
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "label the pod `ostiary.dev/filter: stable`, and look for the WasmPlugin that selects it"
            }
            Self::NotLoaded { .. } => {
                "look at the plugin's url and sha256, at the NetworkPolicy to the registry, and at the sidecar's log"
            }
            Self::Disabled => "remove what disables it",
            Self::Twice => "keep one WasmPlugin for each value of `ostiary.dev/filter`",
            Self::Between(_) => "insert it before the filter, or not at all",
            Self::NoGuard => "label the pod `ostiary.dev/mesh: enabled`, and apply istio/base",
            Self::OpenGuard | Self::EarlyGuard => "apply istio/base/guard.yaml unchanged",
            Self::FailsOpen => "write `failStrategy: FAIL_RELOAD`",
            Self::HeadersMismatch { .. } => {
                "let `headers_stop_iteration` say what `allow_on_headers_stop_iteration` is"
            }
            Self::TcpPort(_) => "give the Service's port `appProtocol: http`, or leave it out of the Service",
            Self::UncheckedTcp => "apply istio/namespace: its AuthorizationPolicy denies by default",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { guarded: true } => f.write_str("the filter is not there; the guard denies everything"),
            Self::Missing { guarded: false } => f.write_str("the filter is not there, and nothing denies in its place"),
            Self::NotLoaded { name, instead } => write!(f, "the module of `{name}` is not loaded; {instead}"),
            Self::Disabled => f.write_str("the filter is switched off"),
            Self::Twice => f.write_str("the filter is there twice, with one VM and its state for both"),
            Self::Between(names) => write!(f, "`{}` may change what the filter decided on", names.join("`, `")),
            Self::NoGuard => f.write_str("the guard is not there: a filter that failed to start lets requests pass"),
            Self::OpenGuard => f.write_str("the guard lets requests pass that the filter has not looked at"),
            Self::EarlyGuard => f.write_str("the guard comes before the filter and denies everything"),
            Self::FailsOpen => f.write_str("a filter that fails lets every request pass"),
            Self::HeadersMismatch { holds: true } => {
                f.write_str("Envoy holds request headers and the filter was told that it does not")
            }
            Self::HeadersMismatch { holds: false } => {
                f.write_str("Envoy does not hold request headers and the filter was told that it does")
            }
            Self::TcpPort(port) => write!(f, "port {port} is TCP to Istio: no filter is asked about it"),
            Self::UncheckedTcp => f.write_str("TCP to any other port comes in without authorization"),
        }
    }
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "its configuration has not come",
            Self::DenyAll => "Istio denies everything in its place",
            Self::AllowAll => "Istio lets everything pass in its place",
        })
    }
}

impl Serialize for Fault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// Judges one chain.
pub fn judge(chain: &Chain) -> Verdict {
    match &chain.carries {
        Carries::Http(filters) => match excuse(chain) {
            Some(excuse) => Verdict {
                faults: Vec::new(),
                excuse: Some(excuse),
            },
            None => Verdict {
                faults: http(filters),
                excuse: None,
            },
        },
        Carries::Tcp { is_authorized, cluster } => tcp(chain, *is_authorized, cluster),
    }
}

/// The plugin that a chain runs, if it runs ours.
pub fn plugin(chain: &Chain) -> Option<&Plugin> {
    let Carries::Http(filters) = &chain.carries else {
        return None;
    };
    filters.iter().find_map(|filter| match &filter.kind {
        FilterKind::Ostiary(plugin) if !filter.is_disabled => Some(plugin),
        _ => None,
    })
}

fn excuse(chain: &Chain) -> Option<&'static str> {
    let known = OWN_PORTS.iter().find(|(port, _)| chain.port == Some(*port));
    known
        .filter(|_| chain.direction == Direction::Own)
        .map(|(_, excuse)| *excuse)
}

fn http(filters: &[HttpFilter]) -> Vec<Fault> {
    let ours: Vec<_> = positions(filters, |kind| matches!(kind, FilterKind::Ostiary(_)));
    let mut faults = guard(filters, ours.last().copied());
    match ours[..] {
        [] => faults.insert(0, absent(filters)),
        [_] => {}
        [..] => faults.push(Fault::Twice),
    }
    for filter in ours.iter().filter_map(|position| filters.get(*position)) {
        if filter.is_disabled {
            faults.push(Fault::Disabled);
        }
        if let FilterKind::Ostiary(plugin) = &filter.kind {
            faults.extend(settings(plugin));
        }
    }
    if let Some(last) = ours.last() {
        faults.extend(between(filters, *last));
    }
    faults
}

fn positions(filters: &[HttpFilter], is_wanted: impl Fn(&FilterKind) -> bool) -> Vec<usize> {
    let wanted = filters.iter().enumerate().filter(|(_, filter)| is_wanted(&filter.kind));
    wanted.map(|(position, _)| position).collect()
}

/// Why there is none of ours: what was to be loaded is the better answer.
fn absent(filters: &[HttpFilter]) -> Fault {
    let instead = filters.iter().find_map(|filter| match filter.kind {
        FilterKind::NotLoaded(NotLoaded::NotReceived) => Some((filter, Instead::Nothing)),
        FilterKind::NotLoaded(NotLoaded::DeniesAll) => Some((filter, Instead::DenyAll)),
        FilterKind::NotLoaded(NotLoaded::AllowsAll) => Some((filter, Instead::AllowAll)),
        _ => None,
    });
    match instead {
        Some((filter, instead)) => Fault::NotLoaded {
            name: filter.name.clone(),
            instead,
        },
        None => Fault::Missing {
            guarded: filters.iter().any(is_sound_guard),
        },
    }
}

fn is_sound_guard(filter: &HttpFilter) -> bool {
    !filter.is_disabled && filter.kind == (FilterKind::Guard { denies: true })
}

fn guard(filters: &[HttpFilter], ours: Option<usize>) -> Vec<Fault> {
    let guards = positions(filters, |kind| matches!(kind, FilterKind::Guard { .. }));
    let Some(last) = guards.last() else {
        return vec![Fault::NoGuard];
    };
    let mut faults = Vec::new();
    if !filters.get(*last).is_some_and(is_sound_guard) {
        faults.push(Fault::OpenGuard);
    }
    if ours.is_some_and(|ours| guards.iter().any(|guard| *guard < ours)) {
        faults.push(Fault::EarlyGuard);
    }
    faults
}

fn settings(plugin: &Plugin) -> Vec<Fault> {
    let mut faults = Vec::new();
    if plugin.failure == Failure::Open {
        faults.push(Fault::FailsOpen);
    }
    if plugin.holds_headers != plugin.was_told_so {
        faults.push(Fault::HeadersMismatch {
            holds: plugin.holds_headers,
        });
    }
    faults
}

/// What comes after ours and is neither the guard nor known to leave the request alone.
fn between(filters: &[HttpFilter], ours: usize) -> Option<Fault> {
    let names: Vec<_> = filters
        .iter()
        .skip(ours + 1)
        .filter(|filter| matches!(filter.kind, FilterKind::Other | FilterKind::NotLoaded(_)))
        .map(|filter| filter.name.clone())
        .collect();
    (!names.is_empty()).then_some(Fault::Between(names))
}

/// No filter of ours sees bytes. What leaves is the NetworkPolicy's to judge, and the receiving sidecar's; what comes
/// in must be for no port of the application that somebody may be let in to.
fn tcp(chain: &Chain, is_authorized: bool, cluster: &str) -> Verdict {
    let mut verdict = Verdict::default();
    match chain.direction {
        Direction::Inbound if cluster == "BlackHoleCluster" => verdict.excuse = Some("TCP, dropped"),
        Direction::Inbound if !chain.name.starts_with(CATCH_ALL) => {
            let port = chain.only_port.or(chain.port).unwrap_or_default();
            verdict.faults.push(Fault::TcpPort(port));
        }
        Direction::Inbound if is_authorized => verdict.excuse = Some("TCP, up to Istio's authorization"),
        Direction::Inbound => verdict.faults.push(Fault::UncheckedTcp),
        Direction::Outbound if cluster == "BlackHoleCluster" => verdict.excuse = Some("TCP, dropped"),
        Direction::Outbound => verdict.excuse = Some("TCP, up to NetworkPolicies"),
        Direction::Own => verdict.excuse = Some("TCP of the sidecar itself"),
    }
    verdict
}
