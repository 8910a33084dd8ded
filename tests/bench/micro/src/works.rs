//! The functions, each ready to be run again and again.

use std::hint::black_box;

use anyhow::{Context, Result, bail, ensure};
use authz::audit::{self, Chain, SourceId};
use authz::digest::Digest;
use authz::json::{self, Limits};
use authz::request::RequestHead;

use crate::fixture::{Pair, Stand, http_pairs, mcp_pairs, tool_call};

/// What each function is called, in the order in which they are run.
pub const IDS: [&str; 14] = [
    "decide",
    "decide-10000",
    "verify",
    "head",
    "json-1k",
    "json-16k",
    "json-256k",
    "rpc-1k",
    "rpc-16k",
    "rpc-256k",
    "seal",
    "check-record",
    "sha256-1k",
    "sha256-1m",
];

/// A function with what it works on.
pub struct Work {
    bytes: Option<u64>,
    run: Box<dyn FnMut() -> bool>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Work {
    /// Prepares the function of this name, and sees that it tells good from bad.
    ///
    /// # Errors
    ///
    /// When there is none, or it does not.
    pub fn prepare(id: &str) -> Result<Self> {
        let mut work = match id {
            "decide" => decide(10),
            "decide-10000" => decide(10_000),
            "verify" => verify(),
            "head" => head(),
            "json-1k" => parse(1 << 10),
            "json-16k" => parse(16 << 10),
            "json-256k" => parse(256 << 10),
            "rpc-1k" => message(1 << 10),
            "rpc-16k" => message(16 << 10),
            "rpc-256k" => message(256 << 10),
            "seal" => seal(),
            "check-record" => check_record(),
            "sha256-1k" => sha256(1 << 10),
            "sha256-1m" => sha256(1 << 20),
            _ => bail!("no work is called `{id}`"),
        }
        .with_context(|| id.to_owned())?;
        ensure!(work.run(), "{id} does not do its work");
        Ok(work)
    }

    /// The bytes that it reads, or writes, each time; none where its cost does not follow from a length.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Does the work once; false if the result was not the right one.
    pub fn run(&mut self) -> bool {
        (self.run)()
    }
}

fn work(bytes: Option<usize>, run: impl FnMut() -> bool + 'static) -> Work {
    Work {
        bytes: bytes.map(|bytes| bytes as u64),
        run: Box::new(run),
    }
}

/// From facts and a verified token to a permit.
fn decide(agents: usize) -> Result<Work> {
    let stand = Stand::new(agents)?;
    let facts = stand.read_table()?;
    let thief = "spiffe://cluster.local/ns/agents/sa/thief".parse()?;
    ensure!(stand.decide(&thief, &facts).is_err(), "a stolen token is accepted");
    Ok(work(None, move || {
        black_box(stand.decide(&stand.peer, black_box(&facts))).is_ok()
    }))
}

/// From a compact token to one that is verified (Ed25519).
fn verify() -> Result<Work> {
    let stand = Stand::new(1)?;
    let compact = stand.compact.clone();
    let mut forged = compact.clone();
    // The first character of the signature's last group: all its bits count.
    let last = forged.len().saturating_sub(4);
    let other = if forged.get(last..=last) == Some("A") { "B" } else { "A" };
    forged.replace_range(last..=last, other);
    ensure!(stand.verify(&forged).is_err(), "a forged token is accepted");
    Ok(work(None, move || black_box(stand.verify(black_box(&compact))).is_ok()))
}

/// From header pairs to a head that can be read in one way only: the path's canonical form and its kin.
fn head() -> Result<Work> {
    let stand = Stand::new(1)?;
    let pairs = http_pairs(&stand.compact);
    let bad: Vec<Pair> = pairs
        .iter()
        .map(|(name, value)| match name.as_str() {
            ":path" => (name.clone(), b"/v1/tables/../sales_q1_2026".to_vec()),
            _ => (name.clone(), value.clone()),
        })
        .collect();
    ensure!(
        RequestHead::parse(&bad).is_err(),
        "a path that is not canonical is accepted"
    );
    let bytes = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    Ok(work(Some(bytes), move || {
        black_box(RequestHead::parse(black_box(&pairs))).is_ok()
    }))
}

/// From bytes to a strict JSON document.
fn parse(bytes: usize) -> Result<Work> {
    let body = tool_call(bytes);
    ensure!(body.len() == bytes, "the body has {} bytes", body.len());
    ensure!(
        json::parse(&twice(&body), &Limits::REQUEST).is_err(),
        "a duplicate key is accepted"
    );
    Ok(work(Some(bytes), move || {
        black_box(json::parse(black_box(&body), &Limits::REQUEST)).is_ok()
    }))
}

/// From head and body of an MCP message to the facts that are decided on.
fn message(bytes: usize) -> Result<Work> {
    let stand = Stand::new(1)?;
    let body = tool_call(bytes);
    // The head borrows its pairs and lives in the closure beside them; a process makes few of these.
    let pairs: &'static [Pair] = Vec::leak(mcp_pairs(&stand.compact));
    let head = RequestHead::parse(pairs).map_err(|denial| anyhow::anyhow!("{}", denial.code()))?;
    ensure!(
        stand.read_message(&head, &twice(&body)).is_err(),
        "a duplicate key is accepted"
    );
    let facts = stand.read_message(&head, &body)?;
    ensure!(stand.decide(&stand.peer, &facts).is_ok(), "a good call is denied");
    Ok(work(Some(bytes), move || {
        black_box(stand.read_message(&head, black_box(&body))).is_ok()
    }))
}

/// The same object with one key twice, at its end, where a reader comes last.
fn twice(body: &[u8]) -> Vec<u8> {
    let inner = body.strip_suffix(b"}").unwrap_or(body);
    [inner, br#","method":"tools/list"}"#].concat()
}

/// From a record to its canonical form (RFC 8785), hashed into a chain.
fn seal() -> Result<Work> {
    let (stand, facts) = stand_with_facts()?;
    let mut chain = Chain::new(SourceId([7; 16]));
    let bytes = chain.seal(&stand.record(facts)).line.len();
    Ok(work(Some(bytes), move || {
        !black_box(chain.seal(black_box(&stand.record(facts)))).line.is_empty()
    }))
}

/// From a line to a record whose hash and canonical form have been checked: what the policy server does with each.
fn check_record() -> Result<Work> {
    let (stand, facts) = stand_with_facts()?;
    let line = Chain::new(SourceId([7; 16])).seal(&stand.record(facts)).line;
    let text = String::from_utf8(line.clone())?;
    let changed = text.replace("\"permit\"", "\"deny\"");
    ensure!(
        audit::verify_line(changed.as_bytes()).is_err(),
        "a changed record is accepted"
    );
    Ok(work(Some(line.len()), move || {
        black_box(audit::verify_line(black_box(&line))).is_ok()
    }))
}

fn stand_with_facts() -> Result<(Stand, &'static authz::request::Facts)> {
    let stand = Stand::new(1)?;
    let facts = Box::leak(Box::new(stand.read_table()?));
    Ok((stand, facts))
}

/// From bytes to their digest.
fn sha256(bytes: usize) -> Result<Work> {
    let mut body = tool_call(bytes);
    let digest = Digest::of(&body);
    if let Some(first) = body.first_mut() {
        *first ^= 1;
    }
    ensure!(Digest::of(&body) != digest, "another body has the same digest");
    let expected = Digest::of(&body);
    Ok(work(Some(bytes), move || {
        black_box(Digest::of(black_box(&body))) == expected
    }))
}
