//! A host small enough for tests: one model `ctr` over (imp_id, user, item, price), sources `impressions`, `clicks` and
//! `history` (which takes no events). A pushed click raises the weights of its impression at once.
#![allow(dead_code, reason = "each test and example uses a part")]

pub mod call;
pub mod site;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_base::{Error, Result, StateHash};
use tidemill_model::{
    delta::Delta,
    entries::Entries,
    feature::{ColumnSpec, Extractor, Features},
    snapshot::Snapshot,
};
use tidemill_serve::{
    live::LiveModel,
    predict::Predictor,
    registry::{Registry, VersionMeta},
    server::{BoxFuture, Host, PushReply, RefusedLine, ServedModel},
};
use tidemill_stream::{Transform, Transformed, source::json::JsonDecoder};

/// Passes rows on, but refuses a negative price, as an expression that fails would.
struct Identity(SchemaRef);

impl Transform for Identity {
    fn output(&self) -> SchemaRef {
        self.0.clone()
    }

    fn apply(&self, rows: &RecordBatch) -> Result<Transformed> {
        let price = rows.column_by_name("price").unwrap();
        let price = price.as_any().downcast_ref::<arrow::array::Float64Array>().unwrap();
        let negative = |(_, p): &(usize, Option<f64>)| p.is_some_and(|p| p < 0.0);
        let refused = price.iter().enumerate().filter(negative);
        let refused =
            refused.map(|(i, _)| (i as u32, "column 'price': logarithm of a negative number".to_string())).collect();
        Ok(Transformed { rows: rows.clone(), kept: None, refused })
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(["user", "item", "price"].map(|name| self.0.index_of(name).unwrap()).to_vec())
    }
}

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("imp_id", DataType::Int64, true),
        Field::new("ts", DataType::Int64, true),
        Field::new("user", DataType::Utf8, true),
        Field::new("item", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
    ]))
}

/// As the source declares them: an event needs its number, a request has none to give.
fn declared() -> SchemaRef {
    let not_null = |f: &Arc<Field>| f.as_ref().clone().with_nullable(f.name() != "imp_id");
    Arc::new(Schema::new(schema().fields().iter().map(not_null).collect::<Vec<_>>()))
}

pub fn extractor() -> Extractor {
    let columns = [
        ColumnSpec::Plain { column: "user".into() },
        ColumnSpec::Plain { column: "item".into() },
        ColumnSpec::Numeric { column: "price".into() },
        ColumnSpec::Cross {
            columns: vec![ColumnSpec::Plain { column: "user".into() }, ColumnSpec::Plain { column: "item".into() }],
            buckets: None,
        },
    ];
    Extractor::bind(&columns, &schema()).unwrap()
}

/// Rows as JSON lines, decoded.
pub fn rows(lines: &[Value]) -> RecordBatch {
    let mut decoder = JsonDecoder::new(schema()).unwrap();
    for line in lines {
        decoder.push_line(line.to_string().as_bytes()).unwrap();
    }
    decoder.finish()
}

/// The feature keys of one row.
pub fn keys(row: &Value) -> Vec<u64> {
    let mut features = Features::default();
    extractor().extract(&rows(std::slice::from_ref(row)), &mut features).unwrap();
    features.keys.sort_unstable();
    features.keys
}

pub fn meta(version: u64) -> VersionMeta {
    VersionMeta {
        version,
        mini_batch: version * 100,
        state_hash: StateHash((version as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C834)),
        samples: version * 5000,
        positives: version * 1000,
        logloss: 0.4 + 0.1 / version as f64,
        auc: 0.7612345678901234,
        created_ms: 1_700_000_000_000 + version as i64 * 1000,
        fingerprint: 0xFEDC_BA98_7654_3210,
        entries: 1,
    }
}

/// All weights `w`, for the features of one row.
pub fn snapshot(row: &Value, w: f32) -> Snapshot {
    Snapshot { entries: Entries::pairs(keys(row).into_iter().map(|k| (k, w))), ..Snapshot::default() }
}

pub fn temp_dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tidemill-serve-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub struct FakeHost {
    pub served: Arc<ServedModel>,
    pub live: Arc<LiveModel>,
    pub status: Mutex<Value>,
    pub feed: Mutex<Option<Value>>,
    /// Makes the next calls panic.
    pub broken: AtomicBool,
    /// Serves no model for now.
    pub hidden: AtomicBool,
    /// Its name is known, whether it is there or not.
    pub named: AtomicBool,
    pub offsets: AtomicU64,
    moment: AtomicU64,
    weights: Mutex<BTreeMap<u64, f32>>,
    shown: Mutex<BTreeMap<i64, Vec<u64>>>,
}

pub fn row() -> Value {
    json!({"user": "u1", "item": "i1", "price": 2.0})
}

impl FakeHost {
    /// Versions 1 to 3 are published; 3 is served.
    pub fn open(name: &str) -> Arc<Self> {
        Self::open_in(&temp_dir(name))
    }

