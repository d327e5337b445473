//! Text to statements: what was said, not yet what it means.
//!
//! In: the tokens of one statement. Out: a [`Parsed`] with the place of every name. Statements that a later version
//! will know are refused one by one, each with the nearest form that works.

pub(crate) mod alter;
pub(crate) mod columns;
mod create_source;
pub(crate) mod cursor;
pub(crate) mod feature_view;
pub(crate) mod sink;
pub(crate) mod stock;
pub(crate) mod tail;
pub(crate) mod value;

use std::borrow::Cow;

use datafusion::sql::sqlparser::{
    ast::{Ident, Query},
    tokenizer::{Span, Token, TokenWithSpan},
};

pub(crate) use create_source::{ComputedDef, SourceDef, SwitchDef};
use cursor::{Cursor, Name};
pub(crate) use feature_view::FeatureViewDef;
use tail::{EmitClause, Task};

use crate::diagnostic::{Checked, Fault};

/// One statement.
#[derive(Clone, Debug)]
pub(crate) enum Parsed {
    Source { def: SourceDef, replace: bool },
    View { name: Name, select: SelectDef, replace: bool },
    FeatureView { def: FeatureViewDef, replace: bool },
    Sink(sink::SinkDef),
    Task { select: SelectDef, task: Task },
    Alter(alter::AlterDef),
    ShowModels,
}

