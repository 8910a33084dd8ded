//! What comes of calls: how large requests and answers are and how long they take, each against what is usual of its step.
//!
//! Sizes of one user request hang together: who asks for a large table draws it, and sends it on. So those of single calls
//! only measure, as in [`super::calibration`], and what counts is the share of the agent's requests that came to as much: a
//! request is one test, however many calls it makes. How long an answer takes is the service's doing more than the agent's. It
//! is compared with how late the same service answers this agent just now, and says little: a slow service stops nobody.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::bits::{Bits, of_share};
use super::calibration::{Calibration, Rising};
use super::evidence::ODD;
use super::observation::{Call, End};
use super::{ODD_TEACHES_EVERY_MS, Settings};

/// Calls whose end is awaited.
const MOST_AWAITED: usize = 64;
/// Steps, and services, that are known by themselves.
const MOST_STEPS: usize = 64;
/// Requests that are remembered.
const MOST_REQUESTS: usize = 32;
/// Doublings that are told apart: 256 TiB, nine years.
const BUCKETS: usize = 49;
/// After so many ends of calls their counts are halved.
const MOST_COUNTED: u64 = 8192;
/// How many ends all steps together count for in what is known of one. No end is more surprising than one in all of its own
/// step's and these: that a step is new says nothing of its size.
const PRIOR_ENDS: u64 = 8;
/// What one end in eight measures says nothing.
const USUAL: Bits = Bits::whole(3);
/// How surprising a request may be at most: together with its oddest call it pauses nobody.
const MOST_OF_A_REQUEST: Bits = Bits::whole(9);
/// Times up to this are all as short, in microseconds: below it the machine's own moods are larger than any difference.
const SHORT_TIME: u64 = 50_000;
/// How surprising the time of an answer may be at most.
const MOST_OF_A_TIME: Bits = Bits::whole(6);
/// Parts of a doubling in which lateness is kept.
const LATE_PARTS: u64 = 16;

/// What is measured of a call's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Quantity {
    Request,
    #[default]
    Answer,
    Time,
}

/// How often a quantity came to each doubling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Doublings(Vec<u64>);

impl Doublings {
    fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn at_least(&self, bucket: usize) -> u64 {
        self.0.iter().skip(bucket).sum()
    }

    /// The doubling that half of all come to; none while nothing is known.
    fn median(&self) -> Option<usize> {
        self.reached_by(self.total().div_ceil(2))
    }

    /// The doubling that seven of eight do not exceed; none while nothing is known.
    fn most(&self) -> Option<usize> {
        self.reached_by((7 * self.total()).div_ceil(8))
    }

    fn reached_by(&self, count: u64) -> Option<usize> {
        let mut below = 0;
        self.0.iter().position(|here| {
            below += here;
            below >= count && count > 0
        })
    }

    fn learn(&mut self, bucket: usize) {
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        if let Some(count) = self.0.get_mut(bucket) {
            *count += 1;
        }
        if self.total() >= MOST_COUNTED {
            self.0.iter_mut().for_each(|count| *count = count.div_ceil(2));
        }
    }
}

/// What is usual of one step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Usual {
    request: Doublings,
    answer: Doublings,
    time: Doublings,
}

impl Usual {
    fn of(&self, quantity: Quantity) -> &Doublings {
        match quantity {
            Quantity::Request => &self.request,
            Quantity::Answer => &self.answer,
            Quantity::Time => &self.time,
        }
    }

    fn learn(&mut self, measures: &[Measure]) {
        for measure in measures {
            let doublings = match measure.quantity {
                Quantity::Request => &mut self.request,
                Quantity::Answer => &mut self.answer,
                Quantity::Time => &mut self.time,
            };
            doublings.learn(measure.bucket);
        }
    }
}

/// What the ends of a request's calls have come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Open {
    name: String,
    sum: Rising,
    /// How surprising that is, of all requests.
    surprise: u64,
    /// When a call of it ended last, in milliseconds.
    at_ms: u64,
}

/// One quantity of one end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Measure {
    pub(super) quantity: Quantity,
    /// As the record has it.
    pub(super) value: u64,
    /// What is usual; 0 while that is not known.
    pub(super) usual: u64,
    /// What seven of eight are below; 0 while that is not known.
    pub(super) most: u64,
    pub(super) surprise: Bits,
    pub(super) bucket: usize,
}

/// The end of a call as it is judged, and what it would teach.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) step: String,
    pub(super) measures: Vec<Measure>,
    service: String,
    request: Option<String>,
}

impl Judged {
    /// The most unusual quantity.
    fn measured(&self) -> Bits {
        self.measures
            .iter()
            .fold(Bits::ZERO, |most, measure| most.max(measure.surprise))
    }
}

