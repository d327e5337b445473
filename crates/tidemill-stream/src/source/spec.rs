//! What `CREATE SOURCE ... WITH (...)` says, parsed: values only, nothing is opened here.

use arrow::datatypes::SchemaRef;
use tidemill_base::{
    Error, Result,
    attribute::{Attribute, Settings, Type},
};

use super::{
    external::{KafkaSettings, NatsSettings, ObjectSettings, PROPERTIES, PROPERTIES_FILE, needed},
    object::{SCHEME, is_address},
};

/// Every attribute of `CREATE SOURCE ... WITH (...)`.
pub static ATTRIBUTES: [Attribute; 30] = [
    Attribute {
        name: "connector",
        ty: Type::Choice(&["file", "generator", "http", "kafka", "nats", "s3"]),
        default: None,
        doc: "where rows come from: 'file', 'generator', 'http' (POST /v1/sources/NAME), 'kafka', 'nats' (JetStream) or 's3' \
              (objects by listing; also 'file' with path = 's3://...')",
    },
    Attribute {
        name: "path",
        ty: Type::Text,
        default: None,
        doc: "file or glob pattern; .gz and .zst are decompressed; s3: 's3://BUCKET/...', a pattern or a prefix",
    },
    Attribute {
        name: "format",
        ty: Type::Choice(&["csv", "tsv", "json", "parquet", "libsvm", "libfm", "vw", "arrow"]),
        default: None,
        doc: "how rows are written; by the file's extension when absent ('json' is one object a line); kafka, nats: 'json' \
              (when absent), 'csv' or 'tsv', an event a row",
    },
    Attribute {
        name: "header",
        ty: Type::Bool,
        default: Some("true"),
        doc: "csv, tsv: whether the first line of a file names the columns",
    },
    Attribute {
        name: "delimiter",
        ty: Type::Text,
        default: None,
        doc: "csv, tsv: one byte between fields (',' and tab by default)",
    },
    Attribute {
        name: "null",
        ty: Type::Text,
        default: Some(""),
        doc: "csv, tsv: the unquoted text that stands for NULL",
    },
    Attribute {
        name: "follow",
        ty: Type::Bool,
        default: Some("false"),
        doc: "file: whether the files may grow; s3: whether objects may come; the source never ends",
    },
    Attribute {
        name: "list_interval",
        ty: Type::Duration,
        default: Some("10s"),
        doc: "s3: with follow, how often the store is listed for new objects; 1s at least",
    },
    Attribute {
        name: "push",
        ty: Type::Bool,
        default: Some("false"),
        doc: "whether events may also be pushed over HTTP (always so for 'http'); the source never ends",
    },
    Attribute {
        name: "idle_timeout",
        ty: Type::Duration,
        default: Some("10s"),
        doc: "a partition without rows for this long no longer holds its source's watermark; where all are silent it stays",
    },
    Attribute {
        name: "time.ahead_max",
        ty: Type::Duration,
        default: Some("1d"),
        doc: "follow, push: an event whose time is farther than this ahead of the clock is refused; 0s lets all in",
    },
    Attribute {
        name: "max_drift",
        ty: Type::Duration,
        default: Some("1m"),
        doc: "kafka, nats: how far a partition is read ahead, in event time, of one that has unread events; 0s: any distance",
    },
    Attribute {
        name: "stream",
        ty: Type::Choice(&["impressions", "clicks"]),
        default: Some("impressions"),
        doc: "generator: which of its two streams",
    },
    Attribute {
        name: "seed",
        ty: Type::Integer { min: 0, max: i64::MAX },
        default: Some("7"),
        doc: "generator: seed; the same seed gives the same stream",
    },
    Attribute {
        name: "rate",
        ty: Type::Integer { min: 1, max: 100_000_000 },
        default: Some("20000"),
        doc: "generator: impressions a second of event time",
    },
    Attribute {
        name: "rows",
        ty: Type::Integer { min: 0, max: i64::MAX },
        default: Some("0"),
        doc: "generator: impressions in all; 0 never ends",
    },
    Attribute {
        name: "start",
        ty: Type::Integer { min: 0, max: 253_402_300_799_999 },
        default: Some("1700000000000"),
        doc: "generator: event time of the first impression, epoch milliseconds",
    },
    Attribute {
        name: "drift_every",
        ty: Type::Duration,
        default: Some("10s"),
        doc: "generator: how often a part of the world changes; 0s never",
    },
    Attribute {
        name: "click_delay",
        ty: Type::Duration,
        default: Some("500ms"),
        doc: "generator: mean time from impression to click",
    },
    Attribute {
        name: "pace",
        ty: Type::Choice(&["max", "realtime"]),
        default: Some("max"),
        doc: "generator: as fast as it is read, or a second of events a second",
    },
    Attribute { name: "brokers", ty: Type::Text, default: None, doc: "kafka: 'host:port,host:port' to begin with" },
    Attribute { name: "topic", ty: Type::Text, default: None, doc: "kafka: topic; all its partitions are read" },
    Attribute { name: "url", ty: Type::Text, default: None, doc: "nats: 'nats://host:port', several with commas" },
    Attribute {
        name: "subject",
        ty: Type::Text,
        default: None,
        doc: "nats: subject, with * and >; all of the stream when absent",
    },
    Attribute {
        name: "nats.stream",
        ty: Type::Text,
        default: None,
        doc: "nats: JetStream stream; the one that keeps the subject when absent",
    },
    Attribute {
        name: "begin",
        ty: Type::Choice(&["earliest", "latest"]),
        default: Some("earliest"),
        doc: "kafka, nats: where a partition begins when the job first opens it; one that appears later begins at its start",
    },
    Attribute {
        name: "bounded",
        ty: Type::Bool,
        default: Some("false"),
        doc: "kafka, nats: whether the source ends where its partitions end when the job first opens them",
    },
    Attribute {
        name: "on_gap",
        ty: Type::Choice(&["stop", "continue"]),
        default: Some("stop"),
        doc: "kafka, nats: what happens when the server no longer has events that were not read: an error, or one refused \
              row that says how many",
    },
    Attribute { doc: "kafka, nats, s3: settings of the client, 'name=value; name=value'", ..PROPERTIES },
    Attribute {
        doc: "kafka, nats, s3: a file of such settings, one a line: the place for passwords",
        ..PROPERTIES_FILE
    },
];

