//! A process that ends itself at a chosen access to its disk, as if it were killed there: for tests of what is left.
//!
//! In: `TIDEMILL_FAILPOINT=PART:N` in the environment, and the data directory. At the `N`th access to a path that holds `PART`
//! the process is gone: no destructor runs and nothing is flushed; of a write that is due at that moment a half arrives.
//! Nothing is synced then, which a killed process cannot tell. `TIDEMILL_FAILPOINT_MODEL=NAME:N` lets a model panic that
//! learns beside others, with the first samples from mini-batch `N` on. Without the variables none of this is there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tidemill_base::{
    Error, Result,
    store::disk::{self, Access, Faults, Injected},
};

const VARIABLE: &str = "TIDEMILL_FAILPOINT";
const OF_MODEL: &str = "TIDEMILL_FAILPOINT_MODEL";

/// The model that is to panic, and when.
static PANICS: OnceLock<Option<(String, u64)>> = OnceLock::new();

struct Failpoint {
    part: String,
    left: AtomicU64,
    /// Whether the next access is the last.
    is_due: std::sync::atomic::AtomicBool,
    /// Files by their number.
    files: Mutex<Vec<PathBuf>>,
}

/// Arms what the environment asks for, until it is dropped.
#[expect(clippy::disallowed_methods, reason = "the environment is read on floor 3")]
pub fn arm(data_dir: &Path) -> Result<Option<Injected>> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(None) };
    let parsed = text.rsplit_once(':').and_then(|(part, n)| Some((part.to_string(), n.parse().ok()?)));
    let (part, n) = parsed
        .filter(|(_, n)| *n > 0)
        .ok_or_else(|| Error::invalid(format!("{VARIABLE}: '{text}' is not PART:N, for example checkpoints:7")))?;
    let failpoint = Failpoint { part, left: AtomicU64::new(n), is_due: Default::default(), files: Mutex::default() };
    Ok(Some(disk::inject(data_dir, std::sync::Arc::new(failpoint))))
}

/// Panics where this is the model that was asked for, from its mini-batch on.
pub fn may_panic(model: &str, mini_batch: u64) {
    if let Some((name, at)) = PANICS.get_or_init(panics)
        && name == model
        && *at <= mini_batch
    {
        panic!("{OF_MODEL} asked for it at mini-batch {mini_batch}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the environment is read on floor 3")]
fn panics() -> Option<(String, u64)> {
    let text = std::env::var(OF_MODEL).ok()?;
    let (name, at) = text.rsplit_once(':')?;
    Some((name.to_string(), at.parse().ok()?))
}

impl Faults for Failpoint {
    fn access(&self, access: Access) -> io::Result<u64> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let path = match access {
            Access::Open { path, .. } => path.to_path_buf(),
            Access::Write { file, .. } | Access::SetLen { file, .. } | Access::Sync { file } => {
                files[file as usize].clone()
            }
            Access::Link(_, to) | Access::Rename(_, to) => to.to_path_buf(),
            Access::SyncDir(path) | Access::MakeDir(path) | Access::Remove(path) | Access::RemoveDir(path) => {
                path.to_path_buf()
            }
        };
        let is_meant = path.to_string_lossy().contains(&self.part);
        if self.is_due.load(Ordering::SeqCst) || (is_meant && self.left.fetch_sub(1, Ordering::SeqCst) == 1) {
            match access {
                // A half of it is on its way; the other half is the next access.
                Access::Write { bytes, .. } if bytes.len() > 1 && !self.is_due.swap(true, Ordering::SeqCst) => {
                    return Ok(bytes.len() as u64 / 2);
                }
                _ => std::process::abort(),
            }
        }
        match access {
            Access::Open { .. } => {
                files.push(path);
                Ok(files.len() as u64 - 1)
            }
            Access::Write { bytes, .. } => Ok(bytes.len() as u64),
            _ => Ok(0),
        }
    }
}
