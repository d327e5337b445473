//! Bytes cut into lines.
//!
//! In: uncompressed bytes. Out: rows as slices of one buffer. A row ends at a newline that is not inside quotes; `\r\n` counts
//! as one. The bytes alone decide what a row is, never how they were buffered: the longest look ahead is
//! [`ROW_BYTES_MAX`]. A row whose quotes do not fit costs its first line only: reading goes on at the next line.

use memchr::memchr;
use tidemill_base::{Error, Result};

use crate::{
    chunk::{EXCERPT_BYTES_MAX, excerpt},
    source::{ROW_BYTES_MAX, compress::Bytes, words::thousands},
};

/// What stands next in the text.
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// A line without its newline.
    Row { bytes: &'a [u8], quoted: bool },
    /// A line that is no row: why, and how it begins.
    Refused { reason: String, excerpt: String },
    /// The text ends here.
    End,
}

/// Cuts bytes into lines.
pub(super) struct LineReader {
    bytes: Bytes,
    buffer: Vec<u8>,
    /// The bytes not handed out yet are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Which byte of the text `buffer[start]` is.
    at: u64,
    /// No newline stands in `buffer[start..searched]`.
    searched: usize,
    /// The first quote at or behind `start`, if it was looked for: `end` when there is none.
    next_quote: Option<usize>,
    quoting: Option<u8>,
    /// Whether a last line without a newline is a line.
    bounded: bool,
}

impl LineReader {
    pub(super) fn new(bytes: Bytes, quoting: Option<u8>, bounded: bool) -> Self {
        let buffer = vec![0; 1 << 18];
        Self { bytes, buffer, start: 0, end: 0, at: 0, searched: 0, next_quote: None, quoting, bounded }
    }

    /// Goes to a byte of the text; `false` when it ends before.
    pub(super) fn seek(&mut self, to: u64) -> Result<bool> {
        (self.start, self.end, self.searched, self.next_quote) = (0, 0, 0, None);
        self.at = to;
        self.bytes.seek(to)
    }

    /// What the lines are cut from.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The byte of the text behind the last line.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether a last line without a newline is a line.
    pub(super) fn bounded(&self) -> bool {
        self.bounded
    }

    /// Goes to `byte` if a row can begin there: behind a newline, before one, or at the text's end.
    pub(super) fn go_to(&mut self, byte: u64) -> Result<bool> {
        if byte == 3 && self.seek(0)? {
            // Behind a byte-order mark, too.
            self.skip_byte_order_mark()?;
            if self.at == byte {
                return Ok(true);
            }
        }
        if !self.seek(byte - 1)? || !self.fill()? {
            return Ok(false);
        }
        let head = &self.buffer[..self.end];
        if head[0] != b'\n' && !matches!(head.get(1), None | Some(b'\n' | b'\r')) {
            return Ok(false);
        }
        (self.start, self.searched, self.at) = (1, 1, byte);
        Ok(true)
    }

