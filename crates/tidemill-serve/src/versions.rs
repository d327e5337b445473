//! Which versions of a model answer: the live one, those under labels, a split of the traffic, a shadow, a rollout.
//!
//! In: what operators ask for. Out: the same on disk and in [`LiveModel`], disk first, so that a restart serves as before.
//! A version is loaded before anything points at it; where that fails, everything stays as it was. One change at a time:
//! whoever comes in between is told which is going on. A rollout is looked at ten times a second by a thread of its own,
//! which ends with it; what it decides is told in [`crate::rollout`].

mod adopt;
mod show;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tidemill_base::{Clock, Error, Kind, Result, SystemClock};
use tidemill_model::{snapshot::Snapshot, weights::WeightTable};

pub use adopt::LeftOut;
pub(crate) use show::metrics as version_metrics;

use crate::{
    live::{LiveModel, ServedVersion},
    predict::Recent,
    registry::{Live, Outcome, Registry, RolledOut, Verdict, WARM_UP, check_label},
    rollout::{Decision, Judge, Plan},
    split::Split,
    trial::Trial,
};

/// The label whose version scores what others answer.
pub const SHADOW: &str = "shadow";
/// The label that a rollout points at its version.
pub const CANARY: &str = "canary";
/// How often a rollout is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The versions of one model and who gets which.
pub struct Versions {
    registry: Arc<Registry>,
    live: Arc<LiveModel>,
    /// What a version must be able to answer before it takes traffic.
    recent: Arc<Recent>,
    model: String,
    clock: Arc<dyn Clock>,
    /// One operator at a time changes what answers.
    changing: Mutex<Option<Operation>>,
    operations: AtomicU64,
    rollout: Mutex<Option<Going>>,
    /// Told when a rollout ends, so that its thread does.
    ended: Condvar,
    /// What could not be restored.
    troubles: Mutex<Vec<String>>,
    /// The version to which the model had been rolled back, where it could not be read at the start, and why.
    damaged: OnceLock<(u64, String)>,
}

/// A change that is going on.
struct Operation {
    number: u64,
    what: String,
}

/// Ends the operation when it goes.
struct Changing<'a>(&'a Versions);

struct Going {
    version: u64,
    judge: Judge,
    trial: Arc<Trial>,
    waits_for: String,
    number: u64,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        *lock(&self.0.changing) = None;
    }
}

impl Versions {
    /// What was there before a restart is there again: the version an operator made live, labels, split, and a rollout at
    /// its stage, whose evidence begins anew. A label whose version cannot be loaded is left out and told.
    pub(crate) fn open(
        model: &str,
        live: Arc<LiveModel>,
        registry: Arc<Registry>,
        recent: Arc<Recent>,
    ) -> Result<Arc<Self>> {
        let versions = Arc::new(Self {
            registry,
            live,
            recent,
            model: model.to_string(),
            clock: Arc::new(SystemClock::new()),
            changing: Mutex::default(),
            operations: AtomicU64::new(0),
            rollout: Mutex::default(),
            ended: Condvar::new(),
            troubles: Mutex::default(),
            damaged: OnceLock::new(),
        });
        if let Live::Pinned(version) = versions.registry.live() {
            let loaded = versions.load_or_earlier(version)?;
            versions.live.reroute(|routes| routes.pinned = Some(loaded.clone()));
        }
        versions.restore()?;
        Ok(versions)
    }

    /// The version to which the model was rolled back. Where that is damaged, the next one before it: those after it are what
    /// the operator did not want; one of them only where there is no other, since without any the process would not learn
    /// either.
    fn load_or_earlier(&self, version: u64) -> Result<Arc<ServedVersion>> {
        let damaged = match self.load(version) {
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => e,
            loaded => return loaded,
        };
        let (earlier, later): (Vec<u64>, Vec<u64>) =
            self.registry.list().iter().map(|meta| meta.version).partition(|other| *other < version);
        let others = earlier.into_iter().rev().chain(later);
        let Some(loaded) = others.filter_map(|other| self.load(other).ok()).next() else { return Err(damaged) };
        let _ = self.damaged.set((version, damaged.message().to_string()));
        Ok(loaded)
    }

