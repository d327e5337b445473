//! A bound program in words: what `tidemill check` prints, and what the tests look at.

use std::fmt::{self, Display, Formatter};

use arrow::datatypes::{Schema, SchemaRef};
use tidemill_base::{
    attribute::{Settings, Value},
    duration::format_duration_ms,
};
use tidemill_stream::{
    aggregate::{self, ViewSpec},
    join::{Correction, Emit, NegativeSample, SamplingMode},
    sink::{SinkConnector, SinkSpec},
    source::{Connector, SourceSpec},
};

use crate::{
    parse::value::type_name,
    program::{AlterModel, EvaluateJob, Input, JoinPart, ModelChange, Pipeline, Program, Statement, TrainJob},
};

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for statement in &self.statements {
            match statement {
                Statement::Train(job) => write!(f, "{job}")?,
                Statement::Evaluate(job) => write!(f, "{job}")?,
                Statement::AlterModel(alter) => writeln!(f, "{alter}")?,
                Statement::ShowModels => writeln!(f, "show models")?,
            }
        }
        Ok(())
    }
}

impl Display for AlterModel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "alter model {}: ", self.model)?;
        match &self.change {
            ModelChange::Label { label, version: Some(version) } => write!(f, "label {label} is version {version}"),
            ModelChange::Label { label, version: None } => write!(f, "label {label} goes"),
            ModelChange::Split(weights) => {
                let weights: Vec<String> = weights.iter().map(|(label, weight)| format!("{label} {weight}%")).collect();
                write!(f, "split {}", weights.join(", "))
            }
            ModelChange::Rollout { version, settings } => {
                let version = version.map_or("the newest version".into(), |v| format!("version {v}"));
                write!(f, "roll out {version}")?;
                settings.iter().try_for_each(|(name, value)| write!(f, ", {name} = {value}"))
            }
            ModelChange::Abort => write!(f, "end the rollout"),
            ModelChange::Ranking { name, config: Some(config), .. } => write!(f, "ranking {name} is {config}"),
            ModelChange::Ranking { name, config: None, .. } => write!(f, "ranking {name} goes"),
        }
    }
}

impl Display for TrainJob {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "train {} into {}", self.learner, self.model)?;
        write_settings(f, &self.settings)?;
        write!(f, "{}", self.pipeline)?;
        let columns: Vec<String> = self.columns.iter().map(|c| c.to_string()).collect();
        writeln!(f, "  features: {}", columns.join(", "))?;
        writeln!(f, "  label: {}", self.label_name)?;
        for sink in &self.sinks {
            let columns: Vec<String> = sink
                .rows
                .output()
                .fields()
                .iter()
                .map(|c| format!("{} {}", c.name(), type_name(c.data_type())))
                .collect();
            writeln!(f, "  sink {}: {}: {}", sink.spec.name, sink_words(&sink.spec), columns.join(", "))?;
        }
        Ok(())
    }
}

fn sink_words(spec: &SinkSpec) -> String {
    match &spec.connector {
        SinkConnector::File(file) => format!("{} files in {}", spec.format.extension(), file.path),
        SinkConnector::Kafka(kafka) => format!("topic {} of {}", kafka.topic, kafka.brokers),
        SinkConnector::Nats(nats) => format!("subject {} of {}", nats.subject, nats.url),
    }
}

impl Display for EvaluateJob {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "evaluate {}", self.model)?;
        write_settings(f, &self.settings)?;
        write!(f, "{}", self.pipeline)?;
        writeln!(f, "  label: {}", self.label_name)
    }
}

fn write_settings(f: &mut Formatter<'_>, settings: &Settings) -> fmt::Result {
    for name in settings.names() {
        if let Some(value) = settings.get(name).filter(|_| settings.is_written(name)) {
            writeln!(f, "  {name} = {}", in_words(&value))?;
        }
        for (slot, value) in settings.by_slot(name) {
            writeln!(f, "  {name} of slot {slot} = {}", in_words(value))?;
        }
    }
    Ok(())
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Number(x) => x.to_string(),
        Value::Integer(x) => x.to_string(),
        Value::Bool(x) => x.to_string(),
        Value::Text(x) => format!("'{x}'"),
    }
}

