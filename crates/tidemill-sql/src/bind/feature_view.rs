//! `CREATE FEATURE VIEW`, bound, and its place in FROM: `LEFT JOIN v FOR SYSTEM_TIME AS OF i.rt f ON f.key = i.key`.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::DataType;
use datafusion::{
    logical_expr::Expr,
    sql::sqlparser::{
        ast::{self, BinaryOperator, Ident, Spanned},
        tokenizer::Span,
    },
};
use tidemill_stream::aggregate::{
    self, AggregateSpec, Function, LAST_MAX, OUTPUTS_MAX, REGISTERS, ViewSpec, WindowSpec,
};

use super::{
    Catalog,
    join::conjuncts,
    relation::{Relation, RelationColumn, base},
    scope::{Scope, find},
    select::From,
    source,
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::{
        AsOfDef, FeatureViewDef,
        cursor::Name,
        feature_view::{AggregateDef, ArgumentDef, WindowDef},
        value::type_name,
    },
    planner::{or, to_plain_type},
};

/// Columns of feature views are called `feature.N.NAME`, by the number of the join.
pub(crate) const FEATURE: &str = "feature.";

/// A feature view, bound.
#[derive(Debug)]
pub(crate) struct BoundView {
    pub name: String,
    pub key_name: String,
    pub key_type: DataType,
    /// What changes it, in the order of FROM.
    pub inputs: Vec<ViewInput>,
    pub aggregates: Vec<BoundAggregate>,
    pub ttl_ms: i64,
    pub keys_max: usize,
    /// Statements it depends on.
    pub used: BTreeSet<usize>,
}

#[derive(Debug)]
pub(crate) struct ViewInput {
    pub relation: Relation,
    /// Over its source's columns.
    pub key: Expr,
}

#[derive(Debug)]
pub(crate) struct BoundAggregate {
    /// Its column is filled in where the rows' columns are known.
    pub spec: AggregateSpec,
    /// Over the columns of its feed's source.
    pub argument: Option<Expr>,
    pub text: String,
}

/// A feature view in FROM.
#[derive(Clone, Debug)]
pub(crate) struct FeatureJoin {
    pub view: Arc<BoundView>,
    /// Over the impressions' columns.
    pub read_key: Expr,
    pub span: Span,
}

/// The flat name of a view's column.
pub(crate) fn feature(join: usize, name: &str) -> String {
    format!("{FEATURE}{join}.{name}")
}

/// Binds a declared view; `statement` is its place in the program, `at` where it is used.
pub(crate) fn bind(def: &FeatureViewDef, catalog: &Catalog, statement: usize, at: usize) -> Checked<BoundView> {
    let mut used = BTreeSet::from([statement]);
    let mut inputs: Vec<ViewInput> = Vec::new();
    let mut key_type: Option<DataType> = None;
    for (i, (table, alias)) in def.from.iter().enumerate() {
        if def.from[..i].iter().any(|(_, other)| other.text == alias.text) {
            return Err(Fault::new(alias.span, format!("'{}' names two streams", alias.text)).hint("give one an alias"));
        }
        let ident = Ident { value: table.text.clone(), quote_style: None, span: table.span };
        let relation = catalog.relation(&ident, at)?;
        if relation.join.is_some() || !relation.features.is_empty() {
            let what = format!("a feature view over '{}', which is a join", table.text);
            return Err(Fault::unsupported(table.span, what, "name sources, or views of single sources"));
        }
        if relation.left.source.event_time.is_none() {
            let name = &relation.left.source.spec.name;
            let fault =
                Fault::new(table.span, format!("a feature view needs event time: source '{name}' has no WATERMARK"));
            return Err(fault.hint("add WATERMARK FOR ts AS ts - INTERVAL '10' SECOND to its columns"));
        }
        let key = key(def, &relation, alias, &mut key_type)?;
        used.extend(&relation.used);
        inputs.push(ViewInput { relation, key });
    }
    let streams = Streams { def, inputs: &inputs, catalog };
    let mut aggregates: Vec<BoundAggregate> = Vec::new();
    for a in &def.aggregates {
        let more = streams.aggregate(a, &aggregates)?;
        for new in more {
            if new.spec.name == def.key.text || aggregates.iter().any(|b| b.spec.name == new.spec.name) {
                return Err(Fault::new(a.name.span, format!("column '{}' is there already", new.spec.name)));
            }
            aggregates.push(new);
        }
        if aggregates.len() > OUTPUTS_MAX {
            return Err(Fault::new(a.name.span, format!("a feature view has at most {OUTPUTS_MAX} columns")));
        }
    }
    let settings = source::settings(aggregate::ATTRIBUTES.iter(), &def.settings, "a feature view")?;
    let specs: Vec<AggregateSpec> = aggregates.iter().map(|a| a.spec.clone()).collect();
    let ttl_ms = settings.integer_opt("ttl").unwrap_or_else(|| ViewSpec::ttl_of(&specs));
    if ttl_ms <= 0 {
        return Err(Fault::new(def.name.span, "ttl is longer than 0").hint("write ttl = '1d'"));
    }
    Ok(BoundView {
        name: def.name.text.clone(),
        key_name: def.key.text.clone(),
        key_type: key_type.expect("FROM names a stream"),
        inputs,
        aggregates,
        ttl_ms,
        keys_max: settings.integer("keys_max") as usize,
        used,
    })
}

