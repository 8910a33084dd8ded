//! The records that were stored last, in memory, for the tasks that read the log behind its writer.
//!
//! Only what is durable comes here, and in the order of the log. What is not here any more is read from the database.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::risk::ReceivedRecord;
use crate::store::{Store, StoreError};

/// The bytes of records that are kept: more than calls in a second make, where each has a record or two.
const MOST_BYTES: usize = 8 << 20;

/// Consecutive records up to the last one that was stored.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Arc<ReceivedRecord>>,
    bytes: usize,
}

impl Recent {
    /// Takes over records that have been stored, in their order.
    pub fn add(&self, records: impl IntoIterator<Item = ReceivedRecord>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            if kept
                .last()
                .is_some_and(|last| last.saturating_add(1) != record.position)
            {
                *kept = Kept::default();
            }
            kept.bytes += record.canonical.len();
            kept.records.push_back(Arc::new(record));
        }
        while kept.bytes > MOST_BYTES
            && let Some(oldest) = kept.records.pop_front()
        {
            kept.bytes -= oldest.canonical.len();
        }
    }

    /// It is not known which record is the last: a commit failed, and what it was of may be there or not.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    /// The stored records after a position, in the order of acceptance, at most `limit`.
    ///
    /// # Errors
    ///
    /// If they must be read from the database, and it fails.
    pub async fn after(
        &self,
        store: &dyn Store,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Arc<ReceivedRecord>>, StoreError> {
        if let Some(records) = self.kept_after(position, limit) {
            return Ok(records);
        }
        let records = store.received(position, limit).await?;
        Ok(records.into_iter().map(Arc::new).collect())
    }

    fn kept_after(&self, position: u64, limit: u32) -> Option<Vec<Arc<ReceivedRecord>>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.records.front()?.position;
        let known = position.saturating_add(1).checked_sub(first)?;
        let known = usize::try_from(known).ok()?;
        Some(kept.records.iter().skip(known).take(limit as usize).cloned().collect())
    }
}

impl Kept {
    fn last(&self) -> Option<u64> {
        self.records.back().map(|record| record.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(positions: impl IntoIterator<Item = u64>) -> Vec<ReceivedRecord> {
        let record = |position| ReceivedRecord {
            position,
            received_at_ms: 1,
            canonical: vec![b'x'; 1 << 20],
        };
        positions.into_iter().map(record).collect()
    }

    fn positions(recent: &Recent, after: u64, limit: u32) -> Option<Vec<u64>> {
        let found = recent.kept_after(after, limit)?;
        Some(found.iter().map(|record| record.position).collect())
    }

    #[test]
    fn what_follows_a_record_that_is_known_is_known() {
        let recent = Recent::default();
        assert_eq!(positions(&recent, 0, 9), None);
        recent.add(records(3..6));
        assert_eq!(positions(&recent, 1, 9), None, "the one after it was stored before");
        assert_eq!(positions(&recent, 2, 9), Some(vec![3, 4, 5]));
        assert_eq!(positions(&recent, 3, 1), Some(vec![4]));
        assert_eq!(positions(&recent, 5, 9), Some(vec![]));
    }

    #[test]
    fn a_gap_is_left_to_the_database() {
        let recent = Recent::default();
        recent.add(records(1..3));
        recent.add(records([4]));
        assert_eq!(positions(&recent, 2, 9), None);
        assert_eq!(positions(&recent, 3, 9), Some(vec![4]));
        recent.forget();
        assert_eq!(positions(&recent, 4, 9), None);
    }

    #[test]
    fn the_oldest_leave() {
        let recent = Recent::default();
        recent.add(records(1..20));
        assert_eq!(positions(&recent, 10, 9), None);
        assert_eq!(positions(&recent, 11, 99), Some(Vec::from_iter(12..20)));
    }
}
