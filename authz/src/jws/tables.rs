//! Ed25519 in a third of the time, by tables of multiples of keys that verify often.
//!
//! Half of a verification is doublings. With the multiples of the key and of the base point by powers of 2^32 at hand, 24
//! of 256 are left, and every window of eight bits costs one addition. The verdict is that of
//! [`VerifyingKey::verify_strict`], bit for bit: the tests hold the two against each other. Nothing here is secret, so nothing
//! needs constant time.

use std::fmt;

use curve25519_dalek::{EdwardsPoint, Scalar, constants::ED25519_BASEPOINT_POINT, traits::Identity as _};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha512};

use crate::token::Issuers;

/// The most keys with a table of their own, 164 KB each; others are verified without.
///
/// One issuer needs two while its key rotates. Bounded, because a bundle may list many issuers and a sidecar has little
/// memory.
pub const MAX_TABLES: usize = 4;

/// A table has the multiples of a point by these powers of two: 2^0, 2^32, 2^64 …
const COLUMNS: usize = 8;
/// How many bytes of a scalar each column stands for.
const ROWS: usize = 4;
/// 1 to 128 times: digits are signed.
const MULTIPLES: usize = 128;

/// Tables of the keys that verify often.
#[derive(Debug, Default)]
pub struct KeyTables {
    /// None while there are no keys.
    base: Option<Table>,
    keys: Vec<KeyTable>,
}

#[derive(Debug)]
struct KeyTable {
    key: VerifyingKey,
    minus_key: Table,
}

impl KeyTables {
    /// No tables: every verification takes the long way.
    pub const NONE: &'static Self = &Self {
        base: None,
        keys: Vec::new(),
    };

    /// Tables of the first [`MAX_TABLES`] Ed25519 keys of `issuers`; those that `before` has are kept, the rest are made,
    /// half a millisecond each.
    #[must_use]
    pub fn of(issuers: &Issuers, mut before: Self) -> Self {
        let keys = issuers
            .iter()
            .flat_map(|(_, keys)| keys.keys())
            .filter_map(|key| key.point());
        let keys: Vec<KeyTable> = keys
            .filter(|key| !key.is_weak())
            .take(MAX_TABLES)
            .map(|key| match before.keys.iter().position(|table| table.key == *key) {
                Some(known) => before.keys.swap_remove(known),
                None => KeyTable {
                    key: *key,
                    minus_key: Table::new(-key.to_edwards()),
                },
            })
            .collect();
        let base = (!keys.is_empty()).then(|| before.base.unwrap_or_else(|| Table::new(ED25519_BASEPOINT_POINT)));
        Self { base, keys }
    }

    /// Whether `signature` is that of `key` over `message`, as `verify_strict` says.
    pub(super) fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
        match (&self.base, self.keys.iter().find(|table| table.key == *key)) {
            (Some(base), Some(table)) => table.verify(base, message, signature).is_some(),
            _ => key.verify_strict(message, signature).is_ok(),
        }
    }
}

impl KeyTable {
    /// RFC 8032, section 5.1.7, without the cofactor: [s]B - [k]A must be the point that R encodes.
    ///
    /// R is never decoded. An encoding that is not canonical, or of no point, is not the one that a point is written as;
    /// and whether R has a small order is asked of the point that it must equal. That A has none was asked when its table
    /// was made.
    fn verify(&self, base: &Table, message: &[u8], signature: &Signature) -> Option<()> {
        let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(*signature.s_bytes()))?;
        let challenge = Sha512::new()
            .chain_update(signature.r_bytes())
            .chain_update(self.key.as_bytes())
            .chain_update(message);
        let k = Scalar::from_bytes_mod_order_wide(&challenge.finalize().into());
        let expected = sum_of_multiples([(base, &s), (&self.minus_key, &k)])?;
        (!expected.is_small_order() && expected.compress().as_bytes() == signature.r_bytes()).then_some(())
    }
}

/// The sum of each table's point times its scalar.
fn sum_of_multiples<const N: usize>(terms: [(&Table, &Scalar); N]) -> Option<EdwardsPoint> {
    let terms = terms.map(|(table, scalar)| (table, digits(scalar)));
    let mut sum = EdwardsPoint::identity();
    for row in (0..ROWS).rev() {
        if row + 1 < ROWS {
            sum = times_256(&sum);
        }
        for (table, digits) in &terms {
            let digits = digits.iter().skip(row).step_by(ROWS);
            for (multiples, &digit) in table.0.chunks_exact(MULTIPLES).zip(digits) {
                // INVARIANT: a digit is at most 128, and a column has that many multiples.
                let place = usize::from(digit.unsigned_abs());
                match digit.signum() {
                    1 => sum += multiples.get(place - 1)?,
                    -1 => sum -= multiples.get(place - 1)?,
                    _ => {}
                }
            }
        }
    }
    Some(sum)
}

/// The scalar in base 256, lowest first, with digits from -127 to 128.
fn digits(scalar: &Scalar) -> [i16; COLUMNS * ROWS] {
    let mut carry = 0;
    // INVARIANT: a reduced scalar is less than 2^253, so its last digit takes a carry and gives none.
    scalar.to_bytes().map(|byte| {
        let digit = i16::from(byte) + carry;
        carry = i16::from(digit > 128);
        digit - 256 * carry
    })
}

fn times_256(point: &EdwardsPoint) -> EdwardsPoint {
    let times_64 = point.mul_by_cofactor().mul_by_cofactor();
    let times_128 = times_64 + times_64;
    times_128 + times_128
}

/// For each column the point times 1 to 128 times its power.
struct Table(Box<[EdwardsPoint]>);

impl Table {
    fn new(point: EdwardsPoint) -> Self {
        let mut table = Vec::with_capacity(COLUMNS * MULTIPLES);
        let mut power = point;
        for _ in 0..COLUMNS {
            let mut multiple = power;
            for _ in 1..MULTIPLES {
                table.push(multiple);
                multiple += power;
            }
            table.push(multiple);
            // The last multiple is 2^7 times the column's power; the next column's is 2^32 times it.
            power = times_256(&times_256(&times_256(&(multiple + multiple))));
        }
        Self(table.into())
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests;
