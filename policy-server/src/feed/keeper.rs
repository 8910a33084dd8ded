//! Keeps what is signed for those who read the log later: durable before any sidecar is told it, so that no record names
//! what is gone.
//!
//! After a change of policy every workload's bundle is signed anew: who waits for the disk takes along whatever has
//! gathered meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::policy::SignedPolicy;
use crate::store::{Store, StoreError};

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
    documents: Vec<SignedPolicy>,
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
        waiting.documents.push(document);
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
            (waiting.documents.clone(), waiting.last)
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
