//! Secret files: made once, with mode 0600, durable before they are used, and refused if others can read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A secret file is small; a longer one is not ours.
const MAX_SECRET_BYTES: u64 = 16 * 1024;

/// Why a secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Reading or writing failed.
    #[error("cannot use the secret file `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Group or others may read or write it: whoever could read it may still hold the secret.
    #[error("`{}` may be read by others (mode {mode:04o}); make a new secret or `chmod 600` it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not what belongs there.
    #[error("`{}` holds no usable secret: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        reason: &'static str,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

/// 256 random bits as text.
///
/// # Errors
///
/// If the operating system gives no random bytes.
pub fn random_text() -> Result<String, SecretError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(SecretError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Makes a folder that only its owner may enter, with its parents.
///
/// # Errors
///
/// If it cannot be made.
pub fn make_private_folder(path: &Path) -> Result<(), SecretError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error(path))
}

/// Reads a secret file; makes it first if it does not exist.
///
/// The new file appears whole or not at all and is durable when this returns. If two processes make it at once, both
/// return what the first one made.
///
/// # Errors
///
/// If the file cannot be read or made, is no ordinary file, or others may read it.
pub fn read_or_create(
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, SecretError>,
) -> Result<Vec<u8>, SecretError> {
    match read(path) {
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    create(path, &make()?).map_err(io_error(path))?;
    tracing::info!(path = %path.display(), "made a new secret file");
    read(path)
}

/// Who may read a secret file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Its owner.
    Owner,
    /// Its owner and its group, who may not write it: as Kubernetes mounts a Secret for a container that is not root.
    Group,
}

impl Readers {
    /// Permission bits that let in somebody else.
    fn exposing(self) -> u32 {
        match self {
            Self::Owner => 0o077,
            Self::Group => 0o037,
        }
    }
}

/// Reads a secret file that its owner alone may read.
///
/// # Errors
///
/// As [`read_by`].
pub fn read(path: &Path) -> Result<Vec<u8>, SecretError> {
    read_by(path, Readers::Owner)
}

/// Reads a secret file that nobody but `readers` may read.
///
/// # Errors
///
/// If the file cannot be read, is no ordinary file, or others may read it.
pub fn read_by(path: &Path, readers: Readers) -> Result<Vec<u8>, SecretError> {
    let file = File::open(path).map_err(io_error(path))?;
    let metadata = file.metadata().map_err(io_error(path))?;
    if !metadata.is_file() {
        return Err(SecretError::Invalid {
            path: path.to_owned(),
            reason: "not an ordinary file",
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & readers.exposing() != 0 {
        return Err(SecretError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut content = Vec::new();
    file.take(MAX_SECRET_BYTES)
        .read_to_end(&mut content)
        .map_err(io_error(path))?;
    Ok(content)
}

/// Writes beside, makes durable, then links into place: a link never replaces a secret that is already there.
fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let _ = fs::remove_file(&draft);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let _ = fs::remove_file(&draft);
    written?;
    File::open(folder)?.sync_all()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::Io { path, source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert_eq!(read_or_create(&path, || Ok(b"first".to_vec())).unwrap(), b"first");
        assert_eq!(read_or_create(&path, || Ok(b"second".to_vec())).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        read_or_create(&path, || Ok(b"x".to_vec())).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(SecretError::Exposed { mode: seen, .. }) if seen == mode));
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(
            read(&path),
            Err(SecretError::Invalid { .. } | SecretError::Io { .. })
        ));
    }
}
