//! `tidemill demo`: one command that generates a click stream, learns it, serves it and shows it.
//!
//! The demo is a SQL program like any other; `--print` shows it.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::{Value, json};
use tidemill_base::{Clock, Error, Result, SystemClock, duration::parse_duration_ms, store::data_dir::DataDir};
use tidemill_stream::source::{Connector, GeneratorSettings, GeneratorStream, World, generator_columns};

use super::{
    Serving,
    run::{Common, Session, print_line},
};
use crate::{data::address, job::Options, program};
use tidemill_sql::{Program, Statement};

/// Generate a click stream, learn from it, serve it and show it
#[derive(Args)]
pub(super) struct Demo {
    /// End after this long, for example 30s; without it runs until Ctrl-C
    #[arg(long = "for", value_name = "TIME")]
    run_for: Option<String>,
    /// Seed of the stream; the same seed gives the same run
    #[arg(long, default_value_t = 7)]
    seed: u32,
    /// Impressions a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How often a part of the world changes
    #[arg(long, value_name = "TIME", default_value = "10s")]
    drift_every: String,
    /// As fast as it can, instead of a second a second
    #[arg(long)]
    fast: bool,
    /// Print the demo's program and end
    #[arg(long)]
    print: bool,
    /// Data directory; the demo begins it anew every time
    #[arg(long, value_name = "DIR", default_value = "./tidemill-data/demo")]
    data_dir: PathBuf,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    common: Common,
}

impl Demo {
    pub fn run(&self) -> Result<()> {
        let start_ms = SystemClock::new().wall_ms();
        let text = self.program(start_ms)?;
        if self.print {
            return print_line(&text);
        }
        let program = program::bind(&text, &[])?;
        if let Some(url) = address(&self.data_dir) {
            return Err(Error::invalid(format!(
                "the demo is not supported with data in a store ({url}); give it a directory"
            )));
        }
        let data = DataDir::open(&self.data_dir)?;
        forget(data.root())?;
        let feed = generator_settings(&program).map(feed);
        let session = Session::start(data, &program, &self.serving, &self.common, feed, Arc::default())?;
        let options = Options {
            threads: self.common.threads(),
            from_scratch: true,
            end_with_ordered: true,
            serves: true,
            ..Options::default()
        };
        session.run(program, &options)
    }

    fn program(&self, start_ms: i64) -> Result<String> {
        let rows = match &self.run_for {
            None => 0,
            Some(text) => parse_duration_ms(text).map_err(|e| e.at("--for"))? * self.rate as i64 / 1000,
        };
        let columns = generator_columns(GeneratorStream::Impressions);
        let declared: Vec<String> = columns.fields().iter().map(|f| format!("{} {}", f.name(), sql_type(f))).collect();
        let declared = declared.join(", ").replacen("imp_id BIGINT", "imp_id BIGINT PRIMARY KEY", 1);
        let with = |stream: &str| {
            format!(
                "connector = 'generator', stream = '{stream}', seed = {}, rate = {}, rows = {rows}, start = {start_ms},\n  \
                 drift_every = '{}', click_delay = '100ms', pace = '{}', push = true, idle_timeout = '100ms'",
                self.seed,
                self.rate,
                self.drift_every,
                if self.fast { "max" } else { "realtime" }
            )
        };
        let features: Vec<&str> =
            columns.fields().iter().map(|f| f.name().as_str()).filter(|n| n.starts_with(['I', 'C'])).collect();
        Ok(format!(
            "CREATE SOURCE impressions ({declared},\n  \
               rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.2' SECOND)\n\
             WITH ({});\n\
             CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT,\n  \
               rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.2' SECOND)\n\
             WITH ({});\n\
             CREATE STREAM samples AS\n  \
               SELECT i.*, (c.imp_id IS NOT NULL) AS clicked\n  \
               FROM impressions i LEFT JOIN clicks c\n    \
                 ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '5' SECOND\n  \
               EMIT IMMEDIATE CORRECT RETRACT;\n\
             SELECT * FROM samples TO TRAIN FTRLClassifier\n  \
               WITH model.alpha = 0.1, publish.interval = '2s', validate.oracle = 'true_p'\n  \
               COLUMN {}, CROSS([C1, C3])\n  \
               LABEL clicked INTO ctr;",
            with("impressions"),
            with("clicks"),
            features.join(", ")
        ))
    }
}

fn sql_type(field: &arrow::datatypes::Field) -> &'static str {
    use arrow::datatypes::DataType::*;
    match field.data_type() {
        Int64 => "BIGINT",
        Float64 => "DOUBLE",
        _ => "STRING",
    }
}

/// Begins the demo's directory anew; only ever one that a demo or nobody made.
fn forget(dir: &std::path::Path) -> Result<()> {
    for part in ["models/ctr", "sources/impressions", "sources/clicks"] {
        let path = dir.join(part);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path, e)),
            _ => {}
        }
    }
    Ok(())
}

fn generator_settings(program: &Program) -> Option<GeneratorSettings> {
    program.statements.iter().find_map(|s| match s {
        Statement::Train(job) => match &job.pipeline.left.source.connector {
            Connector::Generator(settings) => Some(settings.clone()),
            _ => None,
        },
        _ => None,
    })
}

/// Cards in the page's feed.
const FEED_ITEMS: u64 = 12;
/// What the eight categories of the generated items are called on the page.
const CATEGORIES: [&str; 8] = ["Cooking", "Travel", "Music", "Science", "Football", "Film", "Garden", "Chess"];

/// Twelve items as the generated world would show them to a person it has never seen.
fn feed(settings: GeneratorSettings) -> Value {
    let mut world = World::new(&settings);
    let items: Vec<Value> = (0..FEED_ITEMS)
        .map(|i| {
            let item = world.candidate(1, 0, i as usize);
            let mut row = serde_json::Map::new();
            for (k, number) in item.numbers.iter().enumerate() {
                row.insert(format!("I{}", k + 1), json!(number));
            }
            for (k, category) in item.categories.iter().enumerate() {
                row.insert(format!("C{}", k + 1), json!(category));
            }
            row.insert("C1".into(), json!("you"));
            let digits: String = item.categories[2].chars().filter(char::is_ascii_digit).collect();
            let category = CATEGORIES[digits.parse::<usize>().unwrap_or(0) % CATEGORIES.len()];
            json!({"title": format!("{category} {}", item.categories[1]), "row": row})
        })
        .collect();
    json!({
        "model": "ctr",
        "impressions_source": "impressions",
        "clicks_source": "clicks",
        "id_column": "imp_id",
        "time_column": "ts",
        "user": {"column": "C1", "value": "you"},
        "items": items,
    })
}
