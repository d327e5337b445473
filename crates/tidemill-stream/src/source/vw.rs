//! Vowpal Wabbit text: `label [importance] [tag]|namespace[:weight] name[:value] ... |namespace ...`.
//!
//! In: a row. Out: `label` DOUBLE (NULL when the row has none), `features` SPARSE, and where declared `importance` DOUBLE (1
//! when the row has none) and `tag` STRING. The index of a feature is hash64(name, seed = hash64(namespace)), of a name
//! written in digits too; so it equals no other program's index, and needs no table size. Numbers follow `label
//! importance`; a third one, a prediction to start from, is refused because nothing here would honour it.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use tidemill_base::{Result, hash64};

use super::{
    columns::Columns,
    number::{parse_f32, parse_f64},
    sparse::{Roles, SparseRow, end_sparse, put_double},
    text::RowDecoder,
    words::show,
};

/// Decodes rows of VW text.
pub(super) struct Vw {
    columns: Columns,
    roles: Roles,
}

/// What stands before the first bar.
struct Head<'a> {
    label: Option<f64>,
    importance: f64,
    tag: Option<&'a [u8]>,
}

impl Vw {
    /// A decoder without rows.
    pub(super) fn new(schema: SchemaRef) -> Result<Self> {
        Ok(Self { roles: Roles::of(&schema, true)?, columns: Columns::new(schema)? })
    }

    fn push_parts(&mut self, row: &[u8]) -> Result<(), String> {
        let bar = memchr::memchr(b'|', row).ok_or("no '|' before the features")?;
        let head = parse_head(&row[..bar])?;
        self.put_head(&head)?;
        let mut features = SparseRow::default();
        for namespace in row[bar + 1..].split(|&b| b == b'|') {
            self.push_namespace(namespace, &mut features)?;
        }
        end_sparse(&mut self.columns, self.roles.features)
    }

    fn put_head(&mut self, head: &Head) -> Result<(), String> {
        if let Some(i) = self.roles.label {
            match head.label {
                Some(x) => put_double(&mut self.columns, i, x),
                None => self.columns.all()[i].push_null()?,
            }
        }
        if let Some(i) = self.roles.importance {
            put_double(&mut self.columns, i, head.importance);
        }
        if let Some(i) = self.roles.tag {
            let column = &mut self.columns.all()[i];
            match head.tag {
                Some(tag) if std::str::from_utf8(tag).is_ok() => column.push_text(tag)?,
                Some(_) => return Err("tag is not UTF-8".into()),
                None => column.push_null()?,
            }
        }
        Ok(())
    }

    /// `name[:weight] feature[:value] ...`; a blank directly behind the bar is the nameless namespace.
    fn push_namespace(&mut self, text: &[u8], features: &mut SparseRow) -> Result<(), String> {
        let mut parts = text.split(|b| b.is_ascii_whitespace());
        let (name, weight) = name_and_value(parts.next().unwrap_or(b""))?;
        let seed = hash64(name, 0);
        for part in parts.filter(|p| !p.is_empty()) {
            let (name, value) = name_and_value(part)?;
            let value = value * weight;
            if !value.is_finite() {
                return Err(format!("'{}': value times the namespace's weight is out of range of FLOAT", show(part)));
            }
            features.add(self.roles.features.map(|i| self.columns.all()[i].data()), hash64(name, seed), value)?;
        }
        Ok(())
    }
}

fn parse_head(text: &[u8]) -> Result<Head<'_>, String> {
    let mut parts: Vec<&[u8]> = text.split(|b| b.is_ascii_whitespace()).filter(|p| !p.is_empty()).collect();
    // A word that touches the bar, or begins with an apostrophe, is the tag.
    let touches = text.last().is_some_and(|b| !b.is_ascii_whitespace());
    let tag = parts.pop_if(|last| touches || last.starts_with(b"'"));
    let number = |what: &str, part: &[u8]| {
        parse_f64(part).map_err(|_| format!("{what} '{}' is not a finite number", show(part)))
    };
    let label = parts.first().map(|p| number("label", p)).transpose()?;
    let importance = parts.get(1).map_or(Ok(1.0), |p| number("importance", p))?;
    if importance < 0.0 {
        return Err(format!("importance must not be negative, got {importance}"));
    }
    if let Some(third) = parts.get(2) {
        return Err(format!("'{}' before the features: a prediction to start from is not supported", show(third)));
    }
    Ok(Head { label, importance, tag: tag.map(|t| t.strip_prefix(b"'").unwrap_or(t)) })
}

fn name_and_value(part: &[u8]) -> Result<(&[u8], f32), String> {
    let Some(colon) = memchr::memchr(b':', part) else { return Ok((part, 1.0)) };
    match parse_f32(&part[colon + 1..]) {
        Ok(value) => Ok((&part[..colon], value)),
        Err(_) => Err(format!("'{}' is not a feature name:value with a finite value", show(part))),
    }
}

impl RowDecoder for Vw {
    fn push(&mut self, row: &[u8], _quoted: bool) -> Result<(), String> {
        let put = self.push_parts(row);
        match put {
            Ok(()) => self.columns.commit(),
            Err(_) => self.columns.rollback(),
        }
        put
    }

    fn finish(&mut self) -> RecordBatch {
        self.columns.finish()
    }
}
