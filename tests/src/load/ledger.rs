//! What the policy server stored, read from its database by other means than its own, and held against what callers saw.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

use super::mix::{Outcome, Trace};
use super::wire;

const HASH_PREFIX: &[u8] = b"ostiary.dev/record/v1\n";

/// How many records are read at once.
const PAGE: i64 = 4096;

/// What one call left behind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Decisions that permitted it.
    pub permits: u32,
    /// Decisions that denied it.
    pub denials: u32,
    /// Records of its end.
    pub completions: u32,
}

/// The books of a whole run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Records.
    pub records: u64,
    /// Chains.
    pub sources: u64,
    /// Chains that replaced another.
    pub restarts: u64,
    /// By call id: also those that sidecars made.
    pub calls: HashMap<String, Left>,
    /// By the number that a caller gave its call.
    pub numbered: HashMap<u64, Left>,
    /// Denials with a record of their own, by side, peer and code.
    pub denials: BTreeMap<(String, String, String), u64>,
    /// Denials that were counted, by side, peer and code.
    pub counted: BTreeMap<(String, String, String), u64>,
    /// Denials that were counted by code alone.
    pub overflow: BTreeMap<String, u64>,
    /// Permits by side.
    pub permits: BTreeMap<String, u64>,
    /// How calls ended.
    pub ends: BTreeMap<String, u64>,
    /// Records by peer.
    pub records_by_peer: BTreeMap<String, u64>,
    /// Bytes of records by peer.
    pub bytes_by_peer: BTreeMap<String, u64>,
    /// Bytes of all records.
    pub bytes: u64,
}

/// The fields of a record that the books are kept on.
#[derive(Deserialize)]
struct Line<'a> {
    kind: &'a str,
    seq: u64,
    source: &'a str,
    prev_hash: Option<&'a str>,
    previous_source: Option<&'a str>,
    #[serde(borrow)]
    call: Option<Cow<'a, str>>,
    side: Option<&'a str>,
    peer: Option<&'a str>,
    verdict: Option<&'a str>,
    code: Option<&'a str>,
    end: Option<&'a str>,
    count: Option<u64>,
    #[serde(default)]
    counts: BTreeMap<String, u64>,
}

