//! The room seen from its border: SQL in, bound programs, diagnostics and rows out.

mod alter;
mod bad_joins;
mod bad_queries;
mod bad_statements;
mod bad_tasks;
mod feature_views;
mod good;
mod limits;
mod rows;
mod sinks;

use expect_test::Expect;
use tidemill_base::attribute::{Attribute, Type};

use crate::{Known, Program, Statement, TrainJob, bind};

/// A few attributes in the shapes that a learner's have.
static ATTRIBUTES: [Attribute; 8] = [
    Attribute { name: "model.alpha", ty: Type::Number { min: 1e-6, max: 100.0 }, default: Some("0.1"), doc: "" },
    Attribute { name: "model.l1", ty: Type::Number { min: 0.0, max: 1e6 }, default: Some("0"), doc: "" },
    Attribute { name: "train.batch_size", ty: Type::Integer { min: 1, max: 1 << 20 }, default: Some("64"), doc: "" },
    Attribute { name: "validate.oracle", ty: Type::Text, default: Some(""), doc: "" },
    Attribute { name: "publish.interval", ty: Type::Duration, default: Some("10s"), doc: "" },
    Attribute {
        name: "join.pending_max",
        ty: Type::Integer { min: 1, max: 1 << 32 },
        default: Some("1000000"),
        doc: "",
    },
    Attribute { name: "join.bytes_max", ty: Type::Bytes, default: None, doc: "" },
    Attribute {
        name: "join.when_full",
        ty: Type::Choice(&["release", "spill", "stop"]),
        default: Some("release"),
        doc: "",
    },
];

static ROLLOUT: [Attribute; 3] = [
    Attribute { name: "stages", ty: Type::Text, default: Some("100%"), doc: "" },
    Attribute { name: "each", ty: Type::Duration, default: Some("5s"), doc: "" },
    Attribute { name: "errors", ty: Type::Number { min: 1.0, max: 1000.0 }, default: Some("1"), doc: "" },
];

/// Two streams as in the first example of the manual.
const STREAMS: &str = "CREATE SOURCE impressions (imp_id BIGINT PRIMARY KEY, user_id BIGINT, item STRING, price DOUBLE, ts BIGINT,
  rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '10' SECOND)
WITH (connector = 'file', path = 'imp-*.jsonl');
CREATE SOURCE clicks (imp_id BIGINT, kind STRING, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '10' SECOND)
WITH (connector = 'file', path = 'clicks.jsonl');
CREATE STREAM samples AS
  SELECT i.*, (c.imp_id IS NOT NULL) AS clicked
  FROM impressions i LEFT JOIN clicks c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE;
";

fn known() -> Known {
    Known {
        learners: vec!["FTRLClassifier"],
        train_attributes: ATTRIBUTES.iter().collect(),
        rollout_attributes: ROLLOUT.iter().collect(),
        models: vec!["ctr".to_string()],
    }
}

fn bound(sql: &str) -> Program {
    bind(sql, &known()).unwrap_or_else(|d| panic!("{d}"))
}

fn train_job(sql: &str) -> TrainJob {
    let first = bound(sql).statements.into_iter().next();
    match first {
        Some(Statement::Train(job)) => *job,
        _ => panic!("the program trains nothing"),
    }
}

/// The diagnostics of these programs, one after the other. A program that begins with `+` has the two streams before it.
fn refused(programs: &[&str], expected: Expect) {
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
