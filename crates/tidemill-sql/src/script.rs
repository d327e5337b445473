//! The text of a program as tokens, cut into statements.
//!
//! In: SQL. Out: for each statement its tokens with their places, and the bytes it covers. What could exhaust the stack
//! of a recursive parser (brackets too deep, operators without end) is refused here, by counting, before any parser
//! sees it.

use std::ops::Range;

use datafusion::sql::sqlparser::{
    dialect::GenericDialect,
    tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer},
};

use crate::diagnostic::{Checked, Fault};

/// Bytes of SQL that are read.
pub const SQL_BYTES_MAX: usize = 256 * 1024;
/// Brackets within brackets.
pub const DEPTH_MAX: usize = 128;
/// Operators that hang on one another within one expression.
pub const OPERATORS_MAX: usize = 256;

/// Statements in one program.
pub const STATEMENTS_MAX: usize = 1000;

/// One statement's tokens, without white space and comments.
pub(crate) struct Piece {
    pub tokens: Vec<TokenWithSpan>,
    pub bytes: Range<usize>,
}

/// Cuts `text` at its semicolons. Empty statements are left out.
pub(crate) fn split(text: &str) -> Checked<Vec<Piece>> {
    if text.len() > SQL_BYTES_MAX {
        let message = format!("program is {} bytes; limit {SQL_BYTES_MAX}", text.len());
        return Err(Fault::new(Span::empty(), message));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location()
        .map_err(|e| tokenizer_fault(&e.message, e.location, text))?;
    let tokens: Vec<_> = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
    check_depth(&tokens)?;
    let lines = line_starts(text);
    let statements = tokens.split(|t| t.token == Token::SemiColon).filter(|tokens| !tokens.is_empty());
    if let Some(tokens) = statements.clone().nth(STATEMENTS_MAX) {
        return Err(Fault::new(tokens[0].span, format!("program has more than {STATEMENTS_MAX} statements")));
    }
    Ok(statements
        .filter_map(|tokens| {
            let (first, last) = (tokens.first()?, tokens.last()?);
            let bytes = byte_of(text, &lines, first.span.start)..byte_of(text, &lines, last.span.end);
            Some(Piece { tokens: tokens.to_vec(), bytes })
        })
        .collect())
}

fn tokenizer_fault(message: &str, at: Location, text: &str) -> Fault {
    let span = Span::new(at, at);
    if message.contains("multi-line comment") {
        // The parser reports the end of the text; the mistake is where the last comment begins.
        let lines = line_starts(text);
        let start = text.rfind("/*").map(|byte| location_of(text, &lines, byte)).unwrap_or(at);
        return Fault::new(Span::new(start, start), "comment opened here is never closed").hint("close it with */");
    }
    if message.contains("Unterminated") {
        return Fault::new(span, "string opened here is never closed");
    }
    if message.contains("close delimiter") {
        return Fault::new(span, "quoted name opened here is never closed");
    }
    Fault::new(span, message.trim_end_matches(',').to_string())
}

#[derive(PartialEq)]
enum Bracket {
    Open(Token, Span),
    Case,
}

/// How tall the tree of the expressions within one bracket can grow: operators in a row hang on one another, and what is
/// within a further bracket hangs below them.
#[derive(Default)]
struct Level {
    operators: usize,
    below: usize,
    tallest: usize,
}

impl Level {
    fn height(&self) -> usize {
        self.tallest.max(self.operators + self.below)
    }
}

fn check_depth(tokens: &[TokenWithSpan]) -> Checked<()> {
    let mut open: Vec<Bracket> = Vec::new();
    let mut levels = vec![Level::default()];
    for t in tokens {
        match &t.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                open.push(Bracket::Open(t.token.clone(), t.span));
                levels.push(Level::default());
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                while open.last() == Some(&Bracket::Case) {
                    open.pop();
                    close_level(&mut levels);
                }
                let matching = matches!(
                    (open.pop(), &t.token),
                    (Some(Bracket::Open(Token::LParen, _)), Token::RParen)
                        | (Some(Bracket::Open(Token::LBracket, _)), Token::RBracket)
                        | (Some(Bracket::Open(Token::LBrace, _)), Token::RBrace)
                );
                if !matching {
                    return Err(Fault::new(t.span, format!("'{}' closes no bracket", t.token)));
                }
                close_level(&mut levels);
            }
            Token::SemiColon => {
                never_closed(&open)?;
                open.clear();
                levels = vec![Level::default()];
            }
            Token::Comma => new_expression(&mut levels),
            Token::Word(w) if w.quote_style.is_none() => match w.value.to_ascii_uppercase().as_str() {
                "CASE" => {
                    open.push(Bracket::Case);
                    levels.push(Level::default());
                }
                "END" if open.last() == Some(&Bracket::Case) => {
                    open.pop();
                    close_level(&mut levels);
                }
                "WHEN" | "THEN" | "ELSE" => new_expression(&mut levels),
                word if INFIX_WORDS.contains(&word) => operator(&mut levels),
                _ => {}
            },
            Token::Word(_) | Token::Number(..) | Token::Period | Token::SingleQuotedString(_) => {}
            _ => operator(&mut levels),
        }
        if open.len() > DEPTH_MAX {
            return Err(Fault::new(t.span, format!("expression deeper than {DEPTH_MAX}")));
        }
        if levels.last().is_some_and(|l| l.height() > OPERATORS_MAX) {
            let message = format!("more than {OPERATORS_MAX} operators hang on one another in this expression");
            return Err(Fault::new(t.span, message).hint("split it over several views"));
        }
    }
    never_closed(&open)
}

/// Words that stand between two operands, or behind one, any number of times.
const INFIX_WORDS: [&str; 24] = [
    "AND",
    "OR",
    "XOR",
    "NOT",
    "IS",
    "IN",
    "LIKE",
    "ILIKE",
    "RLIKE",
    "REGEXP",
    "SIMILAR",
    "BETWEEN",
    "AT",
    "OVERLAPS",
    "DIV",
    "COLLATE",
    "ISNULL",
    "NOTNULL",
    "MEMBER",
    "OPERATOR",
    "ESCAPE",
    "UNION",
    "EXCEPT",
    "INTERSECT",
];

fn operator(levels: &mut [Level]) {
    if let Some(level) = levels.last_mut() {
        level.operators += 1;
    }
}

fn new_expression(levels: &mut [Level]) {
    if let Some(level) = levels.last_mut() {
        *level = Level { tallest: level.height(), ..Level::default() };
    }
}

fn close_level(levels: &mut Vec<Level>) {
    let height = levels.pop().map_or(0, |l| l.height());
    if let Some(level) = levels.last_mut() {
        level.below = level.below.max(height);
    }
}

fn never_closed(open: &[Bracket]) -> Checked<()> {
    let unclosed = open.iter().rev().find_map(|b| match b {
        Bracket::Open(token, span) => Some((token, *span)),
        Bracket::Case => None,
    });
    match unclosed {
        Some((token, span)) => Err(Fault::new(span, format!("'{token}' opened here is never closed"))),
        None => Ok(()),
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect()
}

fn byte_of(text: &str, lines: &[usize], at: Location) -> usize {
    let start = lines.get((at.line as usize).saturating_sub(1)).copied().unwrap_or(text.len());
    text[start..].char_indices().nth((at.column as usize).saturating_sub(1)).map_or(text.len(), |(i, _)| start + i)
}

fn location_of(text: &str, lines: &[usize], byte: usize) -> Location {
    let line = lines.partition_point(|&start| start <= byte);
    let column = text[lines[line - 1]..byte].chars().count() + 1;
    (line as u64, column as u64).into()
}
