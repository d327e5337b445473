//! Floor 1: what is learned.
//!
//! [`feature`] turns columns into keyed numbers, [`params`] keeps an entry for each key, [`optimizer`] says how an entry
//! changes, [`logit`] is the one summation that training and serving share. What leaves the trainer is a [`snapshot`] or a
//! [`delta`]; [`weights`] is the table that serving reads. No clock, no thread of its own, no file: bytes in, bytes out.

mod compact;
pub mod delta;
pub mod entries;
pub mod feature;
pub mod learner;
mod lines;
pub mod loss;
pub mod math;
pub mod model;
pub mod optimizer;
pub mod params;
pub mod precision;
mod prefetch;
pub mod sampling;
pub mod simd;
pub mod snapshot;
pub mod start;
pub mod weights;

pub use delta::Delta;
pub use feature::{ColumnSpec, Extractor, Features};
pub use params::ParamTable;
pub use prefetch::prefetch;
pub use sampling::Sampling;
pub use snapshot::Snapshot;
pub use weights::WeightTable;
