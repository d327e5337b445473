//! `tidemill run`: carries out a program, statement by statement.

use std::{collections::BTreeSet, io::Write, sync::Arc};

use clap::Args;
use serde_json::Value;
use tidemill_base::{Clock, Error, Kind, Result, SystemClock, store::data_dir::DataDir, thousands};
use tidemill_serve::{registry::Registry, server::Host};
use tidemill_sql::{Input, Program, Statement, TrainJob};

use super::{DataDirectory, ProgramText, Serving, door::Servers, models, say, screen::Screen};
use crate::{
    data::address,
    evaluate::evaluate,
    failpoint, figures,
    host::AppHost,
    job::{Ending, Job, Options, inputs},
    program,
    push::PushHub,
    signal::Signal,
    status::Status,
};

/// Run a SQL program
#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    text: ProgramText,
    #[command(flatten)]
    data: DataDirectory,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    common: Common,
    /// Forget what an earlier run of the same model name learned, and begin again
    #[arg(long)]
    from_scratch: bool,
}

/// What every command that learns takes.
#[derive(Args, Clone)]
pub(super) struct Common {
    /// Threads that learn; the result does not depend on it [default: the machine's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// For each statement one line on stdout, a JSON object
    #[arg(long)]
    pub json: bool,
    /// No progress line
    #[arg(long, short)]
    pub quiet: bool,
}

impl Common {
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), usize::from)
    }
}

impl Run {
    pub fn run(&self) -> Result<()> {
        let text = self.text.read()?;
        if address(&self.data.data_dir).is_some() {
            return self.run_in_store(&text);
        }
        // What only changes or shows versions needs not own the directory: a process that serves does it at once.
        let only_alters = |s: &Statement| matches!(s, Statement::AlterModel(_) | Statement::ShowModels);
        let upper = text.to_ascii_uppercase();
        let is_owned = DataDir::owner_address(&self.data.data_dir).is_some();
        if ["ALTER", "RANKING"].iter().any(|word| upper.contains(word))
            // What is wrong with the text is told before who owns the directory.
            && let Some(program) = match program::bind(&text, &program::models(&self.data.data_dir)) {
                Ok(program) => Some(program),
                Err(e) if is_owned => return Err(e),
                Err(_) => None,
            }
            && program.statements.iter().any(|s| matches!(s, Statement::AlterModel(_)))
            && program.statements.iter().all(only_alters)
        {
            return program.statements.iter().try_for_each(|statement| match statement {
                Statement::AlterModel(alter) => models::alter(&self.data.data_dir, alter),
                _ => models::list(&self.data.data_dir),
            });
        }
        let _failpoint = failpoint::arm(&self.data.data_dir)?;
        let data = DataDir::open(&self.data.data_dir)?;
        let program = program::bind(&text, &data.models())?;
        let session = Session::start(data, &program, &self.serving, &self.common, None, Arc::default())?;
        session.run(program, &self.options())
    }

    fn options(&self) -> Options {
        Options { from_scratch: self.from_scratch, threads: self.common.threads(), ..Options::default() }
    }

    /// With data in a bucket: what is wrong with the program is told before whoever owns the bucket is replaced.
    fn run_in_store(&self, text: &str) -> Result<()> {
        let models = match self.data.read(&|path| path.ends_with("program.sql")) {
            Ok(there) => program::models(there.root()),
            Err(e) if e.kind() == Kind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let program = program::bind(text, &models)?;
        if !program.statements.iter().any(|s| matches!(s, Statement::Train(_) | Statement::Evaluate(_))) {
            let instead = "ask the process that learns there, over HTTP";
            self.data.directory("a program that learns and evaluates nothing", instead)?;
        }
        // Who is replaced stops, as if asked to; what it then wants to keep is refused, and says why.
        let signal = Arc::new(Signal::default());
        let replaced = signal.clone();
        let owned = self.data.own(move || replaced.stop())?;
        let _failpoint = failpoint::arm(owned.root())?;
        let data = DataDir::open(owned.root())?;
        let session = Session::start(data, &program, &self.serving, &self.common, None, signal)?;
        if let Some(bucket) = owned.bucket() {
            session.host.waits_for(bucket.trouble_handle());
        }
        session.run(program, &self.options())
    }
}

/// A process that carries out a program: its directory, its server, its signals.
pub(super) struct Session {
    data: DataDir,
    clock: Arc<dyn Clock>,
    signal: Arc<Signal>,
    host: Arc<AppHost>,
    server: Option<Servers>,
    common: Common,
    address_told: bool,
}

impl Session {
    /// Starts what stands around the learning: signal handlers, push logs, the server.
    pub fn start(
        data: DataDir,
        program: &Program,
        serving: &Serving,
        common: &Common,
        feed: Option<Value>,
        signal: Arc<Signal>,
    ) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        stop_on_signals(signal.clone())?;
        let inputs: Vec<&Input> = train_jobs(program).flat_map(inputs).collect();
        let push = PushHub::open(&data, &inputs, signal.clone(), clock.clone())?;
        let names: BTreeSet<String> = train_jobs(program).map(|job| job.model.clone()).collect();
        let host = Arc::new(AppHost::new(data.root(), names.into_iter().collect(), push, feed, signal.clone()));
        let mut server = None;
        if !serving.no_serve && train_jobs(program).next().is_some() {
            server = Some(serving.door.open(serving.port, &data, host.clone())?);
        }
        Ok(Self { data, clock, signal, host, server, common: common.clone(), address_told: false })
    }