/// A declared source.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// Its name.
    pub name: String,
    /// The columns its rows carry, computed ones not included.
    pub columns: SchemaRef,
    /// Column whose values identify an event (`PRIMARY KEY`): a second row with the same value is dropped and counted.
    pub primary_key: Option<usize>,
    /// Where rows come from.
    pub connector: Connector,
    /// Whether events may be pushed over HTTP.
    pub push: bool,
    /// The source column (of `columns`) that the event time is or is made of. Early push logs hold events without it,
    /// whose arrival time goes there; now such an event is refused. `None` when there is no such column.
    pub event_time_column: Option<usize>,
    /// Event milliseconds by which rows may be out of order (the watermark's bound).
    pub watermark_bound_ms: i64,
    /// How long a partition may be silent before it no longer holds the watermark, wall milliseconds.
    pub idle_timeout_ms: i64,
    /// How far the time of a followed or pushed event may be ahead of the clock, milliseconds; `None`: any distance.
    pub ahead_max_ms: Option<i64>,
    /// How far a live partition is read ahead of the slowest that has unread events, event milliseconds; `None`: any
    /// distance.
    pub drift_max_ms: Option<i64>,
    /// What comes before it.
    pub history: Option<Box<History>>,
}

/// A bounded source that another one goes on from.
#[derive(Clone, Debug)]
pub struct History {
    /// Where it is; its columns are those of the other.
    pub source: SourceSpec,
    /// Where the other takes over.
    pub at: SwitchAt,
}

/// Where a stream takes over from its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchAt {
    /// Behind the latest event of the history: earlier ones of the stream, and those of that very time, are passed over.
    End,
    /// At this event time: earlier ones are the history's, later ones and those of that very time the stream's.
    Time(i64),
    /// At this offset of the stream, which has one partition.
    Offset(u64),
}