    /// Why another version answers than the one to which the model was rolled back, while one does.
    pub fn gave_way(&self) -> Option<String> {
        let (version, why) = self.damaged.get()?;
        let answers = self.live.routes().pinned.as_ref()?.version;
        (self.registry.live() == Live::Pinned(*version) && answers != *version).then(|| {
            format!("version {answers} answers instead of version {version}, to which the model was rolled back: {why}")
        })
    }

    fn restore(self: &Arc<Self>) -> Result<()> {
        let routing = self.registry.routing();
        for (label, version) in &routing.labels {
            match self.load(*version) {
                Ok(loaded) => self.live.reroute(|routes| _ = routes.labels.insert(label.clone(), loaded.clone())),
                Err(e) => lock(&self.troubles).push(format!("label '{label}' is left out: {}", e.message())),
            }
        }
        self.show_shadow()?;
        let split = Split::new(&self.model, &routing.split).unwrap_or(None);
        self.live.reroute(|routes| routes.split.clone_from(&split));
        if let Some(RolledOut { version, plan, stage }) = routing.rollout {
            match self.live.routes().labels.contains_key(CANARY) {
                true => self.go_on(version, plan, stage)?,
                false => self.end_rollout(version, Outcome::Ended, "its version could not be loaded again".into())?,
            }
        }
        Ok(())
    }

    /// Makes an earlier version live: on disk first, so that a restart serves the same. A rollout that is going on ends.
    pub fn rollback(&self, version: u64) -> Result<()> {
        let _changing = self.begin(|| format!("roll back to {version}"))?;
        self.registry.check_rollback(version)?;
        let meta = self.registry.meta(version)?;
        let loaded =
            self.registry.rollback_once(version, |snapshot| self.ready(&snapshot, version, meta.mini_batch))?;
        self.live.reroute(|routes| routes.pinned = Some(loaded.clone()));
        self.end_by_hand(&format!("an operator made version {version} live"))
    }

    /// Makes the newest version live again. A rollout that is going on ends.
    pub fn promote(&self) -> Result<()> {
        let _changing = self.begin(|| "promote the newest".into())?;
        self.registry.promote()?;
        self.live.promote();
        self.end_by_hand("an operator made the newest version live")
    }

    /// Points a label at a version, which is loaded first.
    pub fn set_label(&self, label: &str, version: u64) -> Result<()> {
        if label == "live" {
            return self.rollback(version);
        }
        check_label(label)?;
        let _changing = self.begin(|| format!("label {label}"))?;
        self.refuse_in_rollout(label)?;
        let meta = self.registry.meta(version)?;
        let routes = self.live.routes();
        let loaded = self.registry.set_label_once(label, version, |snapshot| {
            // One that is in memory under another label is that one.
            match routes.labels.values().find(|l| l.version == version) {
                Some(loaded) => self.warm_up(loaded).map(|()| loaded.clone()),
                None => self.ready(&snapshot, version, meta.mini_batch),
            }
        })?;
        self.live.reroute(|routes| _ = routes.labels.insert(label.to_string(), loaded.clone()));
        if label == SHADOW { self.show_shadow() } else { Ok(()) }
    }

    /// Removes a label, and the split where it had a share.
    pub fn remove_label(&self, label: &str) -> Result<()> {
        if label == "live" {
            return self.promote();
        }
        let _changing = self.begin(|| format!("remove label {label}"))?;
        self.refuse_in_rollout(label)?;
        self.registry.remove_label(label)?;
        let split = Split::new(&self.model, &self.registry.routing().split).unwrap_or(None);
        self.live.reroute(|routes| {
            routes.labels.remove(label);
            routes.split.clone_from(&split);
        });
        if label == SHADOW { self.show_shadow() } else { Ok(()) }
    }

