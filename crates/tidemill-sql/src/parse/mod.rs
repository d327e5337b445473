//! Text to statements: what was said, not yet what it means.
//!
//! In: the tokens of one statement. Out: a [`Parsed`] with the place of every name. Statements that a later version
//! will know are refused one by one, each with the nearest form that works.

pub(crate) mod columns;
mod create_source;
pub(crate) mod cursor;
pub(crate) mod stock;
pub(crate) mod tail;
pub(crate) mod value;

use datafusion::sql::sqlparser::{
    ast::Query,
    tokenizer::{Span, Token, TokenWithSpan},
};

pub(crate) use create_source::{ComputedDef, SourceDef};
use cursor::{Cursor, Name};
use tail::{EmitClause, Task};

use crate::diagnostic::{Checked, Fault};

/// One statement.
#[derive(Clone, Debug)]
pub(crate) enum Parsed {
    Source { def: SourceDef, replace: bool },
    View { name: Name, select: SelectDef, replace: bool },
    Task { select: SelectDef, task: Task },
    ShowModels,
}

/// A query and when its join emits.
#[derive(Clone, Debug)]
pub(crate) struct SelectDef {
    pub query: Box<Query>,
    pub emit: Option<(EmitClause, Span)>,
    /// Clauses that may have to be refused, and where they stand: the parser does not keep their places.
    pub marks: Vec<(&'static str, Span)>,
}

const MARKED: [&str; 9] = ["GROUP", "HAVING", "ORDER", "LIMIT", "DISTINCT", "UNION", "EXCEPT", "INTERSECT", "QUALIFY"];

const STATEMENTS: [&str; 3] = ["CREATE", "SELECT", "SHOW"];

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
    for word in ["DROP", "INSERT", "UPDATE", "DELETE", "EXPLAIN", "DESCRIBE", "SET", "ALTER", "COPY"] {
        if c.is_word(word) {
            return Err(Fault::unsupported(
                first,
                word,
                "statements are CREATE SOURCE, CREATE VIEW, SELECT ... TO, SHOW MODELS",
            ));
        }
    }
    Err(c.expected("CREATE, SELECT or SHOW", &STATEMENTS))
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
        let instead = "compute features from the impression's own columns in CREATE VIEW";
        return Err(Fault::unsupported(here, "CREATE FEATURE VIEW", instead));
    }
    for word in ["TABLE", "MATERIALIZED", "SINK", "FUNCTION", "MODEL"] {
        if c.is_word(word) {
            return Err(Fault::unsupported(here, format!("CREATE {word}"), "CREATE SOURCE and CREATE VIEW are built"));
        }
    }
    Err(c.expected("SOURCE, VIEW or STREAM", &["SOURCE", "VIEW", "STREAM"]))
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
    let query = stock::parse_query(cut.query)?;
    let mark = |t: &TokenWithSpan| MARKED.into_iter().find(|w| cursor::is_word(&t.token, w)).map(|word| (word, t.span));
    let marks = cut.query.iter().filter_map(mark).collect();
    Ok((SelectDef { query, emit: tail::emit(cut.emit)?, marks }, cut.task))
}

/// Forms of streaming SQL that the stock parser would stumble over with a message that helps nobody.
fn refuse_stream_clauses(tokens: &[TokenWithSpan]) -> Checked<()> {
    let windows = "windowed aggregates; select the impression's own columns";
    for (i, t) in tokens.iter().enumerate() {
        let word = |w| cursor::is_word(&t.token, w);
        let before = |w| i > 0 && cursor::is_word(&tokens[i - 1].token, w);
        let opens = tokens.get(i + 1).is_some_and(|t| t.token == Token::LParen);
        if word("SYSTEM_TIME") && before("FOR") {
            let instead = "join one feedback source with a time bound";
            return Err(Fault::unsupported(t.span, "FOR SYSTEM_TIME AS OF", instead));
        }
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
