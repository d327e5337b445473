//! Lines that are written like one before them: the same keys in the same order, the same bytes around the values.
//!
//! In: a good line to learn from, then lines. Out: a row in the columns, or the answer that something in the line is not
//! plain: it is then read as any other. What is read here is what the reader of all JSON makes of the same line, bit for
//! bit. One producer writes all its lines alike, so most are compared with what is expected and not parsed.

use super::{Names, put_float, put_integer};
use crate::source::columns::{Column, Columns, Data};

/// Keys of a line at most.
const VALUES_MAX: usize = 1_024;
/// Digits that are exact in double precision whatever they are.
const DIGITS_MAX: usize = 15;
const POWERS: [f64; DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// What lines look like.
pub(super) struct Pattern {
    values: Vec<Value>,
    /// Behind the last value.
    end: Vec<u8>,
    /// Keys that no column has.
    pub unknown: u64,
}

struct Value {
    /// What stands between the value before and this one.
    before: Vec<u8>,
    /// `None`: nobody asked for it.
    column: Option<usize>,
}

impl Pattern {
    /// What lines like this good one look like; `None` when it has values within values, or escapes in a key.
    pub fn learn(line: &[u8], names: &Names, columns: &mut Columns) -> Option<Self> {
        let mut pattern = Self { values: Vec::new(), end: Vec::new(), unknown: 0 };
        let (mut begin, mut at) = (0, passed_space(line, 0));
        let expect = |at: usize, byte: u8| (line.get(at) == Some(&byte)).then(|| passed_space(line, at + 1));
        at = expect(at, b'{')?;
        while line.get(at) == Some(&b'"') {
            let key = at + 1;
            at = string(line, at)?;
            let key = std::str::from_utf8(&line[key..at - 1]).ok()?;
            at = expect(passed_space(line, at), b':')?;
            let column = names.find(key, super::hash(key));
            if pattern.values.len() == VALUES_MAX
                || column.is_some_and(|i| matches!(columns.all()[i].data(), Data::Sparse { .. }))
            {
                return None;
            }
            pattern.unknown += column.is_none() as u64;
            pattern.values.push(Value { before: line[begin..at].to_vec(), column });
            begin = scalar(line, at)?;
            at = passed_space(line, begin);
            at = expect(at, b',').unwrap_or(at);
        }
        pattern.end = line[begin..].to_vec();
        (line.get(at) == Some(&b'}')).then_some(pattern)
    }

    /// Gives the columns the values of a line; `false` when it does not look so: some columns may then have been given one.
    /// `absent_if_null`: a column for which `null` means that the key is not there.
    #[inline]
    pub fn push(&self, line: &[u8], columns: &mut Columns, absent_if_null: Option<usize>) -> bool {
        let (columns, mut at) = (columns.all(), 0);
        for Value { before, column } in &self.values {
            if !line[at..].starts_with(before) {
                return false;
            }
            at += before.len();
            let end = match column {
                Some(i) => put(&mut columns[*i], line, at, absent_if_null == Some(*i)),
                None => scalar(line, at),
            };
            match end {
                Some(end) => at = end,
                None => return false,
            }
        }
        line[at..] == self.end
    }
}

/// Puts the value at `at` into its column and tells where it ends; `None` when it is not plain.
#[inline]
fn put(column: &mut Column, line: &[u8], at: usize, absent_if_null: bool) -> Option<usize> {
    match column.data() {
        Data::Int64(_) | Data::Timestamp(_) | Data::Int32(_) if line.get(at) != Some(&b'n') => {
            let (digits, end) = number(line, at)?;
            if digits.places.is_some() {
                return None;
            }
            let x = digits.mantissa as i64;
            put_integer(column, if digits.negative { -x } else { x }).ok()?;
            Some(end)
        }
        Data::Float64(_) | Data::Float32(_) if line.get(at) != Some(&b'n') => {
            let (digits, end) = number(line, at)?;
            let x = digits.mantissa as i64 as f64 / POWERS[digits.places.unwrap_or(0)];
            put_float(column, if digits.negative { -x } else { x }).ok()?;
            Some(end)
        }
        Data::Utf8 { .. } if line.get(at) == Some(&b'"') => {
            let end = string(line, at)?;
            column.push_text(&line[at + 1..end - 1]).ok()?;
            Some(end)
        }
        Data::Bool(values) if line.get(at) != Some(&b'n') => {
            let (truth, end) = truth(line, at)?;
            values.append(truth);
            column.commit_value();
            Some(end)
        }
        _ if absent_if_null || !line[at..].starts_with(b"null") => None,
        _ => {
            column.push_null().ok()?;
            Some(at + 4)
        }
    }
}

/// A number without an exponent and of few digits.
struct Digits {
    negative: bool,
    mantissa: u64,
    /// Behind the point, where there is one.
    places: Option<usize>,
}

#[inline]
fn number(line: &[u8], at: usize) -> Option<(Digits, usize)> {
    let negative = line.get(at) == Some(&b'-');
    let first = at + negative as usize;
    let (mut mantissa, mut i) = (0u64, first);
    let mut digits = |mut i: usize| {
        while let Some(digit) = line.get(i).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            i += 1;
        }
        i
    };
    i = digits(i);
    let whole = i - first;
    // JSON has no 007.
    if whole == 0 || whole > DIGITS_MAX || (whole > 1 && line[first] == b'0') {
        return None;
    }
    let mut places = None;
    if line.get(i) == Some(&b'.') {
        let point = i + 1;
        i = digits(point);
        let behind = i - point;
        if behind == 0 || whole + behind > DIGITS_MAX {
            return None;
        }
        places = Some(behind);
    }
    // An exponent is not what follows a value, so the comparison with what should follow fails.
    Some((Digits { negative, mantissa, places }, i))
}

