//! Who stands at the other end, and on which side of it the filter runs.

use authz::denial::{Code, Denial};
use authz::identity::SpiffeId;
use authz::request::{Listener, Side};

use crate::host::Host;

/// Envoy's `core.TrafficDirection`.
const INBOUND: i64 = 1;
const OUTBOUND: i64 = 2;

/// The connection that a request came over.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) listener: Listener,
    /// The caller's identity. On the outbound side there is no mTLS: the caller is the workload itself.
    pub(crate) peer: Option<SpiffeId>,
}

impl Connection {
    /// Reads what the proxy knows of the connection, for a workload that goes by `workload`.
    ///
    /// # Errors
    ///
    /// `direction_unknown`; `workload_mismatch` if the proxy shows its callers another identity than `workload`.
    pub(crate) fn read(host: &impl Host, workload: &SpiffeId) -> Result<Self, Denial> {
        match side(host) {
            Some(Side::Inbound) => Self::inbound(host, workload),
            Some(Side::Outbound) => {
                let listener = Listener {
                    side: Side::Outbound,
                    local_port: 0,
                };
                Ok(Self {
                    listener,
                    peer: Some(workload.clone()),
                })
            }
            None => Err(Denial::new(
                Code::DirectionUnknown,
                "the listener has no traffic direction",
            )),
        }
    }

    fn inbound(host: &impl Host, workload: &SpiffeId) -> Result<Self, Denial> {
        let local = host
            .property(&["connection", "uri_san_local_certificate"])
            .unwrap_or_default();
        if !local.is_empty() && local != workload.as_str().as_bytes() {
            return Err(Denial::new(
                Code::WorkloadMismatch,
                "the sidecar's certificate is not that of its policy",
            ));
        }
        // INVARIANT: an identity that cannot be read is no identity; `decide` lets nothing pass without one.
        let peer = host
            .property(&["connection", "uri_san_peer_certificate"])
            .and_then(|uri| String::from_utf8(uri).ok())
            .and_then(|uri| SpiffeId::parse(&uri).ok());
        let local_port = integer(host, &["destination", "port"]).and_then(|port| u16::try_from(port).ok());
        let Some(local_port) = local_port else {
            return Err(Denial::new(Code::InternalError, "the local port is unknown"));
        };
        Ok(Self {
            listener: Listener {
                side: Side::Inbound,
                local_port,
            },
            peer,
        })
    }

    pub(crate) fn side(&self) -> Side {
        self.listener.side
    }
}

/// The side that the listener says it is on.
pub(crate) fn side(host: &impl Host) -> Option<Side> {
    match integer(host, &["xds", "listener_direction"])? {
        INBOUND => Some(Side::Inbound),
        OUTBOUND => Some(Side::Outbound),
        _ => None,
    }
}

/// A property that is an int64.
pub(crate) fn integer(host: &impl Host, path: &[&str]) -> Option<i64> {
    host.property(path)?.try_into().ok().map(i64::from_le_bytes)
}
