//! Signed notes: a text, and lines with signatures of it (C2SP `signed-note`), of which Ed25519 (type 1) and
//! timestamped Ed25519 (type 4, C2SP `tlog-cosignature`) are served.
//!
//! A log signs each checkpoint both ways with one key: type 1 is what every verifier knows, type 4 says when. The two
//! cannot be taken for each other: what type 4 signs begins with a line that is no origin of a log.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// The longest note that is read: some thirty signatures beside a checkpoint.
pub const MAX_NOTE_BYTES: usize = 8 << 10;

/// Ed25519 over the text.
const PLAIN: u8 = 1;
/// Ed25519 over a time and the text.
const TIMED: u8 = 4;

/// What a signature line begins with: an em dash and a space.
const LINE_START: &str = "\u{2014} ";

/// A public key that signs notes, under the name of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    public: VerifyingKey,
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not of the form `NAME+ID+KEY`.
    #[error("not a key like `NAME+0123abcd+AQ…`, as `ostiary keys show` prints it")]
    Form,
    /// The id in the middle is not that of name and key: one of the three was changed.
    #[error("the key's id does not belong to its name and material")]
    Id,
    /// Another algorithm than Ed25519.
    #[error("only Ed25519 keys are served")]
    Algorithm,
    /// A name with a space or plus sign, or none; or a point that is unusable.
    #[error("the name or the material of the key is unusable")]
    Unusable,
}

impl NoteKey {
    /// Binds a name to an Ed25519 public key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unusable`] if the name is empty, or has a space, a control character or a plus sign; or if the key is
    /// weak.
    pub fn new(name: &str, public: &[u8; 32]) -> Result<Self, KeyError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        let public = VerifyingKey::from_bytes(public).map_err(|_| KeyError::Unusable)?;
        if name.is_empty() || name.contains(bad) || public.is_weak() {
            return Err(KeyError::Unusable);
        }
        Ok(Self {
            name: name.to_owned(),
            public,
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line that carries a signature of a note's text.
    pub fn line(&self, signature: &[u8; 64]) -> String {
        self.write_line(PLAIN, signature)
    }

    /// The line that carries a signature of [`timed`] bytes.
    pub fn timed_line(&self, seconds: u64, signature: &[u8; 64]) -> String {
        self.write_line(TIMED, &[&seconds.to_be_bytes()[..], signature].concat())
    }

    fn write_line(&self, kind: u8, signature: &[u8]) -> String {
        let bytes = [&self.id(kind)[..], signature].concat();
        format!("{LINE_START}{} {}\n", self.name, STANDARD.encode(bytes))
    }

    /// What tells keys of one name apart; no protection, since anyone can find a key with a given id.
    fn id(&self, kind: u8) -> [u8; 4] {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update([b'\n', kind]);
        hasher.update(self.public.as_bytes());
        let [a, b, c, d, ..] = <[u8; 32]>::from(hasher.finalize());
        [a, b, c, d]
    }

    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // Strict: of the many signatures that a lax check takes for one message, only one is good.
        self.public
            .verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    }
}

/// What a timed signature signs.
pub fn timed(seconds: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {seconds}\n{text}").into_bytes()
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id(PLAIN));
        let key = STANDARD.encode([&[PLAIN][..], self.public.as_bytes()].concat());
        write!(f, "{}+{id:08x}+{key}", self.name)
    }
}

impl FromStr for NoteKey {
    type Err = KeyError;

    /// Reads what `Display` writes: the form that Go's `note` and other tools for logs take.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Form);
        };
        let key = STANDARD.decode(key).map_err(|_| KeyError::Form)?;
        let public = match key.split_first() {
            Some((&PLAIN, public)) => public.try_into().map_err(|_| KeyError::Form)?,
            Some(_) => return Err(KeyError::Algorithm),
            None => return Err(KeyError::Form),
        };
        let key = Self::new(name, public)?;
        if key.to_string() == text {
            Ok(key)
        } else {
            Err(KeyError::Id)
        }
    }
}

