//! Rolling a version out by stages, and back at once when it is worse.
//!
//! [`plan`] is what was asked for, [`figures`] what is known, [`judge`] what follows from it: pure functions of values,
//! tested without threads. [`sequential`], [`mann_whitney`] and [`drift`] are the statistics they stand on.

pub mod drift;
pub mod figures;
pub mod judge;
pub mod mann_whitney;
pub mod plan;
pub mod sequential;

pub use figures::Figures;
pub use judge::{Decision, Guarded, Judge};
pub use plan::{Guards, Plan, ROLLOUT_ATTRIBUTES};
