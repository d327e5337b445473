//! CREATE FEATURE VIEW and FOR SYSTEM_TIME AS OF: what they bind to, and what is refused.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray},
    datatypes::{Float64Type, Int64Type},
};
use expect_test::expect;
use tidemill_base::Result;
use tidemill_stream::{Transform, aggregate::LookUp};

use super::{STREAMS, bound, refused, train_job};

const VIEW: &str = "CREATE FEATURE VIEW user_ctr KEYED BY user_id AS
  SELECT COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
    COUNT(click) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS clk_1h,
    RATIO(clk_1h, imp_1h, 20, 0.03) AS ctr_1h
  FROM impressions imp, clicks_by_user click;
";

/// The first example of the manual, with the user in its clicks.
fn streams() -> String {
    STREAMS.replace("clicks (imp_id BIGINT, kind", "clicks (imp_id BIGINT, user_id BIGINT, kind").replace(
        "CREATE STREAM samples AS",
        "CREATE VIEW clicks_by_user AS SELECT user_id, kind FROM clicks WHERE kind <> 'bot';
         CREATE STREAM plain AS",
    )
}

fn program(query: &str) -> String {
    format!("{}{VIEW}{query}", streams())
}

const QUERY: &str =
    "SELECT i.user_id, i.price * 2 AS double_price, f.*, f.clk_1h + 1 AS more, (c.imp_id IS NOT NULL) AS clicked
  FROM impressions i
  LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
  LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
  WHERE i.price > 1 AND f.imp_1h < 100
  TO TRAIN FTRLClassifier LABEL clicked INTO ctr";

