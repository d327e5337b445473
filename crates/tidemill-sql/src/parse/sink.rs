//! `CREATE SINK name AS SELECT ... FROM model WITH (...)`, or `CREATE SINK name FROM model WITH (...)` for all columns.

use datafusion::sql::sqlparser::{
    ast::Query,
    tokenizer::{Span, Token, TokenWithSpan},
};

use super::{
    cursor::{Cursor, Name, is_word},
    stock,
    value::{self, Written},
};
use crate::diagnostic::{Checked, Fault};

/// A sink as it was declared.
#[derive(Clone, Debug)]
pub(crate) struct SinkDef {
    pub name: Name,
    pub rows: RowsDef,
    pub settings: Vec<Written>,
    /// The word WITH, or where it is missing.
    pub with: Span,
}

/// What leaves.
#[derive(Clone, Debug)]
pub(crate) enum RowsDef {
    /// Every column of this model's samples.
    All(Name),
    Select(Box<Query>),
}

/// Reads what stands behind `CREATE SINK`.
pub(crate) fn parse(c: &mut Cursor, tokens: &[TokenWithSpan]) -> Checked<SinkDef> {
    let name = c.name("the sink's name")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.text.is_empty() || name.text.len() > 64 || !name.text.bytes().all(is_plain) {
        let message = format!(
            "a sink's name has 1 to 64 letters, digits, '_' or '-', as files are called by it; got '{}'",
            name.text
        );
        return Err(Fault::new(name.span, message));
    }
    let rows = if c.take_word("FROM") {
        RowsDef::All(c.name("a model")?)
    } else {
        c.expect_word("AS")?;
        if !c.is_word("SELECT") {
            return Err(c.expected("SELECT", &["SELECT"]));
        }
        let rest = &tokens[tokens.len() - c.left()..];
        let with = with_of_settings(rest).unwrap_or(rest.len());
        let query = &rest[..with];
        if let Some(task) = query.iter().find(|t| is_word(&t.token, "TO") || is_word(&t.token, "EMIT")) {
            let fault = Fault::new(task.span, format!("a sink has no {}", task.token));
            return Err(fault.hint("it takes the samples of a model: SELECT ... FROM model WITH (connector = ...)"));
        }
        let query = stock::parse_query(query)?;
        (0..with).for_each(|_| _ = c.next());
        RowsDef::Select(query)
    };
    let with = c.here();
    let mut settings = Vec::new();
    if c.take_word("WITH") {
        c.expect(&Token::LParen)?;
        loop {
            settings.push(value::setting(c)?);
            if !c.take(&Token::Comma) {
                break;
            }
        }
        c.expect(&Token::RParen)?;
    }
    if !c.is_done() {
        return Err(c.expected("WITH (...) or the end of the statement", &["WITH"]));
    }
    Ok(SinkDef { name, rows, settings, with })
}

/// Where the WITH of the settings stands: outside of all brackets, in front of one.
fn with_of_settings(tokens: &[TokenWithSpan]) -> Option<usize> {
    let mut depth = 0usize;
    for (i, t) in tokens.iter().enumerate() {
        match t.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            _ if depth == 0 && i > 0 && is_word(&t.token, "WITH") => return Some(i),
            _ => {}
        }
    }
    None
}
