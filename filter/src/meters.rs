//! What the filter counts for the operator, as `wasmcustom.*` in Envoy's statistics.
//!
//! Decisions are counted in the VM and handed to Envoy at each tick: a host call a request would cost more than the
//! rest of the accounting.

use std::collections::HashMap;

use authz::denial::Code;
use authz::request::Side;

use crate::host::{Host, MetricKind};

/// How a call was decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Permit,
    /// It went on all the same.
    Shadow(Code),
    Deny(Code),
}

impl Verdict {
    /// Of a call that goes on, with what would have denied it if it does so in shadow.
    pub(crate) fn going_on(shadowed: Option<Code>) -> Self {
        shadowed.map_or(Self::Permit, Self::Shadow)
    }
}

/// How a decision is counted.
type Decision = (Option<Side>, Verdict);

/// Decisions of one kind since the last flush, and Envoy's id of their metric.
#[derive(Debug)]
struct Decided {
    decision: Decision,
    count: i64,
    id: Option<u32>,
}

/// Gauges and counters without labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Meter {
    RecordsDropped,
    CallsCancelled,
    RecordQueue,
    BundleVersion,
    StateAgeSeconds,
    ConfigRejected,
}

impl Meter {
    fn name(self) -> &'static str {
        match self {
            Self::RecordsDropped => "ostiary_records_dropped",
            Self::CallsCancelled => "ostiary_calls_cancelled",
            Self::RecordQueue => "ostiary_record_queue",
            Self::BundleVersion => "ostiary_bundle_version",
            Self::StateAgeSeconds => "ostiary_state_age_seconds",
            Self::ConfigRejected => "ostiary_config_rejected",
        }
    }

    fn kind(self) -> MetricKind {
        match self {
            Self::RecordsDropped | Self::CallsCancelled => MetricKind::Counter,
            _ => MetricKind::Gauge,
        }
    }

    /// Whether Envoy's value is the sum of what the VMs say, as against what one of them said last.
    fn adds_up(self) -> bool {
        matches!(self, Self::RecordsDropped | Self::CallsCancelled | Self::RecordQueue)
    }
}

/// The counts since the last flush, and Envoy's ids of the metrics in use.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// Of all that there could be few are met, so they are searched from the front.
    decisions: Vec<Decided>,
    values: HashMap<Meter, i64>,
    ids: HashMap<Meter, u32>,
    queued: i64,
}

impl Meters {
    /// Counts one decision.
    pub(crate) fn decided(&mut self, side: Option<Side>, verdict: Verdict) {
        let decision = (side, verdict);
        match self.decisions.iter_mut().find(|decided| decided.decision == decision) {
            Some(decided) => decided.count += 1,
            None => self.decisions.push(Decided {
                decision,
                count: 1,
                id: None,
            }),
        }
    }

    /// Counts denials that will be known by their code alone.
    pub(crate) fn dropped(&mut self, count: u64) {
        *self.values.entry(Meter::RecordsDropped).or_default() += signed(count);
    }

    /// Counts calls that were ended because their agent may not act any more.
    pub(crate) fn cancelled(&mut self, count: u64) {
        if count > 0 {
            *self.values.entry(Meter::CallsCancelled).or_default() += signed(count);
        }
    }

    /// Notes how many records are queued in this VM.
    pub(crate) fn queued(&mut self, records: usize) {
        let queued = signed(records as u64);
        if queued != self.queued {
            *self.values.entry(Meter::RecordQueue).or_default() += queued - self.queued;
            self.queued = queued;
        }
    }

    /// Sets a gauge that does not add up.
    pub(crate) fn set(&mut self, meter: Meter, value: u64) {
        self.values.insert(meter, signed(value));
    }

    /// Hands everything to Envoy.
    pub(crate) fn flush(&mut self, host: &impl Host) {
        for decided in self.decisions.iter_mut().filter(|decided| decided.count > 0) {
            let Decided { decision, count, id } = decided;
            *id = id.or_else(|| host.define_metric(MetricKind::Counter, &decision_name(*decision)));
            if let Some(id) = *id {
                host.add_to_metric(id, std::mem::take(count));
            }
        }
        for (meter, value) in self.values.drain() {
            let id = self.ids.get(&meter).copied().or_else(|| {
                let id = host.define_metric(meter.kind(), meter.name())?;
                self.ids.insert(meter, id);
                Some(id)
            });
            match id {
                Some(id) if meter.adds_up() => host.add_to_metric(id, value),
                Some(id) => host.set_metric(id, value.unsigned_abs()),
                None => {}
            }
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn decision_name((side, verdict): Decision) -> String {
    let side = match side {
        Some(Side::Inbound) => "inbound",
        Some(Side::Outbound) => "outbound",
        None => "unknown",
    };
    let (verdict, code) = match verdict {
        Verdict::Permit => ("permit", "ok"),
        Verdict::Shadow(code) => ("shadow", code.as_str()),
        Verdict::Deny(code) => ("deny", code.as_str()),
    };
    format!("ostiary_decisions.side.{side}.verdict.{verdict}.code.{code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_side_verdict_and_code() {
        assert_eq!(
            decision_name((Some(Side::Inbound), Verdict::Permit)),
            "ostiary_decisions.side.inbound.verdict.permit.code.ok"
        );
        assert_eq!(
            decision_name((Some(Side::Outbound), Verdict::Shadow(Code::ToolForbidden))),
            "ostiary_decisions.side.outbound.verdict.shadow.code.tool_forbidden"
        );
        assert_eq!(
            decision_name((None, Verdict::Deny(Code::DirectionUnknown))),
            "ostiary_decisions.side.unknown.verdict.deny.code.direction_unknown"
        );
    }
}
