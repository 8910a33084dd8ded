#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod policy;

use super::*;
use crate::audit::{Chain, Kind, Record, RecordError, Sealed, SourceId, line_of};
use crate::log::checkpoint::SignedCheckpoint;
use crate::log::checkpoint::tests::LogKey;
use crate::log::note::NoteError;
use crate::log::tree::{Frontier, leaf_hash};

const RECORDS: u64 = 600;

/// Where the log signed: within, at the end of and between tiles.
const SIGNED_AT: [u64; 4] = [100, 256, 400, RECORDS];

/// Records of three sources, in turns that do not repeat evenly.
fn records() -> Vec<Sealed> {
    let mut chains = [1, 2, 3].map(|id| Chain::new(SourceId([id; 16])));
    (0..RECORDS)
        .map(|n| {
            let chain = &mut chains[usize::try_from(n * n % 3 + n / 7 % 2).unwrap()];
            chain.seal(&record(n, 1_800_000_000_000 + n))
        })
        .collect()
}

/// A record that names policy.
fn record(n: u64, time_ms: u64) -> Record<'static> {
    Record {
        bundle: Some(format!("1.{}", policy::bundle_of(n)).into()),
        state: Some(format!("1.{}", policy::state_of(n)).into()),
        workload: Some(policy::WORKLOAD.into()),
        ..Record::new(Kind::Completion, time_ms)
    }
}

/// The time at which a checkpoint of a size was signed.
fn signed_at(size: u64) -> u64 {
    1_800_000_000 + size
}

/// The lines of an export of these records, signed and hashed as an honest log would.
fn export_of(key: &LogKey, records: &[Vec<u8>], signed: &[u64]) -> Vec<Vec<u8>> {
    let canonical = |line: &Vec<u8>| line[63..line.len() - 1].to_vec();
    let leaves: Vec<_> = records.iter().map(|line| leaf_hash(&canonical(line))).collect();
    let mut policy = policy::Kept::new();
    let mut lines = vec![header_line(
        std::slice::from_ref(&key.public),
        key.public.name(),
        Some(&policy::note(key)),
        records.len() as u64,
    )];
    let mut tree = Frontier::new();
    for (index, line) in records.iter().enumerate() {
        if index % 256 == 0 {
            lines.extend(policy.before(records[index..].iter().take(256)));
            let tile: Vec<u8> = leaves[index..].iter().take(256).flat_map(|leaf| leaf.0).collect();
            lines.push(tile_line(&tile));
        }
        lines.push(line.clone());
        tree.push(leaves[index]);
        if signed.contains(&tree.size()) {
            let note = key.sign(tree.size(), tree.root(), signed_at(tree.size()));
            lines.push(checkpoint_line(&note));
        }
    }
    lines.push(end_line(End {
        checkpoints: signed.len() as u64,
        records: records.len() as u64,
    }));
    lines
}

fn good() -> (LogKey, Vec<Vec<u8>>) {
    let key = LogKey::new(1);
    let records: Vec<_> = records().into_iter().map(|sealed| sealed.line).collect();
    let lines = export_of(&key, &records, &SIGNED_AT);
    (key, lines)
}

fn verify_bytes(bytes: &[u8], key: &LogKey, other: Option<SignedCheckpoint>) -> Result<Proven, Finding> {
    let mut verifier = Verifier::new(vec![key.public.clone()], other);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        verifier.line(Line::read(line))?;
    }
    verifier.finish()
}

fn verify(lines: &[Vec<u8>], key: &LogKey, other: Option<SignedCheckpoint>) -> Result<Proven, Finding> {
    verify_bytes(&joined(lines), key, other)
}

fn joined(lines: &[Vec<u8>]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| line.iter().copied().chain([b'\n']))
        .collect()
}

/// The checkpoint of a tree of the good log's first records.
fn checkpoint(key: &LogKey, size: u64) -> SignedCheckpoint {
    let mut tree = Frontier::new();
    tree.extend(
        records()
            .iter()
            .take(usize::try_from(size).unwrap())
            .map(|sealed| leaf_hash(sealed.record())),
    );
    let note = key.sign(size, tree.root(), 1_900_000_000);
    SignedCheckpoint::verify(&note, std::slice::from_ref(&key.public)).unwrap()
}

/// The places, from 0, of the first, a middle and the last record among the lines, and of the last of a tile.
fn record_lines(lines: &[Vec<u8>]) -> Vec<usize> {
    let places = (0..lines.len()).filter(|at| lines[*at].starts_with(b"{\"hash\":"));
    places.collect()
}

