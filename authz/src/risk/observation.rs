//! What the engine is told: a call, what came of it, or denials.

use std::collections::BTreeSet;

/// What is shorter of a name than this is kept of it: names that callers choose may be long.
const MOST_NAME_BYTES: usize = 128;

/// What an agent's file says that it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Steps: tools, and methods of services.
    pub steps: BTreeSet<String>,
    /// Scopes.
    pub data: BTreeSet<String>,
    /// Services.
    pub services: BTreeSet<String>,
}

/// One call, or several denials of one kind, or the end of a call, as a record tells of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was done: none of a failure that never came to be a call of the agent, and of the end of a call.
    pub call: Option<Call>,
    /// What came of a call that was counted before.
    pub end: Option<End>,
    /// How many calls it stands for: 0 of an end.
    pub count: u64,
    /// Whether they were denied.
    pub denied: bool,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// What its end will be known by.
    pub id: Option<String>,
    /// A tool, or a service and a method.
    pub step: String,
    /// The scope that it needed.
    pub data: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// The user request that it belongs to.
    pub request: Option<String>,
}

/// What came of a call that was delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// The call's.
    pub id: Option<String>,
    /// The service.
    pub service: String,
    /// The user request that the call belongs to.
    pub request: Option<String>,
    /// Bytes of its body.
    pub request_bytes: Option<u64>,
    /// Bytes of the answer's body.
    pub response_bytes: Option<u64>,
    /// From the request's headers to the end of the answer.
    pub duration_us: Option<u64>,
    /// Whether the service refused it for what was asked; None of what its answer says nothing about.
    pub failed: Option<bool>,
}

impl Call {
    /// With no name longer than is kept.
    pub(super) fn shortened(&self) -> Self {
        Self {
            id: self.id.as_deref().map(shortened),
            step: shortened(&self.step),
            data: self.data.as_deref().map(shortened),
            service: self.service.as_deref().map(shortened),
            request: self.request.as_deref().map(shortened),
        }
    }
}

impl End {
    /// With no name longer than is kept.
    pub(super) fn shortened(&self) -> Self {
        Self {
            id: self.id.as_deref().map(shortened),
            service: shortened(&self.service),
            request: self.request.as_deref().map(shortened),
            ..*self
        }
    }
}

fn shortened(name: &str) -> String {
    let end = (0..=MOST_NAME_BYTES.min(name.len()))
        .rev()
        .find(|end| name.is_char_boundary(*end));
    name.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
}
