//! The keys in force: what the database says of them, joined with their files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use authz::identity::{KeyId, SpiffeId};
use authz::jwks::{Jwk, Jwks};
use authz::policy::Version;
use authz::session::{MAX_SESSION_KEYS, SessionKey};

use super::folder::{KeyFiles, KeyFolder};
use super::{KeyError, KeyKind, KeyState};
use crate::signer::Signer;
use crate::store::{KeyChange, Store, StoredKey};

/// Keeps keys of sessions apart from all else that is derived of a key.
const SESSION_DOMAIN: &str = "ostiary session keys 1";

/// All keys as they are at one moment.
#[derive(Debug, Clone)]
pub struct InForce {
    /// Signs capability tokens.
    pub token: Arc<Signer>,
    /// Signs bundles and state lists.
    pub bundle: Arc<Signer>,
    /// The token keys that verifiers are told of, in an order that no change of state changes.
    pub published: Jwks,
    /// Grows with every change.
    pub generation: u64,
    stored: Vec<StoredKey>,
    files: KeyFiles,
}

impl InForce {
    fn new(stored: Vec<StoredKey>, files: KeyFiles, generation: u64, folder: &Path) -> Result<Self, KeyError> {
        let signer = |kind| {
            let key = stored
                .iter()
                .find(|key| key.kind == kind && key.state == KeyState::Signing);
            let key = key.ok_or_else(|| KeyError::None {
                kind,
                path: folder.to_owned(),
            })?;
            file(&files, kind, key.kid()).ok_or_else(|| KeyError::Lost {
                kind,
                kid: key.kid().clone(),
                path: folder.to_owned(),
            })
        };
        Ok(Self {
            token: signer(KeyKind::Token)?,
            bundle: signer(KeyKind::Bundle)?,
            published: published(&stored, KeyKind::Token)?,
            generation,
            stored,
            files,
        })
    }

    /// Every key that the database knows.
    pub fn stored(&self) -> &[StoredKey] {
        &self.stored
    }

    /// The key of a kind that is in a state.
    pub fn key(&self, kind: KeyKind, state: KeyState) -> Option<&StoredKey> {
        self.stored.iter().find(|key| key.kind == kind && key.state == state)
    }

    /// The key of an id.
    pub fn key_with_id(&self, kid: &str) -> Option<&StoredKey> {
        self.stored.iter().find(|key| key.kid().as_str() == kid)
    }

    /// The bundle key that signs bundles of this version.
    pub fn signer_of(&self, version: Version) -> Option<&StoredKey> {
        let signed = self.stored.iter().filter(|key| {
            key.kind == KeyKind::Bundle
                && matches!(key.state, KeyState::Signing | KeyState::Retiring | KeyState::Retired)
        });
        signed.filter(|key| key.from <= version).max_by_key(|key| key.from)
    }

    /// What seals ids of sessions at a workload, derived of the bundle keys: that of the one that signs seals, those of the
    /// ones that will or did open too. So they turn with the bundle keys, every replica of this server has the same, and they
    /// are new where a key was lost to somebody.
    pub fn session_keys(&self, workload: &SpiffeId) -> Vec<SessionKey> {
        let states = [KeyState::Signing, KeyState::Next, KeyState::Retiring];
        let keys = states.into_iter().flat_map(|state| {
            let keys = self.stored.iter();
            keys.filter(move |key| key.kind == KeyKind::Bundle && key.state == state)
        });
        // A key that signs no more may have no file any more.
        let signers = keys.filter_map(|key| self.signer(KeyKind::Bundle, key.kid()));
        let derived = signers.filter_map(|signer| signer.derive(SESSION_DOMAIN, workload.as_str()));
        derived.take(MAX_SESSION_KEYS).map(SessionKey::new).collect()
    }

    /// The private half of a key.
    pub fn signer(&self, kind: KeyKind, kid: &KeyId) -> Option<&Arc<Signer>> {
        self.files.get(&kind)?.get(kid)
    }

    /// The keys of a kind that have a file and have never been of use.
    pub fn spare(&self, kind: KeyKind) -> impl Iterator<Item = &Arc<Signer>> {
        let spare = self.files.get(&kind).into_iter().flatten();
        let spare = spare.filter(|(kid, _)| self.key_with_id(kid.as_str()).is_none());
        spare.map(|(_, signer)| signer)
    }
}

/// The keys of a kind that verifiers need.
///
/// # Errors
///
/// If there are too many.
pub fn published(stored: &[StoredKey], kind: KeyKind) -> Result<Jwks, KeyError> {
    let keys = stored.iter().filter(|key| key.kind == kind && key.state.is_published());
    let by_id: BTreeMap<&KeyId, &Jwk> = keys.map(|key| (key.kid(), &key.public)).collect();
    Ok(Jwks::new(by_id.into_values().cloned().collect())?)
}

fn file(files: &KeyFiles, kind: KeyKind, kid: &KeyId) -> Option<Arc<Signer>> {
    files.get(&kind)?.get(kid).cloned()
}

/// Hands out the keys in force, and changes them.
pub struct Keyring {
    folder: KeyFolder,
    store: Arc<dyn Store>,
    current: RwLock<Arc<InForce>>,
    /// A change was begun, and what is in force may not be what is stored.
    uncertain: AtomicBool,
}

