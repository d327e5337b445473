//! Rows of a file scored by `tidemill predict`, on one core.
//!
//! In: clicks of a directory, or made ones. Out: rows a second, from the start of the command to predictions on disk, with the
//! log loss of what it wrote. The model has learned the test part of the clicks, and scores the larger training part.

use std::{fs, path::Path};

use serde_json::Value;
use tidemill_base::{Error, Result};
use tidemill_model::math::ln;

use super::{
    super::{Case, clicks::Clicks},
    Group, Stage,
    process::Server,
};

pub(super) const GROUP: Group = Group { cases: &CASES, usual: CASES.len(), measure };

const CASES: [(&str, &str); 2] =
    [("score a CSV file, 39 columns", "rows/s"), ("score a CSV file, 39 columns", "log loss")];

/// Rows made for each second of the plan.
const ROWS_PER_SECOND: f64 = 250_000.0;
const ROWS_MIN: u64 = 2_000;

fn measure(stage: &Stage, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let dir = stage.dir("file")?;
    let clicks = match &stage.plan.data {
        Some(data) => Clicks::find(data, "c3m")?,
        None => {
            let rows = ((stage.plan.seconds * ROWS_PER_SECOND) as u64).max(ROWS_MIN);
            tell(&format!("making {rows} rows of clicks"));
            Clicks::make(&dir, rows)?
        }
    };
    let data = dir.join("data").display().to_string();
    let program = Clicks { train: clicks.test, test: clicks.train.clone() };
    let program = program.training("FTRLClassifier", "model.alpha = 0.1, train.batch_size = 16");
    tell("learning a model to score by");
    Server::run_to_end(&["run", "-e", &program, "--data-dir", &data, "--no-serve", "--quiet"])?;
    let (file, out) = (clicks.train.display().to_string(), dir.join("predictions.csv"));
    let to = out.display().to_string();
    let mut cases = GROUP.empty();
    for round in 1..=stage.plan.rounds {
        stage.say(tell, round, "scoring a file");
        let args = ["predict", "bench", &file, "--data-dir", &data, "--with", "label", "--out", &to];
        let said = Server::run_to_end(&[&args[..], &["--threads", "1", "--json"]].concat())?;
        let figures: Value = serde_json::from_str(said.trim()).unwrap_or_default();
        let speed = figures["rows_per_s"].as_f64().filter(|_| figures["refused"] == 0);
        let speed = speed.ok_or_else(|| Error::internal(format!("predict did not score every row: {said}")))?;
        cases[0].values.push(speed);
        cases[1].values.push(log_loss(&out)?);
    }
    Ok(cases)
}

/// Of lines `label,probability` behind a line of names.
fn log_loss(file: &Path) -> Result<f64> {
    let text = fs::read_to_string(file).map_err(|e| Error::io("read", file, e))?;
    let (mut sum, mut rows) = (0.0, 0u64);
    for line in text.lines().skip(1) {
        let both = line.split_once(',').and_then(|(label, p)| Some((label == "1", p.parse::<f64>().ok()?)));
        let (is_positive, p) = both.ok_or_else(|| Error::internal(format!("a line of predictions is '{line}'")))?;
        sum -= ln(if is_positive { p } else { 1.0 - p });
        rows += 1;
    }
    Ok(sum / rows as f64)
}
