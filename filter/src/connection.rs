//! Who stands at the other end, and on which side of it the filter runs.

use std::rc::Rc;

use authz::denial::{Code, Denial};
use authz::identity::SpiffeId;
use authz::request::{Listener, Side};

use crate::host::Host;

/// Envoy's `core.TrafficDirection`.
const INBOUND: i64 = 1;
const OUTBOUND: i64 = 2;

/// Connections that are remembered; one that has lost its place is read again.
const REMEMBERED: usize = 1024;

/// The connection that a request came over.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) listener: Listener,
    /// The caller's identity. On the outbound side there is no mTLS: the caller is the workload itself.
    pub(crate) peer: Option<SpiffeId>,
}

impl Connection {
    /// Reads what the proxy knows of the connection, on `side`, for a workload that goes by `workload`.
    ///
    /// # Errors
    ///
    /// `direction_unknown`; `workload_mismatch` if the proxy shows its callers another identity than `workload`.
    pub(crate) fn read(host: &impl Host, side: Option<Side>, workload: &SpiffeId) -> Result<Self, Denial> {
        match side {
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

/// The connections of late, by Envoy's number for each.
///
/// Four questions about a connection cost as much as the rest of a decision, and have one answer for its whole life: TLS
/// is done before its first request, and it stays on its listener. Envoy numbers the connections of a process from one on,
/// so no number comes twice.
///
/// A number has one place. Numbers follow each other, so those in use at one time seldom meet there.
#[derive(Debug, Default)]
pub(crate) struct Connections(Vec<Option<(u64, Rc<Connection>)>>);

impl Connections {
    /// The connection of this number, if it is remembered.
    pub(crate) fn get(&self, number: u64) -> Option<&Rc<Connection>> {
        match self.0.get(place(number)) {
            Some(Some((known, connection))) if *known == number => Some(connection),
            _ => None,
        }
    }

    /// Remembers a connection. One without a peer is not worth it: its requests are denied, or soon asked about again.
    pub(crate) fn remember(&mut self, number: u64, connection: &Rc<Connection>) {
        if connection.peer.is_none() {
            return;
        }
        if self.0.is_empty() {
            self.0.resize_with(REMEMBERED, || None);
        }
        if let Some(place) = self.0.get_mut(place(number)) {
            *place = Some((number, Rc::clone(connection)));
        }
    }

    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

fn place(number: u64) -> usize {
    (number % REMEMBERED as u64) as usize
}

/// Envoy's number for the connection that a request came over.
pub(crate) fn number(host: &impl Host) -> Option<u64> {
    host.property(&["connection", "id"])?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
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