/// The key of one stream; of the same type in all.
fn key(def: &FeatureViewDef, relation: &Relation, alias: &Name, key_type: &mut Option<DataType>) -> Checked<Expr> {
    let names = relation.names();
    let Some(i) = find(&names, &def.key.text) else {
        let fault = Fault::new(def.key.span, format!("no column '{}' in '{}'", def.key.text, alias.text));
        return Err(fault.nearest(&def.key.text, names, "columns"));
    };
    let column = &relation.columns[i];
    let (expr, ty) = to_plain_type(column.expr.clone(), &column.ty);
    if !matches!(ty, DataType::Int32 | DataType::Int64 | DataType::Utf8 | DataType::Boolean | DataType::Timestamp(..)) {
        let message =
            format!("a key is BIGINT, INT, STRING, BOOLEAN or TIMESTAMP, '{}' is {}", column.name, type_name(&ty));
        return Err(Fault::new(def.key.span, message));
    }
    let known = key_type.get_or_insert(ty.clone());
    if !same_key(known, &ty) {
        let message =
            format!("'{}' is {} in '{}' and {} before", column.name, type_name(&ty), alias.text, type_name(known));
        return Err(Fault::new(def.key.span, message).hint("cast one of them in a view: CAST(x AS BIGINT) AS x"));
    }
    Ok(expr)
}

/// Whole numbers of both widths are one key.
fn same_key(a: &DataType, b: &DataType) -> bool {
    let whole = |t: &DataType| matches!(t, DataType::Int32 | DataType::Int64);
    a == b || (whole(a) && whole(b))
}

struct Streams<'a> {
    def: &'a FeatureViewDef,
    inputs: &'a [ViewInput],
    catalog: &'a Catalog<'a>,
}

/// What an aggregate is computed of.
struct Argument {
    feed: usize,
    expr: Option<Expr>,
    ty: DataType,
}

const FUNCTIONS: [&str; 8] = ["COUNT", "SUM", "MEAN", "MIN", "MAX", "DISTINCT", "LAST", "RATIO"];

