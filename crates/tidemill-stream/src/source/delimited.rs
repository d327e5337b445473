//! CSV and TSV straight into columns.
//!
//! In: rows without their newlines. Out: values in the declared columns. With a header columns go by name, and columns nobody
//! declared are passed over; without one they go by position. Quoting is RFC 4180's, and a quoted field is never NULL.
//! The hot loops are free functions over bytes; a row is split once, and only declared fields are looked at again.

mod index;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use tidemill_base::Result;

use super::{
    columns::{
        Column, Columns,
        block::{Block, Fields},
    },
    text::RowDecoder,
    words::{find_name, nearest, show},
};

use index::{Filled, Index};

/// Delimiters that are tried to name the one that would have fit.
const LIKELY_DELIMITERS: [u8; 5] = [b',', b'\t', b';', b'|', b' '];

/// Decodes rows of delimited text.
pub(super) struct Delimited {
    delimiter: u8,
    null: Vec<u8>,
    has_header: bool,
    columns: Columns,
    /// Which field each column is.
    fields: Vec<usize>,
    /// Fields a row must have.
    width: usize,
    /// Ends of the fields of the row at hand.
    ends: Vec<u32>,
    unquoted: Vec<u8>,
    /// Fields of the block at hand.
    index: Index,
    valid: Vec<u64>,
}

/// One column's fields in a block.
struct ColumnFields<'a> {
    text: &'a [u8],
    index: &'a Index,
    width: usize,
    column: usize,
}

impl Fields for ColumnFields<'_> {
    #[inline(always)]
    fn write(&self, first: usize, from: &mut [u32], to: &mut [u32]) {
        self.index.write_fields(first * self.width + self.column, self.width, from, to);
        if self.column + 1 == self.width {
            // `\r\n` ends a row as `\n` does.
            for (from, to) in from.iter().zip(to) {
                *to -= (*from < *to && self.text[*to as usize - 1] == b'\r') as u32;
            }
        }
    }
}

impl Delimited {
    /// A decoder of rows; with a header it knows its fields only after [`RowDecoder::header`].
    pub(super) fn new(schema: SchemaRef, delimiter: u8, has_header: bool, null: &str) -> Result<Self> {
        let width = schema.fields().len();
        Ok(Self {
            delimiter,
            null: null.as_bytes().to_vec(),
            has_header,
            columns: Columns::new(schema)?,
            fields: (0..width).collect(),
            width,
            ends: Vec::new(),
            unquoted: Vec::new(),
            index: Index::default(),
            valid: Vec::new(),
        })
    }

