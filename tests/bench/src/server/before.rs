//! Calls that wait for their records, through a service's real sidecar and to the disk of the real policy server, at a rate
//! that leaves the machine time.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use authz::policy::RecordMode;
use hyper::body::Bytes;
use serde_json::json;
use tests::load::ledger;
use tests::load::mesh::{LoadMesh, READER, TABLE};
use tests::load::wire::Request;

use crate::drive::{self, Connection, Pace, Requests};
use crate::rounds;
use crate::row::Latency;

/// Calls a second.
const RATE: f64 = 1000.0;

/// Calls of one round.
pub(crate) const CALLS_A_ROUND: usize = 3000;

/// Times that the disk is asked in one round.
pub(crate) const SYNCS_A_ROUND: usize = 500;

/// Connections that the calls come on: at that rate some always wait.
const CONNECTIONS: usize = 32;

/// What a group of a few calls has the database append.
const SYNCED_BYTES: usize = 16 << 10;

/// A mesh, and the calls that are made of it.
pub(crate) struct Calls {
    mesh: LoadMesh,
    connections: Vec<Connection>,
    requests: Requests,
    made: usize,
}

impl Calls {
    /// Starts the mesh and opens the connections.
    ///
    /// # Errors
    ///
    /// When a part of it does not start.
    pub(crate) async fn start(name: &str, record: RecordMode) -> Result<Self> {
        let mesh = LoadMesh::start_recording(name, json!({"token": {"maxTtlSeconds": 3600}}), record).await?;
        let token = mesh.token(READER).await?;
        let request = Request::get(&mesh.warehouse.authority, &format!("/v1/tables/{TABLE}")).bearer(&token);
        let client = mesh.client(&mesh.warehouse, READER)?;
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(&client).await?);
        }
        Ok(Self {
            requests: Requests {
                bytes: Arc::new(vec![Bytes::from(request.bytes(1))]),
                fresh: false,
                status: 200,
            },
            mesh,
            connections,
            made: 0,
        })
    }

    /// Makes so many calls at the rate, and says how long each took from when it was due.
    ///
    /// # Errors
    ///
    /// When one is not answered with 200.
    pub(crate) async fn make(&mut self, count: usize) -> Result<Vec<Duration>> {
        self.made += count;
        drive::paced(&mut self.connections, &self.requests, 0, count, RATE, Pace::Asleep).await
    }

    /// Appends to a file on the disk of the database and has it synced, so many times.
    ///
    /// # Errors
    ///
    /// When the disk refuses.
    pub(crate) fn sync(&self, count: usize) -> Result<Vec<Duration>> {
        let path = self.mesh.run.file("policy-server").join("synced");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        let block = vec![b'x'; SYNCED_BYTES];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            times.push(start.elapsed());
        }
        std::fs::remove_file(path)?;
        Ok(times)
    }

    /// Shows that every call has its records.
    ///
    /// # Errors
    ///
    /// When some are missing.
    pub(crate) async fn check(&self) -> Result<()> {
        self.mesh.at_rest().await?;
        let stored = ledger::count(&self.mesh.database()).await?;
        ensure!(
            stored >= 2 * self.made as u64,
            "{stored} records of {} calls",
            self.made
        );
        Ok(())
    }

    /// Ends the mesh and removes what it stored.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn forget(self) -> Result<()> {
        self.mesh.forget()
    }
}

/// What a part of the times does not exceed.
///
/// # Errors
///
/// When there are none.
pub(crate) fn quantile(times: &[Duration], part: f64) -> Result<Duration> {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let quantile = rounds::quantile(&seconds, part).context("nothing was timed")?;
    Ok(Duration::from_secs_f64(quantile))
}

/// The times of all rounds.
///
/// # Errors
///
/// When there are none.
pub(crate) fn latency(times: &[Duration]) -> Result<Latency> {
    Ok(Latency {
        p50_us: quantile(times, 0.5)?.as_secs_f64() * 1e6,
        p99_us: quantile(times, 0.99)?.as_secs_f64() * 1e6,
        rate: RATE,
    })
}
