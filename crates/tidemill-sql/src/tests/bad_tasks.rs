//! What may not stand behind TO, each with the whole diagnostic.

use expect_test::expect;

use super::refused as check;

/// B5 to B11, B14: what stands behind TO.
#[test]
fn b5_to_b11_b14_tasks() {
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
            "+SELECT item, price, price > 1 AS y FROM impressions TO TRAIN FTRLClassifier COLUMN item, price LABEL y INTO m",
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
            line 9 col 53: label 'item' is STRING; a label is BOOLEAN or a number; compare in the SELECT: (x = 'yes') AS label
              9 | SELECT * FROM samples TO TRAIN FTRLClassifier LABEL item INTO m
                |                                                     ^^^^
            line 9 col 53: label 'price' does not depend on the joined feedback; select (c.imp_id IS NOT NULL) AS label
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
            line 9 col 90: what the label is computed from, 'price' is also a feature: this leaks the answer; remove it from COLUMN
              9 | SELECT item, price, price > 1 AS y FROM impressions TO TRAIN FTRLClassifier COLUMN item, price LABEL y INTO m
                |                                                                                          ^^^^^
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
    check(
        &programs,
        expect![[r#"
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
        line 9 col 72: COLUMN BUCKET(item, [1, 2]): column 'item' is STRING, not a number; write item, CATEGORY_ID(item) or CATEGORY_HASH(item, n)
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
        line 9 col 72: COLUMN NUMERIC(item): column 'item' is STRING, not a number; write item, CATEGORY_ID(item) or CATEGORY_HASH(item, n)
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN NUMERIC(item) LABEL clicked INTO m
            |                                                                        ^^^^^^^^^^^^^
        line 9 col 87: not supported yet: a NUMERIC column of several numbers; give each number its column
          9 | SELECT *, clicked AS again FROM samples TO TRAIN FTRLClassifier COLUMN NUMERIC(price, 3) LABEL clicked INTO m
            |                                                                                       ^
        line 9 col 72: COLUMN SPARSE(item): column 'item' is STRING, not a SPARSE column (formats libsvm, libfm and vw); write item, CATEGORY_ID(item) or CATEGORY_HASH(item, n)
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
    "#]],
    );
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