/// What is usual, and what is going on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Outcomes {
    /// The id and the step of calls that have not ended, the newest last.
    awaited: VecDeque<(String, String)>,
    any: Usual,
    pub(super) steps: BTreeMap<String, Usual>,
    /// By service: how late it has answered lately, in parts of a doubling.
    late: BTreeMap<String, u64>,
    /// The newest requests, the newest last.
    open: VecDeque<Open>,
    /// What requests have measured.
    requests: Calibration,
    /// When an odd end last taught, in milliseconds.
    odd_taught_ms: u64,
}

impl Outcomes {
    /// Awaits the end of a call.
    pub(super) fn begin(&mut self, call: &Call) {
        if let Some(id) = &call.id {
            self.awaited.push_back((id.clone(), call.step.clone()));
            if self.awaited.len() > MOST_AWAITED {
                self.awaited.pop_front();
            }
        }
    }

    /// How surprising a request has been so far, unless that is too long ago to belong to what happens now.
    pub(super) fn surprise(&self, request: Option<&str>, at_ms: u64, settings: &Settings) -> Bits {
        let half_life = settings.half_life_seconds.max(1).saturating_mul(1000);
        let recent = |open: &&Open| at_ms.saturating_sub(open.at_ms) <= half_life;
        let found = request.and_then(|name| self.open.iter().find(|open| open.name == name));
        let found = found.filter(recent);
        found.map_or(Bits::ZERO, |open| Bits::from_raw(open.surprise))
    }

    /// Forgets what was surprising, and nothing of what is usual.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    /// Measures how unusual an end is. What belongs to no call that is known is told by its service.
    pub(super) fn judge(&mut self, end: End) -> Judged {
        let awaited = |(id, _): &(String, String)| Some(id) == end.id.as_ref();
        let place = self.awaited.iter().position(awaited);
        let begun = place.and_then(|place| self.awaited.remove(place));
        let step = begun.map_or_else(|| end.service.clone(), |(_, step)| step);
        let quantities = [
            (Quantity::Request, end.request_bytes),
            (Quantity::Answer, end.response_bytes),
            (Quantity::Time, end.duration_us),
        ];
        let measures = quantities
            .into_iter()
            .filter_map(|(quantity, value)| Some(self.measure(&step, &end.service, quantity, value?)))
            .collect();
        Judged {
            step,
            measures,
            service: end.service,
            request: end.request,
        }
    }

    fn measure(&self, step: &str, service: &str, quantity: Quantity, value: u64) -> Measure {
        let own = self.steps.get(step).map(|usual| usual.of(quantity));
        let bucket = bucket(match quantity {
            Quantity::Time => value.max(SHORT_TIME),
            Quantity::Request | Quantity::Answer => value,
        });
        let late = match quantity {
            Quantity::Time => self.late.get(service).map_or(0, |late| late.div_ceil(LATE_PARTS)),
            Quantity::Request | Quantity::Answer => 0,
        };
        let judged = bucket.saturating_sub(usize::try_from(late).unwrap_or(BUCKETS));
        let any = self.any.of(quantity);
        let (all, of_all) = (any.total() + 1, any.at_least(judged) + 1);
        let (own_all, own_tail) = own.map_or((0, 0), |own| (own.total(), own.at_least(judged)));
        let surprise = of_share(own_tail * all + PRIOR_ENDS * of_all, (own_all + PRIOR_ENDS) * all);
        let known = of_share(1, own_all + PRIOR_ENDS);
        let most = match quantity {
            Quantity::Time if judged <= self::bucket(SHORT_TIME) => Bits::ZERO,
            Quantity::Time => known.min(MOST_OF_A_TIME),
            Quantity::Request | Quantity::Answer => known,
        };
        let usual = own.and_then(Doublings::median).or_else(|| any.median());
        let seven_of_eight = own.and_then(Doublings::most).or_else(|| any.most());
        Measure {
            quantity,
            value,
            usual: usual.map_or(0, middle),
            most: seven_of_eight.map_or(0, |bucket| 1 << bucket),
            surprise: surprise.min(most),
            bucket,
        }
    }

    /// Counts the end to its request, and says how surprising that is by now.
    pub(super) fn add(&mut self, judged: &Judged, at_ms: u64) -> Bits {
        let name = judged.request.as_deref();
        let place = self.open.iter().position(|open| Some(open.name.as_str()) == name);
        let mut open = place.and_then(|place| self.open.remove(place)).unwrap_or_else(|| Open {
            name: name.unwrap_or_default().to_owned(),
            ..Open::default()
        });
        open.at_ms = at_ms;
        open.sum.add(judged.measured() - USUAL);
        open.surprise = self.requests.surprise(open.sum.measured()).min(MOST_OF_A_REQUEST).raw();
        let surprise = Bits::from_raw(open.surprise);
        self.open.push_back(open);
        if self.open.len() > MOST_REQUESTS {
            self.open.pop_front();
        }
        surprise
    }

