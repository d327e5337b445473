//! Where what stands in a snapshot of format 4, and whether a page of it is what was written.
//!
//! In: the header and the bytes. Out: ranges of bytes that are there. The checksums of all pages are checked when the layout
//! is made; the pages themselves when they are read.

use std::ops::Range;

use tidemill_base::{Error, Result, hash64};

use super::{Head, damaged, read_numbers, root};
use crate::{
    entries::Entries,
    lines::{self, LINE_BYTES},
};

/// Bytes that have one checksum.
pub(crate) const PAGE_BYTES: usize = 16 << 10;

/// Ranges of bytes in a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub width: usize,
    pub entries: usize,
    pub lines: Range<usize>,
    /// Empty where an entry has one parameter: it stands beside its key.
    pub rows: Range<usize>,
    pub dense: Range<usize>,
    checks: usize,
    /// Stands for the whole content.
    pub root: u64,
    what: String,
}

impl Layout {
    pub fn of(head: &Head, bytes: &[u8], what: &str) -> Result<Self> {
        let endless = || Error::corrupt(format!("{what}: more parameters than a file can hold"));
        let mut at = head.end;
        let mut section = |count: u64, bytes_each: u64| {
            let length = count.checked_mul(bytes_each).and_then(|length| usize::try_from(length).ok());
            let end = length.and_then(|length| at.checked_add(length)).ok_or_else(endless)?;
            Ok::<_, Error>(std::mem::replace(&mut at, end)..end)
        };
        let lines = section(head.lines, LINE_BYTES as u64)?;
        let row_bytes = if head.width > 1 { head.width.checked_mul(4).ok_or_else(endless)? } else { 0 };
        let rows = section(head.entries, row_bytes)?;
        let dense = section(head.dense, 4)?;
        let pages: usize = [&lines, &rows, &dense].map(|section| section.len().div_ceil(PAGE_BYTES)).iter().sum();
        let checks = section(pages as u64, 8)?;
        let end = checks.end.checked_add(8).ok_or_else(endless)?;
        if bytes.len() != end {
            let how = if bytes.len() < end { "ends at byte" } else { "goes on behind its end at byte" };
            return Err(Error::corrupt(format!("{what}: {how} {}, it has {end}", bytes.len().min(end))));
        }
        if head.lines < lines::homes(head.entries) {
            return Err(Error::corrupt(format!("{what}: {} lines for {} entries", head.lines, head.entries)));
        }
        let told = u64::from_le_bytes(*bytes[checks.end..].first_chunk().unwrap_or(&[0; 8]));
        if told != root(head.check, &bytes[checks.clone()]) {
            return Err(damaged(what, "checksums", checks.start, end));
        }
        let (width, entries, checks) = (head.width as usize, head.entries as usize, checks.start);
        Ok(Self { width, entries, lines, rows, dense, checks, root: told, what: what.to_string() })
    }

    /// Pages of lines and rows: those that are looked at one by one.
    pub fn pages(&self) -> usize {
        self.row_page(0) + self.rows.len().div_ceil(PAGE_BYTES)
    }

    /// The page of a byte of the rows.
    #[inline(always)]
    pub fn row_page(&self, byte: usize) -> usize {
        self.lines.len().div_ceil(PAGE_BYTES) + byte / PAGE_BYTES
    }

    /// Whether a page is what was written; the error names it.
    pub fn check(&self, bytes: &[u8], page: usize) -> Result<()> {
        let of_lines = self.row_page(0);
        let of_both = self.pages();
        let (section, name, first) = match page {
            _ if page < of_lines => (&self.lines, "lines", 0),
            _ if page < of_both => (&self.rows, "rows", of_lines),
            _ => (&self.dense, "dense parameters", of_both),
        };
        let from = section.start + (page - first) * PAGE_BYTES;
        let to = (from + PAGE_BYTES).min(section.end);
        let told = bytes[self.checks + page * 8..].first_chunk().map(|check| u64::from_le_bytes(*check));
        match told == Some(hash64(&bytes[from..to], 0)) {
            true => Ok(()),
            false => Err(damaged(&self.what, name, from, to)),
        }
    }

    /// Dense parameters, checked.
    pub fn read_dense(&self, bytes: &[u8]) -> Result<Vec<f32>> {
        let first = self.pages();
        (0..self.dense.len().div_ceil(PAGE_BYTES)).try_for_each(|page| self.check(bytes, first + page))?;
        Ok(read_numbers(&bytes[self.dense.clone()]))
    }

    /// All parameters, checked.
    pub fn read(&self, bytes: &[u8]) -> Result<(Entries, Vec<f32>)> {
        (0..self.pages()).try_for_each(|page| self.check(bytes, page))?;
        let lines = bytes[self.lines.clone()].as_chunks::<LINE_BYTES>().0;
        let mut keys = Vec::with_capacity(self.entries);
        let mut words = Vec::with_capacity(if self.width == 1 { self.entries } else { 0 });
        for (i, (key, word)) in lines.iter().flat_map(lines::entries).enumerate() {
            keys.push(key);
            match self.width {
                1 => words.push(f32::from_bits(word)),
                _ if word as usize != i => {
                    return Err(Error::corrupt(format!("{}: entry {i} names row {word}", self.what)));
                }
                _ => {}
            }
        }
        if keys.len() != self.entries {
            let (there, what) = (keys.len(), &self.what);
            return Err(Error::corrupt(format!("{what}: {there} entries, it has {}", self.entries)));
        }
        let params = if self.width == 1 { words } else { read_numbers(&bytes[self.rows.clone()]) };
        Ok((Entries { width: self.width, keys, params }, self.read_dense(bytes)?))
    }
}