impl Display for Pipeline {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  from {}", self.left)?;
        if let Some(join) = &self.join {
            for (i, right) in join.right.iter().enumerate() {
                writeln!(f, "  join {right}")?;
                writeln!(f, "    {}", on(self, join, i))?;
            }
        }
        for spec in self.views.iter().flat_map(|v| &v.specs) {
            writeln!(f, "  view {}", view(self, spec))?;
        }
        let names: Vec<&str> = self.output.fields().iter().map(|field| field.name().as_str()).collect();
        let feedback: Vec<&str> = self.feedback_columns.iter().map(|&i| names[i]).collect();
        writeln!(f, "  output: {}", columns(&self.output))?;
        if !feedback.is_empty() {
            writeln!(f, "  feedback: {}", feedback.join(", "))?;
        }
        Ok(())
    }
}

fn on(pipeline: &Pipeline, join: &JoinPart, feedback: usize) -> String {
    let (spec, of_feedback) = (&join.spec, &join.spec.feedback[feedback]);
    let name = |columns: &SchemaRef, i: usize| columns.field(i).name().clone();
    let emit = match spec.emit {
        Emit::OnWindowClose => "on window close".to_string(),
        Emit::OnMatch => "on match".to_string(),
        Emit::Early { delay_ms: 0 } => "at once".to_string(),
        Emit::Early { delay_ms } => format!("early after {}", format_duration_ms(delay_ms)),
    };
    let correct = match spec.correction {
        Correction::Retract => "",
        Correction::Fnw => ", weighed (fnw)",
        Correction::Elapsed => ", weighed (elapsed)",
        Correction::None => ", not corrected",
    };
    let sample = match spec.sample {
        None => String::new(),
        Some(NegativeSample { share, mode: SamplingMode::Weight, .. }) => format!(", {share} of negatives, weighed"),
        Some(NegativeSample { share, mode: SamplingMode::Logit, .. }) => format!(", {share} of negatives, by logit"),
    };
    format!(
        "on {} = {} within {}, emit {emit}{correct}{sample}, at most {} pending{}",
        name(&pipeline.left_output(), of_feedback.left_key),
        name(&pipeline.right_outputs()[feedback], of_feedback.right_key),
        format_duration_ms(of_feedback.window_ms),
        spec.pending_count_max,
        if spec.dedup == Some(feedback) { ", keys once" } else { "" },
    )
}

/// What a view is fed, how long a silent key stays, and its columns.
fn view(pipeline: &Pipeline, spec: &ViewSpec) -> String {
    let input = |number: u32| match (number, &pipeline.join) {
        (1.., Some(join)) => &join.right[number as usize - 1],
        _ => &pipeline.left,
    };
    let name = |number: u32, i: usize| input(number).output().field(i).name().clone();
    let feeds: Vec<String> = spec
        .feeds
        .iter()
        .map(|f| {
            let source = &input(f.input).source.name;
            let filtered = if f.passes.is_some() { " (filtered)" } else { "" };
            format!("{source}{filtered} by {}", name(f.input, f.key))
        })
        .collect();
    format!(
        "{} read by {}, fed by {}, kept {}, at most {} keys: {}",
        spec.name,
        name(0, spec.read_key),
        feeds.join(" and "),
        format_duration_ms(spec.ttl_ms),
        spec.keys_max,
        columns(&aggregate::output(spec)),
    )
}

impl Display for Input {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(history) = &self.source.history {
            write!(f, "{} ({}), then ", history.source.name, describe_source(&history.source))?;
        }
        write!(f, "{} ({})", self.source.name, describe_source(&self.source))?;
        let rows = self.computed.as_ref().map_or_else(|| self.source.columns.clone(), |t| t.output());
        if let Some(i) = self.event_time {
            let bound = format_duration_ms(self.source.watermark_bound_ms);
            write!(f, ", time {} less {bound}", rows.field(i).name())?;
        }
        match &self.view {
            Some(view) => write!(f, ", carries {}", columns(&view.output())),
            None => write!(f, ", carries all columns"),
        }
    }
}

fn describe_source(source: &SourceSpec) -> String {
    let connector = match &source.connector {
        Connector::File(file) => format!("file {}", file.path),
        Connector::Generator(g) => format!("generator {:?} seed {}", g.stream, g.seed).to_lowercase(),
        Connector::Http => "http".to_string(),
        Connector::Kafka(kafka) => format!("kafka {}", kafka.topic),
        Connector::Nats(nats) => {
            let what = [&nats.stream, &nats.subject].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
            format!("nats {}", what.join(" "))
        }
        Connector::S3(objects) => format!("s3 {}", objects.path),
    };
    format!("{connector}, {}", if source.bounded() { "bounded" } else { "unbounded" })
}

fn columns(schema: &Schema) -> String {
    let one = |f: &arrow::datatypes::FieldRef| format!("{} {}", f.name(), type_name(f.data_type()));
    schema.fields().iter().map(one).collect::<Vec<_>>().join(", ")
}
