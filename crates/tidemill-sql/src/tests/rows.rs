//! Transforms on rows: values, NULLs, filters, and the rows that are refused.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray},
    util::display::array_value_to_string,
};
use expect_test::{Expect, expect};
use tidemill_stream::{Transform, Transformed};

use super::{STREAMS, train_job};

/// Ten rows of (a, b, s) with NULLs.
fn rows() -> RecordBatch {
    let a = [Some(1), Some(2), None, Some(4), Some(i64::MAX), Some(6), Some(7), Some(8), Some(9), Some(10)];
    let b = [Some(1), Some(0), Some(3), None, Some(5), Some(0), Some(7), Some(-1), Some(9), Some(10)];
    let s =
        [Some("1"), Some("x"), None, Some(" 4"), Some("5"), Some("6"), Some("7.5"), Some(""), Some("9"), Some("10")];
    batch(vec![
        ("a", Arc::new(Int64Array::from(a.to_vec()))),
        ("b", Arc::new(Int64Array::from(b.to_vec()))),
        ("s", Arc::new(StringArray::from(s.to_vec()))),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
        .expect("columns of one length")
}

fn view(select: &str) -> Arc<dyn Transform> {
    let job = train_job(&format!(
        "CREATE SOURCE t (a BIGINT, b BIGINT, s STRING) WITH (connector = 'file', path = 't.csv');
         {select} TO TRAIN FTRLClassifier LABEL y INTO m"
    ));
    job.pipeline.left.view.expect("a view over t")
}

fn render(out: &Transformed) -> String {
    let mut text = String::new();
    let names: Vec<&str> = out.rows.schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
    text.push_str(&format!("{}\n", names.join(" ")));
    for i in 0..out.rows.num_rows() {
        let row = out.kept.as_ref().map_or(i as u32, |k| k[i]);
        let values = out.rows.columns().iter().map(|c| match c.is_null(i) {
            true => "NULL".to_string(),
            false => array_value_to_string(c, i).expect("a value"),
        });
        text.push_str(&format!("{row}: {}\n", values.collect::<Vec<_>>().join(" ")));
    }
    out.refused.iter().for_each(|(row, reason)| text.push_str(&format!("{row} refused: {reason}\n")));
    text
}

fn check(select: &str, expected: Expect) {
    let transform = view(select);
    let all = render(&transform.apply(&rows()).expect("rows go through"));
    expected.assert_eq(&all);
    // How rows are cut into batches must not matter.
    for size in [1, 3, 7] {
        let mut text = all.lines().next().unwrap_or("").to_string() + "\n";
        let mut refused = String::new();
        for from in (0..10).step_by(size) {
            let part = transform.apply(&rows().slice(from, size.min(10 - from))).expect("rows go through");
            for line in render(&part).lines().skip(1) {
                let (row, rest) = line.split_once([':', ' ']).expect("a row number");
                let row: usize = row.parse::<usize>().expect("a row number") + from;
                match rest.strip_prefix("refused") {
                    Some(rest) => refused.push_str(&format!("{row} refused{rest}\n")),
                    None => text.push_str(&format!("{row}:{rest}\n")),
                }
            }
        }
        assert_eq!(all, text + &refused, "in batches of {size}");
    }
}

/// A row on which an expression fails is refused, and only that row.
#[test]
fn a_failing_expression_refuses_its_row() {
    check(
        "SELECT a / b AS ratio, a > 2 AS y FROM t",
        expect![[r#"
        ratio y
        0: 1 false
        2: NULL NULL
        3: NULL true
        4: 1844674407370955161 true
        6: 1 true
        7: -8 true
        8: 1 true
        9: 1 true
        1 refused: column 'ratio': division by zero in 'a / b'
        5 refused: column 'ratio': division by zero in 'a / b'
    "#]],
    );
    check(
        "SELECT a + 1 AS next, a * b AS area, a > 2 AS y FROM t",
        expect![[r#"
        next area y
        0: 2 1 false
        1: 3 0 false
        2: NULL NULL NULL
        3: 5 NULL true
        5: 7 0 true
        6: 8 49 true
        7: 9 -8 true
        8: 10 81 true
        9: 11 100 true
        4 refused: column 'next': integer overflow in 'a + 1'
    "#]],
    );
    check(
        "SELECT CAST(s AS BIGINT) AS n, TRY_CAST(s AS DOUBLE) AS x, CAST(a AS STRING) AS t, a::VARCHAR || '?' AS v, a > 2 AS y FROM t",
        expect![[r#"
            n x t v y
            0: 1 1.0 1 1? false
            2: NULL NULL NULL NULL NULL
            3: 4 4.0 4 4? true
            4: 5 5.0 9223372036854775807 9223372036854775807? true
            5: 6 6.0 6 6? true
            8: 9 9.0 9 9? true
            9: 10 10.0 10 10? true
            1 refused: column 'n': cannot cast string 'x' to value of BIGINT type in 'CAST(s AS BIGINT)'
            6 refused: column 'n': cannot cast string '7.5' to value of BIGINT type in 'CAST(s AS BIGINT)'
            7 refused: column 'n': cannot cast string '' to value of BIGINT type in 'CAST(s AS BIGINT)'
        "#]],
    );
    check(
        "SELECT s, a > 2 AS y FROM t WHERE 10 / b > 1",
        expect![[r#"
        s y
        0: 1 false
        2: NULL NULL
        4: 5 true
        1 refused: WHERE: division by zero in '10 / b > 1'
        5 refused: WHERE: division by zero in '10 / b > 1'
    "#]],
    );
}

/// AND, CASE and the filters of views protect what stands behind them, whatever rows share the batch.
#[test]
fn a_guarded_expression_refuses_nothing() {
    check(
        "SELECT CASE WHEN b <> 0 THEN a / b ELSE -1 END AS ratio, b <> 0 AND a / b > 1 AS y FROM t",
        expect![[r#"
            ratio y
            0: 1 false
            1: -1 false
            2: NULL NULL
            3: -1 NULL
            4: 1844674407370955161 true
            5: -1 false
            6: 1 false
            7: -8 false
            8: 1 false
            9: 1 false
        "#]],
    );
    check(
        "SELECT a / b AS ratio, a > 2 AS y FROM (SELECT * FROM t WHERE b <> 0) AS v WHERE a / b >= 1",
        expect![[r#"
            ratio y
            0: 1 false
            4: 1844674407370955161 true
            6: 1 true
            8: 1 true
            9: 1 true
        "#]],
    );
    check(
        "SELECT a % b AS rest, a > 2 AS y FROM t WHERE b IS NOT NULL AND b > 0 AND a % b = 0",
        expect![[r#"
        rest y
        0: 0 false
        6: 0 true
        8: 0 true
        9: 0 true
    "#]],
    );
}

/// NULL is neither true nor false, and does not pass a filter.
#[test]
fn null_behaves_as_in_sql() {
    check(
        "SELECT COALESCE(a, -1) AS a0, s || '!' AS t, NULLIF(b, 0) AS b0, a IS NULL AS none, UPPER(s) AS u, a > 2 AS y
         FROM t WHERE NOT (b = 9)",
        expect![[r#"
            a0 t b0 none u y
            0: 1 1! 1 false 1 false
            1: 2 x! NULL false X false
            2: -1 NULL 3 true NULL NULL
            4: 9223372036854775807 5! 5 false 5 true
            5: 6 6! NULL false 6 true
            6: 7 7.5! 7 false 7.5 true
            7: 8 ! -1 false  true
            9: 10 10! 10 false 10 true
        "#]],
    );
    check(
        "SELECT LENGTH(s) AS n, CAST(a AS DOUBLE) / 4 AS quarter, s LIKE '%5' AS five, a IN (1, 2) AS y FROM t",
        expect![[r#"
            n quarter five y
            0: 1 0.25 false true
            1: 1 0.5 false true
            2: NULL NULL NULL NULL
            3: 2 1.0 false false
            4: 1 2.305843009213694e18 true false
            5: 1 1.5 false false
            6: 3 1.75 true false
            7: 0 2.0 false false
            8: 1 2.25 false false
            9: 2 2.5 false false
        "#]],
    );
}

/// Passing a column on costs nothing a row: it is the same memory.
#[test]
fn a_column_that_is_only_passed_on_is_shared() {
    let transform = view("SELECT s, a AS other, b AS y FROM t");
    let rows = rows();
    let out = transform.apply(&rows).expect("rows go through");
    assert!(out.kept.is_none());
    assert_eq!(out.rows.schema().field(2).name(), "y");
    assert!(Arc::ptr_eq(out.rows.column(0), rows.column(2)));
    assert!(Arc::ptr_eq(out.rows.column(2), rows.column(1)));
}

/// A joined row and the same row in a request give the same features; a request has no filter and no feedback.
#[test]
fn a_request_gives_what_training_saw() {
    let job = train_job(&format!(
        "{STREAMS}CREATE VIEW dear AS SELECT *, price * 2 AS twice, UPPER(item) AS name FROM samples WHERE price > 10;
         SELECT twice, name, user_id, clicked, imp_id FROM dear TO TRAIN FTRLClassifier COLUMN twice, name, user_id LABEL clicked INTO m"
    ));
    let rows = batch(vec![
        ("imp_id", Arc::new(Int64Array::from(vec![Some(1), Some(2), None]))),
        ("user_id", Arc::new(Int64Array::from(vec![Some(7), None, Some(9)]))),
        ("item", Arc::new(StringArray::from(vec![Some("pen"), Some("ink"), None]))),
        ("price", Arc::new(Float64Array::from(vec![Some(20.0), Some(1.0), None]))),
        ("ts", Arc::new(Int64Array::from(vec![Some(1000), Some(2000), None]))),
    ]);
    let request = job.pipeline.request.apply(&rows).expect("a request goes through");
    expect![[r#"
        twice name user_id clicked
        0: 40.0 PEN 7 NULL
        1: 2.0 INK NULL NULL
        2: NULL NULL 9 NULL
    "#]]
    .assert_eq(&render(&request));
    assert_eq!(request.rows.schema(), job.pipeline.output);

    let left = &job.pipeline.left;
    let widened = left.computed.as_ref().expect("rt is computed").apply(&rows).expect("rows go through");
    let left_rows = left.view.as_ref().expect("a filter").apply(&widened.rows).expect("rows go through");
    let join = job.pipeline.join.as_ref().expect("a join");
    expect![[r#"
        twice name user_id imp_id
        0: 40.0 PEN 7 1
        key 3
    "#]]
    .assert_eq(&format!("{}key {}\n", render(&left_rows), join.spec.feedback[0].left_key));
    // One impression, once with feedback and once without.
    let right = join.right[0].output();
    assert_eq!(right.fields().len(), 1);
    for key in [Some(1), None] {
        let mut columns = left_rows.rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from(vec![key])));
        let fields: Vec<_> = left_rows.rows.schema().fields().iter().chain(right.fields().iter()).cloned().collect();
        let joined =
            RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).expect("a joined row");
        let out = job.pipeline.post.apply(&joined).expect("rows go through").rows;
        assert_eq!(out.schema(), job.pipeline.output);
        let clicked = out.column(job.label).as_any().downcast_ref::<BooleanArray>().expect("the label").clone();
        assert_eq!(clicked.value(0), key.is_some());
        let features = |rows: &RecordBatch| rows.slice(0, 1).project(&[0, 1, 2]).expect("three features");
        assert_eq!(features(&out), features(&request.rows));
    }
}

/// A view over a source with a computed column: the event time is found where the engine looks for it.
#[test]
fn computed_columns_stand_behind_the_sources_own() {
    let job = train_job(&format!(
        "{STREAMS}SELECT item, price > 1 AS y FROM impressions TO TRAIN FTRLClassifier LABEL y INTO m"
    ));
    let left = &job.pipeline.left;
    let computed = left.computed.as_ref().expect("rt is computed").output();
    assert_eq!(computed.field(left.event_time.expect("an event time")).name(), "rt");
    assert_eq!(left.source.columns.fields().len() + 1, computed.fields().len());
    assert!(job.pipeline.join.is_none());
    let seconds = train_job(
        "CREATE SOURCE t (s BIGINT, x INT, rt AS TO_TIMESTAMP_S(s), h AS date_part('hour', rt), WATERMARK FOR rt)
         WITH (connector = 'file', path = 't.csv');
         SELECT h, x FROM t TO TRAIN FTRLClassifier LABEL x INTO m",
    );
    let rows = batch(vec![
        ("s", Arc::new(Int64Array::from(vec![3 * 3600 + 59, -1]))),
        ("x", Arc::new(arrow::array::Int32Array::from(vec![0, 1]))),
    ]);
    let out = seconds.pipeline.left.computed.expect("computed").apply(&rows).expect("rows go through");
    expect![[r#"
        s x rt h
        0: 10859 0 1970-01-01T03:00:59 3
        1: -1 1 1969-12-31T23:59:59 23
    "#]]
    .assert_eq(&render(&out));
}