    /// Carries out the statements in order.
    pub fn run(mut self, program: Program, options: &Options) -> Result<()> {
        let options = &Options { serves: self.server.is_some(), ..options.clone() };
        check_endless(&program)?;
        let mut statements = program.statements.into_iter().peekable();
        while let Some(statement) = statements.next() {
            match statement {
                Statement::Train(job) => {
                    let mut jobs = vec![*job];
                    // Those that are learned together stand behind one another.
                    while jobs.len() < jobs[0].together.len()
                        && let Some(Statement::Train(next)) =
                            statements.next_if(|next| matches!(next, Statement::Train(_)))
                    {
                        jobs.push(*next);
                    }
                    self.train(jobs, options)?;
                }
                Statement::Evaluate(job) => {
                    let out = evaluate(self.data.root(), &job, &self.signal)?;
                    show_evaluated(&job.model, &out, self.common.json)?;
                }
                Statement::AlterModel(alter) => {
                    let served = self.host.model(&alter.model);
                    models::alter_here(served.as_deref(), &self.data, &alter)?;
                }
                Statement::ShowModels => models::list(self.data.root())?,
            }
            if self.signal.is_stopped() {
                break;
            }
        }
        if let Some(server) = self.server.take() {
            server.stop();
        }
        Ok(())
    }

    /// Says where the page is, once a model can be asked.
    fn tell_address(&mut self) {
        if let Some(server) = &self.server
            && !self.common.quiet
            && !std::mem::replace(&mut self.address_told, true)
        {
            say(format!("page and API at {}", server.url()));
        }
    }

    fn train(&mut self, jobs: Vec<TrainJob>, options: &Options) -> Result<()> {
        let push = self.host.push_hub();
        let mut job = Job::open_together(&self.data, jobs, options.clone(), push, self.clock.clone())?;
        let mut screen = Screen::new(self.clock.clone(), Some(self.host.clone()), self.common.quiet);
        if self.server.is_some() {
            let live = job.serve()?;
            let views = job.serve_views()?;
            self.host.serve(job.bound(), live, views.clone(), job.registry().clone())?;
            for member in job.members_mut() {
                let live = member.serve()?;
                self.host.serve(member.bound(), live, views.clone(), member.registry().clone())?;
            }
            // First the figures, then the address: who is told it finds them there.
            job.show(&mut screen, "learning");
            self.tell_address();
        }
        let ending = job.run(&self.signal, &mut screen);
        screen.end();
        self.host.rest();
        let state = match ending? {
            Ending::Finished => "finished",
            Ending::Stopped => "stopped",
        };
        for job in job.models() {
            let state = job.stopped().map_or_else(|| state.to_string(), |why| format!("stopped ({why}):"));
            let status = job.final_status(&state);
            match self.common.json {
                true => print_line(&status.to_summary().to_string())?,
                false => print_line(&summary_text(&status, job))?,
            }
        }
        job.outcome()
    }
}

