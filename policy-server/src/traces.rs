//! The index of user requests: a task that reads the log behind its writer and notes where each request's records are.
//!
//! Filled in the transaction that accepts records, it would cost every call a random write. A task that gathers writes a few
//! times a second, in order, and a reader of a trace waits until the index has come as far as the log was when it asked:
//! an answer is never of a part that looks like all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::app::App;
use crate::store::StoreError;
use crate::store::trace::Traced;

/// Records looked at in one step.
const RECORDS: u32 = 2048;

/// How long records gather before the next step, unless somebody waits for them.
const GATHER: Duration = Duration::from_millis(500);

/// How long it waits when the database fails.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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
struct Named {
    txn: Option<String>,
}

/// Fills the index until the server stops.
pub(crate) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut position = None;
    loop {
        let began = Instant::now();
        let pause = match step(&app, &mut position).await {
            // There may be more. It is half the time that is taken, and the other half is for those who accept records.
            Ok(true) => began.elapsed(),
            Ok(false) => GATHER,
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
    let received = app.store().received(at, RECORDS).await?;
    let Some(last) = received.last().map(|record| record.position) else {
        return Ok(false);
    };
    let indexed = received.iter().filter_map(|record| {
        let named: Named = serde_json::from_slice(&record.canonical).ok()?;
        Some((named.txn?, record.position))
    });
    let traced = Traced {
        position: last,
        records: indexed.collect(),
    };
    app.store().save_traced(&traced).await?;
    *position = Some(last);
    app.traces.reached.send_replace(last);
    Ok(received.len() == RECORDS as usize)
}
