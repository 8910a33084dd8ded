//! What all chains share: a network, certificates, an upstream.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::loopback::Loopback;
use tests::pki::{Ca, Credential};
use tests::run::RunDirectory;

use super::traffic::{HOST, caller, service};
use super::upstream::Upstream;
use crate::cpu::Cores;

/// The first address that a chain stands at, and the last.
const FIRST_PLACE: u8 = 20;
const LAST_PLACE: u8 = 250;

/// It lives as long as the section.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) run: RunDirectory,
    pub(super) ca: Ca,
    pub(super) service: Arc<Credential>,
    pub(super) upstream: Upstream,
    pub(super) cores: Option<Cores>,
    caller: Arc<Credential>,
    net: Loopback,
    places: AtomicU8,
}

impl Bed {
    /// Makes certificates and starts the upstream.
    ///
    /// # Errors
    ///
    /// When files cannot be written or addresses not be had.
    pub(super) fn start(cores: Option<Cores>) -> Result<Self> {
        let run = RunDirectory::create("bench")?;
        let ca = Ca::create(&run.file("pki"))?;
        Ok(Self {
            service: ca.issue(&service(), &[HOST])?,
            caller: ca.issue(&caller(), &[])?,
            upstream: Upstream::start(&run.socket("upstream"))?,
            net: Loopback::claim()?,
            places: AtomicU8::new(FIRST_PLACE),
            run,
            ca,
            cores,
        })
    }

    /// A place for a chain, which no other has had: what stood there may not be gone yet.
    ///
    /// # Errors
    ///
    /// When there are too many chains.
    pub(super) fn place(&self) -> Result<Place> {
        let place = self.places.fetch_add(1, Ordering::Relaxed);
        ensure!(place <= LAST_PLACE, "too many chains");
        Ok(Place(self.net.ip(place)))
    }

    /// The agent's client of a chain.
    ///
    /// # Errors
    ///
    /// When its certificate does not fit together.
    pub(super) fn client(&self, address: SocketAddr) -> Result<Client> {
        Client::tls(address, HOST, &self.ca, Some(&self.caller))
    }
}

/// Where one chain stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(IpAddr);

impl Place {
    /// One of its addresses.
    pub(super) fn socket(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0, port)
    }

    /// A name for files and logs.
    pub(super) fn name(self, of: &str) -> String {
        format!("{of}-{}", self.0)
    }
}
