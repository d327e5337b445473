//! The figures of a job as they were told last, in its directory: `tidemill jobs` reads them where no process answers.
//!
//! In: a status as JSON. Out: `status.json`, whole or not at all, but not synced: nothing stands on it, a restart does not
//! read it, and a disk that is full or gone is no reason to stop.

use std::{fs, path::Path};

use serde_json::Value;
use tidemill_base::{Error, Result};

const NAME: &str = "status.json";

/// Replaces what was kept.
pub(super) fn keep(job_dir: &Path, status: &Value) {
    let beside = job_dir.join("status.json.new");
    if fs::write(&beside, status.to_string()).is_ok() {
        let _ = fs::rename(&beside, job_dir.join(NAME));
    }
}

/// What was kept last, an object; `None` where nothing was.
pub fn read(job_dir: &Path) -> Result<Option<Value>> {
    let path = job_dir.join(NAME);
    match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(status) => Ok(Some(Value::Object(status))),
            Err(e) => Err(Error::corrupt(format!("{}: {e}; it comes again with the next run", path.display()))),
        },
    }
}