    /// Splits the traffic by these percentages; `live` is one of the labels.
    pub fn split(&self, weights: &[(String, f64)]) -> Result<()> {
        let split = Split::new(&self.model, weights)?;
        let _changing = self.begin(|| "split traffic".into())?;
        if let Some(going) = &*lock(&self.rollout) {
            return Err(self.is_rolled_out(going.version, "its traffic is split by that"));
        }
        for (label, _) in weights {
            self.registry.check_has_label(label)?;
            if label != "live" && !self.live.routes().labels.contains_key(label) {
                return Err(Error::conflict(format!("label '{label}' points at a version that could not be loaded")));
            }
        }
        let kept = if split.is_some() { weights.to_vec() } else { Vec::new() };
        self.registry.reroute(|routing| routing.split = kept)?;
        self.live.reroute(|routes| routes.split.clone_from(&split));
        Ok(())
    }

    /// Begins to roll a version out. The live version must be one that stays: the newest weights change all the time, and
    /// nothing could be compared with them.
    pub fn roll_out(self: &Arc<Self>, version: Option<u64>, plan: Plan) -> Result<()> {
        let _changing = self.begin(|| "begin a rollout".into())?;
        if let Some(going) = &*lock(&self.rollout) {
            return Err(self.is_rolled_out(going.version, "one rollout at a time; ABORT it first"));
        }
        let newest = self.registry.list().last().map(|m| m.version);
        let Some(version) = version.or(newest) else { return Err(self.registry.no_such_version(0)) };
        let meta = self.registry.meta(version)?;
        let Live::Pinned(live) = self.registry.live() else {
            return Err(Error::conflict(format!(
                "model '{0}' serves the newest weights as they are learned, and a rollout compares with a version that \
                 stays; make one live first: tidemill models rollback {0}@VERSION",
                self.model
            )));
        };
        if live == version {
            return Err(Error::conflict(format!("version {version} of model '{}' is live already", self.model)));
        }
        let loaded = self.ready(&self.registry.load(version)?, version, meta.mini_batch)?;
        let rolled_out = RolledOut { version, plan: plan.clone(), stage: 0 };
        let split = weights(plan.stages[0]);
        self.registry.reroute(|routing| {
            routing.labels.insert(CANARY.into(), version);
            routing.split = split;
            routing.rollout = Some(rolled_out);
        })?;
        self.live.reroute(|routes| _ = routes.labels.insert(CANARY.into(), loaded.clone()));
        self.go_on(version, plan, 0)
    }

    /// Ends the rollout that is going on: the live version answers everybody.
    pub fn abort(&self) -> Result<()> {
        let _changing = self.begin(|| "end the rollout".into())?;
        if lock(&self.rollout).is_none() {
            return Err(Error::not_found(format!("model '{}' has no rollout to end", self.model)));
        }
        self.end_by_hand("an operator ended the rollout")
    }

    /// The trial, the split and the thread of a rollout that has its label.
    fn go_on(self: &Arc<Self>, version: u64, plan: Plan, stage: usize) -> Result<()> {
        let loaded = self.live.pick(crate::live::Which::Label(CANARY))?;
        let trial = Trial::start(loaded, Some(&plan.guards))?;
        let judge = Judge::new(plan, stage, self.elapsed_ms());
        let split = Split::new(&self.model, &weights(judge.share()))?;
        self.live.reroute(|routes| {
            routes.trials.push(trial.clone());
            routes.split.clone_from(&split);
        });
        let number = self.operations.fetch_add(1, Relaxed) + 1;
        *lock(&self.rollout) = Some(Going { version, judge, trial, waits_for: "begins".into(), number });
        let versions = Arc::downgrade(self);
        thread::Builder::new()
            .name("tidemill-rollout".into())
            .spawn(move || keep_looking(&versions, number))
            .map_err(|e| Error::unavailable(format!("start a thread for the rollout: {e}")))?;
        Ok(())
    }

