//! The replica's end of a stream: one connection, frames out of it.
//!
//! In: an address, a model, what the replica has, or the version it wants. Out: frames, each whole and checked, or the reason
//! why there are none. Not async: who reads has a thread for it, and nothing else waits.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tidemill_base::{Error, Result};

use super::{
    Ask, CONTENT_TYPE,
    frame::{CHECK_BYTES, Frame, HEAD_BYTES},
};
use crate::server::Pem;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the trainer may take to answer before the first frame.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The first byte of an alert (RFC 8446, 5.1).
const TLS_ALERT: u8 = 21;
/// Read from the connection at once.
const READ_BYTES: usize = 64 << 10;

/// The process that learns, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Upstream {
    address: String,
    token: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

impl Upstream {
    /// The tidemill at `address` (`HOST:PORT`), which may want a bearer token. With `authorities`, certificates of those who
    /// vouch for it, the connection is encrypted.
    pub fn new(address: &str, token: Option<&str>, authorities: Option<Pem<'_>>) -> Result<Self> {
        let token = token.map(str::trim).map(String::from);
        if token.as_ref().is_some_and(|token| token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::invalid("--follow-token: the file holds no token; `tidemill token` makes one"));
        }
        let tls = authorities.map(client_config).transpose()?;
        Ok(Self { address: address.to_string(), token, tls })
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn client_config(authorities: Pem<'_>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.bytes) {
        let added = certificate.map_err(|e| e.to_string()).and_then(|c| roots.add(c).map_err(|e| e.to_string()));
        added.map_err(|e| Error::invalid(format!("{}: {e}", authorities.name)))?;
    }
    if roots.is_empty() {
        return Err(Error::invalid(format!("{}: no certificate in it; it wants PEM", authorities.name)));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What is read from and written to: the socket, or what encrypts it.
trait Channel: Read + Write + Send {}

impl<T: Read + Write + Send> Channel for T {}

/// A stream of frames.
pub struct Connection {
    stream: Box<dyn Channel>,
    /// The same socket, for its time-outs.
    socket: TcpStream,
    address: String,
    /// Bytes that came and are not used yet.
    buffer: Vec<u8>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection to {}", self.address)
    }
}

impl Connection {
    /// Asks the tidemill there for a model's frames.
    pub fn open(upstream: &Upstream, model: &str, ask: Ask) -> Result<Self> {
        Self::request(upstream, model, &format!("{model}:follow?{}", ask.to_query()))
    }

    /// Asks the tidemill there for the frames of one version.
    pub fn open_version(upstream: &Upstream, model: &str, version: u64) -> Result<Self> {
        Self::request(upstream, model, &format!("{model}@{version}:follow"))
    }

    fn request(upstream: &Upstream, model: &str, asked: &str) -> Result<Self> {
        let address = upstream.address();
        let socket = connect(address)?;
        let gone = |e: std::io::Error| Error::unavailable(format!("{address}: {e}"));
        socket.set_nodelay(true).map_err(gone)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(gone)?;
        socket.set_write_timeout(Some(REPLY_TIMEOUT)).map_err(gone)?;
        let same = socket.try_clone().map_err(gone)?;
        let stream: Box<dyn Channel> = match &upstream.tls {
            None => Box::new(same),
            Some(config) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_string())
                    .map_err(|_| Error::invalid(format!("--follow {address}: '{host}' is no name of a server")))?;
                let session =
                    ClientConnection::new(config.clone(), name).map_err(|e| Error::internal(e.to_string()))?;
                Box::new(StreamOwned::new(session, same))
            }
        };
        let mut connection = Self { stream, socket, address: address.to_string(), buffer: Vec::new() };
        let token = upstream.token.as_ref().map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        // HTTP/1.0: the body comes as it is, until the connection ends.
        let request = format!("GET /v1/models/{asked} HTTP/1.0\r\nHost: {address}\r\n{token}\r\n");
        connection.stream.write_all(request.as_bytes()).map_err(gone)?;
        connection.read_head(model)?;
        Ok(connection)
    }

    fn read_head(&mut self, model: &str) -> Result<()> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            // An alert is what TLS answers to those who do not speak it.
            if self.buffer.len() > HEAD_BYTES_MAX || self.buffer.first() == Some(&TLS_ALERT) {
                return Err(self.stranger());
            }
            if self.read_some()? == 0 {
                return Err(Error::unavailable(format!("{} did not answer in time", self.address)));
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        self.buffer.drain(..end);
        let status: u16 = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if !head.starts_with("http/1.") {
            return Err(self.stranger());
        }
        match status {
            200 if head.contains(&format!("content-type: {CONTENT_TYPE}")) => Ok(()),
            200 => Err(self.stranger()),
            _ => Err(self.refusal(status, model)),
        }
    }

    fn stranger(&self) -> Error {
        Error::conflict(format!(
            "{} answers, but is no tidemill that can be followed; see --follow, and --follow-ca for one behind TLS",
            self.address
        ))
    }

    /// The error that the other side told, with its kind.
    fn refusal(&mut self, status: u16, model: &str) -> Error {
        while self.buffer.len() < HEAD_BYTES_MAX && matches!(self.read_some(), Ok(n) if n > 0) {}
        let body: Option<serde_json::Value> = serde_json::from_slice(&self.buffer).ok();
        let told = body.as_ref().and_then(|body| body["error"]["message"].as_str());
        let message = match told {
            Some(told) => format!("{}: {told}", self.address),
            None => format!("{} answers {status} to a request to follow model '{model}'", self.address),
        };
        match (status, told) {
            (401 | 403, Some(_)) => {
                Error::conflict(format!("{message}; --follow-token names a file with one of an admin"))
            }
            (400, Some(told)) if told.contains("TLS") => {
                Error::conflict(format!("{message}; --follow-ca names a file with the certificates to trust"))
            }
            (404, Some(_)) => Error::not_found(message),
            (400 | 409, Some(_)) => Error::conflict(message),
            (429 | 500.., _) => Error::unavailable(message),
            (_, Some(_)) => Error::conflict(message),
            (_, None) => self.stranger(),
        }
    }

    /// The next frame, if it comes within `wait`.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Frame>> {
        self.socket.set_read_timeout(Some(wait)).map_err(|e| self.gone(e))?;
        loop {
            if let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() {
                let bytes = HEAD_BYTES + Frame::content_bytes(*head)? + CHECK_BYTES;
                if self.buffer.len() >= bytes {
                    let frame = Frame::decode(&self.buffer[..bytes]);
                    self.buffer.drain(..bytes);
                    return frame.map(Some).map_err(|e| e.at(&self.address));
                }
            }
            if self.read_some()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes what has come; 0 when nothing came in time.
    fn read_some(&mut self) -> Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let read = self.stream.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Error::unavailable(format!("{} has closed the connection", self.address))),
            Ok(n) => Ok(n),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => Ok(0),
            Err(e) => Err(self.gone(e)),
        }
    }

    fn gone(&self, e: std::io::Error) -> Error {
        Error::unavailable(format!("{}: {e}", self.address))
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let addresses = address.to_socket_addrs().map_err(|e| match e.kind() {
        ErrorKind::InvalidInput => Error::invalid(format!("--follow {address}: write HOST:PORT")),
        _ => Error::unavailable(format!("{address}: {e}")),
    })?;
    let mut last = Error::unavailable(format!("{address} has no address"));
    for one in addresses {
        match TcpStream::connect_timeout(&one, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Error::unavailable(format!("cannot reach {address}: {e}")),
        }
    }
    Err(last)
}
