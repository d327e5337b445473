//! Rankings that are kept with a model, so that requests need not send them.
//!
//! In: a name and a config as JSON. Out: the config, read and checked, for every request that begins after it was put. A
//! ranking is on disk before anybody sees it, in one file that is there whole or not at all; a request that has begun
//! keeps the one it has. A file that cannot be read costs those who ask for its ranking, nobody else. A ranking may be of one
//! version (`feed@7`): whatever that version answers under the name `feed` goes by it, so it is swapped as the version is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tidemill_base::{
    Error, Result,
    store::{atomic_file, disk},
};

use super::{Config, Known, Program, nearest, token::short};

const EXTENSION: &str = "ranking";
/// Rankings of one model.
const RANKINGS_MAX: usize = 256;
/// Bytes of a ranking.
const BYTES_MAX: usize = 64 << 10;
const NAME_MAX: usize = 64;

/// The rankings of one model.
#[derive(Debug)]
pub(crate) struct Rankings {
    model: String,
    dir: PathBuf,
    /// Held while files change, so that two writers do not meet.
    writing: Mutex<()>,
    known: ArcSwap<Table>,
}

type Table = BTreeMap<String, Kept>;

#[derive(Clone, Debug)]
enum Kept {
    Whole(Arc<Config>, Value),
    /// What is wrong with its file.
    Damaged(String),
}

impl Rankings {
    /// The rankings that lie in `dir`, which belongs to this process.
    pub fn open(model: &str, dir: &Path) -> Result<Self> {
        let mut known = Table::new();
        for entry in fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))? {
            let path = entry.map_err(|e| Error::io("read", dir, e))?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str());
            if let (Some(name), true) = (name, path.extension().is_some_and(|e| e == EXTENSION)) {
                known.insert(name.to_string(), kept(&path));
            }
        }
        let known = ArcSwap::from_pointee(known);
        Ok(Self { model: model.to_string(), dir: dir.to_path_buf(), writing: Mutex::new(()), known })
    }

    /// The ranking of this name for a version: that version's own, or else the one for all.
    pub fn get(&self, name: &str, version: u64) -> Result<Arc<Config>> {
        let table = self.known.load();
        let own = format!("{name}@{version}");
        let name = if table.contains_key(&own) { &own } else { name };
        match self.find(&table, name)? {
            Kept::Whole(config, _) => Ok(config.clone()),
            Kept::Damaged(why) => Err(self.damaged(name, why)),
        }
    }

    /// The ranking of this name, as it was put.
    pub fn to_json(&self, name: &str) -> Result<Value> {
        match self.find(&self.known.load(), name)? {
            Kept::Whole(_, written) => Ok(json!({"name": name, "ranking": written})),
            Kept::Damaged(why) => Err(self.damaged(name, why)),
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> Value {
        let one = |(name, kept): (&String, &Kept)| match kept {
            Kept::Whole(_, written) => json!({"name": name, "ranking": written}),
            Kept::Damaged(why) => json!({"name": name, "damaged": why}),
        };
        json!({"rankings": self.known.load().iter().map(one).collect::<Vec<_>>()})
    }

    /// All that are whole, as they were put.
    pub fn whole(&self) -> BTreeMap<String, Value> {
        let one = |(name, kept): (&String, &Kept)| match kept {
            Kept::Whole(_, written) => Some((name.clone(), written.clone())),
            Kept::Damaged(_) => None,
        };
        self.known.load().iter().filter_map(one).collect()
    }

    /// Keeps a ranking, in place of the one of that name. All its columns must be those of the source or have defaults: no
    /// item is there yet that could bring others.
    pub fn put(&self, name: &str, json: &[u8], known: &Known) -> Result<()> {
        check_name(name)?;
        if json.len() > BYTES_MAX {
            let message = format!("ranking '{name}': {} bytes; a ranking has at most {BYTES_MAX}", json.len());
            return Err(Error::invalid(message));
        }
        let config = Config::from_json(json)?;
        Program::compile(&config, known)?;
        let written: Value = serde_json::from_slice(json).map_err(|e| Error::invalid(format!("ranking: {e}")))?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.known.load());
        if !table.contains_key(name) && table.len() >= RANKINGS_MAX {
            let message = format!("model '{}' has {RANKINGS_MAX} rankings, the limit; delete one", self.model);
            return Err(Error::exhausted(message));
        }
        atomic_file::replace(&self.path(name), format!("{written}\n").as_bytes())?;
        table.insert(name.to_string(), Kept::Whole(Arc::new(config), written));
        self.known.store(Arc::new(table));
        Ok(())
    }

    /// Forgets a ranking.
    pub fn remove(&self, name: &str) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.known.load());
        self.find(&table, name)?;
        let path = self.path(name);
        disk::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        atomic_file::sync_parent(&path)?;
        table.remove(name);
        self.known.store(Arc::new(table));
        Ok(())
    }

    fn find<'a>(&self, table: &'a Table, name: &str) -> Result<&'a Kept> {
        table.get(name).ok_or_else(|| {
            let near = nearest(name, table.keys().map(String::as_str));
            let advice = near.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
            Error::not_found(format!("model '{}' has no ranking '{}'{advice}", self.model, short(name)))
        })
    }

    fn damaged(&self, name: &str, why: &str) -> Error {
        let model = &self.model;
        Error::corrupt(format!("{why}; PUT /v1/models/{model}/rankings/{name} puts it in order"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{EXTENSION}"))
    }
}

fn kept(path: &Path) -> Kept {
    let read = || -> Result<Kept> {
        let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let written = serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(e.to_string()).at(path.display()))?;
        let config = Config::from_value(&written).map_err(|e| e.at(path.display()))?;
        Ok(Kept::Whole(Arc::new(config), written))
    };
    read().unwrap_or_else(|e| Kept::Damaged(e.message().to_string()))
}

/// The version that a ranking of this name is of; `None`: of all.
pub(crate) fn version_of(name: &str) -> Result<Option<u64>> {
    let Some((_, version)) = name.split_once('@') else { return Ok(None) };
    let number = version.parse::<u64>().ok().filter(|number| *number > 0 && number.to_string() == version);
    let name = || short(&name.escape_default().to_string());
    let none = || Error::invalid(format!("ranking '{}': behind @ stands the number of a version", name()));
    number.ok_or_else(none).map(Some)
}

/// A name becomes a file's.
fn check_name(written: &str) -> Result<()> {
    version_of(written)?;
    let name = written.split_once('@').map_or(written, |(name, _)| name);
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if fits && !name.is_empty() && name.len() <= NAME_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "ranking '{}': a name is made of letters, digits, _ and -, at most {NAME_MAX}",
        short(&name.escape_default().to_string())
    )))
}