fn some_places(lines: &[Vec<u8>]) -> [usize; 5] {
    let records = record_lines(lines);
    [records[0], records[255], records[300], records[598], records[599]]
}

/// A record's line with another time and the hash that belongs to it.
fn edited(line: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(line).unwrap();
    let changed = text.replace("\"time_ms\":18", "\"time_ms\":19");
    assert_ne!(changed, text);
    line_of(&changed.as_bytes()[63..changed.len() - 1])
}

#[test]
fn an_export_is_proven_and_says_what_it_cannot_show() {
    let (key, lines) = good();
    let proven = verify(&lines, &key, None).unwrap();
    assert_eq!(
        (proven.records, proven.sources, proven.checkpoints, proven.seconds),
        (RECORDS, 3, 4, signed_at(RECORDS))
    );
    assert_eq!(proven.completeness, Completeness::Unknown);
    let with = |size| verify(&lines, &key, Some(checkpoint(&key, size))).unwrap().completeness;
    let seconds = 1_900_000_000;
    assert_eq!(with(RECORDS), Completeness::Complete { seconds });
    for records in [0, 1, 300, 599] {
        assert_eq!(with(records), Completeness::Continues { records, seconds });
    }
    let empty = export_of(&key, &[], &[]);
    let note = checkpoint_line(&key.sign(0, Frontier::new().root(), 5));
    let end = end_line(End {
        checkpoints: 1,
        records: 0,
    });
    let proven = verify(&[empty[0].clone(), note, end], &key, None).unwrap();
    assert_eq!((proven.records, proven.seconds), (0, 5));
}

/// What was done to the lines, and the line, from 0, where it must be found.
fn found(what: &str, lines: &[Vec<u8>], key: &LogKey, at: usize) -> Fault {
    match verify(lines, key, None) {
        Ok(_) => panic!("{what} at {at}: not found"),
        Err(finding) => {
            assert_eq!(finding.line, at as u64 + 1, "{what}: {finding}");
            finding.fault
        }
    }
}

#[test]
fn an_edited_record_is_found_whether_or_not_its_hash_was_too() {
    let (key, good) = good();
    for at in some_places(&good) {
        let mut lines = good.clone();
        let text = String::from_utf8(lines[at].clone()).unwrap();
        lines[at] = text.replace("\"time_ms\":18", "\"time_ms\":19").into_bytes();
        assert_eq!(found("edit", &lines, &key, at), Fault::Record(RecordError::Hash));
        lines[at] = edited(&good[at]);
        let fault = found("edit and hash", &lines, &key, at);
        assert!(matches!(fault, Fault::Tile { .. }), "{fault}");
        let finding = verify(&lines, &key, None).unwrap_err();
        let named = Named::by(&good[at]).unwrap();
        assert_eq!(finding.record, Some(named.clone()), "the record is named");
        assert!(
            finding
                .to_string()
                .contains(&format!("source {}, seq {}", named.source, named.seq))
        );
    }
}

#[test]
fn records_that_are_dropped_added_or_moved_are_found_where_that_was_done() {
    let (key, good) = good();
    let all = record_lines(&good);
    for at in some_places(&good) {
        let mut lines = good.clone();
        lines.remove(at);
        found("drop", &lines, &key, at);

        let mut lines = good.clone();
        let stranger = Chain::new(SourceId([9; 16])).seal(&Record::new(Kind::Source, 5)).line;
        lines.insert(at, stranger);
        found("insert", &lines, &key, at);

        let mut lines = good.clone();
        lines.insert(at + 1, lines[at].clone());
        found("duplicate", &lines, &key, at + 1);

        let other = if at == all[300] { all[310] } else { all[300] };
        let mut lines = good.clone();
        lines.swap(at, other);
        found("reorder", &lines, &key, at.min(other));

        let mut lines = good.clone();
        lines.truncate(at);
        let fault = found("truncate", &lines, &key, at - 1);
        assert!(matches!(fault, Fault::Ended { .. }), "{fault}");
    }
    let mut lines = good.clone();
    lines.insert(all[5] + 1, lines[all[5]].clone());
    let line = all[5] as u64 + 1;
    assert_eq!(found("duplicate", &lines, &key, all[5] + 1), Fault::Duplicate(line));
}

