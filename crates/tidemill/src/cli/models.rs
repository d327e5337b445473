//! `tidemill models`: versions on disk, and the one that is live.

use std::{
    io::{IsTerminal, Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use clap::Subcommand;
use tidemill_base::{Error, Result, store::data_dir::DataDir};
use tidemill_serve::registry::{Live, Registry};

use super::{
    DataDirectory,
    door::control_header,
    run::{print_line, registry},
    say,
};
use crate::{status::thousands, verify};

#[derive(Subcommand)]
pub(super) enum Models {
    /// Every model with its newest and its live version
    List {
        #[command(flatten)]
        data: DataDirectory,
    },
    /// One version, or all of a model's
    Show {
        /// MODEL or MODEL@VERSION
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
        match self {
            Models::List { data } => list(&data.data_dir),
            Models::Show { name, data } => show(&data.data_dir, name),
            Models::Rollback { name, data } => {
                let (model, version) = model_and_version(name)?;
                change(
                    &data.data_dir,
                    model,
                    &format!("{model}:rollback"),
                    &format!("{{\"version\":{version}}}"),
                    |r| r.rollback(version).map(drop),
                )?;
                print_line(&format!("{model}@{version} is live"))
            }
            Models::Promote { name, data } => {
                change(&data.data_dir, name, &format!("{name}:promote"), "{}", Registry::promote)?;
                print_line(&format!("{name}: the newest version is live"))
            }
            Models::Verify { name, data } => verify(&data.data_dir, name),
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
    let mut lines = vec![["model", "versions", "live", "samples", "log loss", "AUC", "state"].map(str::to_string)];
    for name in models.unwrap_or_default() {
        let registry = registry(root, &name)?;
        let versions = registry.list();
        warn_of_damaged(&name, &registry);
        let count = match registry.damaged().len() {
            0 => versions.len().to_string(),
            damaged => format!("{} and {damaged} damaged", versions.len()),
        };
        let Some(newest) = versions.last() else {
            lines.push([name.as_str(), &count, "-", "-", "-", "-", "-"].map(str::to_string));
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
        ]);
    }
    if lines.len() == 1 {
        return print_line(&format!("no models in {}", root.display()));
    }
    print_line(&table(&lines))
}

fn show(root: &Path, name: &str) -> Result<()> {
    if name.contains('@') {
        let (model, version) = model_and_version(name)?;
        let meta = registry(root, model)?.meta(version)?;
        let json = serde_json::to_string_pretty(&meta.to_json()).map_err(|e| Error::internal(e.to_string()))?;
        return print_line(&json);
    }
    let registry = registry(root, name)?;
    let live = registry.live();
    let versions = registry.list();
    let mut lines =
        vec![["version", "live", "mini-batch", "samples", "log loss", "AUC", "entries", "state"].map(str::to_string)];
    for v in &versions {
        let is_live = match live {
            Live::Pinned(p) => p == v.version,
            Live::Latest => versions.last().is_some_and(|l| l.version == v.version),
        };
        lines.push([
            v.version.to_string(),
            if is_live { "live".into() } else { String::new() },
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
    print_line(&table(&lines))
}

/// Says on stderr which versions cannot be used; the others can.
fn warn_of_damaged(model: &str, registry: &Registry) {
    for damaged in registry.damaged() {
        say(format!("warning: {model}@{} is passed over: {}", damaged.version, damaged.reason));
    }
}

fn verify(root: &Path, name: &str) -> Result<()> {
    let (model, version) = model_and_version(name)?;
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

/// Changes what is live: through the process that owns the directory when there is one, else on disk.
fn change(root: &Path, model: &str, route: &str, body: &str, on_disk: impl Fn(&Registry) -> Result<()>) -> Result<()> {
    tidemill_base::store::data_dir::check_name("model", model)?;
    match DataDir::owner_address(root) {
        Some(address) => post(root, &address, &format!("/v1/models/{route}"), body),
        None => {
            let _owned = DataDir::open(root)?;
            on_disk(&registry(root, model)?)
        }
    }
}

/// One small request to a process on this machine.
fn post(root: &Path, address: &str, path: &str, body: &str) -> Result<()> {
    let fail = |e: std::io::Error| Error::unavailable(format!("http://{address}{path}: {e}"));
    let mut stream = TcpStream::connect(address).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(fail)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        control_header(root),
        body.len()
    );
    stream.write_all(request.as_bytes()).map_err(fail)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(fail)?;
    let status: u16 = reply.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    if status == 200 {
        return Ok(());
    }
    let body = reply.split_once("\r\n\r\n").map_or("", |r| r.1);
    let message = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|v| v["error"]["message"].as_str().map(str::to_string))
        .unwrap_or_else(|| format!("status {status}"));
    Err(match status {
        404 => Error::not_found(message),
        409 => Error::conflict(message),
        _ => Error::unavailable(message),
    })
}

fn model_and_version(name: &str) -> Result<(&str, u64)> {
    let parsed = name.split_once('@').and_then(|(model, version)| Some((model, version.parse().ok()?)));
    parsed.ok_or_else(|| Error::invalid(format!("'{name}' is not MODEL@VERSION; write for example ctr@42")))
}

fn table<const N: usize>(lines: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
    let row = |l: &[String; N]| {
        let cells: Vec<String> = l.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    lines.iter().map(row).collect::<Vec<_>>().join("\n")
}
