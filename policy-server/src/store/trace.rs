//! What is stored of user requests: where their records are.

use std::collections::BTreeSet;

use authz::log::policy::Kind;
use authz::policy::Version;

/// Where records of user requests are, as of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traced {
    /// The place of the last record that was looked at.
    pub position: u64,
    /// The user request of a record, and its place.
    pub records: Vec<(String, u64)>,
    /// The policy that records name.
    pub policy: BTreeSet<(Kind, Version)>,
}
