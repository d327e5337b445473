//! The words of a ranking expression.
//!
//! In: its text. Out: numbers, lengths of time, names, quoted texts and operators, each with its byte, or the first thing
//! that is none of them. Every later fault is told with [`Source::fault`], which turns a byte into a character's number.

use tidemill_base::{Error, Result};

const SECOND: f64 = 1000.0;
const UNITS: [(&str, f64); 5] =
    [("s", SECOND), ("m", 60.0 * SECOND), ("h", 3600.0 * SECOND), ("d", 86_400.0 * SECOND), ("w", 604_800.0 * SECOND)];
/// Longer ones first: the first that fits is taken.
const SYMBOLS: [&str; 18] =
    ["&&", "||", "==", "!=", "<=", ">=", "+", "-", "*", "/", "^", "<", ">", "!", "?", ":", "(", ")"];

/// A text and what it is called in errors.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub what: &'a str,
    pub text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Number(f64),
    /// Milliseconds.
    Duration(f64),
    /// Letters, digits and `_`, perhaps in parts with a point between them.
    Name(&'a str),
    Text(&'a str),
    Symbol(&'static str),
    End,
}

impl<'a> Source<'a> {
    /// An error at this byte.
    pub fn fault(&self, at: usize, message: impl std::fmt::Display) -> Error {
        let before = self.text.get(..at).unwrap_or(self.text);
        Error::invalid(format!("{}, character {}: {message}", self.what, before.chars().count() + 1))
    }

    /// All words, each with its byte; the last is [`Token::End`].
    pub fn tokens(&self) -> Result<Vec<(Token<'a>, usize)>> {
        let mut tokens = Vec::new();
        let mut at = 0;
        loop {
            at += self.text[at..].len() - self.text[at..].trim_start().len();
            let (token, end) = self.token(at)?;
            tokens.push((token, at));
            if token == Token::End {
                return Ok(tokens);
            }
            at = end;
        }
    }

    fn token(&self, at: usize) -> Result<(Token<'a>, usize)> {
        let rest = &self.text[at..];
        let Some(first) = rest.chars().next() else { return Ok((Token::End, at)) };
        let second_is_digit = rest[first.len_utf8()..].starts_with(|c: char| c.is_ascii_digit());
        match first {
            '0'..='9' => self.number(at),
            '.' if second_is_digit => self.number(at),
            '\'' | '"' => match rest[1..].find(first) {
                Some(length) => Ok((Token::Text(&rest[1..1 + length]), at + length + 2)),
                None => Err(self.fault(at, "this text has no closing quote")),
            },
            'a'..='z' | 'A'..='Z' | '_' => {
                let length = name_length(rest);
                Ok((Token::Name(&rest[..length]), at + length))
            }
            ',' => Ok((Token::Symbol(","), at + 1)),
            _ => match SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
                Some(symbol) => Ok((Token::Symbol(symbol), at + symbol.len())),
                None => Err(self.fault(at, unknown(first))),
            },
        }
    }

    /// A number, or a length of time: numbers with their units, one behind the other.
    fn number(&self, start: usize) -> Result<(Token<'a>, usize)> {
        let (mut at, mut length) = (start, None);
        loop {
            let digits = number_length(&self.text[at..]);
            let number = &self.text[at..at + digits];
            let value: f64 = number.parse().map_err(|_| self.fault(at, format!("'{number}' is no number")))?;
            if value.is_infinite() {
                return Err(self.fault(at, format!("{number} is beyond what a 64-bit float holds")));
            }
            let behind = &self.text[at + digits..];
            let letters = behind.find(|c: char| !c.is_ascii_alphabetic() && c != '_').unwrap_or(behind.len());
            match (&behind[..letters], length) {
                ("", None) => return Ok((Token::Number(value), at + digits)),
                ("", Some(_)) => {
                    return Err(self.fault(at, format!("{number} has no unit; units are s, m, h, d and w")));
                }
                (unit, _) => {
                    let Some((_, ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                        let message = format!(
                            "'{unit}' behind a number is no unit of time; units are s, m (minutes), h, d and w"
                        );
                        return Err(self.fault(at + digits, message));
                    };
                    let total = length.unwrap_or(0.0) + value * ms;
                    at += digits + letters;
                    if !self.text[at..].starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                        return Ok((Token::Duration(total), at));
                    }
                    length = Some(total);
                }
            }
        }
    }
}

impl Token<'_> {
    /// As an error shows it.
    pub fn shown(&self) -> String {
        match self {
            Token::Number(x) => format!("{x}"),
            Token::Duration(_) => "a length of time".into(),
            Token::Name(name) => format!("'{}'", short(name)),
            Token::Text(text) => format!("the text '{}'", short(text)),
            Token::Symbol(symbol) => format!("'{symbol}'"),
            Token::End => "the end".into(),
        }
    }
}

/// No more of a text than a message can bear.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        None => text.to_string(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

fn unknown(c: char) -> String {
    match c {
        '=' => "a single '='; write '==' to compare".into(),
        '&' | '|' => format!("a single '{c}'; write '{c}{c}'"),
        '%' => "'%' is not known; operators are + - * / ^ < <= > >= == != && || ! ? :".into(),
        c => format!("'{}' has no meaning here", c.escape_default()),
    }
}

fn name_length(text: &str) -> usize {
    let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut length = word(text);
    while let Some(part) = text[length..].strip_prefix('.').map(word).filter(|part| *part > 0) {
        length += 1 + part;
    }
    length
}

fn number_length(text: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(text);
    if text[length..].starts_with('.') {
        length += 1 + digits(&text[length + 1..]);
    }
    let rest = &text[length..];
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let more = digits(&exponent[sign..]);
        if more > 0 {
            length += 1 + sign + more;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
        let all = Source { what: "score", text }.tokens()?;
        Ok(all.into_iter().map(|(token, _)| token).take_while(|token| *token != Token::End).collect())
    }

    #[test]
    fn numbers_may_be_lengths_of_time() {
        use Token::*;
        const H: f64 = 3_600_000.0;
        assert_eq!(
            tokens("1d12h 1.5h .5m 2w 1e3 1e3s").unwrap(),
            [
                Duration(36.0 * H),
                Duration(1.5 * H),
                Duration(30_000.0),
                Duration(336.0 * H),
                Number(1000.0),
                Duration(1_000_000.0)
            ]
        );
        assert_eq!(tokens("a.b_c<=2.").unwrap(), [Name("a.b_c"), Symbol("<="), Number(2.0)]);
        assert_eq!(tokens("'M'\"N\"").unwrap(), [Text("M"), Text("N")]);
    }

    #[test]
    fn what_is_no_word_is_said_with_its_place() {
        for (text, message) in [
            (
                "a + 5days",
                "score, character 6: 'days' behind a number is no unit of time; units are s, m (minutes), h, d and w",
            ),
            ("1d12", "score, character 3: 12 has no unit; units are s, m, h, d and w"),
            ("é = 1", "score, character 1: '\\u{e9}' has no meaning here"),
            ("a = 1", "score, character 3: a single '='; write '==' to compare"),
            ("a & b", "score, character 3: a single '&'; write '&&'"),
            ("a % b", "score, character 3: '%' is not known; operators are + - * / ^ < <= > >= == != && || ! ? :"),
            ("dist(1,2,3,4,'M)", "score, character 14: this text has no closing quote"),
            ("1e999", "score, character 1: 1e999 is beyond what a 64-bit float holds"),
        ] {
            assert_eq!(tokens(text).unwrap_err().message(), message);
        }
    }
}