/// Another record in the place of one, with the same predecessor, and all that follow it in its source hashed anew.
fn forked(records: &[Sealed], at: usize) -> Vec<Vec<u8>> {
    let mut chains = [1, 2, 3].map(|id| Chain::new(SourceId([id; 16])));
    let forged: Vec<_> = (0..RECORDS)
        .zip(records)
        .map(|(n, sealed)| {
            let time = 1_800_000_000_000 + n + if n == at as u64 { 999 } else { 0 };
            let chain = &mut chains[usize::try_from(n * n % 3 + n / 7 % 2).unwrap()];
            let again = chain.seal(&record(n, time));
            assert!(n >= at as u64 || again == *sealed);
            again.line
        })
        .collect();
    forged
}

#[test]
fn a_fork_is_found_however_much_was_hashed_anew() {
    let (key, good) = good();
    let (records, places) = (records(), record_lines(&good));
    for at in [0, 1, 99, 255, 256, 300, 598, 599] {
        let forged = forked(&records, at);
        // Only the chain: the tiles tell.
        let mut lines = good.clone();
        for (place, line) in places.iter().zip(&forged) {
            lines[*place] = line.clone();
        }
        let fault = found("fork", &lines, &key, places[at]);
        assert!(matches!(fault, Fault::Tile { .. }), "{fault}");
        // The tiles too: the next checkpoint tells between which lines.
        let signed_anew = export_of(&key, &forged, &SIGNED_AT);
        let mut lines = signed_anew.clone();
        for (line, good) in lines.iter_mut().zip(&good) {
            if good.starts_with(b"{\"checkpoint\":") {
                *line = good.clone();
            }
        }
        let finding = verify(&lines, &key, None).unwrap_err();
        let Fault::Root { to_line } = finding.fault else {
            panic!("{finding}")
        };
        let line = places[at] as u64 + 1;
        assert!(finding.line <= line && line < to_line, "{at}: {finding}");
        // The log's own key too, by whoever owns the log: only a checkpoint kept elsewhere tells.
        assert!(verify(&signed_anew, &key, None).is_ok());
        let kept = checkpoint(&key, RECORDS);
        assert_eq!(
            verify(&signed_anew, &key, Some(kept)).unwrap_err().fault,
            Fault::Rewritten { size: RECORDS }
        );
    }
}

#[test]
fn two_sources_cannot_be_taken_for_each_other() {
    let (key, good) = good();
    let (first, second) = (SourceId([1; 16]).to_string(), SourceId([2; 16]).to_string());
    let mut chains: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    let mut lines = good.clone();
    for line in lines.iter_mut().filter(|line| line.starts_with(b"{\"hash\":")) {
        let record = String::from_utf8(line[63..line.len() - 1].to_vec()).unwrap();
        let swapped = record
            .replace(&first, "@")
            .replace(&second, &first)
            .replace('@', &second);
        let value: serde_json::Value = serde_json::from_str(&swapped).unwrap();
        let source = value["source"].as_str().unwrap().to_owned();
        let chained = match (value["prev_hash"].as_str(), chains.get(&source)) {
            (Some(old), Some(new)) => swapped.replace(old, new),
            _ => swapped,
        };
        *line = line_of(chained.as_bytes());
        chains.insert(source, String::from_utf8(line[9..52].to_vec()).unwrap());
    }
    let place = record_lines(&good)
        .into_iter()
        .find(|at| lines[*at] != good[*at])
        .unwrap();
    let fault = found("swapped sources", &lines, &key, place);
    assert!(matches!(fault, Fault::Tile { .. }), "{fault}");
}

#[test]
fn signing_with_another_key_is_found() {
    let (key, good) = good();
    let records: Vec<_> = records().into_iter().map(|sealed| sealed.line).collect();
    let impostor = LogKey::new(2);
    let signed_anew = export_of(&impostor, &records, &SIGNED_AT);
    assert_eq!(found("another key", &signed_anew, &key, 0), Fault::OtherKeys);
    let mut lines = signed_anew;
    lines[0] = good[0].clone();
    let first_checkpoint = lines
        .iter()
        .position(|line| line.starts_with(b"{\"checkpoint\":"))
        .unwrap();
    assert_eq!(
        found("another key", &lines, &key, first_checkpoint),
        Fault::Checkpoint(NoteError::UnknownKey)
    );
}

