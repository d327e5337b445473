//! Extraction at the border of the room: rows in, keyed numbers out.

use arrow::{
    array::*,
    datatypes::{DataType, Field, Fields, Schema, TimeUnit},
};
use expect_test::{Expect, expect};
use std::sync::Arc;
use tidemill_base::hash64;
use tidemill_model::{
    feature::{ColumnSpec, Extractor, FEATURES_MAX, Features},
    params::{ABSENT, ParamTable, TableSpec, Updated},
};

fn plain(column: &str) -> ColumnSpec {
    ColumnSpec::Plain { column: column.into() }
}

fn numeric(column: &str) -> ColumnSpec {
    ColumnSpec::Numeric { column: column.into() }
}

fn bucket(column: &str, boundaries: &[f64]) -> ColumnSpec {
    ColumnSpec::Bucket { column: column.into(), boundaries: boundaries.to_vec() }
}

fn cross(columns: Vec<ColumnSpec>, buckets: Option<u64>) -> ColumnSpec {
    ColumnSpec::Cross { columns, buckets }
}

/// The published recipe of a key: the value's bytes under the hash of the slot's name.
fn key(slot: &str, value: &[u8]) -> u64 {
    hash64(value, hash64(slot.as_bytes(), 0))
}

fn sparse_column(rows: &[Option<Vec<(u64, f32)>>]) -> ArrayRef {
    let fields =
        Fields::from(vec![Field::new("index", DataType::UInt64, false), Field::new("value", DataType::Float32, false)]);
    let all: Vec<(u64, f32)> = rows.iter().flatten().flatten().copied().collect();
    let pairs = StructArray::new(
        fields.clone(),
        vec![
            Arc::new(UInt64Array::from_iter_values(all.iter().map(|p| p.0))),
            Arc::new(Float32Array::from_iter_values(all.iter().map(|p| p.1))),
        ],
        None,
    );
    let item = Arc::new(Field::new("item", DataType::Struct(fields), false));
    let lengths = rows.iter().map(|row| row.as_ref().map_or(0, Vec::len));
    let valid = rows.iter().map(Option::is_some).collect::<Vec<_>>().into();
    Arc::new(ListArray::new(item, arrow::buffer::OffsetBuffer::from_lengths(lengths), Arc::new(pairs), Some(valid)))
}