/// Why a note was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than [`MAX_NOTE_BYTES`].
    #[error("the note is longer than {MAX_NOTE_BYTES} bytes")]
    TooLong,
    /// Not a text, an empty line and signature lines.
    #[error("the note is not a text, an empty line and lines with signatures")]
    Form,
    /// No known key signed it.
    #[error("none of the given keys signed it")]
    UnknownKey,
    /// A signature that names a known key is not of it.
    #[error("its signature is not that of the key it names")]
    Signature,
    /// The key that signed it did not say when.
    #[error("the key that signed it did not sign a time")]
    NoTime,
    /// The text is no checkpoint.
    #[error("it is no checkpoint: origin, size and root are expected")]
    Checkpoint,
    /// The text is no list of keys that sign policy.
    #[error("it is no list of the keys that sign policy")]
    PolicyKeys,
    /// Another log's checkpoint.
    #[error("it names another log than the key does")]
    Origin,
}

/// A note that a known key signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The text, with its last line feed.
    pub text: &'a str,
    /// The key that signed it; the first given, if several did.
    pub key: &'a NoteKey,
    /// When, in seconds since 1970, by the clock of the signer.
    pub seconds: u64,
}

/// Checks a note. Signatures of unknown keys are passed over, so that keys rotate and witnesses sign too; one that names
/// a known key must be good.
///
/// # Errors
///
/// [`NoteError`], never `Checkpoint`, `PolicyKeys` or `Origin`.
pub fn verify<'a>(note: &'a str, keys: &'a [NoteKey]) -> Result<Signed<'a>, NoteError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong);
    }
    let at = note.rfind("\n\n").ok_or(NoteError::Form)?;
    let (text, rest) = note.split_at_checked(at + 1).ok_or(NoteError::Form)?;
    let signatures = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n'));
    let lines = signatures
        .ok_or(NoteError::Form)?
        .split('\n')
        .map(|line| Line::read(line).ok_or(NoteError::Form))
        .collect::<Result<Vec<_>, _>>()?;
    if text.is_empty() || text.contains(|c: char| c.is_ascii_control() && c != '\n') {
        return Err(NoteError::Form);
    }
    let mut signed = None;
    let mut untimed = false;
    for key in keys {
        let plain = signature_of(key, PLAIN, &lines)?;
        let timed = signature_of(key, TIMED, &lines)?;
        if let Some(bytes) = plain {
            check(key, text.as_bytes(), bytes)?;
        }
        let seconds = timed.map(|bytes| check_timed(key, text, bytes)).transpose()?;
        match (plain, seconds) {
            (Some(_), Some(seconds)) => signed = signed.or(Some(Signed { text, key, seconds })),
            (Some(_), None) => untimed = true,
            (None, _) => {}
        }
    }
    signed.ok_or(if untimed {
        NoteError::NoTime
    } else {
        NoteError::UnknownKey
    })
}

struct Line<'a> {
    name: &'a str,
    id: [u8; 4],
    signature: Vec<u8>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(LINE_START)?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        (!name.is_empty() && !signature.is_empty()).then(|| Self {
            name,
            id: *id,
            signature: signature.to_vec(),
        })
    }
}

/// The signature of a key, if there is one; of two, which would be good is not asked.
fn signature_of<'l>(key: &NoteKey, kind: u8, lines: &'l [Line<'_>]) -> Result<Option<&'l [u8]>, NoteError> {
    let id = key.id(kind);
    let mut found = lines.iter().filter(|line| line.name == key.name && line.id == id);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(NoteError::Signature),
        (one, _) => Ok(one.map(|line| line.signature.as_slice())),
    }
}

fn check(key: &NoteKey, message: &[u8], signature: &[u8]) -> Result<(), NoteError> {
    let signature = signature.try_into().map_err(|_| NoteError::Signature)?;
    if key.verifies(message, signature) {
        Ok(())
    } else {
        Err(NoteError::Signature)
    }
}