/// What names of a history's partitions begin with in the journal.
pub const HISTORY_NAME: &str = "history:";

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum Connector {
    /// Files.
    File(FileSettings),
    /// The seeded click stream.
    Generator(GeneratorSettings),
    /// HTTP only.
    Http,
    /// A Kafka topic.
    Kafka(KafkaSettings),
    /// A NATS JetStream stream.
    Nats(NatsSettings),
    /// Objects of a store.
    S3(ObjectSettings),
}

/// Files of one format.
#[derive(Clone, Debug)]
pub struct FileSettings {
    /// Path or glob pattern.
    pub path: String,
    /// How rows are written.
    pub format: FileFormat,
    /// Whether the files may grow.
    pub follow: bool,
}

/// How rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// CSV and TSV (RFC 4180 quoting).
    Delimited {
        /// Byte between fields.
        delimiter: u8,
        /// Whether the first line names the columns.
        header: bool,
        /// Unquoted text that stands for NULL.
        null: String,
    },
    /// One JSON object a line.
    Json,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, file or stream.
    Arrow,
    /// `label index:value ...`; libFM's is the same text, and a field prefix (`field:index:value`) is accepted.
    Libsvm,
    /// Vowpal Wabbit text.
    Vw,
}

/// The seeded click stream.
#[derive(Clone, Debug)]
pub struct GeneratorSettings {
    /// Which of its two streams.
    pub stream: GeneratorStream,
    /// Seed.
    pub seed: u64,
    /// Impressions a second of event time.
    pub rate: u64,
    /// Impressions in all; `None` never ends.
    pub rows: Option<u64>,
    /// Event time of the first impression, epoch ms.
    pub start_ms: i64,
    /// How often the world changes, event ms; `None` never.
    pub drift_every_ms: Option<i64>,
    /// Mean time from impression to click, event ms.
    pub click_delay_ms: i64,
    /// Whether a second of events takes a second.
    pub realtime: bool,
}

/// The generator's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeneratorStream {
    /// What was shown.
    Impressions,
    /// What was clicked, later.
    Clicks,
}

impl SourceSpec {
    /// Rows from here, with nothing else declared about them.
    pub fn new(name: &str, columns: SchemaRef, connector: Connector) -> Self {
        Self {
            name: name.into(),
            columns,
            primary_key: None,
            connector,
            push: false,
            event_time_column: None,
            watermark_bound_ms: 0,
            idle_timeout_ms: 10_000,
            ahead_max_ms: None,
            drift_max_ms: None,
            history: None,
        }
    }

    /// Whether the source ends by itself.
    pub fn bounded(&self) -> bool {
        !self.push
            && match &self.connector {
                Connector::File(f) => !f.follow,
                Connector::Generator(g) => g.rows.is_some(),
                Connector::Http => false,
                Connector::Kafka(k) => k.reading.bounded,
                Connector::Nats(n) => n.reading.bounded,
                Connector::S3(o) => !o.follow,
            }
    }
}

impl Connector {
    /// Reads the connector out of the written attributes, and whether the source takes pushed events.
    pub fn from_settings(s: &Settings) -> Result<(Self, bool)> {
        let connector = s.text("connector").ok_or_else(|| {
            Error::invalid("WITH needs connector = 'file', 'generator', 'http', 'kafka', 'nats' or 's3'")
        })?;
        let push = s.bool("push");
        match connector.as_str() {
            "file" => {
                let path = s.text("path").ok_or_else(|| Error::invalid("connector 'file' needs path = '...'"))?;
                if is_address(&path) {
                    return Ok((Connector::S3(ObjectSettings::from_settings(s, path)?), push));
                }
                let format = FileFormat::from_settings(s, &path)?;
                Ok((Connector::File(FileSettings { path, format, follow: s.bool("follow") }), push))
            }
            "generator" => Ok((Connector::Generator(GeneratorSettings::from_settings(s)), push)),
            "kafka" => Ok((Connector::Kafka(KafkaSettings::from_settings(s)?), push)),
            "nats" => Ok((Connector::Nats(NatsSettings::from_settings(s)?), push)),
            "s3" => {
                let path = needed(s, "s3", "path", "s3://bucket/clicks/*.parquet")?;
                if !is_address(&path) {
                    return Err(Error::invalid(format!("connector 's3': path '{path}' does not begin with {SCHEME}")));
                }
                Ok((Connector::S3(ObjectSettings::from_settings(s, path)?), push))
            }
            _ => Ok((Connector::Http, true)),
        }
    }
}

