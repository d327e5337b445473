//! What a request feels while versions of gigabytes come and go beside it.
//!
//! In: a directory to write in. Out: inference of a small model at a rate, in short slices: at rest, and while a large model is
//! asked for, of which only one has room, so that it is loaded and another leaves. Such a slice begins and ends with the load. As with learning (`half_load.rs`), what is told is the median of the slices, and what took longer
//! than a millisecond over all of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tidemill_base::{Error, Result, Rng, rng::mix64};
use tidemill_model::{Snapshot, entries::Entries};
use tidemill_serve::registry::{Registry, VersionMeta};

use super::{
    super::{
        Case,
        load::{Beside, Load, Measured, get, post},
    },
    CONNECTIONS,
    half_load::SLICE_SECONDS,
    process::Server,
    requests::{columns, events, infer_body},
};

/// Bytes of a snapshot for each entry: every 64 hold four on average.
const ENTRY_BYTES: u64 = 16;
const LARGE_BYTES: u64 = 1 << 30;
/// Large models, and the time between two loads: when one is asked for again it has left, because what was loaded stays for a
/// second only.
const LARGE: [&str; 3] = ["large0", "large1", "large2"];
const LOAD_EVERY: Duration = Duration::from_millis(400);
/// Enough to send it; the slice ends with its reply.
const LOAD_SECONDS_MIN: f64 = 1e-3;
/// The small model and one large: of a mapped one counts what is kept beside the file.
const MODEL_BYTES_MAX: &str = "1MiB";

/// Name and unit of each case.
pub(super) const CASES: [(&str, &str); 3] = [
    ("infer at half load while 1 GiB is loaded, p50", "us"),
    ("infer at half load while 1 GiB is loaded, p99", "us"),
    ("infer at half load while 1 GiB is loaded, beyond 1 ms", "%"),
];

/// A server of all models, and what is sent.
pub(super) struct Large {
    /// Ends with it.
    _server: Server,
    load: Load,
    infer: Vec<u8>,
    loads: Vec<Vec<u8>>,
    metrics: Vec<u8>,
    next: usize,
}

impl Large {
    /// Writes the models and starts a server of them.
    pub fn open(dir: &Path) -> Result<Self> {
        let models = [&["small"][..], &LARGE].concat();
        let data = train(dir, &models)?;
        grow(&data, &LARGE, LARGE_BYTES)?;
        let mut rng = Rng::seeded(7);
        let dir_arg = data.display().to_string();
        let args = ["serve", "--data-dir", &dir_arg, "--port", "0", "--model-bytes-max", MODEL_BYTES_MAX];
        let server = Server::start(&args)?;
        let body = infer_body(&mut rng);
        let of = |model: &str| post(server.address, &format!("/v2/models/{model}/infer"), body.as_bytes());
        let loads = LARGE.map(of).into();
        let (infer, metrics) = (of("small"), get(server.address, "/metrics"));
        let mut load = Load::open(server.address, CONNECTIONS)?;
        // Loaded with the first request, too.
        load.ask(&infer)?;
        Ok(Self { load, infer, loads, metrics, next: 0, _server: server })
    }

    /// Inference at a rate, a slice at rest and one with a load in turns, into its [`CASES`].
    pub fn half_load(&mut self, rate: f64, seconds: f64, cases: &mut [Case]) -> Result<()> {
        let loads = (seconds / LOAD_EVERY.as_secs_f64()).ceil();
        let between = LOAD_EVERY.as_secs_f64() - 2.0 * SLICE_SECONDS;
        let mut all: [Measured; 2] = Default::default();
        let before = self.loaded()?;
        for _ in 0..loads as u64 {
            self.load.open_loop(&self.infer, rate, between, None)?;
            let rest = self.load.open_loop(&self.infer, rate, SLICE_SECONDS, None)?;
            let mut beside = Beside { parts: &self.loads, file: None, next: self.next, every: LOAD_EVERY };
            let loading = self.load.open_loop(&self.infer, rate, LOAD_SECONDS_MIN, Some(&mut beside))?;
            self.next = beside.next;
            for (i, share) in [0.5, 0.99].into_iter().enumerate() {
                cases[i].put(loading.times.quantile_us(share), rest.times.quantile_us(share));
            }
            all[0].add(&rest);
            all[1].add(&loading);
        }
        let loaded = self.loaded()? - before;
        if loaded != all[1].beside {
            return Err(Error::internal(format!("{loaded} models were loaded where {} were asked for", all[1].beside)));
        }
        let [rest, loading] = all.map(|all| all.times.share_beyond(Duration::from_millis(1)) * 100.0);
        cases[2].put(loading, rest);
        cases.iter_mut().for_each(|case| case.compares_medians = true);
        Ok(())
    }

    /// Models that the server has loaded so far.
    fn loaded(&mut self) -> Result<u64> {
        let (body, _) = self.load.ask(&self.metrics)?;
        let text = String::from_utf8_lossy(&body);
        let count = text.lines().find_map(|line| line.strip_prefix("tidemill_model_loads_total ")?.parse().ok());
        count.ok_or_else(|| Error::internal("the server does not say how many models it has loaded"))
    }
}

/// Models that have learned a few events; the data directory they are in.
pub(super) fn train(dir: &Path, models: &[&str]) -> Result<PathBuf> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let file = dir.join("events.jsonl");
    fs::write(&file, events(&mut Rng::seeded(7))).map_err(|e| Error::io("write", &file, e))?;
    let data = dir.join("data");
    let dir_arg = data.display().to_string();
    for model in models {
        let program = format!(
            "CREATE SOURCE clicks (label BIGINT, {}) WITH (connector = 'file', path = '{}');\n\
             SELECT * FROM clicks TO TRAIN LogisticRegression COLUMN {} LABEL label INTO {model};",
            columns(" FLOAT"),
            file.display(),
            columns("")
        );
        Server::run_to_end(&["run", "-e", &program, "--data-dir", &dir_arg, "--no-serve", "--quiet"])?;
    }
    Ok(data)
}

/// Gives each of these models a version with as many entries as so many bytes have room for.
pub(super) fn grow(data: &Path, models: &[&str], bytes: u64) -> Result<()> {
    let mut keys: Vec<u64> = (0..bytes / ENTRY_BYTES).map(|i| mix64(i) | 1).collect();
    keys.sort_unstable();
    keys.dedup();
    let params = keys.iter().map(|key| *key as u32 as f32 * 1e-12).collect();
    let mut entries = Entries { width: 1, keys, params };
    for model in models {
        let registry = Registry::open(model, &data.join("models").join(model).join("versions"))?;
        let (small, meta) = (registry.load(1)?, registry.meta(1)?);
        let snapshot = Snapshot { entries, ..small };
        registry.add(&VersionMeta { version: 2, ..meta }, &snapshot)?;
        entries = snapshot.entries;
    }
    Ok(())
}
