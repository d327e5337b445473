//! `CREATE SOURCE`, bound: its columns, its connector, its event time.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::{logical_expr::Expr, sql::sqlparser::tokenizer::Span};
use tidemill_base::attribute::{Attribute, Settings, Type};
use tidemill_stream::source::{ATTRIBUTES, Connector, FileFormat, History, SourceSpec, generator_columns, sparse_type};

use super::{
    relation::{BoundSource, Computed, LEFT, base, expand},
    scope::{Scope, find},
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::{
        ComputedDef, SourceDef, SwitchDef,
        value::{Written, type_name},
    },
    planner::{Planner, to_plain_type},
};

/// Binds a declared source; `statement` is its place in the program.
pub(crate) fn bind(def: &SourceDef, statement: usize, planner: &Planner) -> Checked<BoundSource> {
    let settings = settings(ATTRIBUTES.iter(), &def.settings, "a source")?;
    let (connector, push) = Connector::from_settings(&settings)
        .map_err(|e| Fault::new(blamed(def, e.message()), e.message().to_string()))?;
    check_connector(def, &connector)?;
    let columns = columns(def, &connector)?;
    let mut computed: Vec<Computed> = Vec::new();
    for c in &def.computed {
        let known = columns.fields().iter().any(|f| *f.name() == c.name.text);
        if known || computed.iter().any(|other| other.name == c.name.text) {
            return Err(Fault::new(c.name.span, format!("column '{}' is declared twice", c.name.text)));
        }
        computed.push(compute(c, &columns, &computed, planner)?);
    }
    let names: Vec<&str> = columns.fields().iter().map(|f| f.name().as_str()).collect();
    let primary_key = match &def.primary_key {
        None => None,
        Some(name) => Some(find(&names, &name.text).ok_or_else(|| {
            Fault::new(name.span, format!("no column '{}'", name.text)).nearest(&name.text, names, "columns")
        })?),
    };
    let spec = SourceSpec {
        name: def.name.text.clone(),
        columns: Arc::new(columns),
        primary_key,
        event_time_column: None,
        connector,
        push,
        watermark_bound_ms: def.watermark.as_ref().map_or(0, |w| w.bound_ms),
        idle_timeout_ms: settings.integer("idle_timeout"),
        ahead_max_ms: Some(settings.integer("time.ahead_max")).filter(|ms| *ms > 0),
        drift_max_ms: Some(settings.integer("max_drift")).filter(|ms| *ms > 0),
        history: None,
    };
    let mut source = BoundSource { spec, settings, computed, event_time: None, statement, history: None };
    source.event_time = event_time(def, &source)?;
    source.spec.event_time_column = arrival_column(&source);
    Ok(source)
}

/// A history with the stream that it goes on as: one source, which is the stream's with what comes before it.
pub(crate) fn switch(history: BoundSource, stream: &BoundSource, def: &SwitchDef) -> Checked<BoundSource> {
    let refuse = |what: String, hint: &str| Err(Fault::new(def.to.span, what).hint(hint));
    let (past, future) = (&history.spec, &stream.spec);
    let is_bounded =
        past.bounded() && matches!(past.connector, Connector::File(_) | Connector::Generator(_) | Connector::S3(_));
    if !is_bounded {
        return refuse(
            format!("'{}' never ends, or is a server's: nothing comes behind it", past.name),
            "a history is connector = 'file' or 's3' without follow, or 'generator' with rows",
        );
    }
    let columns = |source: &BoundSource| {
        let own = source.columns().map(|(name, ty)| format!("{name} {}", type_name(ty)));
        let computed = source.computed.iter().map(|c| format!("{} AS {}", c.name, c.expr));
        own.chain(computed).collect::<Vec<_>>()
    };
    let (of_past, of_future) = (columns(&history), columns(stream));
    if let Some(other) =
        of_past.iter().find(|c| !of_future.contains(c)).or(of_future.iter().find(|c| !of_past.contains(c)))
    {
        return refuse(
            format!("'{}' and '{}' differ in column {other}", past.name, future.name),
            "declare the same columns for both",
        );
    }
    if of_past != of_future {
        return refuse(
            format!("'{}' and '{}' have their columns in another order", past.name, future.name),
            "declare them in the same order",
        );
    }
    let time =
        |source: &BoundSource| (source.event_time.clone(), source.spec.watermark_bound_ms, source.spec.primary_key);
    if time(&history) != time(stream) {
        return refuse(
            format!("'{}' and '{}' differ in WATERMARK or PRIMARY KEY", past.name, future.name),
            "declare the same for both",
        );
    }
    if history.event_time.is_none() {
        return refuse(format!("'{}' has no WATERMARK", past.name), "a switch needs event times");
    }
    let statement = history.statement;
    let of_history = Some((history.settings, stream.statement));
    let history = Some(Box::new(History { source: history.spec, at: def.at }));
    Ok(BoundSource {
        spec: SourceSpec { history, ..stream.spec.clone() },
        settings: stream.settings.clone(),
        computed: stream.computed.clone(),
        event_time: stream.event_time.clone(),
        statement,
        history: of_history,
    })
}

