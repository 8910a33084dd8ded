//! Loopback addresses: each mesh claims a network 127.A.B.0/24 of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

/// Held for as long as a mesh lives: whoever listens here owns the network.
const LOCK_PORT: u16 = 61_999;
const LOCK_HOST: u8 = 254;

/// A network of 253 loopback addresses that no other harness uses.
#[derive(Debug)]
pub struct Loopback {
    second: u8,
    third: u8,
    _lock: TcpListener,
}

impl Loopback {
    /// Claims a free network.
    ///
    /// # Errors
    ///
    /// When none is free.
    pub fn claim() -> Result<Self> {
        let start = std::process::id();
        for step in 0..=u16::MAX {
            let place = start.wrapping_mul(7919).wrapping_add(u32::from(step)).to_le_bytes();
            let [third, second, ..] = place;
            // 127.0.x.x is everybody's.
            if let (true, Ok(claimed)) = (second > 0, Self::claim_this(second, third)) {
                return Ok(claimed);
            }
        }
        bail!("no network 127.x.y.0/24 is free")
    }

    /// Claims 127.`second`.`third`.0/24.
    ///
    /// # Errors
    ///
    /// When another harness holds it.
    pub fn claim_this(second: u8, third: u8) -> Result<Self> {
        let lock = TcpListener::bind((Ipv4Addr::new(127, second, third, LOCK_HOST), LOCK_PORT))?;
        Ok(Self {
            second,
            third,
            _lock: lock,
        })
    }

    /// One address of it.
    pub fn ip(&self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.second, self.third, host))
    }

    /// One address and port of it.
    pub fn socket(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(host), port)
    }
}
