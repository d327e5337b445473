//! The stream as judge of versions: what served versions predict for samples that are not learned yet.
//!
//! In: each mini-batch's features before the learner has it, and the labels that became final. Out: pairs of losses, for
//! every version on trial beside the live one, and for the newest weights where an earlier version is live. Nothing that is
//! learned depends on it; where no version is on trial and none is pinned it costs one look.

use std::sync::Arc;

use tidemill_model::Features;
use tidemill_serve::{
    live::LiveModel,
    rollout::figures::Quality,
    trial::{LASTING_SAMPLES_MAX, Pairs},
};
use tidemill_stream::join::{Matured, SampleKind};

/// Compares versions by the samples of one stream.
pub struct Compare {
    live: Arc<LiveModel>,
    /// The newest weights beside the live version, while that is another; and which that is.
    newest: Option<(u64, Pairs)>,
    quality: Quality,
}

impl Compare {
    /// Compares the versions that `live` serves.
    pub fn new(live: Arc<LiveModel>) -> Self {
        Self { live, newest: None, quality: Quality::default() }
    }

    /// Takes samples that are to be learned next, and labels that are final.
    pub fn before_learning(&mut self, features: &Features, kinds: &[SampleKind], seqs: &[u64], matured: &[Matured]) {
        let routes = self.live.routes();
        if routes.trials.is_empty() && routes.pinned.is_none() {
            self.newest = None;
            return;
        }
        let is_first =
            |kind: &SampleKind| matches!(kind, SampleKind::Final | SampleKind::Early | SampleKind::Unlearned);
        let numbers =
            || kinds.iter().zip(seqs).enumerate().filter(|(_, (k, _))| is_first(k)).map(|(i, (_, s))| (i, *s));
        let labels = || matured.iter().map(|m| (m.seq, m.label));
        let live = self.live.read();
        for trial in &routes.trials {
            trial.predict(&live, features, numbers());
            trial.mature(labels());
        }
        let Some(pinned) = &routes.pinned else {
            self.newest = None;
            return;
        };
        if self.newest.as_ref().is_none_or(|(version, _)| *version != pinned.version) {
            // Nothing is tolerated here: what is, the gate knows.
            self.newest = Some((pinned.version, Pairs::new(pinned.weights.loss(), LASTING_SAMPLES_MAX, 1.0, 1.0)));
            self.quality = Quality::default();
        }
        if let Some((_, pairs)) = &mut self.newest {
            pairs.predict(&pinned.weights, &self.live.newest().weights, features, numbers());
            pairs.mature(labels(), &mut self.quality);
        }
    }

    /// How the newest weights did beside the live version since the last look, where that is another. The next look begins
    /// anew.
    pub fn take_quality(&mut self) -> Option<Quality> {
        self.newest.as_ref().map(|_| std::mem::take(&mut self.quality))
    }
}
