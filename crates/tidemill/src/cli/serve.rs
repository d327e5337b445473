//! `tidemill serve`: answers with models that were learned before, without a job; with `--follow`, with models that another
//! process learns.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use tidemill_base::{
    Clock, Error, Result, SystemClock, attribute::parse_bytes, duration::parse_duration_ms, store::data_dir::DataDir,
};
use tidemill_serve::{follow::client::Upstream, server::Pem};

use super::{
    DataDirectory,
    door::{Door, Servers},
    run::stop_on_signals,
    say,
};
use crate::{catalog::Catalog, failpoint, replica::Replica, signal::Signal};

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
    /// File with the token that the other process wants, of the role admin
    #[arg(long, value_name = "FILE", requires = "follow")]
    follow_token: Option<PathBuf>,
    /// Certificates to trust, as PEM: the other process is spoken to over TLS
    #[arg(long, value_name = "FILE", requires = "follow")]
    follow_ca: Option<PathBuf>,
    /// Not ready while a followed model is staler than this; it answers all the same
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    stale_max: Duration,
    #[command(flatten)]
    door: Door,
    /// Port of the page and the API; 0 takes any free one
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
        let there = self.data.read(&|path| !path.ends_with(".part") && !path.ends_with(".ck"))?;
        let root = there.root();
        if !root.is_dir() {
            return Err(Error::not_found(format!("no data directory {}; say which with --data-dir", root.display())));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let signal = Arc::new(Signal::default());
        stop_on_signals(signal.clone())?;
        let catalog = Catalog::open(DataDir::open(root)?, &self.model, self.model_bytes_max, clock)?;
        let servers = self.door.open(self.port, catalog.data(), Arc::new(catalog.clone()))?;
        self.stay(servers, &signal)
    }

    fn follow(&self, address: &str) -> Result<()> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let signal = Arc::new(Signal::default());
        stop_on_signals(signal.clone())?;
        let data = DataDir::open(self.data.directory("following", "keep what is followed in a directory")?)?;
        let _failpoint = failpoint::arm(data.root())?;
        let upstream = self.upstream(address)?;
        let replica = Replica::open(upstream, &self.model, data, clock, signal.clone(), self.stale_max)?;
        let servers = self.door.open(self.port, replica.data(), Arc::new(replica.clone()))?;
        replica.follow()?;
        replica.wait_until_served()?;
        self.stay(servers, &signal)?;
        replica.close();
        Ok(())
    }

    fn upstream(&self, address: &str) -> Result<Upstream> {
        let read = |path: &PathBuf| fs::read(path).map_err(|e| Error::io("read", path, e));
        let token = self.follow_token.as_ref().map(read).transpose()?;
        let token = token.as_ref().map(|token| String::from_utf8_lossy(token));
        let authorities = self.follow_ca.as_ref().map(read).transpose()?;
        let name = self.follow_ca.as_ref().map_or(String::new(), |path| path.display().to_string());
        Upstream::new(address, token.as_deref(), authorities.as_ref().map(|bytes| Pem { name: &name, bytes }))
    }

    /// Answers until a signal ends it.
    fn stay(&self, servers: Servers, signal: &Signal) -> Result<()> {
        if !self.quiet && !signal.is_stopped() {
            say(format!("API at {}", servers.url()));
        }
        while !signal.is_stopped() {
            signal.wait(LOOK_EVERY);
        }
        servers.stop();
        Ok(())
    }
}
