//! What operators decided in the process that learns the model, taken over by one that follows it.
//!
//! In: [`Decided`], and versions that are on disk. Out: the same on disk and for requests, all at once. What one version lacks
//! holds up no other: a label whose version cannot answer is left out, as after a restart, and told to the caller, who
//! asks again.

use std::{collections::BTreeMap, sync::Arc};

use tidemill_base::{Error, Result};

use super::{Versions, lock};
use crate::{follow::decided::Decided, live::ServedVersion, registry::Live, split::Split};

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

    /// Takes over who gets which version; a rollout that is going on here ends. Where the live version cannot be had,
    /// everything stays as it was; a label whose version cannot be had is left out, and the error names it.
    pub(crate) fn adopt(&self, decided: &Decided) -> Result<()> {
        let split = match decided.split.is_empty() {
            true => None,
            false => Split::new(&self.model, &decided.split)?,
        };
        let _changing = self.begin(|| "take over what was decided where the model is learned".into())?;
        let mut left_out = Vec::new();
        let (pinned, labels) = self.registry.adopt_once(decided, || {
            let mut loaded = self.loaded();
            let mut get = |version: u64| match loaded.get(&version) {
                Some(there) => Ok(there.clone()),
                None => {
                    let meta = self.registry.meta(version)?;
                    if decided.states.get(&version).is_some_and(|state| *state != meta.state_hash) {
                        return Err(Error::conflict(format!(
                            "version {version} of model '{}' is another one here, of another history",
                            self.model
                        )));
                    }
                    let ready = self.ready(&self.registry.load(version)?, version, meta.mini_batch)?;
                    loaded.insert(version, ready.clone());
                    Ok(ready)
                }
            };
            let pinned = match decided.live {
                Live::Latest => None,
                Live::Pinned(version) => Some(get(version)?),
            };
            let mut labels = BTreeMap::new();
            for (label, version) in &decided.labels {
                match get(*version) {
                    Ok(version) => _ = labels.insert(label.clone(), version),
                    Err(e) => left_out.push(format!("label '{label}' is left out: {}", e.message())),
                }
            }
            Ok((pinned, labels))
        })?;
        if lock(&self.rollout).is_some() {
            self.end_by_hand("who gets which version was decided where the model is learned")?;
            // What ended took its label and its split along.
            self.registry.adopt_once(decided, || Ok(()))?;
        }
        self.live.reroute(|routes| {
            routes.pinned.clone_from(&pinned);
            routes.labels.clone_from(&labels);
            routes.split.clone_from(&split);
        });
        self.show_shadow()?;
        match left_out.is_empty() {
            true => Ok(()),
            false => Err(Error::conflict(left_out.join("; "))),
        }
    }

    /// Versions that answer already, by their numbers.
    fn loaded(&self) -> BTreeMap<u64, Arc<ServedVersion>> {
        let routes = self.live.routes();
        routes.pinned.iter().chain(routes.labels.values()).map(|loaded| (loaded.version, loaded.clone())).collect()
    }
}
