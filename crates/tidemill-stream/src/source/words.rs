//! The words of this room's errors: counts, values, types, and the nearest known name.

use arrow::datatypes::{DataType, TimeUnit};
pub(super) use tidemill_base::thousands;

use super::sparse_type;

/// How much of a bad value an error repeats.
const VALUE_BYTES_MAX: usize = 64;

/// A declared type as SQL writes it.
pub(super) fn sql_type(ty: &DataType) -> String {
    match ty {
        DataType::Int64 => "BIGINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Utf8 => "STRING".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Timestamp(TimeUnit::Millisecond, None) => "TIMESTAMP(3)".into(),
        t if *t == sparse_type() => "SPARSE".into(),
        t => t.to_string(),
    }
}

/// A value as an error repeats it.
pub(super) fn show(value: &[u8]) -> String {
    let cut = &value[..value.len().min(VALUE_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(cut).escape_debug().to_string();
    if cut.len() < value.len() {
        text.push_str("...");
    }
    text
}

/// Finds `name` among `names`: as written, or the only one that differs in case alone.
pub(super) fn find_name<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
    if let Some(i) = names.clone().position(|n| n == name) {
        return Some(i);
    }
    let mut alike = names.enumerate().filter(|(_, n)| n.eq_ignore_ascii_case(name));
    match (alike.next(), alike.next()) {
        (Some((i, _)), None) => Some(i),
        _ => None,
    }
}

/// `; did you mean 'x'?` with the nearest of the known names, or nothing when none is near.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names
        .map(|n| (strsim::damerau_levenshtein(&n.to_lowercase(), &name.to_lowercase()), n))
        .min()
        .filter(|(distance, _)| *distance <= 1 + name.len() / 3);
    near.map_or(String::new(), |(_, n)| format!("; did you mean '{n}'?"))
}
