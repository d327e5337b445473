//! `tidemill bench ingest`: how fast events come in.
//!
//! JSON lines into columns, in bytes a second, and into samples, through a SQL program with a label join; small Kafka events
//! into columns. On one thread of ours. Rows are counted before any speed is told. Ceilings: reading the same bytes and finding
//! the lines in them; for Kafka what the client alone can do, polling and dropping the same events from the same broker. Of
//! Kafka's events there is a figure by the clock and one by the seconds that our process has worked, less what the mock broker
//! in it has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_base::{Clock, Error, Result, SystemClock};
use tidemill_stream::source::{self, Connector, FileFormat, FileSettings, Read, SourceSpec};

use super::{
    Case,
    events::{Events, find_lines},
    join,
};

/// What is to be measured.
pub struct Plan {
    /// Impressions to make.
    pub rows: u64,
    /// Times each case is run.
    pub rounds: usize,
    /// Only cases whose names contain this.
    pub only: Option<String>,
}

const COLUMNS: &str = "json lines into columns";
const JOINED: &str = "json lines, joined";
#[cfg(feature = "kafka")]
const KAFKA: [&str; 2] = ["kafka, small events", "kafka, small events, a core"];
#[cfg(not(feature = "kafka"))]
const KAFKA: [&str; 0] = [];