/// Three impressions with a column of each type.
fn rows() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("user", Arc::new(Int64Array::from(vec![Some(7), None, Some(-1)]))),
        ("small", Arc::new(Int32Array::from(vec![7, 8, -1]))),
        ("device", Arc::new(StringArray::from(vec![Some("ios"), Some(""), None]))),
        ("mobile", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("price", Arc::new(Float64Array::from(vec![Some(1.5), Some(0.0), None]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![1_000, 2_000, 3_000]))),
        ("words", sparse_column(&[Some(vec![(3, 1.0), (9, 0.5), (3, 0.25)]), None, Some(vec![(9, 0.0)])])),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

fn extract(columns: &[ColumnSpec], rows: &RecordBatch) -> Features {
    let mut out = Features::new();
    Extractor::bind(columns, &rows.schema()).unwrap().extract(rows, &mut out).unwrap();
    assert_eq!(out.len(), rows.num_rows());
    out
}

/// A sample's features without the bias.
fn sample(features: &Features, i: usize) -> Vec<(u64, f32)> {
    let (keys, values) = features.sample(i);
    let order: Vec<(u16, u64)> = features.range(i).map(|j| (features.slots[j], features.keys[j])).collect();
    assert!(order.is_sorted_by(|a, b| a < b));
    let bias = key("bias", b"");
    assert_eq!(keys.iter().zip(values).filter(|(k, v)| **k == bias && **v == 1.0).count(), 1);
    keys.iter().copied().zip(values.iter().copied()).filter(|(k, _)| *k != bias).collect()
}

#[test]
fn a_category_is_keyed_by_its_bytes_under_its_slot() {
    let f = extract(&[plain("user")], &rows());
    assert_eq!(sample(&f, 0), [(key("user", &7i64.to_le_bytes()), 1.0)]);
    assert_eq!(sample(&f, 2), [(key("user", &(-1i64).to_le_bytes()), 1.0)]);
    let f = extract(&[plain("device")], &rows());
    assert_eq!(sample(&f, 0), [(key("device", b"ios"), 1.0)]);
    assert_eq!(sample(&f, 1), [(key("device", b""), 1.0)]);
    let f = extract(&[plain("mobile")], &rows());
    assert_eq!(sample(&f, 0), [(key("mobile", &[1]), 1.0)]);
    let f = extract(&[plain("at")], &rows());
    assert_eq!(sample(&f, 1), [(key("at", &2_000i64.to_le_bytes()), 1.0)]);
    let f = extract(&[ColumnSpec::Hash { column: "device".into(), buckets: 10 }], &rows());
    let bucket = key("device%10", b"ios") % 10;
    assert_eq!(sample(&f, 0), [(key("device%10", &bucket.to_le_bytes()), 1.0)]);
}

/// An INT and a BIGINT column of one name must mean the same: a source may change its type.
#[test]
fn the_width_of_an_integer_does_not_change_its_key() {
    let narrow = RecordBatch::try_from_iter([("user", rows().column(1).clone())]).unwrap();
    let (narrow, wide) = (extract(&[plain("user")], &narrow), extract(&[plain("user")], &rows()));
    assert_eq!(sample(&narrow, 0), sample(&wide, 0));
    assert_eq!(sample(&narrow, 2), sample(&wide, 2));
}

#[test]
fn null_is_a_value_of_its_own_for_categories_and_nothing_for_numbers() {
    let f = extract(&[plain("user"), plain("device"), plain("mobile")], &rows());
    assert_eq!(sample(&f, 1).len(), 3);
    let null_of = |column: &str, row| sample(&extract(&[plain(column)], &rows()), row)[0].0;
    assert_ne!(null_of("device", 2), null_of("device", 1), "NULL is not the empty text");
    assert_ne!(null_of("device", 2), null_of("mobile", 2), "NULL of one slot is not NULL of another");
    let f = extract(&[plain("price")], &rows());
    assert_eq!(sample(&f, 0), [(key("price", b""), 1.5)]);
    assert_eq!((sample(&f, 1), sample(&f, 2)), (vec![], vec![]));
}

#[test]
fn a_bucket_takes_its_lower_boundary_and_null_has_its_own() {
    let columns: Vec<(&str, ArrayRef)> = vec![(
        "x",
        Arc::new(Float64Array::from(vec![Some(-1.0), Some(0.0), Some(9.9), Some(10.0), Some(f64::INFINITY), None])),
    )];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let f = extract(&[bucket("x", &[0.0, 10.0])], &rows);
    let of = |bucket: u64| key("bucket(x)", &bucket.to_le_bytes());
    let found: Vec<u64> = (0..5).map(|i| sample(&f, i)[0].0).collect();
    assert_eq!(found, [of(0), of(1), of(1), of(2), of(2)]);
    assert!(!found.contains(&sample(&f, 5)[0].0));
}

#[test]
fn a_cross_tells_combinations_apart_and_its_size_bounds_them() {
    let f = extract(&[cross(vec![plain("user"), plain("device")], None)], &rows());
    let keys: Vec<u64> = (0..3).map(|i| sample(&f, i)[0].0).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2]);
    let many: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int64Array::from_iter_values(0..1000))),
        ("b", Arc::new(Int64Array::from_iter_values((0..1000).map(|x| x % 7)))),
    ];
    let many = RecordBatch::try_from_iter(many).unwrap();
    let distinct = |buckets| {
        let f = extract(&[cross(vec![plain("a"), bucket("b", &[3.0])], buckets)], &many);
        let mut keys: Vec<u64> = (0..1000).map(|i| sample(&f, i)[0].0).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    };
    assert_eq!((distinct(None), distinct(Some(16))), (1000, 16));
}

#[test]
fn sparse_values_are_keyed_by_index_and_duplicates_are_added() {
    let f = extract(&[plain("words")], &rows());
    let mut expected = [(key("words", &3u64.to_le_bytes()), 1.25), (key("words", &9u64.to_le_bytes()), 0.5)];
    expected.sort_by_key(|p| p.0);
    assert_eq!(sample(&f, 0), expected);
    assert_eq!((sample(&f, 1), sample(&f, 2)), (vec![], vec![]));
}

/// Reordering COLUMN, or cutting rows otherwise, must give the same model; so it must give the same features.
#[test]
fn neither_the_order_of_columns_nor_the_cut_of_rows_matters() {
    let n = 1000;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int64Array::from_iter((0..n).map(|x| (x % 11 != 0).then_some(x % 37))))),
        ("b", Arc::new(StringArray::from_iter_values((0..n).map(|x| format!("value {}", x % 91))))),
        ("c", Arc::new(Float32Array::from_iter_values((0..n).map(|x| x as f32 / 7.0)))),
        (
            "d",
            sparse_column(
                &(0..n as u64).map(|x| Some((0..x % 50).map(|i| (i * x, 0.5)).collect())).collect::<Vec<_>>(),
            ),
        ),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let mut specs = vec![plain("a"), plain("b"), plain("c"), plain("d"), cross(vec![plain("a"), plain("b")], Some(99))];
    let expected = extract(&specs, &rows);
    for _ in 0..specs.len() {
        specs.rotate_left(1);
        let f = extract(&specs, &rows);
        assert_eq!((&f.keys, &f.values, &f.ends), (&expected.keys, &expected.values, &expected.ends));
    }
    for (start, len) in [(0, 1), (1, 130), (500, 500)] {
        let f = extract(&specs, &rows.slice(start, len));
        (0..len).for_each(|i| assert_eq!(f.sample(i), expected.sample(start + i), "row {}", start + i));
    }
}

