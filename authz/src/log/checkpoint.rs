//! Checkpoints: what a log signs of its tree (C2SP `tlog-checkpoint`).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::note::{self, NoteError, NoteKey};
use crate::digest::Digest;

/// A tree at one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name; the name of its key too.
    pub origin: String,
    /// How many leaves there are.
    pub size: u64,
    /// The root above them.
    pub root: Digest,
}

impl Checkpoint {
    /// The text that is signed: three lines. Extension lines are not recommended, and none is written or read.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, encode(&self.root))
    }

    /// The note, once the log's keys have signed it: `lines` are those of [`NoteKey::line`] and [`NoteKey::timed_line`].
    pub fn note(&self, lines: &[String]) -> String {
        let mut note = self.text();
        note.push('\n');
        for line in lines {
            // Writing to a string cannot fail.
            let _ = note.write_str(line);
        }
        note
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return None;
        };
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: decode(root)?,
        };
        // No leading zero, no plus sign: what is signed has one spelling.
        (!origin.is_empty() && checkpoint.text() == text).then_some(checkpoint)
    }
}

/// A checkpoint that a known key of its log signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// When, in seconds since 1970, by the log's clock.
    pub seconds: u64,
}

impl SignedCheckpoint {
    /// Checks a note that should hold a checkpoint of the log whose keys these are.
    ///
    /// # Errors
    ///
    /// [`NoteError`].
    pub fn verify(note: &str, keys: &[NoteKey]) -> Result<Self, NoteError> {
        let signed = note::verify(note, keys)?;
        let checkpoint = Checkpoint::read(signed.text).ok_or(NoteError::Checkpoint)?;
        if checkpoint.origin != signed.key.name() {
            return Err(NoteError::Origin);
        }
        Ok(Self {
            checkpoint,
            seconds: signed.seconds,
        })
    }
}

/// A hash as C2SP's formats write it.
pub fn encode(hash: &Digest) -> String {
    STANDARD.encode(hash.as_bytes())
}

/// Reads what [`encode`] writes.
pub fn decode(text: &str) -> Option<Digest> {
    let bytes = STANDARD.decode(text).ok()?;
    bytes.try_into().ok().map(Digest)
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    /// A log's key made of one byte repeated.
    pub(crate) struct LogKey {
        secret: SigningKey,
        pub(crate) public: NoteKey,
    }

    impl LogKey {
        pub(crate) fn new(seed: u8) -> Self {
            let secret = SigningKey::from_bytes(&[seed; 32]);
            let public = NoteKey::new("example.com/log", &secret.verifying_key().to_bytes()).unwrap();
            Self { secret, public }
        }

        pub(crate) fn sign_text(&self, text: &str, seconds: u64) -> String {
            let plain = self.secret.sign(text.as_bytes()).to_bytes();
            let timed = self.secret.sign(&note::timed(seconds, text)).to_bytes();
            format!(
                "{text}\n{}{}",
                self.public.line(&plain),
                self.public.timed_line(seconds, &timed)
            )
        }

        pub(crate) fn sign(&self, size: u64, root: Digest, seconds: u64) -> String {
            let checkpoint = Checkpoint {
                origin: "example.com/log".to_owned(),
                size,
                root,
            };
            self.sign_text(&checkpoint.text(), seconds)
        }
    }

    #[test]
    fn a_checkpoint_is_three_lines_and_its_signatures() {
        let key = LogKey::new(1);
        let root = Digest::of(b"");
        let note = key.sign(0, root, 1_800_000_000);
        assert!(note.starts_with(
            "example.com/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} example.com/log "
        ));
        let signed = SignedCheckpoint::verify(&note, &[key.public]).unwrap();
        assert_eq!(
            (signed.checkpoint.size, signed.checkpoint.root, signed.seconds),
            (0, root, 1_800_000_000)
        );
        let (_, lines) = note.split_once("\n\n").unwrap();
        assert_eq!(signed.checkpoint.note(&[lines.to_owned()]), note);
    }

    #[test]
    fn what_is_signed_but_no_checkpoint_is_refused() {
        let key = LogKey::new(1);
        let root = encode(&Digest::of(b""));
        for (text, error) in [
            (format!("example.com/log\n00\n{root}\n"), NoteError::Checkpoint),
            (format!("example.com/log\n+1\n{root}\n"), NoteError::Checkpoint),
            (format!("example.com/log\n-1\n{root}\n"), NoteError::Checkpoint),
            (format!("example.com/log\n1\n{root}\nmore\n"), NoteError::Checkpoint),
            ("example.com/log\n1\n\n".to_owned(), NoteError::Checkpoint),
            ("example.com/log\n1\nAAAA\n".to_owned(), NoteError::Checkpoint),
            (format!("example.com/another\n1\n{root}\n"), NoteError::Origin),
        ] {
            let note = key.sign_text(&text, 1);
            assert_eq!(
                SignedCheckpoint::verify(&note, std::slice::from_ref(&key.public)),
                Err(error),
                "{text}"
            );
        }
    }
}
