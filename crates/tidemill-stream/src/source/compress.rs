//! The bytes of a file, decompressed when its name says so.
//!
//! In: a path or an object. Out: uncompressed bytes, and a way to go to one of them. `.gz` and `.zst` are told by the extension; a
//! plain name with compressed bytes behind it is refused, because every row of it would be.

use std::{
    fs::{self, File},
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use tidemill_base::{Error, Kind, Result};

use super::{
    origin::{Origin, Stored},
    print::Print,
};

const BUFFER_BYTES: usize = 1 << 17;

/// An open file or object whose uncompressed bytes are read in order.
pub(super) struct Bytes {
    origin: Origin,
    from: From,
    /// Uncompressed bytes handed out.
    at: u64,
}

enum From {
    Plain(Stored),
    Gzip(Box<MultiGzDecoder<BufReader<Stored>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Stored>>>),
}

impl Bytes {
    /// Opens the file at its first byte.
    pub(super) fn open(origin: Origin) -> Result<Self> {
        let mut file = origin.open()?;
        let from = match origin.extension() {
            Some("gz") => From::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, file)))),
            Some("zst") => {
                let decoder = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER_BYTES, file));
                From::Zstd(Box::new(decoder.map_err(|e| origin.io("decompress", e))?))
            }
            _ => {
                check_plain(&origin, &mut file)?;
                From::Plain(file)
            }
        };
        Ok(Self { origin, from, at: 0 })
    }

    /// Fills `out` from its start; 0 at the end of what is there now.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        loop {
            let read = match &mut self.from {
                From::Plain(file) => file.read(out),
                From::Gzip(decoder) => decoder.read(out),
                From::Zstd(decoder) => decoder.read(out),
            };
            match read {
                Ok(n) => {
                    self.at += n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.damaged(e)),
            }
        }
    }

    /// Goes to an uncompressed byte; `false` when the file ends before it.
    pub(super) fn seek(&mut self, to: u64) -> Result<bool> {
        if let From::Plain(file) = &mut self.from {
            let len = file.len().map_err(|e| self.origin.io("stat", e))?;
            file.seek(SeekFrom::Start(to)).map_err(|e| self.origin.io("seek in", e))?;
            self.at = to;
            return Ok(to <= len);
        }
        // Compressed bytes have no places: decompress again and throw away what comes before.
        if to < self.at {
            *self = Self::open(self.origin.clone())?;
        }
        let mut scratch = vec![0; BUFFER_BYTES];
        while self.at < to {
            let n = scratch.len().min((to - self.at) as usize);
            if self.read(&mut scratch[..n])? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the file has become shorter than what was read of it.
    pub(super) fn was_cut(&self) -> Result<bool> {
        match &self.from {
            From::Plain(file) => Ok(file.len().map_err(|e| self.origin.io("stat", e))? < self.at),
            _ => Ok(false),
        }
    }

    /// The print of the first `bytes` stored bytes, or of all of them.
    pub(super) fn print(&self, bytes: Option<u64>) -> Result<Option<Print>> {
        let file = match &self.from {
            From::Plain(file) => file,
            From::Gzip(decoder) => decoder.get_ref().get_ref(),
            From::Zstd(decoder) => decoder.get_ref().get_ref(),
        };
        file.print(&self.origin, bytes)
    }

    /// Whether its bytes are those that are stored.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.from, From::Plain(_))
    }

    /// Where they are.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    fn damaged(&self, e: std::io::Error) -> Error {
        let (origin, at) = (&self.origin, self.at);
        let format = match self.from {
            From::Plain(_) => return origin.io("read", e),
            From::Gzip(_) => "gzip",
            From::Zstd(_) => "zstd",
        };
        // Errors of the disk carry a number of the operating system; those of a decoder do not.
        if e.raw_os_error().is_some() {
            return origin.io("read", e);
        }
        let damage = format!("{origin}: not valid {format} behind uncompressed byte {at}: {e}");
        origin.or_failure(Error::new(Kind::Corrupt, damage))
    }
}

/// Opens a file for reading; a directory, a pipe or a device is refused here, with advice.
pub(super) fn open_file(path: &Path) -> Result<File> {
    // Before it is opened: opening a pipe that nobody writes to would wait for ever.
    let kind = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
    if kind.is_file() {
        return File::open(path).map_err(|e| Error::io("open", path, e));
    }
    let path = path.display();
    Err(Error::invalid(match kind.is_dir() {
        true => format!("{path} is a directory; name its files, for example '{path}/*.csv'"),
        false => format!(
            "{path} is not a regular file; what cannot be read again from any place is pushed over HTTP, \
             or written to a file first"
        ),
    }))
}

/// Refuses plain names over bytes that are no text at all.
fn check_plain(path: &Origin, file: &mut Stored) -> Result<()> {
    let mut head = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut head).map_err(|e| path.io("read", e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| path.io("seek in", e))?;
    let advice = match head.as_slice() {
        [0x1f, 0x8b, ..] => format!("holds gzip; name it '{path}.gz'"),
        [0x28, 0xb5, 0x2f, 0xfd] => format!("holds zstd; name it '{path}.zst'"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "is UTF-16 text; convert it to UTF-8".to_string(),
        b"PAR1" => "is a Parquet file; write format = 'parquet'".to_string(),
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("{path} {advice}")))
}
