//! Why a score is what it is, in words for people. The words decide nothing.

use serde::{Deserialize, Serialize};

use super::bits::Bits;
use super::outcomes::{Measure, Quantity};

/// What is less surprising than this needs no explanation.
const LEAST: Bits = Bits::whole(4);

/// Reasons that are kept.
const MOST: usize = 6;

/// Below this score there is nothing to explain any more.
const EXPLAINED_FROM: u64 = 10;

/// The weightiest reasons since the score was last low.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reasons(Vec<Reason>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reason {
    /// What it is about: of one thing there is one reason.
    about: String,
    words: String,
    /// In 1/65536 of a bit.
    weight: u64,
}

impl Reasons {
    pub(super) fn words(&self) -> Vec<String> {
        self.0.iter().map(|reason| reason.words.clone()).collect()
    }

    /// Forgets reasons of a score that has decayed.
    pub(super) fn age(&mut self, score: u64) {
        if score < EXPLAINED_FROM {
            self.0.clear();
        }
    }

    pub(super) fn note_use(&mut self, weight: Bits, thing: &str, uses: u64, calls: u64) {
        self.note(weight, thing, || match uses {
            0 => format!("{thing} never used in {} calls", grouped(calls)),
            1 => format!("{thing} used once in {} calls", grouped(calls)),
            _ => format!("{thing} used {} times in {} calls", grouped(uses), grouped(calls)),
        });
    }

    pub(super) fn note_contact(&mut self, weight: Bits, service: &str) {
        self.note(weight, service, || format!("first contact with {service}"));
    }

    pub(super) fn note_order(&mut self, weight: Bits, before: &str, step: &str, uses: u64, seen: u64) {
        let about = format!("{before} > {step}");
        self.note(weight, &about, || match seen {
            0 => format!("{step} straight after {before}"),
            _ => format!("{step} after {before} {} times in {}", grouped(uses), grouped(seen)),
        });
    }

    pub(super) fn note_kind(&mut self, weight: Bits, first: &str, step: &str, uses: u64, seen: u64) {
        let about = format!("{first} >> {step}");
        self.note(weight, &about, || match seen {
            0 => format!("{step} in a request that began with {first}"),
            _ => format!(
                "{step} {} times in {} calls of requests that began with {first}",
                grouped(uses),
                grouped(seen)
            ),
        });
    }

    pub(super) fn note_repetition(&mut self, weight: Bits, step: &str, uses: u64) {
        let about = format!("{step} again");
        self.note(weight, &about, || {
            format!("{step} {} times in one request", grouped(uses))
        });
    }

    pub(super) fn note_length(&mut self, weight: Bits, calls: u64) {
        self.note(weight, "length", || format!("{} calls in one request", grouped(calls)));
    }

    pub(super) fn note_whole(&mut self, weight: Bits, calls: u64) {
        self.note(weight, "whole", || match calls {
            1 => "a request that begins unlike its others".to_owned(),
            _ => format!("{} calls of one request unlike its others", grouped(calls)),
        });
    }

    pub(super) fn note_odd(&mut self, weight: Bits, odd: u32) {
        self.note(weight, "odd", || format!("{odd} of the last 64 calls are unusual"));
    }

    pub(super) fn note_rate(&mut self, weight: Bits, calls: u64, usual: Option<u64>) {
        self.note(weight, "rate", || match usual {
            Some(usual) => format!("{} calls in 10 s, usually {}", grouped(calls), grouped(usual)),
            None => format!("{} calls in 10 s", grouped(calls)),
        });
    }

    pub(super) fn note_denials(&mut self, weight: Bits, denials: u64) {
        self.note(weight, "denials", || format!("{} denials in 60 s", grouped(denials)));
    }

    pub(super) fn note_failures(&mut self, weight: Bits, failures: u64, ends: u64) {
        self.note(weight, "failures", || {
            format!("{} of {} calls failed in 60 s", grouped(failures), grouped(ends))
        });
    }

    /// `usual` is the hour of the day, on how many days it had calls before, and how many hours with calls there were.
    pub(super) fn note_hour(&mut self, weight: Bits, usual: (usize, u64, u64), calls: u64) {
        let (hour, days, all) = usual;
        self.note(weight, "hour", || match days {
            0 => format!("calls at {hour:02} UTC, never before in {} calls", grouped(calls)),
            _ => format!(
                "calls at {hour:02} UTC, {} of {} hours with calls before",
                grouped(days),
                grouped(all)
            ),
        });
    }

    pub(super) fn note_outcome(&mut self, step: &str, measure: &Measure) {
        let Measure {
            quantity,
            value,
            most,
            surprise,
            ..
        } = *measure;
        let about = format!("{quantity:?} {step}");
        self.note(surprise, &about, || match quantity {
            Quantity::Answer => format!(
                "read {} in an answer to {step}, usually {} at most",
                bytes(value),
                bytes(most)
            ),
            Quantity::Request => format!(
                "sent {} in a request to {step}, usually {} at most",
                bytes(value),
                bytes(most)
            ),
            Quantity::Time => format!(
                "waited {} for an answer to {step}, usually {} at most",
                time(value),
                time(most)
            ),
        });
    }

