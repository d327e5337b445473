//! `tidemill check`: parses and binds, runs nothing.

use tidemill_base::Result;
use tidemill_sql::Statement;
use tidemill_train::TrainSpec;

use super::{ProgramText, say};
use crate::{engine::emission, program};

pub(super) fn run(text: &ProgramText) -> Result<()> {
    let program = program::bind(&text.read()?, &[])?;
    for statement in &program.statements {
        match statement {
            Statement::Train(job) => {
                // Settings that do not go together are found here, and not when the job starts.
                let spec = TrainSpec::from_settings(&job.learner, &job.settings)?;
                emission::check(job, &spec)?;
                if let Some(warning) = emission::warning(job) {
                    say(format!("warning: {warning}"));
                }
                println!("ok: TO TRAIN {} INTO {}", job.learner, job.model);
            }
            Statement::Evaluate(job) => println!("ok: TO EVALUATE {}", job.model),
            Statement::AlterModel(alter) => println!("ok: {alter}"),
            Statement::ShowModels => println!("ok: SHOW MODELS"),
        }
    }
    if program.statements.is_empty() {
        println!("ok: declarations only");
    }
    Ok(())
}
