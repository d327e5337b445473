//! docs/attributes.md is what the declarations say: rendered here from them, and compared with the file.
//!
//! `UPDATE_EXPECT=1 cargo test -p tidemill --test it reference` writes it anew.

use expect_test::expect_file;
use tidemill_base::{
    attribute::{Attribute, Type},
    thousands,
};

const INTRODUCTION: &str = "\
# Attributes

Every setting that a program can write. This page is made from the declarations in the code, and a test compares them:
change the declaration, then run `UPDATE_EXPECT=1 cargo test -p tidemill --test it reference`.

Names are read without regard to letter case. Numbers may be quoted or not (`rate = 20000`, `rate = '20000'`); texts and
durations are quoted, and a duration needs its unit (`'250ms'`, `'10s'`, `'15m'`, `'1h'`, `'7d'`, `'2w'`). Refused, with
the place in the program: a name that is not listed (with the nearest that is), a name that is written twice, a value
outside its range, an attribute of another connector. *none* under \"Default\": without being written it has no value.
";

const SOURCES: &str = "
## Sources

`CREATE SOURCE name (columns ...) WITH (name = value, ...)`. `connector` must be written, and `path` with
`connector = 'file'`.
";

const FEATURE_VIEWS: &str = "
## Feature views

`CREATE FEATURE VIEW name KEYED BY column AS SELECT ... FROM streams WITH (name = value, ...)`.
";

const SINKS: &str = "
## Sinks

`CREATE SINK name AS SELECT columns FROM model WITH (name = value, ...)`, or `CREATE SINK name FROM model WITH (...)` for all
columns. `connector` must be written.
";

const TRAINING: &str = "
## Training

`SELECT ... TO TRAIN FTRLClassifier WITH name = value, ... COLUMN ... LABEL ... INTO model`.

Where it says \"by slot\", slots of COLUMN may have values of their own: `model.alpha = '0.1; user=0.05; item*city=0.2'`. The
first value is for all others; left out, they have the default. Slots are named as in `:explain`, `bias` is the model's
constant ([0014](0014-settings-by-slot.md)).
";

const ROLLOUTS: &str = "
## Rollouts

`ALTER MODEL name ROLLOUT VERSION 7 (STAGES '...', EACH '...', GUARD (name = value, ...))`. Where none of `logloss`,
`errors`, `latency`, `calibration`, `psi` and `ks` is written, all of them guard; else those that are written.
";

/// What the type takes, in words.
fn takes(ty: Type) -> String {
    match ty {
        Type::Number { min, max } => format!("number, {min} to {max}"),
        Type::Integer { min, max: i64::MAX } => format!("whole number, at least {min}"),
        Type::Integer { min, max } => {
            format!("whole number, {} to {}", thousands(min as u64), thousands(max as u64))
        }
        Type::Bool => "`true` or `false`".into(),
        Type::Duration => "duration".into(),
        Type::Bytes => "bytes".into(),
        Type::Text => "text".into(),
        Type::Choice(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Type::BySlot(ty) => format!("{}; by slot", takes(*ty)),
    }
}

fn row(attribute: &Attribute) -> String {
    let default = match attribute.default {
        None => "*none*".into(),
        Some("") => "`''`".into(),
        Some(text) => format!("`{text}`"),
    };
    // A bar would end the cell.
    let doc = attribute.doc.replace('|', "\\|");
    format!("| `{}` | {} | {default} | {doc} |\n", attribute.name, takes(attribute.ty))
}

fn table(attributes: &[Attribute]) -> String {
    let head = "\n| Name | Takes | Default | What it does |\n|---|---|---|---|\n".to_string();
    attributes.iter().fold(head, |out, a| out + &row(a))
}

/// A reader of the reference page must be able to believe it.
#[test]
fn the_reference_of_attributes_says_what_the_code_declares() {
    let sources = table(&tidemill_stream::source::ATTRIBUTES);
    let training = table(&tidemill_train::ATTRIBUTES);
    let views = table(&tidemill_stream::aggregate::ATTRIBUTES);
    let sinks = table(&tidemill_stream::sink::SINK_ATTRIBUTES);
    let rollouts = table(&tidemill_serve::rollout::ROLLOUT_ATTRIBUTES);
    let page = format!(
        "{INTRODUCTION}{SOURCES}{sources}{FEATURE_VIEWS}{views}{SINKS}{sinks}{TRAINING}{training}{ROLLOUTS}{rollouts}"
    );
    expect_file!["../../../../docs/attributes.md"].assert_eq(&page);
}
