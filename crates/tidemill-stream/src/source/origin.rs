//! Where a partition's stored bytes are: in a file, or in an object of a store.
//!
//! In: a path or an object. Out: an open [`Stored`], which reads and seeks, and errors that name the place. What an object's
//! store says of a failure comes out as it was said, through whatever decoder it went.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tidemill_base::{Error, Result};

use super::{
    compress::open_file,
    object::{Object, ObjectReader},
    print::{self, Print},
};

/// A place of stored bytes.
#[derive(Clone)]
pub(super) enum Origin {
    File(PathBuf),
    Object(Arc<dyn Object>, Failure),
}

/// What an object's reader failed with last.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    pub fn keep(&self, e: Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Stored bytes, open.
pub(super) enum Stored {
    File(File),
    Object(ObjectReader),
}

impl Origin {
    pub fn object(object: Arc<dyn Object>) -> Self {
        Self::Object(object, Failure::default())
    }

    /// The path, or the address.
    pub fn name(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Object(object, _) => Path::new(object.name()),
        }
    }

    /// How its name ends.
    pub fn extension(&self) -> Option<&str> {
        self.name().extension().and_then(|e| e.to_str())
    }

    /// Whether it is in a store.
    pub fn is_object(&self) -> bool {
        matches!(self, Self::Object(..))
    }

    /// Whether the name says that it is compressed.
    pub fn is_compressed(&self) -> bool {
        matches!(self.extension(), Some("gz" | "zst"))
    }

    /// Opens it at its first byte.
    pub fn open(&self) -> Result<Stored> {
        match self {
            Self::File(path) => open_file(path).map(Stored::File),
            Self::Object(object, failure) => Ok(Stored::Object(ObjectReader::new(object.clone(), failure.clone()))),
        }
    }

    /// What to say of an error that came out of reading it.
    pub fn io(&self, what: &str, e: io::Error) -> Error {
        self.failure().unwrap_or_else(|| Error::io(what, self.name(), e))
    }

    /// What the store said last, if there is one, where a decoder has made another error of it.
    pub fn or_failure(&self, e: Error) -> Error {
        self.failure().unwrap_or(e)
    }

    fn failure(&self) -> Option<Error> {
        match self {
            Self::File(_) => None,
            Self::Object(_, failure) => failure.take(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().display().fmt(f)
    }
}

impl Stored {
    /// How many bytes there are now.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Object(object) => Ok(object.len()),
        }
    }

    /// The print of the first `bytes` bytes, `None`: of all of them. Of an object it is the store's, of all of them.
    pub fn print(&self, origin: &Origin, bytes: Option<u64>) -> Result<Option<Print>> {
        match (self, origin) {
            (Self::File(file), _) => print::of(file, origin.name(), bytes).map(Some),
            (Self::Object(_), Origin::Object(object, _)) => Ok(object.print()),
            (Self::Object(_), Origin::File(_)) => Ok(None),
        }
    }
}

impl Read for Stored {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(out),
            Self::Object(object) => object.read(out),
        }
    }
}

impl Seek for Stored {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Object(object) => object.seek(to),
        }
    }
}
