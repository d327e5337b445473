//! Where the server listens and whom it lets in: the options, the files behind them, and reading those again.
//!
//! In: an address, certificate, key and tokens as files, limits. Out: a server behind them. The files are looked at every
//! second; what changed is taken where it can be used, and complained about where it cannot, while the server goes on with
//! what it had. Beside a server with TLS or tokens stands a second one for `tidemill models`, on this machine only, whose
//! token lies in the data directory: who can read that, owns it.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

use clap::Args;
use tidemill_base::{
    Clock, Error, Result, SystemClock, attribute::parse_bytes, duration::parse_duration_ms, store::data_dir::DataDir,
};
use tidemill_serve::server::{self, Access, Border, Host, Limits, Pem, Tls, token_hash};

use super::say;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long before its end a certificate is complained about.
const RENEW_BEFORE_MS: i64 = 14 * 86_400_000;
/// The file with the token of the server for `tidemill models`.
const CONTROL: &str = "control";

/// Where the server listens and whom it lets in.
#[derive(Args, Clone)]
pub(super) struct Door {
    /// Address to listen on; one that others reach wants TLS and tokens
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Certificate chain as PEM, the server's own first; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates of authorities as PEM: clients show one that such an authority signed; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Who may ask for what (docs/0005-border-of-the-server.md); read again when it changes
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Listen on any address without TLS or tokens: whoever reaches it may read and change everything
    #[arg(long)]
    open_to_everyone: bool,
    /// A limit of the server, for example body=8MiB; --limit help lists them
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
}

/// The servers of a process.
pub(super) struct Servers {
    main: server::Running,
    control: Option<server::Running>,
    encrypted: bool,
    /// Ends the thread that looks at the files.
    _looking: Option<Sender<()>>,
}

impl Door {
    /// Starts what was asked for and says in the data directory where it is.
    pub fn open(&self, port: u16, data: &DataDir, host: Arc<dyn Host>) -> Result<Servers> {
        let limits = limits(&self.limits)?;
        let mut files = Files::of(self);
        let border = files.border(self)?;
        let encrypted = border.tls.is_some();
        let guarded = encrypted || border.access.is_some();
        let address = SocketAddr::from((self.listen, port));
        let main = server::start_behind(address, host.clone(), limits, border)?;
        let control = guarded.then(|| control(data, host)).transpose()?;
        data.announce(&control.as_ref().unwrap_or(&main).address().to_string())?;
        let looking = guarded.then(|| files.look()).transpose()?;
        Ok(Servers { main, control, encrypted, _looking: looking })
    }
}

impl Servers {
    /// Where people find it.
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.encrypted { "https" } else { "http" }, self.main.address())
    }

    /// Lets what is being answered finish, and ends.
    pub fn stop(self) {
        self.main.stop();
        self.control.map(server::Running::stop);
    }
}

/// The server for `tidemill models`.
fn control(data: &DataDir, host: Arc<dyn Host>) -> Result<server::Running> {
    let token = new_token()?;
    let path = data.root().join(CONTROL);
    let _ = fs::remove_file(&path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(token.as_bytes()))
        .map_err(|e| Error::io("write", &path, e))?;
    let file = serde_json::json!({
        "tenants": [{"name": "process", "models": ["*"]}],
        "tokens": [{"name": "control", "tenant": "process", "roles": ["admin"], "sha256": token_hash(&token)}],
    });
    let access = Arc::new(Access::read(CONTROL, file.to_string().as_bytes())?);
    let limits = Limits { threads: 1, connections_max: 16, ..Limits::default() };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    server::start_behind(address, host, limits, Border { access: Some(access), ..Border::default() })
}

/// The header that opens the server for `tidemill models`, where it wants one.
pub(super) fn control_header(root: &Path) -> String {
    let token = fs::read_to_string(root.join(CONTROL)).unwrap_or_default();
    if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") }
}

/// 256 bits that nobody can guess, as text.
pub(super) fn new_token() -> Result<String> {
    let mut bytes = [0; 32];
    let path = Path::new("/dev/urandom");
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| Error::io("read", path, e))?;
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("tm_{digits}"))
}

/// What a file was when it was last looked at.
type Stamp = Option<(u64, i64, i64, u64)>;

/// The files behind a border.
struct Files {
    tls: Option<(PathBuf, PathBuf, Option<Arc<Tls>>)>,
    /// Of the authorities whose certificates clients show.
    clients: Option<PathBuf>,
    tokens: Option<(PathBuf, Option<Arc<Access>>)>,
    stamps: [Stamp; 2],
    /// A failure may be the moment between two files that belong together: it is told when it lasts.
    failed: [u32; 2],
    told_end_ms: i64,
}

const TLS: usize = 0;
const TOKENS: usize = 1;

