//! How far records have been scored, for those who wait for it.

use std::time::Duration;

use super::Risk;

/// How far the task has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is known of it yet, or any more.
    #[default]
    Unknown,
    /// Without a policy nobody knows whose identity is whose, and nothing is scored.
    Idle,
    /// All records up to this position count.
    Through(u64),
}

/// Whether a record counts in the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It does.
    Yes,
    /// Nothing is scored: there is no policy.
    Unscored,
    /// Not yet.
    NotYet,
}

impl Risk {
    /// Waits until the stored records up to a position count, and their agents have been stopped where that asks for it; for
    /// so long at most.
    pub async fn counted(&self, position: u64, within: Duration) -> Counted {
        let mut progress = self.progress.subscribe();
        let known = progress.wait_for(|progress| match progress {
            Progress::Unknown => false,
            Progress::Idle => true,
            Progress::Through(through) => *through >= position,
        });
        match tokio::time::timeout(within, known)
            .await
            .map(|known| known.map(|known| *known))
        {
            Ok(Ok(Progress::Through(_))) => Counted::Yes,
            Ok(Ok(Progress::Idle)) => Counted::Unscored,
            Ok(Ok(Progress::Unknown) | Err(_)) | Err(_) => Counted::NotYet,
        }
    }
}
