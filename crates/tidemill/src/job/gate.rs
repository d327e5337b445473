//! What a job knows when it asks whether to publish: the samples since it last asked, and those of all that was published.
//!
//! A flood that was held does not become what is usual: only samples behind a published version count as that. After a
//! restart the usual is what the checkpoint knows.

use tidemill_serve::{
    gate::{Gate, Publication, Recent},
    rollout::figures::Quality,
};
use tidemill_train::{Metrics, Summary, TrainSpec};

/// Asks the gate for one job.
#[derive(Debug)]
pub(super) struct GateKeeper {
    gate: Gate,
    /// Sums since the beginning, at the last look.
    last: Sums,
    /// Samples and positives of what was published.
    usual: (u64, u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    samples: u64,
    positives: u64,
    predicted: f64,
}

impl GateKeeper {
    /// A gate by the settings, where `before` has been learned already.
    pub fn new(spec: &TrainSpec, before: &Metrics) -> Self {
        let gate = Gate {
            label_rate: spec.publish_label_rate,
            calibration: spec.publish_calibration,
            logloss: spec.publish_logloss,
        };
        let last = Sums::of(before);
        Self { gate, last, usual: (last.samples, last.positives) }
    }

    /// Why a version of what is learned now is held; `None`: it is not.
    pub fn why_held(&mut self, now: &Summary, beside_live: Option<&Quality>) -> Option<String> {
        if now.overall.regression.is_some() || now.overall.classes.is_some() {
            return None;
        }
        let sums = Sums::of(&now.overall);
        // Figures begin anew with each pass.
        let last = if sums.samples < self.last.samples { Sums::default() } else { self.last };
        let recent = Recent {
            samples: sums.samples - last.samples,
            positives: sums.positives - last.positives,
            predicted: sums.predicted - last.predicted,
            before: self.usual,
            one_class: now.one_class,
            beside_live,
        };
        self.last = sums;
        match self.gate.judge(&recent) {
            Publication::Hold(why) => Some(why),
            Publication::Publish => {
                self.usual = (self.usual.0 + recent.samples, self.usual.1 + recent.positives);
                None
            }
        }
    }
}

impl Sums {
    fn of(m: &Metrics) -> Self {
        let predicted = if m.samples == 0 { 0.0 } else { m.mean_prediction * m.samples as f64 };
        Self { samples: m.samples, positives: m.positives, predicted }
    }
}
