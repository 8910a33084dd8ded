//! Keys take turns: the next one is published, signs once every live source knows it, and the old one stays published
//! until nothing that it signed can be alive.
//!
//! Each step is one transaction, and what is to be done next follows from the database alone: whoever asks again after
//! a crash goes on where it was.
//!
//! A source that first appears after the check and does not know the key that signs denies every call, and is told of
//! by log, metric and `ostiary keys show`. It is not served with the old key instead: then the old key would sign on,
//! beside the new one, for as long as any sidecar anywhere had a stale configuration.

use std::sync::Arc;
use std::time::Duration;

use authz::identity::KeyId;
use authz::policy::Version;
use authz::token::SKEW_SECONDS;
use serde::Serialize;
use tokio::sync::watch;

use super::known::{Known, Lacking, deciding_by_older, known};
use super::ring::InForce;
use super::{KeyError, KeyKind, KeyState};
use crate::app::App;
use crate::store::{KeyChange, StoredKey};

/// How often keys are looked at whose time may be over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not every live source knows the next key.
    Waiting,
    /// The next key would sign; only asked whether it would.
    Ready,
    /// The next key signs from now on.
    Switched,
    /// It has signed for a while, and the one before it is still retiring.
    Overlap,
}

/// What has become of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rotation {
    /// The kind of key.
    pub kind: KeyKind,
    /// How far it is.
    pub stage: Stage,
    /// The key that signs.
    pub signing: KeyId,
    /// The key that is next, if there is one.
    pub next: Option<KeyId>,
    /// The key that retires, and until when, in seconds.
    pub retiring: Option<(KeyId, u64)>,
    /// Who knows the next key; once it signs, who knows that.
    pub sources: Known,
}

/// What has become of a key that was to be retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retirement {
    /// The key.
    pub kid: KeyId,
    /// Its kind.
    pub kind: KeyKind,
    /// What it was for.
    pub was: KeyState,
    /// Whether its time is over now.
    pub retired: bool,
    /// The key of its kind that signs.
    pub signing: KeyId,
    /// At most so many tokens that have not expired die with it.
    pub tokens: u64,
    /// Sources that deny until they have learnt another key.
    pub lacking: Vec<Lacking>,
}

/// Takes a rotation as far as it goes now: publishes the next key, and lets it sign if every live source knows it.
///
/// While an earlier key of the kind retires there is nothing to do: asking again does not rotate again.
///
/// # Errors
///
/// If there is no next key and none can be made, or the database fails.
pub async fn rotate(app: &App, kind: KeyKind, dry_run: bool, by: &str) -> Result<Rotation, KeyError> {
    let _alone = app.key_changes.lock().await;
    let in_force = app.keys.reload().await?;
    if in_force.key(kind, KeyState::Retiring).is_some() {
        return Ok(rotation(app, &in_force, kind, Stage::Overlap));
    }
    if dry_run {
        let ready = known(app, &in_force, kind, next_or_spare(&in_force, kind).as_ref()).by_all();
        let stage = if ready { Stage::Ready } else { Stage::Waiting };
        return Ok(rotation(app, &in_force, kind, stage));
    }
    let in_force = publish(app, kind, by).await?;
    let next = in_force.key(kind, KeyState::Next);
    let Some(next) = next.filter(|_| known(app, &in_force, kind, next).by_all()) else {
        return Ok(rotation(app, &in_force, kind, Stage::Waiting));
    };
    let in_force = switch(app, &in_force, next, by).await?;
    Ok(rotation(app, &in_force, kind, Stage::Switched))
}