impl Files {
    fn of(door: &Door) -> Self {
        let tls = door.tls_cert.clone().zip(door.tls_key.clone()).map(|(cert, key)| (cert, key, None));
        let tokens = door.tokens.clone().map(|path| (path, None));
        let clients = door.tls_client_ca.clone();
        Self { tls, clients, tokens, stamps: [None; 2], failed: [0; 2], told_end_ms: i64::MIN }
    }

    /// Reads them for the first time.
    fn border(&mut self, door: &Door) -> Result<Border> {
        self.stamps = [self.stamp(TLS), self.stamp(TOKENS)];
        self.take_tls()?;
        self.take_tokens()?;
        Ok(Border {
            tls: self.tls.as_ref().and_then(|t| t.2.clone()),
            access: self.tokens.as_ref().and_then(|t| t.1.clone()),
            open_to_everyone: door.open_to_everyone,
        })
    }

    fn take_tls(&mut self) -> Result<()> {
        let Some((chain_path, key_path, tls)) = &mut self.tls else { return Ok(()) };
        let (chain, key) = (read(chain_path)?, read(key_path)?);
        let (chain_name, key_name) = (chain_path.display().to_string(), key_path.display().to_string());
        let chain = Pem { name: &chain_name, bytes: &chain };
        let key = Pem { name: &key_name, bytes: &key };
        let clients = self.clients.as_ref().map(|path| Ok::<_, Error>((path.display().to_string(), read(path)?)));
        let clients = clients.transpose()?;
        let clients = clients.as_ref().map(|(name, bytes)| Pem { name, bytes });
        let now_ms = SystemClock::new().wall_ms();
        match tls {
            Some(tls) => tls.replace(clients, chain, key, now_ms),
            None => Tls::for_clients_of(clients, chain, key, now_ms).map(|new| *tls = Some(Arc::new(new))),
        }
    }

    fn take_tokens(&mut self) -> Result<()> {
        let Some((path, access)) = &mut self.tokens else { return Ok(()) };
        let (name, json) = (path.display().to_string(), read(path)?);
        match access {
            Some(access) => access.replace(&name, &json),
            None => Access::read(&name, &json).map(|new| *access = Some(Arc::new(new))),
        }
    }

    fn stamp(&self, which: usize) -> Stamp {
        let paths = match which {
            TLS => {
                let own = self.tls.iter().flat_map(|(chain, key, _)| [chain, key]);
                own.chain(&self.clients).collect::<Vec<_>>()
            }
            _ => self.tokens.iter().map(|(path, _)| path).collect(),
        };
        paths.into_iter().try_fold((0, 0, 0, 0), |all: (u64, i64, i64, u64), path| {
            let meta = fs::metadata(path).ok()?;
            // Two files are told apart by where they stand in the sum.
            let mix = |a: i64, b: i64| a.wrapping_mul(31).wrapping_add(b);
            Some((
                all.0.wrapping_mul(31).wrapping_add(meta.ino()),
                mix(all.1, meta.mtime()),
                mix(all.2, meta.mtime_nsec()),
                all.3.wrapping_mul(31).wrapping_add(meta.size()),
            ))
        })
    }

    /// Looks at them again and again, until what it gives back is dropped.
    fn look(mut self) -> Result<Sender<()>> {
        let (stop, stopped) = channel();
        self.tell_end();
        let looking = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                self.look_once();
            }
        };
        let thread = std::thread::Builder::new().name("tidemill-files".into()).spawn(looking);
        thread.map_err(|e| Error::unavailable(format!("start a thread: {e}")))?;
        Ok(stop)
    }

    fn look_once(&mut self) {
        if let Some((times, why)) = self.tls.as_ref().and_then(|t| t.2.as_ref()?.take_refused()) {
            let times = if times == 1 { String::new() } else { format!(" ({times} of them; the last one)") };
            say(format!("a connection ended in the TLS handshake{times}: {why}"));
        }
        for which in [TLS, TOKENS] {
            let stamp = self.stamp(which);
            if stamp == self.stamps[which] && self.failed[which] != 1 {
                continue;
            }
            self.stamps[which] = stamp;
            let (taken, what) = match which {
                TLS => (self.take_tls(), "certificate"),
                _ => (self.take_tokens(), "tokens"),
            };
            self.failed[which] = match taken {
                Ok(()) => {
                    say(format!("{what} read again"));
                    0
                }
                Err(e) => {
                    let failed = self.failed[which] + 1;
                    if failed == 2 {
                        say(format!("warning: {what} not read again, those before stay: {e}"));
                    }
                    failed
                }
            };
        }
        self.tell_end();
    }

    /// Says once that a certificate is about to run out, and once that it has.
    fn tell_end(&mut self) {
        let Some(tls) = self.tls.as_ref().and_then(|t| t.2.as_ref()) else { return };
        let (end_ms, now_ms) = (tls.not_after_ms(), SystemClock::new().wall_ms());
        let due_ms = if now_ms >= end_ms { end_ms } else { end_ms - RENEW_BEFORE_MS };
        if now_ms >= due_ms && self.told_end_ms != due_ms {
            self.told_end_ms = due_ms;
            let days = (end_ms - now_ms) / 86_400_000;
            say(match now_ms >= end_ms {
                true => "warning: the certificate has expired: clients refuse it".to_string(),
                false => format!("warning: the certificate expires in {days} days"),
            });
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::io("open", path, e))
}

