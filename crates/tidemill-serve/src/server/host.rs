//! What the engine gives the server: models to ask, a place for events, numbers to show.
//!
//! The server knows nothing else of the engine. Calls that are not futures answer at once, from memory; [`Host::rollback`]
//! and [`Host::promote`] may touch the disk and are called where waiting hurts nobody.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_base::{Clock, Error, Kind, Result, SystemClock};
use tokio::time::Instant;

use crate::{
    follow::decided::Decided,
    live::Which,
    predict::{ArrowReply, ExplainReply, Inferred, PredictReply, Predictor, tensor::Tensor},
    rank::{RankReply, answer, named, named::Rankings},
    registry::Registry,
    versions::{LeftOut, Versions},
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

    /// Names of all models, those too that are not in memory, or not yet.
    fn names(&self) -> Vec<String> {
        self.models().iter().map(|m| m.name().to_string()).collect()
    }

    /// What is to be waited for before a model, or a version of it, can be asked; `None` where nothing is.
    fn load(&self, model: &str, version: Option<u64>) -> Option<BoxFuture<Result<()>>> {
        let (model, version) = (self.model(model)?, version?);
        if model.predictor().live().read_version(version).is_ok() {
            return None;
        }
        Some(Box::pin(async move {
            let loading = tokio::task::spawn_blocking(move || model.load_version(version));
            loading
                .await
                .unwrap_or_else(|_| Err(Error::internal("a bug in tidemill ended the loading of this version")))
        }))
    }

    /// The directory whose place on this machine is nobody's business: replies name files within it.
    fn home(&self) -> Option<&Path> {
        None
    }

    /// Whether requests may be sent here.
    fn is_ready(&self) -> bool {
        !self.names().is_empty()
    }

    /// The models that may be seen, as `GET /v1/models` lists them.
    fn models_json(&self, sees: &dyn Fn(&str) -> bool) -> Vec<Value> {
        self.models().iter().filter(|m| sees(m.name())).map(|m| m.to_json()).collect()
    }

    /// Takes JSON lines of events for a source. Resolves once the accepted ones are durable, or with
    /// [`Kind::NotFound`](tidemill_base::Kind::NotFound) (no such source) or
    /// [`Kind::Conflict`](tidemill_base::Kind::Conflict) (the source takes no pushed events). Goes on when the caller is
    /// gone.
    fn push(&self, source: &str, lines: Bytes) -> BoxFuture<Result<PushReply>>;

    /// What is to be waited for before [`Host::status`] and [`Host::metrics`] tell how things are now; `None` where they do
    /// so anyway.
    fn renewed(&self) -> Option<BoxFuture<()>> {
        None
    }

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
    versions: Arc<Versions>,
}

impl ServedModel {
    /// Serves `predictor`; what operators had changed before a restart is so again.
    pub fn open(predictor: Predictor, registry: Arc<Registry>) -> Result<Self> {
        let rankings = Rankings::open(predictor.model(), registry.dir())?;
        let recent = predictor.recent().clone();
        let versions = Versions::open(predictor.model(), predictor.live().clone(), registry.clone(), recent)?;
        Ok(Self { predictor, registry, rankings, versions })
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        self.predictor.model()
    }

    /// What answers.
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// Which versions answer.
    pub fn versions(&self) -> &Arc<Versions> {
        &self.versions
    }

    /// Its versions on disk.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Makes a version that is on disk one that can be asked by its number, read as it is asked. May wait for the disk.
    pub fn load_version(&self, version: u64) -> Result<()> {
        if self.predictor.live().read_version(version).is_ok() {
            return Ok(());
        }
        let meta = self.registry.meta(version)?;
        let weights = self.registry.open_weights(version)?;
        self.predictor.warm_up(&weights)?;
        self.predictor.live().keep(weights, version, meta.mini_batch);
        Ok(())
    }