impl Streams<'_> {
    /// One column, or several for LAST.
    fn aggregate(&self, a: &AggregateDef, before: &[BoundAggregate]) -> Checked<Vec<BoundAggregate>> {
        let word = a.function.text.to_ascii_uppercase();
        let window = match &a.window {
            Some((def, span)) => spec_of(*def, *span)?,
            None => WindowSpec::Lifetime,
        };
        if word == "RATIO" {
            return Ok(vec![self.ratio(a, before)?]);
        }
        let function = match word.as_str() {
            "COUNT" => Function::Count,
            "SUM" => Function::Sum,
            "MEAN" | "AVG" => Function::Mean,
            "MIN" => Function::Min,
            "MAX" => Function::Max,
            "DISTINCT" | "APPROX_DISTINCT" => {
                let registers = a.arguments.get(1).map(|arg| whole(arg, "a number of registers")).transpose()?;
                Function::Distinct { registers: registers.map_or(REGISTERS, |n| n.min(u64::from(u32::MAX)) as u32) }
            }
            "LAST" => {
                let kept = a.arguments.get(1).map_or(Ok(1), |arg| whole(arg, "a number of values"))?;
                if kept == 0 || kept > LAST_MAX as u64 {
                    let span = a.arguments.get(1).map_or(a.function.span, |arg| arg.span);
                    return Err(Fault::new(span, format!("LAST keeps 1 to {LAST_MAX} values, got {kept}")));
                }
                Function::Last { kept: kept as usize, back: 0 }
            }
            _ => {
                let fault = Fault::new(a.function.span, format!("no aggregate '{}'", a.function.text));
                return Err(fault.nearest(&a.function.text, FUNCTIONS, "aggregates"));
            }
        };
        let takes = if matches!(function, Function::Distinct { .. } | Function::Last { .. }) { 2 } else { 1 };
        if let Some(more) = a.arguments.get(takes) {
            return Err(Fault::new(
                more.span,
                format!("{word} takes {takes} argument{}", if takes > 1 { "s" } else { "" }),
            ));
        }
        let argument = self.argument(&a.arguments[0])?;
        if argument.expr.is_none() && function != Function::Count {
            let fault =
                Fault::new(a.arguments[0].span, format!("{word} takes a column; only COUNT takes a whole stream"));
            return Err(fault.hint(format!("write {word}({}.column)", self.def.from[argument.feed].1.text)));
        }
        let one = |name: String, function: Function| -> Checked<BoundAggregate> {
            let spec =
                AggregateSpec { name, function, feed: argument.feed, column: None, ty: argument.ty.clone(), window };
            self.check(&spec, a)?;
            Ok(BoundAggregate { spec, argument: argument.expr.clone(), text: a.name.text.clone() })
        };
        match function {
            Function::Last { kept, .. } if kept > 1 => (0..kept)
                .map(|back| one(format!("{}_{}", a.name.text, back + 1), Function::Last { kept, back }))
                .collect(),
            function => Ok(vec![one(a.name.text.clone(), function)?]),
        }
    }

    /// Refuses what the view could not keep, at the aggregate's place.
    fn check(&self, spec: &AggregateSpec, a: &AggregateDef) -> Checked<()> {
        let feed = aggregate::Feed { input: 0, key: 0, passes: None };
        let view = ViewSpec {
            name: self.def.name.text.clone(),
            feeds: vec![feed; self.inputs.len()],
            aggregates: vec![spec.clone()],
            read_key: 0,
            ttl_ms: 1,
            keys_max: 1,
        };
        let at = a.window.as_ref().map_or(a.function.span, |(_, span)| *span);
        view.check().map_err(|e| Fault::new(at, e.message().to_string()))
    }

    /// `RATIO(a, b, alpha, prior)` of two columns that stand before it.
    fn ratio(&self, a: &AggregateDef, before: &[BoundAggregate]) -> Checked<BoundAggregate> {
        if let Some((_, span)) = &a.window {
            return Err(Fault::new(*span, "RATIO has the windows of its columns").hint("leave out OVER"));
        }
        let place = |arg: &ArgumentDef| {
            let names: Vec<&str> = before.iter().map(|b| b.spec.name.as_str()).collect();
            let written = arg.expr.as_ref().map_or("*".into(), |e| e.to_string());
            find(&names, &written).ok_or_else(|| {
                let fault = Fault::new(arg.span, format!("RATIO takes columns that stand before it, not '{written}'"));
                fault.nearest(&written, names, "columns")
            })
        };
        let [of, to, smoothing @ ..] = a.arguments.as_slice() else {
            let hint = "write RATIO(clicks_1h, impressions_1h, 20, 0.03)";
            return Err(Fault::new(a.function.span, "RATIO takes two columns, and alpha and prior").hint(hint));
        };
        let (alpha, prior) = match smoothing {
            [] => (0.0, 0.0),
            [alpha, prior] => (number(alpha, "alpha")?, number(prior, "the prior")?),
            [one, ..] => {
                let hint = "write RATIO(clicks_1h, impressions_1h, 20, 0.03)";
                return Err(Fault::new(one.span, "smoothing takes alpha and prior, both").hint(hint));
            }
        };
        if !(alpha >= 0.0 && alpha.is_finite() && prior.is_finite()) {
            return Err(Fault::new(smoothing[0].span, format!("alpha is a number from 0, got {alpha}")));
        }
        let function = Function::Ratio { of: place(of)?, to: place(to)?, alpha, prior };
        let (ty, window) = (DataType::Null, WindowSpec::Lifetime);
        let spec = AggregateSpec { name: a.name.text.clone(), function, feed: 0, column: None, ty, window };
        Ok(BoundAggregate { spec, argument: None, text: a.name.text.clone() })
    }

    /// A stream's alias (its events), `*` of the only stream, or an expression over the columns of one stream.
    fn argument(&self, arg: &ArgumentDef) -> Checked<Argument> {
        let events = |feed: usize| Argument { feed, expr: None, ty: DataType::Null };
        let aliases: Vec<&str> = self.def.from.iter().map(|(_, alias)| alias.text.as_str()).collect();
        let expr = match &arg.expr {
            None if aliases.len() == 1 => return Ok(events(0)),
            None => {
                let fault = Fault::new(arg.span, "COUNT(*) of which stream?");
                return Err(fault.hint(format!("write COUNT({})", aliases.join(") or COUNT("))));
            }
            Some(ast::Expr::Identifier(ident)) => match find(&aliases, &ident.value) {
                Some(feed) => return Ok(events(feed)),
                None => arg.expr.as_ref().expect("it is one"),
            },
            Some(expr) => expr,
        };
        let columns = |input: &ViewInput| -> Vec<(String, DataType)> {
            input.relation.columns.iter().map(|c| (c.name.clone(), c.ty.clone())).collect()
        };
        let scope = self.inputs.iter().zip(&aliases).fold(Scope::new(), |s, (i, alias)| s.with(alias, columns(i)));
        scope.resolve(expr)?;
        let [feed] = scope.tables_of(expr)[..] else {
            let fault = Fault::new(arg.span, "an aggregate is over the columns of one stream");
            return Err(fault.hint(format!("streams: {}", aliases.join(", "))));
        };
        let from = From::one(self.inputs[feed].relation.clone(), aliases[feed]);
        let (expr, ty) = from.plan(expr, self.catalog, or(expr.span(), arg.span))?;
        let (expr, ty) = to_plain_type(expr, &ty);
        Ok(Argument { feed, expr: Some(expr), ty })
    }
}