/// Nothing comes behind a job that never ends, and it is said why what stands there is not a part of it.
fn check_endless(program: &Program) -> Result<()> {
    let is_endless = |job: &TrainJob| inputs(job).iter().any(|input| !input.source.bounded());
    let Some(first) = program.statements.iter().position(|s| matches!(s, Statement::Train(job) if is_endless(job)))
    else {
        return Ok(());
    };
    let Statement::Train(job) = &program.statements[first] else { return Ok(()) };
    let behind = &program.statements[first + job.together.len().max(1)..];
    let why = match behind.first() {
        None => return Ok(()),
        Some(Statement::Train(next)) => next.apart.as_ref().map_or(String::new(), |why| format!(": {why}")),
        Some(_) => String::new(),
    };
    Err(Error::invalid(format!(
        "not supported yet: statements behind a TO TRAIN whose sources never end and that are not learned together with it{why}; \
         put each into a program of its own"
    )))
}

fn train_jobs(program: &Program) -> impl Iterator<Item = &TrainJob> {
    program.statements.iter().filter_map(|s| match s {
        Statement::Train(job) => Some(&**job),
        _ => None,
    })
}

/// SIGINT and SIGTERM ask for a clean stop; a second one ends the process at once, which is as safe as a crash.
pub(super) fn stop_on_signals(signal: Arc<Signal>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal as listen};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::unavailable(format!("cannot listen for signals: {e}")))?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let (Ok(mut int), Ok(mut term)) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate())) else {
                return;
            };
            let _ = ready.send(());
            for second in [false, true] {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
                if second {
                    std::process::exit(130);
                }
                signal.stop();
            }
        });
    });
    is_ready.recv().map_err(|_| Error::unavailable("cannot listen for SIGINT and SIGTERM"))
}

fn summary_text(status: &Status, job: &Job) -> String {
    let s = &status.summary;
    let refused = status.counts.events_refused + status.counts.samples_refused;
    let positives = match s.overall.regression.is_some() {
        true => String::new(),
        false => format!(", {} positive", thousands(s.overall.positives)),
    };
    let mut out = format!(
        "{} {}@{} after {} events: {} samples{positives}\n{}; over the last {}: {}\n\
         {} events/s, {} entries, state {}",
        status.state,
        status.model,
        status.version,
        thousands(status.counts.events),
        thousands(s.overall.samples),
        figures::words(&s.overall),
        thousands(s.recent.samples),
        figures::words(&s.recent),
        thousands(status.events_per_s as u64),
        thousands(status.train.entries),
        status.state_hash.map(|h| h.to_string()).unwrap_or_default(),
    );
    if !status.pass_losses.is_empty() {
        let losses: Vec<String> = status.pass_losses.iter().map(|loss| format!("{loss:.4}")).collect();
        out.push_str(&format!("\nmean loss of the passes before this one: {}", losses.join(", ")));
    }
    if refused > 0 {
        let (path, not_kept) = job.dead_letter();
        out.push_str(&format!("\n{} events or samples were refused; see {}", thousands(refused), path.display()));
        if not_kept > 0 {
            out.push_str(&format!(" ({} more found no room there)", thousands(not_kept)));
        }
    }
    if let Some(warning) = &status.warning {
        out.push_str(&format!("\nwarning: {warning}"));
    }
    out
}

fn show_evaluated(model: &str, out: &crate::evaluate::Evaluated, json: bool) -> Result<()> {
    let s = &out.summary;
    if !json {
        let mut text = format!(
            "{model}@{} on {} samples: {}",
            out.version,
            thousands(s.overall.samples),
            figures::words(&s.overall)
        );
        if let Some(reason) = &out.first_refusal {
            text.push_str(&format!("\n{} rows could not be scored; the first: {reason}", thousands(out.refused)));
        }
        return print_line(&text);
    }
    let mut line = serde_json::json!({"model": model, "version": out.version, "refused": out.refused});
    if let (Some(line), serde_json::Value::Object(figures)) = (line.as_object_mut(), figures::json(&s.overall)) {
        line.extend(figures);
    }
    print_line(&line.to_string())
}

/// Prints to stdout; a closed pipe is no error of ours.
pub(super) fn print_line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::unavailable(format!("stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Opens a registry for reading.
pub(super) fn registry(root: &std::path::Path, model: &str) -> Result<Registry> {
    tidemill_base::store::data_dir::check_name("model", model)?;
    let dir = root.join("models").join(model).join("versions");
    if !dir.is_dir() {
        return Err(Error::not_found(format!("no model '{model}' in {}", root.display())));
    }
    Registry::reading(model, &dir)
}
