//! One rank request, answered.
//!
//! In: its body. Out: a [`RankReply`]: the page, what the model said of each item on it, and how many had no score. The
//! model scores candidates and context by the way of every prediction; the expression is compiled against what this
//! request brings; then the page is chosen. A request sees one version, one `now` and one seed all through.

use std::{io::Write, sync::Arc};

use arrow::datatypes::{DataType, Schema};
use tidemill_base::{Error, Result, hash64};
use tidemill_model::loss::Loss;

use super::{
    Column, ColumnType, Config, Known, Output, Program, RunScratch,
    compile::names_a_time,
    nearest,
    read::{Reader, Row, Wanted},
    request::{Ranking, Request},
    select::{ItemId, Limit, Page, page},
    token::short,
};
use crate::{
    live::Which,
    predict::{PredictReply, Prediction, Predictor},
};

/// The answer to a rank request.
#[derive(Clone, Debug, PartialEq)]
pub struct RankReply {
    /// Which model.
    pub model: String,
    /// The version that answered.
    pub version: u64,
    /// Mini-batches it had learned from.
    pub mini_batch: u64,
    /// How many candidates there were.
    pub candidates: usize,
    /// How many of them had a score that is infinite or no number; they stand last.
    pub not_finite: usize,
    /// How many were passed over because their group had its share.
    pub pushed_back: usize,
    /// The time that was now for this request, milliseconds since 1970.
    pub now_ms: i64,
    /// The page, best first.
    pub items: Vec<RankedItem>,
    /// Names in candidates and context that neither the source nor the score knows.
    pub unknown_columns: Vec<String>,
}

/// An item on a page.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedItem {
    /// What the request calls it.
    pub id: ItemId,
    /// What the expression made of it.
    pub score: f64,
    /// What the model said of it.
    pub prediction: Prediction,
}

/// The ranking of a name for a version.
pub(crate) type NamedRankings<'a> = &'a dyn Fn(&str, u64) -> Result<Arc<Config>>;

/// How often a request begins again because the version that answers has another ranking than the one that was live.
const ATTEMPTS: usize = 8;

/// Answers a request by the version asked for, or the live one; `now_ms` is the time if the request does not say it.
pub(crate) fn rank(
    predictor: &Predictor,
    named: NamedRankings<'_>,
    body: &[u8],
    which: Which<'_>,
    now_ms: i64,
) -> Result<RankReply> {
    let request = Request::parse(body)?;
    let now_ms = request.now_ms.unwrap_or(now_ms);
    let mut config = match &request.ranking {
        Ranking::Prediction => Arc::new(Config::from_score("prediction")?),
        Ranking::Score(text) => Arc::new(Config::from_score(text)?),
        Ranking::Config(value) => Arc::new(Config::from_value(value)?),
        Ranking::Named(name) => named(name, predictor.live().pick(which)?.version)?,
    };
    for _ in 0..ATTEMPTS {
        let (items, scores, predicted) = score(predictor, &request, &config, which, now_ms)?;
        if let Ranking::Named(name) = &request.ranking {
            let of_version = named(name, predicted.version)?;
            if !Arc::ptr_eq(&of_version, &config) {
                config = of_version;
                continue;
            }
        }
        let limit = request.diversity.as_ref().map(|d| Limit { groups: &items.groups, max: d.max });
        let chosen = page(&scores, &items.ids, limit, request.k.unwrap_or(usize::MAX));
        return Ok(reply(chosen, items, &scores, predicted, now_ms));
    }
    Err(Error::unavailable(
        "the live version and its ranking changed again and again while this was answered; try again",
    ))
}

/// Items with their scores, and what the model said of them.
fn score(
    predictor: &Predictor,
    request: &Request<'_>,
    config: &Config,
    which: Which<'_>,
    now_ms: i64,
) -> Result<(Items, Vec<f64>, PredictReply)> {
    let program = Program::compile(config, &known(predictor, true))?;
    let given = program.given(now_ms, &request.external)?;
    let mut items = Items::read(request, &program, predictor)?;
    let predicted = predictor.predict_shared(request.context, &request.candidates, which).map_err(of_candidates)?;
    let scores = items.score(&program, &given, &predicted, request.seed);
    Ok((items, scores, predicted))
}