/// Runs the plan; `tell` hears what is going on.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let is_wanted = |name: &&str| plan.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let all: Vec<&str> = [COLUMNS, JOINED].into_iter().chain(KAFKA).collect();
    let wanted: Vec<&str> = all.iter().copied().filter(is_wanted).collect();
    if wanted.is_empty() {
        return Err(Error::not_found(format!("no case has that in its name; cases are {}", all.join("; "))));
    }
    let scratch = std::env::temp_dir().join(format!("tidemill-bench-ingest-{}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|e| Error::io("create", &scratch, e))?;
    let cases = measure(plan, &wanted, &scratch, tell);
    let _ = fs::remove_dir_all(&scratch);
    cases
}

fn measure(plan: &Plan, wanted: &[&str], scratch: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let mut files = None;
    if wanted.iter().any(|name| name.starts_with("json")) {
        tell(&format!("making {} impressions with their clicks", plan.rows));
        let events = Events::make(scratch, plan.rows)?;
        events.add_json_lines()?;
        files = Some(events);
    }
    #[cfg(feature = "kafka")]
    let topic = match wanted.iter().any(|name| KAFKA.contains(name)) {
        true => Some(kafka::Filled::new(plan.rows)?),
        false => None,
    };
    let unit = |name: &str| if name == COLUMNS { "MB/s" } else { "events/s" };
    let mut cases: Vec<Case> = wanted.iter().map(|name| Case::new(*name, unit(name))).collect();
    for round in 1..=plan.rounds {
        tell(&format!("round {round} of {}", plan.rounds));
        #[cfg(feature = "kafka")]
        let polled = topic.as_ref().map(kafka::Filled::measure).transpose()?;
        for case in &mut cases {
            let (value, ceiling) = match (case.name.as_str(), &files) {
                (COLUMNS, Some(events)) => into_columns(events)?,
                (JOINED, Some(events)) => {
                    let lines = events.lines_per_second(false, "jsonl")?;
                    (join::json_lines_per_second(events)?, lines.unwrap_or(f64::NAN))
                }
                #[cfg(feature = "kafka")]
                (name, _) => {
                    let figures = polled.as_ref().ok_or_else(|| Error::internal("no topic was filled"))?;
                    if name == KAFKA[0] { figures.by_clock } else { figures.by_core }
                }
                #[cfg(not(feature = "kafka"))]
                (name, _) => return Err(Error::internal(format!("no case {name}"))),
            };
            case.values.push(value);
            case.ceilings.push(ceiling);
        }
    }
    Ok(cases)
}

/// Megabytes a second: as columns, and found as lines.
fn into_columns(events: &Events) -> Result<(f64, f64)> {
    let path: PathBuf = events.dir.join("impressions.jsonl");
    let found = find_lines(&[&path])?;
    let clock = SystemClock::new();
    let begin = clock.elapsed();
    let whole = ["imp_id", "user_id", "item_id", "ts", "slot"].map(|name| Field::new(name, DataType::Int64, true));
    let texts = ["device", "geo"].map(|name| Field::new(name, DataType::Utf8, true));
    let numbers = ["bid", "score"].map(|name| Field::new(name, DataType::Float64, true));
    let campaign = Field::new("campaign", DataType::Int64, true);
    let fields: Vec<Field> = whole.into_iter().chain(texts).chain([campaign]).chain(numbers).collect();
    let connector =
        Connector::File(FileSettings { path: path.display().to_string(), format: FileFormat::Json, follow: false });
    let spec = source_of(connector, Schema::new(fields).into());
    let mut rows = 0;
    for mut opened in source::open(&spec, &[])? {
        rows += read_all(&mut *opened.partition)?;
    }
    let seconds = (clock.elapsed() - begin).as_secs_f64();
    if rows != found.lines {
        return Err(Error::internal(format!("{rows} rows of {} lines", found.lines)));
    }
    Ok((found.bytes as f64 / 1e6 / seconds, found.bytes as f64 / 1e6 / found.seconds))
}

fn read_all(partition: &mut dyn source::Partition) -> Result<u64> {
    let mut rows = 0;
    while let Read::Chunk(chunk) = partition.read()? {
        if let Some(refused) = chunk.refused.first() {
            return Err(Error::internal(format!("row {}: {}", refused.offset, refused.reason)));
        }
        rows += chunk.rows.num_rows() as u64;
    }
    Ok(rows)
}

fn source_of(connector: Connector, columns: SchemaRef) -> SourceSpec {
    SourceSpec::new("events", columns, connector)
}

#[cfg(feature = "kafka")]
mod kafka {
    //! A topic of small events, and how fast it comes in.

    use tidemill_connect::{Connections, mock::MockTopic};
    use tidemill_stream::source::{Begin, KafkaSettings, OnGap, Reading};

    use super::*;

    const PARTITIONS: i32 = 8;
    /// As many as the mock keeps of a partition.
    const EVENTS_MAX: u64 = 60_000;

    /// A topic with events.
    pub(super) struct Filled {
        topic: MockTopic,
        events: u64,
    }

    /// A figure of ours and the client's own.
    pub(super) struct Figures {
        pub by_clock: (f64, f64),
        pub by_core: (f64, f64),
    }

    impl Filled {
        pub fn new(events: u64) -> Result<Self> {
            let each = (events / PARTITIONS as u64).clamp(1, EVENTS_MAX);
            let texts: Vec<String> =
                (0..each).map(|n| format!("{{\"n\": {n}, \"person\": \"u{}\", \"price\": 1.5}}", n % 997)).collect();
            let topic = MockTopic::start("events", PARTITIONS, texts.iter().map(String::as_str))?;
            Ok(Self { topic, events: each * PARTITIONS as u64 })
        }

        pub fn measure(&self) -> Result<Figures> {
            let ours = self.timed(|| self.read())?;
            let bare = self.timed(|| self.topic.poll(self.events))?;
            Ok(Figures { by_clock: (ours.0, bare.0), by_core: (ours.1, bare.1) })
        }

        /// Events a second, and a second of work beside the broker's.
        fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
            let clock = SystemClock::new();
            let (begin, worked) = (clock.elapsed(), worked_seconds());
            work()?;
            let (seconds, worked) = ((clock.elapsed() - begin).as_secs_f64(), worked_seconds() - worked);
            // Work is counted in hundredths of a second.
            Ok((self.events as f64 / seconds, self.events as f64 / worked.max(0.01)))
        }

        fn read(&self) -> Result<()> {
            let reading = Reading {
                format: FileFormat::Json,
                begin: Begin::Earliest,
                bounded: true,
                on_gap: OnGap::Stop,
                properties: Vec::new(),
                properties_file: None,
            };
            let settings = KafkaSettings { brokers: self.topic.brokers(), topic: "events".into(), reading };
            let columns = Schema::new(vec![
                Field::new("n", DataType::Int64, true),
                Field::new("person", DataType::Utf8, true),
                Field::new("price", DataType::Float64, true),
            ]);
            let spec = source_of(Connector::Kafka(settings), columns.into());
            let mut rows = 0;
            let mut connections = Connections::default();
            for mut opened in connections.open(0, &spec, &[])? {
                rows += read_all(&mut *opened.partition)?;
            }
            match rows == self.events {
                true => Ok(()),
                false => Err(Error::internal(format!("{rows} rows of {} events", self.events))),
            }
        }
    }

    /// Processor seconds of this process, less those of the mock broker's thread.
    fn worked_seconds() -> f64 {
        let all = ticks("/proc/self/stat").map_or(0.0, |t| t.1);
        let tasks = fs::read_dir("/proc/self/task").map(|dir| dir.flatten().collect::<Vec<_>>()).unwrap_or_default();
        let of_mock =
            tasks.iter().filter_map(|task| ticks(task.path().join("stat"))).filter(|t| t.0.starts_with("rdk:mock"));
        (all - of_mock.map(|t| t.1).sum::<f64>()) / 100.0
    }

    /// Name and ticks of a process or thread.
    fn ticks(path: impl AsRef<Path>) -> Option<(String, f64)> {
        let stat = fs::read_to_string(path).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_string();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        Some((name, fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?))
    }
}
