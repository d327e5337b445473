//! What `CREATE SINK ... WITH (...)` says, parsed: values only, nothing is opened here.

use tidemill_base::{
    Error, Result,
    attribute::{Attribute, Settings, Type},
};

use crate::source::{PROPERTIES, PROPERTIES_FILE, parse_properties};

/// Every attribute of `CREATE SINK ... WITH (...)`.
pub static SINK_ATTRIBUTES: [Attribute; 13] = [
    Attribute {
        name: "connector",
        ty: Type::Choice(&["file", "kafka", "nats"]),
        default: None,
        doc: "where rows leave to: files in a directory, a Kafka topic, or a subject of NATS JetStream",
    },
    Attribute {
        name: "path",
        ty: Type::Text,
        default: None,
        doc: "file: the directory; it is made where it is missing",
    },
    Attribute {
        name: "format",
        ty: Type::Choice(&["json", "csv", "parquet"]),
        default: Some("json"),
        doc: "how rows are written: 'json' is one object a line; 'parquet' is for files; kafka, nats: an event a row",
    },
    Attribute {
        name: "roll.bytes",
        ty: Type::Bytes,
        default: Some("64MiB"),
        doc: "file: a file with so many bytes is complete and can be seen (parquet: bytes before they are compressed)",
    },
    Attribute {
        name: "roll.interval",
        ty: Type::Duration,
        default: Some("1m"),
        doc: "file: a file can be seen this long after its first row, however small it is; 0s: by its bytes only, and where \
              files end does not depend on the clock",
    },
    Attribute { name: "brokers", ty: Type::Text, default: None, doc: "kafka: 'host:port,host:port' to begin with" },
    Attribute { name: "topic", ty: Type::Text, default: None, doc: "kafka: the topic, which must be there" },
    Attribute {
        name: "key",
        ty: Type::Text,
        default: None,
        doc: "kafka: the column of the sink whose value is the event's key; rows of one value go to one partition. Without \
              it the rows of a mini-batch stay together",
    },
    Attribute { name: "url", ty: Type::Text, default: None, doc: "nats: 'nats://host:port', several with commas" },
    Attribute {
        name: "subject",
        ty: Type::Text,
        default: None,
        doc: "nats: the subject, which a JetStream stream must keep and nobody else may write to",
    },
    Attribute {
        name: "buffer.bytes",
        ty: Type::Bytes,
        default: Some("64MiB"),
        doc: "rows that wait for a slow or silent place, in memory; then the job waits",
    },
    PROPERTIES,
    PROPERTIES_FILE,
];

/// A declared sink.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkSpec {
    /// Its name.
    pub name: String,
    /// Where rows leave to.
    pub connector: SinkConnector,
    /// How they are written.
    pub format: RowFormat,
    /// Bytes of rows that wait; then the job does.
    pub buffer_bytes: usize,
}

/// Where rows leave to.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkConnector {
    /// Files in a directory.
    File(FileSinkSettings),
    /// A Kafka topic.
    Kafka(KafkaSinkSettings),
    /// A subject of NATS JetStream.
    Nats(NatsSinkSettings),
}

/// Files in a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSinkSettings {
    /// The directory.
    pub path: String,
    /// Bytes that complete a file.
    pub roll_bytes: u64,
    /// Wall milliseconds that complete a file; `None`: no time does.
    pub roll_interval_ms: Option<u64>,
}

/// A Kafka topic.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaSinkSettings {
    /// `host:port,host:port`.
    pub brokers: String,
    /// Topic.
    pub topic: String,
    /// The column whose value is the key.
    pub key: Option<String>,
    /// The client's own settings.
    pub client: ClientSettings,
}

/// A subject of NATS JetStream.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsSinkSettings {
    /// `nats://host:port`.
    pub url: String,
    /// Subject, without wildcards.
    pub subject: String,
    /// The client's own settings.
    pub client: ClientSettings,
}

/// Settings that are the client's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientSettings {
    /// In their order.
    pub properties: Vec<(String, String)>,
    /// A file with more of them, one a line.
    pub properties_file: Option<String>,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// One JSON object a line, or an event.
    Json,
    /// Comma-separated; files begin with a line of names.
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl RowFormat {
    /// What files of it end with.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Json => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

impl SinkSpec {
    /// Reads a sink out of its written attributes. A refusal begins with the attribute's name.
    pub fn from_settings(name: &str, s: &Settings) -> Result<Self> {
        let format = match s.text("format").as_deref() {
            Some("csv") => RowFormat::Csv,
            Some("parquet") => RowFormat::Parquet,
            _ => RowFormat::Json,
        };
        let connector =
            s.text("connector").ok_or_else(|| Error::invalid("WITH needs connector = 'file', 'kafka' or 'nats'"))?;
        let needed = |name: &str, like: &str| {
            s.text(name).filter(|text| !text.trim().is_empty()).ok_or_else(|| {
                Error::invalid(format!("connector '{connector}' needs {name} = '...', for example '{like}'"))
            })
        };
        let client = || {
            let properties = s.text("properties").map_or(Ok(Vec::new()), |text| parse_properties(&text))?;
            Ok::<_, Error>(ClientSettings { properties, properties_file: s.text("properties_file") })
        };
        let settings = match connector.as_str() {
            "file" => SinkConnector::File(FileSinkSettings {
                path: needed("path", "scored")?,
                roll_bytes: s.integer("roll.bytes").max(1) as u64,
                roll_interval_ms: Some(s.integer("roll.interval")).filter(|ms| *ms > 0).map(|ms| ms as u64),
            }),
            "kafka" => SinkConnector::Kafka(KafkaSinkSettings {
                brokers: needed("brokers", "host:9092")?,
                topic: needed("topic", "scored")?,
                key: s.text("key"),
                client: client()?,
            }),
            _ => {
                let subject = needed("subject", "shop.scored")?;
                if subject.contains(['*', '>', ' ']) {
                    return Err(Error::invalid(format!(
                        "subject '{subject}': rows are sent to one subject, without * and >"
                    )));
                }
                SinkConnector::Nats(NatsSinkSettings {
                    url: needed("url", "nats://host:4222")?,
                    subject,
                    client: client()?,
                })
            }
        };
        if format == RowFormat::Parquet && connector != "file" {
            return Err(Error::invalid(format!(
                "format 'parquet' is for files; connector '{connector}' writes 'json' and 'csv'"
            )));
        }
        let buffer_bytes = s.integer("buffer.bytes").max(0) as usize;
        Ok(Self { name: name.to_string(), connector: settings, format, buffer_bytes })
    }

    /// Which attributes belong to which connectors: the others would be ignored in silence.
    pub fn owners(attribute: &str) -> Option<&'static [&'static str]> {
        match attribute {
            "path" | "roll.bytes" | "roll.interval" => Some(&["file"]),
            "brokers" | "topic" | "key" => Some(&["kafka"]),
            "url" | "subject" => Some(&["nats"]),
            "properties" | "properties_file" => Some(&["kafka", "nats"]),
            _ => None,
        }
    }

    /// The connector's word.
    pub fn connector_word(&self) -> &'static str {
        match self.connector {
            SinkConnector::File(_) => "file",
            SinkConnector::Kafka(_) => "kafka",
            SinkConnector::Nats(_) => "nats",
        }
    }
}
