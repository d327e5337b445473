//! From SQL text to a bound program, with what this binary knows put in.

use std::path::Path;

use tidemill_base::{Error, Result};
use tidemill_sql::{Known, Program, Statement, TrainJob};

/// Binds a program; `models` are those that exist.
pub fn bind(text: &str, models: &[String]) -> Result<Program> {
    let known = Known {
        learners: tidemill_train::LEARNERS.to_vec(),
        train_attributes: tidemill_train::ATTRIBUTES.iter().collect(),
        rollout_attributes: tidemill_serve::rollout::ROLLOUT_ATTRIBUTES.iter().collect(),
        models: models.to_vec(),
    };
    tidemill_sql::bind(text, &known).map_err(Error::from)
}

/// Models in a data directory, whoever owns it.
pub fn models(data_root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data_root.join("models")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The training job that a model in the data directory was learned by.
pub fn stored_job(data_root: &Path, model: &str) -> Result<TrainJob> {
    tidemill_base::store::data_dir::check_name("model", model)?;
    let path = data_root.join("models").join(model).join("job").join("program.sql");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::not_found(format!("no model '{model}' in {}", data_root.display())));
        }
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let job = train_job(&text, model).map_err(|e| e.at(path.display()))?;
    job.ok_or_else(|| Error::corrupt(format!("{} holds no TO TRAIN statement", path.display())))
}

/// The training job of this model in a program; of a program with one job that one, whatever the model is called now.
pub fn train_job(text: &str, model: &str) -> Result<Option<TrainJob>> {
    let program = bind(text, &[])?;
    let mut jobs: Vec<TrainJob> = program
        .statements
        .into_iter()
        .filter_map(|s| match s {
            Statement::Train(job) => Some(*job),
            _ => None,
        })
        .collect();
    let at = jobs.iter().position(|job| job.model == model).unwrap_or(0);
    Ok((at < jobs.len()).then(|| jobs.swap_remove(at)))
}
