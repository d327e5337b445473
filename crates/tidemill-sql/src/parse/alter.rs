//! `ALTER MODEL ...`: which version answers whom.
//!
//! ```sql
//! ALTER MODEL ctr LABEL canary VERSION 7;
//! ALTER MODEL ctr DROP LABEL canary;
//! ALTER MODEL ctr SPLIT (live = 90, canary = 10);
//! ALTER MODEL ctr ROLLOUT VERSION 7 (STAGES '1%, 10%, 100%', EACH '5s', GUARD (errors = 1, logloss = 1.01));
//! ALTER MODEL ctr ROLLOUT ABORT;
//! CREATE OR REPLACE RANKING feed FOR ctr VERSION 7 AS '{"score": "pctr * bid"}';
//! ALTER MODEL ctr DROP RANKING feed VERSION 7;
//! ```

use datafusion::sql::sqlparser::tokenizer::Token;

use super::{
    cursor::{Cursor, Name},
    tail::model_name,
    value::{self, Written, setting, whole},
};
use crate::diagnostic::{Checked, Fault};

/// One statement.
#[derive(Clone, Debug)]
pub(crate) struct AlterDef {
    pub model: Name,
    pub change: ChangeDef,
}

#[derive(Clone, Debug)]
pub(crate) enum ChangeDef {
    /// `None`: the label is removed.
    Label {
        label: Name,
        version: Option<u64>,
    },
    Split(Vec<Written>),
    /// `None`: the newest version.
    Rollout {
        version: Option<u64>,
        settings: Vec<Written>,
    },
    Abort,
    /// `None`: it goes.
    Ranking {
        name: Name,
        version: Option<u64>,
        config: Option<String>,
        replace: bool,
    },
}

/// Reads what stands behind ALTER.
pub(crate) fn parse(c: &mut Cursor) -> Checked<AlterDef> {
    c.expect_word("MODEL")?;
    let model = model_name(c)?;
    let change = if c.take_word("LABEL") {
        let label = c.name("a label")?;
        c.expect_word("VERSION")?;
        ChangeDef::Label { label, version: Some(whole(c, "the number of a version")?.0) }
    } else if c.take_words(&["DROP", "LABEL"]) {
        ChangeDef::Label { label: c.name("a label")?, version: None }
    } else if c.take_words(&["DROP", "RANKING"]) {
        let name = c.name("a ranking's name")?;
        ChangeDef::Ranking { name, version: of_version(c)?, config: None, replace: true }
    } else if c.take_word("SPLIT") {
        ChangeDef::Split(in_brackets(c, |c, all| {
            all.push(setting(c)?);
            Ok(())
        })?)
    } else if c.take_word("ROLLOUT") {
        rollout(c)?
    } else {
        let known = ["LABEL", "DROP", "SPLIT", "ROLLOUT"];
        return Err(c.expected("LABEL, DROP LABEL, DROP RANKING, SPLIT or ROLLOUT", &known));
    };
    ended(c, AlterDef { model, change })
}

/// Reads what stands behind CREATE RANKING.
pub(crate) fn ranking(c: &mut Cursor, replace: bool) -> Checked<AlterDef> {
    let name = c.name("a ranking's name")?;
    c.expect_word("FOR")?;
    c.take_word("MODEL");
    let model = model_name(c)?;
    let version = of_version(c)?;
    c.expect_word("AS")?;
    let refused = c.expected("the ranking as JSON in quotes, as in '{\"score\": \"pctr * bid\"}'", &[]);
    let (config, _) = match c.peek().map(|t| &t.token) {
        Some(Token::SingleQuotedString(_)) => value::value(c)?,
        _ => return Err(refused),
    };
    ended(c, AlterDef { model, change: ChangeDef::Ranking { name, version, config: Some(config), replace } })
}

fn of_version(c: &mut Cursor) -> Checked<Option<u64>> {
    if c.take_word("VERSION") {
        whole(c, "the number of a version").map(|(version, _)| Some(version))
    } else {
        Ok(None)
    }
}

fn ended(c: &Cursor, def: AlterDef) -> Checked<AlterDef> {
    if c.is_done() { Ok(def) } else { Err(c.expected("the end of the statement", &[])) }
}

fn rollout(c: &mut Cursor) -> Checked<ChangeDef> {
    if c.take_word("ABORT") {
        return Ok(ChangeDef::Abort);
    }
    let version = if c.take_word("VERSION") { Some(whole(c, "the number of a version")?.0) } else { None };
    let settings = if c.is_done() { Vec::new() } else { in_brackets(c, clause)? };
    Ok(ChangeDef::Rollout { version, settings })
}

/// `STAGES '1%, 100%'`, `EACH '5s'` or `GUARD (errors = 1)`.
fn clause(c: &mut Cursor, all: &mut Vec<Written>) -> Checked<()> {
    let here = c.here();
    for word in ["STAGES", "EACH"] {
        if c.take_word(word) {
            let (value, value_span) = value::value(c)?;
            all.push(Written { name: Name { text: word.to_ascii_lowercase(), span: here }, value, value_span });
            return Ok(());
        }
    }
    if !c.take_word("GUARD") {
        return Err(c.expected("STAGES, EACH or GUARD", &["STAGES", "EACH", "GUARD"]));
    }
    let guards = in_brackets(c, |c, all| {
        all.push(setting(c)?);
        Ok(())
    })?;
    if let Some(other) = guards.iter().find(|w| ["stages", "each"].iter().any(|n| w.name.text.eq_ignore_ascii_case(n)))
    {
        let message = format!("{} is no guard; write it beside GUARD", other.name.text);
        return Err(Fault::new(other.name.span, message));
    }
    all.extend(guards);
    Ok(())
}

fn in_brackets(c: &mut Cursor, one: impl Fn(&mut Cursor, &mut Vec<Written>) -> Checked<()>) -> Checked<Vec<Written>> {
    let mut all = Vec::new();
    c.expect(&Token::LParen)?;
    loop {
        one(c, &mut all)?;
        if !c.take(&Token::Comma) {
            c.expect(&Token::RParen)?;
            return Ok(all);
        }
    }
}
