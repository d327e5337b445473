//! Programs that are refused, each with the whole diagnostic.

use expect_test::{Expect, expect};

use super::{STREAMS, known};
use crate::bind;

/// The diagnostics of these programs, one after the other. A program that begins with `+` has the two streams before it.
fn check(programs: &[&str], expected: Expect) {
    let mut text = String::new();
    for program in programs {
        let sql = match program.strip_prefix('+') {
            Some(rest) => format!("{STREAMS}{rest}"),
            None => program.to_string(),
        };
        match bind(&sql, &known()) {
            Ok(bound) => text.push_str(&format!("bound:\n{bound}")),
            Err(d) => text.push_str(&format!("{d}\n")),
        }
    }
    expected.assert_eq(&text);
}

/// B1 to B4, B18, B24: the statement as a whole.
#[test]
fn statements() {
    check(
        &[
            "",
            " -- nothing\n;;",
            "SELEC * FROM t",
            "CREAT SOURCE t (a INT) WITH (connector='http')",
            "CREATE SUORCE t (a INT) WITH (connector='http')",
            "SHOW MODLES",
            "SHOW TRAIN m",
            "DROP TABLE t",
            "CREATE TABLE t (a INT)",
            "CREATE FEATURE VIEW f KEYED BY user_id AS SELECT 1",
            "WITH x AS (SELECT 1) SELECT * FROM x TO TRAIN L LABEL y INTO m",
            "SELECT 'abc\nFROM t",
            "SELECT \"abc FROM t",
            "SHOW MODELS; /* abc",
            "SELECT (a + b FROM t",
            "SELECT a + b) FROM t",
            "+SELECT * FROM samples",
            "+SELECT * FORM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item, FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT item price clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples WEHRE price > 1 TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM clik TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+CREATE VIEW a AS SELECT * FROM b; CREATE VIEW b AS SELECT * FROM c; CREATE VIEW c AS SELECT * FROM a",
            "+CREATE VIEW clicks AS SELECT * FROM impressions",
            "+CREATE VIEW v AS SELECT * FROM impressions TO TRAIN FTRLClassifier LABEL y INTO m",
            "+CREATE VIEW v (a, b) AS SELECT * FROM impressions",
        ],
        expect![[r#"
            line 1 col 1: nothing to run; write CREATE SOURCE ...; SELECT ... TO TRAIN ...
              1 | 
                | ^
            line 1 col 1: nothing to run; write CREATE SOURCE ...; SELECT ... TO TRAIN ...
              1 |  -- nothing
                | ^
            line 1 col 1: expected CREATE, SELECT or SHOW, found 'SELEC'; did you mean SELECT?
              1 | SELEC * FROM t
                | ^^^^^
            line 1 col 1: expected CREATE, SELECT or SHOW, found 'CREAT'; did you mean CREATE?
              1 | CREAT SOURCE t (a INT) WITH (connector='http')
                | ^^^^^
            line 1 col 8: expected SOURCE, VIEW or STREAM, found 'SUORCE'; did you mean SOURCE?
              1 | CREATE SUORCE t (a INT) WITH (connector='http')
                |        ^^^^^^
            line 1 col 6: expected MODELS, found 'MODLES'; did you mean MODELS?
              1 | SHOW MODLES
                |      ^^^^^^
            line 1 col 6: not supported yet: SHOW TRAIN; SHOW MODELS lists what is trained
              1 | SHOW TRAIN m
                |      ^^^^^
            line 1 col 1: not supported yet: DROP; statements are CREATE SOURCE, CREATE VIEW, SELECT ... TO, SHOW MODELS
              1 | DROP TABLE t
                | ^^^^
            line 1 col 8: not supported yet: CREATE TABLE; CREATE SOURCE and CREATE VIEW are built
              1 | CREATE TABLE t (a INT)
                |        ^^^^^
            line 1 col 8: not supported yet: CREATE FEATURE VIEW; compute features from the impression's own columns in CREATE VIEW
              1 | CREATE FEATURE VIEW f KEYED BY user_id AS SELECT 1
                |        ^^^^^^^
            line 1 col 1: not supported yet: WITH before SELECT; write CREATE VIEW name AS SELECT ...; before the statement
              1 | WITH x AS (SELECT 1) SELECT * FROM x TO TRAIN L LABEL y INTO m
                | ^^^^
            line 1 col 8: string opened here is never closed
              1 | SELECT 'abc
                |        ^
            line 1 col 8: quoted name opened here is never closed
              1 | SELECT "abc FROM t
                |        ^
            line 1 col 14: comment opened here is never closed; close it with */
              1 | SHOW MODELS; /* abc
                |              ^
            line 1 col 8: '(' opened here is never closed
              1 | SELECT (a + b FROM t
                |        ^
            line 1 col 13: ')' closes no bracket
              1 | SELECT a + b) FROM t
                |             ^
            line 9 col 1: not supported yet: a SELECT that prints rows; a SELECT ends with TO TRAIN ... or TO EVALUATE ...
              9 | SELECT * FROM samples
                | ^^^^^^
            line 9 col 10: expected the end of the statement, found 'FORM'; did you mean FROM?
              9 | SELECT * FORM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |          ^^^^
            line 9 col 57: column 'clicked' not in SELECT list; have: item
              9 | SELECT item, FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                         ^^^^^^^
            line 9 col 19: expected the end of the statement, found 'clicked'
              9 | SELECT item price clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                   ^^^^^^^
            line 9 col 23: expected the end of the statement, found 'price'; did you mean WHERE?
              9 | SELECT * FROM samples WEHRE price > 1 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                       ^^^^^
            line 9 col 15: table 'clik' not found; tables: impressions, clicks, samples
              9 | SELECT * FROM clik TO TRAIN FTRLClassifier LABEL clicked INTO m
                |               ^^^^
            line 9 col 100: view 'a' depends on itself: a -> b -> c -> a
              9 | CREATE VIEW a AS SELECT * FROM b; CREATE VIEW b AS SELECT * FROM c; CREATE VIEW c AS SELECT * FROM a
                |                                                                                                    ^
            line 9 col 13: 'clicks' is already defined in line 4; take another name, or write CREATE OR REPLACE
              9 | CREATE VIEW clicks AS SELECT * FROM impressions
                |             ^^^^^^
            line 9 col 44: a view has no task; end the view with ';' and write SELECT * FROM it TO ...
              9 | CREATE VIEW v AS SELECT * FROM impressions TO TRAIN FTRLClassifier LABEL y INTO m
                |                                            ^^
            line 9 col 15: not supported yet: names in brackets behind a view's name; name the columns with AS in its SELECT
              9 | CREATE VIEW v (a, b) AS SELECT * FROM impressions
                |               ^
        "#]],
    );
}

/// What a source's declaration can get wrong.
#[test]
fn sources() {
    check(
        &[
            "CREATE SOURCE t (a INT)",
            "CREATE SOURCE t (a INT) WITH (conector = 'file', path = 'x.csv')",
            "CREATE SOURCE t (a INT) WITH (connector = 'fiel', path = 'x.csv')",
            "CREATE SOURCE t (a INT) WITH (connector = 'file')",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.dat')",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x', format = 'cvs')",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', rate = 5)",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', idle_timeout = 15)",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', path = 'y.csv')",
            "CREATE SOURCE t (a INT) WITH (connector 'file')",
            "CREATE SOURCE t (a BIGNIT) WITH (connector = 'http')",
            "CREATE SOURCE t (a INT, a BIGINT) WITH (connector = 'http')",
            "CREATE SOURCE t (a INT PRIMERY KEY) WITH (connector = 'http')",
            "CREATE SOURCE t (a INT, PRIMARY KEY (b)) WITH (connector = 'http')",
            "CREATE SOURCE t (a INT, WATERMARK FOR b) WITH (connector = 'http')",
            "CREATE SOURCE t (a STRING, WATERMARK FOR a AS a - INTERVAL '10' SECOND) WITH (connector = 'http')",
            "CREATE SOURCE t (ts BIGINT, WATERMARK FOR ts AS ts - INTERVAL '10' FORTNITE) WITH (connector = 'http')",
            "CREATE SOURCE t (ts BIGINT, WATERMARK FOR ts AS ts - 10) WITH (connector = 'http')",
            "CREATE SOURCE t (ts BIGINT, rt AS TO_TIMESTAMP_MIS(ts)) WITH (connector = 'http')",
            "CREATE SOURCE t (ts BIGINT, rt AS TO_TIMESTAMP_MS(t)) WITH (connector = 'http')",
            "CREATE SOURCE t (ts BIGINT, r AS random()) WITH (connector = 'http')",
            "CREATE SOURCE t (ts BIGINT, now AS now()) WITH (connector = 'http')",
            "CREATE SOURCE t WITH (connector = 'http')",
            "CREATE SOURCE t (imp_id BIGINT, C27 STRING) WITH (connector = 'generator')",
            "CREATE SOURCE t (imp_id STRING) WITH (connector = 'generator')",
            "CREATE SOURCE t (a INT) WITH (connector = 'http'),",
            "CREATE SOURCE t (a INT) WIHT (connector = 'http')",
        ],
        expect![[r#"
            line 1 col 24: WITH needs connector = 'file', 'generator' or 'http'
              1 | CREATE SOURCE t (a INT)
                |                        ^
            line 1 col 31: a source has no attribute 'conector'; did you mean 'connector'?
              1 | CREATE SOURCE t (a INT) WITH (conector = 'file', path = 'x.csv')
                |                               ^^^^^^^^
            line 1 col 43: connector expects one of file, generator, http, got 'fiel'; did you mean 'file'?
              1 | CREATE SOURCE t (a INT) WITH (connector = 'fiel', path = 'x.csv')
                |                                           ^^^^^^
            line 1 col 25: connector 'file' needs path = '...'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file')
                |                         ^^^^
            line 1 col 25: format cannot be told from 'x.dat'; write format = 'csv', 'tsv', 'json', 'parquet', 'libsvm', 'libfm' or 'vw'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.dat')
                |                         ^^^^
            line 1 col 72: format expects one of csv, tsv, json, parquet, libsvm, libfm, vw, got 'cvs'; did you mean 'csv'?
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x', format = 'cvs')
                |                                                                        ^^^^^
            line 1 col 67: 'rate' belongs to connector 'generator'; this is 'file'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', rate = 5)
                |                                                                   ^^^^
            line 1 col 82: idle_timeout: '15' has no unit; write "15ms", "15s", "15m" or "15h"
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', idle_timeout = 15)
                |                                                                                  ^^
            line 1 col 67: path is written twice
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', path = 'y.csv')
                |                                                                   ^^^^
            line 1 col 41: expected '=', found ''file''
              1 | CREATE SOURCE t (a INT) WITH (connector 'file')
                |                                         ^^^^^^
            line 1 col 20: unknown type 'BIGNIT'; did you mean 'BIGINT'?
              1 | CREATE SOURCE t (a BIGNIT) WITH (connector = 'http')
                |                    ^^^^^^
            line 1 col 25: column 'a' is declared twice
              1 | CREATE SOURCE t (a INT, a BIGINT) WITH (connector = 'http')
                |                         ^
            line 1 col 24: expected ',' or ')', found 'PRIMERY'; did you mean PRIMARY?
              1 | CREATE SOURCE t (a INT PRIMERY KEY) WITH (connector = 'http')
                |                        ^^^^^^^
            line 1 col 38: no column 'b'; columns: a
              1 | CREATE SOURCE t (a INT, PRIMARY KEY (b)) WITH (connector = 'http')
                |                                      ^
            line 1 col 39: no column 'b'; columns: a
              1 | CREATE SOURCE t (a INT, WATERMARK FOR b) WITH (connector = 'http')
                |                                       ^
            line 1 col 42: event time 'a' is STRING, not BIGINT (epoch milliseconds) or TIMESTAMP; add a column like rt AS TO_TIMESTAMP_MS(a) and take that
              1 | CREATE SOURCE t (a STRING, WATERMARK FOR a AS a - INTERVAL '10' SECOND) WITH (connector = 'http')
                |                                          ^
            line 1 col 54: unknown time unit 'FORTNITE'; units: MILLISECOND, SECOND, MINUTE, HOUR, DAY, WEEK
              1 | CREATE SOURCE t (ts BIGINT, WATERMARK FOR ts AS ts - INTERVAL '10' FORTNITE) WITH (connector = 'http')
                |                                                      ^^^^^^^^^^^^^^^^^^^^^^
            line 1 col 54: expected INTERVAL, found '10'
              1 | CREATE SOURCE t (ts BIGINT, WATERMARK FOR ts AS ts - 10) WITH (connector = 'http')
                |                                                      ^^
            line 1 col 35: no function 'to_timestamp_mis'; did you mean to_timestamp_ms?
              1 | CREATE SOURCE t (ts BIGINT, rt AS TO_TIMESTAMP_MIS(ts)) WITH (connector = 'http')
                |                                   ^^^^^^^^^^^^^^^^
            line 1 col 51: no column 't'; did you mean 'ts'?
              1 | CREATE SOURCE t (ts BIGINT, rt AS TO_TIMESTAMP_MS(t)) WITH (connector = 'http')
                |                                                   ^
            line 1 col 34: random() is not a function of the row: two runs would give different models; put what it gives into the event
              1 | CREATE SOURCE t (ts BIGINT, r AS random()) WITH (connector = 'http')
                |                                  ^^^^^^
            line 1 col 36: now() is not a function of the row: two runs would give different models; put what it gives into the event
              1 | CREATE SOURCE t (ts BIGINT, now AS now()) WITH (connector = 'http')
                |                                    ^^^
            line 1 col 15: source 't' declares no columns; write CREATE SOURCE name (column TYPE, ...) WITH (...)
              1 | CREATE SOURCE t WITH (connector = 'http')
                |               ^
            line 1 col 33: the generator's stream has no column 'C27'; did you mean 'C2'?
              1 | CREATE SOURCE t (imp_id BIGINT, C27 STRING) WITH (connector = 'generator')
                |                                 ^^^
            line 1 col 18: the generator's column 'imp_id' is BIGINT, not STRING
              1 | CREATE SOURCE t (imp_id STRING) WITH (connector = 'generator')
                |                  ^^^^^^
            line 1 col 50: expected WITH (...) or the end of the statement, found ','
              1 | CREATE SOURCE t (a INT) WITH (connector = 'http'),
                |                                                  ^
            line 1 col 25: expected WITH (...) or the end of the statement, found 'WIHT'; did you mean WITH?
              1 | CREATE SOURCE t (a INT) WIHT (connector = 'http')
                |                         ^^^^
        "#]],
    );
}

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
            line 9 col 8: not supported yet: the aggregate COUNT; expressions are functions of one row: select the impression's own columns
              9 | SELECT COUNT(*) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |        ^^^^^
            line 9 col 21: not supported yet: OVER (...); there are no windowed aggregates; select the impression's own columns
              9 | SELECT ROW_NUMBER() OVER (ORDER BY ts) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                     ^^^^
            line 9 col 13: Unsupported SQL type BIGNIT
              9 | SELECT CAST(item AS BIGNIT) AS n, clicked FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |             ^^^^
            line 9 col 41: not supported yet: a subquery in an expression; write values, or a CREATE VIEW in FROM
              9 | SELECT item, clicked FROM samples WHERE user_id IN (SELECT user_id FROM clicks) TO TRAIN FTRLClassifier LABEL clicked IN…
                |                                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        "#]],
    );
}

/// B22 and the other forms of a join that there are not.
#[test]
fn joins() {
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
    check(&programs, expect![[r#"
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
        line 9 col 149: expected the end of the statement, found 'FORTNIGHT'
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
        line 9 col 107: not supported yet: a second equality of keys; join on one column; build it in a view, for example a || ':' || b AS key
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
        line 9 col 167: not supported yet: a second join; join one feedback source
          9 | …c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE LEFT JOIN clicks d ON d.imp_id = i.imp_id TO TRAIN FTRLClassifier LABE…
            |                                                              ^^^^^^^^
    "#]]);
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
            line 9 col 23: not supported yet: a join over 'i', which is a join itself; join two sources or views of single sources
              9 | SELECT * FROM samples i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE …
                |                       ^
            line 9 col 42: 'impressions' names both sides of the join; give one an alias: FROM a AS i LEFT JOIN b AS c
              9 | SELECT i.item FROM impressions LEFT JOIN impressions ON 1 = 1 TO TRAIN FTRLClassifier LABEL y INTO m
                |                                          ^^^^^^^^^^^
            line 10 col 66: stream join needs event time: source 'buys' has no WATERMARK; add WATERMARK FOR ts AS ts - INTERVAL '10' SECOND to its columns
              10 | …E VIEW v AS SELECT i.item FROM impressions i LEFT JOIN buys c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + IN…
                 |                                                              ^
            line 9 col 202: not supported yet: a label of a join that is not whether feedback came; select (c.imp_id IS NOT NULL) AS label
              9 | ….rt + INTERVAL '10' MINUTE) t TO TRAIN FTRLClassifier LABEL y INTO m
                |                                                              ^
            line 9 col 44: not supported yet: FOR SYSTEM_TIME AS OF; join one feedback source with a time bound
              9 | SELECT * FROM samples LEFT JOIN clicks FOR SYSTEM_TIME AS OF samples.rt ON 1 = 1 TO TRAIN FTRLClassifier LABEL y INTO m
                |                                            ^^^^^^^^^^^
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
            "+SELECT * FROM samples EMIT ON MATCH TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT EALRY INTERVAL '1' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT EARLY INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT EARLY INTERVAL '1' MINUTE CORRECT FNW TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT IMMEDIATE NEGATIVE SAMPLE 0.1 TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples NEGATIVE SAMPLE 0.1 TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples EMIT IMMEDIATE DEDUP BY imp_id TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM impressions EMIT IMMEDIATE TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples WHERE clicked TO TRAIN FTRLClassifier LABEL clicked INTO m",
        ],
        expect![[r#"
            line 9 col 1: not supported yet: GROUP BY; select the impression's own columns
              9 | SELECT item FROM clicks GROUP BY item TO TRAIN FTRLClassifier LABEL clicked INTO m
                | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 34: not supported yet: TUMBLE; there are no windowed aggregates; select the impression's own columns
              9 | SELECT item FROM clicks GROUP BY TUMBLE(rt, INTERVAL '1' MINUTE) TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                  ^^^^^^
            line 9 col 21: not supported yet: HOP; there are no windowed aggregates; select the impression's own columns
              9 | SELECT * FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(rt), INTERVAL '2' SECOND, INTERVAL '10' SECOND)) TO TRAIN FTRLClassifie…
                |                     ^^^
            line 9 col 32: not supported yet: ORDER BY; events are taken in the order of their event time: leave it out
              9 | SELECT * FROM samples ORDER BY ts TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                ^^
            line 9 col 1: not supported yet: LIMIT; leave it out, or filter with WHERE
              9 | SELECT * FROM samples LIMIT 10 TO TRAIN FTRLClassifier LABEL clicked INTO m
                | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 1: not supported yet: DISTINCT; declare the column PRIMARY KEY in CREATE SOURCE
              9 | SELECT DISTINCT item FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 1: not supported yet: UNION of queries; several files are one source: write path = '*.csv'
              9 | SELECT item FROM clicks UNION SELECT item FROM impressions TO TRAIN FTRLClassifier LABEL clicked INTO m
                | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            line 9 col 1: SELECT needs FROM a source or view
              9 | SELECT 1 AS x TO TRAIN FTRLClassifier LABEL clicked INTO m
                | ^^^^^^^^^^^^^
            line 9 col 28: not supported yet: EMIT ON MATCH; it biases the model when traffic grows; write EMIT EARLY INTERVAL '1' MINUTE
              9 | SELECT * FROM samples EMIT ON MATCH TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                            ^^
            line 9 col 28: expected ON WINDOW CLOSE, EARLY INTERVAL '1' MINUTE or IMMEDIATE, found 'EALRY'; did you mean EARLY?
              9 | SELECT * FROM samples EMIT EALRY INTERVAL '1' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                            ^^^^^
            line 9 col 34: EARLY must come before the window's end; write a shorter time, or EMIT ON WINDOW CLOSE
              9 | SELECT * FROM samples EMIT EARLY INTERVAL '10' MINUTE TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                  ^^^^^^^^^^^^^^^^^^^^
            line 9 col 62: not supported yet: CORRECT FNW; write CORRECT RETRACT
              9 | SELECT * FROM samples EMIT EARLY INTERVAL '1' MINUTE CORRECT FNW TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                              ^^^
            line 9 col 38: not supported yet: NEGATIVE SAMPLE; leave it out: every negative is learned from
              9 | SELECT * FROM samples EMIT IMMEDIATE NEGATIVE SAMPLE 0.1 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                      ^^^^^^^^
            line 9 col 23: not supported yet: NEGATIVE SAMPLE; leave it out: every negative is learned from
              9 | SELECT * FROM samples NEGATIVE SAMPLE 0.1 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                       ^^^^^^^^
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

/// B5 to B11, B14: what stands behind TO.
#[test]
fn tasks() {
    check(
        &[
            "+SELECT * FROM samples TO TRIAN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples TO PREDICT out USING m",
            "+SELECT * FROM samples TO EXPLAIN m",
            "+SELECT * FROM samples TO TRAIN FTRLClasifier LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN DNNClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABLE clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL cliked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL item INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL price INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO '../../x'",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.alfa = 0.1 LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.alpha = fast LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.alpha = -0.1 LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.l1 = 1, model.l1 = 2 LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.l1 1 LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH validate.oracle = prise LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier WITH validate.oracle = price COLUMN price LABEL clicked INTO m",
            "+SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m; SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+SELECT * FROM samples TO EVALUATE ctl LABEL clicked",
            "+SELECT * FROM samples TO EVALUATE ctr",
            "+SELECT * FROM samples TO EVALUATE ctr LABEL clicked INTO scores",
            "+SELECT * FROM samples TO EVALUATE ctr COLUMN item LABEL clicked",
        ],
        expect![[r#"
            line 9 col 26: expected TRAIN, PREDICT, EXPLAIN, EVALUATE, RUN behind TO, found 'TRIAN'; did you mean TRAIN?
              9 | SELECT * FROM samples TO TRIAN FTRLClassifier LABEL clicked INTO m
                |                          ^^^^^
            line 9 col 26: not supported yet: TO PREDICT; a trained model answers at POST /v1/models/NAME:predict while 'tidemill run' serves it
              9 | SELECT * FROM samples TO PREDICT out USING m
                |                          ^^^^^^^
            line 9 col 26: not supported yet: TO EXPLAIN; TO EVALUATE gives a model's figures
              9 | SELECT * FROM samples TO EXPLAIN m
                |                          ^^^^^^^
            line 9 col 32: no learner 'FTRLClasifier'; did you mean FTRLClassifier?
              9 | SELECT * FROM samples TO TRAIN FTRLClasifier LABEL clicked INTO m
                |                                ^^^^^^^^^^^^^
            line 9 col 32: no learner 'DNNClassifier'; did you mean FTRLClassifier?
              9 | SELECT * FROM samples TO TRAIN DNNClassifier LABEL clicked INTO m
                |                                ^^^^^^^^^^^^^
            line 9 col 53: TO TRAIN needs LABEL <column>
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier INTO m
                |                                                     ^
            line 9 col 60: TO TRAIN needs INTO <model>
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked
                |                                                            ^
            line 9 col 47: expected WITH, COLUMN, LABEL, INTO or the end of the statement, found 'LABLE'; did you mean LABEL?
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABLE clicked INTO m
                |                                               ^^^^^
            line 9 col 61: LABEL is written twice
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked LABEL clicked INTO m
                |                                                             ^^^^^
            line 9 col 53: column 'cliked' not in SELECT list; did you mean 'clicked'?
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL cliked INTO m
                |                                                     ^^^^^^
            line 9 col 53: label 'item' is STRING; a label is BOOLEAN or a number, 0 or 1; compare in the SELECT: (x = 'yes') AS label
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL item INTO m
                |                                                     ^^^^
            line 9 col 53: not supported yet: a label of a join that is not whether feedback came; select (c.imp_id IS NOT NULL) AS label
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL price INTO m
                |                                                     ^^^^^
            line 9 col 66: model name may hold letters, digits, '_', '-', '.', and begins with none of the last two; 1 to 128 characters; got '../../x'
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO '../../x'
                |                                                                  ^^^^^^^^^
            line 9 col 52: FTRLClassifier has no attribute 'model.alfa'; did you mean 'model.alpha'?
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.alfa = 0.1 LABEL clicked INTO m
                |                                                    ^^^^^^^^^^
            line 9 col 66: model.alpha expects a number, got 'fast'
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.alpha = fast LABEL clicked INTO m
                |                                                                  ^^^^
            line 9 col 66: model.alpha must be in [0.000001, 100], got -0.1
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.alpha = -0.1 LABEL clicked INTO m
                |                                                                  ^^^^
            line 9 col 66: model.l1 is written twice
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.l1 = 1, model.l1 = 2 LABEL clicked INTO m
                |                                                                  ^^^^^^^^
            line 9 col 61: expected '=', found '1'
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH model.l1 1 LABEL clicked INTO m
                |                                                             ^
            line 9 col 70: column 'prise' not in SELECT list; did you mean 'price'?
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH validate.oracle = prise LABEL clicked INTO m
                |                                                                      ^^^^^
            line 9 col 83: validate.oracle 'price' is also a feature: this leaks the answer; remove it from COLUMN
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier WITH validate.oracle = price COLUMN price LABEL clicked INTO m
                |                                                                                   ^^^^^
            line 9 col 134: model 'm' is trained twice in this program
              9 | …T * FROM samples TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                                              ^
            line 9 col 35: no model 'ctl'; did you mean 'ctr'?
              9 | SELECT * FROM samples TO EVALUATE ctl LABEL clicked
                |                                   ^^^
            line 9 col 38: TO EVALUATE needs LABEL <column>
              9 | SELECT * FROM samples TO EVALUATE ctr
                |                                      ^
            line 9 col 58: not supported yet: EVALUATE ... INTO a table; leave it out: the figures are printed
              9 | SELECT * FROM samples TO EVALUATE ctr LABEL clicked INTO scores
                |                                                          ^^^^^^
            line 9 col 26: TO EVALUATE takes no COLUMN: the model knows its columns
              9 | SELECT * FROM samples TO EVALUATE ctr COLUMN item LABEL clicked
                |                          ^^^^^^^^
        "#]],
    );
}

/// The COLUMN clause.
#[test]
fn columns() {
    let column = |clause: &str| {
        format!("+SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN {clause} LABEL clicked INTO m")
    };
    let programs: Vec<String> = [
        "itm",
        "item, clicked",
        "item, again",
        "item, CROSS([item, clicked])",
        "item, item",
        "* EXCEPT (itm)",
        "samples.item",
        "item FOR deep",
        "EMBEDDING(item, 8)",
        "BUCKIT(price, [1])",
        "BUCKET(price, [2, 1])",
        "BUCKET(item, [1, 2])",
        "BUCKET(price, 3)",
        "CATEGORY_HASH(item)",
        "CATEGORY_HASH(item, 0)",
        "CATEGORY_ID(item, 100)",
        "CATEGORY_HASH(item, 1.5)",
        "NUMERIC(item)",
        "NUMERIC(price, 3)",
        "SPARSE(item)",
        "CROSS([item])",
        "CROSS([item, NUMERIC(price)])",
        "CROSS([item, price])",
        "* EXCEPT (item, user_id, price)",
        "item user_id",
    ]
    .map(column)
    .into();
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    check(&programs, expect![[r#"
        line 9 col 72: column 'itm' not in SELECT list; did you mean 'item'?
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN itm LABEL clicked INTO m
            |                                                                        ^^^
        line 9 col 78: label 'clicked' is also a feature: this leaks the answer; remove it from COLUMN
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN item, clicked LABEL clicked INTO m
            |                                                                              ^^^^^^^
        line 9 col 78: the label under another name, 'again' is also a feature: this leaks the answer; remove it from COLUMN
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN item, again LABEL clicked INTO m
            |                                                                              ^^^^^
        line 9 col 91: label 'clicked' is also a feature: this leaks the answer; remove it from COLUMN
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN item, CROSS([item, clicked]) LABEL clicked INTO m
            |                                                                                           ^^^^^^^
        line 9 col 78: 'item' is in COLUMN twice
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN item, item LABEL clicked INTO m
            |                                                                              ^^^^
        line 9 col 82: column 'itm' not in SELECT list; did you mean 'item'?
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN * EXCEPT (itm) LABEL clicked INTO m
            |                                                                                  ^^^
        line 9 col 72: 'samples.' does not belong here; the clause names columns of the SELECT list: write the name alone, or give it one with AS
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN samples.item LABEL clicked INTO m
            |                                                                        ^^^^^^^
        line 9 col 77: not supported yet: COLUMN ... FOR a group of slots; write one COLUMN list without FOR
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN item FOR deep LABEL clicked INTO m
            |                                                                             ^^^
        line 9 col 72: not supported yet: EMBEDDING(...); column functions are NUMERIC, CATEGORY_ID, CATEGORY_HASH, BUCKET, CROSS, SPARSE
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN EMBEDDING(item, 8) LABEL clicked INTO m
            |                                                                        ^^^^^^^^^
        line 9 col 72: no column function 'BUCKIT'; did you mean 'BUCKET'?
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN BUCKIT(price, [1]) LABEL clicked INTO m
            |                                                                        ^^^^^^
        line 9 col 86: boundaries of BUCKET must ascend
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN BUCKET(price, [2, 1]) LABEL clicked INTO m
            |                                                                                      ^
        line 9 col 72: COLUMN BUCKET(item, [1, 2]): column 'item' is Utf8, not a number; write item, CATEGORY_ID(item) or CATEGORY_HASH(item, n)
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN BUCKET(item, [1, 2]) LABEL clicked INTO m
            |                                                                        ^^^^^^^^^^^^^^^^^^^^
        line 9 col 86: expected '[', found '3'
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN BUCKET(price, 3) LABEL clicked INTO m
            |                                                                                      ^
        line 9 col 90: expected ',', found ')'
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN CATEGORY_HASH(item) LABEL clicked INTO m
            |                                                                                          ^
        line 9 col 92: a number of buckets is at least 1, got 0
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN CATEGORY_HASH(item, 0) LABEL clicked INTO m
            |                                                                                            ^
        line 9 col 88: not supported yet: CATEGORY_ID with a size; keys need no size: write CATEGORY_ID(item), or CATEGORY_HASH(item, n) for n keys
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN CATEGORY_ID(item, 100) LABEL clicked INTO m
            |                                                                                        ^
        line 9 col 92: expected a number of buckets, found '1.5'
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN CATEGORY_HASH(item, 1.5) LABEL clicked INTO m
            |                                                                                            ^^^
        line 9 col 72: COLUMN NUMERIC(item): column 'item' is Utf8, not a number; write item, CATEGORY_ID(item) or CATEGORY_HASH(item, n)
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN NUMERIC(item) LABEL clicked INTO m
            |                                                                        ^^^^^^^^^^^^^
        line 9 col 87: not supported yet: a NUMERIC column of several numbers; give each number its column
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN NUMERIC(price, 3) LABEL clicked INTO m
            |                                                                                       ^
        line 9 col 72: COLUMN SPARSE(item): column 'item' is Utf8, not a SPARSE column (formats libsvm, libfm and vw); write item, CATEGORY_ID(item) or CATEGORY_HASH(item, n)
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN SPARSE(item) LABEL clicked INTO m
            |                                                                        ^^^^^^^^^^^^
        line 9 col 78: CROSS takes at least two columns
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN CROSS([item]) LABEL clicked INTO m
            |                                                                              ^
        line 9 col 85: CROSS takes categories; cross columns, CATEGORY_ID(x), CATEGORY_HASH(x, n) or BUCKET(x, [...])
          9 | …in FROM samples TO TRAIN FTRLClassifier COLUMN CROSS([item, NUMERIC(price)]) LABEL clicked INTO m
            |                                                              ^^^^^^^^^^^^^^
        line 9 col 72: COLUMN CROSS([item, price]): price cannot be crossed; write BUCKET(price, [...]) or CATEGORY_ID(price) there
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN CROSS([item, price]) LABEL clicked INTO m
            |                                                                        ^^^^^^^^^^^^^^^^^^^^
        line 9 col 110: no column is left to be a feature; select columns of the impression besides key, event time and label
          9 | …FTRLClassifier COLUMN * EXCEPT (item, user_id, price) LABEL clicked INTO m
            |                                                              ^^^^^^^
        line 9 col 77: expected WITH, COLUMN, LABEL, INTO or the end of the statement, found 'user_id'
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN item user_id LABEL clicked INTO m
            |                                                                             ^^^^^^^
    "#]]);
}

/// A long line is shown around the place; letters of several bytes and tabs do not move the caret.
#[test]
fn the_caret_stands_under_the_place() {
    let long =
        format!("SELECT {}itme FROM clicks TO TRAIN FTRLClassifier LABEL clicked INTO m", "imp_id + ".repeat(20));
    check(
        &[&format!("+{long}"), "SELECT 'äöü€',\tx FROM t TO TRAIN FTRLClassifier LABEL y INTO m", "SHOW\r\nMODLES"],
        expect![[r#"
            line 9 col 188: no column 'itme'; columns: imp_id, kind, ts, rt
              9 | …_id + imp_id + imp_id + imp_id + imp_id + imp_id + imp_id + itme FROM clicks TO TRAIN FTRLClassifier LABEL clicked INTO …
                |                                                              ^^^^
            line 1 col 23: table 't' not found; there are no tables
              1 | SELECT 'äöü€', x FROM t TO TRAIN FTRLClassifier LABEL y INTO m
                |                       ^
            line 2 col 1: expected MODELS, found 'MODLES'; did you mean MODELS?
              2 | MODLES
                | ^^^^^^
        "#]],
    );
}
