//! The log of a server, read by its tiles.

use authz::audit::{self, Verified};
use authz::digest::Digest;
use authz::log::note::NoteKey;
use authz::log::tile::{self, Content, Path, Run, WIDTH};
use authz::log::tree::{Span, root_above};
use reqwest::{Method, StatusCode};

use super::AuditError;
use crate::cli::server::{Server, Session};

/// A bundle of the longest entries, or the longest policy.
const MAX_BUNDLE_BYTES: usize = 256 * (tile::MAX_ENTRY_BYTES + 2);

/// A checkpoint of a server, as it came: believed only where that is said.
pub(in crate::cli) struct Told {
    /// The log's name.
    pub(super) origin: String,
    /// How many records it signs.
    pub(in crate::cli) size: u64,
    /// The note.
    pub(super) note: String,
}

impl Told {
    /// Reads a note without checking its signatures.
    pub(super) fn read(note: String) -> Option<Self> {
        let mut lines = note.lines();
        let origin = lines.next()?.to_owned();
        let size = lines.next()?.parse().ok()?;
        Some(Self { origin, size, note })
    }
}

/// The log of a server.
pub(in crate::cli) struct Remote {
    session: Session,
}

impl Remote {
    pub(in crate::cli) fn of(server: &Server) -> Result<Self, AuditError> {
        let session = server.session()?;
        Ok(Self { session })
    }

    /// The newest checkpoint.
    pub(in crate::cli) async fn checkpoint(&self) -> Result<Told, AuditError> {
        let note = String::from_utf8(self.get("/v1/log/checkpoint").await?).ok();
        note.and_then(Told::read)
            .ok_or(AuditError::Log("its checkpoint is none"))
    }

    /// The keys that it says are its own.
    pub(super) async fn keys(&self) -> Result<Vec<NoteKey>, AuditError> {
        let text = String::from_utf8(self.get("/v1/log/keys").await?).unwrap_or_default();
        let keys = text.lines().map(str::parse).collect::<Result<_, _>>();
        keys.map_err(|_| AuditError::Log("a key of it is none"))
    }

    /// Some of the checkpoints of at least so many records, in order.
    pub(super) async fn checkpoints(&self, size: u64) -> Result<Vec<Told>, AuditError> {
        #[derive(serde::Deserialize)]
        struct Line {
            checkpoint: String,
        }
        let lines = self.get(&format!("/v1/log/checkpoints?size={size}")).await?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let line: Option<Line> = serde_json::from_slice(line).ok();
                line.and_then(|line| Told::read(line.checkpoint))
                    .ok_or(AuditError::Log("a checkpoint of it is none"))
            })
            .collect()
    }

    /// A tile's bytes, in a log of so many records.
    pub(super) async fn tile(&self, level: u32, index: u64, size: u64) -> Result<Vec<u8>, AuditError> {
        let width = tile::level_size(level, size)
            .saturating_sub(index.saturating_mul(WIDTH))
            .min(WIDTH);
        let content = Content::Hashes(level);
        let path = Path { content, index, width };
        let tile = self.get(&format!("/v1/log/tile/{path}")).await?;
        if tile.len() as u64 == width * 32 {
            Ok(tile)
        } else {
            Err(AuditError::Log("a tile of it is too short"))
        }
    }

    /// The hash above each span of leaves, in a log of so many records.
    pub(super) async fn hashes(&self, spans: &[Span], size: u64) -> Result<Vec<Digest>, AuditError> {
        let mut hashes = Vec::new();
        for span in spans {
            let mut subtrees = Vec::new();
            for run in span.nodes().into_iter().map(Run::under) {
                let tile = self.tile(run.level, run.tile, size).await?;
                subtrees.push(run.hash(&tile).ok_or(AuditError::Log("a tile of it is too short"))?);
            }
            hashes.push(root_above(&subtrees));
        }
        Ok(hashes)
    }

    /// The records of a bundle, in a log of so many, as lines.
    pub(in crate::cli) async fn records(&self, index: u64, size: u64) -> Result<Vec<Vec<u8>>, AuditError> {
        let width = size.saturating_sub(index.saturating_mul(WIDTH)).min(WIDTH);
        let content = Content::Entries;
        let path = Path { content, index, width };
        let bundle = self.get(&format!("/v1/log/tile/{path}")).await?;
        match tile::entries(&bundle) {
            Some(entries) if entries.len() as u64 == width => Ok(entries.into_iter().map(audit::line_of).collect()),
            _ => Err(AuditError::Log("a bundle of its records is not whole")),
        }
    }

    /// A receipt for a call.
    pub(super) async fn receipt(&self, call: &str) -> Result<Vec<u8>, AuditError> {
        self.get(&format!("/v1/receipts/{call}")).await
    }

    /// The note of the keys that sign policy; None if the server knows of none.
    pub(super) async fn policy_keys(&self) -> Result<Option<String>, AuditError> {
        self.find("/v1/log/policy/keys").await
    }

    /// A bundle, a state list or a page that was kept.
    pub(super) async fn kept(&self, kind: &str, name: &str) -> Result<Option<String>, AuditError> {
        self.find(&format!("/v1/log/policy/{kind}/{name}")).await
    }

    /// A text, if there is one.
    async fn find(&self, path: &str) -> Result<Option<String>, AuditError> {
        let answer = self
            .session
            .ask(Method::GET, path, None::<&()>, MAX_BUNDLE_BYTES)
            .await?;
        match answer.bytes()? {
            Ok(bytes) => match String::from_utf8(bytes.to_vec()) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(AuditError::Log("its policy is no text")),
            },
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, AuditError> {
        let answer = self
            .session
            .ask(Method::GET, path, None::<&()>, MAX_BUNDLE_BYTES)
            .await?;
        Ok(answer.bytes()??.to_vec())
    }
}

/// Reads a record that a server sent.
pub(in crate::cli) fn verified(line: &[u8]) -> Result<Verified<'_>, AuditError> {
    audit::verify_line(line).map_err(|_| AuditError::Log("a record of it is none"))
}
