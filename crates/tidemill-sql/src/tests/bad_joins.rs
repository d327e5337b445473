//! Joins that are refused, each with the whole diagnostic.

use expect_test::expect;

use super::refused as check;

/// B22 and the other forms of a join that there are not.
#[test]
fn b21_b22_joins() {
    let join = |on: &str| {
        format!(
            "+SELECT i.item, c.imp_id IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c {on} TO TRAIN FTRLClassifier LABEL y INTO m"
        )
    };
    let programs: Vec<String> = [
        "",
        "ON i.imp_id = c.imp_id",
        "ON c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = c.imp_id AND c.rt >= i.rt",
        "ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '0' SECOND",
        "ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt - INTERVAL '5' SECOND",
        "ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '5' FORTNIGHT",
        "ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt - INTERVAL '1' MINUTE AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = c.imp_id AND c.rt > i.rt AND c.rt < i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = c.imp_id AND c.ts BETWEEN i.ts AND i.ts + 600000",
        "ON i.imp_id = c.imp_id AND i.user_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = c.kind AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = i.user_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = c.imp_id AND c.kind = 'buy' AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp_id = c.imp_id AND c.kind LIKE 'b%' AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "ON i.imp = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
        "USING (imp_id)",
        "ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE WHERE c.kind = 'buy'",
        "ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE LEFT JOIN clicks d ON d.imp_id = i.imp_id",
    ]
    .map(join)
    .into();
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    check(
        &programs,
        expect![[r#"
            line 9 col 71: stream join needs a time bound (for example c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE): its state would grow without limit
              9 | SELECT i.item, c.imp_id IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c  TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                                       ^^^^^^^^
            line 9 col 83: stream join needs a time bound (for example c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE): its state would grow without limit
              9 | …d IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^^^^^^^^^^^^^^^^^^^
            line 9 col 83: stream join needs an equality of keys; write ON i.key = c.key AND ...
              9 | …d IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN F…
                |                                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 83: stream join needs a time bound (for example c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE): its state would grow without limit; the window's end is missing
              9 | …d IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt >= i.rt TO TRAIN FTRLClassifier…
                |                                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 129: window must be longer than 0, got 0 ms; write c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
              9 | …N clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '0' SECOND TO TRAIN FTRLClassifier LABEL y I…
                |                                                              ^^^^^^^^^^^^^^^^^^^
            line 9 col 129: window must be longer than 0, got -5000 ms; write c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
              9 | …N clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt - INTERVAL '5' SECOND TO TRAIN FTRLClassifier LABEL y I…
                |                                                              ^^^^^^^^^^^^^^^^^^^
            line 9 col 149: unknown time unit 'FORTNIGHT'; units: MILLISECOND, SECOND, MINUTE, HOUR, DAY, WEEK
              9 | …id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '5' FORTNIGHT TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^^^^^^^^^
            line 9 col 107: not supported yet: feedback before its impression; the window begins with the impression: write c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
              9 | …impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt - INTERVAL '1' MINUTE AND i.rt + INTERVAL …
                |                                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 107: not supported yet: '>' on event time; the window holds both its ends: write >=
              9 | …impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt > i.rt AND c.rt < i.rt + INTERVAL '10' MINUTE TO TRAIN …
                |                                                              ^^^^^^^^^^^
            line 9 col 120: 'i.ts' is not the event time of its source; that is 'rt' (WATERMARK FOR)
              9 | … LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.ts BETWEEN i.ts AND i.ts + 600000 TO TRAIN FTRLClassifier LABEL y INTO …
                |                                                              ^^^^
            line 9 col 107: not supported yet: a second equality of keys; join on one column; build it in a view, for example a || ':' || b AS key
              9 | …impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND i.user_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERV…
                |                                                              ^^^^^^^^^^^^^^^^^^^^
            line 9 col 83: join keys have different types: i.imp_id is BIGINT, c.kind is STRING; cast one of them: CAST(x AS BIGINT)
              9 | …d IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.kind AND c.rt BETWEEN i.rt AND i.rt + INTERVAL …
                |                                                              ^^^^^^^^^^^^^^^^^
            line 9 col 83: an equality of keys compares one side of the join with the other; filter either side in a view of its own
              9 | …d IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = i.user_id AND c.rt BETWEEN i.rt AND i.rt + INTERV…
                |                                                              ^^^^^^^^^^^^^^^^^^^^
            line 9 col 107: an equality of keys compares one side of the join with the other; filter either side in a view of its own
              9 | …impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.kind = 'buy' AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10…
                |                                                              ^^^^^^^^^^^^^^
            line 9 col 107: not supported yet: the join condition 'c.kind LIKE 'b%''; ON takes one equality of keys and one window, for example c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE; filter either side in a view
              9 | …impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.kind LIKE 'b%' AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '…
                |                                                              ^^^^^^^^^^^^^^^^
            line 9 col 83: column 'imp_id' is ambiguous; write i.imp_id or c.imp_id
              9 | …d IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL …
                |                                                              ^^^^^^
            line 9 col 85: no column 'imp' in 'i'; columns: imp_id, user_id, item, price, ts, rt
              9 | …IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10…
                |                                                              ^^^
            line 9 col 71: not supported yet: USING and NATURAL; write ON a.key = b.key AND ...
              9 | …tem, c.imp_id IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c USING (imp_id) TO TRAIN FTRLClassifier LABEL y INTO…
                |                                                              ^^^^^^^^
            line 9 col 163: WHERE cannot look at feedback ('kind'): when an impression arrives nobody knows it yet, and dropping samples by their feedback would bias the model; filter on the impression's columns, or filter feedback in a view of its own
              9 | …AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE WHERE c.kind = 'buy' TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^^^^^^^^^^^^^^
            line 9 col 179: stream join needs a time bound (for example c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE): its state would grow without limit
              9 | … i.rt AND i.rt + INTERVAL '10' MINUTE LEFT JOIN clicks d ON d.imp_id = i.imp_id TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^^^^^^^^^^^^^^^^^^^
        "#]],
    );
    check(
        &[
            "+SELECT * FROM impressions i JOIN clicks c ON i.imp_id = c.imp_id TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT * FROM impressions, clicks TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT * FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT * FROM samples i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item FROM impressions LEFT JOIN impressions ON 1 = 1 TO TRAIN FTRLClassifier LABEL y INTO m",
            "+CREATE SOURCE buys (imp_id BIGINT) WITH (connector = 'http');
CREATE VIEW v AS SELECT i.item FROM impressions i LEFT JOIN buys c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE",
            "+SELECT *, kind = 'buy' AS y FROM (SELECT i.*, c.kind FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE) t TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, SUM(i.price) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, MAX(c.kind) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, COUNT(*) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, COUNT(DISTINCT c.kind) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, SUM(c.ts) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, COUNT(c.kind) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE EMIT IMMEDIATE CORRECT FNW TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, d.imp_id IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE LEFT JOIN clicks d ON c.imp_id = d.imp_id AND d.rt BETWEEN i.rt AND i.rt + INTERVAL '1' DAY TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT i.item, c.imp_id IS NOT NULL AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE LEFT JOIN clicks d ON i.imp_id = d.imp_id AND d.rt BETWEEN i.rt AND i.rt + INTERVAL '1' DAY EMIT EARLY INTERVAL '1' HOUR TO TRAIN FTRLClassifier LABEL y INTO m",
            "+SELECT * FROM samples LEFT JOIN clicks FOR SYSTEM_TIME AS OF samples.rt ON 1 = 1 TO TRAIN FTRLClassifier LABEL y INTO m",
        ],
        expect![[r#"
            line 9 col 34: not supported yet: a join that is not LEFT JOIN; write LEFT JOIN: every impression gives one sample, positive when feedback came
              9 | SELECT * FROM impressions i JOIN clicks c ON i.imp_id = c.imp_id TO TRAIN FTRLClassifier LABEL y INTO m
                |                                  ^^^^^^^^
            line 9 col 28: not supported yet: several tables in FROM; write a LEFT JOIN b ON a.key = b.key AND b.rt BETWEEN a.rt AND a.rt + INTERVAL '10' MINUTE
              9 | SELECT * FROM impressions, clicks TO TRAIN FTRLClassifier LABEL y INTO m
                |                            ^^^^^^
            line 9 col 8: column 'imp_id' is in the SELECT list twice; name one of them with AS, or take the columns of one table with alias.*
              9 | SELECT * FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MIN…
                |        ^
            line 9 col 23: not supported yet: a join over 'i', which is a join itself; join two sources or views of single sources; further feedback joins in the same SELECT
              9 | SELECT * FROM samples i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE …
                |                       ^
            line 9 col 42: 'impressions' names both sides of the join; give one an alias: FROM a AS i LEFT JOIN b AS c
              9 | SELECT i.item FROM impressions LEFT JOIN impressions ON 1 = 1 TO TRAIN FTRLClassifier LABEL y INTO m
                |                                          ^^^^^^^^^^^
            line 10 col 66: stream join needs event time: source 'buys' has no WATERMARK; add WATERMARK FOR ts AS ts - INTERVAL '10' SECOND to its columns
              10 | …E VIEW v AS SELECT i.item FROM impressions i LEFT JOIN buys c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + IN…
                 |                                                              ^
            line 9 col 202: label 'y' is NULL where no feedback came: no impression would be a negative; select COALESCE(kind = 'buy', false) AS label
              9 | ….rt + INTERVAL '10' MINUTE) t TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^
            line 9 col 16: SUM is over the feedback that matches an impression; name columns of one of the joined feedbacks in it
              9 | SELECT i.item, SUM(i.price) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND …
                |                ^^^^^^^^^^^
            line 9 col 16: MAX takes a number, this is STRING
              9 | SELECT i.item, MAX(c.kind) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i…
                |                ^^^^^^^^^^
            line 9 col 16: COUNT takes one column of the feedback; write COUNT(c.key): a column that is never NULL counts every match
              9 | SELECT i.item, COUNT(*) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt…
                |                ^^^^^
            line 9 col 16: not supported yet: this form of COUNT; write COUNT(c.column); filter the feedback in a view of its own
              9 | SELECT i.item, COUNT(DISTINCT c.kind) AS y FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN…
                |                ^^^^^^^^^^^^^^^^^^^^^
            line 9 col 176: label 'y' is NULL where no feedback came: no impression would be a negative; select COALESCE(SUM(c.ts), 0) AS label
              9 | …D i.rt + INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^
            line 9 col 173: this correction weighs a label that is whether feedback matched; write CORRECT RETRACT, which is right for every label
              9 | …i.rt AND i.rt + INTERVAL '10' MINUTE EMIT IMMEDIATE CORRECT FNW TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^^^
            line 9 col 179: an equality of keys compares one side of the join with the other; filter either side in a view of its own
              9 | … i.rt AND i.rt + INTERVAL '10' MINUTE LEFT JOIN clicks d ON c.imp_id = d.imp_id AND d.rt BETWEEN i.rt AND i.rt + INTERVA…
                |                                                              ^^^^^^^^^^^^^^^^^^^
            line 9 col 260: EARLY must come before the end of the window of the label's feedback; write a shorter time, or EMIT ON WINDOW CLOSE
              9 | …ND d.rt BETWEEN i.rt AND i.rt + INTERVAL '1' DAY EMIT EARLY INTERVAL '1' HOUR TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^^^^^^^^^^^^^^^^^
            line 9 col 40: not supported yet: FOR SYSTEM_TIME AS OF on what is no feature view; only feature views are read as of a time: CREATE FEATURE VIEW ...
              9 | SELECT * FROM samples LEFT JOIN clicks FOR SYSTEM_TIME AS OF samples.rt ON 1 = 1 TO TRAIN FTRLClassifier LABEL y INTO m
                |                                        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        "#]],
    );
}
