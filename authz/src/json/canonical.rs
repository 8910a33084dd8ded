//! RFC 8785, the JSON Canonicalization Scheme: one text for each value, however it was written.

use super::{Kind, Value, find_special};
use crate::order;

/// Appends the canonical text of a value.
///
/// Numbers are read as IEEE 754 doubles, as the scheme has it: integers beyond 2^53 lose digits.
pub(crate) fn append(value: Value<'_>, out: &mut Vec<u8>) {
    match value.kind() {
        Kind::Null | Kind::Bool => out.extend_from_slice(value.raw().as_bytes()),
        Kind::Number => number(value.raw(), out),
        Kind::String => string(&value.as_str().unwrap_or_default(), out),
        Kind::Array => {
            out.push(b'[');
            for (index, element) in value.as_array().into_iter().flatten().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                append(element, out);
            }
            out.push(b']');
        }
        Kind::Object => {
            let mut members: Vec<_> = value.entries().into_iter().flatten().collect();
            // Section 3.2.3: by UTF-16 code units.
            order::sort_by(&mut members, |(one, _), (other, _)| {
                one.encode_utf16().cmp(other.encode_utf16())
            });
            out.push(b'{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                string(&key, out);
                out.push(b':');
                append(member, out);
            }
            out.push(b'}');
        }
    }
}

/// Section 3.2.2.2: only what JSON must escape, in the shortest form.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(position) = find_special(rest) {
        let (plain, tail) = rest.split_at(position);
        out.extend_from_slice(plain);
        let Some((&byte, tail)) = tail.split_first() else {
            break;
        };
        escape(byte, out);
        rest = tail;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        b'"' | b'\\' => byte,
        _ => {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Section 3.2.2.3: as ECMAScript writes a number (`Number::toString`).
///
/// A number that no double holds stands as it was written: what pins it must not take it for another.
fn number(raw: &str, out: &mut Vec<u8>) {
    let Some(value) = raw.parse::<f64>().ok().filter(|value| value.is_finite()) else {
        out.extend_from_slice(raw.as_bytes());
        return;
    };
    if value == 0.0 {
        out.push(b'0');
        return;
    }
    let (digits, point) = shortest(value.abs());
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if value < 0.0 {
        out.push(b'-');
    }
    let text = match point {
        _ if count <= point && point <= 21 => format!("{digits}{}", zeros(point - count)),
        1..=21 => {
            let (whole, part) = digits
                .split_at_checked(point.unsigned_abs() as usize)
                .unwrap_or((&digits, ""));
            format!("{whole}.{part}")
        }
        -5..=0 => format!("0.{}{digits}", zeros(-point)),
        _ => {
            let (first, rest) = digits.split_at_checked(1).unwrap_or((&digits, ""));
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{first}{dot}{rest}e{:+}", point - 1)
        }
    };
    out.extend_from_slice(text.as_bytes());
}

/// The fewest digits that read back as the same double, those of an even last one where two are as near, and where the decimal
/// point stands in them.
///
/// As `serde_json` has them: of two that are as near, what Rust formats is not always the even one.
fn shortest(value: f64) -> (String, i32) {
    let text = serde_json::Number::from_f64(value).map(|number| number.to_string());
    let text = text.unwrap_or_default();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = [whole, part].concat();
    let digits = all.trim_start_matches('0');
    let before =
        i32::try_from(whole.len() + digits.len()).unwrap_or(i32::MAX) - i32::try_from(all.len()).unwrap_or(i32::MAX);
    let point = exponent.parse().unwrap_or(0_i32).saturating_add(before);
    (digits.trim_end_matches('0').to_owned(), point)
}

fn zeros(count: i32) -> String {
    "0".repeat(usize::try_from(count).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use crate::json::{Limits, parse};

    use super::*;

    fn canonical(text: &str) -> String {
        let mut out = Vec::new();
        append(parse(text.as_bytes(), &Limits::REQUEST).unwrap().root(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_follow_rfc_8785() {
        let mut out = Vec::new();
        string("€$\u{f}\nA'B\"\\\\\"/\u{7f}\u{1f}", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\u{7f}\\u001f\""
        );
    }

    /// RFC 8785, section 3.2.2.2.
    #[test]
    fn each_control_character_has_one_spelling() {
        for byte in 0..=b' ' {
            let mut out = Vec::new();
            string(&char::from(byte).to_string(), &mut out);
            let expected = match byte {
                0x08 => r"\b".to_owned(),
                b'\t' => r"\t".to_owned(),
                b'\n' => r"\n".to_owned(),
                0x0c => r"\f".to_owned(),
                b'\r' => r"\r".to_owned(),
                b' ' => " ".to_owned(),
                _ => format!("\\u{byte:04x}"),
            };
            assert_eq!(String::from_utf8(out).unwrap(), format!("\"{expected}\""));
        }
    }

    /// RFC 8785, sections 3.2.2 and 3.2.3, and its appendix B.
    #[test]
    fn the_examples_of_rfc_8785() {
        assert_eq!(
            canonical(
                r#"{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
                    "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"#
            ),
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        assert_eq!(
            canonical(
                r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",
                    "\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#
            ),
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}"
        );
        for (bits, text) in [
            (0x0000_0000_0000_0000_u64, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ] {
            let mut out = Vec::new();
            number(&format!("{:e}", f64::from_bits(bits)), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn one_text_for_each_value() {
        for (one, other) in [
            (r#"{"a":1,"b":2}"#, "{ \"b\" : 2.0,\n\"a\":1e0 }"),
            (r#""\u0041""#, r#""A""#),
            ("[-0, 10.50, 1E2]", "[0,10.5,100]"),
        ] {
            assert_eq!(canonical(one), canonical(other));
        }
        for (one, other) in [
            ("1e400", "2e400"),
            ("[]", "{}"),
            (r#"{"a":null}"#, "{}"),
            (r#""1""#, "1"),
            ("[1,2]", "[2,1]"),
        ] {
            assert_ne!(canonical(one), canonical(other));
        }
    }
}