fn spec_of(def: WindowDef, span: Span) -> Checked<WindowSpec> {
    let positive = |ms: i64| match ms > 0 {
        true => Ok(ms),
        false => Err(Fault::new(span, "a length of time here is longer than 0")),
    };
    let spec = match def {
        WindowDef::Sawtooth { length_ms, pane_ms } => {
            WindowSpec::sawtooth(length_ms, pane_ms.unwrap_or(length_ms / 12))
        }
        WindowDef::Tumble { length_ms } => WindowSpec::tumble(length_ms),
        WindowDef::Hop { slide_ms, length_ms } => WindowSpec::hop(slide_ms, length_ms),
        WindowDef::Session { gap_ms } => return Ok(WindowSpec::Session { gap_ms: positive(gap_ms)? }),
        WindowDef::Decay { half_life_ms } => return Ok(WindowSpec::Decay { half_life_ms: positive(half_life_ms)? }),
    };
    spec.map_err(|e| Fault::new(span, e.message().to_string()))
}

fn number(arg: &ArgumentDef, what: &str) -> Checked<f64> {
    let text = arg.expr.as_ref().map_or("*".to_string(), |e| e.to_string());
    text.parse().map_err(|_| Fault::new(arg.span, format!("expected {what} as a number, found '{text}'")))
}

fn whole(arg: &ArgumentDef, what: &str) -> Checked<u64> {
    let text = arg.expr.as_ref().map_or("*".to_string(), |e| e.to_string());
    text.parse().map_err(|_| Fault::new(arg.span, format!("expected {what}, found '{text}'")))
}

