//! Inference within the process: a model of nothing but numbers, by the short way and through columns.

mod support;

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use serde_json::{Value, json};
use tidemill_base::{Result, Rng};
use tidemill_model::{
    entries::Entries,
    feature::{ColumnSpec, Extractor, Features},
    snapshot::Snapshot,
};
use tidemill_serve::{
    live::LiveModel,
    predict::{
        ALL_FLOATS, Prediction, Predictor,
        tensor::{Datatype, Shape, Tensor, Values},
    },
};
use tidemill_stream::{Transform, Transformed};

const WIDTH: usize = 39;

/// Columns as they are; says so, or does not.
struct Same(SchemaRef, bool);

impl Transform for Same {
    fn output(&self) -> SchemaRef {
        self.0.clone()
    }

    fn apply(&self, rows: &RecordBatch) -> Result<Transformed> {
        Ok(Transformed { rows: rows.clone(), kept: None, refused: Vec::new() })
    }

    fn passes_on(&self) -> Vec<Option<usize>> {
        if self.1 { (0..self.0.fields().len()).map(Some).collect() } else { Vec::new() }
    }
}

/// Columns x0 to x38, FLOAT and DOUBLE in turns, each with a weight of its own.
fn predictor(short: bool) -> Predictor {
    let ty = |i: usize| if i.is_multiple_of(2) { DataType::Float32 } else { DataType::Float64 };
    let schema =
        Arc::new(Schema::new((0..WIDTH).map(|i| Field::new(format!("x{i}"), ty(i), true)).collect::<Vec<_>>()));
    let columns: Vec<_> = (0..WIDTH).map(|i| ColumnSpec::Numeric { column: format!("x{i}") }).collect();
    let extractor = Extractor::bind(&columns, &schema).unwrap();
    let mut features = Features::new();
    extractor.float_plan(WIDTH, Some).unwrap().extract(&[1f32; WIDTH], &mut features);
    let mut rng = Rng::seeded(3);
    features.keys.sort_unstable();
    let weights: Vec<_> = features.keys.iter().map(|key| (*key, rng.next_f64() as f32 - 0.5)).collect();
    let snapshot = Snapshot { entries: Entries::pairs(weights), ..Snapshot::default() };
    let live = Arc::new(LiveModel::open(&snapshot, 1, 1));
    Predictor::new("m", schema.clone(), Arc::new(Same(schema, short)), extractor, live).unwrap()
}

fn all(rows: usize, values: Values) -> Tensor<'static> {
    Tensor {
        name: ALL_FLOATS.into(),
        shape: Shape::new(&[rows as u64, WIDTH as u64]).unwrap(),
        datatype: if matches!(values, Values::Fp32(_)) { Datatype::Fp32 } else { Datatype::Fp64 },
        values,
        nulls: Vec::new(),
    }
}

/// Whatever way the numbers take, the answer has the same bits: `:predict`, a tensor for each, all in one tensor.
#[test]
fn every_way_gives_the_same_bits() {
    let (short, long) = (predictor(true), predictor(false));
    let mut rng = Rng::seeded(11);
    let rows = 70;
    let mut numbers: Vec<f32> = (0..rows * WIDTH).map(|_| rng.next_f64() as f32 * 4.0 - 2.0).collect();
    numbers.iter_mut().step_by(5).for_each(|x| *x = 0.0);
    let by_short = short.infer(&[all(rows, Values::Fp32(numbers.clone()))], None, false).unwrap();
    let by_long = long.infer(&[all(rows, Values::Fp32(numbers.clone()))], Some(1), false).unwrap();
    assert_eq!((by_short.rows, by_short.width, by_short.values.len()), (rows, 1, rows));
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&by_short.values), bits(&by_long.values));
    let wide = Values::Fp64(numbers.iter().map(|x| f64::from(*x)).collect());
    assert_eq!(bits(&short.infer(&[all(rows, wide)], None, false).unwrap().values), bits(&by_long.values));
    let one = |i: usize| Tensor {
        name: format!("x{i}").into(),
        shape: Shape::new(&[rows as u64, 1]).unwrap(),
        datatype: Datatype::Fp32,
        values: Values::Fp32(numbers.iter().skip(i).step_by(WIDTH).copied().collect()),
        nulls: Vec::new(),
    };
    let each: Vec<_> = (0..WIDTH).rev().map(one).collect();
    assert_eq!(bits(&short.infer(&each, None, false).unwrap().values), bits(&by_long.values));
    let row = |r: &[f32]| -> Value { r.iter().enumerate().map(|(i, x)| (format!("x{i}"), json!(x))).collect() };
    let body = json!({"rows": numbers.chunks(WIDTH).map(row).collect::<Vec<_>>()}).to_string();
    let predicted = short.predict(body.as_bytes(), None).unwrap().predictions;
    let predicted: Vec<f32> = predicted
        .iter()
        .map(|p| match p {
            Prediction::Probability(p) => *p as f32,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bits(&predicted), bits(&by_long.values));
    assert!(by_long.values.iter().any(|p| *p > 0.6) && by_long.values.iter().any(|p| *p < 0.4));
}

#[test]
fn both_ways_refuse_alike() {
    for p in [predictor(true), predictor(false)] {
        let refused = |tensors: &[Tensor<'_>]| p.infer(tensors, None, false).unwrap_err().message().to_string();
        let mut nan = vec![1f32; WIDTH];
        nan[7] = f32::NAN;
        assert_eq!(refused(&[all(1, Values::Fp32(nan))]), "input 'features': value 7 is NaN; numbers must be finite");
        let mut wrong = all(1, Values::Fp32(vec![1.0; WIDTH]));
        wrong.shape = Shape::new(&[WIDTH as u64]).unwrap();
        assert_eq!(
            refused(&[wrong]),
            "input 'features' has shape [39]; send [n,39], a column for each floating-point input"
        );
        let twice = [all(1, Values::Fp32(vec![1.0; WIDTH])), all(1, Values::Fp32(vec![1.0; WIDTH]))];
        assert_eq!(refused(&twice), "input 'x0' is there twice");
        assert_eq!(
            refused(&[]),
            "input 'x0' is missing; the parameter \"missing_as_null\": true makes what is missing NULL"
        );
        assert_eq!(refused(&[all(2000, Values::Fp32(vec![1.0; 2000 * WIDTH]))]), "2000 rows; the limit is 1,024");
        let ints =
            Tensor { values: Values::Int(vec![1; WIDTH]), datatype: Datatype::Int64, ..all(1, Values::Fp32(vec![])) };
        assert_eq!(refused(&[ints]), "input 'features' has datatype INT64; send FP32 or FP64");
    }
}
