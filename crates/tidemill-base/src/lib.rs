//! Floor 0: the nouns every room shares.
//!
//! Errors, the clock, seeded random numbers, stored hashes, bytes, lengths of time, attributes, loops compiled
//! for the processor at hand, and the few ways in which this project touches a disk. Nothing here knows of events, models or SQL.

pub mod attribute;
pub mod clock;
pub mod codec;
pub mod contained;
pub mod count;
pub mod duration;
pub mod error;
pub mod hash;
pub mod rng;
pub mod scatter;
pub mod simd;
pub mod store;

pub use clock::{Clock, ManualClock, SystemClock};
pub use count::thousands;
pub use error::{Error, Kind, Result};
pub use hash::{StateHash, StateHasher, hash64, hash64_of_u64, hash128};
pub use rng::Rng;
pub use scatter::Scatter;
