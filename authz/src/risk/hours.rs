//! At which hours of the day an agent works, in UTC.
//!
//! Calls of one hour come together, so what is counted are hours that have calls, each once: one day teaches one. The hours
//! beside one count for half, so that who works until five is no surprise at five past, nor an hour earlier in summer.

use serde::{Deserialize, Serialize};

use super::bits::{Bits, of_share};

const HOUR_MS: u64 = 3_600_000;
const HOURS: usize = 24;
/// What one hour with calls weighs: 2 where it is, 1 for each hour beside it.
const WEIGHT: u64 = 4;
/// The cautious start: what every hour of the day weighs before anything is known.
const PRIOR: u64 = 1;
/// After so many hours with calls all counts are halved: some months of work.
const MOST_COUNTED: u64 = 2048;
/// The hour is the same for all calls in it, and honest work may have to be done at night.
const MOST_OF_AN_HOUR: Bits = Bits::whole(8);

/// How often there were calls in each hour of the day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Hours {
    /// Days on which there were calls, by hour.
    days: Vec<u64>,
    /// The hour that it is, since 1970.
    hour: u64,
    /// How surprising that was as it began, in 1/65536 of a bit.
    surprise: u64,
    /// The newest hour that taught, since 1970.
    taught: u64,
}

impl Hours {
    /// Takes over the time of a call.
    pub(super) fn visit(&mut self, at_ms: u64) {
        let hour = at_ms / HOUR_MS;
        if hour != self.hour {
            self.hour = hour;
            self.surprise = self.surprise_of(of_day(hour)).min(MOST_OF_AN_HOUR).raw();
        }
    }

    /// How surprising the hour is.
    pub(super) fn surprise(&self) -> Bits {
        Bits::from_raw(self.surprise)
    }

    /// The hour of the day, on how many days it had calls before, and how many hours with calls there were.
    pub(super) fn usual(&self) -> (usize, u64, u64) {
        let hour = of_day(self.hour);
        (hour, self.days_at(hour), self.days.iter().sum())
    }

    /// Forgets the surprise of the hour that it is, and nothing of what is usual.
    pub(super) fn forget(&mut self) {
        self.surprise = 0;
    }

    /// Counts the hour that it is, once.
    pub(super) fn learn(&mut self) {
        if self.taught == self.hour {
            return;
        }
        self.taught = self.hour;
        self.days.resize(HOURS, 0);
        if let Some(days) = self.days.get_mut(of_day(self.hour)) {
            *days += 1;
        }
        if self.days.iter().sum::<u64>() >= MOST_COUNTED {
            self.days.iter_mut().for_each(|days| *days = days.div_ceil(2));
        }
    }

    fn days_at(&self, hour: usize) -> u64 {
        self.days.get(hour % HOURS).copied().unwrap_or_default()
    }

    fn weight(&self, hour: usize) -> u64 {
        PRIOR + 2 * self.days_at(hour) + self.days_at(hour + 1) + self.days_at(hour + HOURS - 1)
    }

    /// That of the whole tail: of all hours that are at most as usual.
    fn surprise_of(&self, hour: usize) -> Bits {
        let own = self.weight(hour);
        let weights = (0..HOURS).map(|hour| self.weight(hour));
        let tail: u64 = weights.filter(|weight| *weight <= own).sum();
        of_share(tail, WEIGHT * self.days.iter().sum::<u64>() + PRIOR * HOURS as u64)
    }
}

fn of_day(hour: u64) -> usize {
    (hour % HOURS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days of work from 8 to 16 UTC, and the first hour after them.
    fn worked(days: u64) -> (Hours, u64) {
        let mut hours = Hours::default();
        for hour in 0..days * 24 {
            if (8..16).contains(&(hour % 24)) {
                for minute in [0, 59] {
                    hours.visit(hour * HOUR_MS + minute * 60_000);
                    hours.learn();
                }
            }
        }
        (hours, days * 24)
    }

    fn at(hours: &Hours, hour: u64) -> Bits {
        let mut hours = hours.clone();
        hours.visit(hour * HOUR_MS);
        hours.surprise()
    }

    #[test]
    fn an_hour_in_which_it_never_works_is_surprising_and_its_own_are_not() {
        let (hours, midnight) = worked(60);
        assert_eq!(hours.days.iter().sum::<u64>(), 480, "an hour counts once a day");
        assert_eq!(at(&hours, midnight + 12), Bits::ZERO);
        assert_eq!(at(&hours, midnight + 3), of_share(14, 4 * 480 + 24));
        assert!(at(&hours, midnight + 3) > Bits::whole(7));
    }

    /// Work that goes on past its hour, clocks that are set for summer, and midnight, which is no edge.
    #[test]
    fn the_hour_beside_a_usual_one_is_little_surprise() {
        let (hours, midnight) = worked(60);
        for beside in [7, 16] {
            assert!(at(&hours, midnight + beside) < Bits::whole(4), "{beside}");
        }
        assert!(at(&hours, midnight + 6) > Bits::whole(7));
        let mut late = Hours::default();
        for day in 0..60 {
            late.visit((day * 24 + 23) * HOUR_MS);
            late.learn();
        }
        assert!(at(&late, 60 * 24) < Bits::whole(2) && at(&late, 60 * 24 + 1) > Bits::whole(3));
    }

    #[test]
    fn little_is_known_at_first_and_it_says_little() {
        assert_eq!(at(&Hours::default(), 3), Bits::ZERO);
        let surprises = [1, 5, 60].map(|days| at(&worked(days).0, days * 24 + 3));
        assert!(surprises[0] > Bits::whole(1) && surprises[0] < Bits::whole(3));
        assert!(surprises[0] < surprises[1] && surprises[1] < surprises[2]);
    }

    #[test]
    fn calls_at_an_hour_teach_it_once_a_day() {
        let (mut hours, midnight) = worked(60);
        let before = at(&hours, midnight + 3);
        for second in 0..3000 {
            hours.visit((midnight + 3) * HOUR_MS + second * 1000);
            hours.learn();
        }
        assert_eq!(hours.days_at(3), 1);
        assert_eq!(hours.surprise(), before, "it is judged by what was known as it began");
        assert!(at(&hours, midnight + 27) > Bits::whole(6));
        let mut restless = Hours::default();
        for hour in 1..100_000 {
            restless.visit(hour * HOUR_MS);
            restless.learn();
        }
        assert!(restless.days.iter().sum::<u64>() < MOST_COUNTED && restless.days.len() == HOURS);
        assert!(at(&restless, 100_000) < Bits::whole(5));
    }
}