#[test]
fn a_roll_back_is_found_by_a_newer_checkpoint_alone() {
    let (key, _) = good();
    let records: Vec<_> = records().into_iter().take(400).map(|sealed| sealed.line).collect();
    let rolled_back = export_of(&key, &records, &SIGNED_AT[..3]);
    let proven = verify(&rolled_back, &key, None).unwrap();
    assert_eq!(
        (proven.records, proven.completeness),
        (400, Completeness::Unknown),
        "nobody can tell"
    );
    let finding = verify(&rolled_back, &key, Some(checkpoint(&key, RECORDS))).unwrap_err();
    assert_eq!(
        finding.fault,
        Fault::Missing {
            records: 400,
            size: RECORDS
        }
    );
    assert_eq!(finding.line, rolled_back.len() as u64);
}

#[test]
fn a_changed_tile_is_told_from_a_changed_record() {
    let (key, good) = good();
    let tile = good.iter().rposition(|line| line.starts_with(b"{\"tile\":")).unwrap();
    let mut lines = good.clone();
    // Another hash in the middle of the last tile.
    lines[tile][1000] = if lines[tile][1000] == b'A' { b'B' } else { b'A' };
    let fault = found("tile", &lines, &key, tile);
    assert!(matches!(fault, Fault::TileChanged { .. }), "{fault}");
    for at in [tile, tile + 1] {
        let mut lines = good.clone();
        lines.remove(tile);
        lines.insert(at + 3, good[tile].clone());
        found("moved tile", &lines, &key, tile);
    }
}

/// Numbers from a seed: xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % bound
    }
}

/// Makes one change of a random kind at a random place, and says what it did.
fn mutate(good: &[Vec<u8>], dice: &mut Dice) -> (String, Vec<u8>) {
    let mut lines = good.to_vec();
    let records = record_lines(good);
    let (at, to) = (dice.below(lines.len()), dice.below(lines.len()));
    let record = records[dice.below(records.len())];
    let what = match dice.below(9) {
        0 => {
            let mut bytes = joined(good);
            let (at, bit) = (dice.below(bytes.len()), dice.below(8));
            bytes[at] ^= 1 << bit;
            return (format!("bit {bit} of byte {at}"), bytes);
        }
        1 => {
            let mut bytes = joined(good);
            let end = dice.below(bytes.len());
            bytes.truncate(end);
            return (format!("cut off after {end} bytes"), bytes);
        }
        2 => {
            lines.remove(at);
            format!("line {at} dropped")
        }
        3 => {
            lines.insert(at, lines[at].clone());
            format!("line {at} twice")
        }
        4 if lines[at] != lines[to] => {
            lines.swap(at, to);
            format!("lines {at} and {to} swapped")
        }
        5 => {
            let line = lines[record].clone();
            lines.insert(to, line);
            format!("record {record} again at {to}")
        }
        6 => {
            lines[record] = edited(&good[record]);
            format!("record {record} edited and hashed")
        }
        7 => {
            let byte = b"\n \0a{"[dice.below(5)];
            let mut bytes = joined(good);
            let at = dice.below(bytes.len());
            bytes.insert(at, byte);
            return (format!("byte {byte} put in at {at}"), bytes);
        }
        _ => {
            let mut bytes = joined(good);
            let at = dice.below(bytes.len());
            bytes.remove(at);
            return (format!("byte {at} taken out"), bytes);
        }
    };
    (what, joined(&lines))
}

#[test]
fn five_hundred_random_changes_are_all_found_at_their_places() {
    let (key, good) = good();
    let whole = joined(&good);
    let mut dice = Dice(0x5EED_0057_1A57);
    let mut trials = 0;
    while trials < 500 {
        let (what, bytes) = mutate(&good, &mut dice);
        if bytes == whole {
            continue;
        }
        trials += 1;
        let Err(finding) = verify_bytes(&bytes, &key, None) else {
            panic!("{what}: not found")
        };
        let same = whole.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
        let first_changed = 1 + whole[..same].iter().filter(|byte| **byte == b'\n').count() as u64;
        let told = finding.line;
        // What is missing at a file's end is told of the last line that is there. How many records a changed first line
        // tells of is compared with where they end.
        let cut_off = whole.starts_with(&bytes) && told + 1 == first_changed;
        // That a document is missing shows where it is named, and that a checkpoint is, where they are counted.
        let is_missed = matches!(
            finding.fault,
            Fault::PolicyPage | Fault::PolicyMissing { .. } | Fault::Count
        );
        let right = told == first_changed || cut_off || first_changed == 1 || is_missed && told > first_changed;
        assert!(right, "{what}: changed from line {first_changed}, found {finding}");
    }
}