    /// The same, with what an earlier one left in the directory.
    pub fn open_in(dir: &Path) -> Arc<Self> {
        let registry = Arc::new(Registry::open("ctr", dir).unwrap());
        for version in 1..=3 {
            registry.add(&meta(version), &snapshot(&row(), version as f32 * 0.1)).unwrap();
        }
        let newest = snapshot(&row(), 0.3);
        let live = Arc::new(LiveModel::open(&newest, 3, 300));
        let request = Arc::new(Identity(schema()));
        let predictor = Predictor::new("ctr", declared(), request, extractor(), live.clone()).unwrap();
        Arc::new(Self {
            served: Arc::new(ServedModel::open(predictor, registry).unwrap()),
            live,
            status: Mutex::new(json!({"state": "learning", "model": "ctr"})),
            feed: Mutex::new(None),
            broken: AtomicBool::new(false),
            hidden: AtomicBool::new(false),
            named: AtomicBool::new(false),
            offsets: AtomicU64::new(0),
            moment: AtomicU64::new(0),
            weights: Mutex::new(newest.entries.iter().map(|(key, params)| (key, params[0])).collect()),
            shown: Mutex::default(),
        })
    }

    /// Adds `by` to the weights of these keys and publishes.
    pub fn nudge(&self, keys: &[u64], by: f32, version: u64) {
        let mut weights = self.weights.lock().unwrap();
        let mut set = |&key: &u64| {
            let weight = weights.entry(key).or_default();
            *weight += by;
            (key, *weight)
        };
        let entries: BTreeMap<u64, f32> = keys.iter().map(&mut set).collect();
        let from = self.moment.fetch_add(1, SeqCst);
        self.live
            .publish(
                Delta { from, to: from + 1, entries: Entries::pairs(entries), ..Delta::default() },
                version,
                version * 100 + from,
            )
            .unwrap();
    }

    fn take(&self, source: &str, lines: &[u8]) -> PushReply {
        let mut reply = PushReply::default();
        for (i, line) in lines.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            match serde_json::from_slice::<Value>(line) {
                Ok(event) if event["imp_id"].is_i64() => {
                    self.learn(source, &event);
                    reply.accepted += 1;
                }
                Ok(_) => reply.refused.push(RefusedLine { line: i as u64 + 1, reason: "imp_id is missing".into() }),
                Err(e) => reply.refused.push(RefusedLine { line: i as u64 + 1, reason: e.to_string() }),
            }
        }
        let offset = self.offsets.fetch_add(reply.accepted, SeqCst);
        reply.first_offset = (reply.accepted > 0).then_some(offset);
        reply
    }

    fn learn(&self, source: &str, event: &Value) {
        let (Some(id), version) = (event["imp_id"].as_i64(), self.live.newest().version) else { return };
        if source == "impressions" {
            self.shown.lock().unwrap().insert(id, keys(event));
        } else if let Some(keys) = self.shown.lock().unwrap().remove(&id) {
            self.nudge(&keys, 0.25, version);
        }
    }
}

/// What the server is given: a handle, so that a call may keep the host beyond the request.
pub struct Handle(pub Arc<FakeHost>);

impl Host for Handle {
    fn models(&self) -> Vec<Arc<ServedModel>> {
        match self.0.hidden.load(SeqCst) {
            true => Vec::new(),
            false => vec![self.0.served.clone()],
        }
    }

    fn names(&self) -> Vec<String> {
        match self.0.hidden.load(SeqCst) && !self.0.named.load(SeqCst) {
            true => Vec::new(),
            false => vec![self.0.served.name().to_string()],
        }
    }

    fn home(&self) -> Option<&Path> {
        Some(Path::new("/srv/tidemill"))
    }

    fn push(&self, source: &str, lines: Bytes) -> BoxFuture<Result<PushReply>> {
        let (host, source) = (self.0.clone(), source.to_string());
        Box::pin(async move {
            if host.broken.load(SeqCst) {
                panic!("a bug, on purpose");
            }
            match source.as_str() {
                "impressions" | "clicks" => Ok(host.take(&source, &lines)),
                "full" => Err(Error::exhausted("write sources/full/push.log: no space left on device")),
                "history" => {
                    Err(Error::conflict("source 'history' takes no pushed events; declare it with push = 'true'"))
                }
                _ => Err(Error::not_found(format!("no source '{source}' (have impressions, clicks, history)"))),
            }
        })
    }

    fn status(&self) -> Value {
        if self.0.broken.load(SeqCst) {
            panic!("a bug, on purpose");
        }
        self.0.status.lock().unwrap().clone()
    }

    fn metrics(&self) -> String {
        "# HELP tidemill_events_total Events read.\n# TYPE tidemill_events_total counter\ntidemill_events_total 7\n"
            .into()
    }

    fn feed(&self) -> Option<Value> {
        self.0.feed.lock().unwrap().clone()
    }
}
