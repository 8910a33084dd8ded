//! Which files a path stands for.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{LoadError, MAX_FILE_BYTES, MAX_FILES};

/// A policy folder has a folder a team, perhaps one a cluster; a deeper one is a loop or a mistake.
const MAX_FOLDER_DEPTH: usize = 16;

/// The files found, and what was found but not taken.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) refused: Vec<Refused>,
    seen: HashSet<PathBuf>,
}

/// Something in the folder that looks like a policy file and is none.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) path: PathBuf,
    pub(super) message: String,
    pub(super) advice: &'static str,
}

/// Finds the `*.yaml` and `*.yml` files under each path, sorted; a path to a file stands for that file.
///
/// Names that begin with a dot are skipped, as editors leave such files, and so does a mounted ConfigMap
/// (`..data`): its visible files are symbolic links to there, which are taken because they stay inside.
///
/// # Errors
///
/// If a path cannot be read, or there are more than [`MAX_FILES`] files.
pub(super) fn walk(paths: &[PathBuf]) -> Result<Found, LoadError> {
    let mut found = Found::default();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|error| LoadError::unreadable(path, error))?;
        if metadata.is_dir() {
            let root = path
                .canonicalize()
                .map_err(|error| LoadError::unreadable(path, error))?;
            folder(path, &root, 0, &mut found)?;
        } else {
            found.take(path.clone())?;
        }
    }
    Ok(found)
}

impl Found {
    fn take(&mut self, path: PathBuf) -> Result<(), LoadError> {
        if self.files.len() >= MAX_FILES {
            return Err(LoadError::TooManyFiles);
        }
        if self.seen.insert(path.clone()) {
            self.files.push(path);
        }
        Ok(())
    }

    fn refuse(&mut self, path: PathBuf, message: impl Into<String>, advice: &'static str) {
        self.refused.push(Refused {
            path,
            message: message.into(),
            advice,
        });
    }
}

fn folder(path: &Path, root: &Path, depth: usize, found: &mut Found) -> Result<(), LoadError> {
    if depth > MAX_FOLDER_DEPTH {
        found.refuse(
            path.to_owned(),
            format!("more than {MAX_FOLDER_DEPTH} folders deep"),
            "a flatter folder",
        );
        return Ok(());
    }
    let unreadable = |error| LoadError::unreadable(path, error);
    let mut entries = fs::read_dir(path)
        .map_err(unreadable)?
        .collect::<io::Result<Vec<_>>>()
        .map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(|error| LoadError::unreadable(&path, error))?;
        if kind.is_dir() {
            folder(&path, root, depth + 1, found)?;
        } else if !(is_yaml(&path) || (kind.is_symlink() && path.is_dir())) {
            continue;
        } else if kind.is_file() {
            found.take(path)?;
        } else if kind.is_symlink() {
            link(path, root, found)?;
        } else {
            found.refuse(path, "this is not a regular file", "an ordinary file");
        }
    }
    Ok(())
}

/// A link out of the folder would let whoever may write here read files with the server's rights.
fn link(path: PathBuf, root: &Path, found: &mut Found) -> Result<(), LoadError> {
    match path.canonicalize() {
        Ok(target) if !target.starts_with(root) => {
            found.refuse(
                path,
                "this symbolic link leads out of the folder and is not followed",
                "the file itself",
            );
        }
        Ok(target) if target.is_file() => found.take(path)?,
        Ok(_) => found.refuse(path, "a symbolic link to a folder is not followed", "the folder itself"),
        Err(_) => found.refuse(path, "this symbolic link leads nowhere", "the file itself, or nothing"),
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Reads a file whole, if it is a regular file of at most [`MAX_FILE_BYTES`] and UTF-8.
pub(super) fn read(path: &Path) -> Result<String, ReadError> {
    let file = fs::File::open(path).map_err(ReadError::Io)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(ReadError::Io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLong);
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().iter().take(valid);
        let line = 1 + before.clone().filter(|byte| **byte == b'\n').count();
        let column = 1 + before
            .rev()
            .take_while(|byte| **byte != b'\n')
            .filter(|byte| (**byte & 0xC0) != 0x80)
            .count();
        ReadError::NotUtf8 { line, column }
    })
}

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    TooLong,
    NotUtf8 { line: usize, column: usize },
}
