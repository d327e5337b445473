//! One error type for the whole project: what went wrong, where, and what to do about it.
//!
//! In: the place, the value and the advice. Out: an [`Error`] whose [`Kind`] says what the caller does next.
//! Exit codes and HTTP statuses follow from the kind in one table, [`Kind::exit_code`] and [`Kind::http_status`].

use std::{error::Error as StdError, fmt, io, path::Path};

/// What the caller does next decides the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong: mend it and try again.
    Invalid,
    /// What was named does not exist, or a source holds nothing that can be used.
    NotFound,
    /// Somebody else holds it, or it has another shape than the request assumes.
    Conflict,
    /// The outside world does not answer: try again later.
    Unavailable,
    /// A bound was reached: memory, disk, a queue.
    Exhausted,
    /// Stored bytes are not what was written.
    Corrupt,
    /// Our own mistake.
    Internal,
}

impl Kind {
    /// Process exit code: 2 usage or SQL, 3 data, 4 state, 5 environment, 1 our own mistake.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Invalid => 2,
            Kind::NotFound => 3,
            Kind::Conflict | Kind::Corrupt => 4,
            Kind::Unavailable | Kind::Exhausted => 5,
        }
    }

    /// HTTP status code of the same meaning.
    pub fn http_status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::NotFound => 404,
            Kind::Conflict => 409,
            Kind::Exhausted => 429,
            Kind::Corrupt | Kind::Internal => 500,
            Kind::Unavailable => 503,
        }
    }

    /// The word that stands in `error[word]:` and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Unavailable => "unavailable",
            Kind::Exhausted => "exhausted",
            Kind::Corrupt => "corrupt",
            Kind::Internal => "internal",
        }
    }
}

/// What went wrong, where, which value, what to do; in one sentence.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident $kind:ident),*) => {$(
        #[doc = concat!("An error of [`Kind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Kind::$kind, message)
        }
    )*};
}

impl Error {
    /// An error of this kind, with a message that names the place and the way out.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    constructors!(invalid Invalid, not_found NotFound, conflict Conflict, unavailable Unavailable,
        exhausted Exhausted, corrupt Corrupt, internal Internal);

    /// The operating system's refusal, with the path it is about and what was tried ("open", "write").
    pub fn io(what: &str, path: &Path, error: io::Error) -> Self {
        use io::ErrorKind::*;
        // What a process may hold open is a bound like room on a disk: it may be there again in a moment.
        const TOO_MANY_OPEN_FILES: [i32; 2] = [23, 24];
        let kind = match error.kind() {
            _ if error.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code)) => Kind::Exhausted,
            NotFound => Kind::NotFound,
            StorageFull | QuotaExceeded | FileTooLarge | OutOfMemory => Kind::Exhausted,
            AlreadyExists => Kind::Conflict,
            InvalidData | UnexpectedEof => Kind::Corrupt,
            _ => Kind::Unavailable,
        };
        Self { kind, message: format!("{what} {}: {error}", path.display()), source: Some(Box::new(error)) }
    }

    /// Keeps the error that caused this one.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts the place in front of the message: `place: message`.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What the caller does next.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence, without the kind.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}
