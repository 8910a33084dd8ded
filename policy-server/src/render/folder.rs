//! The folder that rendered files are committed in.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Files, HEADER};

/// A file of the folder that is not as it would be rendered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// The file, below the folder.
    pub file: String,
    /// What is the matter with it.
    pub kind: ChangeKind,
}

/// How a file differs from what would be rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is not there.
    Missing,
    /// It says something else.
    Differs,
    /// It was rendered once, and nothing renders it now.
    LeftOver,
}

/// Why a folder could not be compared or written.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file or folder cannot be read or written.
    #[error("cannot read or write `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is something else where a rendered file or its folder belongs.
    #[error("`{}` was not rendered and is in the way: move it", .0.display())]
    Foreign(PathBuf),
}

/// What would change if `files` were written to `folder`, sorted.
///
/// # Errors
///
/// If the folder cannot be read, or holds something else under the name of a rendered file.
pub fn compare(folder: &Path, files: &Files) -> Result<Vec<Change>, FolderError> {
    let mut changes = Vec::new();
    let change = |file: &str, kind| Change {
        file: file.to_owned(),
        kind,
    };
    for (file, text) in files {
        match rendered(folder, file)? {
            None => changes.push(change(file, ChangeKind::Missing)),
            Some(found) if found != text.as_bytes() => changes.push(change(file, ChangeKind::Differs)),
            Some(_) => {}
        }
    }
    for file in existing(folder)? {
        if !files.contains_key(&file) {
            changes.push(change(&file, ChangeKind::LeftOver));
        }
    }
    changes.sort_unstable();
    Ok(changes)
}

/// Makes `folder` hold `files` and no other rendered ones, and says what was changed. Files that were not rendered stay.
///
/// # Errors
///
/// As [`compare`], before anything is written; or if a file cannot be written, with those before it already changed.
pub fn write(folder: &Path, files: &Files) -> Result<Vec<Change>, FolderError> {
    let changes = compare(folder, files)?;
    for Change { file, .. } in &changes {
        let path = folder.join(file);
        let failed = |source| FolderError::Io {
            path: path.clone(),
            source,
        };
        match files.get(file) {
            Some(text) => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(failed)?;
                }
                fs::write(&path, text).map_err(failed)?;
            }
            None => fs::remove_file(&path).map_err(failed)?,
        }
    }
    Ok(changes)
}

/// What a rendered file holds, if it is there.
fn rendered(folder: &Path, file: &str) -> Result<Option<Vec<u8>>, FolderError> {
    let path = folder.join(file);
    let parent = path.parent().filter(|parent| *parent != folder);
    // A link would have the file written wherever it leads.
    for (place, is_expected) in parent
        .map(|parent| (parent, fs::FileType::is_dir as fn(&fs::FileType) -> bool))
        .into_iter()
        .chain([(path.as_path(), fs::FileType::is_file as _)])
    {
        match fs::symlink_metadata(place) {
            Ok(metadata) if is_expected(&metadata.file_type()) => {}
            Ok(_) => return Err(FolderError::Foreign(place.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = place.to_owned();
                return Err(FolderError::Io { path, source });
            }
        }
    }
    let text = fs::read(&path).map_err(|source| FolderError::Io {
        path: path.clone(),
        source,
    })?;
    if is_rendered(&text) {
        Ok(Some(text))
    } else {
        Err(FolderError::Foreign(path))
    }
}

fn is_rendered(text: &[u8]) -> bool {
    text.strip_prefix(HEADER.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"\n"))
}

/// The rendered files of a folder and of the folders in it.
fn existing(folder: &Path) -> Result<BTreeSet<String>, FolderError> {
    let mut files = BTreeSet::new();
    for (name, kind) in entries(folder)? {
        if kind.is_file() {
            take(folder, name, &mut files)?;
        } else if kind.is_dir() {
            for (within, kind) in entries(&folder.join(&name))? {
                if kind.is_file() {
                    take(folder, format!("{name}/{within}"), &mut files)?;
                }
            }
        }
    }
    Ok(files)
}

fn take(folder: &Path, file: String, files: &mut BTreeSet<String>) -> Result<(), FolderError> {
    if !file.ends_with(".yaml") {
        return Ok(());
    }
    let path = folder.join(&file);
    let text = fs::read(&path).map_err(|source| FolderError::Io { path, source })?;
    if is_rendered(&text) {
        files.insert(file);
    }
    Ok(())
}

/// Names that are not UTF-8 were not rendered.
fn entries(folder: &Path) -> Result<Vec<(String, fs::FileType)>, FolderError> {
    let failed = |source| FolderError::Io {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.file_type().map_err(failed)?));
        }
    }
    Ok(found)
}
