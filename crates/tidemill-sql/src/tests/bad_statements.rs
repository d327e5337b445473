//! Statements and sources that are refused, each with the whole diagnostic.

use expect_test::expect;

use super::refused as check;

/// B1 to B4, B18, B24: the statement as a whole.
#[test]
fn b1_to_b4_b18_b24_statements() {
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
            line 1 col 1: expected CREATE, SELECT, ALTER or SHOW, found 'SELEC'; did you mean SELECT?
              1 | SELEC * FROM t
                | ^^^^^
            line 1 col 1: expected CREATE, SELECT, ALTER or SHOW, found 'CREAT'; did you mean CREATE?
              1 | CREAT SOURCE t (a INT) WITH (connector='http')
                | ^^^^^
            line 1 col 8: expected SOURCE, VIEW, STREAM, FEATURE VIEW, SINK or RANKING, found 'SUORCE'; did you mean SOURCE?
              1 | CREATE SUORCE t (a INT) WITH (connector='http')
                |        ^^^^^^
            line 1 col 6: expected MODELS, found 'MODLES'; did you mean MODELS?
              1 | SHOW MODLES
                |      ^^^^^^
            line 1 col 6: not supported yet: SHOW TRAIN; SHOW MODELS lists what is trained
              1 | SHOW TRAIN m
                |      ^^^^^
            line 1 col 1: not supported yet: DROP; statements are CREATE SOURCE, CREATE VIEW, SELECT ... TO, ALTER MODEL, SHOW MODELS
              1 | DROP TABLE t
                | ^^^^
            line 1 col 8: not supported yet: CREATE TABLE; CREATE SOURCE, CREATE VIEW, CREATE SINK and CREATE RANKING are built
              1 | CREATE TABLE t (a INT)
                |        ^^^^^
            line 1 col 50: expected an aggregate like COUNT(x), found '1'
              1 | CREATE FEATURE VIEW f KEYED BY user_id AS SELECT 1
                |                                                  ^
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
            line 9 col 23: 'WEHRE' was not expected here; did you mean WHERE?
              9 | SELECT * FROM samples WEHRE price > 1 TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                       ^^^^^
            line 9 col 15: table 'clik' not found; did you mean 'clicks'?
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

/// B24: what depends on itself is refused with the whole ring, whichever of its members a query asks for.
#[test]
fn b24_views_and_streams_that_depend_on_themselves() {
    check(
        &[
            "+CREATE VIEW a AS SELECT * FROM a",
            "+CREATE STREAM a AS SELECT * FROM a; SELECT * FROM a TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+CREATE VIEW a AS SELECT * FROM b; CREATE VIEW b AS SELECT * FROM a; SELECT * FROM b TO TRAIN FTRLClassifier LABEL clicked INTO m",
            "+CREATE STREAM a AS SELECT i.*, (c.imp_id IS NOT NULL) AS clicked FROM impressions i LEFT JOIN b c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '1' HOUR; CREATE VIEW b AS SELECT * FROM a",
        ],
        expect![[r#"
            line 9 col 32: view 'a' depends on itself: a -> a
              9 | CREATE VIEW a AS SELECT * FROM a
                |                                ^
            line 9 col 34: view 'a' depends on itself: a -> a
              9 | CREATE STREAM a AS SELECT * FROM a; SELECT * FROM a TO TRAIN FTRLClassifier LABEL clicked INTO m
                |                                  ^
            line 9 col 66: view 'a' depends on itself: a -> b -> a
              9 | …E VIEW a AS SELECT * FROM b; CREATE VIEW b AS SELECT * FROM a; SELECT * FROM b TO TRAIN FTRLClassifier LABEL clicked INT…
                |                                                              ^
            line 9 col 205: view 'a' depends on itself: a -> b -> a
              9 | …ND i.rt + INTERVAL '1' HOUR; CREATE VIEW b AS SELECT * FROM a
                |                                                              ^
        "#]],
    );
}

/// What a source's declaration can get wrong.
#[test]
fn b21_sources() {
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
            line 1 col 24: WITH needs connector = 'file', 'generator', 'http', 'kafka', 'nats' or 's3'
              1 | CREATE SOURCE t (a INT)
                |                        ^
            line 1 col 31: a source has no attribute 'conector'; did you mean 'connector'?
              1 | CREATE SOURCE t (a INT) WITH (conector = 'file', path = 'x.csv')
                |                               ^^^^^^^^
            line 1 col 43: connector expects one of file, generator, http, kafka, nats, s3, got 'fiel'; did you mean 'file'?
              1 | CREATE SOURCE t (a INT) WITH (connector = 'fiel', path = 'x.csv')
                |                                           ^^^^^^
            line 1 col 43: connector 'file' needs path = '...'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file')
                |                                           ^^^^^^
            line 1 col 25: format cannot be told from 'x.dat'; write format = 'csv', 'tsv', 'json', 'parquet', 'arrow', 'libsvm', 'libfm' or 'vw'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.dat')
                |                         ^^^^
            line 1 col 72: format expects one of csv, tsv, json, parquet, libsvm, libfm, vw, arrow, got 'cvs'; did you mean 'csv'?
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
            line 1 col 41: expected '=', found 'file'
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
            line 1 col 50: expected WITH (...), SWITCH TO or the end of the statement, found ','
              1 | CREATE SOURCE t (a INT) WITH (connector = 'http'),
                |                                                  ^
            line 1 col 25: expected WITH (...), SWITCH TO or the end of the statement, found 'WIHT'; did you mean WITH?
              1 | CREATE SOURCE t (a INT) WIHT (connector = 'http')
                |                         ^^^^
        "#]],
    );
}

/// What the declaration of a source behind a server can get wrong.
#[test]
fn sources_behind_a_server() {
    check(
        &[
            "CREATE SOURCE t (a INT) WITH (connector = 'kafka', topic = 'x')",
            "CREATE SOURCE t (a INT) WITH (connector = 'nats', url = 'nats://h')",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', topic = 'x')",
            "CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', on_gap = 'stop')",
            "CREATE SOURCE t (a INT) WITH (connector = 'kafka', brokers = 'h', topic = 'x', format = 'parquet')",
            "CREATE SOURCE t (a INT) WITH (connector = 'kafka', brokers = 'h', topic = 'x', properties = 'a=1;b')",
        ],
        expect![[r#"
            line 1 col 43: connector 'kafka' needs brokers = '...', for example 'host:9092'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'kafka', topic = 'x')
                |                                           ^^^^^^^
            line 1 col 43: connector 'nats' needs subject = '...' or nats.stream = '...'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'nats', url = 'nats://h')
                |                                           ^^^^^^
            line 1 col 67: 'topic' belongs to connector 'kafka'; this is 'file'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', topic = 'x')
                |                                                                   ^^^^^
            line 1 col 67: 'on_gap' belongs to connector 'kafka' or 'nats'; this is 'file'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'file', path = 'x.csv', on_gap = 'stop')
                |                                                                   ^^^^^^
            line 1 col 89: format 'parquet' is for files; connector 'kafka' reads 'json', 'csv' and 'tsv'
              1 | CREATE SOURCE t (a INT) WITH (connector = 'kafka', brokers = 'h', topic = 'x', format = 'parquet')
                |                                                                                         ^^^^^^^^^
            line 1 col 25: properties: pair 2 has no '='; write name=value
              1 | CREATE SOURCE t (a INT) WITH (connector = 'kafka', brokers = 'h', topic = 'x', properties = 'a=1;b')
                |                         ^^^^
        "#]],
    );
}
