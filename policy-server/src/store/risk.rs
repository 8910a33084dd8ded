//! What is stored of how agents behave.

use authz::identity::AgentId;
use authz::risk::Profile;

/// A record as it was received, to be scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRecord {
    /// Its place in the order of acceptance.
    pub position: u64,
    /// When it was received, in milliseconds.
    pub received_at_ms: u64,
    /// The canonical bytes.
    pub canonical: Vec<u8>,
}

/// Everything that is known of how agents behave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// The place of the last record that it holds.
    pub position: u64,
    /// What is known of each agent.
    pub profiles: Vec<(AgentId, Profile)>,
}
