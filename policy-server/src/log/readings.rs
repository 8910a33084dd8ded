//! Who reads the log: counted by principal, kind and hour, so that reading is recorded and cannot fill the disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::store::{Reading, Store, StoreError};

/// Readings that are not written down yet.
#[derive(Debug, Default)]
pub struct Readings(Mutex<HashMap<(String, &'static str), u64>>);

impl Readings {
    /// Notes a reading, and tells of it in the server's own log with what exactly was read.
    pub fn count(&self, principal: &str, what: &'static str, which: &str) {
        tracing::info!(principal, what, which, "the log was read");
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((principal.to_owned(), what)).or_default() += 1;
    }

    /// Writes down what was noted.
    ///
    /// # Errors
    ///
    /// If the database fails; the counts are lost then, the server's own log has them.
    pub async fn write(&self, store: &dyn Store, now: u64) -> Result<(), StoreError> {
        let counted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if counted.is_empty() {
            return Ok(());
        }
        let readings: Vec<_> = counted
            .into_iter()
            .map(|((principal, what), count)| Reading {
                principal,
                what,
                hour: now / 3600,
                count,
            })
            .collect();
        store.log_read(&readings).await
    }
}