/// What is known of a model before a request comes; `open` if its items bring columns of their own.
pub(crate) fn known(predictor: &Predictor, open: bool) -> Known {
    let output = match predictor.live().read().weights.loss() {
        Loss::Logistic => Output::Probability,
        Loss::Squared | Loss::Huber { .. } | Loss::Bounded { .. } => Output::Value,
        Loss::Softmax { classes } => Output::Classes(classes),
    };
    Known { columns: column_types(predictor.columns()), model: predictor.model().to_string(), output, open }
}

fn column_types(columns: &Schema) -> Vec<(String, ColumnType)> {
    let of = |name: &str, ty: &DataType| match ty {
        DataType::Timestamp(..) => ColumnType::Time,
        DataType::Int64 | DataType::Utf8 if names_a_time(name) => ColumnType::Time,
        DataType::Int64 | DataType::Int32 => ColumnType::Whole,
        DataType::Float64 | DataType::Float32 | DataType::Boolean => ColumnType::Number,
        DataType::Utf8 => ColumnType::Text,
        _ => ColumnType::Other,
    };
    columns.fields().iter().map(|f| (f.name().clone(), of(f.name(), f.data_type()))).collect()
}

/// The candidates, in columns.
struct Items {
    ids: Vec<ItemId>,
    /// By column of the program; those that the model fills are empty.
    columns: Vec<Vec<f64>>,
    groups: Vec<Option<u64>>,
    unknown: Vec<String>,
}

impl Items {
    fn read(request: &Request<'_>, program: &Program, predictor: &Predictor) -> Result<Self> {
        let source = predictor.columns();
        let mut reader = reader(request, program, source);
        let mut row = Row::default();
        let context = match request.context {
            None => None,
            Some(context) => {
                reader.read(context, &mut row).map_err(|what| Error::invalid(format!("context{what}")))?;
                Some(row.clone())
            }
        };
        let n = request.candidates.len();
        let mut items = Items {
            ids: Vec::with_capacity(n),
            columns: program.columns().iter().map(|_| Vec::with_capacity(n)).collect(),
            groups: Vec::with_capacity(n),
            unknown: Vec::new(),
        };
        for (i, candidate) in request.candidates.iter().enumerate() {
            reader.read(candidate, &mut row).map_err(|what| Error::invalid(format!("candidates[{i}]{what}")))?;
            let Some(id) = row.id.take() else {
                return Err(Error::invalid(format!("candidates[{i}]: no \"id\"; it is a whole number or a text")));
            };
            items.ids.push(id);
            items.groups.push(row.group.or(context.as_ref().and_then(|c| c.group)));
            for (column, x) in row.numbers.iter().enumerate() {
                let shared = context.as_ref().map_or(f64::NAN, |c| c.numbers[column]);
                items.columns[column].push(if x.is_nan() { shared } else { *x });
            }
        }
        items.unknown = std::mem::take(&mut reader.unknown);
        items.check_names(request, program, &reader, source)?;
        Ok(items)
    }

    /// A name that the score reads and nobody has is a mistake in the score.
    fn check_names(&self, request: &Request<'_>, program: &Program, reader: &Reader, source: &Schema) -> Result<()> {
        let near = |path: &str| {
            let known = self.unknown.iter().chain(source.fields().iter().map(|f| f.name())).map(String::as_str);
            let others = known.chain(["pctr", "prediction", "now"]).filter(|name| *name != path);
            nearest(path, others).map_or(String::new(), |near| format!("; did you mean '{near}'?"))
        };
        for (i, column) in program.columns().iter().enumerate().filter(|(i, _)| !reader.seen[*i]) {
            if let Column::Number { path, undeclared: Some(place) }
            | Column::TextIs { path, undeclared: Some(place), .. } = column
            {
                let advice = near(path);
                debug_assert!(self.columns[i].iter().all(|x| x.is_nan()), "nobody has it");
                return Err(Error::invalid(format!(
                    "{place} in the source, the context or any candidate, and no default for one{advice}"
                )));
            }
        }
        if let Some(diversity) = &request.diversity
            && self.groups.iter().all(Option::is_none)
        {
            let by = &diversity.by;
            return Err(Error::invalid(format!("diversity.by: no candidate has '{}'{}", short(by), near(by))));
        }
        Ok(())
    }

