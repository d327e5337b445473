//! What stands behind a query: `EMIT ...`, and `TO TRAIN ...`, `TO EVALUATE ...`.
//!
//! The tokens are cut before any parsing, at words of the top level, because the stock parser would read EMIT as an alias
//! and `MINUTE TO` as an interval's qualifier.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};
use tidemill_stream::join::{Correction, NegativeSample, SamplingMode};

use super::{
    columns::{self, ColumnItem},
    cursor::{Cursor, Name, is_word},
    value::{self, Written},
};
use crate::{
    diagnostic::{Checked, Fault},
    suggest::nearest,
};

/// A query's tokens, cut.
pub(crate) struct Cut<'a> {
    pub query: &'a [TokenWithSpan],
    pub emit: &'a [TokenWithSpan],
    /// From the word TO on; empty when there is none.
    pub task: &'a [TokenWithSpan],
}

const TASKS: [&str; 5] = ["TRAIN", "PREDICT", "EXPLAIN", "EVALUATE", "RUN"];

/// Cuts at the top-level `TO <task>` and at the first clause about emission before it.
pub(crate) fn cut(tokens: &[TokenWithSpan]) -> Checked<Cut<'_>> {
    let top = top_level(tokens);
    let follows =
        |i: usize, words: &[&str]| tokens.get(i + 1).is_some_and(|t| words.iter().any(|w| is_word(&t.token, w)));
    let task = top.iter().copied().find(|&i| is_word(&tokens[i].token, "TO") && follows(i, &TASKS));
    if task.is_none() {
        misspelt_task(tokens, &top)?;
    }
    let task = task.unwrap_or(tokens.len());
    let emit = top
        .iter()
        .copied()
        .find(|&i| {
            let word = |w| is_word(&tokens[i].token, w);
            i < task
                && ((word("EMIT") && i > 0 && !follows(i, &["FROM", "AS"]) && follows_word(tokens, i))
                    || (word("NEGATIVE") && follows(i, &["SAMPLE"]))
                    || (word("DEDUP") && follows(i, &["BY"])))
        })
        .unwrap_or(task);
    Ok(Cut { query: &tokens[..emit], emit: &tokens[emit..task], task: &tokens[task..] })
}

fn follows_word(tokens: &[TokenWithSpan], i: usize) -> bool {
    matches!(tokens.get(i + 1), Some(TokenWithSpan { token: Token::Word(_), .. }))
}

fn top_level(tokens: &[TokenWithSpan]) -> Vec<usize> {
    let mut depth = 0usize;
    let mut top = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        match t.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            _ if depth == 0 => top.push(i),
            _ => {}
        }
    }
    top
}

/// `TO TRIAN`: no other TO stands at the top level but in `INTERVAL '1' DAY TO SECOND`.
fn misspelt_task(tokens: &[TokenWithSpan], top: &[usize]) -> Checked<()> {
    for &i in top.iter().filter(|&&i| is_word(&tokens[i].token, "TO")) {
        let Some(TokenWithSpan { token: Token::Word(w), span }) = tokens.get(i + 1) else { continue };
        if ["SECOND", "MINUTE", "HOUR", "MONTH"].iter().any(|unit| w.value.eq_ignore_ascii_case(unit)) {
            continue;
        }
        let fault = Fault::new(*span, format!("expected {} behind TO, found '{}'", TASKS.join(", "), w.value));
        return Err(match nearest(&w.value, TASKS) {
            Some(task) => fault.hint(format!("did you mean {task}?")),
            None => fault,
        });
    }
    Ok(())
}

/// When a sample leaves the join.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum EmitDef {
    OnWindowClose,
    OnMatch,
    Early { delay_ms: i64, span: Span },
}

/// Everything that is said about what leaves the join.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EmitClause {
    /// `None`: what is best for its sources.
    pub when: Option<EmitDef>,
    pub correction: Correction,
    /// Where `CORRECT` says something of the label: its place.
    pub correction_span: Option<Span>,
    pub sample: Option<NegativeSample>,
}

/// A negative out of a million weighs as much as they all: beyond that nothing would be learned but noise.
const SHARE_MIN: f64 = 1e-6;

/// Reads the EMIT clause, and NEGATIVE SAMPLE behind it or alone.
pub(crate) fn emit(tokens: &[TokenWithSpan]) -> Checked<Option<(EmitClause, Span)>> {
    let mut cursor = Cursor::new(tokens);
    let c = &mut cursor;
    if c.is_done() {
        return Ok(None);
    }
    let begin = c.here();
    refuse_dedup(c)?;
    let mut clause = EmitClause { when: None, correction: Correction::Retract, correction_span: None, sample: None };
    if !c.is_word("NEGATIVE") {
        c.expect_word("EMIT")?;
        when(c, &mut clause)?;
        if c.is_word("CORRECT") {
            let fault = Fault::new(c.here(), "CORRECT goes with EMIT EARLY and EMIT IMMEDIATE, and with no other");
            return Err(fault.hint("leave it out, or write EMIT EARLY INTERVAL '1' MINUTE CORRECT ..."));
        }
    }
    clause.sample = sample(c)?;
    if c.is_word("EMIT") {
        let fault = Fault::new(c.here(), "EMIT stands before NEGATIVE SAMPLE");
        return Err(fault.hint("write EMIT ... NEGATIVE SAMPLE 0.1"));
    }
    refuse_dedup(c)?;
    if !c.is_done() {
        return Err(c.expected("NEGATIVE SAMPLE, TO or the end of the statement", &["CORRECT", "NEGATIVE", "TO"]));
    }
    Ok(Some((clause, begin)))
}