    /// Answers a request, by the version asked for if one was.
    pub fn predict<'a>(&self, body: &[u8], which: impl Into<Which<'a>>) -> Result<PredictReply> {
        let which = self.by_key(which.into(), || body);
        let answer = |which| self.predictor.predict(body, which);
        self.watched(which, answer, |reply| (reply.version, reply.predictions.iter().all(|p| p.number().is_finite())))
    }

    /// Answers a stream of rows as Arrow has it, by the version asked for if one was.
    pub fn predict_arrow<'a>(&self, body: Bytes, which: impl Into<Which<'a>>) -> Result<ArrowReply> {
        let which = which.into();
        self.check_loaded(which)?;
        self.predictor.predict_arrow(body, which)
    }

    /// Explains the rows of a request, by the version asked for if one was.
    pub fn explain<'a>(&self, body: &[u8], which: impl Into<Which<'a>>) -> Result<ExplainReply> {
        let which = which.into();
        self.check_loaded(which)?;
        self.predictor.explain(body, which)
    }

    /// Orders the candidates of a request, by the version asked for if one was. `now_ms` is the time if the request does
    /// not say it.
    pub fn rank<'a>(&self, body: &[u8], which: impl Into<Which<'a>>, now_ms: i64) -> Result<RankReply> {
        let which = self.by_key(which.into(), || body);
        let answer = |which| {
            answer::rank(&self.predictor, &|name, version| self.rankings.get(name, version), body, which, now_ms)
        };
        self.watched(which, answer, |reply| {
            (reply.version, reply.items.iter().all(|item| item.prediction.number().is_finite()))
        })
    }

    /// Where traffic is split, a request that says neither version nor key is told apart by `key`: the same request always
    /// gets the same version.
    pub(super) fn by_key<'a>(&self, which: Which<'a>, key: impl FnOnce() -> &'a [u8]) -> Which<'a> {
        if which == Which::Live && self.predictor.live().is_split() { Which::Key(key()) } else { which }
    }

    /// Answers, and tells those on trial how it went. What was wrong with the request is nobody's error.
    fn watched<'a, T>(
        &self,
        which: Which<'a>,
        answer: impl FnOnce(Which<'a>) -> Result<T>,
        outcome: impl FnOnce(&T) -> (u64, bool),
    ) -> Result<T> {
        if !which.is_open() {
            self.check_loaded(which)?;
            return answer(which);
        }
        let Some(routes) = self.predictor.live().trials() else { return answer(which) };
        let (began, by) = (Instant::now(), self.predictor.live().pick(which)?.version);
        let answered = catch_unwind(AssertUnwindSafe(|| answer(which)));
        let us = began.elapsed().as_micros() as u64;
        let (by, failed) = match &answered {
            Ok(Ok(reply)) => {
                let (by, is_finite) = outcome(reply);
                (by, !is_finite)
            }
            Ok(Err(e)) if matches!(e.kind(), Kind::Internal | Kind::Corrupt) => (by, true),
            Ok(Err(_)) => return answered.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => (by, true),
        };
        routes.trials.iter().for_each(|trial| trial.answered(by, us, failed));
        answered.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Keeps a ranking under a name, for requests to come.
    pub fn put_ranking(&self, name: &str, json: &[u8]) -> Result<()> {
        if let Some(version) = named::version_of(name)? {
            self.registry.meta(version)?;
        }
        self.rankings.put(name, json, &answer::known(&self.predictor, false))?;
        self.registry.decided();
        Ok(())
    }

    /// Forgets a ranking.
    pub fn remove_ranking(&self, name: &str) -> Result<()> {
        self.rankings.remove(name)?;
        self.registry.decided();
        Ok(())
    }

    /// What operators have decided about it.
    pub(crate) fn decided(&self) -> Decided {
        Decided { rankings: self.rankings.whole(), ..self.versions.decided() }
    }

    /// Takes over what operators decided in the process that this one follows; `before` is what they had decided when this
    /// was done last. Versions it names must be on disk; what cannot be taken over is in the error, and the rest is done.
    pub fn adopt(&self, decided: &Decided, before: &Decided) -> std::result::Result<(), Vec<LeftOut>> {
        let known = answer::known(&self.predictor, false);
        let have = self.rankings.whole();
        let mut left_out = Vec::new();
        for (name, written) in decided.rankings.iter().filter(|(name, written)| have.get(*name) != Some(written)) {
            let put = self.rankings.put(name, written.to_string().as_bytes(), &known);
            left_out.extend(put.err());
        }
        for name in before.rankings.keys().filter(|name| !decided.rankings.contains_key(*name)) {
            let removed = if have.contains_key(name) { self.rankings.remove(name) } else { Ok(()) };
            left_out.extend(removed.err());
        }
        let mut left_out: Vec<LeftOut> = left_out.into_iter().map(|error| LeftOut { version: None, error }).collect();
        left_out.extend(self.versions.adopt(decided, before).err().unwrap_or_default());
        if left_out.is_empty() { Ok(()) } else { Err(left_out) }
    }

    /// One ranking, or all of them.
    pub fn rankings_to_json(&self, name: Option<&str>) -> Result<Value> {
        name.map_or_else(|| Ok(self.rankings.list()), |name| self.rankings.to_json(name))
    }

    /// Answers a request that brings tensors, by the version asked for if one was.
    pub fn infer<'a>(
        &self,
        inputs: &[Tensor<'_>],
        which: impl Into<Which<'a>>,
        missing_as_null: bool,
    ) -> Result<Inferred> {
        let answer = |which| self.predictor.infer(inputs, which, missing_as_null);
        self.watched(which.into(), answer, |inferred| (inferred.version, inferred.values.iter().all(|x| x.is_finite())))
    }

    /// Whether a version or label can be asked; the error says whether it exists at all.
    pub fn check_loaded<'a>(&self, which: impl Into<Which<'a>>) -> Result<()> {
        let which = which.into();
        let Err(e) = self.predictor.live().pick(which) else { return Ok(()) };
        let Which::Version(version) = which else {
            return Err(Error::not_found(format!("model '{}' has {}", self.name(), e.message())));
        };
        self.registry.meta(version)?;
        Err(Error::conflict(format!(
            "model '{0}': {e}; to have it served, POST /v1/models/{0}:rollback {{\"version\":{version}}}",
            self.name()
        )))
    }

    /// Makes an earlier version live: on disk first, so that a restart serves the same. What cannot answer the last requests
    /// does not take the next ones.
    pub fn rollback(&self, version: u64) -> Result<()> {
        self.versions.rollback(version)
    }

    /// Makes the newest version live again.
    pub fn promote(&self) -> Result<()> {
        self.versions.promote()
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
        if let (Value::Object(json), Value::Object(routing)) = (&mut json, self.versions.to_json()) {
            json.extend(routing);
        }
        let damaged = self.registry.damaged();
        if !damaged.is_empty() {
            let damaged = damaged.iter().map(|d| json!({"version": d.version, "reason": d.reason}));
            json["damaged"] = damaged.collect();
        }
        json
    }

    /// The version that a label points at.
    pub fn label_to_json(&self, label: &str) -> Result<Value> {
        self.check_loaded(Which::Label(label))?;
        self.version_to_json(self.predictor.live().pick(Which::Label(label))?.version)
    }

    /// One version on disk.
    pub fn version_to_json(&self, version: u64) -> Result<Value> {
        let served = self.predictor.live().read();
        Ok(mark_live(self.registry.meta(version)?.to_json(), served.version))
    }
}

/// The error for a model that is not there; it names those that are. One that is on its way is [`Kind::Unavailable`].
pub fn no_model(host: &(impl Host + ?Sized), name: &str) -> Error {
    let names = host.names();
    match names.iter().any(|n| n == name) {
        true => Error::unavailable(format!("model '{name}' is not here yet")),
        false => no_model_of(&names, name),
    }
}

/// The same, where only these are there.
pub(super) fn no_model_of(names: &[String], name: &str) -> Error {
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