#[test]
fn values_that_are_no_numbers_refuse_their_sample_and_no_other() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("x", Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::NEG_INFINITY, 1e300, 2.0, 3.0]))),
        ("y", Arc::new(Float64Array::from(vec![1.0, 1.0, 1.0, 1.0, f64::NAN, 1.0]))),
        (
            "z",
            sparse_column(&(0..6).map(|i| Some(vec![(17, if i == 5 { f32::NAN } else { 1.0 })])).collect::<Vec<_>>()),
        ),
    ];
    let f = extract(&[plain("x"), bucket("y", &[0.0]), plain("z")], &RecordBatch::try_from_iter(columns).unwrap());
    let refused: Vec<String> = f.refused.iter().map(|(row, reason)| format!("{row}: {reason}")).collect();
    expect![[r#"
        1: slot 'x': value is NaN
        2: slot 'x': value is -inf
        3: slot 'x': value is 1e300, beyond what a 32-bit float holds
        4: slot 'bucket(y)': value is NaN
        5: slot 'z': value of index 17 is NaN"#]]
    .assert_eq(&refused.join("\n"));
    assert_eq!(sample(&f, 0).len(), 3);
    (1..6).for_each(|i| assert!(f.sample(i).0.is_empty()));
}

#[test]
fn a_sample_with_too_many_features_is_refused_and_its_neighbours_are_not() {
    let list = |n: usize| Some((0..n as u64).map(|i| (i, 1.0)).collect::<Vec<_>>());
    let rows = [list(3), list(FEATURES_MAX + 1), list(FEATURES_MAX), list(FEATURES_MAX - 1), list(2)];
    let f = extract(&[plain("x")], &RecordBatch::try_from_iter([("x", sparse_column(&rows))]).unwrap());
    assert_eq!((f.sample(0).0.len(), f.sample(3).0.len(), f.sample(4).0.len()), (4, FEATURES_MAX, 3));
    let refused: Vec<&str> = f.refused.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        refused,
        [
            "slot 'x': list has 65537 features; at most 65536 are taken",
            "sample has 65537 features; at most 65536 are taken"
        ]
    );
}

/// What is in a `Features` must not depend on what was in it before.
#[test]
fn features_can_be_used_again() {
    let extractor = Extractor::bind(&[plain("words"), plain("price")], &rows().schema()).unwrap();
    let mut again = Features::new();
    extractor.extract(&rows(), &mut again).unwrap();
    let first = (again.keys.clone(), again.values.clone(), again.ends.clone());
    extractor.extract(&rows().slice(0, 0), &mut again).unwrap();
    assert!(again.is_empty() && again.keys.is_empty());
    extractor.extract(&rows(), &mut again).unwrap();
    assert_eq!(first, (again.keys.clone(), again.values.clone(), again.ends.clone()));
}

fn check_refusal(columns: &[ColumnSpec], expected: Expect) {
    let nested = Field::new("nested", DataType::new_list(DataType::Int64, true), true);
    let when = Field::new("when", DataType::Timestamp(TimeUnit::Millisecond, None), true);
    let base = rows();
    let fields = base.schema().fields().iter().map(|f| f.as_ref().clone()).chain([nested, when]).collect::<Vec<_>>();
    let error = Extractor::bind(columns, &Schema::new(fields)).unwrap_err();
    assert_eq!(error.kind(), tidemill_base::Kind::Invalid);
    expected.assert_eq(error.message());
}