    fn note(&mut self, weight: Bits, about: &str, words: impl FnOnce() -> String) {
        if weight < LEAST {
            return;
        }
        let weight = weight.raw();
        let known = self.0.iter().position(|reason| reason.about == about);
        match known {
            Some(at) if self.0.get(at).is_some_and(|reason| reason.weight >= weight) => return,
            Some(at) => {
                self.0.remove(at);
            }
            None => {}
        }
        // Behind those that weigh as much: what came first explains more.
        let at = self.0.partition_point(|reason| reason.weight >= weight);
        if at < MOST {
            self.0.insert(
                at,
                Reason {
                    about: about.to_owned(),
                    words: words(),
                    weight,
                },
            );
            self.0.truncate(MOST);
        }
    }
}

/// Rounded down to a unit in which it is at least 1.
fn bytes(number: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (number, 0);
    while number >= 1024 && unit + 1 < units.len() {
        number /= 1024;
        unit += 1;
    }
    format!("{} {}", grouped(number), units.get(unit).copied().unwrap_or_default())
}

/// Rounded down to milliseconds, to seconds from ten on, and below ten to tenths of a millisecond.
fn time(micros: u64) -> String {
    match micros / 1000 {
        millis if millis < 10 => format!("{millis}.{} ms", micros % 1000 / 100),
        millis if millis < 10_000 => format!("{} ms", grouped(millis)),
        millis => format!("{} s", grouped(millis / 1000)),
    }
}

/// 2310 as 2,310.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn the_weightiest_come_first_and_one_thing_is_told_once() {
        let mut reasons = Reasons::default();
        reasons.note_use(Bits::whole(3), "usual", 3, 9);
        reasons.note_use(Bits::whole(11), "bash", 0, 2310);
        reasons.note_denials(Bits::whole(5), 3);
        reasons.note_denials(Bits::whole(40), 14);
        reasons.note_denials(Bits::whole(30), 9);
        reasons.note_rate(Bits::whole(6), 1_234_567, Some(4));
        reasons.note_order(Bits::whole(5), "read", "bash", 0, 120);
        reasons.note_contact(Bits::whole(4), "data/hr");
        reasons.note_length(Bits::whole(3), 40);
        assert_eq!(
            reasons.words(),
            [
                "14 denials in 60 s",
                "bash never used in 2,310 calls",
                "1,234,567 calls in 10 s, usually 4",
                "bash after read 0 times in 120",
                "first contact with data/hr",
            ]
        );
        let mut request = Reasons::default();
        request.note_kind(Bits::whole(9), "search", "send", 1, 1200);
        request.note_kind(Bits::whole(8), "draw", "send", 0, 0);
        request.note_repetition(Bits::whole(7), "send", 12);
        request.note_length(Bits::whole(6), 40);
        request.note_whole(Bits::whole(5), 3);
        assert_eq!(
            request.words(),
            [
                "send 1 times in 1,200 calls of requests that began with search",
                "send in a request that began with draw",
                "send 12 times in one request",
                "40 calls in one request",
                "3 calls of one request unlike its others",
            ]
        );
        for number in 0..20 {
            reasons.note_use(Bits::whole(8), &number.to_string(), 1, 100);
        }
        assert_eq!(reasons.words().len(), MOST);
        assert_eq!(reasons.words()[2], "0 used once in 100 calls");
        reasons.age(EXPLAINED_FROM);
        assert_eq!(reasons.words().len(), MOST);
        reasons.age(EXPLAINED_FROM - 1);
        assert!(reasons.words().is_empty());
    }

    #[test]
    fn circumstances_have_words() {
        let mut reasons = Reasons::default();
        let measure = |quantity, value, most, bits| Measure {
            quantity,
            value,
            most,
            surprise: Bits::whole(bits),
            ..Measure::default()
        };
        reasons.note_outcome("sql_query", &measure(Quantity::Answer, 12 << 20, 1 << 18, 12));
        reasons.note_outcome("export", &measure(Quantity::Request, 1000, 512, 11));
        reasons.note_outcome("pandas", &measure(Quantity::Time, 12_400_000, 1 << 17, 10));
        reasons.note_failures(Bits::whole(9), 14, 20);
        reasons.note_hour(Bits::whole(8), (3, 0, 480), 2310);
        assert_eq!(
            reasons.words(),
            [
                "read 12 MiB in an answer to sql_query, usually 256 KiB at most",
                "sent 1,000 bytes in a request to export, usually 512 bytes at most",
                "waited 12 s for an answer to pandas, usually 131 ms at most",
                "14 of 20 calls failed in 60 s",
                "calls at 03 UTC, never before in 2,310 calls",
            ]
        );
        let mut seldom = Reasons::default();
        seldom.note_hour(Bits::whole(5), (23, 2, 1480), 2310);
        assert_eq!(seldom.words(), ["calls at 23 UTC, 2 of 1,480 hours with calls before"]);
        assert_eq!(
            (bytes(1023), bytes(1 << 60)),
            ("1,023 bytes".to_owned(), "1,048,576 TiB".to_owned())
        );
        assert_eq!(
            (time(999), time(9_999_999)),
            ("0.9 ms".to_owned(), "9,999 ms".to_owned())
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
