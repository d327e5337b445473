//! What the engine gives the server: models to ask, a place for events, numbers to show.
//!
//! The server knows nothing else of the engine. Calls that are not futures answer at once, from memory; [`Host::rollback`]
//! and [`Host::promote`] may touch the disk and are called where waiting hurts nobody.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_base::{Clock, Error, Result, SystemClock};
use tidemill_model::weights::WeightTable;

use crate::{
    predict::{Inferred, PredictReply, Predictor, tensor::Tensor},
    rank::{RankReply, answer, named::Rankings},
    registry::{Live, Registry},
};

/// A future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The engine's side of the server.
pub trait Host: Send + Sync + 'static {
    /// All models, in the order in which they are to be listed.
    fn models(&self) -> Vec<Arc<ServedModel>>;

    /// One model by name.
    fn model(&self, name: &str) -> Option<Arc<ServedModel>> {
        self.models().into_iter().find(|m| m.name() == name)
    }

    /// Names of all models, those too that are not in memory.
    fn names(&self) -> Vec<String> {
        self.models().iter().map(|m| m.name().to_string()).collect()
    }

    /// What is to be waited for before a model, or a version of it, can be asked; `None` where nothing is.
    fn load(&self, _model: &str, _version: Option<u64>) -> Option<BoxFuture<Result<()>>> {
        None
    }

    /// Whether requests may be sent here.
    fn is_ready(&self) -> bool {
        !self.names().is_empty()
    }

    /// All models as `GET /v1/models` lists them.
    fn models_json(&self) -> Vec<Value> {
        self.models().iter().map(|m| m.to_json()).collect()
    }

    /// Takes JSON lines of events for a source. Resolves once the accepted ones are durable, or with
    /// [`Kind::NotFound`](tidemill_base::Kind::NotFound) (no such source) or
    /// [`Kind::Conflict`](tidemill_base::Kind::Conflict) (the source takes no pushed events). Goes on when the caller is
    /// gone.
    fn push(&self, source: &str, lines: Bytes) -> BoxFuture<Result<PushReply>>;

    /// What the page shows.
    fn status(&self) -> Value;

    /// Milliseconds since 1970: what is `now` for a rank request that does not say it.
    fn wall_ms(&self) -> i64 {
        SystemClock::new().wall_ms()
    }

    /// The engine's metrics as Prometheus text; the server adds its own.
    fn metrics(&self) -> String;

    /// The feed that the page shows, when there is one.
    fn feed(&self) -> Option<Value> {
        None
    }

    /// Makes an earlier version live until it is promoted away.
    fn rollback(&self, model: &str, version: u64) -> Result<()> {
        self.model(model).ok_or_else(|| no_model(self, model))?.rollback(version)
    }

    /// Makes the newest version live again.
    fn promote(&self, model: &str) -> Result<()> {
        self.model(model).ok_or_else(|| no_model(self, model))?.promote()
    }
}

/// What became of pushed events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReply {
    /// Events that are durable now.
    pub accepted: u64,
    /// Lines that were not taken.
    pub refused: Vec<RefusedLine>,
    /// The offset of the first accepted event in the source's push partition.
    pub first_offset: Option<u64>,
}

/// A line that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLine {
    /// Its number in the request, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// One model as it is served: what answers, and the versions behind it.
pub struct ServedModel {
    predictor: Predictor,
    registry: Arc<Registry>,
    rankings: Rankings,
    /// One operator at a time changes what is live.
    changing: Mutex<()>,
}

impl ServedModel {
    /// Serves `predictor`; where an operator had rolled back before a restart, that version is served again.
    pub fn open(predictor: Predictor, registry: Arc<Registry>) -> Result<Self> {
        let rankings = Rankings::open(predictor.model(), registry.dir())?;
        let model = Self { predictor, registry, rankings, changing: Mutex::new(()) };
        if let Live::Pinned(version) = model.registry.live() {
            model.pin(version)?;
        }
        Ok(model)
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        self.predictor.model()
    }

    /// What answers.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// Its versions on disk.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Answers a request, by the version asked for if one was.
    pub fn predict(&self, body: &[u8], version: Option<u64>) -> Result<PredictReply> {
        version.map_or(Ok(()), |version| self.check_loaded(version))?;
        self.predictor.predict(body, version)
    }