    /// Looks at the rollout once and does what follows. `false`: there is none (any more).
    fn look(&self, number: u64) -> bool {
        let decision = {
            let mut rollout = lock(&self.rollout);
            let Some(going) = rollout.as_mut().filter(|going| going.number == number) else { return false };
            let decision = going.judge.look(self.elapsed_ms(), &going.trial.figures());
            if let Decision::Wait(what) = &decision {
                going.waits_for.clone_from(what);
                return true;
            }
            (going.version, going.judge.stage(), decision)
        };
        // Somebody may be changing things by hand; then the next look finds what is left to do.
        let Ok(_changing) = self.begin(|| "follow the rollout".into()) else { return true };
        if lock(&self.rollout).as_ref().is_none_or(|going| going.number != number) {
            return false;
        }
        let (version, stage, decision) = decision;
        let done = match decision {
            Decision::Wait(_) => Ok(()),
            Decision::Advance(_) | Decision::Finish if let Some(why) = self.why_cold() => {
                self.end_rollout(version, Outcome::RolledBack, why)
            }
            Decision::Advance(share) => self.advance(stage, share),
            Decision::Finish => self.finish(version),
            Decision::RollBack(why) => self.end_rollout(version, Outcome::RolledBack, why),
        };
        if let Err(e) = done {
            // The disk is full, say. What requests see was changed already where that was urgent; it is tried again.
            if let Some(going) = &mut *lock(&self.rollout) {
                going.waits_for = e.message().to_string();
            }
        }
        lock(&self.rollout).is_some()
    }

    fn advance(&self, stage: usize, share: f64) -> Result<()> {
        let split = Split::new(&self.model, &weights(share))?;
        self.live.reroute(|routes| routes.split.clone_from(&split));
        self.registry.reroute(|routing| {
            routing.split = weights(share);
            routing.rollout.iter_mut().for_each(|r| r.stage = stage);
        })
    }

    fn finish(&self, version: u64) -> Result<()> {
        self.registry.rollback(version)?;
        self.live.reroute(|routes| routes.pinned = routes.labels.get(CANARY).cloned().or(routes.pinned.clone()));
        self.end_rollout(version, Outcome::Promoted, "it passed every stage".into())
    }

    fn end_by_hand(&self, why: &str) -> Result<()> {
        let version = lock(&self.rollout).as_ref().map(|going| going.version);
        version.map_or(Ok(()), |version| self.end_rollout(version, Outcome::Ended, why.into()))
    }

    /// The live version answers everybody, at once; then that is written down with the reason.
    fn end_rollout(&self, version: u64, outcome: Outcome, reason: String) -> Result<()> {
        let trial = lock(&self.rollout).take().map(|going| going.trial);
        self.live.reroute(|routes| {
            routes.split = None;
            routes.labels.remove(CANARY);
            routes.trials.retain(|t| !trial.as_ref().is_some_and(|ended| Arc::ptr_eq(t, ended)));
        });
        self.ended.notify_all();
        let verdict = Verdict { at_ms: self.clock.wall_ms(), version, outcome, reason };
        let written = self.registry.reroute(|routing| {
            routing.labels.remove(CANARY);
            routing.split.clear();
            routing.rollout = None;
            routing.tell(verdict);
        });
        if let Err(e) = &written {
            let what = "a rollout has ended, but that could not be written down and a restart would go on with it";
            lock(&self.troubles).push(format!("{what}: {}", e.message()));
        }
        written
    }

    /// The trial of what the label `shadow` points at, if it points anywhere.
    fn show_shadow(&self) -> Result<()> {
        let labelled = self.live.routes().labels.get(SHADOW).cloned();
        let rollout = lock(&self.rollout).as_ref().map(|going| going.trial.clone());
        let shadow = labelled.map(|labelled| Trial::start(labelled, None)).transpose()?;
        self.live.reroute(|routes| routes.trials = shadow.iter().chain(&rollout).cloned().collect());
        Ok(())
    }

    /// A version that may take traffic: it has answered the last live requests.
    fn ready(&self, snapshot: &Snapshot, version: u64, mini_batch: u64) -> Result<Arc<ServedVersion>> {
        let loaded = Arc::new(served(snapshot, version, mini_batch));
        self.warm_up(&loaded).map(|()| loaded)
    }

    fn warm_up(&self, loaded: &ServedVersion) -> Result<()> {
        let replayed = self.recent.replay(&loaded.weights).map(drop);
        replayed.map_err(|e| e.at(format_args!("version {} of model '{}'", loaded.version, self.model)))
    }