fn when(c: &mut Cursor, clause: &mut EmitClause) -> Checked<()> {
    let here = c.here();
    if c.take_words(&["ON", "WINDOW", "CLOSE"]) {
        clause.when = Some(EmitDef::OnWindowClose);
    } else if c.take_words(&["ON", "MATCH"]) {
        clause.when = Some(EmitDef::OnMatch);
    } else if c.take_word("EARLY") {
        let (delay_ms, span) = value::interval(c)?;
        clause.when = Some(EmitDef::Early { delay_ms, span });
        correction(c, clause)?;
    } else if c.take_word("IMMEDIATE") {
        clause.when = Some(EmitDef::Early { delay_ms: 0, span: here });
        correction(c, clause)?;
    } else {
        let forms = "ON WINDOW CLOSE, ON MATCH, EARLY INTERVAL '1' MINUTE or IMMEDIATE";
        return Err(c.expected(forms, &["EARLY", "IMMEDIATE", "ON"]));
    }
    Ok(())
}

fn correction(c: &mut Cursor, clause: &mut EmitClause) -> Checked<()> {
    const WORDS: [(&str, Correction); 4] = [
        ("RETRACT", Correction::Retract),
        ("FNW", Correction::Fnw),
        ("ELAPSED", Correction::Elapsed),
        ("NONE", Correction::None),
    ];
    if !c.take_word("CORRECT") {
        return Ok(());
    }
    let here = c.here();
    match WORDS.into_iter().find(|(word, _)| c.take_word(word)) {
        Some((_, correction)) => (clause.correction, clause.correction_span) = (correction, Some(here)),
        None => return Err(c.expected("RETRACT, FNW, ELAPSED or NONE", &WORDS.map(|(word, _)| word))),
    }
    Ok(())
}

/// `NEGATIVE SAMPLE 0.1 [CORRECT BY WEIGHT | LOGIT]`; the seed is the model's, which is not known here.
fn sample(c: &mut Cursor) -> Checked<Option<NegativeSample>> {
    if !c.take_words(&["NEGATIVE", "SAMPLE"]) {
        return Ok(None);
    }
    let here = c.here();
    let written = match c.peek().map(|t| &t.token) {
        Some(Token::Number(text, _)) => text.parse::<f64>().ok(),
        _ => return Err(c.expected("the share of negatives that are learned from, like 0.1", &[])),
    };
    c.next();
    let Some(share) = written.filter(|share| (SHARE_MIN..=1.0).contains(share)) else {
        let fault = Fault::new(here, format!("NEGATIVE SAMPLE takes a share from {SHARE_MIN} to 1"));
        return Err(fault.hint("write NEGATIVE SAMPLE 0.1 to learn from one negative in ten"));
    };
    let mode = match c.take_words(&["CORRECT", "BY"]) {
        false => SamplingMode::Weight,
        true if c.take_word("WEIGHT") => SamplingMode::Weight,
        true if c.take_word("LOGIT") => SamplingMode::Logit,
        true => return Err(c.expected("WEIGHT or LOGIT", &["WEIGHT", "LOGIT"])),
    };
    Ok(Some(NegativeSample { share, mode, seed: 0 }))
}

fn refuse_dedup(c: &Cursor) -> Checked<()> {
    match c.is_word("DEDUP") {
        true => {
            let instead = "declare the column PRIMARY KEY in CREATE SOURCE: a second event with its value is dropped";
            Err(Fault::unsupported(c.here(), "DEDUP BY", instead))
        }
        false => Ok(()),
    }
}

/// `TO TRAIN ...`
#[derive(Clone, Debug)]
pub(crate) struct TrainTail {
    pub learner: Name,
    pub settings: Vec<Written>,
    /// Empty: no COLUMN clause.
    pub columns: Vec<ColumnItem>,
    pub label: Name,
    pub model: Name,
}

/// `TO EVALUATE ...`
#[derive(Clone, Debug)]
pub(crate) struct EvaluateTail {
    pub model: Name,
    pub settings: Vec<Written>,
    pub label: Name,
}

#[derive(Clone, Debug)]
pub(crate) enum Task {
    Train(TrainTail),
    Evaluate(EvaluateTail),
}

