//! The models of a data directory, served without a job: loaded when they are asked for, gone again when there is no room.
//!
//! In: names of models in requests. Out: models that answer, from their live version. At most so many bytes of weights are
//! in memory, plus the model that was asked for last: the one that nobody asked for longest leaves first, and requests that
//! hold it end with it. A model that cannot be loaded costs those who ask for it, nobody else, and is tried again a moment
//! later. What the directory keeps (versions, which of them is live) is as the job left it; operators may change what is
//! live.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_base::{Clock, Error, Kind, Result, store::data_dir::DataDir};
use tidemill_serve::{
    live::LiveModel,
    predict::Predictor,
    registry::Registry,
    server::{BoxFuture, Host, PushReply, ServedModel},
};

use crate::program;

/// How long the reason stands why a model could not be loaded.
const FAILURE_STANDS: Duration = Duration::from_secs(1);
/// How long a model stays for the request that it was loaded for, whatever room others need.
const AWAITED_MAX: Duration = Duration::from_secs(1);
/// What a model takes beside its weights: columns, expressions, room to score in.
const MODEL_BYTES: u64 = 64 << 10;

/// The models of one data directory.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    data: DataDir,
    bytes_max: u64,
    clock: Arc<dyn Clock>,
    models: Mutex<Models>,
}

struct Models {
    places: BTreeMap<String, Place>,
    /// Counts requests: whose number is lowest was asked longest ago.
    asked: u64,
    loads: u64,
    evictions: u64,
}

#[derive(Default)]
struct Place {
    served: Option<Arc<ServedModel>>,
    /// When it was loaded, until the request that it was loaded for has come for it.
    fresh: Option<Duration>,
    asked: u64,
    failure: Option<(Duration, Kind, String)>,
    /// Held by whoever loads, so that one model is not loaded twice at a time.
    loading: Arc<Mutex<()>>,
}

impl Catalog {
    /// The models of a directory that this process owns, or those of `only` among them; their weights take `bytes_max` at
    /// most.
    pub fn open(data: DataDir, only: &[String], bytes_max: u64, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut names = data.models();
        if let Some(missing) = only.iter().find(|name| !names.contains(name)) {
            let have = if names.is_empty() { "there is none".into() } else { format!("have {}", names.join(", ")) };
            return Err(Error::not_found(format!("no model '{missing}' in {} ({have})", data.root().display())));
        }
        names.retain(|name| only.is_empty() || only.contains(name));
        if names.is_empty() {
            return Err(Error::not_found(format!(
                "no model in {}; train one into it with tidemill run, or follow one with --follow",
                data.root().display()
            )));
        }
        let places = names.into_iter().map(|name| (name, Place::default())).collect();
        let models = Mutex::new(Models { places, asked: 0, loads: 0, evictions: 0 });
        Ok(Self(Arc::new(Inner { data, bytes_max, clock, models })))
    }

    /// Where it keeps what it has.
    pub fn data(&self) -> &DataDir {
        &self.0.data
    }

    /// Loads a model if it is not in memory; with a version, that too. May wait for the disk.
    pub fn load_now(&self, name: &str, version: Option<u64>) -> Result<()> {
        let inner = &*self.0;
        let loading = {
            let models = inner.models();
            match models.places.get(name) {
                Some(place) => place.loading.clone(),
                None => return Ok(()),
            }
        };
        let _loading = loading.lock().unwrap_or_else(PoisonError::into_inner);
        let served = match inner.served(name)? {
            Some(served) => served,
            None => inner.load(name)?,
        };
        version.map_or(Ok(()), |version| served.load_version(version))?;
        // Bound to a name: gigabytes are given back behind the lock, not while requests wait for it.
        let _gone = inner.models().make_room(name, inner.bytes_max, inner.clock.elapsed());
        Ok(())
    }

    /// What is wrong with models that were asked for a moment ago.
    fn failures(&self) -> Vec<String> {
        let models = self.0.models();
        models.places.values().filter_map(|place| place.failure.as_ref()).map(|(_, _, why)| why.clone()).collect()
    }
}

impl Inner {
    /// The model, if it is in memory; the error if it could not be loaded a moment ago.
    fn served(&self, name: &str) -> Result<Option<Arc<ServedModel>>> {
        let models = self.models();
        let Some(place) = models.places.get(name) else { return Ok(None) };
        match &place.failure {
            Some((at, kind, why)) if self.clock.elapsed() - *at < FAILURE_STANDS => Err(Error::new(*kind, why.clone())),
            _ => Ok(place.served.clone()),
        }
    }

    fn load(&self, name: &str) -> Result<Arc<ServedModel>> {
        let opened = open_model(&self.data, name);
        let mut models = self.models();
        models.loads += 1;
        let Some(place) = models.places.get_mut(name) else { return opened };
        match &opened {
            Ok(served) => {
                (place.served, place.fresh, place.failure) = (Some(served.clone()), Some(self.clock.elapsed()), None);
            }
            Err(e) => place.failure = Some((self.clock.elapsed(), e.kind(), e.message().to_string())),
        }
        opened
    }

