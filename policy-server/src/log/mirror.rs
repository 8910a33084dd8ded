//! A second place for checkpoints, a folder: on another disk, in somebody else's hands, or one that only takes new files.
//!
//! `checkpoint` is the newest; `checkpoints/SECONDS-SIZE` keeps one an hour. Whoever rolls the log back must change both
//! places, and in a folder that keeps what was written cannot.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use authz::log::checkpoint::SignedCheckpoint;
use authz::log::note::{MAX_NOTE_BYTES, NoteKey};

use crate::store::{StoredCheckpoint, TreeHead};

/// How far apart the checkpoints are that are kept for good.
const KEEP_EVERY_SECONDS: u64 = 3600;

/// Why the mirror cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The file system failed.
    #[error("cannot use `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// None of the log's keys signed what is there.
    #[error("the newest checkpoint there is not of this log")]
    Foreign,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Mirror {
    folder: PathBuf,
}

impl Mirror {
    /// A mirror in a folder, which is made when it is first written to.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of the newest checkpoint.
    pub fn newest(&self) -> PathBuf {
        self.folder.join("checkpoint")
    }

    /// The tree that the newest checkpoint signs, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or none of these keys signed it.
    pub async fn read(&self, keys: &[NoteKey]) -> Result<Option<TreeHead>, MirrorError> {
        let path = self.newest();
        let read = blocking(path.clone(), {
            let path = path.clone();
            move || fs::read(&path)
        });
        let note = match read.await {
            Err(MirrorError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let note = String::from_utf8(note).map_err(|_| MirrorError::Foreign)?;
        let sound = note.len() <= MAX_NOTE_BYTES;
        match SignedCheckpoint::verify(&note, keys) {
            Ok(signed) if sound => Ok(Some(TreeHead {
                size: signed.checkpoint.size,
                root: signed.checkpoint.root,
            })),
            _ => Err(MirrorError::Foreign),
        }
    }

    /// Puts a checkpoint there; it is durable when this returns.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written to.
    pub async fn write(&self, checkpoint: &StoredCheckpoint) -> Result<(), MirrorError> {
        let (newest, kept) = (self.newest(), self.folder.join("checkpoints"));
        let checkpoint = checkpoint.clone();
        blocking(self.folder.clone(), move || {
            fs::create_dir_all(&kept)?;
            replace(&newest, &checkpoint.note)?;
            let hour = checkpoint.seconds / KEEP_EVERY_SECONDS * KEEP_EVERY_SECONDS;
            keep(&kept, hour, &checkpoint)
        })
        .await
    }
}

/// Runs on a thread that may wait for a disk: a mirror may be a network's.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, MirrorError> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| MirrorError::Io { path, source })
}

/// Writes beside and renames: a reader finds the old or the new one, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    write_durably(&draft, text)?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Keeps the first checkpoint of an hour.
fn keep(folder: &Path, hour: u64, checkpoint: &StoredCheckpoint) -> io::Result<()> {
    let prefix = format!("{hour}-");
    for entry in fs::read_dir(folder)? {
        if entry?.file_name().to_string_lossy().starts_with(&prefix) {
            return Ok(());
        }
    }
    let name = format!("{prefix}{}", checkpoint.head.size);
    write_durably(&folder.join(name), &checkpoint.note)?;
    File::open(folder)?.sync_all()
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
