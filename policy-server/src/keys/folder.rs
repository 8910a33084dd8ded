//! The folder of key files: private JWKs whose names begin with their kind.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use authz::identity::KeyId;

use super::{KeyError, KeyKind};
use crate::secret::{self, Readers};
use crate::signer::Signer;

/// Where key files are, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFolder {
    /// The folder.
    pub path: PathBuf,
    /// The server makes its first keys there. One that the configuration names is the operator's: a Secret, say.
    pub own: bool,
}

/// The keys of a folder.
pub type KeyFiles = BTreeMap<KeyKind, BTreeMap<KeyId, Arc<Signer>>>;

impl KeyFolder {
    /// Reads every key: `token.json`, `token-*.json`, `bundle.json`, `bundle-*.json`. Other names are not looked at.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, others may read it, or it holds no key.
    pub fn read(&self) -> Result<KeyFiles, KeyError> {
        let mut files = KeyFiles::new();
        for name in self.names()? {
            let Some(kind) = name.to_str().and_then(kind_of) else {
                continue;
            };
            let signer = Signer::read(&self.path.join(&name), self.readers())?;
            let signers = files.entry(kind).or_default();
            signers.insert(signer.public().kid().clone(), Arc::new(signer));
        }
        Ok(files)
    }

    /// Reads the keys that sign the log: `log.json`, `log-*.json`, in the order of their names.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn log_keys(&self) -> Result<Vec<Arc<Signer>>, KeyError> {
        let mut names = self.names()?;
        names.retain(|name| name.to_str().is_some_and(|name| begins_with(name, "log")));
        names.sort_unstable();
        let signers = names
            .iter()
            .map(|name| Signer::read(&self.path.join(name), self.readers()));
        Ok(signers.map(|signer| signer.map(Arc::new)).collect::<Result<_, _>>()?)
    }

    /// The names in the folder; none if it is the server's own and not there yet.
    fn names(&self) -> Result<Vec<OsString>, KeyError> {
        let failed = |source| KeyError::Folder {
            path: self.path.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.path) {
            Err(error) if self.own && error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        names.collect::<Result<_, _>>().map_err(failed)
    }

    /// The first key of a kind, under its short name; what is there already is taken.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn first(&self, kind: KeyKind) -> Result<Arc<Signer>, KeyError> {
        secret::make_private_folder(&self.path).map_err(crate::signer::SignerError::from)?;
        let path = self.path.join(format!("{kind}.json"));
        Ok(Arc::new(Signer::read_or_make(&path)?))
    }

    /// Makes another key of a kind.
    ///
    /// # Errors
    ///
    /// If it cannot be made: a mounted Secret is read only.
    pub fn make(&self, kind: KeyKind) -> Result<Arc<Signer>, KeyError> {
        Ok(Arc::new(Signer::make(&self.path, kind.as_str())?))
    }

    /// Kubernetes mounts a Secret so that a container which does not run as root reads it by its group.
    fn readers(&self) -> Readers {
        if self.own { Readers::Owner } else { Readers::Group }
    }
}

/// The kind that a file's name begins with.
fn kind_of(name: &str) -> Option<KeyKind> {
    KeyKind::ALL.into_iter().find(|kind| begins_with(name, kind.as_str()))
}

/// Whether a file is named `PREFIX.json` or `PREFIX-….json`.
fn begins_with(name: &str, prefix: &str) -> bool {
    let stem = name.strip_suffix(".json");
    let rest = stem.and_then(|stem| stem.strip_prefix(prefix));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn folder(path: &Path, own: bool) -> KeyFolder {
        KeyFolder {
            path: path.to_owned(),
            own,
        }
    }

    #[test]
    fn names_tell_the_kind() {
        for (name, kind) in [
            ("token.json", Some(KeyKind::Token)),
            ("token-2026.json", Some(KeyKind::Token)),
            ("bundle.json", Some(KeyKind::Bundle)),
            ("bundle-a.b.json", Some(KeyKind::Bundle)),
            ("tokens.json", None),
            ("token", None),
            ("token.json.7.new", None),
            ("..data", None),
        ] {
            assert_eq!(kind_of(name), kind, "{name}");
        }
    }

    #[test]
    fn keys_are_found_however_they_came_and_once_each() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(&place.path().join("keys"), true);
        assert!(folder.read().unwrap().is_empty(), "before the first start");
        let first = folder.first(KeyKind::Token).unwrap();
        assert_eq!(folder.first(KeyKind::Token).unwrap().kid(), first.kid());
        let second = folder.make(KeyKind::Token).unwrap();
        fs::copy(second.path(), folder.path.join("token-copy.json")).unwrap();
        let files = folder.read().unwrap();
        let tokens: Vec<&str> = files[&KeyKind::Token].keys().map(KeyId::as_str).collect();
        let mut made = [first.kid(), second.kid()];
        made.sort_unstable();
        assert_eq!(tokens, made);
        assert!(!files.contains_key(&KeyKind::Bundle));
    }

    #[test]
    fn a_mounted_key_may_be_read_by_its_group_and_one_of_our_own_may_not() {
        let place = tempfile::tempdir().unwrap();
        let own = folder(place.path(), true);
        let mounted = folder(place.path(), false);
        let path = own.make(KeyKind::Bundle).unwrap().path().to_owned();
        for (mode, own_is_read, mounted_is_read) in [
            (0o600, true, true),
            (0o440, false, true),
            (0o444, false, false),
            (0o660, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(own.read().is_ok(), own_is_read, "{mode:o}");
            assert_eq!(mounted.read().is_ok(), mounted_is_read, "{mode:o}");
        }
    }

    #[test]
    fn a_named_folder_that_is_not_there_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("nowhere");
        assert!(folder(&path, true).read().unwrap().is_empty());
        assert!(matches!(folder(&path, false).read(), Err(KeyError::Folder { .. })));
    }
}
