//! Programs made to exhaust something.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use proptest::prelude::*;

use super::{STREAMS, known, train_job};
use crate::{DEPTH_MAX, OPERATORS_MAX, bind};

fn message(sql: &str) -> String {
    match bind(sql, &known()) {
        Ok(_) => "bound".to_string(),
        Err(d) => format!("line {} col {}: {}", d.line, d.column, d.message),
    }
}

fn expression(text: &str) -> String {
    format!(
        "CREATE SOURCE s (a BIGINT, b BIGINT) WITH (connector='file', path='x.csv');
SELECT {text} AS x, b FROM s TO TRAIN FTRLClassifier COLUMN x LABEL b INTO m"
    )
}

/// No program may overflow the stack or take for ever, however it nests.
#[test]
fn b16_nesting_is_bounded_before_it_is_parsed() {
    let nested = |open: &str, close: &str, n: usize| format!("{}a{}", open.repeat(n), close.repeat(n));
    assert_eq!(message(&expression(&nested("(", ")", 50_000))), "line 2 col 136: expression deeper than 128");
    assert_eq!(message(&expression(&nested("(", ")", DEPTH_MAX))), "bound");
    assert_eq!(message(&expression(&nested("abs(", ")", DEPTH_MAX))), "bound");
    assert_eq!(message(&expression(&nested("CASE WHEN a > 1 THEN ", " END", DEPTH_MAX))), "bound");
    assert_eq!(message(&"x".repeat(10 << 20)), "line 1 col 1: program is 10485760 bytes; limit 262144");
    assert!(
        message(&expression(&nested("CASE WHEN a > 1 THEN ", " END", 9_000))).contains("expression deeper than 128")
    );
    assert!(message(&expression(&nested("NOT ", "", 50_000))).contains("operators hang on one another"));
    assert!(message(&expression(&nested("- ", "", 100_000))).contains("operators hang on one another"));
    assert!(message(&expression(&nested("a+", "", 100_000))).contains("operators hang on one another"));
    assert!(message(&expression(&nested("(a+", ")", 100))).contains("bound"));
    assert!(message(&expression(&nested("((a)+", ")", 20_000))).contains("expression deeper than 128"));
    assert_eq!(message(&expression(&nested("a+", "", OPERATORS_MAX))), "bound");
    let tables = format!("SELECT * FROM {}s{} TO TRAIN L LABEL a INTO m", "(".repeat(128), ")".repeat(128));
    assert!(message(&tables).starts_with("line 1 col"));
    let queries =
        format!("SELECT a FROM {}s{} TO TRAIN L LABEL a INTO m", "(SELECT a FROM ".repeat(128), ")".repeat(128));
    assert!(message(&queries).starts_with("line 1 col"));
}

/// What is let in must also run where the engine runs it: on an ordinary thread.
#[test]
fn the_tallest_expression_runs_on_a_small_stack() {
    let chain = format!("{}a", "a + ".repeat(OPERATORS_MAX));
    let nested = format!("{}a{}", "abs(".repeat(DEPTH_MAX), ")".repeat(DEPTH_MAX));
    let rows = RecordBatch::try_from_iter([
        ("a", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ("b", Arc::new(Int64Array::from(vec![0, 1]))),
    ])
    .expect("two columns");
    for text in [chain, nested] {
        let view = train_job(&expression(&text)).pipeline.left.view.expect("a view");
        let run = std::thread::Builder::new().stack_size(1 << 20).spawn({
            let rows = rows.clone();
            move || view.apply(&rows).expect("rows go through").rows.num_rows()
        });
        assert_eq!(run.expect("a thread").join().expect("no overflow"), 2);
    }
}

/// Views can double an expression at each step; what they amount to is bounded.
#[test]
fn expansion_of_views_is_bounded() {
    let mut sql = STREAMS.to_string();
    sql.push_str("CREATE VIEW v0 AS SELECT user_id AS x, clicked FROM samples;\n");
    for i in 1..60 {
        sql.push_str(&format!("CREATE VIEW v{i} AS SELECT x + x AS x, clicked FROM v{};\n", i - 1));
    }
    assert!(message(&sql).contains("with all views written out this is more than"), "{}", message(&sql));
    let mut long = STREAMS.to_string();
    for i in 0..900 {
        let below = if i == 0 { "samples".to_string() } else { format!("v{}", i - 1) };
        long.push_str(&format!("CREATE VIEW v{i} AS SELECT * FROM {below};\n"));
    }
    long.push_str("SELECT * FROM v899 TO TRAIN FTRLClassifier LABEL clicked INTO m");
    assert_eq!(message(&long), "bound");
    assert!(message(&"SHOW MODELS;".repeat(1001)).contains("more than 1000 statements"));
}

/// Text of any kind is answered, never a panic.
#[test]
fn cut_short_anywhere_a_program_is_refused_politely() {
    let sql = format!(
        "{STREAMS}SELECT UPPER(item) AS item, clicked FROM samples WHERE price > 1.5 EMIT EARLY INTERVAL '1' MINUTE \
         TO TRAIN FTRLClassifier WITH model.l1 = 1 COLUMN item, CROSS([item, \"item\"], 10) LABEL clicked INTO ctr"
    );
    let tail = sql.find("SELECT UPPER").expect("the last statement");
    for end in (tail..sql.len()).chain((0..tail).step_by(7)) {
        let _ = bind(&sql[..end], &known());
    }
    for odd in [
        "\0",
        "é",
        "'",
        "\"",
        "$$",
        "{{}}",
        "SELECT",
        "SELECT ;",
        ";;;",
        "\u{feff}SHOW MODELS",
        "SELECT * FROM \u{202e}x TO TRAIN a",
    ] {
        let _ = message(odd);
    }
}

const GOOD: &str = "SELECT i . item , price / 2 AS half , CASE WHEN user_id IS NULL THEN 'x' ELSE UPPER ( item ) END AS u , \
    ( c . imp_id IS NOT NULL ) AS clicked FROM impressions i LEFT JOIN clicks c ON i . imp_id = c . imp_id AND c . rt \
    BETWEEN i . rt AND i . rt + INTERVAL '10' MINUTE WHERE price > 1.5 EMIT EARLY INTERVAL '1' MINUTE CORRECT RETRACT \
    TO TRAIN FTRLClassifier WITH model.alpha = 0.1 , validate.oracle = half COLUMN item , CROSS ( [ item , u ] , 10 ) , \
    BUCKET ( u , [ 1 , 2 ] ) LABEL clicked INTO ctr ; CREATE VIEW v AS SELECT * FROM samples ; SHOW MODELS";

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Words left out, doubled or exchanged: an answer with a place inside the text, never a panic.
    #[test]
    fn a_shuffled_program_gets_an_answer(edits in prop::collection::vec((0usize..140, 0usize..140, 0u8..3), 1..6)) {
        let mut words: Vec<&str> = GOOD.split_whitespace().collect();
        for (a, b, what) in edits {
            let (a, b) = (a % words.len(), b % words.len());
            match what {
                0 => words.swap(a, b),
                1 => words[a] = words[b],
                _ => { words.remove(a); }
            }
        }
        let sql = format!("{STREAMS}{}", words.join(" "));
        if let Err(d) = bind(&sql, &known()) {
            let line = sql.lines().nth(d.line as usize - 1).unwrap_or("");
            prop_assert!(d.column as usize <= line.chars().count() + 1, "{d}");
            prop_assert!(!d.message.is_empty() && !d.message.contains("Error"), "{d}");
        }
    }
}