/// A limit as it is typed: its name, what it bounds, and where it stands.
struct Limit {
    name: &'static str,
    about: &'static str,
    range: (i64, i64),
    unit: Unit,
    set: fn(&mut Limits, i64),
}

#[derive(Clone, Copy)]
enum Unit {
    Count,
    Bytes,
    Time,
}

const fn limit(
    name: &'static str,
    unit: Unit,
    range: (i64, i64),
    about: &'static str,
    set: fn(&mut Limits, i64),
) -> Limit {
    Limit { name, about, range, unit, set }
}

const LIMITS: [Limit; 10] = [
    limit("body", Unit::Bytes, (1 << 10, 1 << 30), "a request's body or gRPC message", |l, n| {
        l.body_bytes_max = n as usize;
    }),
    limit("bodies", Unit::Bytes, (1 << 20, 1 << 40), "all bodies that have not come whole", |l, n| {
        l.bodies_bytes_max = n as usize;
    }),
    limit("headers", Unit::Bytes, (8 << 10, 1 << 20), "a request's line and headers", |l, n| {
        l.header_bytes_max = n as usize;
    }),
    limit("header-count", Unit::Count, (8, 1_000), "headers in a request", |l, n| l.headers_max = n as usize),
    limit("header-time", Unit::Time, (10, 3_600_000), "until headers are there; an idle connection", |l, n| {
        l.header_timeout = Duration::from_millis(n as u64);
    }),
    limit("body-time", Unit::Time, (10, 3_600_000), "until a body is there", |l, n| {
        l.body_timeout = Duration::from_millis(n as u64);
    }),
    limit("write-time", Unit::Time, (10, 3_600_000), "that a caller does not read", |l, n| {
        l.write_timeout = Duration::from_millis(n as u64);
    }),
    limit("connections", Unit::Count, (1, 1 << 20), "connections", |l, n| l.connections_max = n as usize),
    limit("requests", Unit::Count, (1, 1 << 20), "requests at once", |l, n| l.requests_max = n as usize),
    limit("streams", Unit::Count, (1, 10_000), "requests at once on a connection of HTTP/2", |l, n| {
        l.streams_max = n as u32;
    }),
];

fn limits(typed: &[String]) -> Result<Limits> {
    let mut limits = Limits::default();
    for text in typed {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let limit = LIMITS.iter().find(|l| l.name == name).ok_or_else(|| {
            let known: Vec<String> = LIMITS.iter().map(|l| format!("{} ({})", l.name, l.about)).collect();
            Error::invalid(format!("--limit: no limit '{name}'; limits are {}", known.join(", ")))
        })?;
        let number = match limit.unit {
            Unit::Count => value.parse().map_err(|_| Error::invalid(format!("'{value}' is not a whole number"))),
            Unit::Bytes => parse_bytes(value),
            Unit::Time => parse_duration_ms(value),
        };
        let number = number.map_err(|e| e.at(format_args!("--limit {name}")))?;
        let (least, most) = limit.range;
        if !(least..=most).contains(&number) {
            let unit = match limit.unit {
                Unit::Count => "",
                Unit::Bytes => " bytes",
                Unit::Time => " ms",
            };
            return Err(Error::invalid(format!("--limit {name}: {value} is not in {least} to {most}{unit}")));
        }
        (limit.set)(&mut limits, number);
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        limits(&[text.to_string()]).unwrap_err().message().to_string()
    }

    #[test]
    fn limits_are_set_by_name_within_their_range() {
        let typed = ["body=8MiB", "body-time=2s", "connections=7"].map(str::to_string);
        let set = limits(&typed).unwrap();
        assert_eq!((set.body_bytes_max, set.body_timeout, set.connections_max), (8 << 20, Duration::from_secs(2), 7));
        assert!(refused("size=3").starts_with("--limit: no limit 'size'; limits are body (a request's body or gRPC"));
        assert_eq!(refused("connections=0"), "--limit connections: 0 is not in 1 to 1048576");
        assert_eq!(refused("connections=many"), "--limit connections: 'many' is not a whole number");
        assert_eq!(refused("headers=1KiB"), "--limit headers: 1KiB is not in 8192 to 1048576 bytes");
        assert!(refused("body-time=5").starts_with("--limit body-time: '5' has no unit"));
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let (one, two) = (new_token().unwrap(), new_token().unwrap());
        assert!(one.len() == 67 && one.starts_with("tm_") && one != two);
    }
}
