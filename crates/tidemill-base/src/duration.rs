//! Lengths of time as people write them: `250ms`, `15s`, `10m`, `1h`, `7d`.

use crate::{Error, Result};

const UNITS: [(&str, i64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Parses a length of time into milliseconds. A number without a unit is refused: nobody agrees on which it is.
pub fn parse_duration_ms(text: &str) -> Result<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let value: f64 = number.parse().map_err(|_| {
        Error::invalid(format!("'{text}' is not a length of time; write for example 250ms, 15s, 10m or 1h"))
    })?;
    if unit.is_empty() {
        return Err(Error::invalid(format!(
            "'{text}' has no unit; write \"{text}ms\", \"{text}s\", \"{text}m\" or \"{text}h\""
        )));
    }
    let Some((_, ms)) = UNITS.iter().find(|(u, _)| *u == unit) else {
        return Err(Error::invalid(format!("unknown time unit '{unit}' in '{text}'; units are ms, s, m, h, d, w")));
    };
    let total = value * *ms as f64;
    if total > 1e15 {
        return Err(Error::invalid(format!("'{text}' is longer than 30,000 years")));
    }
    Ok(total.round() as i64)
}

/// Writes milliseconds in the largest unit that divides them.
pub fn format_duration_ms(ms: i64) -> String {
    let (unit, size) = UNITS.iter().rev().find(|(_, size)| ms != 0 && ms % size == 0).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ms / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_needs_its_unit() {
        assert_eq!(parse_duration_ms("250ms").unwrap(), 250);
        assert_eq!(parse_duration_ms("1.5h").unwrap(), 5_400_000);
        assert_eq!(format_duration_ms(5_400_000), "90m");
        assert!(parse_duration_ms("15").unwrap_err().message().contains("has no unit; write \"15ms\""));
        assert!(parse_duration_ms("3 fortnite").unwrap_err().message().contains("unknown time unit 'fortnite'"));
    }
}
