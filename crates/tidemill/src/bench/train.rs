//! `tidemill bench train`: learning from text, from kept features, on one core and two, beside the ceiling.
//!
//! Each figure is a run of this very program on a SQL text, in a process of its own that is held to its cores by `taskset`
//! where that is installed: reading, ordering, the journal, progressive figures and the version at the end are in it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tidemill_base::{Error, Result};

use super::{Case, ceiling::HashedSamples, clicks::Clicks};

/// What is to be measured.
pub struct Plan {
    /// Directory with `c3m.train.csv` and so on; without one clicks are made.
    pub data: Option<PathBuf>,
    /// Rows to make.
    pub rows: u64,
    /// Times each case is run.
    pub rounds: usize,
    /// Cases whose names contain this.
    pub only: Option<String>,
}

/// A learner with settings on a file.
struct Task {
    name: &'static str,
    data: &'static str,
    learner: &'static str,
    settings: &'static str,
    cores: usize,
    /// Also told: how fast the second pass is, from kept features.
    with_cache: bool,
}

const TASKS: [Task; 6] = [
    Task {
        name: "lr from CSV, 1 core",
        data: "c3m",
        learner: "LogisticRegression",
        settings: "model.alpha = 0.1, train.batch_size = 16",
        cores: 1,
        with_cache: false,
    },
    Task {
        name: "lr from CSV, 2 cores",
        data: "c3m",
        learner: "LogisticRegression",
        settings: "model.alpha = 0.1, train.batch_size = 16",
        cores: 2,
        with_cache: false,
    },
    Task {
        name: "lr from kept features, 1 core",
        data: "c3m",
        learner: "LogisticRegression",
        settings: "model.alpha = 0.1, train.batch_size = 16, train.passes = 2",
        cores: 1,
        with_cache: true,
    },
    Task {
        name: "fm k=8, 1 core",
        data: "c500k",
        learner: "FMClassifier",
        settings: "model.factors = 8, model.factors_alpha = 0.05, train.batch_size = 16, train.admit_after = 2",
        cores: 1,
        with_cache: false,
    },
    Task {
        name: "ffm k=4, 1 core",
        data: "c500k",
        learner: "FFMClassifier",
        settings: "model.factors = 4, model.factors_optimizer = 'rowwise_adagrad', model.factors_alpha = 0.05, \
                   train.batch_size = 1, train.admit_after = 3",
        cores: 1,
        with_cache: false,
    },
    Task {
        name: "mlp 8, 128-64, 1 core",
        data: "c500k",
        learner: "MLPClassifier",
        settings: "model.embedding = 8, model.layers = '128,64', train.batch_size = 256",
        cores: 1,
        with_cache: false,
    },
];

/// Runs the plan; `tell` hears what is going on.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let scratch = std::env::temp_dir().join(format!("tidemill-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| Error::io("create", &scratch, e))?;
    let cases = measure(plan, &scratch, tell);
    let _ = std::fs::remove_dir_all(&scratch);
    cases
}

fn measure(plan: &Plan, scratch: &Path, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let made = match plan.data {
        None => {
            tell(&format!("making {} rows of clicks", plan.rows));
            Some(Clicks::make(scratch, plan.rows)?)
        }
        Some(_) => None,
    };
    let wanted = |task: &&Task| plan.only.as_ref().is_none_or(|only| task.name.contains(only.as_str()));
    let tasks: Vec<&Task> = TASKS.iter().filter(wanted).collect();
    if tasks.is_empty() {
        let names: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
        return Err(Error::not_found(format!("no case has that in its name; cases are {}", names.join("; "))));
    }
    let mut all: Vec<[Case; 4]> = tasks.iter().map(|task| cases(task)).collect();
    for round in 1..=plan.rounds {
        for (task, [speed, progressive, test, memory]) in tasks.iter().zip(&mut all) {
            tell(&format!("round {round} of {}: {}", plan.rounds, task.name));
            let found = match (&plan.data, &made) {
                (Some(dir), _) => Clicks::find(dir, task.data)?,
                (None, Some(made)) => Clicks { train: made.train.clone(), test: made.test.clone() },
                (None, None) => return Err(Error::internal("no clicks were made")),
            };
            let data_dir = scratch.join("data");
            let (trained, tested) = train(task, &found, scratch, &data_dir)?;
            let figure = |of: &Value, name: &str| of[name].as_f64().unwrap_or(f64::NAN);
            match task.with_cache {
                true => {
                    speed.values.push(figure(&trained, "pass_samples_per_s"));
                    speed.ceilings.push(HashedSamples::read(&data_dir.join("models/bench/job"))?.ftrl_per_second());
                }
                false => {
                    speed.values.push(figure(&trained, "events_per_s"));
                    progressive.values.push(figure(&trained, "logloss"));
                    test.values.push(figure(&tested, "logloss"));
                    memory.values.push(figure(&trained, "peak_rss_bytes") / f64::from(1 << 20));
                }
            }
            let _ = std::fs::remove_dir_all(&data_dir);
        }
    }
    Ok(all.into_iter().flatten().filter(|case| !case.values.is_empty()).collect())
}

fn cases(task: &Task) -> [Case; 4] {
    ["samples/s", "progressive log loss", "test log loss", "peak MiB"].map(|unit| Case::new(task.name, unit))
}

/// Runs the program on its cores; gives back the summaries of training and test.
fn train(task: &Task, clicks: &Clicks, scratch: &Path, data_dir: &Path) -> Result<(Value, Value)> {
    let program = scratch.join("program.sql");
    std::fs::write(&program, clicks.program(task.learner, task.settings))
        .map_err(|e| Error::io("write", &program, e))?;
    let own = std::env::current_exe().map_err(|e| Error::unavailable(format!("own program: {e}")))?;
    let mut command = match Command::new("taskset").arg("--version").output() {
        Ok(_) => {
            let mut command = Command::new("taskset");
            command.args(["-c", if task.cores == 1 { "0" } else { "0,1" }]).arg(own);
            command
        }
        Err(_) => Command::new(own),
    };
    command.arg("run").arg(&program).arg("--data-dir").arg(data_dir).args(["--no-serve", "--json", "--threads"]);
    let output = command.arg(task.cores.to_string()).output();
    let output = output.map_err(|e| Error::unavailable(format!("cannot start a run: {e}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::internal(format!("{}: {}", task.name, said.lines().last().unwrap_or("it ended"))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    match lines.as_slice() {
        [.., trained, tested] => Ok((trained.clone(), tested.clone())),
        _ => Err(Error::internal(format!("{}: two summaries were expected", task.name))),
    }
}