#[test]
fn a_mistake_in_the_column_clause_is_answered_with_what_would_work() {
    check_refusal(
        &[plain("usr")],
        expect!["COLUMN: no column 'usr'; columns are user, small, device, mobile, price, at, words, nested, when"],
    );
    check_refusal(
        &[bucket("device", &[1.0])],
        expect![
            "COLUMN BUCKET(device, [1]): column 'device' is Utf8, not a number; write device, CATEGORY_ID(device) or CATEGORY_HASH(device, n)"
        ],
    );
    check_refusal(
        &[numeric("device")],
        expect![
            "COLUMN NUMERIC(device): column 'device' is Utf8, not a number; write device, CATEGORY_ID(device) or CATEGORY_HASH(device, n)"
        ],
    );
    check_refusal(
        &[numeric("when")],
        expect![
            "COLUMN NUMERIC(when): column 'when' is Timestamp(ms), not a number; write when for a key for each distinct time, or compute a number from it in the SELECT"
        ],
    );
    check_refusal(
        &[plain("nested")],
        expect![
            "COLUMN nested: column 'nested' is List(Int64), not a whole number, text, BOOLEAN or a time; convert it in the SELECT, for example with CAST(... AS BIGINT), AS DOUBLE or AS VARCHAR"
        ],
    );
    check_refusal(
        &[ColumnSpec::Category { column: "words".into() }],
        expect![
            "COLUMN CATEGORY_ID(words): column 'words' is List(non-null Struct(\"index\": non-null UInt64, \"value\": non-null Float32)), not a whole number, text, BOOLEAN or a time; write SPARSE(words)"
        ],
    );
    check_refusal(
        &[ColumnSpec::Sparse { column: "user".into() }],
        expect![
            "COLUMN SPARSE(user): column 'user' is Int64, not a SPARSE column (formats libsvm, libfm and vw); write user, CATEGORY_ID(user) or CATEGORY_HASH(user, n)"
        ],
    );
    check_refusal(
        &[bucket("user", &[2.0, 1.0])],
        expect!["COLUMN BUCKET(user, [2, 1]): boundaries must ascend, and there must be one at least"],
    );
    check_refusal(
        &[ColumnSpec::Hash { column: "user".into(), buckets: 0 }],
        expect!["COLUMN CATEGORY_HASH(user, 0): the number of buckets must be positive"],
    );
    check_refusal(
        &[plain("user"), ColumnSpec::Category { column: "user".into() }],
        expect!["COLUMN CATEGORY_ID(user): slot 'user' is there already; write it once"],
    );
    check_refusal(
        &[cross(vec![plain("user"), plain("price")], None)],
        expect![
            "COLUMN CROSS([user, price]): price cannot be crossed; write BUCKET(price, [...]) or CATEGORY_ID(price) there"
        ],
    );
    check_refusal(
        &[cross(vec![plain("user")], None)],
        expect!["COLUMN CROSS([user]): CROSS takes two columns or more"],
    );
}

/// The numbers whose keys in a slot begin with these 40 bits: XXH3 of eight bytes undone, which anybody can do who knows what
/// it was seeded with.
fn values_of_keys(slot: &str, first: u64, count: u64) -> Vec<i64> {
    const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;
    const SECRET: u64 = 0xc73a_b174_c5ec_d5a2;
    // Newton's iteration doubles the bits that are right.
    let inverse = (0..6).fold(FACTOR, |x, _| x.wrapping_mul(2u64.wrapping_sub(FACTOR.wrapping_mul(x))));
    let seed = hash64(slot.as_bytes(), 0);
    let seed = seed ^ ((seed as u32).swap_bytes() as u64) << 32;
    let value = |key: u64| {
        let h = (key ^ key >> 28 ^ key >> 56).wrapping_mul(inverse);
        let mut h = (h ^ (h >> 35).wrapping_add(8)).wrapping_mul(inverse);
        // p = 1 + r^49 + r^24 of rotations has p^64 = 1, so p^63 undoes it.
        (0..6).for_each(|i| h ^= h.rotate_left(49 << i & 63) ^ h.rotate_left(24 << i & 63));
        (h ^ SECRET.wrapping_sub(seed)).rotate_right(32) as i64
    };
    (0..count).map(|i| value(first << 24 | i)).collect()
}

/// F53, B49: who knows how keys are made chooses values whose keys crowd in one place; who does not know the secret does not.
#[test]
fn under_a_secret_chosen_values_have_keys_as_even_as_others() {
    let values = values_of_keys("user", 0x12_3456_789a, 6_000);
    let rows = RecordBatch::try_from_iter([("user", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap();
    let extract = |secret: u64| {
        let mut features = Features::new();
        Extractor::bind_under(&[plain("user")], &rows.schema(), secret).unwrap().extract(&rows, &mut features).unwrap();
        features
    };
    let most_in_one_place = |features: &Features| {
        let mut places = std::collections::BTreeMap::new();
        let users = features.keys.iter().zip(&features.slots).filter(|(_, slot)| **slot == 1);
        users.for_each(|(key, _)| *places.entry(key >> 52).or_insert(0) += 1);
        places.into_values().max()
    };
    assert_eq!(most_in_one_place(&extract(0)), Some(6_000));
    for secret in 1..20 {
        let most = most_in_one_place(&extract(secret));
        assert!(most < Some(14), "{most:?} under {secret}");
    }

    // A table takes them all, where it refuses those that one bucket has no room for.
    let refused = |features: &Features| {
        let table = ParamTable::new(TableSpec::new(2, 1 << 20), 1).unwrap();
        let mut part = table.write(0);
        let is_new = |key: &&u64| part.update_pair(**key, ABSENT, |_, _| Some((1.0, 1.0))) == Updated::Done;
        features.keys.len() - features.keys.iter().filter(is_new).count()
    };
    assert!(refused(&extract(0)) > 1_000);
    assert_eq!(refused(&extract(1)), 0);
}
