//! Sinks: what leaves, what is carried for it, and what stays as it was.

use expect_test::expect;

use super::{STREAMS, known, train_job};
use crate::bind;

const TRAIN: &str = "SELECT * FROM samples TO TRAIN FTRLClassifier COLUMN item LABEL clicked INTO ctr;";

fn with(sinks: &str) -> String {
    format!("{STREAMS}{TRAIN}\n{sinks}")
}

#[test]
fn a_sink_changes_nothing_that_is_learned_and_carries_what_it_reads() {
    let plain = train_job(&with(""));
    assert_eq!(plain.state_fingerprint, plain.fingerprint);
    let sql = with(
        "CREATE SINK scored AS SELECT user_id, price * 2 AS double, rt, prediction, label, sample_weight AS w
           FROM ctr c WHERE c.prediction > 0.5 AND user_id <> 7
         WITH (connector = 'file', path = 'out', roll.bytes = '1MiB');",
    );
    let job = train_job(&sql);
    assert_eq!(job.fingerprint, plain.fingerprint);
    assert_ne!(job.state_fingerprint, plain.fingerprint, "what waits in the join has other columns");
    assert!(job.text.contains("CREATE SINK scored"));
    // The server's place and how files are cut are no part of what a sink is.
    let moved = train_job(&sql.replace("1MiB", "2MiB").replace("'out'", "'elsewhere'"));
    assert_eq!(moved.sinks[0].identity, job.sinks[0].identity);
    let other = train_job(&sql.replace("price * 2", "price * 3"));
    assert_ne!(other.sinks[0].identity, job.sinks[0].identity);
    assert_eq!(other.state_fingerprint, job.state_fingerprint, "but the same columns are carried");
}

#[test]
fn a_sink_of_a_whole_model_has_the_columns_of_its_select_and_the_engines() {
    let job = train_job(&with(
        "CREATE SINK all_of_it FROM ctr WITH (connector = 'nats', url = 'nats://n:4222', subject = 'out.ctr');",
    ));
    let columns: Vec<String> = job.sinks[0].rows.output().fields().iter().map(|f| f.name().clone()).collect();
    expect!["imp_id user_id item price ts rt clicked prediction label sample_weight sample_kind mini_batch mini_batch_row event_time"]
        .assert_eq(&columns.join(" "));
    // A column of the SELECT keeps its name.
    let own = with("CREATE SINK s AS SELECT label, prediction FROM ctr WITH (connector = 'file', path = 'out');")
        .replace("SELECT i.*,", "SELECT i.*, i.user_id AS label,");
    assert_eq!(train_job(&own).sinks[0].rows.output().field(0).data_type().to_string(), "Int64");
}

#[test]
fn what_is_wrong_with_a_sink_is_said_with_its_place() {
    let sink = |rest: &str| format!("{STREAMS}{TRAIN}\nCREATE SINK s {rest}");
    let file = "WITH (connector = 'file', path = 'out')";
    let select = |what: &str| sink(&format!("AS SELECT {what} {file}"));
    let with = |settings: &str| sink(&format!("AS SELECT prediction FROM ctr WITH ({settings})"));
    let programs = [
        (select("predicton FROM ctr"), "did you mean 'prediction'?"),
        (select("prediction FROM ctrr"), "no model 'ctrr' is trained in this program; did you mean 'ctr'?"),
        (select("prediction FROM samples"), "no model 'samples' is trained in this program"),
        (sink("AS SELECT prediction FROM ctr"), "WITH needs connector = 'file', 'kafka' or 'nats'"),
        (with("connector = 'file'"), "connector 'file' needs path = '...'"),
        (with("connector = 'files', path = 'out'"), "did you mean 'file'?"),
        (with("connector = 'file', path = 'out', topic = 'x'"), "'topic' belongs to connector 'kafka'; this is 'file'"),
        (with("connector = 'kafka', brokers = 'b', topic = 't', format = 'parquet'"), "format 'parquet' is for files"),
        (with("connector = 'kafka', brokers = 'b', topic = 't', key = 'user_id'"), "key 'user_id' is no column of the sink"),
        (with("connector = 'nats', url = 'nats://n', subject = 'a.*'"), "rows are sent to one subject"),
        (select("prediction FROM ctr WHERE prediction"), "WHERE needs a condition"),
        (select("prediction FROM ctr GROUP BY 1"), "not supported yet: GROUP BY"),
        (select("a.prediction FROM ctr a LEFT JOIN clicks c ON a.imp_id = c.imp_id"), "a sink takes its rows FROM one model"),
        (sink(&format!("FROM ctr {file}; CREATE SINK S FROM ctr {file}")), "sink 'S' is already defined"),
        (format!("{STREAMS}{TRAIN}\nCREATE SINK \"../x\" FROM ctr {file}"), "a sink's name has 1 to 64 letters"),
        (format!("{STREAMS}{TRAIN}\nCREATE OR REPLACE SINK s FROM ctr {file}"), "a sink is declared once"),
        (
            format!(
                "{STREAMS}CREATE VIEW more AS SELECT i.*, c.kind AS kind, (c.imp_id IS NOT NULL) AS clicked FROM impressions i \
                 LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE;
                 SELECT * FROM more TO TRAIN FTRLClassifier COLUMN item LABEL clicked INTO m;
                 CREATE SINK s AS SELECT kind FROM m {file}"
            ),
            "column 'kind' depends on feedback",
        ),
    ];
    for (sql, words) in programs {
        let said = bind(&sql, &known()).err().unwrap_or_else(|| panic!("{words}: it was bound")).to_string();
        assert!(said.contains(words) && said.starts_with("line "), "{words}: {said}");
    }
}
