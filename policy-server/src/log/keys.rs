//! The keys that sign the log: files like those of the other keys, named `log.json` and `log-*.json`.
//!
//! All that are there sign every checkpoint, so that a key rotates with overlap by putting the next one beside it, and
//! taking the old one away once every auditor has the new one.

use std::path::Path;
use std::sync::Arc;

use authz::identity::SpiffeId;
use authz::jwks::PublicKey;
use authz::log::note::{self, NoteKey};

use super::LogError;
use crate::keys::KeyError;
use crate::keys::folder::KeyFolder;
use crate::signer::Signer;

/// A key of the log.
#[derive(Debug)]
pub struct LogKey {
    signer: Arc<Signer>,
    public: NoteKey,
}

impl LogKey {
    /// Binds a key to the log's name.
    ///
    /// # Errors
    ///
    /// If the two make no key of a log.
    pub fn new(signer: Arc<Signer>, origin: &str) -> Result<Self, LogError> {
        let PublicKey::Ed25519(public) = signer.public().key() else {
            return Err(note::KeyError::Algorithm.into());
        };
        let public = NoteKey::new(origin, public)?;
        Ok(Self { signer, public })
    }

    /// The public half, which auditors have from elsewhere than the log.
    pub fn public(&self) -> &NoteKey {
        &self.public
    }

    /// Both lines by which it signs a text: without and with the time.
    pub(super) fn lines(&self, text: &str, seconds: u64) -> [String; 2] {
        let plain = self.signer.sign_bytes(text.as_bytes());
        let timed = self.signer.sign_bytes(&note::timed(seconds, text));
        [self.public.line(&plain), self.public.timed_line(seconds, &timed)]
    }
}

/// The log's name: the server's identity without its scheme, as C2SP asks.
pub fn origin(identity: &SpiffeId) -> String {
    let text = identity.as_str();
    text.strip_prefix("spiffe://").unwrap_or(text).to_owned()
}

/// Reads the log's keys, and makes the first if there is none.
///
/// A folder that the operator names may be read only, a mounted Secret. If it has no key for the log, the log's key is
/// kept with its records, in the data folder.
///
/// # Errors
///
/// If a key cannot be read or made.
pub fn open(folder: &KeyFolder, data: &Path, origin: &str) -> Result<Vec<LogKey>, LogError> {
    let mut signers = read(folder, data)?;
    if signers.is_empty() {
        let own = if folder.own { folder.path.as_path() } else { data };
        crate::secret::make_private_folder(own)
            .map_err(|error| KeyError::from(crate::signer::SignerError::from(error)))?;
        let first = Signer::read_or_make(&own.join("log.json")).map_err(KeyError::from)?;
        signers.push(Arc::new(first));
    }
    signers.into_iter().map(|signer| LogKey::new(signer, origin)).collect()
}

/// Reads the log's keys as far as there are any.
///
/// # Errors
///
/// If a key cannot be read.
pub fn read(folder: &KeyFolder, data: &Path) -> Result<Vec<Arc<Signer>>, LogError> {
    let signers = folder.log_keys()?;
    let beside = data.join("log.json");
    if signers.is_empty() && !folder.own && beside.exists() {
        let signer = Signer::read(&beside, crate::secret::Readers::Owner).map_err(KeyError::from)?;
        return Ok(vec![Arc::new(signer)]);
    }
    Ok(signers)
}