/// The value of the attribute that a message begins with, where it is written; else the whole WITH.
fn blamed(def: &SourceDef, message: &str) -> Span {
    let name = message.split(' ').next().unwrap_or_default();
    let written = def.settings.iter().find(|w| w.name.text.eq_ignore_ascii_case(name));
    written.map_or(def.with, |w| w.value_span)
}

/// The event time's name, if a watermark is declared.
fn event_time(def: &SourceDef, source: &BoundSource) -> Checked<Option<String>> {
    let Some(watermark) = &def.watermark else { return Ok(None) };
    let written = &watermark.column;
    let columns: Vec<(&str, &DataType)> = source.columns().collect();
    let names: Vec<&str> = columns.iter().map(|c| c.0).collect();
    let Some(i) = find(&names, &written.text) else {
        let fault = Fault::new(written.span, format!("no column '{}'", written.text));
        return Err(fault.nearest(&written.text, names, "columns"));
    };
    match columns[i].1 {
        DataType::Int64 | DataType::Timestamp(TimeUnit::Millisecond, None) => Ok(Some(names[i].to_string())),
        ty => {
            let message =
                format!("event time '{}' is {}, not BIGINT (epoch milliseconds) or TIMESTAMP", names[i], type_name(ty));
            let hint = format!("add a column like rt AS TO_TIMESTAMP_MS({}) and take that", names[i]);
            Err(Fault::new(written.span, message).hint(hint))
        }
    }
}

/// The own column that takes the arrival time of an event in an early push log: the event time itself, or the epoch milliseconds that
/// `rt AS TO_TIMESTAMP_MS(ts)` is made of.
fn arrival_column(source: &BoundSource) -> Option<usize> {
    let name = source.event_time.as_ref()?;
    let own = |flat: &str| source.spec.columns.index_of(flat.strip_prefix(LEFT).unwrap_or(flat)).ok();
    let Some(computed) = source.computed.iter().find(|c| c.name == *name) else { return own(name) };
    let Expr::ScalarFunction(call) = &computed.expr else { return None };
    match call.args.as_slice() {
        [Expr::Column(ts)] if call.func.name() == "to_timestamp_millis" => {
            own(&ts.name).filter(|&i| *source.spec.columns.field(i).data_type() == DataType::Int64)
        }
        _ => None,
    }
}

fn columns(def: &SourceDef, connector: &Connector) -> Checked<Schema> {
    let format = match connector {
        Connector::File(f) => Some(&f.format),
        Connector::S3(s3) => Some(&s3.format),
        _ => None,
    };
    let sparse = matches!(format, Some(FileFormat::Libsvm | FileFormat::Vw));
    if def.columns.is_empty() && sparse {
        return Ok(Schema::new(vec![
            Field::new("label", DataType::Float64, true),
            Field::new("features", sparse_type(), true),
        ]));
    }
    if let Connector::Generator(g) = connector {
        return declared_of(def, generator_columns(g.stream));
    }
    if def.columns.is_empty() {
        let fault = Fault::new(def.name.span, format!("source '{}' declares no columns", def.name.text));
        return Err(fault.hint("write CREATE SOURCE name (column TYPE, ...) WITH (...)"));
    }
    declared(def)
}

/// All of the generator's columns, or those that are declared.
fn declared_of(def: &SourceDef, there: Schema) -> Checked<Schema> {
    for column in &def.columns {
        let name = &column.name;
        let names: Vec<&str> = there.fields().iter().map(|f| f.name().as_str()).collect();
        let Some(i) = find(&names, &name.text) else {
            let fault = Fault::new(name.span, format!("the generator's stream has no column '{}'", name.text));
            return Err(fault.nearest(&name.text, names, "columns"));
        };
        if *there.field(i).data_type() != column.ty {
            let (is, said) = (type_name(there.field(i).data_type()), type_name(&column.ty));
            return Err(Fault::new(name.span, format!("the generator's column '{}' is {is}, not {said}", name.text)));
        }
    }
    if def.columns.is_empty() { Ok(there) } else { declared(def) }
}

