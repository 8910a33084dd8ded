//! The records of one call, each with the proof that it is in the log: a receipt that anyone checks offline.
//!
//! Lines of JSON: a header with the call, then for each record the line that a sidecar sent and the line of its proof, a
//! C2SP `tlog-proof` with the checkpoint in it. A receipt proves that these records are in the log. It cannot prove that
//! the log has no other record of the call: that takes an export.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, SignedCheckpoint};
use super::export::{Fault, Finding, Named, read, write};
use super::note::NoteKey;
use super::proof::{self, MAX_PROOF_HASHES};
use super::tree::leaf_hash;
use crate::audit::{self, Link, Record};
use crate::digest::Digest;

/// The format's name.
pub const FORMAT: &str = "ostiary.dev/audit-receipt/v1";

/// What a `tlog-proof` begins with.
const PROOF_START: &str = "c2sp.org/tlog-proof@v1\nindex ";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    call: String,
    receipt: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofLine {
    proof: String,
}

/// The line that a receipt begins with, without its line feed.
pub fn header_line(call: &str) -> Vec<u8> {
    write(&Header {
        call: call.to_owned(),
        receipt: FORMAT.to_owned(),
    })
}

/// The line of a proof, without its line feed.
pub fn proof_line(index: u64, path: &[Digest], note: &str) -> Vec<u8> {
    write(&ProofLine {
        proof: proof_text(index, path, note),
    })
}

/// A `tlog-proof`: what a record's inclusion is checked with.
pub fn proof_text(index: u64, path: &[Digest], note: &str) -> String {
    let mut text = format!("{PROOF_START}{index}\n");
    for hash in path {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", checkpoint::encode(hash));
    }
    text.push('\n');
    text.push_str(note);
    text
}

struct Proof<'a> {
    index: u64,
    path: Vec<Digest>,
    note: &'a str,
}

impl<'a> Proof<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (hashes, note) = text.strip_prefix(PROOF_START)?.split_once("\n\n")?;
        let mut lines = hashes.split('\n');
        let index = lines.next()?.parse().ok()?;
        let path = lines
            .take(MAX_PROOF_HASHES + 1)
            .map(checkpoint::decode)
            .collect::<Option<Vec<_>>>()?;
        (proof_text(index, &path, note) == text).then_some(Self { index, path, note })
    }
}

/// What a receipt proves.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt<'r> {
    /// The call.
    pub call: String,
    /// Its records that are in the log.
    pub records: Vec<Included<'r>>,
    /// The checkpoint that they are proven by.
    pub signed: SignedCheckpoint,
}

/// A record that is in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Included<'r> {
    /// Its place in the log.
    pub index: u64,
    /// Its place in the chain of its source.
    pub link: Link,
    /// What it tells.
    pub record: Record<'r>,
}

/// Checks a whole receipt.
///
/// # Errors
///
/// The first [`Finding`].
pub fn verify<'r>(receipt: &'r [u8], keys: &[NoteKey]) -> Result<Receipt<'r>, Finding> {
    let found = |line: usize, fault: Fault, content: &[u8]| Finding {
        line: line as u64,
        record: Named::by(content),
        fault,
    };
    let mut lines = (1..).zip(receipt.split_inclusive(|byte| *byte == b'\n'));
    let mut next = || {
        let line = lines.next().map(|(number, line)| match line.strip_suffix(b"\n") {
            Some(line) => Ok((number, line)),
            None => Err(found(number, Fault::Cut, line)),
        });
        line.transpose()
    };
    let header: Option<Header> = next()?.and_then(|(_, line)| read(line));
    let header = header.filter(|header| header.receipt == FORMAT);
    let Header { call, .. } = header.ok_or_else(|| found(1, Fault::Header, b""))?;
    let mut records = Vec::new();
    let mut signed: Option<SignedCheckpoint> = None;
    while let Some((number, line)) = next()? {
        let (proof_number, proof) = next()?.ok_or_else(|| found(number, Fault::Cut, line))?;
        let included = include(line, proof, &call, keys).map_err(|fault| found(number, fault, line))?;
        let agrees = signed.as_ref().is_none_or(|signed| *signed == included.1);
        if !agrees {
            return Err(found(proof_number, Fault::Checkpoints, proof));
        }
        records.push(included.0);
        signed = Some(included.1);
    }
    let signed = signed.ok_or_else(|| found(1, Fault::Empty, b""))?;
    Ok(Receipt { call, records, signed })
}