    /// The next line.
    pub(super) fn next(&mut self) -> Result<Line<'_>> {
        loop {
            if self.at == 0 && self.start == 0 {
                self.skip_byte_order_mark()?;
            }
            let Some(newline) = self.find_newline()? else {
                return self.last_line();
            };
            // Lengths, not places: reading more moves the bytes to the buffer's front.
            let first_line = newline - self.start;
            if first_line > ROW_BYTES_MAX {
                return Ok(self.refuse(first_line, too_long()));
            }
            let Some(delimiter) = self.quoting.filter(|_| self.find_quote() < newline) else {
                return Ok(self.take(first_line, false));
            };
            let window = (self.end - self.start).min(ROW_BYTES_MAX + 1);
            let reason = match quoted_row(&self.buffer[self.start..self.start + window], delimiter) {
                Scan::Ends(len) => return Ok(self.take(len, true)),
                Scan::Behind(at) => self.behind(at),
                Scan::Open(_) if window <= ROW_BYTES_MAX && self.fill()? => continue,
                Scan::Open(_) if window <= ROW_BYTES_MAX && !self.bounded => return Ok(Line::End),
                Scan::Open(Some(at)) => self.never_closed(at),
                // The text's last row: its quotes are closed and only the newline is missing.
                Scan::Open(None) if window <= ROW_BYTES_MAX => return Ok(self.take(window, true)),
                Scan::Open(None) => too_long(),
            };
            return Ok(self.refuse(first_line, reason));
        }
    }

    /// Complete lines without quotes that are at hand, in `bytes_max` bytes at most: perhaps none.
    pub(super) fn block(&mut self, bytes_max: usize) -> &[u8] {
        // A byte-order mark may stand at the very beginning.
        if self.at == 0 && self.start == 0 {
            return &[];
        }
        let end = if self.quoting.is_some() { self.find_quote() } else { self.end };
        let text = &self.buffer[self.start..end.min(self.start + bytes_max)];
        &text[..memchr::memrchr(b'\n', text).map_or(0, |newline| newline + 1)]
    }

    /// Goes behind the first `bytes` bytes of a block: whole lines.
    pub(super) fn pass(&mut self, bytes: usize) {
        if bytes > 0 {
            self.go_behind(self.start + bytes - 1);
        }
    }

    /// What stands behind the last newline.
    fn last_line(&mut self) -> Result<Line<'_>> {
        if self.end - self.start > ROW_BYTES_MAX {
            return self.skip_too_long();
        }
        if !self.bounded || self.start == self.end {
            return Ok(Line::End);
        }
        let (len, end) = (self.end - self.start, self.end);
        let Some(delimiter) = self.quoting.filter(|_| self.find_quote() < end) else {
            return Ok(self.take(len, false));
        };
        Ok(match quoted_row(&self.buffer[self.start..end], delimiter) {
            Scan::Behind(at) => self.refuse(len, self.behind(at)),
            Scan::Open(Some(at)) => self.refuse(len, self.never_closed(at)),
            _ => self.take(len, true),
        })
    }

    fn behind(&self, at: usize) -> String {
        format!("text behind the quote closed at byte {}", thousands(self.at + at as u64))
    }

    fn never_closed(&self, at: usize) -> String {
        format!("quote opened at byte {} never closed", thousands(self.at + at as u64))
    }

    /// Hands out the next `len` bytes as a row.
    fn take(&mut self, len: usize, quoted: bool) -> Line<'_> {
        let from = self.start;
        self.go_behind(from + len);
        let bytes = &self.buffer[from..from + len];
        Line::Row { bytes: bytes.strip_suffix(b"\r").unwrap_or(bytes), quoted }
    }

    /// Hands out the next `len` bytes as no row.
    fn refuse(&mut self, len: usize, reason: String) -> Line<'_> {
        let from = self.start;
        self.go_behind(from + len);
        Line::Refused { reason, excerpt: excerpt(&self.buffer[from..from + len]) }
    }

    /// Moves on behind the newline at `end`, or to `end` when the text ends there.
    fn go_behind(&mut self, end: usize) {
        let next = (end + 1).min(self.end);
        self.at += (next - self.start) as u64;
        self.start = next;
        self.searched = next;
        self.next_quote = self.next_quote.filter(|&q| q >= next);
    }

    /// A line of more than [`ROW_BYTES_MAX`] bytes: its beginning is kept, the rest is read and thrown away.
    fn skip_too_long(&mut self) -> Result<Line<'_>> {
        let kept = excerpt(&self.buffer[self.start..self.start + EXCERPT_BYTES_MAX]);
        // Progress is kept beside the reader: in a growing file the newline may not be there yet, and then nothing has
        // happened.
        let mut skipped = (self.end - self.start) as u64;
        let block = self.buffer.len();
        loop {
            let n = self.bytes.read(&mut self.buffer[..block])?;
            if n == 0 && !self.bounded {
                let at = self.at;
                self.seek(at)?;
                return Ok(Line::End);
            }
            let newline = memchr(b'\n', &self.buffer[..n]);
            if n == 0 || newline.is_some() {
                let behind = newline.map_or(0, |i| i + 1);
                self.at += skipped + behind as u64;
                (self.start, self.end, self.searched, self.next_quote) = (behind, n, behind, None);
                return Ok(Line::Refused { reason: too_long(), excerpt: kept });
            }
            skipped += n as u64;
        }
    }

    /// The next newline, reading more until there is one; `None` at the end or behind [`ROW_BYTES_MAX`] bytes without.
    fn find_newline(&mut self) -> Result<Option<usize>> {
        loop {
            if let Some(i) = memchr(b'\n', &self.buffer[self.searched..self.end]) {
                return Ok(Some(self.searched + i));
            }
            self.searched = self.end;
            if self.end - self.start > ROW_BYTES_MAX || !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// The next quote, `end` when there is none: one search serves all lines before it.
    fn find_quote(&mut self) -> usize {
        let (from, end) = (self.start, self.end);
        *self.next_quote.get_or_insert_with(|| memchr(b'"', &self.buffer[from..end]).map_or(end, |i| from + i))
    }

    /// Reads more behind what is there; `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.searched -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            // At most twice ROW_BYTES_MAX: a longer line is thrown away, not held.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        // What was known about quotes was known about the old bytes.
        self.next_quote = None;
        let n = self.bytes.read(&mut self.buffer[self.end..])?;
        self.end += n;
        if n == 0 && !self.bounded && self.bytes.was_cut()? {
            return Err(Error::conflict(format!("{} became shorter while it was followed", self.bytes.origin())));
        }
        Ok(n > 0)
    }

    fn skip_byte_order_mark(&mut self) -> Result<()> {
        while self.end < 3 {
            if !self.fill()? {
                return Ok(());
            }
        }
        if self.buffer.starts_with(b"\xef\xbb\xbf") {
            (self.start, self.searched, self.at) = (3, 3, 3);
        }
        Ok(())
    }
}

fn too_long() -> String {
    format!("longer than {} bytes", thousands(ROW_BYTES_MAX as u64))
}

/// Where a row with quotes ends.
enum Scan {
    /// At this newline.
    Ends(usize),
    /// Not in these bytes; the place of the quote that is still open, if one is.
    Open(Option<usize>),
    /// Text stands directly behind the closing quote at this place.
    Behind(usize),
}

/// Follows RFC 4180: a quote opens at the start of a field only, `""` inside is a quote, and behind the closing one comes a
/// delimiter or the row's end.
fn quoted_row(text: &[u8], delimiter: u8) -> Scan {
    let mut i = 0;
    loop {
        // At the start of a field.
        if text.get(i) == Some(&b'"') {
            let open = i;
            i += 1;
            loop {
                match memchr(b'"', &text[i..]) {
                    None => return Scan::Open(Some(open)),
                    Some(n) => i += n + 1,
                }
                if text.get(i) != Some(&b'"') {
                    break;
                }
                i += 1;
            }
            let rest = &text[i..];
            match rest {
                [] | [b'\r'] => return Scan::Open(None),
                [b'\n', ..] => return Scan::Ends(i),
                [b'\r', b'\n', ..] => return Scan::Ends(i + 1),
                [d, ..] if *d == delimiter => i += 1,
                _ => return Scan::Behind(i - 1),
            }
            continue;
        }
        match memchr::memchr2(delimiter, b'\n', &text[i..]) {
            None => return Scan::Open(None),
            Some(n) if text[i + n] == b'\n' => return Scan::Ends(i + n),
            Some(n) => i += n + 1,
        }
    }
}