#[test]
fn a_feature_view_is_carried_by_the_impressions() {
    expect![[r#"
        train FTRLClassifier into ctr
          from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries imp_id BIGINT, price DOUBLE, rt TIMESTAMP, user_id BIGINT
          join clicks (file clicks.jsonl, bounded), time rt less 10s, carries imp_id BIGINT, rt TIMESTAMP, user_id BIGINT, view 3 BOOLEAN
            on imp_id = imp_id within 10m, emit on window close, at most 1000000 pending, keys once
          view user_ctr read by user_id, fed by impressions by user_id and clicks (filtered) by user_id, kept 65m, at most 10000000 keys: imp_1h BIGINT, clk_1h BIGINT, ctr_1h DOUBLE
          output: user_id BIGINT, double_price DOUBLE, imp_1h BIGINT, clk_1h BIGINT, ctr_1h DOUBLE, more BIGINT, clicked BOOLEAN
          feedback: clicked
          features: user_id, double_price, imp_1h, clk_1h, ctr_1h, more
          label: clicked
    "#]].assert_eq(&bound(&program(QUERY)).to_string());
}

/// A view keeps its name when it is joined in a view below, and a job's text binds again.
#[test]
fn a_view_below_may_read_it_and_the_jobs_text_binds_again() {
    let job = train_job(&program(
        "CREATE VIEW known AS SELECT i.*, f.ctr_1h FROM impressions AS i
           LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt AS f ON i.user_id = f.user_id WHERE f.imp_1h > 0;
         SELECT k.*, c.imp_id IS NOT NULL AS y FROM known k LEFT JOIN clicks c
         ON k.imp_id = c.imp_id AND c.rt BETWEEN k.rt AND k.rt + INTERVAL '10' MINUTE
         TO TRAIN FTRLClassifier COLUMN item, ctr_1h LABEL y INTO m",
    ));
    let again = train_job(&job.text);
    assert_eq!(job.fingerprint, again.fingerprint);
    assert!(job.text.contains("CREATE FEATURE VIEW user_ctr") && job.text.contains("VIEW clicks_by_user"));
    assert_eq!(job.pipeline.views.expect("views").specs, again.pipeline.views.expect("views").specs);
}

/// Whatever a view keeps is part of what is learned.
#[test]
fn the_fingerprint_knows_the_view() {
    let base = program(QUERY);
    let of = |sql: &str| train_job(sql).fingerprint;
    for (from, to) in [
        ("PANE '5' MINUTE) AS imp", "PANE '6' MINUTE) AS imp"),
        ("20, 0.03", "20, 0.04"),
        ("kind <> 'bot'", "kind <> 'robot'"),
        (
            "FROM impressions imp, clicks_by_user click;",
            "FROM impressions imp, clicks_by_user click WITH (ttl = '3h');",
        ),
        ("f.user_id = i.user_id", "f.user_id = i.imp_id"),
    ] {
        assert!(base.contains(from));
        assert_ne!(of(&base), of(&base.replace(from, to)), "{from} -> {to}");
    }
    assert_eq!(
        of(&base),
        of(&base.replace("clicks_by_user click;", "clicks_by_user click WITH (keys_max = 10000000);"))
    );
}

/// Who was asked what: answers with the key and the time.
struct Echo;

impl LookUp for Echo {
    fn look_up(&self, keys: &[ArrayRef], times: &[Option<i64>]) -> Result<Vec<ArrayRef>> {
        let key = keys[0].clone();
        let time = Arc::new(Int64Array::from_iter(times.iter().map(|t| Some(t.unwrap_or(-1)))));
        let ratio = Arc::new(arrow::array::Float64Array::from(vec![0.5; times.len()]));
        Ok(vec![key, time, ratio])
    }
}

/// A request asks under its key at its event time, and what follows is computed from the answer; without one it asks for now.
#[test]
fn a_request_is_answered_by_the_views() {
    let job = train_job(&program(QUERY));
    let columns = job.pipeline.left.source.columns.clone();
    let null = |name: &str| {
        let ty = columns.field_with_name(name).unwrap().data_type();
        arrow::array::new_null_array(ty, 2)
    };
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("imp_id", null("imp_id"), true),
        ("user_id", Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef, true),
        ("item", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef, true),
        ("price", null("price"), true),
        ("ts", Arc::new(Int64Array::from(vec![Some(5000), None])) as ArrayRef, true),
    ])
    .unwrap();
    let out = job.pipeline.request_with(Arc::new(Echo)).apply(&rows).unwrap().rows;
    let whole = |name: &str| out.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(whole("imp_1h"), [Some(7), Some(8)]);
    assert_eq!(whole("clk_1h"), [Some(5000), Some(-1)]);
    assert_eq!(whole("more"), [Some(5001), Some(0)]);
    assert_eq!(out.column_by_name("ctr_1h").unwrap().as_primitive::<Float64Type>().values().to_vec(), [0.5, 0.5]);
    assert_eq!(out.column_by_name("clicked").unwrap().null_count(), 2);
    // Nobody fed the views: counts are 0 and the ratio is its prior.
    let unfed = job.pipeline.request.apply(&rows).unwrap().rows;
    assert_eq!(unfed.column_by_name("imp_1h").unwrap().as_primitive::<Int64Type>().values().to_vec(), [0, 0]);
    assert_eq!(unfed.column_by_name("ctr_1h").unwrap().as_primitive::<Float64Type>().value(0), 20.0 * 0.03 / 20.0);
}

/// Whoever asks what a request needs is told what features and look-ups read, and that it may do without a time.
#[test]
fn a_request_reads_what_features_and_keys_are_made_of() {
    let job = train_job(&program(QUERY));
    let columns = job.pipeline.left.source.columns.clone();
    let request = job.pipeline.request_with(Arc::new(Echo));
    let names = |of: Vec<usize>| of.into_iter().map(|i| columns.field(i).name().clone()).collect::<Vec<_>>();
    assert_eq!(names(request.reads().expect("not all")), ["user_id", "price", "ts"]);
    assert_eq!(names(request.optional()), ["ts"]);
    // A feature that is made of the time needs it.
    let job = train_job(&program(&QUERY.replace("i.price * 2 AS double_price", "i.ts % 7 AS weekday")));
    let request = job.pipeline.request_with(Arc::new(Echo));
    assert_eq!(names(request.reads().expect("not all")), ["user_id", "ts"]);
    assert_eq!(request.optional(), Vec::<usize>::new());
}