    /// Why the version on trial must not get a larger share: requests that others made meanwhile it cannot answer.
    fn why_cold(&self) -> Option<String> {
        let routes = self.live.routes();
        let failed = routes.labels.get(CANARY).map(|canary| self.warm_up(canary))?.err()?;
        Some(format!("{WARM_UP}: {}", failed.message()))
    }

    fn load(&self, version: u64) -> Result<Arc<ServedVersion>> {
        let meta = self.registry.meta(version)?;
        Ok(Arc::new(served(&self.registry.load(version)?, version, meta.mini_batch)))
    }

    fn refuse_in_rollout(&self, label: &str) -> Result<()> {
        match &*lock(&self.rollout) {
            Some(going) if label == CANARY => Err(self.is_rolled_out(going.version, "the label 'canary' is its own")),
            _ => Ok(()),
        }
    }

    fn is_rolled_out(&self, version: u64, why: &str) -> Error {
        Error::conflict(format!("version {version} of model '{}' is being rolled out: {why}", self.model))
    }

    fn begin(&self, what: impl FnOnce() -> String) -> Result<Changing<'_>> {
        let mut changing = lock(&self.changing);
        if let Some(Operation { number, what }) = &*changing {
            return Err(Error::conflict(format!(
                "operation {number} ({what}) of model '{}' is in progress; try again when it has ended",
                self.model
            )));
        }
        let number = self.operations.fetch_add(1, Relaxed) + 1;
        *changing = Some(Operation { number, what: what() });
        Ok(Changing(self))
    }

    fn elapsed_ms(&self) -> i64 {
        self.clock.elapsed().as_millis() as i64
    }
}

/// Looks again and again, until the rollout has ended or the model is not served any more.
fn keep_looking(versions: &Weak<Versions>, number: u64) {
    while let Some(versions) = versions.upgrade() {
        let rollout = lock(&versions.rollout);
        // Woken early only by an end; what is found then is looked at all the same.
        let waited = versions.ended.wait_timeout(rollout, LOOK_EVERY);
        drop(waited);
        if !versions.look(number) {
            return;
        }
    }
}

/// Percentages of a rollout's stage.
fn weights(share: f64) -> Vec<(String, f64)> {
    // In hundredths, so that they sum to 100 exactly.
    let hundredths = (share * 100.0).round();
    vec![("live".into(), (10_000.0 - hundredths) / 100.0), (CANARY.into(), hundredths / 100.0)]
}

fn served(snapshot: &Snapshot, version: u64, mini_batch: u64) -> ServedVersion {
    ServedVersion { weights: WeightTable::from_snapshot(snapshot), version, mini_batch, sequence: snapshot.sequence }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {

    use super::*;

    /// B70: whoever comes while another changes what answers is told which change that is; afterwards he is not.
    #[test]
    fn a_change_in_progress_is_named() {
        let dir = std::env::temp_dir().join(format!("tidemill-serve-changing-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let registry = Arc::new(Registry::open("ctr", &dir).unwrap());
        let live = Arc::new(LiveModel::open(&Snapshot::default(), 0, 0));
        let versions = Versions::open("ctr", live, registry, Arc::default()).unwrap();
        let changing = versions.begin(|| "roll back to 7".into()).unwrap();
        let refused = [
            versions.promote(),
            versions.rollback(8),
            versions.set_label("canary", 8),
            versions.remove_label("canary"),
            versions.split(&[("live".into(), 100.0)]),
            versions.roll_out(None, Plan::parse(&[]).unwrap()),
            versions.abort(),
        ];
        let message = "operation 1 (roll back to 7) of model 'ctr' is in progress; try again when it has ended";
        for refused in refused.map(Result::unwrap_err) {
            assert_eq!((refused.kind(), refused.message()), (Kind::Conflict, message));
        }
        drop(changing);
        versions.promote().unwrap();
        let none = versions.roll_out(None, Plan::parse(&[]).unwrap()).unwrap_err();
        assert_eq!((none.kind(), none.message()), (Kind::NotFound, "model 'ctr' has no version yet"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
