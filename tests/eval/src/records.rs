//! Calls as the records of a sidecar tell of them: what the engine is given is read from records, as in the server.
//!
//! The traces hold neither times nor data. Both are made up here: an agent calls every 2 to 6 seconds and begins with a
//! request 1 to 3 minutes after the last, and the scope that a tool needs is read from its name.

use std::collections::BTreeSet;

use authz::audit::{Kind, Outcome, Record, RecordedFacts};
use authz::request::Side;
use authz::risk::reading::{self, Subject};
use authz::risk::{Declared, Observation};

use crate::draw::Draw;

const SERVICE: &str = "tools/mcp";

const HOUR_MS: u64 = 3_600_000;

/// What resource a tool of the traces works on, by what its name holds; the first that fits.
const RESOURCES: [(&str, &str); 13] = [
    ("email", "mail"),
    ("calendar", "calendar"),
    ("contact", "contacts"),
    ("file", "files"),
    ("hotel", "hotels"),
    ("restaurant", "restaurants"),
    ("car_", "cars"),
    ("flight", "flights"),
    ("airport", "flights"),
    ("reservation", "reservations"),
    ("order", "orders"),
    ("certificate", "payments"),
    ("user", "customers"),
];

const READS: [&str; 4] = ["get_", "search_", "list_", "check_"];

/// The scope that a tool needs; none of what works on nothing, such as `think`.
fn scope(tool: &str) -> Option<String> {
    let (_, resource) = RESOURCES.iter().find(|(part, _)| tool.contains(part))?;
    let verb = if READS.iter().any(|verb| tool.starts_with(verb)) {
        "read"
    } else {
        "write"
    };
    Some(format!("{verb}:{resource}"))
}

/// An agent's clock.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    now_ms: u64,
    draw: Draw,
}

impl Clock {
    pub(crate) fn new(seeds: &[u64]) -> Self {
        Self {
            now_ms: 1_800_000_000_000,
            draw: Draw::new(seeds),
        }
    }

    /// The time of the next call of a request.
    pub(crate) fn call(&mut self) -> u64 {
        self.pass(2000, 6000)
    }

    /// The time of the first call of a request.
    pub(crate) fn request(&mut self) -> u64 {
        self.pass(60_000, 180_000)
    }

    /// Goes on in the next morning, if it is not between 8 and 18 UTC.
    pub(crate) fn working_hours(&mut self) {
        let hour = self.now_ms / HOUR_MS % 24;
        if !(8..18).contains(&hour) {
            self.now_ms += Self::until_hour(self.now_ms, 8);
        }
    }

    /// How long it is from a time until the next hour of that name begins, in UTC.
    pub(crate) fn until_hour(from_ms: u64, hour: u64) -> u64 {
        let day = 24 * HOUR_MS;
        (day + hour * HOUR_MS - from_ms % day) % day
    }

    /// Lets some time pass.
    pub(crate) fn pass(&mut self, from_ms: u64, to_ms: u64) -> u64 {
        self.now_ms += self.draw.between(from_ms, to_ms);
        self.now_ms
    }
}

/// What an agent's file declares that may use these tools.
pub(crate) fn declared<'a>(tools: impl Iterator<Item = &'a str>) -> Declared {
    let steps: BTreeSet<String> = tools.map(str::to_owned).collect();
    Declared {
        data: steps.iter().filter_map(|tool| scope(tool)).collect(),
        services: [SERVICE.to_owned()].into(),
        steps,
    }
}

/// A permitted call as the engine reads it from its record.
pub(crate) fn observation(tool: &str, request: &str, at_ms: u64) -> Option<Observation> {
    let record = Record {
        agent_id: Some("agent".into()),
        verdict: Some(Outcome::Permit),
        side: Some(Side::Inbound),
        service: Some(SERVICE.into()),
        txn: Some(request.into()),
        call: Some(id(at_ms).into()),
        facts: Some(RecordedFacts {
            right: Some("tool".into()),
            tool: Some(tool.into()),
            scope: scope(tool).map(Into::into),
            ..RecordedFacts::default()
        }),
        ..Record::new(Kind::Decision, at_ms)
    };
    match reading::read(&record, at_ms)? {
        (Subject::Agent(_), seen) => Some(seen),
        (Subject::Workload(_), _) => None,
    }
}

/// What came of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) duration_us: u64,
}

/// The end of the call that was made at a time, as the engine reads it from its record; and when that was.
pub(crate) fn ended(request: &str, made_ms: u64, came: &Came) -> Option<(Observation, u64)> {
    let at_ms = made_ms + came.duration_us / 1000;
    let record = Record {
        agent_id: Some("agent".into()),
        side: Some(Side::Inbound),
        service: Some(SERVICE.into()),
        txn: Some(request.into()),
        call: Some(id(made_ms).into()),
        end: Some("complete".into()),
        status: Some(200),
        request_bytes: Some(came.request_bytes),
        response_bytes: Some(came.response_bytes),
        duration_us: Some(came.duration_us),
        ..Record::new(Kind::Completion, at_ms)
    };
    let (_, seen) = reading::read(&record, at_ms)?;
    Some((seen, at_ms))
}

/// A call's, by when it was made.
fn id(at_ms: u64) -> String {
    format!("call {at_ms}")
}