    fn models(&self) -> MutexGuard<'_, Models> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model of a directory that this process owns, ready to answer from its live version.
pub fn open_model(data: &DataDir, name: &str) -> Result<Arc<ServedModel>> {
    let job = program::stored_job(data.root(), name)?;
    let registry = Registry::open(name, &data.versions(name)?)?;
    let Some(meta) = registry.list().pop() else {
        return Err(match registry.damaged().first() {
            Some(damaged) => Error::corrupt(format!("model '{name}': {}", damaged.reason)),
            None => Error::not_found(format!("model '{name}' has no version yet")),
        });
    };
    if meta.fingerprint != job.fingerprint {
        return Err(Error::conflict(format!(
            "model '{name}': version {} was learned by an earlier program than the one in its directory",
            meta.version
        )));
    }
    let weights = registry.open_weights(meta.version)?;
    let live = Arc::new(LiveModel::fixed(weights, meta.version, meta.mini_batch));
    let extractor = job.extractor()?;
    let input = job.pipeline.left.source.columns.clone();
    let predictor = Predictor::new(name, input, job.pipeline.request.clone(), extractor, live)?;
    Ok(Arc::new(ServedModel::open(predictor, Arc::new(registry))?))
}

impl Models {
    /// Takes out models until the others have room; `kept` stays, and whatever was loaded for a request that is on its way.
    fn make_room(&mut self, kept: &str, bytes_max: u64, now: Duration) -> Vec<Arc<ServedModel>> {
        let mut gone = Vec::new();
        let mut bytes: u64 = self.places.values().map(Place::bytes).sum();
        while bytes > bytes_max {
            let others = self.places.iter_mut().filter(|(name, place)| {
                let awaited = place.fresh.is_some_and(|loaded| now - loaded < AWAITED_MAX);
                place.served.is_some() && !awaited && *name != kept
            });
            let Some((_, place)) = others.min_by_key(|(_, place)| place.asked) else { break };
            bytes -= place.bytes();
            gone.extend(place.served.take());
            self.evictions += 1;
        }
        gone
    }

    /// Models in memory, and their bytes.
    fn loaded(&self) -> (usize, u64) {
        let loaded = self.places.values().filter(|place| place.served.is_some());
        loaded.fold((0, 0), |(n, bytes), place| (n + 1, bytes + place.bytes()))
    }
}

impl Place {
    fn bytes(&self) -> u64 {
        self.served.as_ref().map_or(0, |served| served.predictor().live().bytes() + MODEL_BYTES)
    }
}

impl Host for Catalog {
    fn models(&self) -> Vec<Arc<ServedModel>> {
        self.0.models().places.values().filter_map(|place| place.served.clone()).collect()
    }

    fn model(&self, name: &str) -> Option<Arc<ServedModel>> {
        let mut models = self.0.models();
        models.asked += 1;
        let asked = models.asked;
        let place = models.places.get_mut(name)?;
        (place.asked, place.fresh) = (asked, None);
        place.served.clone()
    }

    fn names(&self) -> Vec<String> {
        self.0.models().places.keys().cloned().collect()
    }

    fn load(&self, name: &str, version: Option<u64>) -> Option<BoxFuture<Result<()>>> {
        {
            let models = self.0.models();
            let served = &models.places.get(name)?.served;
            let there = |served: &Arc<ServedModel>| {
                version.is_none_or(|version| served.predictor().live().read_version(version).is_ok())
            };
            if served.as_ref().is_some_and(there) {
                return None;
            }
        }
        let (catalog, name) = (self.clone(), name.to_string());
        Some(Box::pin(async move {
            let loading = tokio::task::spawn_blocking(move || catalog.load_now(&name, version));
            loading.await.unwrap_or_else(|_| Err(Error::internal("a bug in tidemill ended the loading of this model")))
        }))
    }

    fn home(&self) -> Option<&Path> {
        Some(self.0.data.root())
    }

    fn models_json(&self, sees: &dyn Fn(&str) -> bool) -> Vec<Value> {
        let places: Vec<(String, Option<Arc<ServedModel>>)> = {
            let models = self.0.models();
            let seen = models.places.iter().filter(|(name, _)| sees(name));
            seen.map(|(name, place)| (name.clone(), place.served.clone())).collect()
        };
        let json = |(name, served): (String, Option<Arc<ServedModel>>)| match served {
            Some(served) => served.to_json(),
            None => json!({"name": name, "loaded": false}),
        };
        places.into_iter().map(json).collect()
    }

    fn push(&self, source: &str, _lines: Bytes) -> BoxFuture<Result<PushReply>> {
        let refused = Error::conflict(format!(
            "source '{source}' takes no events here: this process serves what was learned; push to one that runs the program"
        ));
        Box::pin(async move { Err(refused) })
    }

    fn status(&self) -> Value {
        let (loaded, bytes) = self.0.models().loaded();
        let mut status = json!({
            "state": "serving", "models": self.names().len(), "models_loaded": loaded, "model_bytes": bytes,
            "model_bytes_max": self.0.bytes_max,
        });
        let failures = self.failures();
        if !failures.is_empty() {
            status["warning"] = failures.join("; ").into();
        }
        status
    }

    fn metrics(&self) -> String {
        let models = self.0.models();
        let (loaded, bytes) = models.loaded();
        let mut out = String::new();
        for (name, kind, help, value) in [
            ("models", "gauge", "Models in the data directory.", models.places.len() as u64),
            ("models_loaded", "gauge", "Models in memory.", loaded as u64),
            ("model_bytes", "gauge", "Bytes of the models in memory.", bytes),
            ("model_loads_total", "counter", "Models loaded, or tried to.", models.loads),
            ("model_evictions_total", "counter", "Models that left for want of room.", models.evictions),
        ] {
            let _ =
                writeln!(out, "# HELP tidemill_{name} {help}\n# TYPE tidemill_{name} {kind}\ntidemill_{name} {value}");
        }
        out
    }
}
