//! `tidemill bench`: figures of this machine, beside what it allows.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tidemill_base::Result;

use super::{run::print_line, say};
use crate::bench::{Case, bare, ingest, join, serve, train, window};

/// What to measure.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// Learning: from text, from kept features, on one core and two; speed with accuracy, and the ceiling
    Train(Train),
    /// The label join: impressions and delayed clicks to samples, from CSV, Parquet and JSON lines; counted, then timed
    Join(Join),
    /// Counts of the last hour and day as of each impression, in memory and from CSV, and looked up for serving
    Window(Events),
    /// Events in: JSON lines into columns and into samples, small Kafka events beside what the client alone can do
    Ingest(Events),
    /// Serving: inference beside bare hyper, times while the model learns, clicks to predictions, first replies, ranking, files
    Serve(Serve),
    /// The bare server that `serve` compares with
    #[command(hide = true)]
    BareServer,
}

/// What every bench is asked.
#[derive(Args)]
struct Turns {
    /// Rounds; cases take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only cases with this in their name
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Serve {
    /// How long each case runs in a round; times at half load are medians over slices of 20 ms, at rest and
    /// learning in turns
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Impressions a second that a job learns while it is measured how soon a prediction knows a click
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    impressions: u32,
    /// Ask another server instead, on as many connections and with the same inference request
    #[arg(long, value_name = "http://HOST:PORT/PATH", conflicts_with_all = ["only", "data", "impressions"])]
    against: Option<String>,
    /// Directory with c3m.train.csv and c3m.test.csv for the file that is scored; without it clicks are made
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    turns: Turns,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().map_err(|e| e.to_string())?;
    match (0.01..=3600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("seconds are 0.01 to 3600".into()),
    }
}

#[derive(Args)]
pub(super) struct Join {
    /// Directory with impressions.csv, clicks.csv, expect.json and so on; without it events are made
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Impressions to make when there is no --data
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    rows: u64,
    #[command(flatten)]
    turns: Turns,
}

#[derive(Args)]
pub(super) struct Events {
    /// Events (impressions, for ingest) to make
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=50_000_000))]
    rows: u64,
    #[command(flatten)]
    turns: Turns,
}

#[derive(Args)]
pub(super) struct Train {
    /// Directory with c3m.train.csv, c3m.test.csv, c500k.train.csv and c500k.test.csv; without it clicks are made
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Rows to make when there is no --data
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    rows: u64,
    #[command(flatten)]
    turns: Turns,
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        let tell = &mut |text: &str| say(text);
        let (bench, cases, json) = match self {
            Self::Train(Train { data, rows, turns: Turns { rounds, only, json } }) => {
                ("train", train::run(&train::Plan { data, rows, rounds: rounds.into(), only }, tell)?, json)
            }
            Self::Join(Join { data, rows, turns: Turns { rounds, only, json } }) => {
                ("join", join::run(&join::Plan { data, rows, rounds: rounds.into(), only }, tell)?, json)
            }
            Self::Serve(Serve { seconds, against: Some(url), turns: Turns { rounds, json, .. }, .. }) => {
                let plan = serve::Against { url, rounds: rounds.into(), seconds };
                ("serve", serve::against(&plan, tell)?, json)
            }
            Self::Serve(Serve { seconds, data, impressions, turns: Turns { rounds, only, json }, .. }) => {
                let plan = serve::Plan { rounds: rounds.into(), seconds, only, data, impressions };
                ("serve", serve::run(&plan, tell)?, json)
            }
            Self::Window(Events { rows, turns: Turns { rounds, only, json } }) => {
                ("window", window::run(&window::Plan { rows, rounds: rounds.into(), only }, tell)?, json)
            }
            Self::Ingest(Events { rows, turns: Turns { rounds, only, json } }) => {
                ("ingest", ingest::run(&ingest::Plan { rows, rounds: rounds.into(), only }, tell)?, json)
            }
            Self::BareServer => return bare::serve(),
        };
        print(bench, &cases, json)
    }
}

fn print(bench: &str, cases: &[Case], json: bool) -> Result<()> {
    cases.iter().try_for_each(|case| print_line(&if json { case.to_json(bench).to_string() } else { case.to_text() }))
}
