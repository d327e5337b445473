//! `tidemill serve`: answers with models that were learned before, without a job; with `--follow`, with models that another
//! process learns.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tidemill_base::{
    Clock, Error, Result, SystemClock, attribute::parse_bytes, duration::parse_duration_ms, store::data_dir::DataDir,
};
use tidemill_serve::server;

use super::{DataDirectory, run::stop_on_signals, say};
use crate::{catalog::Catalog, replica::Replica, signal::Signal};

/// Serve the models of a data directory, or follow those of another process
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    data: DataDirectory,
    /// Serve this model only; may be said several times
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Follow the models of a tidemill that learns them; what was followed is kept in the data directory
    #[arg(long, value_name = "HOST:PORT", requires = "model")]
    follow: Option<String>,
    /// Not ready while a followed model is staler than this; it answers all the same
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    stale_max: Duration,
    /// Port of the page and the API on 127.0.0.1; 0 takes any free one
    #[arg(long, default_value_t = 8470)]
    port: u16,
    /// Bytes that models may take in memory together; beyond it the one asked for longest ago leaves
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes)]
    model_bytes_max: u64,
    /// Do not say where the API is
    #[arg(long, short)]
    quiet: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map(|bytes| bytes as u64).map_err(|e| e.message().to_string())
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration_ms(text).map(|ms| Duration::from_millis(ms.max(0) as u64)).map_err(|e| e.message().to_string())
}

/// How long the main thread sleeps between looking whether it is to stop; a signal ends it at once.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Serve {
    pub fn run(&self) -> Result<()> {
        if let Some(address) = &self.follow {
            return self.follow(address);
        }
        let root = &self.data.data_dir;
        if !root.is_dir() {
            return Err(Error::not_found(format!("no data directory {}; say which with --data-dir", root.display())));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let signal = Arc::new(Signal::default());
        stop_on_signals(signal.clone())?;
        let catalog = Catalog::open(DataDir::open(root)?, &self.model, self.model_bytes_max, clock)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let running = server::start(address, Arc::new(catalog.clone()))?;
        catalog.announce(&running.address().to_string())?;
        self.stay(running, &signal)
    }

    fn follow(&self, address: &str) -> Result<()> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let signal = Arc::new(Signal::default());
        stop_on_signals(signal.clone())?;
        let data = DataDir::open(&self.data.data_dir)?;
        let replica = Replica::open(address, &self.model, data, clock, signal.clone(), self.stale_max)?;
        let running = server::start(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), Arc::new(replica.clone()))?;
        replica.announce(&running.address().to_string())?;
        replica.follow()?;
        replica.wait_until_served()?;
        self.stay(running, &signal)
    }

    /// Answers until a signal ends it.
    fn stay(&self, running: server::Running, signal: &Signal) -> Result<()> {
        if !self.quiet && !signal.is_stopped() {
            say(format!("API at http://{}/", running.address()));
        }
        while !signal.is_stopped() {
            signal.wait(LOOK_EVERY);
        }
        running.stop();
        Ok(())
    }
}