/// Filters come behind the views: what the query leaves out was carried, and is dropped then; what fails on it never runs.
#[test]
fn filters_follow_the_views() {
    let sql = program(
        &QUERY
            .replace("i.price * 2 AS double_price", "10 / i.imp_id AS inverse")
            .replace("i.price > 1", "i.imp_id > 0"),
    );
    let job = train_job(&sql);
    let part = job.pipeline.views.as_ref().expect("views");
    let carried = job.pipeline.left.output();
    let columns: Vec<ArrayRef> = carried
        .fields()
        .iter()
        .map(|f| match f.name().as_str() {
            "imp_id" => Arc::new(Int64Array::from(vec![0, 5])) as ArrayRef,
            "rt" => Arc::new(TimestampMillisecondArray::from(vec![1, 2])) as ArrayRef,
            _ => arrow::array::new_null_array(f.data_type(), 2),
        })
        .chain([
            Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef,
            Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef,
            Arc::new(arrow::array::Float64Array::from(vec![0.1, 0.2])) as ArrayRef,
        ])
        .collect();
    let wide = RecordBatch::try_new(tidemill_stream::aggregate::with_views(&carried, &part.specs), columns).unwrap();
    let after: &dyn Transform = part.after[0].as_deref().expect("the impressions' own");
    let t = after.apply(&wide).unwrap();
    assert_eq!((t.kept, t.refused.len(), t.rows.num_rows()), (Some(vec![1]), 0, 1));
}