fn check_timed(key: &NoteKey, text: &str, bytes: &[u8]) -> Result<u64, NoteError> {
    let (seconds, signature) = bytes.split_first_chunk::<8>().ok_or(NoteError::Signature)?;
    let seconds = u64::from_be_bytes(*seconds);
    check(key, &timed(seconds, text), signature)?;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    const TEXT: &str = "example.com/log\n5\nroot\n";

    fn key(seed: u8, name: &str) -> (SigningKey, NoteKey) {
        let secret = SigningKey::from_bytes(&[seed; 32]);
        let public = NoteKey::new(name, &secret.verifying_key().to_bytes()).unwrap();
        (secret, public)
    }

    fn plain((secret, public): &(SigningKey, NoteKey)) -> String {
        public.line(&secret.sign(TEXT.as_bytes()).to_bytes())
    }

    fn timed_line((secret, public): &(SigningKey, NoteKey), seconds: u64) -> String {
        public.timed_line(seconds, &secret.sign(&timed(seconds, TEXT)).to_bytes())
    }

    /// The example of Go's package `note`, whose key and signature are its own.
    #[test]
    fn a_key_of_go_is_read_and_written() {
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: NoteKey = text.parse().unwrap();
        assert_eq!((key.name(), key.to_string().as_str()), ("PeterNeumann", text));
        let note = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert_eq!(
            verify(note, &[key]),
            Err(NoteError::NoTime),
            "it is signed, without a time"
        );
    }

    #[test]
    fn a_changed_key_is_refused() {
        let (_, key) = key(1, "example.com/log");
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed.parse::<NoteKey>().is_err(), "{changed}");
        }
        for name in ["", "a b", "a+b", "a\n"] {
            assert_eq!(NoteKey::new(name, key_bytes()), Err(KeyError::Unusable), "{name:?}");
        }
        assert_eq!(NoteKey::new("a", &[0; 32]), Err(KeyError::Unusable));
    }

    fn key_bytes() -> &'static [u8; 32] {
        &[
            0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1,
            0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
        ]
    }

    #[test]
    fn a_note_is_good_if_a_known_key_signed_text_and_time() {
        let (log, other) = (key(1, "example.com/log"), key(2, "example.com/other"));
        let keys = [log.1.clone()];
        let note = |lines: &[String]| format!("{TEXT}\n{}", lines.concat());
        let good = note(&[plain(&log), timed_line(&log, 7)]);
        let signed = verify(&good, &keys).unwrap();
        assert_eq!((signed.text, signed.key, signed.seconds), (TEXT, &log.1, 7));
        let witnessed = note(&[plain(&other), plain(&log), timed_line(&log, 7), timed_line(&other, 8)]);
        assert_eq!(
            verify(&witnessed, &keys).unwrap().seconds,
            7,
            "unknown keys are passed over"
        );

        // The same name, another key: unknown; another key's signature under the known id: wrong.
        let impostor = (key(3, "example.com/log").0, log.1.clone());
        for (note, error) in [
            (note(&[plain(&log)]), NoteError::NoTime),
            (note(&[timed_line(&log, 7)]), NoteError::UnknownKey),
            (note(&[plain(&other), timed_line(&other, 7)]), NoteError::UnknownKey),
            (note(&[plain(&key(3, "example.com/log"))]), NoteError::UnknownKey),
            (note(&[plain(&impostor), timed_line(&log, 7)]), NoteError::Signature),
            (note(&[plain(&log), timed_line(&impostor, 7)]), NoteError::Signature),
            (
                note(&[plain(&log), plain(&log), timed_line(&log, 7)]),
                NoteError::Signature,
            ),
            (good.replace("\n5\n", "\n6\n"), NoteError::Signature),
            (good.replace("\n\n", "\n"), NoteError::Form),
            (good.trim_end().to_owned(), NoteError::Form),
            (format!("{good}\n"), NoteError::Form),
            (good.replace("\u{2014} ", "- "), NoteError::Form),
            (format!("{}{good}", "a\n".repeat(MAX_NOTE_BYTES)), NoteError::TooLong),
        ] {
            assert_eq!(verify(&note, &keys), Err(error), "{note}");
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let log = key(1, "example.com/log");
        let keys = [log.1.clone()];
        let good = format!("{TEXT}\n{}{}", plain(&log), timed_line(&log, 7));
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1;
            }
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verify(&changed, &keys).is_err(), "byte {at}");
            }
        }
    }
}
