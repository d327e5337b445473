//! What operators decided in the process that learns the model, taken over by one that follows it.
//!
//! In: [`Decided`], and versions that are on disk. Out: the same on disk and for requests, all at once. What one version lacks
//! holds up no other: a label whose version cannot answer is left out, as after a restart, and told to the caller, who
//! asks again.

use std::{collections::BTreeMap, sync::Arc};

use tidemill_base::{Error, Result};

use super::{Versions, lock};
use crate::{follow::decided::Decided, live::ServedVersion, registry::Live, split::Split};

/// What could not be taken over.
#[derive(Debug)]
pub struct LeftOut {
    /// The version that is missing for it, where it is that.
    pub version: Option<u64>,
    /// Why.
    pub error: Error,
}

impl Versions {
    /// What operators have decided here.
    pub(crate) fn decided(&self) -> Decided {
        let routing = self.registry.routing();
        let (live, labels, split) = (self.registry.live(), routing.labels, routing.split);
        let mut decided = Decided { live, labels, split, ..Decided::default() };
        let states = decided.versions().into_iter().filter_map(|v| Some((v, self.registry.meta(v).ok()?.state_hash)));
        decided.states = states.collect();
        decided
    }

    /// Takes over who gets which version; a rollout that is going on here ends. `before` is what was taken over last, whole.
    /// Where the live version cannot be had, everything stays as it was; a label whose version cannot be had is left out.
    pub(crate) fn adopt(&self, decided: &Decided, before: &Decided) -> std::result::Result<(), Vec<LeftOut>> {
        let mut left_out = Vec::new();
        let adopted = self.adopt_all(decided, before, &mut left_out);
        if let Err(error) = adopted
            && left_out.is_empty()
        {
            left_out.push(LeftOut { version: None, error });
        }
        if left_out.is_empty() { Ok(()) } else { Err(left_out) }
    }

    fn adopt_all(&self, decided: &Decided, before: &Decided, left_out: &mut Vec<LeftOut>) -> Result<()> {
        let split = match decided.split.is_empty() {
            true => None,
            false => Split::new(&self.model, &decided.split)?,
        };
        let _changing = self.begin(|| "take over what was decided where the model is learned".into())?;
        let mut numbers = BTreeMap::new();
        let (pinned, labels) = self.registry.adopt_once(decided, || {
            let mut ready = self.taken_over(decided, before);
            let mut get = |version: u64| -> Result<_> {
                if let Some(there) = ready.get(&version) {
                    return Ok(Arc::clone(there));
                }
                let made = self.ready_for(decided, version)?;
                ready.insert(version, made.clone());
                Ok(made)
            };
            let mut lacks = |version: u64, error: Error| left_out.push(LeftOut { version: Some(version), error });
            let pinned = match decided.live {
                Live::Latest => None,
                Live::Pinned(version) => match get(version) {
                    Ok(loaded) => Some(loaded),
                    Err(e) => {
                        let told = Error::new(e.kind(), e.message());
                        lacks(version, e);
                        return Err(told);
                    }
                },
            };
            let mut labels = BTreeMap::new();
            for (label, version) in &decided.labels {
                match get(*version) {
                    Ok(loaded) => {
                        labels.insert(label.clone(), loaded);
                        numbers.insert(label.clone(), *version);
                    }
                    Err(e) => lacks(*version, e.at(format!("label '{label}' is left out"))),
                }
            }
            Ok(((pinned, labels), numbers.clone()))
        })?;
        if lock(&self.rollout).is_some() {
            self.end_by_hand("who gets which version was decided where the model is learned")?;
            // What ended took its label and its split along.
            self.registry.adopt_once(decided, || Ok(((), numbers)))?;
        }
        self.live.reroute(|routes| {
            routes.pinned.clone_from(&pinned);
            routes.labels.clone_from(&labels);
            routes.split.clone_from(&split);
        });
        self.show_shadow()
    }

    /// A version as it was decided about, which may have this number in another history.
    fn ready_for(&self, decided: &Decided, version: u64) -> Result<Arc<ServedVersion>> {
        let meta = self.registry.meta(version)?;
        if decided.states.get(&version).is_some_and(|state| *state != meta.state_hash) {
            let model = &self.model;
            return Err(Error::conflict(format!("version {version} of model '{model}' is of another history here")));
        }
        self.ready(&self.registry.load(version)?, version, meta.mini_batch)
    }

    /// Versions that answer already and are those that were taken over before, by their numbers.
    fn taken_over(&self, decided: &Decided, before: &Decided) -> BTreeMap<u64, Arc<ServedVersion>> {
        let mut loaded = self.loaded();
        let state = |decided: &Decided, version: &u64| decided.states.get(version).copied();
        loaded.retain(|version, _| {
            state(decided, version).is_some_and(|of_it| state(before, version) == Some(of_it))
                && self.registry.meta(*version).is_ok_and(|meta| state(decided, version) == Some(meta.state_hash))
        });
        loaded
    }

    /// Versions that answer already, by their numbers.
    fn loaded(&self) -> BTreeMap<u64, Arc<ServedVersion>> {
        let routes = self.live.routes();
        routes.pinned.iter().chain(routes.labels.values()).map(|loaded| (loaded.version, loaded.clone())).collect()
    }
}
