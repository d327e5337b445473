//! Sinks: what leaves, what is carried for it, and what stays as it was.

use expect_test::expect;

use super::{STREAMS, bound, refused, train_job};

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
    expect![[r#"
        train FTRLClassifier into ctr
          left: impressions (imp_id BIGINT, user_id BIGINT, item STRING, price DOUBLE, ts BIGINT)
    "#]]
    .assert_eq(&bound(&sql).to_string().lines().take(2).map(|line| format!("{line}\n")).collect::<String>());
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
    let sink = |rest: &str| format!("+{TRAIN}\nCREATE SINK s {rest}");
    let file = "WITH (connector = 'file', path = 'out')";
    let programs = [
        sink(&format!("AS SELECT predicton FROM ctr {file}")),
        sink(&format!("AS SELECT prediction FROM ctrr {file}")),
        sink(&format!("AS SELECT prediction FROM samples {file}")),
        sink("AS SELECT prediction FROM ctr"),
        sink("AS SELECT prediction FROM ctr WITH (connector = 'file')"),
        sink("AS SELECT prediction FROM ctr WITH (connector = 'files', path = 'out')"),
        sink("AS SELECT prediction FROM ctr WITH (connector = 'file', path = 'out', topic = 'x')"),
        sink("AS SELECT prediction FROM ctr WITH (connector = 'kafka', brokers = 'b:9092', topic = 't', format = 'parquet')"),
        sink("AS SELECT prediction FROM ctr WITH (connector = 'kafka', brokers = 'b:9092', topic = 't', key = 'user_id')"),
        sink("AS SELECT prediction FROM ctr WITH (connector = 'nats', url = 'nats://n', subject = 'a.*')"),
        sink(&format!("AS SELECT prediction FROM ctr WHERE prediction {file}")),
        sink(&format!("AS SELECT COUNT(*) FROM ctr {file}")),
        sink(&format!("AS SELECT prediction FROM ctr GROUP BY 1 {file}")),
        sink(&format!("AS SELECT a.prediction FROM ctr a LEFT JOIN clicks c ON a.imp_id = c.imp_id {file}")),
        sink(&format!("FROM ctr {file}; CREATE SINK S FROM ctr {file}")),
        format!("+{TRAIN}\nCREATE SINK \"../x\" FROM ctr {file}"),
        format!("+{TRAIN}\nCREATE OR REPLACE SINK s FROM ctr {file}"),
        format!(
            "+CREATE VIEW more AS SELECT i.*, c.kind AS kind, (c.imp_id IS NOT NULL) AS clicked FROM impressions i LEFT JOIN clicks c \
             ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE;
             SELECT * FROM more TO TRAIN FTRLClassifier COLUMN item LABEL clicked INTO m; CREATE SINK s AS SELECT kind FROM m {file}"
        ),
    ];
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    refused(&programs, expect![[r#""#]]);
}
