//! Where what stands in a snapshot of format 4, and whether a page of it is what was written.
//!
//! In: the header and the bytes. Out: ranges of bytes that are there. The checksums of all pages are checked when the layout
//! is made; the pages themselves when they are read.

use std::ops::Range;

use tidemill_base::{Error, Result, hash64};

use super::{FORM_SHIFT, Head, damaged, read_numbers, root};
use crate::{
    compact::Form,
    entries::Entries,
    lines::{self, LINE_BYTES},
};

/// Bytes that have one checksum.
pub(crate) const PAGE_BYTES: usize = 16 << 10;

/// Forms of rows, in the order in which they stand.
const FORMS: [Form; 3] = [Form::F32, Form::F16, Form::Int8];

/// Ranges of bytes in a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub width: usize,
    pub entries: usize,
    pub lines: Range<usize>,
    /// Empty where an entry has one parameter: it stands beside its key.
    pub rows: Range<usize>,
    /// Rows of 32, 16 and 8 bits, which stand in this order.
    counts: [usize; 3],
    /// Whether words of entries say the form of their row.
    has_forms: bool,
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
        let width = if head.width > 1 {
            usize::try_from(head.width).ok().filter(|w| *w < 1 << 32).ok_or_else(endless)?
        } else {
            0
        };
        let [halves, eighths] = head.smaller;
        let plain = halves.checked_add(eighths).and_then(|smaller| head.entries.checked_sub(smaller));
        let counts = [plain.ok_or_else(endless)?, halves, eighths];
        let mut rows = section(0, 1)?;
        for (form, count) in FORMS.into_iter().zip(counts) {
            let row_bytes = if width == 0 { 0 } else { form.bytes(width) };
            rows.end = section(count, row_bytes as u64)?.end;
        }
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
        let (counts, has_forms) = (counts.map(|count| count as usize), head.format > 4);
        Ok(Self { width, entries, lines, rows, counts, has_forms, dense, checks, root: told, what: what.to_string() })
    }

    /// Bytes of the rows of 32 bits, which stand first.
    pub fn plain_rows(&self) -> Range<usize> {
        self.rows.start..self.rows.start + self.counts[0] * if self.width > 1 { self.width * 4 } else { 0 }
    }

    /// The form of the row that a word names, and where it stands among the rows' bytes; `None`: there is no such row.
    #[inline(always)]
    pub fn row(&self, word: u32) -> Option<(Form, Range<usize>)> {
        let (form, number) = match self.has_forms {
            true => (word >> FORM_SHIFT, word & ((1 << FORM_SHIFT) - 1)),
            false => (0, word),
        };
        let (form, number) = (form as usize, number as usize);
        // First, since only rows that are there are known to end within a file.
        if number >= *self.counts.get(form)? {
            return None;
        }
        let bytes_each = FORMS.map(|form| form.bytes(self.width));
        let before: usize = bytes_each.iter().zip(self.counts).take(form).map(|(bytes, count)| bytes * count).sum();
        let from = before + number * bytes_each[form];
        Some((FORMS[form], from..from + bytes_each[form]))
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

    /// What a page is of, and its bytes.
    pub fn page(&self, page: usize) -> (&'static str, Range<usize>) {
        let of_lines = self.row_page(0);
        let of_both = self.pages();
        let (section, name, first) = match page {
            _ if page < of_lines => (&self.lines, "lines", 0),
            _ if page < of_both => (&self.rows, "rows", of_lines),
            _ => (&self.dense, "dense parameters", of_both),
        };
        let from = section.start + (page - first) * PAGE_BYTES;
        (name, from..(from + PAGE_BYTES).min(section.end))
    }

    /// Whether a page is what was written; the error names it.
    pub fn check(&self, bytes: &[u8], page: usize) -> Result<()> {
        let (name, place) = self.page(page);
        let told = bytes[self.checks + page * 8..].first_chunk().map(|check| u64::from_le_bytes(*check));
        match told == Some(hash64(&bytes[place.clone()], 0)) {
            true => Ok(()),
            false => Err(damaged(&self.what, name, place.start, place.end)),
        }
    }

    /// Dense parameters, checked.
    pub fn read_dense(&self, bytes: &[u8]) -> Result<Vec<f32>> {
        let first = self.pages();
        (0..self.dense.len().div_ceil(PAGE_BYTES)).try_for_each(|page| self.check(bytes, first + page))?;
        Ok(read_numbers(&bytes[self.dense.clone()]))
    }

    fn number_bits(&self) -> u32 {
        if self.has_forms { (1 << FORM_SHIFT) - 1 } else { u32::MAX }
    }

    /// All parameters, checked.
    pub fn read(&self, bytes: &[u8]) -> Result<(Entries, Vec<f32>)> {
        (0..self.pages()).try_for_each(|page| self.check(bytes, page))?;
        let lines = bytes[self.lines.clone()].as_chunks::<LINE_BYTES>().0;
        let mut keys = Vec::with_capacity(self.entries);
        let mut params = Vec::with_capacity(self.entries * self.width);
        let rows = &bytes[self.rows.clone()];
        // Rows of a form stand in the order of their entries.
        let mut next = [0; FORMS.len()];
        for (i, (key, word)) in lines.iter().flat_map(lines::entries).enumerate() {
            keys.push(key);
            if self.width == 1 {
                params.push(f32::from_bits(word));
                continue;
            }
            let row = self.row(word).filter(|(form, _)| word & self.number_bits() == next[*form as usize]);
            let (form, place) =
                row.ok_or_else(|| Error::corrupt(format!("{}: entry {i} names row {word}", self.what)))?;
            next[form as usize] += 1;
            form.read(&rows[place], self.width, &mut params);
        }
        if keys.len() != self.entries {
            let (there, what) = (keys.len(), &self.what);
            return Err(Error::corrupt(format!("{what}: {there} entries, it has {}", self.entries)));
        }
        Ok((Entries { width: self.width, keys, params }, self.read_dense(bytes)?))
    }
}
