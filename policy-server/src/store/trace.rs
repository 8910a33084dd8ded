//! What is stored of user requests: where their records are.

/// Where records of user requests are, as of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traced {
    /// The place of the last record that was looked at.
    pub position: u64,
    /// The user request of a record, and its place.
    pub records: Vec<(String, u64)>,
}