/// Ends a key's time before nothing that it signed can be alive. Only with `now` does it do so if something breaks.
///
/// The key that signs gives way to the next at once.
///
/// # Errors
///
/// If there is no such key, nothing can take its place, or the database fails.
pub async fn retire(app: &App, kid: &KeyId, now: bool, by: &str) -> Result<Retirement, KeyError> {
    let _alone = app.key_changes.lock().await;
    let mut in_force = app.keys.reload().await?;
    let key = in_force.key_with_id(kid.as_str());
    let key = key.ok_or_else(|| KeyError::Unknown(kid.clone()))?.clone();
    let (tokens, lacking) = breaks(app, &in_force, &key).await?;
    let harmless = tokens == 0 && lacking.is_empty() && key.state != KeyState::Signing;
    let retired = key.state == KeyState::Retired || now || harmless;
    if retired && key.state != KeyState::Retired {
        in_force = take_away(app, key.clone(), by).await?;
    }
    Ok(Retirement {
        kid: key.kid().clone(),
        kind: key.kind,
        was: key.state,
        retired,
        signing: signing(&in_force, key.kind).clone(),
        tokens,
        lacking,
    })
}

/// Ends the time of retiring keys when it is over, until the server stops.
pub async fn end_overlaps(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    while tokio::time::timeout(LOOK_EVERY, stop.wait_for(|stop| *stop))
        .await
        .is_err()
    {
        if let Err(error) = app.feed.settle_keys().await {
            app.metrics.store_failures.inc();
            tracing::error!(%error, "it is not known what became of a change of keys");
        }
        let over = |key: &&StoredKey| key.state == KeyState::Retiring && key.until <= Some(app.clock.seconds());
        let over: Vec<StoredKey> = app.keys.in_force().stored().iter().filter(over).cloned().collect();
        for key in over {
            let _alone = app.key_changes.lock().await;
            if let Err(error) = take_away(&app, key, "its time is over").await {
                app.metrics.store_failures.inc();
                tracing::error!(%error, "a key could not be retired");
            }
        }
    }
}

/// Makes sure that there is a next key, and that it is published.
async fn publish(app: &App, kind: KeyKind, by: &str) -> Result<Arc<InForce>, KeyError> {
    let in_force = app.keys.in_force();
    if let Some(next) = in_force.key(kind, KeyState::Next) {
        if in_force.signer(kind, next.kid()).is_none() {
            return Err(KeyError::NextLost {
                kind,
                kid: next.kid().clone(),
                path: app.keys.folder().path.clone(),
            });
        }
        return Ok(in_force);
    }
    let signer = match in_force.spare(kind).next() {
        Some(signer) => Arc::clone(signer),
        None => app.keys.folder().make(kind)?,
    };
    let next = KeyChange {
        key: StoredKey {
            kind,
            state: KeyState::Next,
            public: signer.public().clone(),
            since: app.clock.seconds(),
            until: None,
            from: Version { epoch: 0, counter: 0 },
        },
        from_now: kind == KeyKind::Token,
    };
    tracing::warn!(%kind, kid = signer.kid(), by, "a key is next");
    app.feed.change_keys(&[next]).await
}

/// Lets the next key sign, and the old one retire, in one step.
async fn switch(app: &App, in_force: &InForce, next: &StoredKey, by: &str) -> Result<Arc<InForce>, KeyError> {
    let (kind, now) = (next.kind, app.clock.seconds());
    let until = nothing_lives_from(app, kind, now).await?;
    let mut changes = Vec::new();
    if let Some(old) = in_force.key(kind, KeyState::Signing) {
        changes.push(KeyChange {
            key: StoredKey {
                state: KeyState::Retiring,
                since: now,
                until: Some(until),
                ..old.clone()
            },
            from_now: false,
        });
    }
    changes.push(signs(next, now));
    tracing::warn!(%kind, kid = %next.kid(), by, until, "a key signs from now on, and the one before it retires");
    app.feed.change_keys(&changes).await
}

fn signs(next: &StoredKey, now: u64) -> KeyChange {
    KeyChange {
        key: StoredKey {
            state: KeyState::Signing,
            since: now,
            ..next.clone()
        },
        from_now: next.kind == KeyKind::Bundle,
    }
}

