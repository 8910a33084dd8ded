//! Answering in the application's place, and recording why.

use authz::audit::{Outcome, Record};
use authz::denial::Denial;

use super::{DECISION_KEY, Flow, Phase, Session};
use crate::host::Host;
use crate::meters::Verdict;
use crate::slots::Reservation;
use crate::vm::Vm;

impl Session {
    pub(super) fn deny_held(&mut self, vm: &mut Vm, host: &impl Host, denial: Denial) -> Flow {
        match std::mem::replace(&mut self.phase, Phase::Denied) {
            Phase::Held(held) => self.deny(vm, host, denial, Some(held.reservation)),
            _ => self.deny(vm, host, denial, None),
        }
    }

    /// Answers in the application's place.
    pub(super) fn deny(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        denial: Denial,
        reservation: Option<Reservation>,
    ) -> Flow {
        self.phase = Phase::Denied;
        self.record_denial(vm, host, &denial, reservation);
        vm.decided(self.known.side, Verdict::Deny(denial.code()));
        if let Some(call) = self.call.take() {
            vm.calls.end(self.context);
            if call.is_answered() {
                return Flow::Pause;
            }
        }
        self.answer(host, &denial);
        Flow::Pause
    }

    pub(super) fn answer(&self, host: &impl Host, denial: &Denial) {
        host.deny(&denial.render(self.known.form(), None, self.known.trace_id.as_deref()));
    }

    /// Records a denial on its own if its token is the peer's, else counts it: nobody can flood the log in another's
    /// name.
    pub(super) fn record_denial(
        &self,
        vm: &mut Vm,
        host: &impl Host,
        denial: &Denial,
        reservation: Option<Reservation>,
    ) {
        if self.known.bound() {
            let reservation = reservation.or_else(|| vm.records.reserve(self.known.peer.as_ref(), 1));
            if let Some(mut reservation) = reservation {
                let record = Record {
                    verdict: Some(Outcome::Deny),
                    code: Some(denial.code()),
                    status: Some(denial.code().status().into()),
                    ..self.known.decision(self.now)
                };
                let written = vm
                    .records
                    .write(host, &mut reservation, &record)
                    .map(|sealed| host.publish(DECISION_KEY, sealed.record()));
                vm.records.release(reservation);
                if written.is_some() {
                    return;
                }
            }
        } else if let Some(reservation) = reservation {
            vm.records.release(reservation);
        }
        self.known.count(&mut vm.records, denial.code(), self.now);
        host.publish(DECISION_KEY, self.known.counted(denial.code()).as_bytes());
    }
}
