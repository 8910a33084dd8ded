//! Where batches of records become durable: one task that stores whatever has gathered since the last fsync in one go.
//!
//! Group commit makes the rate independent of the disk's latency: while one group is being synced, the next gathers.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::crash;
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::store::risk::ReceivedRecord;
use crate::store::{Appended, Batch, Refused, Store};

/// The most batches of one group.
const GROUP: usize = 64;

/// Why a batch was not stored, although nothing is wrong with it: the sender keeps it and tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// As many batches as may wait are waiting.
    #[error("too many batches are waiting for the disk")]
    Full,
    /// The store failed, or the server is stopping. The batch may be stored all the same; sending it again is safe.
    #[error("records cannot be stored now")]
    Unavailable,
}

/// The entrance to the writer task.
#[derive(Debug, Clone)]
pub struct Ingest {
    queue: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
}

/// A reserved place in the queue, to be had before a body is read: what waits is bounded in memory too.
#[derive(Debug)]
pub struct Place {
    queue: mpsc::Sender<Job>,
    permit: tokio::sync::OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Job {
    batch: Batch,
    answer: oneshot::Sender<Result<Result<Appended, Refused>, IngestError>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Ingest {
    /// Starts the writer task; it ends when every clone of the entrance is gone and the queue is empty.
    ///
    /// What has become durable is added to `recent`, and `stored` is told of it.
    pub fn start(
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        clock: Clock,
        places: usize,
        recent: Arc<Recent>,
        stored: Arc<Notify>,
    ) -> (Self, JoinHandle<()>) {
        let (queue, jobs) = mpsc::channel(places.max(1));
        let writer = tokio::spawn(write(store, metrics, clock, jobs, recent, stored));
        (
            Self {
                queue,
                places: Arc::new(Semaphore::new(places)),
            },
            writer,
        )
    }

    /// Reserves a place in the queue.
    ///
    /// # Errors
    ///
    /// [`IngestError::Full`] if there is none.
    pub fn reserve(&self) -> Result<Place, IngestError> {
        let permit = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| IngestError::Full)?;
        Ok(Place {
            queue: self.queue.clone(),
            permit,
        })
    }
}

impl Place {
    /// Stores a batch; answers when it is durable, or refused for good.
    ///
    /// # Errors
    ///
    /// [`IngestError::Unavailable`] if the store fails.
    pub async fn store(self, batch: Batch) -> Result<Result<Appended, Refused>, IngestError> {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            batch,
            answer,
            _permit: self.permit,
        };
        self.queue.send(job).await.map_err(|_| IngestError::Unavailable)?;
        answered.await.unwrap_or(Err(IngestError::Unavailable))
    }
}

async fn write(
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: Clock,
    mut jobs: mpsc::Receiver<Job>,
    recent: Arc<Recent>,
    stored: Arc<Notify>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while jobs.recv_many(&mut group, GROUP).await > 0 {
        metrics
            .record_queue
            .set(i64::try_from(jobs.len().saturating_add(group.len())).unwrap_or(i64::MAX));
        let (batches, answers): (Vec<_>, Vec<_>) = group
            .drain(..)
            .map(|job| (job.batch, (job.answer, job._permit)))
            .unzip();
        crash::moment("received");
        let (started, now_ms) = (Instant::now(), clock.millis());
        match store.append(&batches, now_ms).await {
            Ok(outcomes) => {
                crash::moment("committed");
                metrics.commit(started.elapsed());
                recent.add(received(batches, &outcomes, now_ms));
                for ((answer, _permit), outcome) in answers.into_iter().zip(outcomes) {
                    if let Ok(appended) = outcome {
                        metrics.records.inc_by(appended.new_records);
                    }
                    // A sender that has gone asks again and is acknowledged then.
                    let _ = answer.send(Ok(outcome));
                }
                stored.notify_one();
            }
            Err(error) => {
                recent.forget();
                metrics.store_failures.inc();
                tracing::error!(%error, batches = answers.len(), "records could not be stored");
                for (answer, _permit) in answers {
                    let _ = answer.send(Err(IngestError::Unavailable));
                }
            }
        }
        metrics.record_queue.set(i64::try_from(jobs.len()).unwrap_or(i64::MAX));
    }
}

/// Those records of stored batches that were new.
fn received(
    batches: Vec<Batch>,
    outcomes: &[Result<Appended, Refused>],
    received_at_ms: u64,
) -> impl Iterator<Item = ReceivedRecord> {
    let accepted = batches.into_iter().zip(outcomes);
    let accepted = accepted.filter_map(|(batch, outcome)| Some((batch, outcome.as_ref().ok()?)));
    accepted.flat_map(move |(batch, appended)| {
        let known = (batch.records.len() as u64).saturating_sub(appended.new_records);
        let new = batch
            .records
            .into_iter()
            .skip(usize::try_from(known).unwrap_or(usize::MAX));
        let first = appended.position.saturating_sub(appended.new_records).saturating_add(1);
        (first..).zip(new).map(move |(position, record)| ReceivedRecord {
            position,
            received_at_ms,
            canonical: record.canonical,
        })
    })
}
