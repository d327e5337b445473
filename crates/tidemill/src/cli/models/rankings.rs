//! `CREATE RANKING` and `DROP RANKING`: rankings that are kept with a model, for requests to name.
//!
//! In: a name, perhaps of one version (`feed@7`), and JSON. Out: the same kept by the process that serves the model, at once;
//! where there is none, on disk. Either way it is checked against the model's columns first.

use std::path::Path;

use tidemill_base::{Error, Kind, Result};
use tidemill_serve::server::ServedModel;

use super::exchange;

/// Keeps or forgets a ranking of a model that is open here.
pub(super) fn put(served: &ServedModel, name: &str, config: Option<&str>, replace: bool) -> Result<()> {
    let Some(config) = config else { return served.remove_ranking(name) };
    if !replace && served.rankings_to_json(Some(name)).is_ok() {
        return Err(is_there(served.name(), name));
    }
    served.put_ranking(name, config.as_bytes())
}

/// The same by the process that owns the directory.
pub(super) fn send(
    root: &Path,
    address: &str,
    model: &str,
    name: &str,
    config: Option<&str>,
    replace: bool,
) -> Result<()> {
    let path = format!("/v1/models/{model}/rankings/{name}");
    let Some(config) = config else { return exchange(root, address, "DELETE", &path, "").map(drop) };
    if !replace {
        match exchange(root, address, "GET", &path, "") {
            Ok(_) => return Err(is_there(model, name)),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    exchange(root, address, "PUT", &path, config).map(drop)
}

fn is_there(model: &str, name: &str) -> Error {
    Error::conflict(format!(
        "model '{model}' has a ranking '{name}' already; write CREATE OR REPLACE RANKING to put this in its place"
    ))
}