fn truth(line: &[u8], at: usize) -> Option<(bool, usize)> {
    match &line[at..] {
        [b't', b'r', b'u', b'e', ..] => Some((true, at + 4)),
        [b'f', b'a', b'l', b's', b'e', ..] => Some((false, at + 5)),
        _ => None,
    }
}

/// Behind the text that begins at `at` with its quote; `None` when it has escapes, or is none.
#[inline]
fn string(line: &[u8], at: usize) -> Option<usize> {
    const HIGH: u64 = every(0x80);
    if line.get(at) != Some(&b'"') {
        return None;
    }
    let (begin, mut i, mut seen) = (at + 1, at + 1, 0u64);
    // The lowest byte that is marked is one; those above it may be marked for nothing.
    while let Some(word) = line.get(i..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*word);
        let equals = |byte: u8| {
            let x = word ^ every(byte);
            x.wrapping_sub(every(1)) & !x
        };
        let marked = (equals(b'"') | equals(b'\\') | (word.wrapping_sub(every(b' ')) & !word)) & HIGH;
        if marked != 0 {
            let count = marked.trailing_zeros() / 8;
            seen |= word & !(u64::MAX << (8 * count));
            i += count as usize;
            break;
        }
        seen |= word;
        i += 8;
    }
    while line.get(i).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..b' ')) {
        seen |= u64::from(line[i]);
        i += 1;
    }
    if line.get(i) != Some(&b'"') || (seen & HIGH != 0 && std::str::from_utf8(&line[begin..i]).is_err()) {
        return None;
    }
    Some(i + 1)
}

