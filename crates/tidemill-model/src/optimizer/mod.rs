//! How an entry changes when a gradient arrives. One file per optimizer.

pub mod ftrl;

pub use ftrl::Ftrl;
