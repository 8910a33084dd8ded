//! Records accepted a second: chains as filters seal and post them, one batch in flight a source, each answered when it
//! is durable.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use ::micro::fixture;
use anyhow::{Result, ensure};
use authz::audit::{Chain, Record, SourceId};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use sha2::{Digest as _, Sha256};
use tests::client::Call;
use tests::load::wire::{Http1, Request};
use tests::pki::Workload;
use tests::sidecar::POLICY_AUTHORITY;
use tokio::task::JoinSet;

use super::stand::{Stand, accepted, peer};
use crate::population;

/// Sidecars that post at once, with one VM each.
const SOURCES: usize = 8;

/// What a filter under load posts at once.
const RECORDS_A_BATCH: usize = 512;

/// A VM of a sidecar: its chain and its connection.
struct Source {
    number: usize,
    workload: Workload,
    chain: Chain,
    connection: Http1,
    opened: bool,
    sealed: u64,
}

/// All sources, with what they have been told is stored.
pub(crate) struct Sources {
    stand: fixture::Stand,
    sources: Vec<Source>,
    acknowledged: u64,
}

impl Sources {
    /// Sources that have posted nothing yet.
    ///
    /// # Errors
    ///
    /// When the fixture does not fit together.
    pub(crate) fn new(server: &Stand) -> Result<Self> {
        let sources = (0..SOURCES).map(|number| Source {
            number,
            workload: population::agent(number),
            chain: Chain::new(SourceId([u8::try_from(number).unwrap_or_default(); 16])),
            connection: Http1::new(server.client()),
            opened: false,
            sealed: 0,
        });
        Ok(Self {
            stand: fixture::Stand::new(1)?,
            sources: sources.collect(),
            acknowledged: 0,
        })
    }

    /// The records that the server has said are stored.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The next bodies of each source, so many.
    ///
    /// # Errors
    ///
    /// When the fixture does not fit together.
    pub(crate) fn seal(&mut self, batches: usize) -> Result<Vec<Vec<Vec<u8>>>> {
        let sources = self.sources.iter_mut();
        sources
            .map(|source| (0..batches).map(|_| source.seal(&self.stand)).collect())
            .collect()
    }

    /// Posts what was sealed, and answers with the records and the time that it took.
    ///
    /// # Errors
    ///
    /// When a batch is not accepted.
    pub(crate) async fn post(&mut self, sealed: Vec<Vec<Vec<u8>>>) -> Result<(u64, Duration)> {
        let batches: usize = sealed.iter().map(Vec::len).sum();
        let start = Instant::now();
        let mut running = JoinSet::new();
        for (mut source, bodies) in self.sources.drain(..).zip(sealed) {
            running.spawn(async move {
                for body in bodies {
                    source.send(body).await?;
                }
                anyhow::Ok(source)
            });
        }
        while let Some(source) = running.join_next().await {
            self.sources.push(source??);
        }
        let took = start.elapsed();
        self.sources.sort_by_key(|source| source.number);
        let records = (batches * RECORDS_A_BATCH) as u64;
        self.acknowledged += records;
        Ok((records, took))
    }
}

impl Source {
    fn seal(&mut self, stand: &fixture::Stand) -> Result<Vec<u8>> {
        let facts = stand.read_table()?;
        let workload = self.workload.spiffe();
        let mut body = Vec::new();
        for _ in 0..RECORDS_A_BATCH {
            let sealed = if self.opened {
                self.sealed += 1;
                self.chain.seal(&Record {
                    call: Some(Cow::Owned(self.call())),
                    workload: Some(Cow::Borrowed(&workload)),
                    ..stand.record(&facts)
                })
            } else {
                self.opened = true;
                self.chain.seal(&Record::source(fixture::NOW * 1000, &workload, None))
            };
            body.extend_from_slice(&sealed.line);
            body.push(b'\n');
        }
        Ok(body)
    }

    /// A sidecar writes two records of each call, and calls have random names.
    fn call(&self) -> String {
        let call = Sha256::new()
            .chain_update(self.workload.spiffe())
            .chain_update((self.sealed / 2).to_be_bytes())
            .finalize();
        BASE64URL.encode(call.split_at(16).0)
    }

    async fn send(&mut self, body: Vec<u8>) -> Result<()> {
        let (name, value) = peer(&self.workload);
        let request = Request {
            method: "POST",
            body: body.into(),
            ..Request::get(POLICY_AUTHORITY, "/v1/records")
        };
        let request = request
            .header("content-type", "application/x-ndjson")
            .header(policy_server::routes::CALLOUT, "1")
            .header(name, value);
        let reply = self.connection.send(&request, 0).await?;
        ensure!(reply.status == 200, "a batch was answered {}", reply.status);
        Ok(())
    }
}

/// Shows that the very process takes a good chain, and neither a changed record nor an application's.
///
/// # Errors
///
/// When it does not.
pub(crate) async fn check(stand: &Stand) -> Result<()> {
    let workload = population::agent(SOURCES);
    let sealed = Chain::new(SourceId([0xff; 16])).seal(&Record::source(fixture::NOW * 1000, &workload.spiffe(), None));
    let line = String::from_utf8(sealed.line)?;
    let post = async |body: &str, callout: bool| {
        let (name, value) = peer(&workload);
        let mut call = Call::new("POST", POLICY_AUTHORITY, "/v1/records")
            .header(name, value)
            .header("content-type", "application/x-ndjson")
            .body(body);
        if callout {
            call = call.header(policy_server::routes::CALLOUT, "1");
        }
        stand.client().send(call).await
    };
    let changed = post(&line.replace("\"time_ms\":1", "\"time_ms\":2"), true).await?;
    ensure!(
        changed.status == 400,
        "a changed record was answered {}",
        changed.status
    );
    let application = post(&line, false).await?;
    ensure!(
        application.status == 403,
        "an application's record was answered {}",
        application.status
    );
    accepted(&post(&line, true).await?)?;
    Ok(())
}
