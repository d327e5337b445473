//! How fast rows become features, by command: `cargo test -p tidemill-model --test speed -- --ignored --nocapture`.
//!
//! 39 columns a row, in chunks as sources cut them. Beside each figure stands what a bare loop reaches that only hashes the
//! same number of whole numbers: no extraction can be faster.

use std::{hint::black_box, sync::Arc};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use tidemill_base::{Clock, Rng, SystemClock, hash64_of_u64};
use tidemill_model::feature::{ColumnSpec, Extractor, Features};

const COLUMNS: usize = 39;
const ROWS: usize = 8_192;
const BATCHES: usize = 8;
const TURNS: usize = 9;

fn plain(i: usize) -> ColumnSpec {
    ColumnSpec::Plain { column: name(i) }
}

fn name(i: usize) -> String {
    format!("c{i:02}")
}

fn batches(column: impl Fn(&mut Rng) -> ArrayRef) -> Vec<RecordBatch> {
    let mut rng = Rng::seeded(1);
    let batch = |rng: &mut Rng| RecordBatch::try_from_iter((0..COLUMNS).map(|i| (name(i), column(rng)))).unwrap();
    (0..BATCHES).map(|_| batch(&mut rng)).collect()
}

fn whole(rng: &mut Rng, nulls_in_100: u64) -> ArrayRef {
    let value = |rng: &mut Rng| (rng.below(100) >= nulls_in_100).then(|| rng.below(1 << 20) as i64);
    Arc::new(Int64Array::from_iter((0..ROWS).map(|_| value(rng))))
}

fn text(rng: &mut Rng, longest: u64) -> ArrayRef {
    let value =
        |rng: &mut Rng| format!("{:016x}", rng.next_u64())[..(longest - rng.below(longest / 2)) as usize].to_string();
    Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| value(rng))))
}

fn hex(rng: &mut Rng) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| format!("{:08x}", rng.below(1 << 32)))))
}

fn number(rng: &mut Rng, zeros_in_100: u64) -> ArrayRef {
    let value = |rng: &mut Rng| (rng.below(100) >= zeros_in_100) as u64 as f64 * (1 + rng.below(1000)) as f64;
    Arc::new(Float64Array::from_iter_values((0..ROWS).map(|_| value(rng))))
}

/// Rows a second: the best of some turns, and the median.
fn rows_per_second(mut turn: impl FnMut()) -> (f64, f64) {
    let clock = SystemClock::new();
    let mut rates: Vec<f64> = (0..TURNS)
        .map(|_| {
            let begin = clock.elapsed();
            turn();
            (BATCHES * ROWS) as f64 / (clock.elapsed() - begin).as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    (rates[TURNS - 1], rates[TURNS / 2])
}

fn bare_hashes() -> (f64, f64) {
    let mut keys = vec![0u64; COLUMNS * 64];
    rows_per_second(|| {
        for block in 0..(BATCHES * ROWS / 64) as u64 {
            keys.iter_mut().zip(block..).for_each(|(key, x)| *key = hash64_of_u64(x, 7));
            black_box(&mut keys);
        }
    })
}

#[test]
#[ignore = "a measurement, not a test"]
fn rows_per_second_from_columns() {
    let spec = (0..COLUMNS).map(plain).collect::<Vec<_>>();
    let crosses: Vec<ColumnSpec> = (0..COLUMNS)
        .map(|i| ColumnSpec::Cross { columns: vec![plain(i), plain((i + 1) % COLUMNS)], buckets: None })
        .collect();
    let cases: Vec<(&str, &[ColumnSpec], Vec<RecordBatch>)> = vec![
        ("BIGINT", &spec, batches(|rng| whole(rng, 0))),
        ("BIGINT, 20% NULL", &spec, batches(|rng| whole(rng, 20))),
        ("STRING of 8 bytes", &spec, batches(hex)),
        ("STRING of 9 to 16 bytes", &spec, batches(|rng| text(rng, 16))),
        ("STRING of 2 to 3 bytes", &spec, batches(|rng| text(rng, 3))),
        ("CROSS of two BIGINT", &crosses, batches(|rng| whole(rng, 0))),
        ("DOUBLE", &spec, batches(|rng| number(rng, 0))),
        ("DOUBLE, 20% zero", &spec, batches(|rng| number(rng, 20))),
    ];
    let (best, median) = bare_hashes();
    println!("{:24} {:6.2} M rows/s, median {:6.2} M", "only hashing", best / 1e6, median / 1e6);
    for (what, columns, batches) in &cases {
        let extractor = Extractor::bind(columns, &batches[0].schema()).unwrap();
        let mut features = Features::new();
        let (best, median) = rows_per_second(|| {
            batches.iter().for_each(|rows| extractor.extract(black_box(rows), &mut features).unwrap());
        });
        let nanoseconds = 1e9 / best / COLUMNS as f64;
        println!(
            "{what:24} {:6.2} M rows/s, median {:6.2} M, {nanoseconds:5.2} ns a feature",
            best / 1e6,
            median / 1e6
        );
    }
}