#[test]
fn what_a_feature_view_cannot_be_is_refused() {
    let view = |from: &str, to: &str| {
        assert!(VIEW.contains(from), "{from}");
        format!("{}{}{QUERY}", streams(), VIEW.replacen(from, to, 1))
    };
    let query = |from: &str, to: &str| {
        assert!(QUERY.contains(from), "{from}");
        program(&QUERY.replacen(from, to, 1))
    };
    let cases = [
        view("KEYED BY user_id", "KEYED user_id"),
        view("KEYED BY user_id", "KEYED BY usr_id"),
        view("COUNT(imp)", "COUNTS(imp)"),
        view("COUNT(imp)", "COUNT(*)"),
        view("COUNT(imp)", "SUM(imp)"),
        view("COUNT(imp)", "SUM(imp.item)"),
        view("COUNT(imp)", "SUM(imp.prise)"),
        view("COUNT(imp)", "SUM(imp.price + click.user_id)"),
        view("OVER SAWTOOTH", "OVER SAWTOTH"),
        view("PANE '5' MINUTE", "PANE '7' MINUTE"),
        view("PANE '5' MINUTE", "PANE '5' MINUT"),
        view("COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE)", "COUNT(imp)"),
        view(
            "COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE)",
            "MAX(imp.price) OVER DECAY (INTERVAL '1' HOUR)",
        ),
        view("COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE)", "LAST(imp.item, 99)"),
        view("RATIO(clk_1h, imp_1h, 20, 0.03)", "RATIO(clk_2h, imp_1h, 20, 0.03)"),
        view("RATIO(clk_1h, imp_1h, 20, 0.03)", "RATIO(clk_1h, imp_1h, 20)"),
        view("AS clk_1h", "AS imp_1h"),
        view("FROM impressions imp, clicks_by_user click", "FROM impressions imp, clicks_by_user imp"),
        view("click;", "click WITH (tll = '3h');"),
        view("click;", "click WHERE imp.price > 3;"),
        query("LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f", "LEFT JOIN user_ctr f"),
        query("AS OF i.rt", "AS OF i.ts"),
        query("f.user_id = i.user_id", "f.user_id = c.user_id"),
        query("f.user_id = i.user_id", "f.user_id = i.item"),
        query("f.user_id = i.user_id", "f.imp_1h = i.user_id"),
        query("f.user_id = i.user_id", "f.user_id = i.user_id AND i.price > 3"),
        query("LEFT JOIN user_ctr", "LEFT JOIN user_crt"),
        query("f.user_id = i.user_id", "f.user_id = i.user"),
        query("f.clk_1h + 1", "f.clk_1 + 1"),
        query("FROM impressions i", "FROM user_ctr i"),
        query(
            "LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
            "LEFT JOIN clicks FOR SYSTEM_TIME AS OF i.rt c ON i.imp_id = c.imp_id",
        ),
        program(
            "SELECT i.user_id, f.ctr_1h, i.price > 1 AS y FROM impressions i
             LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
             TO TRAIN FTRLClassifier LABEL y INTO m",
        ),
    ];
    let cases: Vec<&str> = cases.iter().map(String::as_str).collect();
    refused(
        &cases,
        expect![[r#"
            line 10 col 30: expected KEYED BY, found 'KEYED'
              10 | CREATE FEATURE VIEW user_ctr KEYED user_id AS
                 |                              ^^^^^
            line 10 col 39: no column 'usr_id' in 'imp'; did you mean 'user_id'?
              10 | CREATE FEATURE VIEW user_ctr KEYED BY usr_id AS
                 |                                       ^^^^^^
            line 11 col 10: no aggregate 'COUNTS'; did you mean 'COUNT'?
              11 |   SELECT COUNTS(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |          ^^^^^^
            line 11 col 16: COUNT(*) of which stream?; write COUNT(imp) or COUNT(click)
              11 |   SELECT COUNT(*) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |                ^
            line 11 col 14: SUM takes a column; only COUNT takes a whole stream; write SUM(imp.column)
              11 |   SELECT SUM(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |              ^^^
            line 11 col 29: user_ctr.imp_1h: a number is needed, this column is Utf8
              11 |   SELECT SUM(imp.item) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |                             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 11 col 18: no column 'prise' in 'imp'; did you mean 'price'?
              11 |   SELECT SUM(imp.prise) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |                  ^^^^^
            line 11 col 14: an aggregate is over the columns of one stream; streams: imp, click
              11 |   SELECT SUM(imp.price + click.user_id) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |              ^^^^^^^^^^^^^^^^^^^^^^^^^
            line 11 col 26: expected SAWTOOTH, TUMBLE, HOP, SESSION or DECAY, found 'SAWTOTH'; did you mean SAWTOOTH?
              11 |   SELECT COUNT(imp) OVER SAWTOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |                          ^^^^^^^
            line 11 col 26: SAWTOOTH: 3600000 ms are not a whole number of panes of 420000 ms; write lengths that divide
              11 |   SELECT COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '7' MINUTE) AS imp_1h,
                 |                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 11 col 60: unknown time unit 'MINUT'; did you mean 'MINUTE'?
              11 |   SELECT COUNT(imp) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUT) AS imp_1h,
                 |                                                            ^^^^^^^^^
            line 11 col 10: user_ctr.imp_1h: a window is needed: OVER SAWTOOTH (...)
              11 |   SELECT COUNT(imp) AS imp_1h,
                 |          ^^^^^
            line 11 col 30: user_ctr.imp_1h: DECAY goes with COUNT, SUM and MEAN; take SAWTOOTH
              11 |   SELECT MAX(imp.price) OVER DECAY (INTERVAL '1' HOUR) AS imp_1h,
                 |                              ^^^^^^^^^^^^^^^^^^^^^^^^^
            line 11 col 25: LAST keeps 1 to 32 values, got 99
              11 |   SELECT LAST(imp.item, 99) AS imp_1h,
                 |                         ^^
            line 13 col 11: RATIO takes columns that stand before it, not 'clk_2h'; did you mean 'clk_1h'?
              13 |     RATIO(clk_2h, imp_1h, 20, 0.03) AS ctr_1h
                 |           ^^^^^^
            line 13 col 27: smoothing takes alpha and prior, both; write RATIO(clicks_1h, impressions_1h, 20, 0.03)
              13 |     RATIO(clk_1h, imp_1h, 20) AS ctr_1h
                 |                           ^^
            line 12 col 72: column 'imp_1h' is there already
              12 |     COUNT(click) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
                 |                                                                        ^^^^^^
            line 14 col 40: 'imp' names two streams; give one an alias
              14 |   FROM impressions imp, clicks_by_user imp;
                 |                                        ^^^
            line 14 col 52: a feature view has no attribute 'tll'; did you mean 'ttl'?
              14 |   FROM impressions imp, clicks_by_user click WITH (tll = '3h');
                 |                                                    ^^^
            line 14 col 46: not supported yet: this clause of a feature view; filter a stream in CREATE VIEW and take that in FROM
              14 |   FROM impressions imp, clicks_by_user click WHERE imp.price > 3;
                 |                                              ^^^^^
            line 18 col 22: feature view 'user_ctr' is read as of the impression; write LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
              18 |   LEFT JOIN user_ctr f ON f.user_id = i.user_id
                 |                      ^
            line 18 col 22: a feature view is read at the impression's event time, and at no other; that is 'rt' (WATERMARK FOR); the views below must select it as it is
              18 |   LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.ts f ON f.user_id = i.user_id
                 |                      ^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 18 col 54: a feature view is read under a key that the impression itself has; write LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
              18 |   LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = c.user_id
                 |                                                      ^^^^^^^^^^^^^^^^^^^^^
            line 18 col 54: keys have different types: 'i.item' is STRING, the view's key BIGINT
              18 |   LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.item
                 |                                                      ^^^^^^^^^^^^^^^^^^
            line 18 col 54: a feature view is joined on its key, 'user_id', and nothing else; write LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
              18 |   LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.imp_1h = i.user_id
                 |                                                      ^^^^^^^^^^^^^^^^^^^^
            line 18 col 54: a feature view is joined on its key, 'user_id', and nothing else; write LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
              18 |   LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id AND i.price > 3
                 |                                                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 18 col 13: no feature view 'user_crt'; did you mean 'user_ctr'?
              18 |   LEFT JOIN user_crt FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
                 |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 18 col 66: 'user' has a meaning of its own in SQL; as a column write i."user"
              18 |   LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user
                 |                                                                  ^^^^^^
            line 15 col 55: no column 'clk_1' in 'f'; did you mean 'clk_1h'?
              15 | SELECT i.user_id, i.price * 2 AS double_price, f.*, f.clk_1 + 1 AS more, (c.imp_id IS NOT NULL) AS clicked
                 |                                                       ^^^^^
            line 16 col 8: feature view 'user_ctr' is joined, not selected from; write FROM impressions i LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
              16 |   FROM user_ctr i
                 |        ^^^^^^^^
            line 17 col 20: not supported yet: FOR SYSTEM_TIME AS OF on what is no feature view; only feature views are read as of a time: CREATE FEATURE VIEW ...
              17 |   LEFT JOIN clicks FOR SYSTEM_TIME AS OF i.rt c ON i.imp_id = c.imp_id
                 |                    ^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 16 col 65: feature view 'user_ctr' counts events of 'clicks', which this query does not read; take the impressions, or the feedback of the label join
              16 |              LEFT JOIN user_ctr FOR SYSTEM_TIME AS OF i.rt f ON f.user_id = i.user_id
                 |                                                                 ^^^^^^^^^^^^^^^^^^^^^
        "#]],
    );
}