    /// Learns from the end that was added last. One that is odd teaches no more often than odd calls do.
    pub(super) fn learn(&mut self, judged: &Judged, at_ms: u64) {
        if judged.measured() >= ODD {
            if at_ms.saturating_sub(self.odd_taught_ms) < ODD_TEACHES_EVERY_MS {
                return;
            }
            self.odd_taught_ms = at_ms;
        }
        self.any.learn(&judged.measures);
        if self.steps.len() < MOST_STEPS || self.steps.contains_key(&judged.step) {
            let usual = self.steps.entry(judged.step.clone()).or_default();
            usual.learn(&judged.measures);
        }
        if let Some(open) = self.open.back_mut() {
            open.sum.learn(&mut self.requests);
        }
    }

    /// Notes how late the service was, whoever is to blame: it is no habit, and holds while nothing is learnt too.
    pub(super) fn note_lateness(&mut self, judged: &Judged) {
        let mut measures = judged.measures.iter();
        let Some(time) = measures.find(|measure| measure.quantity == Quantity::Time) else {
            return;
        };
        if time.usual == 0 || (self.late.len() >= MOST_STEPS && !self.late.contains_key(&judged.service)) {
            return;
        }
        let usual = bucket(time.usual.max(SHORT_TIME));
        let later = time.bucket.saturating_sub(usual) as u64 * LATE_PARTS;
        let late = self.late.entry(judged.service.clone()).or_default();
        *late = (*late + later) / 2;
    }
}

/// How often a number can be halved until it is 0.
fn bucket(value: u64) -> usize {
    ((u64::BITS - value.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// The middle of a doubling.
fn middle(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        1 => 1,
        _ => 3 << (bucket.min(BUCKETS) - 2),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn doublings_are_told_apart_and_bounded() {
        for (value, expected) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 3),
            (1 << 20, 21),
            (u64::MAX, BUCKETS - 1),
        ] {
            assert_eq!(bucket(value), expected, "{value}");
        }
        for own in 0..BUCKETS {
            assert_eq!(bucket(middle(own)), own);
        }
        let mut doublings = Doublings::default();
        assert_eq!((doublings.median(), doublings.most()), (None, None));
        for bucket in [3, 3, 5, 9] {
            doublings.learn(bucket);
        }
        assert_eq!(
            (
                doublings.median(),
                doublings.most(),
                doublings.at_least(5),
                doublings.total()
            ),
            (Some(3), Some(9), 2, 4)
        );
        for _ in 0..100_000 {
            doublings.learn(3);
        }
        assert!(doublings.total() < MOST_COUNTED && doublings.at_least(5) >= 1);
    }

    /// A machine that is busy for a moment is no surprise, and a second is.
    #[test]
    fn times_that_are_all_short_are_alike() {
        let mut outcomes = Outcomes::default();
        let end = |duration_us| End {
            service: "known".to_owned(),
            duration_us: Some(duration_us),
            ..End::default()
        };
        for number in 0..1000_u64 {
            let judged = outcomes.judge(end(200));
            outcomes.add(&judged, number);
            outcomes.learn(&judged, number);
        }
        let mut judged = |time| outcomes.judge(end(time)).measures[0];
        assert_eq!(judged(1_000).surprise, Bits::ZERO);
        assert_eq!(judged(SHORT_TIME).surprise, Bits::ZERO);
        let second = judged(1_000_000);
        assert_eq!((second.surprise, second.most), (MOST_OF_A_TIME, 1 << 16));
    }

    /// A step of which nothing is known makes no size surprising, and one of which much is known does.
    #[test]
    fn a_size_is_as_surprising_as_its_own_steps_past_is_long() {
        let mut outcomes = Outcomes::default();
        let end = |step: &str, bytes| End {
            service: step.to_owned(),
            response_bytes: Some(bytes),
            ..End::default()
        };
        for number in 0..1000_u64 {
            let judged = outcomes.judge(end("known", 1000));
            outcomes.add(&judged, number);
            outcomes.learn(&judged, number);
        }
        let mut surprise = |step, bytes| outcomes.judge(end(step, bytes)).measures[0].surprise;
        assert_eq!(surprise("known", 1000), Bits::ZERO);
        assert_eq!(surprise("known", 100), Bits::ZERO, "small is no surprise");
        assert_eq!(surprise("known", 1 << 30), of_share(1, 1000 + PRIOR_ENDS));
        assert_eq!(surprise("new", 1 << 30), of_share(1, PRIOR_ENDS));
    }
}