/// When nothing that a key has signed up to now can be alive any more.
async fn nothing_lives_from(app: &App, kind: KeyKind, now: u64) -> Result<u64, KeyError> {
    let config = &app.config;
    Ok(match kind {
        KeyKind::Token => {
            // The longest lifetime may have been longer when the last tokens were issued.
            let stored = app.store().live_tokens(now, now).await?.last_expires_at;
            let latest = now
                .saturating_add(config.token_max_ttl_seconds)
                .max(stored.unwrap_or(0));
            // Once for the sidecars' clocks, once for tokens that are signed while this is being stored.
            latest.saturating_add(2 * SKEW_SECONDS)
        }
        KeyKind::Bundle => now.saturating_add(config.bundle_lifetime_seconds.max(config.state_max_age_seconds)),
    })
}

/// Ends a key's time; one that signs gives way to the next.
async fn take_away(app: &App, key: StoredKey, by: &str) -> Result<Arc<InForce>, KeyError> {
    let now = app.clock.seconds();
    let mut after = Vec::new();
    if key.state == KeyState::Signing {
        let in_force = publish(app, key.kind, by).await?;
        after.extend(in_force.key(key.kind, KeyState::Next).map(|next| signs(next, now)));
    }
    tracing::warn!(kind = %key.kind, kid = %key.kid(), by, "a key is retired");
    let mut changes = vec![KeyChange {
        key: StoredKey {
            state: KeyState::Retired,
            since: now,
            until: None,
            ..key
        },
        from_now: false,
    }];
    changes.extend(after);
    app.feed.change_keys(&changes).await
}

/// What breaks when a key's time ends now: tokens that die, and sources that deny.
async fn breaks(app: &App, in_force: &InForce, key: &StoredKey) -> Result<(u64, Vec<Lacking>), KeyError> {
    let now = app.clock.seconds();
    // What it signed in its last second counts; sidecars accept a token for the skew longer.
    let tokens = async |issued_by| {
        let live = app.store().live_tokens(now.saturating_sub(SKEW_SECONDS), issued_by);
        Ok::<_, KeyError>(live.await?.count)
    };
    Ok(match (key.state, key.kind) {
        (KeyState::Next | KeyState::Retired, _) => (0, Vec::new()),
        (KeyState::Retiring, KeyKind::Token) => (tokens(key.since).await?, Vec::new()),
        (KeyState::Retiring, KeyKind::Bundle) => (0, deciding_by_older(app, in_force)),
        (KeyState::Signing, kind) => {
            let next = next_or_spare(in_force, kind);
            let lacking = known(app, in_force, kind, next.as_ref()).lacking;
            match kind {
                KeyKind::Token => (tokens(now).await?, lacking),
                KeyKind::Bundle => (0, lacking),
            }
        }
    })
}

/// The next key, or the one that would become it.
fn next_or_spare(in_force: &InForce, kind: KeyKind) -> Option<StoredKey> {
    let next = in_force.key(kind, KeyState::Next).cloned();
    next.or_else(|| {
        in_force.spare(kind).next().map(|signer| StoredKey {
            kind,
            state: KeyState::Next,
            public: signer.public().clone(),
            since: u64::MAX,
            until: None,
            // No bundle names it yet.
            from: Version {
                epoch: u64::MAX,
                counter: u64::MAX,
            },
        })
    })
}

fn rotation(app: &App, in_force: &InForce, kind: KeyKind, stage: Stage) -> Rotation {
    let next = next_or_spare(in_force, kind);
    let subject = match stage {
        Stage::Waiting | Stage::Ready => next.clone(),
        Stage::Switched | Stage::Overlap => in_force.key(kind, KeyState::Signing).cloned(),
    };
    let retiring = in_force.key(kind, KeyState::Retiring);
    Rotation {
        kind,
        stage,
        signing: signing(in_force, kind).clone(),
        next: next.map(|next| next.kid().clone()),
        retiring: retiring.map(|key| (key.kid().clone(), key.until.unwrap_or(0))),
        sources: known(app, in_force, kind, subject.as_ref()),
    }
}

fn signing(in_force: &InForce, kind: KeyKind) -> &KeyId {
    match kind {
        KeyKind::Token => in_force.token.public().kid(),
        KeyKind::Bundle => in_force.bundle.public().kid(),
    }
}
