//! Keeps what is signed for those who read the log later: durable before any sidecar is told it, so that no record names
//! what is gone.
//!
//! After a change of policy every workload's bundle is signed anew: who waits for the disk takes along whatever has
//! gathered meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::policy::SignedPolicy;
use crate::store::{Store, StoreError};

/// How long a state list waits until it is kept: a kill must not wait for a disk that hangs.
pub(super) const WAIT: Duration = Duration::from_millis(250);

/// The place of a document in the order in which they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Keeper {
    store: Arc<dyn Store>,
    waiting: Mutex<Waiting>,
    /// All up to this ticket are kept.
    kept: AtomicU64,
    writing: tokio::sync::Mutex<()>,
}

/// What is not kept yet. It is bounded as versions are: the store that does not take these reserves no others.
#[derive(Debug, Default)]
struct Waiting {
    documents: Vec<(SignedPolicy, Instant)>,
    last: u64,
}

impl Keeper {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            waiting: Mutex::default(),
            kept: AtomicU64::new(0),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Queues a document.
    pub(super) fn queue(&self, document: SignedPolicy) -> Ticket {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.documents.push((document, Instant::now()));
        waiting.last += 1;
        Ticket(waiting.last)
    }

    /// Waits until a document is durable; writes it, and all others that are queued, if nobody else does. One that fails
    /// stays queued.
    pub(super) async fn reach(&self, ticket: Ticket) -> Result<(), StoreError> {
        if self.is_kept(ticket) {
            return Ok(());
        }
        let _one = self.writing.lock().await;
        if self.is_kept(ticket) {
            return Ok(());
        }
        let (documents, last) = {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let documents = waiting.documents.iter().map(|(document, queued)| SignedPolicy {
                // What is written sooner is so before any record that could name it: there is one writer.
                may_be_named: queued.elapsed() >= WAIT / 2,
                ..document.clone()
            });
            (documents.collect::<Vec<_>>(), waiting.last)
        };
        self.store.keep_policy(&documents).await?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.documents.drain(..documents.len());
        self.kept.store(last, Ordering::Release);
        Ok(())
    }

    fn is_kept(&self, ticket: Ticket) -> bool {
        self.kept.load(Ordering::Acquire) >= ticket.0
    }
}