/// A query and when its join emits.
#[derive(Clone, Debug)]
pub(crate) struct SelectDef {
    pub query: Box<Query>,
    pub emit: Option<(EmitClause, Span)>,
    /// Clauses that may have to be refused, and where they stand: the parser does not keep their places.
    pub marks: Vec<(&'static str, Span)>,
    /// Tables that are read as of a time.
    pub as_of: Vec<AsOfDef>,
}

/// `table FOR SYSTEM_TIME AS OF time`.
#[derive(Clone, Debug)]
pub(crate) struct AsOfDef {
    /// Where the table's name stands.
    pub table: Span,
    pub time: Vec<Ident>,
    pub span: Span,
}

const MARKED: [&str; 9] = ["GROUP", "HAVING", "ORDER", "LIMIT", "DISTINCT", "UNION", "EXCEPT", "INTERSECT", "QUALIFY"];

const STATEMENTS: [&str; 4] = ["CREATE", "SELECT", "SHOW", "ALTER"];

/// Reads one statement.
pub(crate) fn parse(tokens: &[TokenWithSpan]) -> Checked<Parsed> {
    let mut cursor = Cursor::new(tokens);
    let c = &mut cursor;
    let first = c.here();
    if c.take_word("CREATE") {
        return create(c, tokens);
    }
    if c.is_word("SELECT") {
        return query(tokens);
    }
    if c.take_words(&["SHOW", "MODELS"]) {
        return if c.is_done() { Ok(Parsed::ShowModels) } else { Err(c.expected("the end of the statement", &[])) };
    }
    if c.take_word("ALTER") {
        return alter::parse(c).map(Parsed::Alter);
    }
    if c.take_word("SHOW") {
        return Err(match c.is_word("TRAIN") {
            true => Fault::unsupported(c.here(), "SHOW TRAIN", "SHOW MODELS lists what is trained"),
            false => c.expected("MODELS", &["MODELS"]),
        });
    }
    if c.is_word("WITH") {
        let instead = "write CREATE VIEW name AS SELECT ...; before the statement";
        return Err(Fault::unsupported(first, "WITH before SELECT", instead));
    }
    for word in ["DROP", "INSERT", "UPDATE", "DELETE", "EXPLAIN", "DESCRIBE", "SET", "COPY"] {
        if c.is_word(word) {
            return Err(Fault::unsupported(
                first,
                word,
                "statements are CREATE SOURCE, CREATE VIEW, SELECT ... TO, ALTER MODEL, SHOW MODELS",
            ));
        }
    }
    Err(c.expected("CREATE, SELECT, ALTER or SHOW", &STATEMENTS))
}

fn create(c: &mut Cursor, tokens: &[TokenWithSpan]) -> Checked<Parsed> {
    let replace = c.take_words(&["OR", "REPLACE"]);
    let here = c.here();
    if c.take_word("SOURCE") {
        refuse_if_not_exists(c)?;
        return Ok(Parsed::Source { def: create_source::parse(c)?, replace });
    }
    if c.take_word("VIEW") || c.take_word("STREAM") {
        refuse_if_not_exists(c)?;
        let name = c.name("the view's name")?;
        if c.peek().is_some_and(|t| t.token == Token::LParen) {
            return Err(Fault::unsupported(
                c.here(),
                "names in brackets behind a view's name",
                "name the columns with AS in its SELECT",
            ));
        }
        c.expect_word("AS")?;
        if !c.is_word("SELECT") {
            return Err(c.expected("SELECT", &["SELECT"]));
        }
        let rest = &tokens[tokens.len() - c.left()..];
        return match query_parts(rest)? {
            (select, []) => Ok(Parsed::View { name, select, replace }),
            (_, task) => {
                let hint = "end the view with ';' and write SELECT * FROM it TO ...";
                Err(Fault::new(task[0].span, "a view has no task").hint(hint))
            }
        };
    }
    if c.take_words(&["FEATURE", "VIEW"]) {
        refuse_if_not_exists(c)?;
        return Ok(Parsed::FeatureView { def: feature_view::parse(c)?, replace });
    }
    if c.take_word("SINK") {
        refuse_if_not_exists(c)?;
        if replace {
            return Err(Fault::new(here, "a sink is declared once")
                .hint("write CREATE SINK, and take another name for another sink"));
        }
        return Ok(Parsed::Sink(sink::parse(c, tokens)?));
    }
    if c.take_word("RANKING") {
        return alter::ranking(c, replace).map(Parsed::Alter);
    }
    for word in ["TABLE", "MATERIALIZED", "FUNCTION", "MODEL"] {
        if c.is_word(word) {
            return Err(Fault::unsupported(
                here,
                format!("CREATE {word}"),
                "CREATE SOURCE, CREATE VIEW, CREATE SINK and CREATE RANKING are built",
            ));
        }
    }
    Err(c.expected(
        "SOURCE, VIEW, STREAM, FEATURE VIEW, SINK or RANKING",
        &["SOURCE", "VIEW", "STREAM", "FEATURE", "SINK", "RANKING"],
    ))
}

fn refuse_if_not_exists(c: &Cursor) -> Checked<()> {
    match c.is_word("IF") && c.peek_at(1).is_some_and(|t| cursor::is_word(&t.token, "NOT")) {
        true => Err(Fault::unsupported(c.here(), "IF NOT EXISTS", "a program begins with no names: leave it out")),
        false => Ok(()),
    }
}

fn query(tokens: &[TokenWithSpan]) -> Checked<Parsed> {
    let (select, task) = query_parts(tokens)?;
    if task.is_empty() {
        let instead = "a SELECT ends with TO TRAIN ... or TO EVALUATE ...";
        return Err(Fault::unsupported(tokens[0].span, "a SELECT that prints rows", instead));
    }
    Ok(Parsed::Task { select, task: tail::task(task)? })
}

fn query_parts(tokens: &[TokenWithSpan]) -> Checked<(SelectDef, &[TokenWithSpan])> {
    let cut = tail::cut(tokens)?;
    refuse_stream_clauses(cut.query)?;
    let (rest, as_of) = as_of(cut.query)?;
    let query = stock::parse_query(&rest)?;
    let mark = |t: &TokenWithSpan| MARKED.into_iter().find(|w| cursor::is_word(&t.token, w)).map(|word| (word, t.span));
    let marks = cut.query.iter().filter_map(mark).collect();
    Ok((SelectDef { query, emit: tail::emit(cut.emit)?, marks, as_of }, cut.task))
}

/// Takes out `FOR SYSTEM_TIME AS OF time`, which the stock parser does not know, and keeps where it stood.
fn as_of(tokens: &[TokenWithSpan]) -> Checked<(Cow<'_, [TokenWithSpan]>, Vec<AsOfDef>)> {
    let is = |i: usize, word| tokens.get(i).is_some_and(|t| cursor::is_word(&t.token, word));
    let mut found = Vec::new();
    let mut rest = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if !(i > 0 && is(i, "FOR") && is(i + 1, "SYSTEM_TIME")) {
            rest.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let mut c = Cursor::new(&tokens[i + 2..]);
        c.expect_word("AS")?;
        c.expect_word("OF")?;
        let what = "the impression's event time, for example i.rt";
        let mut time = vec![c.name(what)?];
        while c.take(&Token::Period) {
            time.push(c.name(what)?);
        }
        let ident = |n: Name| Ident { value: n.text, quote_style: None, span: n.span };
        let end = tokens.len() - c.left();
        let span = Span::new(tokens[i].span.start, tokens[end - 1].span.end);
        let time = time.into_iter().map(ident).collect();
        found.push(AsOfDef { table: tokens[i - 1].span, time, span });
        i = end;
    }
    Ok(if found.is_empty() { (Cow::Borrowed(tokens), found) } else { (Cow::Owned(rest), found) })
}

/// Forms of streaming SQL that the stock parser would stumble over with a message that helps nobody.
fn refuse_stream_clauses(tokens: &[TokenWithSpan]) -> Checked<()> {
    let windows = "windowed aggregates in a SELECT; declare them in CREATE FEATURE VIEW and join that";
    for (i, t) in tokens.iter().enumerate() {
        let word = |w| cursor::is_word(&t.token, w);
        let opens = tokens.get(i + 1).is_some_and(|t| t.token == Token::LParen);
        if ["TUMBLE", "HOP", "SESSION", "SAWTOOTH"].iter().any(|w| word(w)) && opens {
            return Err(Fault::unsupported(
                t.span,
                t.token.to_string().to_ascii_uppercase(),
                format!("there are no {windows}"),
            ));
        }
        if word("OVER") && (opens || tokens.get(i + 1).is_some_and(|t| cursor::is_word(&t.token, "SAWTOOTH"))) {
            return Err(Fault::unsupported(t.span, "OVER (...)", format!("there are no {windows}")));
        }
    }
    Ok(())
}