impl Keyring {
    /// Reads files and database, and settles which keys sign: at the first start by their files.
    ///
    /// # Errors
    ///
    /// If keys or database cannot be used, or it is not clear which key signs.
    pub async fn open(folder: KeyFolder, store: Arc<dyn Store>, now: u64) -> Result<Self, KeyError> {
        let mut files = folder.read()?;
        let stored = store.keys().await?;
        let mut changes = Vec::new();
        for kind in KeyKind::ALL {
            let signs = match settle(kind, &files, &stored, &folder)? {
                Settled::Signs(_) => continue,
                Settled::Takes(signer) => signer,
                Settled::Nothing => folder.first(kind)?,
            };
            files
                .entry(kind)
                .or_default()
                .insert(signs.public().kid().clone(), Arc::clone(&signs));
            changes.extend(taking_over(kind, &signs, &stored, now));
        }
        if !changes.is_empty() {
            store.change_keys(&changes).await?;
        }
        let in_force = InForce::new(store.keys().await?, files, 1, &folder.path)?;
        Ok(Self {
            folder,
            store,
            current: RwLock::new(Arc::new(in_force)),
            uncertain: AtomicBool::new(false),
        })
    }

    /// The keys as they are now.
    pub fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The folder of the files.
    pub fn folder(&self) -> &KeyFolder {
        &self.folder
    }

    /// Reads files and database again: keys may have been added, or a change of which nobody heard have been stored.
    ///
    /// # Errors
    ///
    /// If either cannot be read, or the key that signs is gone; those in force stay.
    pub async fn reload(&self) -> Result<Arc<InForce>, KeyError> {
        let folder = self.folder.clone();
        let files = tokio::task::spawn_blocking(move || folder.read()).await;
        let files = files.map_err(|error| KeyError::Folder {
            path: self.folder.path.clone(),
            source: std::io::Error::other(error),
        })??;
        let stored = self.store.keys().await?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + u64::from(current.stored != stored);
        *current = Arc::new(InForce::new(stored, files, generation, &self.folder.path)?);
        self.uncertain.store(false, Ordering::Relaxed);
        Ok(Arc::clone(&current))
    }

    /// Reads again what a change left behind, if nobody could read it when it was made; says whether it had to.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    pub async fn settle(&self) -> Result<bool, KeyError> {
        let uncertain = self.uncertain.load(Ordering::Relaxed);
        if uncertain {
            self.reload().await?;
        }
        Ok(uncertain)
    }

    /// Stores changes and puts them in force.
    ///
    /// # Errors
    ///
    /// If the database fails. What it holds then is in force as soon as it can be read.
    pub async fn change(&self, changes: &[KeyChange]) -> Result<Arc<InForce>, KeyError> {
        self.uncertain.store(true, Ordering::Relaxed);
        let stored = self.store.change_keys(changes).await;
        let reloaded = self.reload().await;
        stored?;
        reloaded
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Which key of a kind signs.
#[derive(Debug)]
pub enum Settled {
    /// The one that the database names.
    Signs(Arc<Signer>),
    /// The only one that there is, though the database does not name it.
    Takes(Arc<Signer>),
    /// None: the first has to be made.
    Nothing,
}

/// Settles which key of a kind signs.
///
/// # Errors
///
/// If there is none, or several and the database names none of them.
pub fn settle(kind: KeyKind, files: &KeyFiles, stored: &[StoredKey], folder: &KeyFolder) -> Result<Settled, KeyError> {
    let signing = stored
        .iter()
        .find(|key| key.kind == kind && key.state == KeyState::Signing);
    if let Some(signer) = signing.and_then(|key| file(files, kind, key.kid())) {
        return Ok(Settled::Signs(signer));
    }
    let retired = |kid: &KeyId| {
        stored
            .iter()
            .any(|key| key.kid() == kid && key.state == KeyState::Retired)
    };
    let mut usable = files
        .get(&kind)
        .into_iter()
        .flatten()
        .filter(|(kid, _)| !retired(kid))
        .map(|(_, signer)| signer);
    match (usable.next(), usable.next(), signing) {
        (Some(only), None, _) => Ok(Settled::Takes(Arc::clone(only))),
        (Some(_), Some(_), Some(lost)) | (None, _, Some(lost)) => Err(KeyError::Lost {
            kind,
            kid: lost.kid().clone(),
            path: folder.path.clone(),
        }),
        (Some(_), Some(_), None) => Err(KeyError::Ambiguous {
            kind,
            path: folder.path.clone(),
        }),
        (None, _, None) if folder.own => Ok(Settled::Nothing),
        (None, _, None) => Err(KeyError::None {
            kind,
            path: folder.path.clone(),
        }),
    }
}

/// The changes by which a key signs that the database does not name, in the place of one that is lost.
fn taking_over(kind: KeyKind, signer: &Signer, stored: &[StoredKey], now: u64) -> Vec<KeyChange> {
    let lost = stored
        .iter()
        .find(|key| key.kind == kind && key.state == KeyState::Signing);
    if let Some(lost) = lost {
        tracing::warn!(%kind, lost = %lost.kid(), kid = signer.kid(), "the key that signed is gone; the only other one takes its place");
    }
    let known = stored.iter().find(|key| key.kid() == signer.public().kid());
    let retired = lost.map(|lost| KeyChange {
        key: StoredKey {
            state: KeyState::Retired,
            since: now,
            until: None,
            ..lost.clone()
        },
        from_now: false,
    });
    let signs = KeyChange {
        key: StoredKey {
            kind,
            state: KeyState::Signing,
            public: signer.public().clone(),
            since: now,
            until: None,
            from: known.map_or(Version { epoch: 0, counter: 0 }, |known| known.from),
        },
        // What was signed before belongs to the key that is lost; before the first start nothing was.
        from_now: lost.is_some() && (kind == KeyKind::Bundle || known.is_none()),
    };
    retired.into_iter().chain([signs]).collect()
}