    fn push_fields(&mut self, row: &[u8], quoted: bool) -> Result<(), String> {
        if let Err(e) = std::str::from_utf8(row) {
            return Err(format!("byte {} of the row is not UTF-8", e.valid_up_to() + 1));
        }
        self.ends.clear();
        match quoted {
            false => split(row, self.delimiter, &mut self.ends),
            true => split_quoted(row, self.delimiter, &mut self.ends),
        }
        if self.ends.len() != self.width {
            return Err(self.ragged(row));
        }
        for (column, &i) in self.columns.all().iter_mut().zip(&self.fields) {
            let from = if i == 0 { 0 } else { self.ends[i - 1] as usize + 1 };
            let field = &row[from..self.ends[i] as usize];
            if field == self.null {
                column.push_null()?;
            } else if quoted && field.first() == Some(&b'"') {
                push_quoted(column, field, &mut self.unquoted)?;
            } else {
                column.push_text(field)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn ragged(&self, row: &[u8]) -> String {
        let (found, expected) = (self.ends.len(), self.width);
        let fields = if found == 1 { "field" } else { "fields" };
        let declared = if self.has_header { "header has" } else { "declared are" };
        let mut fitting = LIKELY_DELIMITERS.iter().filter(|&&d| d != self.delimiter && count(row, d) == expected);
        let hint = match fitting.next() {
            Some(d) if found == 1 => format!("; delimiter {} would fit", delimiter_name(*d)),
            _ => String::new(),
        };
        format!("{found} {fields}, {declared} {expected}{hint}")
    }

    fn names(&self) -> Vec<String> {
        self.columns.schema().fields().iter().map(|f| f.name().clone()).collect()
    }

    /// A header of one column where the declared ones are not: most likely the delimiter is another.
    fn wrong_delimiter(&self, line: &str) -> Option<String> {
        let declared = self.names();
        let fits = |d: u8| {
            let header = header_names(line, d);
            declared.iter().filter(|n| find_name(n, header.iter().map(String::as_str)).is_some()).count()
        };
        let best = LIKELY_DELIMITERS.into_iter().filter(|&d| d != self.delimiter).rev().max_by_key(|&d| fits(d))?;
        let advice = match fits(best) {
            0 => "; check the file and the declared columns".to_string(),
            _ => format!("; delimiter {} would fit, write delimiter = '{}'", delimiter_name(best), escaped(best)),
        };
        Some(format!("with delimiter {} the header has 1 column{advice}", delimiter_name(self.delimiter)))
    }
}

impl RowDecoder for Delimited {
    fn has_header(&self) -> bool {
        self.has_header
    }

    fn header(&mut self, line: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|e| {
            format!("byte {} of the header is not UTF-8; the file must be UTF-8 text", e.valid_up_to() + 1)
        })?;
        let header = header_names(text, self.delimiter);
        let names = || header.iter().map(String::as_str);
        let declared = self.names();
        let mut fields = Vec::with_capacity(declared.len());
        for name in &declared {
            let Some(at) = find_name(name, names()) else {
                if header.len() == 1
                    && let Some(why) = self.wrong_delimiter(text)
                {
                    return Err(why);
                }
                return Err(format!("the header has no column '{name}'{}", nearest(name, names())));
            };
            if names().filter(|n| *n == header[at]).count() > 1 {
                return Err(format!("the header names column '{name}' more than once"));
            }
            fields.push(at);
        }
        (self.fields, self.width) = (fields, header.len());
        Ok(())
    }

    fn quoting(&self) -> Option<u8> {
        Some(self.delimiter)
    }

    fn is_blank(&self, line: &[u8]) -> bool {
        line.is_empty()
    }

    fn push(&mut self, row: &[u8], quoted: bool) -> Result<(), String> {
        let put = self.push_fields(row, quoted);
        match put {
            Ok(()) => self.columns.commit(),
            Err(_) => self.columns.rollback(),
        }
        put
    }

    fn takes_blocks(&self) -> bool {
        // Lines of one column may be blank.
        self.width > 1 && self.delimiter.is_ascii()
    }

    fn push_block(&mut self, text: &[u8], rows_max: usize) -> (usize, usize) {
        let Filled { mut rows, is_ascii } = self.index.fill(text, self.delimiter, self.width, rows_max);
        if !is_ascii && let Err(e) = std::str::from_utf8(&text[..self.index.begin(rows * self.width)]) {
            let good = memchr::memrchr(b'\n', &text[..e.valid_up_to()]).map_or(0, |newline| newline + 1);
            rows = self.index.fill(&text[..good], self.delimiter, self.width, rows_max).rows;
        }
        for (column, &i) in self.columns.all().iter_mut().zip(&self.fields) {
            let fields = ColumnFields { text, index: &self.index, width: self.width, column: i };
            rows = column.push_block(&Block { text, null: &self.null, rows }, &fields, &mut self.valid);
        }
        self.columns.commit_rows(rows);
        (rows, self.index.begin(rows * self.width))
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}

/// Writes the end of every field of a row without quotes.
#[inline]
fn split(row: &[u8], delimiter: u8, ends: &mut Vec<u32>) {
    // Eight bytes at a time: after the exclusive or, delimiters are the zero bytes; the sum carries into a byte's top bit
    // exactly when its low seven bits are not all zero, so the inverted union marks zero bytes and no others.
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let pattern = u64::from_le_bytes([delimiter; 8]);
    let (words, rest) = row.as_chunks::<8>();
    let mut at = 0u32;
    for word in words {
        let x = u64::from_le_bytes(*word) ^ pattern;
        let mut hits = !(((x & LOW) + LOW) | x | LOW);
        while hits != 0 {
            ends.push(at + (hits.trailing_zeros() >> 3));
            hits &= hits - 1;
        }
        at += 8;
    }
    for &b in rest {
        if b == delimiter {
            ends.push(at);
        }
        at += 1;
    }
    ends.push(at);
}

/// As [`split`], for a row in which quotes may hide delimiters.
fn split_quoted(row: &[u8], delimiter: u8, ends: &mut Vec<u32>) {
    let mut at = 0;
    loop {
        if row.get(at) == Some(&b'"') {
            at = behind_quotes(row, at + 1);
        }
        match memchr::memchr(delimiter, &row[at..]) {
            Some(n) => at += n + 1,
            None => break,
        }
        ends.push(at as u32 - 1);
    }
    ends.push(row.len() as u32);
}

/// The place behind the quote that closes what was opened before `at`; doubled ones close nothing.
fn behind_quotes(row: &[u8], mut at: usize) -> usize {
    while let Some(n) = memchr::memchr(b'"', &row[at..]) {
        at += n + 1;
        if row.get(at) != Some(&b'"') {
            return at;
        }
        at += 1;
    }
    row.len()
}

/// A quoted field: the quotes go, doubled ones become one.
fn push_quoted(column: &mut Column, field: &[u8], scratch: &mut Vec<u8>) -> Result<(), String> {
    let inner = field[1..].strip_suffix(b"\"").unwrap_or(&field[1..]);
    if memchr::memchr(b'"', inner).is_none() {
        return column.push_text(inner);
    }
    unquote(inner, scratch);
    column.push_text(scratch)
}

fn unquote(inner: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut skip = false;
    for &b in inner {
        if b == b'"' && !skip {
            skip = true;
            continue;
        }
        skip = false;
        out.push(b);
    }
}

fn count(row: &[u8], delimiter: u8) -> usize {
    let mut ends = Vec::new();
    split_quoted(row, delimiter, &mut ends);
    ends.len()
}

fn header_names(line: &str, delimiter: u8) -> Vec<String> {
    let (mut ends, mut name, mut from) = (Vec::new(), Vec::new(), 0);
    split_quoted(line.as_bytes(), delimiter, &mut ends);
    let mut names = Vec::with_capacity(ends.len());
    for end in ends {
        let field = line.as_bytes()[from..end as usize].trim_ascii();
        match field.strip_prefix(b"\"").and_then(|f| f.strip_suffix(b"\"")) {
            Some(inner) => unquote(inner, &mut name),
            None => name = field.to_vec(),
        }
        names.push(String::from_utf8_lossy(&name).into_owned());
        from = end as usize + 1;
    }
    names
}

fn delimiter_name(d: u8) -> String {
    match d {
        b'\t' => "tab".into(),
        b' ' => "space".into(),
        _ => format!("'{}'", show(&[d])),
    }
}

fn escaped(d: u8) -> String {
    show(&[d])
}
