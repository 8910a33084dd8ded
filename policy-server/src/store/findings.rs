//! What is stored of calls that their two sides do not agree about.

use authz::witness::Mismatch;

/// The most findings that are kept; a pair of workloads and a kind is one, however often.
pub const MAX_FINDINGS: u32 = 10_000;

/// A call that only one side saw, or both saw differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The workload that made it.
    pub caller: String,
    /// The workload that it was for.
    pub callee: String,
    /// What is wrong.
    pub mismatch: Mismatch,
    /// The same in a few words.
    pub why: String,
    /// The service.
    pub service: Option<String>,
    /// Its id, if it has one.
    pub call: Option<String>,
    /// The record that tells of it.
    pub position: u64,
    /// When that was made, in milliseconds.
    pub time_ms: u64,
    /// The agent.
    pub agent_id: Option<String>,
    /// The user request.
    pub txn: Option<String>,
}

/// A finding as it is kept: all that was found of one kind between two workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFinding {
    /// The last of them.
    pub last: Finding,
    /// When the first was, in milliseconds.
    pub first_ms: u64,
    /// How many there were.
    pub count: u64,
}

/// What was found, as of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Every call whose first record is here or before has been judged.
    pub position: u64,
    /// What was found, in the order of positions. What was found before is not counted again.
    pub findings: Vec<Finding>,
}
