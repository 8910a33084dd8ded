//! Probabilities as bits of surprise, in whole numbers: the same records give the same score on every machine.
//!
//! A bit count is kept in 1/65536 of a bit. Where a tail is bounded and not computed, the bound is on the safe side: a
//! probability that is said to be larger than it is makes a score smaller.

use std::ops::{Add, Sub};

/// log2(e), in the unit of [`Bits`].
const LOG2_E: u64 = 94_548;

/// ln(2), in millionths.
const LN_2_MILLIONTHS: u64 = 693_147;

/// More than this no tail needs to say; it also keeps all arithmetic far from its limits.
const MOST: u64 = 256 << 16;

/// As many surprises are summed up at most: with [`MOST`] bits the terms stay below 2^100.
const MOST_TERMS: u64 = 16;

/// How surprising something is: −log2 of the probability of what is at least as unusual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bits(u64);

impl Bits {
    pub(super) const ZERO: Self = Self(0);

    pub(super) const fn whole(bits: u64) -> Self {
        Self(bits << 16)
    }

    pub(super) const fn from_raw(raw: u64) -> Self {
        if raw > MOST { Self(MOST) } else { Self(raw) }
    }

    pub(super) const fn raw(self) -> u64 {
        self.0
    }

    pub(super) fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::from_raw(self.0.saturating_add(other.0))
    }
}

/// Never below zero.
impl Sub for Bits {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.saturating_sub(other)
    }
}

/// log2 of a number that is at least 1, in the unit of [`Bits`], rounded down: the binary logarithm by repeated squaring.
fn log2(number: u64) -> u64 {
    let number = number.max(1);
    let whole = u64::from(63 - number.leading_zeros());
    // The mantissa in [1, 2), with 31 bits behind the point.
    let mut mantissa = if whole >= 31 {
        number >> (whole - 31)
    } else {
        number << (31 - whole)
    };
    let mut fraction = 0;
    for _ in 0..16 {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >> 32 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (whole << 16) | fraction
}

/// The surprise of a probability of `part` in `whole`.
pub(super) fn of_share(part: u64, whole: u64) -> Bits {
    Bits::from_raw(log2(whole).saturating_sub(log2(part)))
}

/// The surprise of `count` or more events where `expected_thousandths`/1000 are expected, if they come independently: the
/// Chernoff bound of Poisson's tail, `2^-(k log2(k/λ) - (k-λ) log2 e)`.
pub(super) fn of_count(count: u64, expected_thousandths: u64) -> Bits {
    let expected = expected_thousandths.max(1);
    let seen = count.saturating_mul(1000);
    if seen <= expected {
        return Bits::ZERO;
    }
    let ratio = log2(seen).saturating_sub(log2(expected));
    let gained = count.saturating_mul(ratio);
    let given_back = (seen - expected).saturating_mul(LOG2_E) / 1000;
    Bits::from_raw(gained.saturating_sub(given_back))
}

/// The surprise of `count` independent surprises that sum up to `sum` (Fisher's method): −2 Σ ln p has twice as many degrees
/// of freedom, whose tail is `e^-y (1 + y + y²/2 + … + y^(count-1)/(count-1)!)` with `y = -Σ ln p`.
pub(super) fn of_sum(sum: Bits, count: u64) -> Bits {
    let nats_thousandths = u128::from(sum.raw().saturating_mul(LN_2_MILLIONTHS) / 1000 / (1 << 16));
    let (mut term, mut terms) = (1_000_000_u128, 1_000_000_u128);
    for number in 1..count.min(MOST_TERMS) {
        term = term * nats_thousandths / (1000 * u128::from(number));
        terms += term;
    }
    Bits::from_raw(
        sum.raw()
            .saturating_sub(log2_wide(terms).saturating_sub(log2(1_000_000))),
    )
}

/// [`log2`] of a number that may not fit 64 bits.
fn log2_wide(number: u128) -> u64 {
    let shift = 64_u32.saturating_sub(number.leading_zeros());
    let high = u64::try_from(number >> shift).unwrap_or(u64::MAX);
    log2(high) + (u64::from(shift) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within a hundredth of a bit of what floating point says.
    fn about(bits: Bits, expected: f64) {
        let got = f64::from(u32::try_from(bits.raw()).unwrap_or(u32::MAX)) / 65_536.0;
        assert!((got - expected).abs() < 0.01, "{got} is not {expected}");
    }

    #[test]
    fn logarithms_are_right() {
        for number in [1, 2, 3, 7, 10, 1000, 999_999, 1 << 40, (1 << 40) + 12_345] {
            #[expect(clippy::cast_precision_loss, reason = "within 53 bits")]
            let expected = (number as f64).log2();
            about(Bits(log2(number)), expected);
        }
        about(of_share(1, 2310), 2310_f64.log2());
        about(of_share(3, 4), (4.0_f64 / 3.0).log2());
        assert_eq!(of_share(5, 5), Bits::ZERO);
        assert_eq!(of_share(6, 5), Bits::ZERO, "never less than certain");
    }

    #[test]
    fn counts_are_bounded_by_chernoff() {
        for (count, expected) in [(14_u32, 0.5_f64), (60, 20.0), (1, 0.05), (3, 0.05)] {
            let k = f64::from(count);
            let bound = k * (k / expected).log2() - (k - expected) * std::f64::consts::LOG2_E;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            let thousandths = (expected * 1000.0) as u64;
            about(of_count(count.into(), thousandths), bound);
        }
        assert_eq!(of_count(20, 20_000), Bits::ZERO);
        assert_eq!(of_count(0, 0), Bits::ZERO);
        assert_eq!(of_count(u64::MAX, 1), Bits(MOST), "bounded");
    }

    #[test]
    fn sums_are_fishers() {
        // 30 bits are 20.79 nats: 1 + y + y²/2 = 237.9, which is 7.89 bits.
        about(of_sum(Bits::whole(30), 3), 30.0 - 7.895);
        assert_eq!(of_sum(Bits::whole(9), 1), Bits::whole(9), "one is itself");
        assert_eq!(of_sum(Bits::ZERO, 16), Bits::ZERO);
        assert!(of_sum(Bits(MOST), 16) < Bits(MOST));
        for (sum, count) in [(8_u32, 2_u32), (40, 4), (100, 16), (256, 16)] {
            let y = f64::from(sum) * std::f64::consts::LN_2;
            let terms = (0..count).map(|power| (1..=power).map(|i| y / f64::from(i)).product::<f64>());
            let expected = f64::from(sum) - terms.sum::<f64>().log2();
            about(of_sum(Bits::whole(sum.into()), count.into()), expected);
        }
    }
}