/// Opens a database beside the server, or without it.
///
/// # Errors
///
/// When it cannot be opened.
pub async fn open(database: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(database).create_if_missing(false);
    let options = options.busy_timeout(std::time::Duration::from_secs(30));
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// How many records are stored.
///
/// # Errors
///
/// When the database cannot be read.
pub async fn count(database: &Path) -> Result<u64> {
    let mut connection = open(database).await?;
    let row = sqlx::query("SELECT coalesce(max(position), 0) FROM records")
        .fetch_one(&mut connection)
        .await?;
    Ok(u64::try_from(row.get::<i64, _>(0))?)
}

/// The bytes of a database that nobody uses, with what stands in its write-ahead log.
///
/// # Errors
///
/// When it cannot be read.
pub async fn bytes(database: &Path) -> Result<u64> {
    let mut connection = open(database).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(std::fs::metadata(database)?.len())
}

impl Ledger {
    /// Reads everything and checks every chain: sequence, links and hashes.
    ///
    /// # Errors
    ///
    /// When a chain is broken.
    pub async fn read(database: &Path) -> Result<Self> {
        let mut connection = open(database).await?;
        let mut ledger = Self::default();
        let sources = sqlx::query("SELECT source, last_seq FROM sources")
            .fetch_all(&mut connection)
            .await?;
        for row in sources {
            let (source, last_seq): (String, i64) = (row.get(0), row.get(1));
            let read = ledger.read_source(&mut connection, &source).await?;
            ensure!(
                read == last_seq + 1,
                "source {source} says that it ends at {last_seq}, but has {read} records"
            );
            ledger.sources += 1;
        }
        let stored = sqlx::query("SELECT count(*) FROM records")
            .fetch_one(&mut connection)
            .await?;
        ensure!(
            u64::try_from(stored.get::<i64, _>(0))? == ledger.records,
            "records of no source are stored"
        );
        Ok(ledger)
    }

    async fn read_source(&mut self, connection: &mut SqliteConnection, source: &str) -> Result<i64> {
        let (mut next, mut last) = (0, None);
        loop {
            let query = "SELECT seq, hash, record FROM records WHERE source = ? AND seq >= ? ORDER BY seq LIMIT ?";
            let rows = sqlx::query(query).bind(source).bind(next).bind(PAGE);
            let rows = rows.fetch_all(&mut *connection).await?;
            if rows.is_empty() {
                return Ok(next);
            }
            for row in rows {
                let (seq, hash, record): (i64, &[u8], &[u8]) = (row.get(0), row.get(1), row.get(2));
                ensure!(seq == next, "source {source} has a gap before {seq}");
                let mut hasher = Sha256::new();
                hasher.update(HASH_PREFIX);
                hasher.update(record);
                ensure!(
                    hasher.finalize().as_slice() == hash,
                    "record {seq} of {source} was changed"
                );
                let line: Line<'_> = serde_json::from_slice(record)
                    .with_context(|| format!("record: {}", String::from_utf8_lossy(record)))?;
                ensure!(
                    line.source == source && i64::try_from(line.seq)? == seq && line.prev_hash == last.as_deref(),
                    "record {seq} of {source} does not continue its chain"
                );
                self.enter(&line, record.len() as u64)?;
                last = Some(BASE64URL.encode(hash));
                next += 1;
            }
        }
    }

    fn enter(&mut self, line: &Line<'_>, bytes: u64) -> Result<()> {
        let text = |field: Option<&str>| field.unwrap_or_default().to_owned();
        self.records += 1;
        self.bytes += bytes;
        *self.records_by_peer.entry(text(line.peer)).or_default() += 1;
        *self.bytes_by_peer.entry(text(line.peer)).or_default() += bytes;
        let key = || (text(line.side), text(line.peer), text(line.code));
        let left = line.call.as_deref().map(|call| {
            match wire::call_number(call) {
                // The outbound side never takes over a call's name; there it is chance.
                Some(number) => self.numbered.entry(number).or_default(),
                None => self.calls.entry(format!("{} {call}", text(line.side))).or_default(),
            }
        });
        match (line.kind, line.verdict) {
            ("source", _) => self.restarts += u64::from(line.previous_source.is_some()),
            ("decision", Some("permit")) => {
                *self.permits.entry(text(line.side)).or_default() += 1;
                left.into_iter().for_each(|left| left.permits += 1);
            }
            ("decision", Some("deny")) => {
                *self.denials.entry(key()).or_default() += 1;
                left.into_iter().for_each(|left| left.denials += 1);
            }
            ("completion", _) => {
                *self.ends.entry(text(line.end)).or_default() += 1;
                left.into_iter().for_each(|left| left.completions += 1);
            }
            ("aggregate", _) => *self.counted.entry(key()).or_default() += line.count.unwrap_or_default(),
            ("overflow", _) => {
                for (code, count) in &line.counts {
                    *self.overflow.entry(code.clone()).or_default() += count;
                }
            }
            (kind, verdict) => bail!("a record of kind {kind} and verdict {verdict:?}"),
        }
        Ok(())
    }

    /// Every permit has its completion.
    ///
    /// # Errors
    ///
    /// When one has none, or more than one.
    pub fn check_closed(&self) -> Result<()> {
        let numbered = self.numbered.iter().map(|(number, left)| (number.to_string(), left));
        let named = self.calls.iter().map(|(call, left)| (call.clone(), left));
        for (call, left) in numbered.chain(named) {
            ensure!(
                left.permits <= 1 && left.completions <= 1 && left.permits <= left.completions,
                "call {call} left {left:?}"
            );
        }
        Ok(())
    }

    /// Every call that names itself left what it must; `may_count` tells whether a denial may have been counted instead of
    /// recorded, as it is when there is no room.
    ///
    /// # Errors
    ///
    /// When one left something else.
    pub fn check_traces(&self, outcome: &Outcome, may_count: bool) -> Result<()> {
        let mut left = self.numbered.clone();
        for (number, trace) in &outcome.traces {
            let left = left.remove(number).unwrap_or_default();
            let found = (left.permits, left.completions);
            let fits = match trace {
                Trace::Permit => found == (1, 1) && (left.denials == 0 || may_count),
                Trace::Denial => found == (0, 0) && (left.denials == 1 || may_count),
                Trace::Counted => found == (0, 0) && left.denials == 0,
            };
            ensure!(fits, "call {number} should have left a {trace:?}, but left {left:?}");
        }
        Ok(())
    }

    /// Inbound denials of a peer with a code, recorded or counted.
    pub fn inbound_denials(&self, peer: &str, code: &str) -> u64 {
        let key = ("inbound".to_owned(), peer.to_owned(), code.to_owned());
        let of = |counts: &BTreeMap<_, u64>| counts.get(&key).copied().unwrap_or_default();
        of(&self.denials) + of(&self.counted)
    }

    /// Every denial that callers got was recorded or counted under its code, and its peer unless there was no room.
    ///
    /// # Errors
    ///
    /// When the sums differ.
    pub fn check_denials(&self, outcome: &Outcome, spiffe: impl Fn(&str) -> Result<String>) -> Result<()> {
        let mut missing: BTreeMap<&str, u64> = BTreeMap::new();
        for ((agent, code), answered) in &outcome.denials {
            let stored = self.inbound_denials(&spiffe(agent)?, code);
            ensure!(
                stored <= *answered,
                "{agent} got {code} {answered} times, but {stored} are stored"
            );
            *missing.entry(code).or_default() += answered - stored;
        }
        for (code, answered) in &outcome.outbound_denials {
            let of = |counts: &BTreeMap<(String, String, String), u64>| -> u64 {
                let outbound = counts
                    .iter()
                    .filter(|((side, _, of), _)| side == "outbound" && of == code);
                outbound.map(|(_, count)| count).sum()
            };
            let stored = of(&self.denials) + of(&self.counted);
            ensure!(
                stored <= *answered,
                "{code} was answered {answered} times by the outbound side, but {stored} are stored"
            );
            *missing.entry(code).or_default() += answered - stored;
        }
        for (code, missing) in missing {
            let overflow = self.overflow.get(code).copied().unwrap_or_default();
            ensure!(
                missing == overflow,
                "{missing} denials with {code} are missing, and {overflow} are counted without their peer"
            );
        }
        Ok(())
    }

    /// Prints the sums.
    pub fn print(&self, database_bytes: u64) {
        println!(
            "  stored: {} records ({} MiB) in {} chains, permits {:?}, ends {:?}, overflow {:?}; database {} MiB",
            self.records,
            self.bytes >> 20,
            self.sources,
            self.permits,
            self.ends,
            self.overflow,
            database_bytes >> 20,
        );
    }
}
