//! `ALTER MODEL`: what is understood, and what is told of the rest.

use expect_test::expect;

use super::{bound, refused};

#[test]
fn changes_are_bound() {
    let program = bound(
        "ALTER MODEL ctr LABEL canary VERSION 7; alter model ctr drop label canary;
         ALTER MODEL ctr SPLIT (live = 97.5, canary = 2.5); ALTER MODEL ctr ROLLOUT;
         ALTER MODEL ctr ROLLOUT VERSION 7 (STAGES '1%, 100%', EACH '250ms', GUARD (errors = 2));
         ALTER MODEL ctr ROLLOUT ABORT",
    );
    expect![[r#"
        alter model ctr: label canary is version 7
        alter model ctr: label canary goes
        alter model ctr: split live 97.5%, canary 2.5%
        alter model ctr: roll out the newest version
        alter model ctr: roll out version 7, stages = 1%, 100%, each = 250ms, errors = 2
        alter model ctr: end the rollout
    "#]]
    .assert_eq(&program.to_string());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    refused(
        &[
            "ALTER TABLE ctr",
            "ALTER MODEL ctx LABEL canary VERSION 7",
            "ALTER MODEL ctr LABEL canary",
            "ALTER MODEL ctr LABEL canary VERSION seven",
            "ALTER MODEL ctr LABLE canary VERSION 7",
            "ALTER MODEL ctr SPLIT (live = 100, canary = 10)",
            "ALTER MODEL ctr SPLIT (live = 110, canary = -10)",
            "ALTER MODEL ctr SPLIT (live = NaN)",
            "ALTER MODEL ctr SPLIT ()",
            "ALTER MODEL ctr ROLLOUT (STAGE '1%')",
            "ALTER MODEL ctr ROLLOUT (EACH '5')",
            "ALTER MODEL ctr ROLLOUT (EACH '5s', EACH '6s')",
            "ALTER MODEL ctr ROLLOUT (GUARD (error = 1))",
            "ALTER MODEL ctr ROLLOUT (GUARD (errors = NaN))",
            "ALTER MODEL ctr ROLLOUT (GUARD (each = 1))",
            "ALTER MODEL ctr ROLLOUT ABORT now",
        ],
        expect![[r#"
            line 1 col 7: expected MODEL, found 'TABLE'
              1 | ALTER TABLE ctr
                |       ^^^^^
            line 1 col 13: no model 'ctx'; did you mean 'ctr'?
              1 | ALTER MODEL ctx LABEL canary VERSION 7
                |             ^^^
            line 1 col 29: expected VERSION, found the end of the statement
              1 | ALTER MODEL ctr LABEL canary
                |                             ^
            line 1 col 38: expected the number of a version, found 'seven'
              1 | ALTER MODEL ctr LABEL canary VERSION seven
                |                                      ^^^^^
            line 1 col 17: expected LABEL, DROP LABEL, DROP RANKING, SPLIT or ROLLOUT, found 'LABLE'; did you mean LABEL?
              1 | ALTER MODEL ctr LABLE canary VERSION 7
                |                 ^^^^^
            line 1 col 24: weights must sum to 100, got 110; the live version has its share too: SPLIT (live = 90, canary = 10)
              1 | ALTER MODEL ctr SPLIT (live = 100, canary = 10)
                |                        ^^^^
            line 1 col 31: weight of 'live' must be from 0 to 100, got '110'
              1 | ALTER MODEL ctr SPLIT (live = 110, canary = -10)
                |                               ^^^
            line 1 col 31: weight of 'live' must be from 0 to 100, got 'NaN'
              1 | ALTER MODEL ctr SPLIT (live = NaN)
                |                               ^^^
            line 1 col 24: expected an attribute's name, found ')'
              1 | ALTER MODEL ctr SPLIT ()
                |                        ^
            line 1 col 26: expected STAGES, EACH or GUARD, found 'STAGE'; did you mean STAGES?
              1 | ALTER MODEL ctr ROLLOUT (STAGE '1%')
                |                          ^^^^^
            line 1 col 31: each: '5' has no unit; write "5ms", "5s", "5m" or "5h"
              1 | ALTER MODEL ctr ROLLOUT (EACH '5')
                |                               ^^^
            line 1 col 37: each is written twice
              1 | ALTER MODEL ctr ROLLOUT (EACH '5s', EACH '6s')
                |                                     ^^^^
            line 1 col 33: ROLLOUT has no attribute 'error'; did you mean 'errors'?
              1 | ALTER MODEL ctr ROLLOUT (GUARD (error = 1))
                |                                 ^^^^^
            line 1 col 42: errors must be in [1, 1000], got NaN
              1 | ALTER MODEL ctr ROLLOUT (GUARD (errors = NaN))
                |                                          ^^^
            line 1 col 33: each is no guard; write it beside GUARD
              1 | ALTER MODEL ctr ROLLOUT (GUARD (each = 1))
                |                                 ^^^^
            line 1 col 31: expected the end of the statement, found 'now'
              1 | ALTER MODEL ctr ROLLOUT ABORT now
                |                               ^^^
        "#]],
    );
}
