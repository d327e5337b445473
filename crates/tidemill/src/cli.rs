//! The command line: what can be typed, and what comes of it. Errors go to stderr as `error[kind]: sentence`, and the exit
//! code follows from the kind.

mod bench;
mod check;
mod checkpoints;
mod demo;
mod door;
mod jobs;
mod models;
mod predict;
mod run;
mod screen;
mod serve;
mod token;

#[doc(hidden)]
pub use jobs::job_in_words;

use std::{
    fmt::Display,
    io::{Write, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tidemill_base::{Error, Result, store::bucket::News};

use crate::data::{Data, address};

/// Online learning in SQL: event streams go in, predictions that already know the last second come out.
#[derive(Parser)]
#[command(name = "tidemill", version, max_term_width = 110, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate a click stream, learn from it, serve it and show it
    Demo(demo::Demo),
    /// Run a SQL program
    Run(run::Run),
    /// Serve models that were learned before, without a job
    Serve(serve::Serve),
    /// Score the rows of files by a model that was learned before
    Predict(predict::Predict),
    /// Parse and bind a SQL program without running it; exit code 0, or 2 with the diagnostic
    Check(ProgramText),
    /// Look at training jobs: what they learn, how fast each step is, and what sources wait for
    Jobs(jobs::Jobs),
    /// Look at models and their versions, go back to one, derive one again
    #[command(subcommand)]
    Models(models::Models),
    /// Look at checkpoints: list them, check every byte, write what they hold into a table
    #[command(subcommand)]
    Checkpoints(checkpoints::Checkpoints),
    /// Make a token for a server that asks for them
    Token(token::Token),
    /// Measure this build on this machine, beside what the machine allows
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// A program: a file or a text.
#[derive(Args, Clone)]
struct ProgramText {
    /// SQL file
    #[arg(required_unless_present = "execute", conflicts_with = "execute")]
    file: Option<PathBuf>,
    /// SQL text instead of a file
    #[arg(short = 'e', long = "execute", value_name = "SQL")]
    execute: Option<String>,
}

/// Where a command keeps or finds its state.
#[derive(Args, Clone)]
struct DataDirectory {
    /// Journals, checkpoints, versions: a directory, or s3://BUCKET/PREFIX with credentials from the environment (AWS_*)
    #[arg(long, visible_alias = "data", value_name = "DIR", default_value = "./tidemill-data")]
    data_dir: PathBuf,
    /// Where files of a bucket are worked with; as large as they are [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl DataDirectory {
    /// Takes it over, to change it; `replaced` is called when somebody else does.
    fn own(&self, replaced: impl Fn() + Send + Sync + 'static) -> Result<Data> {
        let store = self.data_dir.display().to_string();
        let listener = move |news: &News| match news {
            News::Away(why) => say(format!("waiting for {store}: {why}; nothing is lost, trying again")),
            News::Back => say(format!("{store} answers again")),
            News::Replaced(_) => replaced(),
        };
        Data::own(&self.data_dir, self.scratch.as_deref(), Box::new(listener))
    }

    /// Looks into it, whoever owns it; of a bucket at the files whose paths end as `wanted` has it.
    fn read(&self, is_wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Data> {
        Data::read(&self.data_dir, self.scratch.as_deref(), is_wanted)
    }

    /// The directory, for what cannot be done with a bucket.
    fn directory(&self, what: &str, instead: &str) -> Result<&Path> {
        match address(&self.data_dir) {
            None => Ok(&self.data_dir),
            Some(url) => {
                Err(Error::invalid(format!("{what} is not supported with data in a store ({url}); {instead}")))
            }
        }
    }
}

/// Serving beside learning.
#[derive(Args, Clone)]
struct Serving {
    /// Port of the page and the API; 0 takes any free one
    #[arg(long, default_value_t = 8470)]
    port: u16,
    /// Learn only: no page, no API
    #[arg(long)]
    no_serve: bool,
    #[command(flatten)]
    door: door::Door,
}

impl ProgramText {
    /// Reads the program.
    fn read(&self) -> Result<String> {
        if let Some(text) = &self.execute {
            return Ok(text.clone());
        }
        let path = self.file.as_ref().expect("clap asks for one of the two");
        let bytes = std::fs::read(path).map_err(|e| Error::io("open", path, e))?;
        String::from_utf8(bytes).map_err(|e| {
            Error::invalid(format!("{}: byte {} is not UTF-8", path.display(), e.utf8_error().valid_up_to()))
        })
    }
}

/// A line for a person. Who has closed his end does not want to hear it, and that is no reason to stop.
fn say(text: impl Display) {
    let _ = writeln!(stderr(), "{text}");
}

/// Parses the command line, runs it, and turns an error into its sentence and exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Demo(demo) => demo.run(),
        Command::Run(run) => run.run(),
        Command::Serve(serve) => serve.run(),
        Command::Predict(predict) => predict.run(),
        Command::Check(text) => check::run(&text),
        Command::Jobs(jobs) => jobs.run(),
        Command::Models(models) => models.run(),
        Command::Checkpoints(checkpoints) => checkpoints.run(),
        Command::Token(token) => token.run(),
        Command::Bench(bench) => bench.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(format!("error[{}]: {e}", e.kind().word()));
            ExitCode::from(e.kind().exit_code())
        }
    }
}
