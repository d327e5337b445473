//! A replica: serves models that another process learns, a moment behind it.
//!
//! In: frames from the process that learns ([`tidemill_serve::follow`]). Out: models that answer, and how stale they are.
//! What is served is never cleared: while the other side is away, or says something that cannot be used, the replica answers
//! from what it has, says since when, and asks again with growing pauses from where it is. What it has come to is kept in
//! its own data directory with every version (at most a twentieth of the time goes into writing), so that a replica that
//! was killed goes on from there. What operators decide where the model is learned is taken over ([`decided`]).

mod decided;
mod kept;
mod link;

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_base::{Clock, Error, Result, Rng, store::data_dir::DataDir};
use tidemill_model::snapshot::Snapshot;
use tidemill_serve::{
    follow::{Ask, Mark, client::Upstream},
    live_views::LiveViews,
    server::{BoxFuture, Host, PushReply, ServedModel},
};
use tidemill_stream::aggregate::ViewSpec;

use crate::signal::Signal;
use decided::Inbox;
use kept::Writers;
use link::Link;

/// The pause before the replica asks again, which doubles with every failure.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the end of the process waits for versions that are being written.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Beyond this staleness the replica says that it is not ready, and goes on answering.
pub const STALE_MAX: Duration = Duration::from_secs(30);

/// Models that are learned elsewhere.
#[derive(Clone)]
pub struct Replica(Arc<Inner>);

struct Inner {
    upstream: Upstream,
    data: DataDir,
    clock: Arc<dyn Clock>,
    signal: Arc<Signal>,
    stale_max: Duration,
    models: BTreeMap<String, Mutex<Following>>,
    /// What was decided about each of them.
    decided: BTreeMap<String, Inbox>,
    writers: Writers,
}

/// One model that is followed.
#[derive(Default)]
struct Following {
    served: Option<Arc<ServedModel>>,
    fingerprint: u64,
    lineage: u64,
    mark: Mark,
    /// What a snapshot of it has beside its parameters.
    shell: Snapshot,
    /// What its feature views hold, where it reads some.
    views: Option<(Arc<LiveViews>, Vec<ViewSpec>)>,
    /// The parameters are served from where they lie on disk, and must be read before a delta comes.
    is_mapped: bool,
    connected: bool,
    /// When nothing was missing last, in this process.
    fresh_at: Option<Duration>,
    /// When, by the wall clock, what an earlier process kept was all there was.
    kept_as_of_ms: Option<i64>,
    trouble: Option<Trouble>,
    /// Why what was decided at the trainer does not hold here yet.
    not_decided: Option<String>,
    /// Why the last version is not on disk.
    not_kept: Option<String>,
    counts: Counts,
}

/// Why the model is not followed just now.
struct Trouble {
    kind: tidemill_base::Kind,
    message: String,
}

/// What has happened since the process began.
#[derive(Default)]
struct Counts {
    deltas: u64,
    snapshots: u64,
    resumes: u64,
    rebases: u64,
    versions: u64,
    decisions: u64,
    refused: u64,
    failures: u64,
}

impl Replica {
    /// Follows `models` of the process there; what was kept of them earlier is served at once.
    pub fn open(
        upstream: Upstream,
        models: &[String],
        data: DataDir,
        clock: Arc<dyn Clock>,
        signal: Arc<Signal>,
        stale_max: Duration,
    ) -> Result<Self> {
        let mut following = BTreeMap::new();
        for name in models {
            tidemill_base::store::data_dir::check_name("model", name)?;
            following.insert(name.clone(), Mutex::new(kept::open(&data, name)?));
        }
        let decided = models.iter().map(|name| (name.clone(), Inbox::default())).collect();
        let (models, writers) = (following, Writers::default());
        Ok(Self(Arc::new(Inner { upstream, data, clock, signal, stale_max, models, decided, writers })))
    }

