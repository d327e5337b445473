//! The HTTP server: predictions, pushed events, versions, status, and the page.
//!
//! In: requests on one address (127.0.0.1 unless told otherwise) and a [`Host`] to put them to. Out: replies, each error
//! as `{"error":{"code","message","hint"?}}` with its status. Everything a stranger can make grow has a bound in
//! [`Limits`]: connections, headers, bodies, streams, and the time each may take. Requests from other web sites are
//! refused. A panic in a handler costs its request, nothing else.

mod access;
mod admin;
mod aside;
mod assets;
mod body;
mod border;
mod connection;
mod events;
mod fast_path;
mod frames;
mod grpc;
mod guard;
mod headers;
mod host;
mod http1;
mod idempotency;
mod load;
mod metrics;
mod oip;
mod places;
mod reply;
mod route;
mod router;
mod stream;
mod tls;
mod turns;
mod versions;
mod waiting;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::StatusCode;
use tidemill_base::{Error, Result};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    task::JoinHandle,
};

pub use access::{Access, token_hash};
pub use border::Border;
pub use host::{BoxFuture, Host, PushReply, RefusedLine, ServedModel, no_model};
use reply::Refusal;
pub(crate) use reply::shown;
pub use tls::{Pem, Tls};

/// Bounds on what comes from outside.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; beyond it 503.
    pub connections_max: usize,
    /// Bytes in a request's body; beyond it 413.
    pub body_bytes_max: usize,
    /// Bytes in a request's line and headers together, at least 8,192; beyond it 431.
    pub header_bytes_max: usize,
    /// Headers in a request; beyond it 431.
    pub headers_max: usize,
    /// How long a request's headers may take, and how long a connection may be idle; beyond it 408.
    pub header_timeout: Duration,
    /// How long a request's body may take; beyond it 408.
    pub body_timeout: Duration,
    /// How long a caller may refuse to read; beyond it the connection is cut.
    pub write_timeout: Duration,
    /// How long [`Running::stop`] waits for requests that are being answered.
    pub stop_timeout: Duration,
    /// Requests at once on a connection of HTTP/2; further ones wait.
    pub streams_max: u32,
    /// Requests at once on all connections; beyond it 429.
    pub requests_max: usize,
    /// Bytes of bodies that wait for their rest, on all connections; beyond it 429.
    pub bodies_bytes_max: usize,
    /// Threads that answer: as many as there are cores for, at most two, unless told otherwise. A second one on the same core
    /// only takes turns with the first.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            body_bytes_max: 4 << 20,
            header_bytes_max: 64 << 10,
            headers_max: 100,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            streams_max: 128,
            requests_max: 4096,
            bodies_bytes_max: 256 << 20,
            threads: std::thread::available_parallelism().map_or(2, |n| n.get().min(2)),
        }
    }
}

/// A server that answers until it is stopped or dropped.
pub struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    stop_timeout: Duration,
    accepting: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
}

/// What all connections share.
struct Shared {
    host: Arc<dyn Host>,
    limits: Limits,
    border: Border,
    load: Arc<load::Load>,
    /// Whether only this machine can reach the server.
    loopback: bool,
    metrics: metrics::Metrics,
    events: events::Broadcast,
    keys: Arc<idempotency::Keys>,
    aside: aside::Aside,
    stop: watch::Receiver<bool>,
    admin: axum::Router,
}

/// Whether a body is an inference request as the Open Inference Protocol has it; `bytes` follow the JSON.
pub fn check_infer_json(json: &[u8], bytes: &[u8]) -> Result<()> {
    oip::read(json, bytes).map(drop)
}

/// Answers the message of a `ModelInfer` call over gRPC by this model, whatever model it names.
pub fn infer_message(model: &ServedModel, message: &[u8]) -> Result<Vec<u8>> {
    grpc::infer_message(model, message)
}

/// Starts a server on `address`; port 0 takes any free one.
pub fn start(address: SocketAddr, host: Arc<dyn Host>) -> Result<Running> {
    start_with(address, host, Limits::default())
}

/// [`start`], with other limits.
pub fn start_with(address: SocketAddr, host: Arc<dyn Host>, limits: Limits) -> Result<Running> {
    start_behind(address, host, limits, Border::default())
}

/// [`start_with`], with TLS and tokens where they are given. An address that others can reach is refused without both,
/// unless the border says that it is meant to be open.
pub fn start_behind(address: SocketAddr, host: Arc<dyn Host>, limits: Limits, border: Border) -> Result<Running> {
    border.check(address)?;
    let listener = TcpListener::bind(address).map_err(|e| bind_error(address, e))?;
    let unavailable = |e: io::Error| Error::unavailable(format!("listen on {address}: {e}"));
    listener.set_nonblocking(true).map_err(unavailable)?;
    let address = listener.local_addr().map_err(unavailable)?;
    let (workers, started) = (limits.threads.max(1), AtomicUsize::new(0));
    let turns = Arc::new(turns::Turns::default());
    let turns_of_threads = turns.clone();
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(8)
        .thread_name("tidemill-http")
        .on_thread_start(move || {
            // Those that start later are for calls that take long.
            if started.fetch_add(1, Relaxed) < workers {
                turns_of_threads.come_first();
            }
        })
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| Error::unavailable(format!("start threads for HTTP: {e}")))?;
    let listener = {
        let _in_runtime = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(unavailable)?
    };
    let (stop, stopped) = watch::channel(false);
    let stop_timeout = limits.stop_timeout;
    let loopback = address.ip().is_loopback();
    let metrics = metrics::Metrics::default();
    let events = events::Broadcast::new();
    let (load, keys) = (Arc::new(load::Load::default()), Arc::default());
    runtime.spawn(load.clone().watch(turns));
    let admin = admin::routes();
    let aside = aside::Aside::default();
    let shared =
        Arc::new(Shared { host, limits, border, load, loopback, metrics, events, keys, aside, stop: stopped, admin });
    let accepting = runtime.spawn(connection::accept(listener, shared));
    Ok(Running { address, stop, stop_timeout, accepting: Some(accepting), runtime: Some(runtime) })
}

impl Running {
    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets requests that are being answered finish within [`Limits::stop_timeout`], and ends.
    /// `false`: some did not finish and were cut off. Not to be called from within an async task.
    pub fn stop(mut self) -> bool {
        self.stop.send_replace(true);
        let (Some(runtime), Some(accepting)) = (self.runtime.take(), self.accepting.take()) else { return true };
        let finished = runtime.block_on(async { tokio::time::timeout(self.stop_timeout, accepting).await.is_ok() });
        runtime.shutdown_timeout(Duration::from_millis(500));
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn bind_error(address: SocketAddr, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            Error::conflict(format!("{address} already in use; use --port N, or --port 0 for any free one"))
        }
        io::ErrorKind::PermissionDenied => {
            Error::unavailable(format!("{address} may not be listened on: {e}; ports below 1024 need privileges"))
        }
        _ => Error::unavailable(format!("listen on {address}: {e}")),
    }
    .with_source(e)
}

/// Resolves when the server is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|&stop| stop).await;
}

/// Runs a handler so that our own bug costs one request.
fn contained<T>(run: impl FnOnce() -> T) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| our_mistake())
}

fn our_mistake() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a bug in tidemill ended this request; others go on")
        .hint("what went wrong is on the server's standard error")
}
