//! Steps 5 to 7: samples in, parameters and versions out.
//!
//! [`spec`] holds the settings, [`update`] predicts and learns mini-batch by mini-batch on the threads of [`pool`],
//! [`validation`] scores each prediction once its label is final, [`publish`] hands out deltas and snapshots. The state is
//! a pure function of the settings and of the samples in their batches: threads, restarts and the moment of a checkpoint
//! change no bit of it.

mod attributes;
mod pool;
mod publish;
mod spec;
mod update;
mod validation;

pub use attributes::ATTRIBUTES;
pub use spec::{LEARNERS, OfSlot, TrainSpec};
pub use update::{Delayed, SampleBatch, TrainStats, Trainer, threads_beside_reading};
pub use validation::{
    CLASSES_COUNTED_MAX, ClassCount, ClassMetrics, Decile, GROUPS_MAX, GroupMetrics, Health, Metrics, OTHERS,
    RegressionMetrics, Summary, Task, Validation, WINDOW_MAX,
};