fn declared(def: &SourceDef) -> Checked<Schema> {
    let mut fields: Vec<Field> = Vec::new();
    for column in &def.columns {
        let name = &column.name.text;
        if fields.iter().any(|f| f.name() == name) {
            return Err(Fault::new(column.name.span, format!("column '{name}' is declared twice")));
        }
        let is_key = def.primary_key.as_ref().is_some_and(|key| key.text.eq_ignore_ascii_case(name));
        fields.push(Field::new(name, column.ty.clone(), !(column.not_null || is_key)));
    }
    Ok(Schema::new(fields))
}

fn compute(def: &ComputedDef, own: &Schema, earlier: &[Computed], planner: &Planner) -> Checked<Computed> {
    let mine = own.fields().iter().map(|f| (f.name().clone(), f.data_type().clone()));
    let scope = Scope::new().with("source", mine.chain(earlier.iter().map(|c| (c.name.clone(), c.ty.clone()))));
    let resolved = scope.resolve(&def.expr)?;
    let (expr, ty) = planner.plan(&resolved, &scope.schema(), def.span)?;
    let (expr, ty) = to_plain_type(expr, &ty);
    let meaning = |flat: &str| {
        let (_, name) = super::scope::unflat(flat)?;
        Some(earlier.iter().find(|c| c.name == name).map_or_else(|| base(LEFT, name), |c| c.expr.clone()))
    };
    let expr = expand(expr, &meaning, def.span)?;
    Ok(Computed { name: def.name.text.clone(), ty, expr, text: def.expr.to_string() })
}

/// An attribute of another connector would be ignored in silence; it is refused instead.
fn check_connector(def: &SourceDef, connector: &Connector) -> Checked<()> {
    let own = match connector {
        Connector::File(_) => "file",
        Connector::Generator(_) => "generator",
        Connector::Http => "http",
        Connector::Kafka(_) => "kafka",
        Connector::Nats(_) => "nats",
        Connector::S3(_) => "s3",
    };
    for written in &def.settings {
        let needs: &[&str] = match written.name.text.to_ascii_lowercase().as_str() {
            "path" | "header" | "follow" => &["file", "s3"],
            "list_interval" => &["s3"],
            "format" | "delimiter" | "null" => &["file", "kafka", "nats", "s3"],
            "stream" | "seed" | "rate" | "rows" | "start" | "drift_every" | "click_delay" | "pace" => &["generator"],
            "brokers" | "topic" => &["kafka"],
            "url" | "subject" | "nats.stream" => &["nats"],
            "begin" | "bounded" | "on_gap" => &["kafka", "nats"],
            "properties" | "properties_file" => &["kafka", "nats", "s3"],
            _ => continue,
        };
        if !needs.contains(&own) {
            let owners = needs.join("' or '");
            let message = format!("'{}' belongs to connector '{owners}'; this is '{own}'", written.name.text);
            return Err(Fault::new(written.name.span, message));
        }
    }
    Ok(())
}

/// Parses written settings; each mistake is marked where it stands.
pub(crate) fn settings(
    known: impl IntoIterator<Item = &'static Attribute>,
    written: &[Written],
    owner: &str,
) -> Checked<Settings> {
    let known: Vec<&'static Attribute> = known.into_iter().collect();
    let mut settings = Settings::new(known.iter().copied());
    for w in written {
        let Some(attribute) = known.iter().find(|a| a.name.eq_ignore_ascii_case(&w.name.text)) else {
            let fault = Fault::new(w.name.span, format!("{owner} has no attribute '{}'", w.name.text));
            return Err(fault.nearest(&w.name.text, known.iter().map(|a| a.name), "attributes"));
        };
        settings.set(attribute.name, &w.value).map_err(|e| {
            let twice = settings.is_written(attribute.name);
            let span: Span = if twice { w.name.span } else { w.value_span };
            let fault = Fault::new(span, e.message().to_string());
            let words: &[&str] = match attribute.ty {
                Type::Choice(words) | Type::BySlot(&Type::Choice(words)) if !twice => words,
                _ => &[],
            };
            match crate::suggest::nearest(&w.value, words.iter().copied()) {
                Some(near) => fault.hint(format!("did you mean '{near}'?")),
                None => fault,
            }
        })?;
    }
    Ok(settings)
}
