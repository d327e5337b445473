//! Programs that bind, and what they bind to.

use expect_test::{Expect, expect};

use super::{STREAMS, bound, train_job};

fn check(sql: &str, expected: Expect) {
    expected.assert_eq(&bound(sql).to_string());
}

fn check_streams(sql: &str, expected: Expect) {
    check(&format!("{STREAMS}{sql}"), expected);
}

/// What goes into the join stays in memory, so only what the job needs goes in; COLUMN absent means everything but key,
/// times, label and feedback.
#[test]
fn a_label_join_carries_only_what_the_job_needs() {
    check_streams(
        "SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.l1 = 1, train.batch_size=256 LABEL clicked INTO ctr;",
        expect![[r#"
            train FTRLClassifier into ctr
              model.l1 = 1
              train.batch_size = 256
              from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries user_id BIGINT, item STRING, price DOUBLE, imp_id BIGINT
              join clicks (file clicks.jsonl, bounded), time rt less 10s, carries imp_id BIGINT
                on imp_id = imp_id within 10m, emit on window close, at most 1000000 pending, keys once
              output: user_id BIGINT, item STRING, price DOUBLE, clicked BOOLEAN
              feedback: clicked
              features: user_id, item, price
              label: clicked
        "#]],
    );
    check_streams(
        "SELECT * FROM samples TO TRAIN FTRLClassifier COLUMN item LABEL clicked INTO ctr",
        expect![[r#"
        train FTRLClassifier into ctr
          from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries item STRING, imp_id BIGINT
          join clicks (file clicks.jsonl, bounded), time rt less 10s, carries imp_id BIGINT
            on imp_id = imp_id within 10m, emit on window close, at most 1000000 pending, keys once
          output: item STRING, clicked BOOLEAN
          feedback: clicked
          features: item
          label: clicked
    "#]],
    );
}

/// The order of conjuncts and of operands is the writer's; EMIT may stand with the join or above it.
#[test]
fn the_join_is_found_in_any_spelling() {
    let bound_with = |on: &str| {
        bound(&format!(
            "{STREAMS}SELECT i.item, CASE WHEN c.imp_id IS NOT NULL THEN 1 ELSE 0 END AS y FROM impressions i \
             LEFT OUTER JOIN clicks AS c ON {on} EMIT IMMEDIATE CORRECT RETRACT TO TRAIN FTRLClassifier LABEL y INTO m"
        ))
        .to_string()
    };
    let first = bound_with("i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' HOUR");
    expect![[r#"
        train FTRLClassifier into m
          from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries item STRING, imp_id BIGINT
          join clicks (file clicks.jsonl, bounded), time rt less 10s, carries imp_id BIGINT
            on imp_id = imp_id within 1h, emit at once, at most 1000000 pending, keys once
          output: item STRING, y BIGINT
          feedback: y
          features: item
          label: y
    "#]]
    .assert_eq(&first);
    for on in [
        "c.rt BETWEEN i.rt AND i.rt + INTERVAL '60 minutes' AND c.imp_id = i.imp_id",
        "(c.rt >= i.rt AND c.rt <= i.rt + INTERVAL 3600 SECOND) AND i.imp_id = c.imp_id",
        "i.rt + INTERVAL '1' HOUR >= c.rt AND (i.rt <= c.rt) AND i.IMP_ID = c.imp_id",
        "i.imp_id = c.imp_id AND c.rt >= i.rt AND c.rt - INTERVAL '30' MINUTE <= i.rt + INTERVAL '30' MINUTE",
    ] {
        assert_eq!(first, bound_with(on), "{on}");
    }
}

/// Over live sources a sample leaves early by default; over history at the window's close.
#[test]
fn emission_follows_the_sources_unless_it_is_said() {
    let emit = |sql: &str| {
        let job = train_job(sql);
        format!("{:?}", job.pipeline.join.expect("a join").spec.emit)
    };
    let end = " TO TRAIN FTRLClassifier LABEL clicked INTO m";
    let live = STREAMS.replace("path = 'clicks.jsonl'", "path = 'clicks.jsonl', follow = true");
    assert_eq!(emit(&format!("{STREAMS}SELECT * FROM samples{end}")), "OnWindowClose");
    assert_eq!(emit(&format!("{live}SELECT * FROM samples{end}")), "Early { delay_ms: 50000 }");
    assert_eq!(emit(&format!("{live}SELECT * FROM samples EMIT ON WINDOW CLOSE{end}")), "OnWindowClose");
    assert_eq!(
        emit(&format!("{STREAMS}SELECT * FROM samples EMIT EARLY INTERVAL '1' MINUTE CORRECT RETRACT{end}")),
        "Early { delay_ms: 60000 }"
    );
    assert_eq!(emit(&format!("{STREAMS}SELECT * FROM samples EMIT IMMEDIATE{end}")), "Early { delay_ms: 0 }");
}

/// The clauses behind EMIT, as the join gets them.
#[test]
fn corrections_and_sampling_go_to_the_join() {
    let spec = |sql: &str| {
        let job =
            train_job(&format!("{STREAMS}SELECT * FROM samples {sql} TO TRAIN FTRLClassifier LABEL clicked INTO m"));
        let spec = job.pipeline.join.expect("a join").spec;
        format!(
            "{:?} {:?} {:?} {}",
            spec.emit,
            spec.correction,
            spec.sample.map(|s| (s.share, s.mode)),
            spec.label_is_match
        )
    };
    let early = "EMIT EARLY INTERVAL '1' MINUTE";
    for (sql, expected) in [
        ("EMIT ON MATCH".to_string(), "OnMatch Retract None true"),
        (format!("{early} CORRECT FNW"), "Early { delay_ms: 60000 } Fnw None true"),
        (format!("{early} CORRECT ELAPSED"), "Early { delay_ms: 60000 } Elapsed None true"),
        ("EMIT IMMEDIATE CORRECT NONE".to_string(), "Early { delay_ms: 0 } None None true"),
        (format!("{early} NEGATIVE SAMPLE 0.1"), "Early { delay_ms: 60000 } Retract Some((0.1, Weight)) true"),
        (
            format!("{early} CORRECT RETRACT NEGATIVE SAMPLE 0.25 CORRECT BY LOGIT"),
            "Early { delay_ms: 60000 } Retract Some((0.25, Logit)) true",
        ),
        ("NEGATIVE SAMPLE 0.5 CORRECT BY WEIGHT".to_string(), "OnWindowClose Retract Some((0.5, Weight)) true"),
    ] {
        assert_eq!(spec(&sql), expected, "{sql}");
    }
}

/// Two types of feedback: a model waits for those that its label reads, and for no other.
#[test]
fn a_label_waits_for_the_feedback_it_reads() {
    let program = |label: &str| {
        format!(
            "{STREAMS}CREATE SOURCE buys (imp_id BIGINT, price DOUBLE, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts),
               WATERMARK FOR rt AS rt - INTERVAL '10' SECOND) WITH (connector = 'file', path = 'buys.jsonl');
             CREATE STREAM both AS SELECT i.*, (c.imp_id IS NOT NULL) AS was_clicked, COUNT(c.kind) AS clicks,
               (b.imp_id IS NOT NULL) AS was_bought, COALESCE(SUM(b.price), 0) AS spent, LAST(c.kind) = 'buy' AS ended,
               COALESCE(MAX(b.price), 0) + 0.1 * COUNT(c.imp_id) AS worth
             FROM impressions i
               LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
               LEFT JOIN buys b ON b.imp_id = i.imp_id AND b.rt BETWEEN i.rt AND i.rt + INTERVAL '1' DAY;
             SELECT user_id, item, {label} AS y FROM both TO TRAIN FTRLClassifier COLUMN user_id, item LABEL y INTO m"
        )
    };
    let of = |label: &str| {
        let job = train_job(&program(label));
        let join = job.pipeline.join.expect("a join");
        let sources: Vec<&str> = join.right.iter().map(|r| r.source.name.as_str()).collect();
        let takes: Vec<_> = join.spec.feedback.iter().map(|f| (f.window_ms / 60_000, f.takes.clone())).collect();
        format!("{sources:?} {takes:?} {}", join.spec.label_is_match)
    };
    assert_eq!(of("was_clicked"), r#"["clicks"] [(10, [First])] true"#);
    assert_eq!(of("clicks"), r#"["clicks"] [(10, [First, Count])] false"#);
    assert_eq!(of("was_bought"), r#"["buys"] [(1440, [First])] true"#);
    assert_eq!(of("spent"), r#"["buys"] [(1440, [First, Sum])] false"#);
    assert_eq!(of("COALESCE(ended, false)"), r#"["clicks"] [(10, [First, Last])] false"#);
    assert_eq!(of("worth"), r#"["clicks", "buys"] [(10, [First, Count]), (1440, [First, Max])] false"#);
    let fingerprint = |label: &str| train_job(&program(label)).fingerprint;
    assert_eq!(fingerprint("worth"), fingerprint("worth"));
    assert_ne!(fingerprint("clicks"), fingerprint("COALESCE(ended, false)"));
}

/// WHERE over a join drops impressions before they are joined.
#[test]
fn filters_go_into_the_left_input() {
    check_streams(
        "CREATE VIEW dear AS SELECT *, price * 2 AS twice FROM samples WHERE price > 10;
         CREATE OR REPLACE VIEW buys AS SELECT * FROM clicks WHERE kind = 'buy';
         SELECT item, twice, clicked FROM dear WHERE user_id IS NOT NULL AND twice < 100
         TO TRAIN FTRLClassifier LABEL clicked INTO m;",
        expect![[r#"
            train FTRLClassifier into m
              from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries item STRING, twice DOUBLE, imp_id BIGINT
              join clicks (file clicks.jsonl, bounded), time rt less 10s, carries imp_id BIGINT
                on imp_id = imp_id within 10m, emit on window close, at most 1000000 pending, keys once
              output: item STRING, twice DOUBLE, clicked BOOLEAN
              feedback: clicked
              features: item, twice
              label: clicked
        "#]],
    );
}

/// Without a join no event time is needed: the order of the file is the order of events.
#[test]
fn one_file_is_a_program() {
    check(
        "-- ratings in time order
         CREATE SOURCE ratings (ts BIGINT, \"user\" INT, film INT, rating INT NOT NULL, age INTEGER, gender VARCHAR(1),
           occupation TEXT, zip STRING, year FLOAT8, big BOOLEAN, w REAL, at TIMESTAMP, PRIMARY KEY (ts))
         WITH (connector='file', path='ml100k.csv.zst', format='csv', delimiter='|', null='NA');
         /* a click is a rating of four or more */
         SELECT *, rating >= 4 AS good, CASE WHEN age < 18 THEN 'child' WHEN age < 60 THEN 'adult' END AS stage,
           year / 2 AS year_2
         FROM ratings WHERE rating IS NOT NULL
         TO TRAIN FTRLClassifier COLUMN * EXCEPT (zip, at, w, year_2), CATEGORY_HASH(zip, 1000), CROSS([\"user\", gender], 4096),
           BUCKET(NUMERIC(age, 1), [18, 25.5, 60]), CROSS([BUCKET(year, [-1, 1990]), film]), NUMERIC(year_2), CATEGORY_ID(w)
         LABEL good INTO 'ml.ratings-1';",
        expect![[r#"
            train FTRLClassifier into ml.ratings-1
              from ratings (file ml100k.csv.zst, bounded), carries user INT, film INT, age INT, gender STRING, occupation STRING, zip STRING, year DOUBLE, big BOOLEAN, w REAL, good BOOLEAN, stage STRING, year_2 DOUBLE
              output: user INT, film INT, age INT, gender STRING, occupation STRING, zip STRING, year DOUBLE, big BOOLEAN, w REAL, good BOOLEAN, stage STRING, year_2 DOUBLE
              features: user, film, age, gender, occupation, year, big, stage, CATEGORY_HASH(zip, 1000), CROSS([user, gender], 4096), BUCKET(age, [18, 25.5, 60]), CROSS([BUCKET(year, [-1, 1990]), film]), NUMERIC(year_2), CATEGORY_ID(w)
              label: good
        "#]],
    );
}

/// Sparse files need no columns; the generator's are known.
#[test]
fn columns_may_be_left_out_where_they_are_known() {
    check(
        "CREATE SOURCE t WITH (connector = 'file', path = 'train.libfm.zst');
         SELECT features, label > 0 AS y FROM t TO TRAIN FTRLClassifier COLUMN SPARSE(features) LABEL y INTO frappe;
         CREATE SOURCE impressions (PRIMARY KEY (imp_id), WATERMARK FOR ts) WITH (connector = 'generator', rows = 1000);
         CREATE SOURCE clicks (imp_id BIGINT, ts BIGINT, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND)
         WITH (connector = 'generator', stream = 'clicks', push = true);
         SELECT i.C1, i.c2, i.true_p, c.imp_id IS NOT NULL AS clicked FROM impressions i LEFT JOIN clicks c
         ON i.imp_id = c.imp_id AND c.ts >= i.ts AND c.ts <= i.ts + 5000
         TO TRAIN FTRLClassifier WITH validate.oracle = 'true_p', join.pending_max = 5000 LABEL clicked INTO ctr",
        expect![[r#"
            train FTRLClassifier into frappe
              from t (file train.libfm.zst, bounded), carries features SPARSE, y BOOLEAN
              output: features SPARSE, y BOOLEAN
              features: SPARSE(features)
              label: y
            train FTRLClassifier into ctr
              validate.oracle = 'true_p'
              join.pending_max = 5000
              from impressions (generator impressions seed 7, bounded), time ts less 0ms, carries C1 STRING, C2 STRING, true_p DOUBLE, imp_id BIGINT
              join clicks (generator clicks seed 7, unbounded), time ts less 5s, carries imp_id BIGINT
                on imp_id = imp_id within 5s, emit early after 416ms, at most 5000 pending, keys once
              output: C1 STRING, C2 STRING, true_p DOUBLE, clicked BOOLEAN
              feedback: clicked
              features: "C1", "C2"
              label: clicked
        "#]],
    );
}

/// A model trained in the program or before it can be scored.
#[test]
fn models_are_evaluated_and_shown() {
    check_streams(
        "SHOW MODELS;
         SELECT i.*, c.kind, c.imp_id IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c
         ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO EVALUATE ctr LABEL y;
         SELECT price, item, user_id > 0 AS y FROM impressions TO TRAIN FTRLClassifier LABEL y INTO fresh;
         SELECT price, item, user_id > 0 AS y FROM impressions TO EVALUATE fresh WITH train.batch_size = 1 LABEL y;",
        expect![[r#"
            show models
            evaluate ctr
              from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries all columns
              join clicks (file clicks.jsonl, bounded), time rt less 10s, carries imp_id BIGINT
                on imp_id = imp_id within 10m, emit on window close, at most 1000000 pending, keys once
              output: imp_id BIGINT, user_id BIGINT, item STRING, price DOUBLE, ts BIGINT, rt TIMESTAMP, y BOOLEAN
              feedback: y
              label: y
            train FTRLClassifier into fresh
              from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries price DOUBLE, item STRING, y BOOLEAN
              output: price DOUBLE, item STRING, y BOOLEAN
              features: price, item
              label: y
            evaluate fresh
              train.batch_size = 1
              from impressions (file imp-*.jsonl, bounded), time rt less 10s, carries price DOUBLE, item STRING, y BOOLEAN
              output: price DOUBLE, item STRING, y BOOLEAN
              label: y
        "#]],
    );
}

/// The stored text of a job binds again to the same job, whatever stood around it.
#[test]
fn a_jobs_text_binds_to_the_same_job() {
    let job = train_job(
        &format!(
            "{STREAMS}CREATE VIEW unused AS SELECT ts FROM clicks;
         -- no part of the job
         SHOW MODELS; SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO ctr; SHOW MODELS"
        )
        .replace("SHOW MODELS; SELECT", "SELECT"),
    );
    let again = train_job(&job.text);
    assert_eq!(job.fingerprint, again.fingerprint);
    assert_eq!(job.text, again.text);
    assert_eq!(job.columns, again.columns);
    assert!(!job.text.contains("unused") && !job.text.contains("no part"));
    assert!(job.text.contains("CREATE STREAM samples"));
}

/// The fingerprint says what is learned: not where files lie, how views are cut or in which order columns stand.
#[test]
fn the_fingerprint_ignores_what_does_not_matter_and_nothing_else() {
    let base = format!(
        "{STREAMS}SELECT item, user_id, clicked FROM samples TO TRAIN FTRLClassifier WITH model.alpha = 0.1 \
         COLUMN item, user_id LABEL clicked INTO m"
    );
    let of = |sql: &str| train_job(sql).fingerprint;
    let same = [
        ("imp-*.jsonl", "/data/imp.jsonl"),
        ("COLUMN item, user_id", "column user_id , item"),
        ("WITH model.alpha = 0.1", ""),
        ("model.alpha = 0.1", "model.alpha=0.10, publish.interval='1s'"),
        ("INTO m", "INTO other"),
        ("SELECT item, user_id, clicked FROM samples", "SELECT user_id, item, price + 1 AS p, clicked FROM samples"),
        ("SELECT item, user_id, clicked FROM samples", "SELECT * FROM (SELECT * FROM samples) AS s"),
        ("path = 'clicks.jsonl'", "path = 'clicks.jsonl', idle_timeout = '1s'"),
    ];
    for (from, to) in same {
        assert!(base.contains(from));
        assert_eq!(of(&base), of(&base.replace(from, to)), "{from} -> {to}");
    }
    let other = [
        ("model.alpha = 0.1", "model.alpha = 0.2"),
        ("'10' MINUTE", "'11' MINUTE"),
        ("'10' SECOND", "'11' SECOND"),
        ("COLUMN item, user_id", "COLUMN item"),
        ("COLUMN item, user_id", "COLUMN item, CATEGORY_HASH(user_id, 10)"),
        ("SELECT item,", "SELECT UPPER(item) AS item,"),
        ("FROM samples TO", "FROM samples WHERE price > 0 TO"),
        ("FROM samples TO", "FROM samples EMIT IMMEDIATE TO"),
        ("price DOUBLE", "price REAL"),
        ("path = 'imp-*.jsonl'", "path = 'imp-*.jsonl', follow = true"),
    ];
    for (from, to) in other {
        assert!(base.contains(from));
        assert_ne!(of(&base), of(&base.replace(from, to)), "{from} -> {to}");
    }
}

/// Bounds of what waits count where impressions leave by them; others may be raised.
#[test]
fn the_fingerprint_has_the_bounds_by_which_impressions_leave() {
    let of = |bounds: &str| {
        let sql = format!(
            "{STREAMS}SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.l1 = 0{bounds} LABEL clicked INTO m"
        );
        train_job(&sql).fingerprint
    };
    let choice = |choice: &str, bounds: &str| of(&format!(", join.when_full = '{choice}'{bounds}"));
    let (bytes, count) = (", join.bytes_max = '1MiB'", ", join.pending_max = 9");
    assert_eq!(of(""), choice("release", ""));
    assert_eq!(of(bytes), choice("RELEASE", bytes));
    assert!(of("") != of(bytes) && of("") != of(count));
    assert!(choice("spill", bytes) != of(bytes) && choice("spill", bytes) != of(""));
    assert_eq!(choice("spill", bytes), choice("spill", ", join.bytes_max = '2GiB'"));
    assert_ne!(choice("spill", bytes), choice("spill", &[bytes, count].concat()));
    assert_eq!(choice("stop", ""), choice("stop", &[bytes, count].concat()));
    assert_ne!(choice("stop", ""), of(""));
}

/// A name means its last definition before the statement.
#[test]
fn a_replaced_view_means_its_last_definition() {
    let sql = format!(
        "{STREAMS}CREATE VIEW v AS SELECT item, price > 1 AS y FROM impressions;
         SELECT * FROM v TO TRAIN FTRLClassifier LABEL y INTO a;
         CREATE OR REPLACE VIEW v AS SELECT user_id, price > 2 AS y FROM impressions;
         SELECT * FROM v TO TRAIN FTRLClassifier LABEL y INTO b;"
    );
    let features: Vec<String> = bound(&sql)
        .statements
        .iter()
        .map(|s| match s {
            crate::Statement::Train(job) => format!("{} from {:?}", job.columns[0], job.text.contains("price > 2")),
            _ => String::new(),
        })
        .collect();
    assert_eq!(features, ["item from false", "user_id from true"]);
}

/// An event without a time in an early push log gets its arrival time in the column that the event time is made of.
#[test]
fn the_arrival_time_has_a_column() {
    let job = train_job(&format!("{STREAMS}SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO ctr"));
    assert_eq!(job.pipeline.left.source.event_time_column, Some(4));
    let join = job.pipeline.join.expect("a join");
    assert_eq!(join.right[0].source.event_time_column, Some(2));
    assert_eq!(join.right[0].event_time, Some(3));
}
