//! Expressions and clauses of a query that are refused, each with the whole diagnostic.

use expect_test::expect;

use super::refused as check;

/// Names and types in expressions.
#[test]
fn expressions() {
    check(
        &[
            "+SELECT itme, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT s.itme, clicked FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT x.item, clicked FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT x.* FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * EXCEPT (itm) FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT UPER(item) AS u, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT UPPER(item, 1) AS u, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT price + 1 AS p,\n  price + (item || 'x') AS u,\n  clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT rt + 1 AS u, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item, clicked FROM samples WHERE item = \"pen\" TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item, clicked FROM samples WHERE item TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item, item, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT COUNT(*) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT ROW_NUMBER() OVER (ORDER BY ts) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT CAST(item AS BIGNIT) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item, clicked FROM samples WHERE user_id IN (SELECT user_id FROM clicks) TO TRAIN FTRLClassifier LABEL clicked INTO m",
        ],
        expect![[r#"
            line 9 col 8: no column 'itme'; did you mean 'item'?
              9 | SELECT itme, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^
            line 9 col 10: no column 'itme' in 's'; did you mean 'item'?
              9 | SELECT s.itme, clicked FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m
                |          ^^^^
            line 9 col 8: no table or alias 'x' in this SELECT; tables: s
              9 | SELECT x.item, clicked FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^
            line 9 col 8: no table or alias 'x' in this SELECT; tables: s
              9 | SELECT x.* FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^
            line 9 col 18: no column 'itm' to leave out; did you mean 'item'?
              9 | SELECT * EXCEPT (itm) FROM samples s TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                  ^^^
            line 9 col 8: no function 'uper'; did you mean upper?
              9 | SELECT UPER(item) AS u, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^
            line 9 col 8: Function 'upper' expects 1 arguments but received 2
              9 | SELECT UPPER(item, 1) AS u, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^^^^^^^^^^
            line 10 col 3: Cannot coerce arithmetic expression DOUBLE + STRING to valid types
              10 |   price + (item || 'x') AS u,
                 |   ^^^^^^^^^^^^^^^^^^^^
            line 9 col 8: Cannot coerce arithmetic expression TIMESTAMP + BIGINT to valid types
              9 | SELECT rt + 1 AS u, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^^^
            line 9 col 48: no column 'pen'; text is written in single quotes: 'pen'
              9 | SELECT item, clicked FROM samples WHERE item = "pen" TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                ^^^^^
            line 9 col 41: WHERE needs a condition, this is STRING
              9 | SELECT item, clicked FROM samples WHERE item TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                         ^^^^
            line 9 col 14: column 'item' is in the SELECT list twice; name one of them with AS, or take the columns of one table with alias.*
              9 | SELECT item, item, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |              ^^^^
            line 9 col 8: COUNT takes one column of the feedback; write COUNT(c.key): a column that is never NULL counts every match
              9 | SELECT COUNT(*) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^^
            line 9 col 21: not supported yet: OVER (...); there are no windowed aggregates in a SELECT; declare them in CREATE FEATURE VIEW and join that
              9 | SELECT ROW_NUMBER() OVER (ORDER BY ts) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                     ^^^^
            line 9 col 21: unknown type 'BIGNIT'; did you mean 'BIGINT'?
              9 | SELECT CAST(item AS BIGNIT) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                     ^^^^^^
            line 9 col 41: not supported yet: a subquery in an expression; write values, or a CREATE VIEW in FROM
              9 | SELECT item, clicked FROM samples WHERE user_id IN (SELECT user_id FROM clicks) TO TRAIN FTRLClassifier LABEL clicked IN…
                |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        "#]],
    );
}

/// Clauses of a query that have no streaming form here yet.
#[test]
fn queries() {
    check(
        &[
            "+SELECT item FROM clicks GROUP BY item TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item FROM clicks GROUP BY TUMBLE(rt, INTERVAL '1' MINUTE) TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(rt), INTERVAL '2' SECOND, INTERVAL '10' SECOND)) TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples ORDER BY ts TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples LIMIT 10 TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT DISTINCT item FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item FROM clicks UNION SELECT item FROM impressions TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT 1 AS x TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT ON MATCH CORRECT FNW TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT EALRY INTERVAL '1' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT EARLY INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT EARLY INTERVAL '1' MINUTE CORRECT FNV TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT IMMEDIATE NEGATIVE SAMPLE 10 TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples NEGATIVE SAMPLE 0.1 CORRECT BY LOG TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples NEGATIVE SAMPLE 0.1 EMIT IMMEDIATE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples NEGATIVE SAMPLE 0.0000000001 TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples NEGATIVE SAMPLE much TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT IMMEDIATE DEDUP BY imp_id TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM impressions EMIT IMMEDIATE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples WHERE clicked TO TRAIN FTRLClassifier LABEL clicked INTO m",
        ],
        expect![[r#"
            line 9 col 25: not supported yet: GROUP BY; select the impression's own columns
              9 | SELECT item FROM clicks GROUP BY item TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                         ^^^^^
            line 9 col 34: not supported yet: TUMBLE; there are no windowed aggregates in a SELECT; declare them in CREATE FEATURE VIEW and join that
              9 | SELECT item FROM clicks GROUP BY TUMBLE(rt, INTERVAL '1' MINUTE) TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                  ^^^^^^
            line 9 col 21: not supported yet: HOP; there are no windowed aggregates in a SELECT; declare them in CREATE FEATURE VIEW and join that
              9 | SELECT * FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(rt), INTERVAL '2' SECOND, INTERVAL '10' SECOND)) TO TRAIN FTRLClassifie…
                |                     ^^^
            line 9 col 23: not supported yet: ORDER BY; events are taken in the order of their event time: leave it out
              9 | SELECT * FROM samples ORDER BY ts TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                       ^^^^^
            line 9 col 23: not supported yet: LIMIT; leave it out, or filter with WHERE
              9 | SELECT * FROM samples LIMIT 10 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                       ^^^^^
            line 9 col 8: not supported yet: DISTINCT; declare the column PRIMARY KEY in CREATE SOURCE
              9 | SELECT DISTINCT item FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^^^^^
            line 9 col 25: not supported yet: UNION of queries; several files are one source: write path = '*.csv'
              9 | SELECT item FROM clicks UNION SELECT item FROM impressions TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                         ^^^^^
            line 9 col 1: SELECT needs FROM a source or view
              9 | SELECT 1 AS x TO TRAIN FTRLClassifier LABEL clicked INTO m
                | ^^^^^^^^^^^^^
            line 9 col 37: CORRECT goes with EMIT EARLY and EMIT IMMEDIATE, and with no other; leave it out, or write EMIT EARLY INTERVAL '1' MINUTE CORRECT ...
              9 | SELECT * FROM samples EMIT ON MATCH CORRECT FNW TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                     ^^^^^^^
            line 9 col 28: expected ON WINDOW CLOSE, ON MATCH, EARLY INTERVAL '1' MINUTE or IMMEDIATE, found 'EALRY'; did you mean EARLY?
              9 | SELECT * FROM samples EMIT EALRY INTERVAL '1' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                            ^^^^^
            line 9 col 34: EARLY must come before the window's end; write a shorter time, or EMIT ON WINDOW CLOSE
              9 | SELECT * FROM samples EMIT EARLY INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                  ^^^^^^^^^^^^^^^^^^^^
            line 9 col 62: expected RETRACT, FNW, ELAPSED or NONE, found 'FNV'; did you mean FNW?
              9 | SELECT * FROM samples EMIT EARLY INTERVAL '1' MINUTE CORRECT FNV TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                              ^^^
            line 9 col 54: NEGATIVE SAMPLE takes a share from 0.000001 to 1; write NEGATIVE SAMPLE 0.1 to learn from one negative in ten
              9 | SELECT * FROM samples EMIT IMMEDIATE NEGATIVE SAMPLE 10 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                      ^^
            line 9 col 54: expected WEIGHT or LOGIT, found 'LOG'
              9 | SELECT * FROM samples NEGATIVE SAMPLE 0.1 CORRECT BY LOG TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                      ^^^
            line 9 col 43: EMIT stands before NEGATIVE SAMPLE; write EMIT ... NEGATIVE SAMPLE 0.1
              9 | SELECT * FROM samples NEGATIVE SAMPLE 0.1 EMIT IMMEDIATE TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                           ^^^^
            line 9 col 39: NEGATIVE SAMPLE takes a share from 0.000001 to 1; write NEGATIVE SAMPLE 0.1 to learn from one negative in ten
              9 | SELECT * FROM samples NEGATIVE SAMPLE 0.0000000001 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                       ^^^^^^^^^^^^
            line 9 col 39: expected the share of negatives that are learned from, like 0.1, found 'much'
              9 | SELECT * FROM samples NEGATIVE SAMPLE much TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                       ^^^^
            line 9 col 38: not supported yet: DEDUP BY; declare the column PRIMARY KEY in CREATE SOURCE: a second event with its value is dropped
              9 | SELECT * FROM samples EMIT IMMEDIATE DEDUP BY imp_id TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                      ^^^^^
            line 9 col 27: EMIT says when a join emits; this SELECT has none; leave it out
              9 | SELECT * FROM impressions EMIT IMMEDIATE TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                           ^^^^
            line 9 col 29: WHERE cannot look at feedback ('imp_id'): when an impression arrives nobody knows it yet, and dropping samples by their feedback would bias the model; filter on the impression's columns, or filter feedback in a view of its own
              9 | SELECT * FROM samples WHERE clicked TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                             ^^^^^^^
        "#]],
    );
}