const fn every(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Behind a value that is none of several; `None` when it is not plain.
fn scalar(line: &[u8], at: usize) -> Option<usize> {
    match line.get(at)? {
        b'"' => string(line, at),
        b'n' => line[at..].starts_with(b"null").then_some(at + 4),
        b't' | b'f' => truth(line, at).map(|(_, end)| end),
        _ => number(line, at).map(|(_, end)| end),
    }
}

fn passed_space(line: &[u8], mut at: usize) -> usize {
    while matches!(line.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::source::{json::JsonDecoder, tests::columns};

    const COLUMNS: &str = "a BIGINT, b INT, c DOUBLE, d FLOAT, e STRING, f BOOLEAN, g TIMESTAMP, h BIGINT NOT NULL";

    /// What a decoder says of lines: with what it learned of those before, and with nothing learned.
    fn compare(lines: &[Vec<u8>]) {
        let schema = columns(COLUMNS);
        let (mut learning, mut unknown) = (JsonDecoder::new(schema.clone()).unwrap(), 0);
        for (i, line) in lines.iter().enumerate() {
            let mut fresh = JsonDecoder::new(schema.clone()).unwrap();
            let fill = (i % 3 == 0).then_some((0, 77));
            let shown = String::from_utf8_lossy(line);
            assert_eq!(learning.push_line_at(line, fill), fresh.push_line_at(line, fill), "{shown}");
            unknown += fresh.unknown_keys();
            let (row, expected) = (learning.finish(), fresh.finish());
            assert_eq!(row, expected, "{shown}");
            assert_eq!(format!("{row:?}"), format!("{expected:?}"), "{shown}: the sign of zero, too");
        }
        assert_eq!(learning.unknown_keys(), unknown);
    }

    #[test]
    fn lines_like_the_one_before_are_read_as_any_other() {
        let like = |values: [&str; 4]| {
            let [a, c, e, x] = values;
            format!("{{\"a\": {a},\"c\":{c}, \"e\":{e},\"h\":1,\"other\":{x},\"f\":true,\"d\":0.25}}").into_bytes()
        };
        let mut lines = vec![like(["1", "0.5", "\"x\"", "null"])];
        for odd in [
            "-0",
            "0",
            "-1",
            "007",
            "1.0",
            "1e3",
            "1.",
            "-",
            "123456789012345",
            "1234567890123456",
            "0.1",
            "-0.0",
            "3.4e38",
            "123.4567890123456789",
            "null",
            "nul",
            "true",
            "\"text\"",
            "\"é\"",
            "\"a\\nb\"",
            "\"a\tb\"",
            "\"",
            "\"quote \\\" within and long enough\"",
            "\"just long enough, eight\"",
            "[1]",
            "{}",
            "",
            "1 ",
            "1,\"a\":2",
            "tru",
            "falsehood",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "2147483648",
        ] {
            for place in 0..4 {
                let mut values = ["5", "2.5", "\"y\"", "7"];
                values[place] = odd;
                lines.push(like(values));
                lines.push(like(["6", "3.5", "\"z\"", "8"]));
            }
        }
        lines.push(b"{\"a\": 1,\"c\":2.5, \"e\":\"\xff\",\"h\":1,\"other\":1,\"f\":true,\"d\":0.25}".to_vec());
        lines.push(b"{\"a\": 1,\"c\":2.5, \"e\":\"y\",\"h\":null,\"other\":1,\"f\":true,\"d\":0.25}".to_vec());
        lines.push(b"{\"a\": 1,\"c\":2.5, \"e\":\"y\",\"h\":1,\"other\":1,\"f\":true,\"d\":0.25} x".to_vec());
        compare(&lines);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_lines_come_they_are_read_as_if_nothing_was_learned(
            values in prop::collection::vec(
                ("-?[0-9]{1,17}|null", "-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,9})?(e[0-9])?", "[ -~éß]{0,20}", any::<bool>(), 0u8..4),
                1..40,
            )
        ) {
            let lines: Vec<Vec<u8>> = values
                .into_iter()
                .map(|(a, c, e, f, style)| match style {
                    0 => format!("{{\"a\":{a},\"c\":{c},\"e\":\"{e}\",\"f\":{f},\"h\":3}}"),
                    1 => format!("{{\"a\":{a},\"c\":{c},\"e\":\"{e}\",\"f\":{f},\"h\":3}}"),
                    2 => format!("{{\"h\":1,\"d\":{c},\"unknown\":\"{e}\",\"b\":{a}}}"),
                    _ => format!(" {{ \"e\" : \"{e}\" , \"h\" : {a} }} "),
                })
                .map(String::into_bytes)
                .collect();
            compare(&lines);
        }
    }
}
