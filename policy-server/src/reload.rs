//! Reads the policy files again when they change.
//!
//! The folder is looked at every second: names, inodes, sizes and times of its files, which also sees the exchanged
//! symbolic links by which Kubernetes updates a mounted ConfigMap. Files that are wrong change nothing but what the
//! log, `/readyz` and the metrics say: the last good policy stays in force.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use authz::manifest::Mesh;
use authz::policy::Mode;
use tokio::sync::watch;

use crate::app::{App, PolicyStatus};
use crate::policy;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The most problems that `/readyz` shows.
pub(crate) const SHOWN_PROBLEMS: usize = 10;

/// Files deeper than this are not looked at.
const MAX_DEPTH: usize = 8;

/// One file as the last look saw it.
type Seen = (PathBuf, [i128; 6]);

/// Looks at the policy folder and puts what changed in force.
#[derive(Debug)]
pub struct Watcher {
    folder: PathBuf,
    seen: Option<Vec<Seen>>,
}

impl Watcher {
    /// A watcher that has seen nothing yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            seen: None,
        }
    }

    /// Looks every second until the server stops.
    pub async fn run(mut self, app: Arc<App>, mut stop: watch::Receiver<bool>) {
        while tokio::time::timeout(LOOK_EVERY, stop.wait_for(|stop| *stop))
            .await
            .is_err()
        {
            self.look(&app).await;
        }
    }

    /// Looks once: reads the files if they changed since the last look.
    pub async fn look(&mut self, app: &App) {
        let folder = self.folder.clone();
        let Ok(seen) = tokio::task::spawn_blocking(move || look_at(&folder)).await else {
            return;
        };
        if self.seen.as_ref() == Some(&seen) {
            return;
        }
        // Noted before reading: what changes while the files are read is seen by the next look.
        self.seen = Some(seen);
        let folder = self.folder.clone();
        let trust_domain = app.config.trust_domain.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || policy::load(&folder, &trust_domain)).await else {
            return;
        };
        let status = settle(app, loaded, &self.folder.display());
        app.set_policy_status(status);
    }
}

/// Puts what was read in force; or keeps the last good policy, and says why.
pub(crate) fn settle(app: &App, loaded: Result<Mesh, Vec<String>>, source: &dyn Display) -> PolicyStatus {
    match loaded {
        Ok(mesh) => {
            let (agents, services) = (mesh.agents().len(), mesh.services().len());
            tracing::info!(agents, services, %source, "policy in force");
            for service in mesh.services().iter().filter(|service| service.mode == Mode::Shadow) {
                tracing::warn!(service = %service.id, "in shadow: what its rules deny goes on and is recorded");
            }
            app.metrics.reload("ok");
            app.metrics.policy_agents.set(agents.try_into().unwrap_or(i64::MAX));
            app.metrics.policy_services.set(services.try_into().unwrap_or(i64::MAX));
            app.feed.set_policy(mesh);
            PolicyStatus {
                current: true,
                problems: Vec::new(),
            }
        }
        Err(mut problems) => {
            for problem in &problems {
                tracing::error!(problem, "policy refused; the last good one stays in force");
            }
            app.metrics.reload("refused");
            problems.truncate(SHOWN_PROBLEMS);
            PolicyStatus {
                current: false,
                problems,
            }
        }
    }
}

fn look_at(folder: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    walk(folder, 0, &mut seen);
    seen.sort_unstable();
    seen
}

fn walk(folder: &Path, depth: usize, seen: &mut Vec<Seen>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Hidden names are editors' drafts and Kubernetes' own links; files are reached by their visible names.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, seen);
        } else if metadata.is_file() {
            let times = metadata.mtime() as i128 * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            let change = metadata.ctime() as i128 * 1_000_000_000 + i128::from(metadata.ctime_nsec());
            let numbers = [
                i128::from(metadata.dev()),
                i128::from(metadata.ino()),
                i128::from(metadata.len()),
                times,
                change,
                i128::from(metadata.mode()),
            ];
            seen.push((path, numbers));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_look_sees_changed_added_removed_and_exchanged_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::create_dir(file("agents")).unwrap();
        fs::write(file("agents/a.yaml"), "a").unwrap();
        let first = look_at(folder.path());
        assert_eq!(first.len(), 1);
        assert_eq!(look_at(folder.path()), first);
        fs::write(file("agents/a.yaml"), "bb").unwrap();
        let second = look_at(folder.path());
        assert_ne!(second, first);
        fs::write(file(".draft.yaml"), "x").unwrap();
        assert_eq!(look_at(folder.path()), second);
        fs::write(file("new.yaml"), "bb").unwrap();
        fs::rename(file("new.yaml"), file("agents/a.yaml")).unwrap();
        let third = look_at(folder.path());
        assert_ne!(third, second);
        fs::remove_file(file("agents/a.yaml")).unwrap();
        assert!(look_at(folder.path()).is_empty());
    }

    #[test]
    fn a_look_follows_the_links_of_a_mounted_config_map() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(file(version)).unwrap();
            fs::write(file(version).join("a.yaml"), version).unwrap();
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, file(name)).unwrap();
        link("..1", "..data");
        link("..data/a.yaml", "a.yaml");
        let first = look_at(folder.path());
        assert_eq!(first.len(), 1);
        link("..2", "..data_tmp");
        fs::rename(file("..data_tmp"), file("..data")).unwrap();
        assert_ne!(look_at(folder.path()), first);
    }
}
