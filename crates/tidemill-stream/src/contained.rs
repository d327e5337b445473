//! Calls into libraries that read what lies on disks.
//!
//! In: a call. Out: what it gives. Where a library has not checked what it reads and panics over it, that is damage of the
//! file, told with its place as any other damage is, and no end of whoever reads it.

use std::fmt::Display;

use tidemill_base::{Error, Result};

/// Runs what may panic over damaged bytes of `place`. What it worked on is not to be used after an error.
pub(crate) fn contained<T>(place: &dyn Display, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let damage = || Error::corrupt(format!("{place} cannot be read: its parts contradict each other"));
    tidemill_base::contained::contained(run).unwrap_or_else(|| Err(damage()))
}
