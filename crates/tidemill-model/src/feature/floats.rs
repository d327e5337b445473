//! Extraction without columns, for models that read nothing but floating-point numbers.
//!
//! In: rows as numbers one behind the other, as an inference request brings them. Out: the features that
//! [`Extractor::extract`] makes of the same numbers in columns, bit for bit. A small request would spend most of its time
//! on making a column for each of its numbers.

use super::{Extractor, Features, bind::Source, number::feature_value};

/// Where each slot finds its number in a row.
#[derive(Clone, Debug)]
pub struct FloatPlan {
    slots: Vec<Slot>,
    /// Their places, close together; the constant's is behind the row.
    places: Vec<u32>,
    width: usize,
    /// Key and number of every slot: the features of a row whose numbers all are some.
    keys: Vec<u64>,
    numbers: Vec<u16>,
}

#[derive(Clone, Debug)]
struct Slot {
    name: String,
    key: u64,
    /// Its place in a row; the model's own constant has none.
    place: Option<usize>,
}

impl Extractor {
    /// A plan for rows of `width` numbers, where `place` tells where in a row the number of a column stands. `None` when
    /// some slot needs more than the number itself.
    pub fn float_plan(&self, width: usize, place: impl Fn(usize) -> Option<usize>) -> Option<FloatPlan> {
        let slot = |(name, source): (&String, &Source)| match source {
            Source::Number { column, key } => {
                Some(Slot { name: name.clone(), key: *key, place: Some(place(*column).filter(|p| *p < width)?) })
            }
            Source::Bias(key) => Some(Slot { name: name.clone(), key: *key, place: None }),
            _ => None,
        };
        let slots = self.slots.iter().zip(&self.sources).map(slot).collect::<Option<Vec<_>>>()?;
        let keys = slots.iter().map(|slot| slot.key).collect();
        let numbers = (0..slots.len() as u16).collect();
        let places = slots.iter().map(|slot| slot.place.unwrap_or(width) as u32).collect();
        Some(FloatPlan { slots, places, width, keys, numbers })
    }
}

impl FloatPlan {
    /// Replaces the content of `out` by the features of `rows`, the numbers of one row behind those of the other.
    pub fn extract<T: Copy + Into<f64>>(&self, rows: &[T], out: &mut Features) {
        out.clear();
        for (i, row) in rows.chunks_exact(self.width).enumerate() {
            let first = out.keys.len();
            if let Err(reason) = self.extract_row(row, out) {
                out.keys.truncate(first);
                out.values.truncate(first);
                out.slots.truncate(first);
                out.refused.push((i as u32, reason));
            }
            out.ends.push(out.keys.len() as u32);
        }
    }

    #[inline]
    fn extract_row<T: Copy + Into<f64>>(&self, row: &[T], out: &mut Features) -> Result<(), String> {
        let first = out.values.len();
        let value = |place: &u32| row.get(*place as usize).map_or(1.0, |x| (*x).into() as f32);
        out.values.extend(self.places.iter().map(value));
        // Most rows have a feature in every slot; whether one has not is asked once for all of them.
        let all = out.values[first..].iter().fold(true, |all, value| all & (*value != 0.0) & value.is_finite());
        if all {
            out.keys.extend_from_slice(&self.keys);
            out.slots.extend_from_slice(&self.numbers);
            return Ok(());
        }
        out.values.truncate(first);
        self.extract_some(row, out)
    }

    fn extract_some<T: Copy + Into<f64>>(&self, row: &[T], out: &mut Features) -> Result<(), String> {
        for (number, slot) in (0u16..).zip(&self.slots) {
            let value = match slot.place {
                None => 1.0,
                Some(place) => {
                    feature_value(row[place].into()).map_err(|why| format!("slot '{}': {why}", slot.name))?
                }
            };
            // A zero adds nothing to a score.
            if value != 0.0 {
                out.keys.push(slot.key);
                out.values.push(value);
                out.slots.push(number);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Float64Array, RecordBatch},
        datatypes::{DataType, Field, Schema},
    };
    use tidemill_base::Rng;

    use super::*;
    use crate::feature::ColumnSpec;

    const WIDTH: usize = 5;

    fn columns(rows: &[f64]) -> RecordBatch {
        let field = |i: usize| Field::new(format!("x{i}"), DataType::Float64, true);
        let schema = Arc::new(Schema::new((0..WIDTH).map(field).collect::<Vec<_>>()));
        let column = |i: usize| Arc::new(Float64Array::from_iter_values(rows.iter().skip(i).step_by(WIDTH).copied()));
        RecordBatch::try_new(schema, (0..WIDTH).map(|i| column(i) as ArrayRef).collect()).unwrap()
    }

    /// Training reads columns and a request brings rows: a model must see the same features in both.
    #[test]
    fn rows_of_numbers_have_the_features_of_their_columns() {
        let mut rng = Rng::seeded(7);
        let mut rows: Vec<f64> = (0..200 * WIDTH).map(|_| rng.next_f64() * 2.0 - 1.0).collect();
        rows.iter_mut().step_by(7).for_each(|x| *x = 0.0);
        rows[3] = -0.0;
        rows[WIDTH + 2] = 1e300;
        rows[2 * WIDTH + 1] = f64::NAN;
        let batch = columns(&rows);
        // Not in the order of the row, and one number is not read.
        let specs = [3, 0, 4, 1, 2][..4].iter().map(|i| ColumnSpec::Numeric { column: format!("x{i}") });
        let specs: Vec<ColumnSpec> = specs.chain([ColumnSpec::Plain { column: "x2".into() }]).collect();
        let extractor = Extractor::bind(&specs, &batch.schema()).unwrap();
        let (mut by_column, mut by_row) = (Features::new(), Features::new());
        extractor.extract(&batch, &mut by_column).unwrap();
        extractor.float_plan(WIDTH, Some).unwrap().extract(&rows, &mut by_row);
        assert_eq!(by_row.keys, by_column.keys);
        assert_eq!(by_row.slots, by_column.slots);
        assert_eq!(by_row.ends, by_column.ends);
        assert_eq!(by_row.refused, by_column.refused);
        assert_eq!(by_row.refused.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2]);
        let bits = |f: &Features| f.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&by_row), bits(&by_column));
    }

    #[test]
    fn a_category_needs_more_than_its_number() {
        let batch = columns(&[0.0; WIDTH]);
        let bucket = ColumnSpec::Bucket { column: "x1".into(), boundaries: vec![0.5] };
        let extractor = Extractor::bind(&[bucket], &batch.schema()).unwrap();
        assert!(extractor.float_plan(WIDTH, Some).is_none());
        let number = ColumnSpec::Numeric { column: "x1".into() };
        let extractor = Extractor::bind(&[number], &batch.schema()).unwrap();
        assert!(extractor.float_plan(WIDTH, |_| None).is_none(), "a column that a row does not have");
    }
}