    /// Orders the candidates of a request, by the version asked for if one was. `now_ms` is the time if the request does
    /// not say it.
    pub fn rank(&self, body: &[u8], version: Option<u64>, now_ms: i64) -> Result<RankReply> {
        version.map_or(Ok(()), |version| self.check_loaded(version))?;
        answer::rank(&self.predictor, &|name| self.rankings.get(name), body, version, now_ms)
    }

    /// Keeps a ranking under a name, for requests to come.
    pub fn put_ranking(&self, name: &str, json: &[u8]) -> Result<()> {
        self.rankings.put(name, json, &answer::known(&self.predictor, false))
    }

    /// Forgets a ranking.
    pub fn remove_ranking(&self, name: &str) -> Result<()> {
        self.rankings.remove(name)
    }

    /// One ranking, or all of them.
    pub fn rankings_to_json(&self, name: Option<&str>) -> Result<Value> {
        name.map_or_else(|| Ok(self.rankings.list()), |name| self.rankings.to_json(name))
    }

    /// Answers a request that brings tensors, by the version asked for if one was.
    pub fn infer(&self, inputs: &[Tensor<'_>], version: Option<u64>, missing_as_null: bool) -> Result<Inferred> {
        version.map_or(Ok(()), |version| self.check_loaded(version))?;
        self.predictor.infer(inputs, version, missing_as_null)
    }

    /// Whether a version can be asked; the error says whether it exists at all.
    pub fn check_loaded(&self, version: u64) -> Result<()> {
        let Err(e) = self.predictor.live().read_version(version) else { return Ok(()) };
        self.registry.meta(version)?;
        Err(Error::conflict(format!(
            "model '{0}': {e}; to have it served, POST /v1/models/{0}:rollback {{\"version\":{version}}}",
            self.name()
        )))
    }

    /// Makes an earlier version live: on disk first, so that a restart serves the same.
    pub fn rollback(&self, version: u64) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = self.registry.meta(version)?;
        self.registry.check_rollback(version)?;
        // Before anything points at it: what cannot answer the last requests does not take the next ones.
        let weights = WeightTable::from_snapshot(&self.registry.load(version)?);
        self.predictor.warm_up(&weights)?;
        self.registry.pin(version)?;
        self.predictor.live().pin_weights(weights, version, meta.mini_batch);
        Ok(())
    }

    /// Makes the newest version live again.
    pub fn promote(&self) -> Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.registry.promote()?;
        self.predictor.live().promote();
        Ok(())
    }

    /// What is served, and every version on disk.
    pub fn to_json(&self) -> Value {
        let served = self.predictor.live().read();
        let metas = self.registry.list();
        let versions: Vec<Value> = metas.iter().rev().map(|meta| mark_live(meta.to_json(), served.version)).collect();
        let mut json = json!({
            "name": self.name(),
            "version": served.version,
            "mini_batch": served.mini_batch,
            "live": self.registry.live().to_string(),
            "versions": versions,
        });
        let damaged = self.registry.damaged();
        if !damaged.is_empty() {
            let damaged = damaged.iter().map(|d| json!({"version": d.version, "reason": d.reason}));
            json["damaged"] = damaged.collect();
        }
        json
    }

    /// One version on disk.
    pub fn version_to_json(&self, version: u64) -> Result<Value> {
        let served = self.predictor.live().read();
        Ok(mark_live(self.registry.meta(version)?.to_json(), served.version))
    }

    fn pin(&self, version: u64) -> Result<()> {
        let meta = self.registry.meta(version)?;
        self.predictor.live().pin_weights(self.registry.open_weights(version)?, version, meta.mini_batch);
        Ok(())
    }
}

/// The error for a model that is not there; it names those that are.
pub fn no_model(host: &(impl Host + ?Sized), name: &str) -> Error {
    let names = host.names();
    let name = super::reply::shown(name);
    let listed = names.iter().take(NAMES_LISTED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    Error::not_found(match names.len() {
        0 => format!("no model '{name}'; none is served yet"),
        n if n > NAMES_LISTED_MAX => format!("no model '{name}' (have {listed} and {} more)", n - NAMES_LISTED_MAX),
        _ => format!("no model '{name}' (have {listed})"),
    })
}

/// Names that an error lists at most.
const NAMES_LISTED_MAX: usize = 20;

fn mark_live(mut meta: Value, live: u64) -> Value {
    meta["live"] = (meta["version"] == live).into();
    meta
}
