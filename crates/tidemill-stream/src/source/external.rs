//! Settings of sources behind a server: Kafka topics, NATS JetStream streams, objects of a store. Values only; clients live in a crate of
//! their own.

use tidemill_base::{
    Error, Result,
    attribute::{Attribute, Settings, Type},
};

use super::FileFormat;

/// Settings of a server's client, of sources and of sinks.
pub(crate) const PROPERTIES: Attribute = Attribute {
    name: "properties",
    ty: Type::Text,
    default: None,
    doc: "kafka, nats, s3: settings of the client, 'name=value; name=value'",
};
/// The same in a file.
pub(crate) const PROPERTIES_FILE: Attribute = Attribute {
    name: "properties_file",
    ty: Type::Text,
    default: None,
    doc: "kafka, nats, s3: a file of such settings, one a line: the place for passwords",
};

/// A Kafka topic: each of its partitions is one of the source's.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// `host:port,host:port`.
    pub brokers: String,
    /// Topic.
    pub topic: String,
    /// How it is read.
    pub reading: Reading,
}

/// A JetStream stream, one partition.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// `nats://host:port`.
    pub url: String,
    /// Stream; `None`: the one that keeps the subject.
    pub stream: Option<String>,
    /// Subject, with `*` and `>`; `None`: all of the stream.
    pub subject: Option<String>,
    /// How it is read.
    pub reading: Reading,
}

/// Objects of a store: each is one of the source's partitions.
#[derive(Clone, Debug)]
pub struct ObjectSettings {
    /// `s3://BUCKET/...`, with `*` and `**`; without, one object or all below a prefix.
    pub path: String,
    /// How rows are written.
    pub format: FileFormat,
    /// Whether objects may come.
    pub follow: bool,
    /// How often is looked for them, milliseconds.
    pub list_interval_ms: i64,
    /// The client's own settings, in their order.
    pub properties: Vec<(String, String)>,
    /// A file with more of them, one a line.
    pub properties_file: Option<String>,
}

/// What brokers have in common.
#[derive(Clone, Debug)]
pub struct Reading {
    /// How an event is written: JSON or delimited text.
    pub format: FileFormat,
    /// Where a partition begins that was never read.
    pub begin: Begin,
    /// Whether the source ends where the partitions end when they are first opened.
    pub bounded: bool,
    /// What happens when events that were not read are no longer there.
    pub on_gap: OnGap,
    /// The client's own settings, in their order.
    pub properties: Vec<(String, String)>,
    /// A file with more of them, one a line.
    pub properties_file: Option<String>,
}

/// Where a partition begins that was never read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the first event that is still there.
    Earliest,
    /// With the first event that comes from now on.
    Latest,
}

/// What happens when events that were not read are no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    /// The job ends with an error.
    Stop,
    /// They are counted as refused, and it goes on behind them.
    Continue,
}

impl KafkaSettings {
    pub(super) fn from_settings(s: &Settings) -> Result<Self> {
        Ok(Self {
            brokers: needed(s, "kafka", "brokers", "host:9092")?,
            topic: needed(s, "kafka", "topic", "clicks")?,
            reading: Reading::from_settings(s, "kafka")?,
        })
    }
}

impl NatsSettings {
    pub(super) fn from_settings(s: &Settings) -> Result<Self> {
        let (stream, subject) = (s.text("nats.stream"), s.text("subject"));
        if stream.is_none() && subject.is_none() {
            return Err(Error::invalid("connector 'nats' needs subject = '...' or nats.stream = '...'"));
        }
        let url = needed(s, "nats", "url", "nats://host:4222")?;
        Ok(Self { url, stream, subject, reading: Reading::from_settings(s, "nats")? })
    }
}

impl ObjectSettings {
    pub(super) fn from_settings(s: &Settings, path: String) -> Result<Self> {
        let list_interval_ms = s.integer("list_interval");
        if list_interval_ms < LIST_INTERVAL_MS_MIN {
            return Err(Error::invalid("list_interval: a store is listed once a second at most; write '1s' or more"));
        }
        Ok(Self {
            format: FileFormat::from_settings(s, &path)?,
            path,
            follow: s.bool("follow"),
            list_interval_ms,
            properties: s.text("properties").map_or(Ok(Vec::new()), |text| parse_properties(&text))?,
            properties_file: s.text("properties_file"),
        })
    }
}

impl Reading {
    fn from_settings(s: &Settings, connector: &str) -> Result<Self> {
        let format = match s.text("format").as_deref().unwrap_or("json") {
            name @ ("json" | "csv" | "tsv") => FileFormat::named(s, name)?,
            other => {
                return Err(Error::invalid(format!(
                    "format '{other}' is for files; connector '{connector}' reads 'json', 'csv' and 'tsv'"
                )));
            }
        };
        let properties = s.text("properties").map_or(Ok(Vec::new()), |text| parse_properties(&text))?;
        Ok(Self {
            format,
            begin: if s.text("begin").as_deref() == Some("latest") { Begin::Latest } else { Begin::Earliest },
            bounded: s.bool("bounded"),
            on_gap: if s.text("on_gap").as_deref() == Some("continue") { OnGap::Continue } else { OnGap::Stop },
            properties,
            properties_file: s.text("properties_file"),
        })
    }
}

/// `name=value` pairs between semicolons or on lines of their own; a line that begins with `#` says nothing.
pub fn parse_properties(text: &str) -> Result<Vec<(String, String)>> {
    let mut properties: Vec<(String, String)> = Vec::new();
    let is_file = text.lines().nth(1).is_some();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
        let place = if is_file { format!("line {}: ", i + 1) } else { String::new() };
        for pair in line.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            // Not the pair itself: it may be a password.
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Error::invalid(format!("{place}properties: pair {} has no '='; write name=value", properties.len() + 1))
            })?;
            let name = name.trim();
            if properties.iter().any(|(known, _)| known == name) {
                return Err(Error::invalid(format!("{place}properties: '{name}' is there twice; leave one out")));
            }
            properties.push((name.to_string(), value.trim().to_string()));
        }
    }
    Ok(properties)
}

/// A listing is paid for by the thousand objects.
const LIST_INTERVAL_MS_MIN: i64 = 1_000;

pub(super) fn needed(s: &Settings, connector: &str, name: &str, like: &str) -> Result<String> {
    s.text(name)
        .filter(|text| !text.trim().is_empty())
        .ok_or_else(|| Error::invalid(format!("connector '{connector}' needs {name} = '...', for example '{like}'")))
}
