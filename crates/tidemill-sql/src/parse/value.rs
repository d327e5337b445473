//! Small things that clauses have in common: written settings, lengths of time, column types.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::{Span, Token};
use tidemill_stream::source::sparse_type;

use super::cursor::{Cursor, Name};
use crate::diagnostic::{Checked, Fault};

/// `name = value`, the value as text.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub name: Name,
    pub value: String,
    pub value_span: Span,
}

/// One `name = value`.
pub(crate) fn setting(c: &mut Cursor) -> Checked<Written> {
    let name = c.dotted_name("an attribute's name")?;
    c.expect(&Token::Eq)?;
    let (value, value_span) = value(c)?;
    Ok(Written { name, value, value_span })
}

/// A number with its sign, a string, or a bare word.
pub(super) fn value(c: &mut Cursor) -> Checked<(String, Span)> {
    let begin = c.here();
    let sign = if c.take(&Token::Minus) { "-" } else { "" };
    let refused = c.expected("a value: a number, 'text', true or false", &[]);
    let Some(t) = c.next() else { return Err(refused) };
    let span = Span::new(begin.start, t.span.end);
    match &t.token {
        Token::Number(n, _) => Ok((format!("{sign}{n}"), span)),
        Token::SingleQuotedString(s) if sign.is_empty() => Ok((s.clone(), span)),
        Token::Word(w) if sign.is_empty() => Ok((w.value.clone(), span)),
        _ => Err(refused),
    }
}

/// A whole number.
pub(crate) fn whole(c: &mut Cursor, what: &str) -> Checked<(u64, Span)> {
    let refused = c.expected(what, &[]);
    match c.next().map(|t| (&t.token, t.span)) {
        Some((Token::Number(n, _), span)) => match n.parse() {
            Ok(n) => Ok((n, span)),
            Err(_) => Err(Fault::new(span, format!("expected {what}, found '{n}'"))),
        },
        _ => Err(refused),
    }
}

/// `INTERVAL '10' SECOND`, in milliseconds.
pub(crate) fn interval(c: &mut Cursor) -> Checked<(i64, Span)> {
    match c.is_word("INTERVAL") {
        true => length(c),
        false => Err(c.expected("INTERVAL", &["INTERVAL"])),
    }
}

/// The same, with or without the word INTERVAL.
pub(crate) fn length(c: &mut Cursor) -> Checked<(i64, Span)> {
    let begin = c.here();
    c.take_word("INTERVAL");
    let refused = c.expected("a length of time like INTERVAL '10' SECOND", &[]);
    let (number, mut end) = match c.next().map(|t| (&t.token, t.span)) {
        Some((Token::SingleQuotedString(s), span)) => (s.clone(), span.end),
        Some((Token::Number(n, _), span)) => (n.clone(), span.end),
        _ => return Err(refused),
    };
    let unit = match number.trim().split_once(' ') {
        Some((_, unit)) => unit.to_string(),
        None => {
            let unit = c.name("a unit: SECOND, MINUTE, HOUR or DAY")?;
            end = unit.span.end;
            unit.text
        }
    };
    let span = Span::new(begin.start, end);
    let number = number.trim().split(' ').next().unwrap_or("").to_string();
    Ok((interval_ms(&number, &unit, span)?, span))
}

/// Milliseconds of so many units. No window of ours is longer than ten years.
pub(crate) fn interval_ms(number: &str, unit: &str, span: Span) -> Checked<i64> {
    const UNITS: [(&str, f64); 6] =
        [("MILLISECOND", 1.0), ("SECOND", 1e3), ("MINUTE", 6e4), ("HOUR", 3.6e6), ("DAY", 8.64e7), ("WEEK", 6.048e8)];
    const MS_MAX: f64 = 3660.0 * 8.64e7;
    let upper = unit.to_ascii_uppercase();
    let word = upper.strip_suffix('S').unwrap_or(&upper);
    let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == word) else {
        let fault = Fault::new(span, format!("unknown time unit '{unit}'"));
        return Err(fault.nearest(word, UNITS.map(|u| u.0), "units"));
    };
    match number.parse::<f64>() {
        Ok(n) if n.is_finite() && n >= 0.0 && n * size <= MS_MAX => Ok((n * size).round() as i64),
        Ok(_) => Err(Fault::new(span, format!("a length of time is between 0 and ten years, got '{number} {word}'"))),
        Err(_) => Err(Fault::new(span, format!("'{number}' is not a number of {word}s"))),
    }
}

const TYPES: [&str; 14] = [
    "BIGINT",
    "INT8",
    "INT",
    "INTEGER",
    "DOUBLE",
    "FLOAT8",
    "REAL",
    "FLOAT",
    "STRING",
    "VARCHAR",
    "TEXT",
    "BOOLEAN",
    "TIMESTAMP",
    "SPARSE",
];

/// A column's type.
pub(crate) fn column_type(c: &mut Cursor) -> Checked<DataType> {
    let name = c.name("a column type")?;
    let ty = match name.text.to_ascii_uppercase().as_str() {
        "BIGINT" | "INT8" => DataType::Int64,
        "INT" | "INTEGER" => DataType::Int32,
        "DOUBLE" => {
            c.take_word("PRECISION");
            DataType::Float64
        }
        "FLOAT8" => DataType::Float64,
        "REAL" | "FLOAT" => DataType::Float32,
        "STRING" | "TEXT" | "VARCHAR" => DataType::Utf8,
        "BOOLEAN" | "BOOL" => DataType::Boolean,
        "TIMESTAMP" => DataType::Timestamp(TimeUnit::Millisecond, None),
        "SPARSE" => sparse_type(),
        _ => {
            return Err(
                Fault::new(name.span, format!("unknown type '{}'", name.text)).nearest(&name.text, TYPES, "types")
            );
        }
    };
    // VARCHAR(20), TIMESTAMP(3): the length says nothing that we check.
    if matches!(ty, DataType::Utf8 | DataType::Timestamp(..)) && c.take(&Token::LParen) {
        whole(c, "a length")?;
        c.expect(&Token::RParen)?;
    }
    Ok(ty)
}

/// The SQL name of a type.
pub(crate) fn type_name(ty: &DataType) -> String {
    match ty {
        DataType::Int64 => "BIGINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Float32 => "REAL".into(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "STRING".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Timestamp(..) => "TIMESTAMP".into(),
        DataType::Null => "NULL".into(),
        ty if *ty == sparse_type() => "SPARSE".into(),
        ty => ty.to_string(),
    }
}
