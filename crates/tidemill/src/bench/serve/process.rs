//! Processes of this very program: started, placed on a core, ended.
//!
//! In: what would be typed. Out: where a server listens, what a run said, how long threads have run.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tidemill_base::{Error, Result, SystemClock};

/// How long the threads of a process have run, where the system tells.
pub(super) fn cpu_seconds(process: u32) -> Option<f64> {
    let mut ns = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        ns += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(ns / 1e9)
}

/// A process that answers, until it is dropped.
pub(super) struct Server {
    pub child: Child,
    pub address: SocketAddr,
    /// Counts from its start.
    pub clock: SystemClock,
}

impl Server {
    /// Runs this program with `args` to its end, on core 0; what it said on standard output.
    pub fn run_to_end(args: &[&str]) -> Result<String> {
        let output = on_core_0()?.args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|e| Error::unavailable(format!("cannot start tidemill: {e}")))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Error::internal(format!("tidemill ended: {}", String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// Starts this program with `args` on core 0 and waits until it tells its address.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = on_core_0()?;
        let clock = SystemClock::new();
        let started = command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = started.map_err(|e| Error::unavailable(format!("cannot start a server: {e}")))?;
        let said = child.stderr.take().ok_or_else(|| Error::internal("a server without standard error"))?;
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), clock };
        let (mut lines, mut all) = (BufReader::new(said), String::new());
        while lines.read_line(&mut all).is_ok_and(|n| n > 0) {
            if let Some(address) = all.split_once("http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
            {
                server.address = address;
                // What it says later is not waited for, and must not make it wait.
                std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
                return Ok(server);
            }
        }
        Err(Error::unavailable(format!("a server did not start: {}", all.lines().last().unwrap_or("it ended"))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, on core 0 where the system lets it.
fn on_core_0() -> Result<Command> {
    let own = std::env::current_exe().map_err(|e| Error::unavailable(format!("own program: {e}")))?;
    let placed = Command::new("taskset").args(["-c", "0", "true"]).status().is_ok_and(|status| status.success());
    if !placed {
        return Ok(Command::new(own));
    }
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(own);
    Ok(command)
}

/// Places this process, where the system lets it.
pub(super) fn stay_on_core(core: usize) {
    let placed = Command::new("taskset")
        .args(["-acp", &core.to_string(), &std::process::id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // On a machine with one core there is no other.
    let _ = placed;
}
