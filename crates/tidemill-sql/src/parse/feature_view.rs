//! `CREATE FEATURE VIEW name KEYED BY column AS SELECT aggregate OVER window AS name, ... FROM stream alias, ... WITH (...)`.
//!
//! Read by hand: the stock parser knows neither KEYED BY nor these windows. Arguments are its work.

use datafusion::sql::sqlparser::{
    ast::Expr,
    tokenizer::{Span, Token, TokenWithSpan},
};

use super::{
    cursor::{Cursor, Name, span_of},
    stock,
    value::{self, Written},
};
use crate::diagnostic::{Checked, Fault};

/// A feature view as it was declared.
#[derive(Clone, Debug)]
pub(crate) struct FeatureViewDef {
    pub name: Name,
    pub key: Name,
    pub aggregates: Vec<AggregateDef>,
    /// Stream and alias.
    pub from: Vec<(Name, Name)>,
    pub settings: Vec<Written>,
}

/// One of its columns.
#[derive(Clone, Debug)]
pub(crate) struct AggregateDef {
    pub name: Name,
    pub function: Name,
    pub arguments: Vec<ArgumentDef>,
    pub window: Option<(WindowDef, Span)>,
}

/// What stands in the brackets of an aggregate.
#[derive(Clone, Debug)]
pub(crate) struct ArgumentDef {
    /// `None`: `*`.
    pub expr: Option<Expr>,
    pub span: Span,
}

/// A window, in event milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WindowDef {
    Sawtooth { length_ms: i64, pane_ms: Option<i64> },
    Tumble { length_ms: i64 },
    Hop { slide_ms: i64, length_ms: i64 },
    Session { gap_ms: i64 },
    Decay { half_life_ms: i64 },
}

pub(crate) const WINDOWS: [&str; 5] = ["SAWTOOTH", "TUMBLE", "HOP", "SESSION", "DECAY"];

/// Reads what stands behind `CREATE FEATURE VIEW`.
pub(crate) fn parse(c: &mut Cursor) -> Checked<FeatureViewDef> {
    let name = c.name("the feature view's name")?;
    if !c.take_words(&["KEYED", "BY"]) {
        return Err(c.expected("KEYED BY", &["KEYED"]));
    }
    let key = c.name("the key's column")?;
    if c.take(&Token::Comma) {
        let instead = "key by one column; build it in a view, for example a || ':' || b AS key";
        return Err(Fault::unsupported(c.here(), "a feature view with several keys", instead));
    }
    c.expect_word("AS")?;
    c.expect_word("SELECT")?;
    let mut aggregates = vec![aggregate(c)?];
    while c.take(&Token::Comma) {
        aggregates.push(aggregate(c)?);
    }
    c.expect_word("FROM")?;
    let mut from = vec![stream(c)?];
    while c.take(&Token::Comma) {
        from.push(stream(c)?);
    }
    let mut settings = Vec::new();
    if c.take_word("WITH") {
        c.expect(&Token::LParen)?;
        settings.push(value::setting(c)?);
        while c.take(&Token::Comma) {
            settings.push(value::setting(c)?);
        }
        c.expect(&Token::RParen)?;
    }
    if !c.is_done() {
        if ["WHERE", "GROUP", "JOIN", "LEFT"].iter().any(|w| c.is_word(w)) {
            let instead = "filter a stream in CREATE VIEW and take that in FROM";
            return Err(Fault::unsupported(c.here(), "this clause of a feature view", instead));
        }
        return Err(c.expected("WITH (...) or the end of the statement", &["WITH"]));
    }
    Ok(FeatureViewDef { name, key, aggregates, from, settings })
}

fn aggregate(c: &mut Cursor) -> Checked<AggregateDef> {
    let function = c.name("an aggregate like COUNT(x)")?;
    c.expect(&Token::LParen)?;
    let mut arguments = Vec::new();
    loop {
        let tokens = c.up_to_comma();
        if tokens.is_empty() {
            return Err(c.expected("an argument", &[]));
        }
        arguments.push(argument(tokens)?);
        if !c.take(&Token::Comma) {
            break;
        }
    }
    c.expect(&Token::RParen)?;
    let window = if c.take_word("OVER") { Some(window(c)?) } else { None };
    if !c.take_word("AS") {
        return Err(c.expected("OVER or AS and the column's name", &["OVER", "AS"]));
    }
    Ok(AggregateDef { name: c.name("the column's name")?, function, arguments, window })
}

fn argument(tokens: &[TokenWithSpan]) -> Checked<ArgumentDef> {
    let span = span_of(tokens);
    let expr = match tokens {
        [TokenWithSpan { token: Token::Mul, .. }] => None,
        _ => Some(stock::parse_expr(tokens)?),
    };
    Ok(ArgumentDef { expr, span })
}

fn window(c: &mut Cursor) -> Checked<(WindowDef, Span)> {
    let begin = c.here();
    let Some(word) = WINDOWS.into_iter().find(|w| c.is_word(w)) else {
        return Err(c.expected("SAWTOOTH, TUMBLE, HOP, SESSION or DECAY", &WINDOWS));
    };
    c.next();
    c.expect(&Token::LParen)?;
    let (first, _) = value::interval(c)?;
    let def = match word {
        "SAWTOOTH" => {
            let mut pane_ms = None;
            if c.take(&Token::Comma) {
                c.expect_word("PANE")?;
                pane_ms = Some(value::length(c)?.0);
            }
            WindowDef::Sawtooth { length_ms: first, pane_ms }
        }
        "TUMBLE" => WindowDef::Tumble { length_ms: first },
        "HOP" => {
            c.expect(&Token::Comma)?;
            WindowDef::Hop { slide_ms: first, length_ms: value::interval(c)?.0 }
        }
        "SESSION" => WindowDef::Session { gap_ms: first },
        _ => WindowDef::Decay { half_life_ms: first },
    };
    let end = c.here();
    c.expect(&Token::RParen)?;
    Ok((def, Span::new(begin.start, end.end)))
}

fn stream(c: &mut Cursor) -> Checked<(Name, Name)> {
    let table = c.name("a source or view")?;
    let ends = || ["WITH", "WHERE", "GROUP", "JOIN", "LEFT"].iter().any(|w| c.is_word(w));
    let named = c.is_word("AS") || (matches!(c.peek(), Some(t) if matches!(t.token, Token::Word(_))) && !ends());
    if !named {
        return Ok((table.clone(), table));
    }
    c.take_word("AS");
    Ok((table, c.name("an alias")?))
}
