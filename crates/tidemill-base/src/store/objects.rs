//! A store of whole objects, as the protocol behind a directory ([`super::bucket`]) needs it: names, bytes, and one thing
//! that must be atomic.
//!
//! In: names and bytes. Out: what stands in the store. An object is there whole or not at all; of two that put one name at
//! once, [`Objects::put_if_absent`] lets one through; who reads or lists behind a put sees it. Calls wait for their answer. [`Memory`] is
//! such a store for tests and simulations.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Error, Result};

/// A store of objects. Errors say by their kind what to do: `Conflict` (only of [`Objects::put_if_absent`]) there is an object
/// of this name; `NotFound` there is none; everything else may be over when it is tried again, though for wrong credentials
/// somebody has to mend them first.
pub trait Objects: Send + Sync {
    /// What people call it: `s3://bucket/prefix`.
    fn name(&self) -> String;

    /// Puts an object unless there is one of that name.
    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<()>;

    /// Puts bytes of a file as an object, in several requests where there are many. Nothing is seen of it before all is there.
    fn put_file(&self, key: &str, path: &Path, range: Range) -> Result<()>;

    /// An object's bytes.
    fn get(&self, key: &str) -> Result<Vec<u8>>;

    /// Several objects, in this order.
    fn get_all(&self, keys: &[String]) -> Result<Vec<Vec<u8>>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// An object's bytes on their way to somewhere else.
    fn get_into(&self, key: &str, out: &mut dyn Write) -> Result<()>;

    /// Names that begin so, in ascending order.
    fn list(&self, prefix: &str) -> Result<Vec<String>>;

    /// Removes objects; those that are not there are no error.
    fn delete(&self, keys: &[String]) -> Result<()>;
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub from: u64,
    /// How many.
    pub bytes: u64,
}

impl Range {
    /// Hands the bytes out piece by piece; fails where the file ends before them.
    pub fn read(&self, path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let failed = |e| Error::io("read", path, e);
        let mut file = File::open(path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.from)).map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES.min(self.bytes as usize)];
        let mut left = self.bytes;
        while left > 0 {
            let bytes = PIECE_BYTES.min(left as usize);
            file.read_exact(&mut piece[..bytes]).map_err(failed)?;
            each(&piece[..bytes])?;
            left -= bytes as u64;
        }
        Ok(())
    }
}

/// Bytes of a file that are held at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A store in memory, for tests and simulations. It can be away, and answers of it can get lost.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    trouble: Mutex<Option<Trouble>>,
}

/// What is asked before each call of a [`Memory`]: how it goes. The number is the call's, the name what it is about.
pub type Trouble = Box<dyn FnMut(&str) -> Answer + Send>;

/// How a call of a [`Memory`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done and said so.
    Done,
    /// It is not done.
    Away,
    /// It is done, and nobody hears of it.
    Lost,
}

impl Memory {
    /// Asks `trouble` before each call that changes something or reads.
    pub fn troubled(trouble: Trouble) -> Self {
        Self { trouble: Mutex::new(Some(trouble)), ..Self::default() }
    }

    /// Asks this one from now on; `None`: every call is done.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// All that stands in it.
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }

    /// Puts an object as somebody else would.
    pub fn overwrite(&self, key: &str, bytes: &[u8]) {
        self.objects().insert(key.into(), bytes.to_vec());
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, key: &str, act: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> Result<T>) -> Result<T> {
        let answer = {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.as_mut().map_or(Answer::Done, |trouble| trouble(key))
        };
        let away = || Err(Error::unavailable("the store in memory does not answer"));
        match answer {
            Answer::Done => act(&mut self.objects()),
            Answer::Away => away(),
            Answer::Lost => act(&mut self.objects()).and_then(|_| away()),
        }
    }
}

impl Objects for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.call(key, |objects| match objects.contains_key(key) {
            true => Err(Error::conflict(format!("{key} is there already"))),
            false => {
                objects.insert(key.into(), bytes.to_vec());
                Ok(())
            }
        })
    }

    fn put_file(&self, key: &str, path: &Path, range: Range) -> Result<()> {
        let mut all = Vec::new();
        range.read(path, |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        self.call(key, |objects| {
            objects.insert(key.into(), all);
            Ok(())
        })
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.call(key, |objects| objects.get(key).cloned().ok_or_else(|| Error::not_found(format!("no object {key}"))))
    }

    fn get_into(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        let bytes = self.get(key)?;
        out.write_all(&bytes).map_err(|e| Error::unavailable(format!("{key}: {e}")))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        self.call(prefix, |objects| Ok(objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()))
    }

    fn delete(&self, keys: &[String]) -> Result<()> {
        keys.iter().try_for_each(|key| {
            self.call(key, |objects| {
                objects.remove(key);
                Ok(())
            })
        })
    }
}