    /// Begins to follow, with two threads for each model, for as long as the process lives.
    pub fn follow(&self) -> Result<()> {
        for name in self.0.models.keys() {
            let (inner, followed) = (self.0.clone(), name.clone());
            let follow = move || inner.follow(&followed);
            let (seeing, of) = (self.0.clone(), name.clone());
            let take_over = move || decided::take_over(&seeing, &of);
            let follow = std::thread::Builder::new().name("follow".into()).spawn(follow);
            let decided = std::thread::Builder::new().name("decided".into()).spawn(take_over);
            follow.and(decided).map_err(|e| Error::unavailable(format!("cannot start a thread: {e}")))?;
        }
        Ok(())
    }

    /// Waits until every model is served; the error, if one cannot be had and nothing was kept of it.
    pub fn wait_until_served(&self) -> Result<()> {
        for (name, following) in &self.0.models {
            loop {
                {
                    let following = lock(following);
                    match &following.trouble {
                        _ if following.served.is_some() => break,
                        Some(t) if following.counts.failures > 0 => {
                            return Err(Error::new(t.kind, format!("model '{name}': {}", t.message)));
                        }
                        _ if self.0.signal.is_stopped() => return Ok(()),
                        _ => {}
                    }
                }
                self.0.signal.wait(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// Ends: a version that is being written gets the time that an end may take.
    pub fn close(&self) {
        self.0.writers.end(CLOSE_MAX);
    }

    /// Where it keeps what it has.
    pub fn data(&self) -> &DataDir {
        &self.0.data
    }
}

impl Inner {
    fn follow(&self, name: &str) {
        let mut rng = Rng::seeded(self.clock.wall_ms() as u64 ^ u64::from(std::process::id()));
        let mut pause = PAUSE_MIN;
        kept::read_in(&self.models[name]);
        while !self.signal.is_stopped() {
            let began = self.clock.elapsed();
            let ended = Link::open(self, name).and_then(|mut link| link.run());
            let mut following = self.following(name);
            following.connected = false;
            if let Err(e) = ended {
                following.counts.failures += 1;
                following.counts.refused += u64::from(e.kind() == tidemill_base::Kind::Corrupt);
                following.trouble = Some(Trouble { kind: e.kind(), message: e.message().to_string() });
            }
            drop(following);
            if self.clock.elapsed() - began > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            // Replicas that lost the same trainer do not all come back in the same moment.
            std::thread::park_timeout(pause.mul_f64(0.5 + 0.5 * rng.next_f64()));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn following(&self, name: &str) -> MutexGuard<'_, Following> {
        lock(&self.models[name])
    }
}

impl Following {
    fn ask(&self) -> Ask {
        match self.served {
            Some(_) => Ask {
                lineage: self.lineage,
                position: self.mark.position,
                mini_batch: self.mark.mini_batch,
                takes_decisions: true,
            },
            None => Ask { takes_decisions: true, ..Ask::default() },
        }
    }

    fn staleness(&self, clock: &dyn Clock) -> Option<Duration> {
        let kept = |at: i64| Duration::from_millis(clock.wall_ms().saturating_sub(at).max(0) as u64);
        let here = self.fresh_at.map(|at| clock.elapsed().saturating_sub(at));
        here.or_else(|| self.kept_as_of_ms.map(kept))
    }

    /// What is wrong.
    fn warning(&self) -> Option<String> {
        let others = self.not_decided.iter().chain(&self.not_kept).map(String::as_str);
        let all: Vec<&str> = self.trouble.iter().map(|t| &*t.message).chain(others).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn to_json(&self, address: &str, clock: &dyn Clock) -> Value {
        json!({
            "address": address,
            "connected": self.connected,
            "staleness_ms": self.staleness(clock).map(|s| s.as_millis() as u64),
            "position": self.mark.position,
            "mini_batch": self.mark.mini_batch,
            "lineage": format!("{:016x}", self.lineage),
            "deltas": self.counts.deltas,
            "snapshots": self.counts.snapshots,
            "resumes": self.counts.resumes,
            "rebases": self.counts.rebases,
            "versions_checked": self.counts.versions,
            "decisions": self.counts.decisions,
            "frames_refused": self.counts.refused,
            "failures": self.counts.failures,
            "warning": self.warning(),
        })
    }
}

impl Host for Replica {
    fn models(&self) -> Vec<Arc<ServedModel>> {
        self.0.models.values().filter_map(|following| lock(following).served.clone()).collect()
    }

    fn model(&self, name: &str) -> Option<Arc<ServedModel>> {
        lock(self.0.models.get(name)?).served.clone()
    }

    fn names(&self) -> Vec<String> {
        self.0.models.keys().cloned().collect()
    }

    fn is_ready(&self) -> bool {
        let now = self.0.clock.elapsed();
        // Of what only an earlier process heard nobody can say that it is still so.
        let fresh = |at: Option<Duration>| at.is_some_and(|at| now.saturating_sub(at) <= self.0.stale_max);
        self.0.models.values().all(|following| fresh(lock(following).fresh_at))
    }

    fn home(&self) -> Option<&Path> {
        Some(self.0.data.root())
    }

    fn models_json(&self, sees: &dyn Fn(&str) -> bool) -> Vec<Value> {
        let json = |(name, following): (&String, &Mutex<Following>)| {
            let following = lock(following);
            let mut json = following.served.as_ref().map_or_else(|| json!({"name": name}), |served| served.to_json());
            json["follows"] = following.to_json(self.0.upstream.address(), &*self.0.clock);
            json
        };
        self.0.models.iter().filter(|(name, _)| sees(name)).map(json).collect()
    }

    fn push(&self, source: &str, _lines: Bytes) -> BoxFuture<Result<PushReply>> {
        let refused = Error::conflict(format!(
            "source '{source}' takes no events here: this is a replica; push to {}, which learns",
            self.0.upstream.address()
        ));
        Box::pin(async move { Err(refused) })
    }

    fn status(&self) -> Value {
        let address = self.0.upstream.address();
        let json = |following: &Mutex<Following>| lock(following).to_json(address, &*self.0.clock);
        let follows: Vec<(String, Value)> =
            (self.0.models.iter()).map(|(name, following)| (name.clone(), json(following))).collect();
        let connected = follows.iter().all(|(_, f)| f["connected"] == true);
        let warnings: Vec<&str> = follows.iter().filter_map(|(_, f)| f["warning"].as_str()).collect();
        let mut status = json!({"state": if connected { "following" } else { "waiting" }});
        if !warnings.is_empty() {
            status["warning"] = warnings.join("; ").into();
        }
        status["follows"] = Value::Object(follows.into_iter().collect());
        status
    }

    fn metrics(&self) -> String {
        let clock = &*self.0.clock;
        let mut out = String::new();
        type Figure = fn(&Following, &dyn Clock) -> Option<f64>;
        let figures: [(&str, &str, &str, Figure); 8] = [
            ("connected", "gauge", "1 while the model is followed.", |f, _| Some(f64::from(u8::from(f.connected)))),
            ("staleness_seconds", "gauge", "Since nothing was missing last.", |f, clock| {
                f.staleness(clock).map(|s| s.as_secs_f64())
            }),
            ("deltas_total", "counter", "Deltas taken.", |f, _| Some(f.counts.deltas as f64)),
            ("snapshots_total", "counter", "Whole models taken.", |f, _| Some(f.counts.snapshots as f64)),
            ("versions_checked_total", "counter", "Versions derived here with the trainer's bytes.", |f, _| {
                Some(f.counts.versions as f64)
            }),
            ("decisions_total", "counter", "Taken over from operators at the trainer.", |f, _| {
                Some(f.counts.decisions as f64)
            }),
            ("frames_refused_total", "counter", "Damaged frames.", |f, _| Some(f.counts.refused as f64)),
            ("failures_total", "counter", "Connections that failed.", |f, _| Some(f.counts.failures as f64)),
        ];
        for (name, kind, help, figure) in figures {
            let _ = writeln!(out, "# HELP tidemill_replica_{name} {help}\n# TYPE tidemill_replica_{name} {kind}");
            for (model, following) in &self.0.models {
                if let Some(value) = figure(&lock(following), clock) {
                    let _ = writeln!(out, "tidemill_replica_{name}{{model=\"{model}\"}} {value}");
                }
            }
        }
        out
    }
}

fn lock(following: &Mutex<Following>) -> MutexGuard<'_, Following> {
    following.lock().unwrap_or_else(PoisonError::into_inner)
}