impl FileFormat {
    pub(super) fn from_settings(s: &Settings, path: &str) -> Result<Self> {
        let name = match s.text("format") {
            Some(name) => name,
            None => by_extension(path)?.to_string(),
        };
        Self::named(s, &name)
    }

    /// How a file is written, by the ending of its name; delimited text is as it is where nothing is said about it.
    pub fn of_file(path: &str) -> Result<Self> {
        by_extension(path).and_then(Self::plain)
    }

    /// The format of this name, with nothing else said about it.
    pub fn plain(name: &str) -> Result<Self> {
        let delimited = |delimiter| Self::Delimited { delimiter, header: true, null: String::new() };
        Ok(match name {
            "csv" => delimited(b','),
            "tsv" => delimited(b'\t'),
            "json" => Self::Json,
            "parquet" => Self::Parquet,
            "arrow" => Self::Arrow,
            "libsvm" | "libfm" => Self::Libsvm,
            "vw" => Self::Vw,
            _ => {
                return Err(Error::invalid(format!(
                    "no format '{name}'; there are csv, tsv, json, parquet, arrow, libsvm, libfm and vw"
                )));
            }
        })
    }

    /// The format of this name, with what is written about it.
    pub(super) fn named(s: &Settings, name: &str) -> Result<Self> {
        let delimited = |default: u8| {
            let delimiter = match s.text("delimiter").as_deref() {
                None => default,
                Some("\\t") => b'\t',
                Some(d) if d.len() == 1 && !matches!(d.as_bytes()[0], b'"' | b'\n' | b'\r') => d.as_bytes()[0],
                Some(d) => return Err(Error::invalid(format!("delimiter expects one byte, got '{d}'"))),
            };
            Ok(FileFormat::Delimited { delimiter, header: s.bool("header"), null: s.text("null").unwrap_or_default() })
        };
        match name {
            "csv" => delimited(b','),
            "tsv" => delimited(b'\t'),
            "json" => Ok(FileFormat::Json),
            "parquet" => Ok(FileFormat::Parquet),
            "arrow" => Ok(FileFormat::Arrow),
            "vw" => Ok(FileFormat::Vw),
            _ => Ok(FileFormat::Libsvm),
        }
    }
}

fn by_extension(path: &str) -> Result<&'static str> {
    let stem = path.trim_end_matches(".gz").trim_end_matches(".zst");
    Ok(match stem.rsplit('.').next().unwrap_or("") {
        "csv" => "csv",
        "tsv" => "tsv",
        "json" | "jsonl" | "ndjson" => "json",
        "parquet" => "parquet",
        "arrow" | "arrows" | "feather" => "arrow",
        "libsvm" | "svm" | "ffm" => "libsvm",
        "libfm" => "libfm",
        "vw" => "vw",
        _ => {
            return Err(Error::invalid(format!(
                "format cannot be told from '{path}'; write format = 'csv', 'tsv', 'json', 'parquet', 'arrow', 'libsvm', 'libfm' \
                 or 'vw'"
            )));
        }
    })
}

impl GeneratorSettings {
    fn from_settings(s: &Settings) -> Self {
        let positive = |x: i64| (x > 0).then_some(x);
        Self {
            stream: match s.text("stream").as_deref() {
                Some("clicks") => GeneratorStream::Clicks,
                _ => GeneratorStream::Impressions,
            },
            seed: s.integer("seed") as u64,
            rate: s.integer("rate") as u64,
            rows: positive(s.integer("rows")).map(|r| r as u64),
            start_ms: s.integer("start"),
            drift_every_ms: positive(s.integer("drift_every")),
            click_delay_ms: s.integer("click_delay").max(1),
            realtime: s.text("pace").as_deref() == Some("realtime"),
        }
    }
}