#[derive(Default)]
struct Clauses {
    settings: Vec<Written>,
    columns: Vec<ColumnItem>,
    label: Option<Name>,
    into: Option<Name>,
    seen: Vec<&'static str>,
}

/// Reads from the word TO to the end.
pub(crate) fn task(tokens: &[TokenWithSpan]) -> Checked<Task> {
    let mut cursor = Cursor::new(tokens);
    let c = &mut cursor;
    c.expect_word("TO")?;
    let here = c.here();
    if c.take_word("TRAIN") {
        let learner = c.dotted_name("a learner")?;
        let clauses = clauses(c)?;
        let label = clauses.label.ok_or_else(|| Fault::new(c.here(), "TO TRAIN needs LABEL <column>"))?;
        let model = clauses.into.ok_or_else(|| Fault::new(c.here(), "TO TRAIN needs INTO <model>"))?;
        return Ok(Task::Train(TrainTail {
            learner,
            settings: clauses.settings,
            columns: clauses.columns,
            label,
            model,
        }));
    }
    if c.take_word("EVALUATE") {
        let model = evaluated_name(c)?;
        let clauses = clauses(c)?;
        if let Some(table) = clauses.into {
            let instead = "leave it out: the figures are printed";
            return Err(Fault::unsupported(table.span, "EVALUATE ... INTO a table", instead));
        }
        if !clauses.columns.is_empty() {
            let message = "TO EVALUATE takes no COLUMN: the model knows its columns";
            return Err(Fault::new(here, message));
        }
        let label = clauses.label.ok_or_else(|| Fault::new(c.here(), "TO EVALUATE needs LABEL <column>"))?;
        return Ok(Task::Evaluate(EvaluateTail { model, settings: clauses.settings, label }));
    }
    Err(match c.next().map(|t| t.token.to_string().to_ascii_uppercase()).as_deref() {
        Some("PREDICT") => Fault::unsupported(
            here,
            "TO PREDICT",
            "a trained model answers at POST /v1/models/NAME:predict while 'tidemill run' serves it",
        ),
        Some("EXPLAIN") => Fault::unsupported(here, "TO EXPLAIN", "TO EVALUATE gives a model's figures"),
        _ => Fault::unsupported(here, "TO RUN", "TO TRAIN and TO EVALUATE are built"),
    })
}

fn clauses(c: &mut Cursor) -> Checked<Clauses> {
    const WORDS: [&str; 4] = ["WITH", "COLUMN", "LABEL", "INTO"];
    let mut clauses = Clauses::default();
    while !c.is_done() {
        let here = c.here();
        let Some(word) = WORDS.into_iter().find(|w| c.is_word(w)) else {
            return Err(c.expected("WITH, COLUMN, LABEL, INTO or the end of the statement", &WORDS));
        };
        if clauses.seen.contains(&word) {
            return Err(Fault::new(here, format!("{word} is written twice")));
        }
        clauses.seen.push(word);
        c.next();
        match word {
            "WITH" => clauses.settings = settings(c)?,
            "COLUMN" => clauses.columns = columns::parse(c)?,
            "LABEL" => clauses.label = Some(c.name("the label's column")?),
            _ => clauses.into = Some(model_name(c)?),
        }
    }
    Ok(clauses)
}

fn settings(c: &mut Cursor) -> Checked<Vec<Written>> {
    let mut settings = Vec::new();
    loop {
        settings.push(value::setting(c)?);
        if !c.take(&Token::Comma) {
            return Ok(settings);
        }
    }
}

/// TO EVALUATE takes the live version: `ctr@41` has to be made that first.
fn evaluated_name(c: &mut Cursor) -> Checked<Name> {
    model_name(c).map_err(|fault| {
        let text = fault.message.rsplit_once("got '").map_or("", |(_, got)| got.trim_end_matches('\''));
        match text.split_once('@') {
            Some((model, version)) if version.parse::<u64>().is_ok() => Fault::new(
                fault.span,
                format!("TO EVALUATE takes a model and scores its live version; '{text}' names a version"),
            )
            .hint(format!(
                "write TO EVALUATE {model}; to score version {version}, first run tidemill models rollback {text}"
            )),
            _ => fault,
        }
    })
}

/// A model's name is a folder's name: see the limits in the message.
pub(super) fn model_name(c: &mut Cursor) -> Checked<Name> {
    let name = match c.peek().map(|t| (&t.token, t.span)) {
        Some((Token::SingleQuotedString(s), span)) => {
            c.next();
            Name { text: s.clone(), span }
        }
        _ => c.dotted_name("a model's name")?,
    };
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let good =
        name.text.bytes().all(letter) && (1..=128).contains(&name.text.len()) && !name.text.starts_with(['.', '-']);
    if good {
        return Ok(name);
    }
    let message = "model name may hold letters, digits, '_', '-', '.', and begins with none of the last two; \
                   1 to 128 characters";
    Err(Fault::new(name.span, format!("{message}; got '{}'", name.text.escape_debug())))
}
