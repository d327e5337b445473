//! `tidemill models`: versions on disk, and those that answer.

mod rankings;
mod rollout;
mod routing;

use std::{
    io::{IsTerminal, Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use clap::Subcommand;
use tidemill_base::{Error, Result, thousands};
use tidemill_serve::registry::{Live, Registry, check_label};
use tidemill_sql::ModelChange;

pub(super) use routing::{alter, alter_here};

use super::{
    DataDirectory,
    door::control_header,
    run::{print_line, registry},
    say,
};
use crate::verify;

#[derive(Subcommand)]
pub(super) enum Models {
    /// Every model with its newest and its live version
    List {
        #[command(flatten)]
        data: DataDirectory,
    },
    /// One version, or all of a model's
    Show {
        /// MODEL, MODEL@VERSION or MODEL@LABEL
        name: String,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Make an earlier version live, until promoted; in effect at once in a process that serves it
    Rollback {
        /// MODEL@VERSION
        name: String,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Labels of a model: list them, point one at a version, or remove it
    Labels {
        /// MODEL
        name: String,
        /// canary, shadow, live or a name of your own
        label: Option<String>,
        /// The version it points at from now on
        #[arg(requires = "label")]
        version: Option<u64>,
        /// Remove the label
        #[arg(long, requires = "label", conflicts_with = "version")]
        remove: bool,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Split the traffic of a model between its live version and its labels
    Split {
        /// MODEL
        name: String,
        /// LABEL=PERCENT each, live among them, as in live=90 canary=10
        #[arg(required = true)]
        weights: Vec<String>,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// The rollout of a model: how it stands and what became of earlier ones; or begin or end one
    Rollout {
        /// MODEL; to begin one also MODEL@VERSION, else the newest is rolled out
        name: String,
        /// Begin, as ALTER MODEL ... ROLLOUT (...) has it: "STAGES '1%, 100%', EACH '5s', GUARD (errors = 1)"; "" for the defaults
        #[arg(long, value_name = "PLAN", conflicts_with = "abort")]
        start: Option<String>,
        /// End it: the live version answers everybody
        #[arg(long)]
        abort: bool,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Make the newest version live again, and those that follow
    Promote {
        /// MODEL
        name: String,
        #[command(flatten)]
        data: DataDirectory,
    },
    /// Derive a version again from the journal and the sources, and compare the state hash
    Verify {
        /// MODEL@VERSION
        name: String,
        #[command(flatten)]
        data: DataDirectory,
    },
}

impl Models {
    pub fn run(&self) -> Result<()> {
        let changed = |data: &DataDirectory| {
            let instead = "ask the process that learns or serves there, over HTTP";
            data.directory("changing a model from outside", instead).map(Path::to_path_buf)
        };
        let small = |path: &str| ![".part", ".ck", ".snapshot", ".log"].iter().any(|end| path.ends_with(end));
        match self {
            Models::List { data } => list(data.read(&small)?.root()),
            Models::Show { name, data } => show(data.read(&small)?.root(), name),
            Models::Rollback { name, data } => {
                let root = &changed(data)?;
                let (model, version) = model_and_version(root, name)?;
                routing::change(root, model, &ModelChange::Label { label: "live".into(), version: Some(version) })?;
                print_line(&format!("{model}@{version} is live"))
            }
            Models::Promote { name, data } => {
                let change = ModelChange::Label { label: "live".into(), version: None };
                routing::change(&changed(data)?, name, &change)?;
                print_line(&format!("{name}: the newest version is live"))
            }
            Models::Labels { name, label, version, remove, data } => {
                routing::labels(&changed(data)?, name, label.as_deref(), *version, *remove)
            }
            Models::Split { name, weights, data } => routing::split(&changed(data)?, name, weights),
            Models::Rollout { name, start: Some(plan), data, .. } => rollout::start(&changed(data)?, name, plan),
            Models::Rollout { name, abort: true, data, .. } => rollout::abort(&changed(data)?, name),
            Models::Rollout { name, data, .. } => rollout::show(&changed(data)?, name),
            Models::Verify { name, data } => {
                let wanted = |path: &str| !path.ends_with(".part") && !path.ends_with(".ck");
                verify(data.read(&wanted)?.root(), name)
            }
        }
    }
}

/// Prints every model with its newest and live version.
pub(super) fn list(root: &Path) -> Result<()> {
    let models = std::fs::read_dir(root.join("models")).map(|d| {
        let mut names: Vec<String> = d.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    });
    let mut lines =
        vec![["model", "versions", "live", "samples", "log loss", "AUC", "state", "labels"].map(str::to_string)];
    for name in models.unwrap_or_default() {
        let registry = registry(root, &name)?;
        let versions = registry.list();
        warn_of_damaged(&name, &registry);
        let count = match registry.damaged().len() {
            0 => versions.len().to_string(),
            damaged => format!("{} and {damaged} damaged", versions.len()),
        };
        let Some(newest) = versions.last() else {
            lines.push([name.as_str(), &count, "-", "-", "-", "-", "-", ""].map(str::to_string));
            continue;
        };
        let live = match registry.live() {
            Live::Pinned(v) => format!("{v} (pinned)"),
            Live::Latest => newest.version.to_string(),
        };
        lines.push([
            name,
            count,
            live,
            thousands(newest.samples),
            format!("{:.4}", newest.logloss),
            format!("{:.4}", newest.auc),
            newest.state_hash.to_string()[..12].to_string(),
            routing::labels_in_words(&registry),
        ]);
    }
    if lines.len() == 1 {
        return print_line(&format!("no models in {}", root.display()));
    }
    print_line(&table(&lines))
}

fn show(root: &Path, name: &str) -> Result<()> {
    if name.contains('@') {
        let (model, version) = model_and_version(root, name)?;
        let meta = registry(root, model)?.meta(version)?;
        let json = serde_json::to_string_pretty(&meta.to_json()).map_err(|e| Error::internal(e.to_string()))?;
        return print_line(&json);
    }
    let registry = registry(root, name)?;
    let live = registry.live();
    let versions = registry.list();
    let routing = registry.routing();
    let mut lines =
        vec![["version", "labels", "mini-batch", "samples", "log loss", "AUC", "entries", "state"].map(str::to_string)];
    for v in &versions {
        let is_live = match live {
            Live::Pinned(p) => p == v.version,
            Live::Latest => versions.last().is_some_and(|l| l.version == v.version),
        };
        lines.push([
            v.version.to_string(),
            is_live.then_some("live").into_iter().chain(routing.labels_of(v.version)).collect::<Vec<_>>().join(", "),
            v.mini_batch.to_string(),
            thousands(v.samples),
            format!("{:.4}", v.logloss),
            format!("{:.4}", v.auc),
            thousands(v.entries),
            v.state_hash.to_string(),
        ]);
    }
    for damaged in registry.damaged() {
        let version = damaged.version.to_string();
        let at = lines.iter().skip(1).position(|l| l[0].parse().is_ok_and(|v: u64| v > damaged.version));
        let line = [version.as_str(), "damaged", "-", "-", "-", "-", "-", "-"].map(str::to_string);
        lines.insert(at.map_or(lines.len(), |at| at + 1), line);
    }
    warn_of_damaged(name, &registry);
    print_line(&table(&lines))?;
    routing::show(root, name, &registry)
}

/// Says on stderr which versions cannot be used; the others can.
fn warn_of_damaged(model: &str, registry: &Registry) {
    for damaged in registry.damaged() {
        say(format!("warning: {model}@{} is passed over: {}", damaged.version, damaged.reason));
    }
}

fn verify(root: &Path, name: &str) -> Result<()> {
    let (model, version) = model_and_version(root, name)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut shown = 0;
    let verified = verify::verify(root, model, version, threads, |done, all| {
        let percent = done * 100 / all.max(1);
        if percent > shown && std::io::stderr().is_terminal() {
            shown = percent;
            let _ = write!(std::io::stderr(), "\rderiving {model}@{version}: {percent}%");
        }
    })?;
    if shown > 0 {
        say("");
    }
    let from = match verified.from_mini_batch {
        0 => "the beginning".to_string(),
        m => format!("the checkpoint at mini-batch {m}"),
    };
    if verified.derived != verified.meta.state_hash {
        return Err(Error::corrupt(format!(
            "{model}@{version} does not verify: the registry says {}, derived from {from} is {}; \
             a source has changed since, or stored bytes have",
            verified.meta.state_hash, verified.derived
        )));
    }
    print_line(&format!(
        "{model}@{version} verified: state {} derived again from {from} over {} mini-batches",
        verified.derived,
        thousands(verified.mini_batches)
    ))
}

/// One small request to a process on this machine.
pub(super) fn post(root: &Path, address: &str, path: &str, body: &str) -> Result<()> {
    exchange(root, address, "POST", path, body).map(drop)
}

/// One small request to a process on this machine, and the body of its answer.
pub(super) fn exchange(root: &Path, address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let fail = |e: std::io::Error| Error::unavailable(format!("http://{address}{path}: {e}"));
    let mut stream = TcpStream::connect(address).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(fail)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        control_header(root),
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(fail)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(fail)?;
    let status: u16 = reply.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = reply.split_once("\r\n\r\n").map_or("", |r| r.1);
    if status == 200 {
        return Ok(body.to_string());
    }
    let message = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v["error"]["message"].as_str().map(str::to_string))
        .unwrap_or_else(|| format!("status {status}"));
    Err(match status {
        404 => Error::not_found(message),
        409 => Error::conflict(message),
        400 => Error::invalid(message),
        _ => Error::unavailable(message),
    })
}

/// The version that MODEL@VERSION or MODEL@LABEL names; `None` of MODEL alone.
pub(super) fn version_of(root: &Path, name: &str) -> Result<Option<u64>> {
    match name.contains('@') {
        true => model_and_version(root, name).map(|(_, version)| Some(version)),
        false => Ok(None),
    }
}

/// `ctr@42`, or `ctr@canary` by the labels on disk.
fn model_and_version<'a>(root: &Path, name: &'a str) -> Result<(&'a str, u64)> {
    let no_version = || Error::invalid(format!("'{name}' is not MODEL@VERSION; write for example ctr@42"));
    let (model, version) = name.split_once('@').ok_or_else(no_version)?;
    if let Ok(version) = version.parse() {
        return Ok((model, version));
    }
    check_label(version).map_err(|_| no_version())?;
    let registry = registry(root, model)?;
    registry.check_has_label(version)?;
    let labelled = registry.routing().labels.get(version).copied().or_else(|| registry.live_version());
    Ok((model, labelled.ok_or_else(|| registry.no_such_version(0))?))
}

/// Columns as wide as they must be; the first line is their names.
pub(super) fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
    let row = |l: &[String; N]| {
        let cells: Vec<String> = l.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    lines.iter().map(row).collect::<Vec<_>>().join("\n")
}
