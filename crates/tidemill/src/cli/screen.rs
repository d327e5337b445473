//! What a run shows on the terminal: one line that is drawn over on a terminal, a line a few seconds elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tidemill_base::Clock;

use super::say;
use crate::{host::AppHost, job::Watcher, status::Status};

/// Draws a job's status, and hands it to the server.
pub(super) struct Screen {
    clock: Arc<dyn Clock>,
    host: Option<Arc<AppHost>>,
    quiet: bool,
    is_terminal: bool,
    drawn: Option<Duration>,
    warned: Option<String>,
    state: String,
}

const LOG_EVERY: Duration = Duration::from_secs(5);

impl Screen {
    pub fn new(clock: Arc<dyn Clock>, host: Option<Arc<AppHost>>, quiet: bool) -> Self {
        Self {
            clock,
            host,
            quiet,
            is_terminal: std::io::stderr().is_terminal(),
            drawn: None,
            warned: None,
            state: "learning".into(),
        }
    }

    /// Ends the drawn line, so that what follows stands on its own.
    pub fn end(&mut self) {
        if self.is_terminal && self.drawn.take().is_some() {
            say("");
        }
    }
}

impl Watcher for Screen {
    fn is_watched(&mut self) -> bool {
        let is_drawn = self.is_terminal && !self.quiet;
        self.host.as_ref().is_none_or(|host| host.take_asked()) || is_drawn
    }

    fn show(&mut self, status: &Status, page: Value) {
        if let Some(host) = &self.host {
            host.show(page, status.to_metrics());
        }
        if self.quiet {
            return;
        }
        if status.warning != self.warned {
            self.warned.clone_from(&status.warning);
            if let Some(warning) = self.warned.clone() {
                self.end();
                say(format!("warning: {warning}"));
            }
        }
        let now = self.clock.elapsed();
        let mut err = std::io::stderr().lock();
        // A closed or full stderr must not stop the learning.
        if self.is_terminal {
            let _ = write!(err, "\r\x1b[2K{}", status.line());
            let _ = err.flush();
            self.drawn = Some(now);
        } else if self.drawn.is_none_or(|at| now - at >= LOG_EVERY) || status.state != self.state {
            self.state.clone_from(&status.state);
            let _ = writeln!(err, "{}", status.line());
            self.drawn = Some(now);
        }
    }
}
