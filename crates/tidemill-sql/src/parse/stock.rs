//! The border to the stock SQL parser: queries and expressions are its work, its complaints become ours.

use datafusion::sql::sqlparser::{
    ast::{Expr, Query},
    dialect::GenericDialect,
    parser::{Parser, ParserError},
    tokenizer::{Location, Span, Token, TokenWithSpan},
};

use super::{
    cursor::{expected, is_word, span_of},
    value::interval_ms,
};
use crate::{
    diagnostic::{Checked, Fault},
    script::DEPTH_MAX,
    suggest::nearest,
};

/// The parser counts every rule it enters, several a bracket.
const RECURSION_MAX: usize = 6 * DEPTH_MAX;

const QUERY_WORDS: [&str; 22] = [
    "SELECT", "FROM", "WHERE", "LEFT", "JOIN", "ON", "AND", "OR", "NOT", "AS", "BETWEEN", "INTERVAL", "EMIT", "TO",
    "CASE", "WHEN", "THEN", "ELSE", "END", "IS", "NULL", "CAST",
];

/// Parses a whole query.
pub(crate) fn parse_query(tokens: &[TokenWithSpan]) -> Checked<Box<Query>> {
    parse_all(tokens, |p| p.parse_query())
}

/// Parses a whole expression.
pub(crate) fn parse_expr(tokens: &[TokenWithSpan]) -> Checked<Expr> {
    parse_all(tokens, |p| p.parse_expr())
}

fn parse_all<T>(tokens: &[TokenWithSpan], rule: impl Fn(&mut Parser) -> Result<T, ParserError>) -> Checked<T> {
    check_units(tokens)?;
    let dialect = GenericDialect {};
    let mut parser =
        Parser::new(&dialect).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(tokens.to_vec());
    let parsed = rule(&mut parser).map_err(|e| parser_fault(e, tokens))?;
    let rest = parser.peek_token();
    match rest.token {
        Token::EOF => Ok(parsed),
        token => Err(with_keyword(expected("the end of the statement", Some(&token), rest.span, &[]), tokens)),
    }
}

/// The parser would take an unknown unit for the beginning of something else.
fn check_units(tokens: &[TokenWithSpan]) -> Checked<()> {
    for window in tokens.windows(3) {
        let [interval, number, unit] = window else { continue };
        let digits = match &number.token {
            Token::SingleQuotedString(s) | Token::Number(s, _) => s.parse::<f64>().is_ok(),
            _ => false,
        };
        if let (true, true, Token::Word(w)) = (is_word(&interval.token, "INTERVAL"), digits, &unit.token)
            && !["YEAR", "QUARTER", "MONTH"].iter().any(|long| is_word(&unit.token, long))
        {
            interval_ms("1", &w.value, unit.span)?;
        }
    }
    Ok(())
}

fn parser_fault(error: ParserError, tokens: &[TokenWithSpan]) -> Fault {
    let text = match error {
        ParserError::RecursionLimitExceeded => {
            return Fault::new(span_of(tokens), format!("expression deeper than {DEPTH_MAX}"));
        }
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
    };
    let (message, at) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message.to_string(), parse_location(place)),
        None => (text, None),
    };
    let end = tokens.last().map_or(Span::empty(), |t| Span::new(t.span.end, t.span.end));
    let span = match at {
        Some(at) => tokens.iter().find(|t| t.span.start == at).map_or(Span::new(at, at), |t| t.span),
        None => end,
    };
    let message = match message.strip_prefix("Expected: ").and_then(|m| m.rsplit_once(", found: ")) {
        Some((what, "EOF")) => format!("expected {what}, found the end of the statement"),
        Some((what, found)) => format!("expected {what}, found '{found}'"),
        None => message.trim_start_matches("sql parser error: ").to_string(),
    };
    with_keyword(Fault::new(span, message), tokens)
}

/// The token complained about, or the one before it, may be a keyword with a slip in it.
fn with_keyword(fault: Fault, tokens: &[TokenWithSpan]) -> Fault {
    let at = tokens.iter().position(|t| t.span.start == fault.span.start).unwrap_or(tokens.len());
    let near = [at.checked_sub(1), Some(at)].into_iter().flatten().filter_map(|i| tokens.get(i));
    for t in near {
        let Token::Word(w) = &t.token else { continue };
        if w.quote_style.is_some() || w.value.len() < 3 {
            continue;
        }
        match nearest(&w.value, QUERY_WORDS) {
            Some(word) if !word.eq_ignore_ascii_case(&w.value) => {
                if t.span == fault.span {
                    return fault.hint(format!("did you mean {word}?"));
                }
                return Fault::new(t.span, format!("'{}' was not expected here", w.value))
                    .hint(format!("did you mean {word}?"));
            }
            _ => {}
        }
    }
    fault
}

fn parse_location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some((line.trim().parse::<u64>().ok()?, column.trim().parse::<u64>().ok()?).into())
}
