//! The index of user requests: a task that reads the log behind its writer and notes where each request's records are, and
//! which of the policy that is kept they name; what none names is deleted after a while.
//!
//! Filled in the transaction that accepts records, it would cost every call a random write. A task that gathers writes a few
//! times a second, in order, and a reader of a trace waits until the index has come as far as the log was when it asked:
//! an answer is never of a part that looks like all.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use authz::log::policy::Kind;
use authz::policy::Version;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::app::App;
use crate::store::StoreError;
use crate::store::trace::Traced;

/// Records looked at in one step: what accepts records waits for the transaction that notes them.
const RECORDS: u32 = 256;

/// How long records gather before the next step, unless somebody waits for them.
const GATHER: Duration = Duration::from_millis(500);

/// How long it waits when the database fails.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How long policy is kept that no record has named. A sidecar that was cut off may still send records that do.
const UNNAMED_SECONDS: u64 = 7 * 24 * 3600;

/// How often policy is looked for that is older.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// How far the index has come.
#[derive(Debug, Default)]
pub struct Traces {
    reached: watch::Sender<u64>,
    wake: Notify,
}

impl Traces {
    /// Waits until every record up to a position can be found, and says whether that came about in time.
    pub async fn reach(&self, position: u64, within: Duration) -> bool {
        let mut reached = self.reached.subscribe();
        self.wake.notify_one();
        let waited = tokio::time::timeout(within, reached.wait_for(|reached| *reached >= position));
        matches!(waited.await, Ok(Ok(_)))
    }
}

/// What the index is made of. Records were verified before they were stored.
#[derive(Deserialize)]
struct Named<'a> {
    txn: Option<String>,
    #[serde(borrow, default)]
    bundle: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    state: Option<Cow<'a, str>>,
}

impl Named<'_> {
    fn policy(&self) -> impl Iterator<Item = (Kind, Version)> {
        let bundle = self.bundle.as_deref().map(|version| (Kind::Bundle, version));
        let state = self.state.as_deref().map(|version| (Kind::State, version));
        let named = bundle.into_iter().chain(state);
        named.filter_map(|(kind, version)| Some((kind, Version::parse(version).ok()?)))
    }
}

/// Fills the index until the server stops.
pub(crate) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut position = None;
    let mut forgotten_at = None;
    loop {
        let began = Instant::now();
        let pause = match step(&app, &mut position).await {
            // There may be more. It is half the time that is taken, and the other half is for those who accept records.
            Ok(true) => began.elapsed(),
            // Only now is it known what records name.
            Ok(false) => {
                forget(&app, &mut forgotten_at).await;
                GATHER
            }
            Err(error) => {
                app.metrics.store_failures.inc();
                tracing::error!(%error, "user requests could not be indexed");
                position = None;
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = app.traces.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Deletes policy that nothing has named, now and then.
async fn forget(app: &App, last: &mut Option<Instant>) {
    if last.is_some_and(|last| last.elapsed() < FORGET_EVERY) {
        return;
    }
    *last = Some(Instant::now());
    let age = UNNAMED_SECONDS.max(app.config.bundle_lifetime_seconds.saturating_mul(2));
    let before = app.clock.seconds().saturating_sub(age);
    match app.store().forget_policy(before).await {
        Ok(0) => {}
        Ok(documents) => tracing::info!(documents, "policy that no record names was deleted"),
        Err(error) => {
            app.metrics.store_failures.inc();
            tracing::error!(%error, "policy that no record names could not be deleted");
        }
    }
}

/// Looks at the next records; says whether there may be more.
async fn step(app: &App, position: &mut Option<u64>) -> Result<bool, StoreError> {
    let at = match *position {
        Some(at) => at,
        None => {
            let at = app.store().traced().await?;
            app.traces.reached.send_replace(at);
            *position.insert(at)
        }
    };
    let received = app.recent.after(app.store(), at, RECORDS).await?;
    let Some(last) = received.last().map(|record| record.position) else {
        return Ok(false);
    };
    let mut traced = Traced {
        position: last,
        ..Traced::default()
    };
    for record in &received {
        if let Ok(named) = serde_json::from_slice::<Named<'_>>(&record.canonical) {
            traced.policy.extend(named.policy());
            traced.records.extend(named.txn.map(|txn| (txn, record.position)));
        }
    }
    app.store().save_traced(&traced).await?;
    *position = Some(last);
    app.traces.reached.send_replace(last);
    Ok(received.len() == RECORDS as usize)
}