/// Where the word `table` stands before FOR SYSTEM_TIME, the time it is read at.
pub(crate) fn as_of<'a>(as_of: &'a [AsOfDef], table: &ast::TableFactor) -> Option<&'a AsOfDef> {
    let ast::TableFactor::Table { name, .. } = table else { return None };
    let span = name.0.first()?.as_ident()?.span;
    as_of.iter().find(|a| a.table.start == span.start)
}

/// Adds a view's columns to what FROM has so far.
pub(crate) fn join(
    from: From,
    view: Arc<BoundView>,
    alias: &Ident,
    as_of: Option<&AsOfDef>,
    on: Option<&ast::Expr>,
    catalog: &Catalog,
) -> Checked<From> {
    let example = || format!("LEFT JOIN {} FOR SYSTEM_TIME AS OF i.rt f ON f.{} = i.{1}", view.name, view.key_name);
    let Some(as_of) = as_of else {
        let fault = Fault::new(alias.span, format!("feature view '{}' is read as of the impression", view.name));
        return Err(fault.hint(format!("write {}", example())));
    };
    let (table, column) = from.scope.column(&as_of.time)?;
    if table != 0 || !from.relation.is_event_time(from.index(table, column)) {
        let fault = Fault::new(as_of.span, "a feature view is read at the impression's event time, and at no other");
        return Err(match &from.relation.left.source.event_time {
            Some(time) => {
                fault.hint(format!("that is '{time}' (WATERMARK FOR); the views below must select it as it is"))
            }
            None => fault.hint("add WATERMARK FOR ts AS ts - INTERVAL '10' SECOND to the source's columns"),
        });
    }
    let wrong = |span: Span| {
        let message = format!("a feature view is joined on its key, '{}', and nothing else", view.key_name);
        Fault::new(span, message).hint(format!("write {}", example()))
    };
    let Some(on) = on else { return Err(wrong(alias.span)) };
    let span = or(on.span(), alias.span);
    let [ast::Expr::BinaryOp { left, op: BinaryOperator::Eq, right }] = conjuncts(on)[..] else {
        return Err(wrong(span));
    };
    let is_key = |e: &ast::Expr| match e {
        ast::Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column] => {
                table.value.eq_ignore_ascii_case(&alias.value) && column.value.eq_ignore_ascii_case(&view.key_name)
            }
            _ => false,
        },
        // Words that SQL has a meaning for (`user`) are parsed as something else, and written as they are.
        other => other.to_string().eq_ignore_ascii_case(&format!("{}.{}", alias.value, view.key_name)),
    };
    let written = match (is_key(left), is_key(right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return Err(wrong(span)),
    };
    let (read_key, ty) = from.plan(written, catalog, span)?;
    let (read_key, ty) = to_plain_type(read_key, &ty);
    if super::relation::reads(&read_key).iter().any(|n| !n.starts_with(super::relation::LEFT)) {
        let fault = Fault::new(span, "a feature view is read under a key that the impression itself has");
        return Err(fault.hint(format!("write {}", example())));
    }
    if !same_key(&ty, &view.key_type) {
        let (read, key) = (type_name(&ty), type_name(&view.key_type));
        return Err(Fault::new(
            span,
            format!("keys have different types: '{written}' is {read}, the view's key {key}"),
        ));
    }
    let number = from.relation.features.len();
    let columns: Vec<RelationColumn> = view
        .aggregates
        .iter()
        .map(|a| RelationColumn {
            name: a.spec.name.clone(),
            ty: a.spec.output(),
            expr: base("", &feature(number, &a.spec.name)),
            text: a.text.clone(),
        })
        .collect();
    let From { mut relation, scope, mut widths, aggregates } = from;
    let scope = scope.with(&alias.value, columns.iter().map(|c| (c.name.clone(), c.ty.clone())));
    widths.push(columns.len());
    relation.used.extend(&view.used);
    relation.columns.extend(columns);
    relation.features.push(FeatureJoin { view, read_key, span });
    Ok(From { relation, scope, widths, aggregates })
}
