//! The manifest of a version: what is known of it, as JSON a person can read, with checksums.
//!
//! In and out: [`VersionMeta`] and the snapshot's length and checksum. The last line holds the checksum of all bytes
//! before it, so that a changed digit in a metric is found like a changed weight.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};
use tidemill_base::{Error, Result, StateHash, hash64};

/// Seeds differ so that one file never passes for the other.
pub(super) const SNAPSHOT_SEED: u64 = 1;
const MANIFEST_SEED: u64 = 2;
const FORMAT: u64 = 1;
const CHECK_KEY: &str = ",\n  \"manifest_xxh3\": \"";
const CHECK_END: &str = "\"\n}\n";

/// What is known of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionMeta {
    /// Its number, from 1.
    pub version: u64,
    /// Mini-batches learned from when it was published.
    pub mini_batch: u64,
    /// Identity of the parameters with optimizer state.
    pub state_hash: StateHash,
    /// Samples scored by progressive validation so far.
    pub samples: u64,
    /// Those among them that were positive.
    pub positives: u64,
    /// Progressive log loss so far; NaN without a sample.
    pub logloss: f64,
    /// Progressive AUC so far; NaN while only one class was seen.
    pub auc: f64,
    /// When it was published, milliseconds since 1970.
    pub created_ms: i64,
    /// Of the statement that trained it.
    pub fingerprint: u64,
    /// Weights in its snapshot.
    pub entries: u64,
}

/// A version as its manifest tells it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    pub meta: VersionMeta,
    pub snapshot_bytes: u64,
    pub snapshot_check: u64,
    /// The snapshot's root, since its format 4.
    pub snapshot_root: Option<u64>,
}

impl VersionMeta {
    /// As JSON. Hashes are hexadecimal text: they do not fit into a JavaScript number.
    pub fn to_json(&self) -> Value {
        json!({
            "version": self.version,
            "mini_batch": self.mini_batch,
            "state_hash": self.state_hash.to_string(),
            "samples": self.samples,
            "positives": self.positives,
            "logloss": self.logloss,
            "auc": self.auc,
            "created_ms": self.created_ms,
            "fingerprint": format!("{:016x}", self.fingerprint),
            "entries": self.entries,
        })
    }
}

impl Manifest {
    pub fn to_text(&self) -> String {
        let mut fields = Map::new();
        fields.insert("format".into(), FORMAT.into());
        if let Value::Object(meta) = self.meta.to_json() {
            fields.extend(meta);
        }
        fields.insert("snapshot_bytes".into(), self.snapshot_bytes.into());
        fields.insert("snapshot_xxh3".into(), format!("{:016x}", self.snapshot_check).into());
        if let Some(root) = self.snapshot_root {
            fields.insert("snapshot_root".into(), format!("{root:016x}").into());
        }
        let text = format!("{:#}", Value::Object(fields));
        let body = text.strip_suffix("\n}").unwrap_or(&text);
        format!("{body}{CHECK_KEY}{:016x}{CHECK_END}", hash64(body.as_bytes(), MANIFEST_SEED))
    }

    pub fn read(path: &Path, version: u64) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let manifest = parse(&bytes).map_err(|e| e.at(path.display()))?;
        if manifest.meta.version != version {
            return Err(Error::corrupt(format!(
                "{} is the manifest of version {}",
                path.display(),
                manifest.meta.version
            )));
        }
        Ok(manifest)
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Manifest> {
    let damaged = || {
        Error::corrupt(
            "the manifest does not match its own checksum; restore it from a copy, or remove the file to go on without this version",
        )
    };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let (body, check) = text.strip_suffix(CHECK_END).and_then(|t| t.rsplit_once(CHECK_KEY)).ok_or_else(damaged)?;
    if format!("{:016x}", hash64(body.as_bytes(), MANIFEST_SEED)) != check {
        return Err(damaged());
    }
    let fields: Value = serde_json::from_str(&format!("{body}\n}}")).map_err(|_| damaged())?;
    match fields["format"].as_u64() {
        Some(FORMAT) => {}
        Some(newer) => {
            return Err(Error::conflict(format!("manifest format {newer} is newer than this binary ({FORMAT})")));
        }
        None => return Err(damaged()),
    }
    read_fields(&fields, body).ok_or_else(damaged)
}

fn read_fields(fields: &Value, body: &str) -> Option<Manifest> {
    let number = |name: &str| fields[name].as_u64();
    let hex = |name: &str| u64::from_str_radix(fields[name].as_str()?, 16).ok();
    Some(Manifest {
        meta: VersionMeta {
            version: number("version")?,
            mini_batch: number("mini_batch")?,
            state_hash: fields["state_hash"].as_str()?.parse().ok()?,
            samples: number("samples")?,
            positives: number("positives")?,
            logloss: metric(body, "logloss")?,
            auc: metric(body, "auc")?,
            created_ms: fields["created_ms"].as_i64()?,
            fingerprint: hex("fingerprint")?,
            entries: number("entries")?,
        },
        snapshot_bytes: number("snapshot_bytes")?,
        snapshot_check: hex("snapshot_xxh3")?,
        snapshot_root: hex("snapshot_root"),
    })
}

/// A metric to its last bit, which serde_json's parser does not promise; `null` stands for NaN.
fn metric(body: &str, name: &str) -> Option<f64> {
    let (_, rest) = body.split_once(&format!("\n  \"{name}\": "))?;
    match rest.split([',', '\n']).next()? {
        "null" => Some(f64::NAN),
        digits => digits.parse().ok(),
    }
}
