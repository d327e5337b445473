//! Lengths in Arrow IPC, compared with what there is before anybody makes room for them.
//!
//! In: a file or an object, in either format. Out: the same bytes, or an error where a length leads out of them. The library
//! takes lengths as they stand, and what is no Arrow file at all begins with a length as well: the first four letters of a
//! text are one of a gigabyte or two.

use std::io::{self, Read, Seek, SeekFrom};

use arrow::ipc::{Block, reader::read_footer_length, root_as_footer, root_as_message};

/// What stands in front of the length of a message, since 2019.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes behind the footer: its length, and the magic.
const TRAILER_BYTES: usize = 10;

/// A stream of messages that lie within what there is.
pub(crate) struct Within<R> {
    inner: R,
    left: u64,
    next: Next,
}

/// What comes next, and how much of it has come.
enum Next {
    Length { is_continued: bool, bytes: [u8; 4], got: usize },
    Message { bytes: Vec<u8>, length: usize },
    Body { left: u64 },
}

impl Next {
    fn length(is_continued: bool) -> Self {
        Self::Length { is_continued, bytes: [0; 4], got: 0 }
    }
}

impl<R: Read> Within<R> {
    /// Of so many bytes.
    pub(crate) fn new(inner: R, bytes: u64) -> Self {
        Self { inner, left: bytes, next: Next::length(false) }
    }

    /// Takes note of bytes that go by, none of them of what comes behind [`Within::next`].
    fn pass(&mut self, some: &[u8]) -> io::Result<()> {
        self.left = self.left.saturating_sub(some.len() as u64);
        match &mut self.next {
            Next::Length { is_continued, bytes, got } => {
                bytes[*got..*got + some.len()].copy_from_slice(some);
                *got += some.len();
                if *got < bytes.len() {
                    return Ok(());
                }
                self.next = match (*bytes == CONTINUATION && !*is_continued, u32::from_le_bytes(*bytes)) {
                    (true, _) => Next::length(true),
                    (_, 0) => Next::length(false),
                    (_, length) if u64::from(length) > self.left => {
                        return Err(outside(format!("a message of {length} bytes, where {} are left", self.left)));
                    }
                    (_, length) => Next::Message { bytes: Vec::new(), length: length as usize },
                };
            }
            Next::Message { bytes, length } => {
                bytes.extend_from_slice(some);
                if bytes.len() < *length {
                    return Ok(());
                }
                // What is no message is refused by whoever reads it.
                let body = root_as_message(bytes).map_or(0, |message| message.bodyLength());
                let left = u64::try_from(body).ok().filter(|body| *body <= self.left);
                let left =
                    left.ok_or_else(|| outside(format!("data of {body} bytes, where {} are left", self.left)))?;
                self.next = if left > 0 { Next::Body { left } } else { Next::length(false) };
            }
            Next::Body { left } => {
                *left -= some.len() as u64;
                if *left == 0 {
                    self.next = Next::length(false);
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Within<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = match &self.next {
            Next::Length { bytes, got, .. } => bytes.len() - got,
            Next::Message { bytes, length } => length - bytes.len(),
            Next::Body { left } => usize::try_from(*left).unwrap_or(usize::MAX),
        };
        let most = most.min(out.len());
        let read = self.inner.read(&mut out[..most])?;
        self.pass(&out[..read])?;
        Ok(read)
    }
}

/// Checks that footer and batches of a file lie within it; what is wrong otherwise is for the library to say. The file is
/// read from its beginning afterwards.
pub(super) fn check(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<()> {
    let Some(end) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(()) };
    let mut trailer = [0; TRAILER_BYTES];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut trailer)?;
    let Ok(length) = read_footer_length(trailer) else { return file.rewind() };
    let begin = end.checked_sub(length as u64);
    let begin = begin.ok_or_else(|| outside(format!("a footer of {length} bytes in a file of {bytes}")))?;
    let mut footer = vec![0; length];
    file.seek(SeekFrom::Start(begin))?;
    file.read_exact(&mut footer)?;
    if let Ok(footer) = root_as_footer(&footer) {
        let blocks = [footer.dictionaries(), footer.recordBatches()];
        if let Some(block) = blocks.iter().flatten().flatten().find(|block| end_of(block).is_none_or(|end| end > bytes))
        {
            let (at, head, body) = (block.offset(), block.metaDataLength(), block.bodyLength());
            return Err(outside(format!("a batch at byte {at} of {head} and {body} bytes in a file of {bytes}")));
        }
    }
    file.rewind()
}

fn end_of(block: &Block) -> Option<u64> {
    let [at, head, body] = [block.offset(), block.metaDataLength().into(), block.bodyLength()];
    u64::try_from(at).ok()?.checked_add(u64::try_from(head).ok()?)?.checked_add(u64::try_from(body).ok()?)
}

fn outside(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