fn include<'r>(
    line: &'r [u8],
    proof: &[u8],
    call: &str,
    keys: &[NoteKey],
) -> Result<(Included<'r>, SignedCheckpoint), Fault> {
    let verified = audit::verify_line(line)?;
    if verified.record.call.as_deref() != Some(call) {
        return Err(Fault::Call);
    }
    let ProofLine { proof } = read(proof).ok_or(Fault::Line)?;
    let Proof { index, path, note } = Proof::read(&proof).ok_or(Fault::Line)?;
    let signed = SignedCheckpoint::verify(note, keys)?;
    let (size, root) = (signed.checkpoint.size, &signed.checkpoint.root);
    proof::verify_inclusion(&leaf_hash(verified.canonical), index, size, &path, root)?;
    let included = Included {
        index,
        link: verified.link,
        record: verified.record,
    };
    Ok((included, signed))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::borrow::Cow;

    use super::*;
    use crate::audit::{Chain, Kind, SourceId};
    use crate::log::checkpoint::tests::LogKey;
    use crate::log::tree::Frontier;
    use crate::log::tree::tests::mth;

    const CALL: &str = "AAAAAAAAAAAAAAAAAAAAAA";

    /// A receipt for the records of a call among ten.
    fn receipt(key: &LogKey) -> Vec<u8> {
        let mut chain = Chain::new(SourceId([1; 16]));
        let sealed: Vec<_> = (0..10)
            .map(|index| {
                let mut record = Record::new(Kind::Decision, 1000 + index);
                record.call = matches!(index, 3 | 8).then_some(Cow::Borrowed(CALL));
                chain.seal(&record)
            })
            .collect();
        let leaves: Vec<_> = sealed.iter().map(|sealed| leaf_hash(sealed.record())).collect();
        let mut tree = Frontier::new();
        tree.extend(leaves.iter().copied());
        let note = key.sign(10, tree.root(), 7);
        let mut receipt = header_line(CALL);
        for index in [3, 8] {
            let spans = proof::inclusion_path(index, 10).unwrap();
            let at = |place: u64| usize::try_from(place).unwrap();
            let path: Vec<_> = spans
                .iter()
                .map(|span| mth(leaves.get(at(span.start)..at(span.end)).unwrap()))
                .collect();
            receipt.push(b'\n');
            receipt.extend_from_slice(&sealed.get(at(index)).unwrap().line);
            receipt.push(b'\n');
            receipt.extend(proof_line(index, &path, &note));
        }
        receipt.push(b'\n');
        receipt
    }

    #[test]
    fn a_receipt_proves_its_records_and_no_changed_byte_goes_unnoticed() {
        let key = LogKey::new(1);
        let keys = [key.public.clone()];
        let good = receipt(&key);
        let proven = verify(&good, &keys).unwrap();
        let places: Vec<_> = proven.records.iter().map(|r| (r.index, r.link.seq)).collect();
        assert_eq!((proven.call.as_str(), places), (CALL, vec![(3, 3), (8, 8)]));
        assert_eq!((proven.signed.checkpoint.size, proven.signed.seconds), (10, 7));
        for at in 0..good.len() {
            let mut changed = good.clone();
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= 1;
            }
            assert!(verify(&changed, &keys).is_err(), "byte {at}");
        }
        for end in 1..good.len() {
            let cut = good.get(..end).unwrap();
            // All lines of the first record are a receipt for that record.
            let whole = cut.ends_with(b"}\n") && cut.split(|byte| *byte == b'\n').count() == 4;
            assert_eq!(verify(cut, &keys).is_ok(), whole, "{end} bytes");
        }
    }

    #[test]
    fn what_is_wrong_with_a_receipt_is_said() {
        let key = LogKey::new(1);
        let keys = [key.public.clone()];
        let good = receipt(&key);
        let lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
        let fault = |pick: &[usize]| {
            let picked: Vec<u8> = pick
                .iter()
                .flat_map(|at| lines.get(*at).copied().unwrap())
                .copied()
                .collect();
            let finding = verify(&picked, &keys).unwrap_err();
            (finding.line, finding.fault)
        };
        assert_eq!(fault(&[0]), (1, Fault::Empty));
        assert_eq!(fault(&[1, 2]), (1, Fault::Header));
        assert_eq!(fault(&[0, 1, 4]), (2, Fault::Proof(proof::ProofError::Root)));
        assert_eq!(fault(&[0, 1, 2, 2, 1]).0, 4);
        let other = LogKey::new(2);
        let finding = verify(&good, std::slice::from_ref(&other.public)).unwrap_err();
        assert_eq!(
            finding.fault,
            Fault::Checkpoint(super::super::note::NoteError::UnknownKey)
        );
        let text = String::from_utf8(good).unwrap();
        let elsewhere = text.replacen(CALL, "AAAAAAAAAAAAAAAAAAAAAQ", 1);
        assert_eq!(verify(elsewhere.as_bytes(), &keys).unwrap_err().fault, Fault::Call);
    }
}