    fn score(&mut self, program: &Program, given: &[f64], predicted: &PredictReply, seed: u64) -> Vec<f64> {
        for (values, column) in self.columns.iter_mut().zip(program.columns()) {
            let of = |prediction: &Prediction| match (column, prediction) {
                (Column::Class(class), Prediction::Classes(p)) => p[*class],
                _ => prediction.number(),
            };
            if matches!(column, Column::Prediction | Column::Class(_)) {
                values.clear();
                values.extend(predicted.predictions.iter().map(of));
            }
        }
        let hashes: Vec<u64> = self.ids.iter().map(hash).collect();
        let columns: Vec<&[f64]> = self.columns.iter().map(Vec::as_slice).collect();
        let mut scores = vec![0.0; self.ids.len()];
        program.run(&columns, given, &hashes, seed, &mut RunScratch::default(), &mut scores);
        scores
    }
}

fn reader(request: &Request<'_>, program: &Program, source: &Schema) -> Reader {
    let mut wanted: Vec<(&str, Wanted)> = vec![("id", Wanted::Id)];
    for (i, column) in program.columns().iter().enumerate() {
        match column {
            Column::Number { path, .. } => wanted.push((path, Wanted::Number(i))),
            Column::TextIs { path, text, .. } => wanted.push((path, Wanted::TextIs(i, text.clone()))),
            Column::Prediction | Column::Class(_) => {}
        }
    }
    if let Some(diversity) = &request.diversity {
        wanted.push((&diversity.by, Wanted::Group));
    }
    Reader::new(&wanted, program.columns().len(), source.fields().iter().map(|f| f.name().as_str()))
}

/// What random numbers of an item come from: a number and its digits as text are the same item.
fn hash(id: &ItemId) -> u64 {
    match id {
        ItemId::Number(x) => hash64(x.to_string().as_bytes(), 0),
        ItemId::Text(text) => hash64(text.as_bytes(), 0),
    }
}

/// `rows[3].price` is `candidates[3].price` here.
fn of_candidates(e: Error) -> Error {
    match e.message().strip_prefix("rows[") {
        Some(rest) => Error::new(e.kind(), format!("candidates[{rest}")),
        None => e,
    }
}

fn reply(chosen: Page, items: Items, scores: &[f64], predicted: PredictReply, now_ms: i64) -> RankReply {
    let item = |i: &u32| {
        let i = *i as usize;
        RankedItem { id: items.ids[i].clone(), score: scores[i], prediction: predicted.predictions[i].clone() }
    };
    RankReply {
        items: chosen.items.iter().map(item).collect(),
        model: predicted.model,
        version: predicted.version,
        mini_batch: predicted.mini_batch,
        candidates: items.ids.len(),
        not_finite: chosen.not_finite,
        pushed_back: chosen.pushed_back,
        now_ms,
        unknown_columns: items.unknown,
    }
}

impl RankReply {
    /// As JSON text; a score that is infinite or no number is null.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(192 + 64 * self.items.len());
        // Writing into memory does not fail, and a model's name holds nothing that JSON would escape.
        let _ = write!(
            out,
            r#"{{"model":"{}","version":{},"mini_batch":{},"now":{},"candidates":{},"not_finite":{},"pushed_back":{},"items":["#,
            self.model, self.version, self.mini_batch, self.now_ms, self.candidates, self.not_finite, self.pushed_back
        );
        for (i, item) in self.items.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"{\"id\":" } else { b",{\"id\":" });
            let _ = match &item.id {
                ItemId::Number(id) => write!(out, "{id}"),
                ItemId::Text(id) => serde_json::to_writer(&mut out, id).map_err(Into::into),
            };
            out.extend_from_slice(b",\"score\":");
            number(&mut out, item.score);
            match &item.prediction {
                Prediction::Probability(p) => {
                    out.extend_from_slice(b",\"probability\":");
                    number(&mut out, *p);
                }
                Prediction::Value(x) => {
                    out.extend_from_slice(b",\"value\":");
                    number(&mut out, *x);
                }
                Prediction::Classes(p) => {
                    let _ = write!(out, ",\"probabilities\":{}", serde_json::json!(p));
                }
            }
            out.push(b'}');
        }
        out.push(b']');
        if !self.unknown_columns.is_empty() {
            let _ = write!(out, r#","unknown_columns":{}"#, serde_json::Value::from(self.unknown_columns.clone()));
        }
        out.push(b'}');
        out
    }
}

/// The shortest digits that are this number again; null for what JSON cannot say.
fn number(out: &mut Vec<u8>, x: f64) {
    // Into memory, which does not fail.
    let _ = serde_json::to_writer(out, &x);
}
