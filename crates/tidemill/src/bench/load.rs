//! Load on a server: requests that are ready as bytes, kept-alive connections, one thread that never sleeps.
//!
//! In: an address, a request, how long, and how often (as fast as replies come, or at a rate whether they come or not). Out:
//! how many replies came and how long each took. Whoever waits for the kernel to be woken measures the waking: this loop
//! asks again and again instead, and so needs a core of its own. A reply that is not a 200 ends the measurement.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tidemill_base::{Clock, Error, Result, SystemClock};

/// How long a reply may take before the server counts as gone.
const REPLY_TIME_MAX: Duration = Duration::from_secs(20);
/// Connections that rested longer are opened anew: servers close those that say nothing.
const REST_MAX: Duration = Duration::from_secs(5);

/// Times in buckets, each a 32nd of the power of two it lies in.
#[derive(Clone)]
pub struct Times {
    counts: Vec<u64>,
    total: u64,
}

/// What came of a stretch of load.
#[derive(Clone, Default)]
pub struct Measured {
    /// Replies that came.
    pub replies: u64,
    /// How long it took.
    pub seconds: f64,
    /// From when a request was due until its reply was there, nanoseconds.
    pub times: Times,
    /// What was sent beside it: replies, or what was appended.
    pub beside: u64,
}

/// What goes out at a steady pace beside the load.
pub struct Beside<'a> {
    /// In turns: requests on a connection of their own, one after the other, or what is appended to `file`.
    pub parts: &'a [Vec<u8>],
    /// Where they go instead of to the server.
    pub file: Option<&'a File>,
    /// The first one to send.
    pub next: usize,
    /// Between two.
    pub every: Duration,
}

/// Connections to one server.
pub struct Load {
    clock: SystemClock,
    address: SocketAddr,
    /// When it was last over.
    used: Duration,
    connections: Vec<Connection>,
    /// For single requests and for what goes on beside the load.
    own: Connection,
}

struct Connection {
    stream: TcpStream,
    reply: Vec<u8>,
    /// When the request that is being answered was due.
    due: Option<Duration>,
}

/// A POST with this JSON.
pub fn post(address: SocketAddr, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A GET.
pub fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}

impl Load {
    /// Opens so many connections, and one of its own.
    pub fn open(address: SocketAddr, connections: usize) -> Result<Self> {
        let connections = (0..connections).map(|_| Connection::open(address)).collect::<Result<_>>()?;
        let (clock, own) = (SystemClock::new(), Connection::open(address)?);
        Ok(Self { used: clock.elapsed(), clock, address, connections, own })
    }

    /// Connections that are open still; when it begins.
    fn begin(&mut self) -> Result<Duration> {
        if self.clock.elapsed() - self.used > REST_MAX {
            let own = std::slice::from_mut(&mut self.own);
            for connection in self.connections.iter_mut().chain(own) {
                *connection = Connection::open(self.address)?;
            }
        }
        Ok(self.clock.elapsed())
    }

    /// One request; the body of its reply and how long it took.
    pub fn ask(&mut self, request: &[u8]) -> Result<(Vec<u8>, Duration)> {
        let began = self.begin()?;
        self.own.send(request, began)?;
        loop {
            if let Some(body) = self.own.poll()? {
                let body = body.to_vec();
                self.own.due = None;
                self.used = self.clock.elapsed();
                return Ok((body, self.used - began));
            }
            check_alive(self.clock.elapsed() - began)?;
        }
    }

    /// All connections ask again as soon as they are answered.
    pub fn closed(&mut self, request: &[u8], seconds: f64) -> Result<Measured> {
        let began = self.begin()?;
        let end = began + Duration::from_secs_f64(seconds);
        let mut measured = Measured::default();
        let mut last = began;
        loop {
            let mut waiting = 0;
            for connection in &mut self.connections {
                if connection.due.is_some() {
                    if connection.poll()?.is_none() {
                        waiting += 1;
                        continue;
                    }
                    last = measured.answered(connection, &self.clock);
                }
                if last < end {
                    connection.send(request, self.clock.elapsed())?;
                    waiting += 1;
                }
            }
            if waiting == 0 {
                measured.seconds = (last - began).as_secs_f64();
                self.used = self.clock.elapsed();
                return Ok(measured);
            }
            let now = self.clock.elapsed();
            check_alive(now - last)?;
            // Where nobody is answered any more, the end is seen by the clock.
            last = if now >= end { last.max(end) } else { last };
        }
    }

    /// So many requests a second, due at even distances whether or not those before are answered. A request that finds
    /// every connection busy waits, and its time runs. Goes on beyond `seconds` for as long as the reply to what was sent
    /// beside it takes.
    pub fn open_loop(
        &mut self,
        request: &[u8],
        rate: f64,
        seconds: f64,
        mut beside: Option<&mut Beside<'_>>,
    ) -> Result<Measured> {
        let began = self.begin()?;
        let count = (rate * seconds).max(1.0) as u64;
        let due = |i: u64| began + Duration::from_secs_f64(i as f64 / rate);
        let (mut sent, mut at, mut pushed) = (0, 0, 0u32);
        let mut measured = Measured::default();
        let mut last = began;
        while measured.replies < sent.max(count) || self.own.due.is_some() {
            let n = self.connections.len();
            for connection in self.connections.iter_mut().filter(|c| c.due.is_some()) {
                if connection.poll()?.is_some() {
                    last = measured.answered(connection, &self.clock);
                }
            }
            let now = self.clock.elapsed();
            while (sent < count || self.own.due.is_some()) && due(sent) <= now {
                let Some(free) = (0..n).map(|i| (at + i) % n).find(|i| self.connections[*i].due.is_none()) else {
                    break;
                };
                self.connections[free].send(request, due(sent))?;
                (sent, at) = (sent + 1, free + 1);
            }
            if self.own.due.is_some() && self.own.poll()?.is_some() {
                self.own.due = None;
                measured.beside += 1;
            }
            if let Some(beside) = &mut beside
                && self.own.due.is_none()
                && sent < count
                && began + beside.every * pushed <= now
            {
                let part = &beside.parts[beside.next % beside.parts.len()];
                match beside.file {
                    Some(mut file) => {
                        file.write_all(part).map_err(|e| Error::unavailable(format!("append events: {e}")))?;
                        measured.beside += 1;
                    }
                    None => self.own.send(part, now)?,
                }
                beside.next += 1;
                pushed += 1;
            }
            check_alive(now.saturating_sub(last))?;
        }
        self.used = self.clock.elapsed();
        measured.seconds = (self.used - began).as_secs_f64();
        Ok(measured)
    }
}

fn check_alive(waited: Duration) -> Result<()> {
    match waited > REPLY_TIME_MAX {
        true => Err(Error::unavailable(format!("no reply within {REPLY_TIME_MAX:?}"))),
        false => Ok(()),
    }
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let opened = TcpStream::connect(address).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        let stream = opened.map_err(|e| Error::unavailable(format!("connect to {address}: {e}")))?;
        Ok(Self { stream, reply: Vec::with_capacity(4096), due: None })
    }

    fn send(&mut self, request: &[u8], due: Duration) -> Result<()> {
        self.reply.clear();
        self.due = Some(due);
        let mut rest = request;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(Error::unavailable(format!("send a request: {e}"))),
            }
        }
        Ok(())
    }

    /// The body of the reply, once it is there.
    fn poll(&mut self) -> Result<Option<&[u8]>> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Error::unavailable("the server closed a connection")),
            Ok(n) => self.reply.extend_from_slice(&bytes[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(e) => return Err(Error::unavailable(format!("read a reply: {e}"))),
        }
        let Some(body) = body_of(&self.reply)? else { return Ok(None) };
        Ok(Some(&self.reply[body..]))
    }
}

/// Where the body of a whole reply begins.
fn body_of(reply: &[u8]) -> Result<Option<usize>> {
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    const CHUNKED: &[u8] = b"\r\ntransfer-encoding: chunked";
    // Servers write it as they like.
    let is_length = |w: &[u8]| w[0] == b'\r' && w.eq_ignore_ascii_case(LENGTH);
    let Some(end) = reply.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = &reply[..end];
    let Some(at) = head.windows(LENGTH.len()).position(is_length) else {
        let is_chunked = |w: &[u8]| w.eq_ignore_ascii_case(CHUNKED);
        if !head.windows(CHUNKED.len()).any(is_chunked) {
            return Err(Error::internal("a reply without content-length"));
        }
        // Its chunks are left as they are: their end is what is waited for.
        return if reply.ends_with(b"\r\n0\r\n\r\n") { checked(reply, end + 4) } else { Ok(None) };
    };
    let digits = &head[at + LENGTH.len()..];
    let length = digits.iter().take_while(|b| b.is_ascii_digit());
    let length = length.fold(0usize, |n, b| n.saturating_mul(10).saturating_add(usize::from(b - b'0')));
    if reply.len() - (end + 4) < length {
        return Ok(None);
    }
    checked(reply, end + 4)
}

fn checked(reply: &[u8], body: usize) -> Result<Option<usize>> {
    match reply.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(Some(body)),
        false => Err(Error::internal(format!("the server replied {}", String::from_utf8_lossy(reply)))),
    }
}

impl Measured {
    /// Replies a second.
    pub fn rate(&self) -> f64 {
        self.replies as f64 / self.seconds
    }

    /// More of the same.
    pub fn add(&mut self, other: &Measured) {
        self.replies += other.replies;
        self.seconds += other.seconds;
        self.beside += other.beside;
        self.times.add(&other.times);
    }

    /// Counts a reply; when it came.
    fn answered(&mut self, connection: &mut Connection, clock: &SystemClock) -> Duration {
        let now = clock.elapsed();
        let due = connection.due.take().unwrap_or(now);
        self.replies += 1;
        self.times.count(now.saturating_sub(due));
        now
    }
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: vec![0; 64 * 32], total: 0 }
    }
}

impl Times {
    /// Counts one.
    pub fn count(&mut self, time: Duration) {
        self.counts[bucket(time)] += 1;
        self.total += 1;
    }

    /// The time within which this share of all stayed, microseconds; NaN of none.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut sum = 0;
        let bucket = self.counts.iter().position(|count| {
            sum += count;
            sum >= wanted
        });
        // The bucket's upper end.
        bucket.map_or(f64::NAN, |i| ((33 + i % 32) as f64) * ((1u64 << (i / 32)) as f64) / 32.0 / 1e3)
    }

    /// The share of those that took longer, as near as the buckets tell.
    pub fn share_beyond(&self, time: Duration) -> f64 {
        let first = bucket(time) + 1;
        self.counts[first..].iter().sum::<u64>() as f64 / self.total.max(1) as f64
    }

    fn add(&mut self, other: &Times) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.total += other.total;
    }
}

fn bucket(time: Duration) -> usize {
    let ns = (time.as_nanos() as u64).max(32);
    let power = ns.ilog2();
    (power * 32) as usize + (ns >> (power - 5) & 31) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_32nd() {
        let mut times = Times::default();
        assert!(times.quantile_us(0.5).is_nan());
        (1..=1000).for_each(|us| times.count(Duration::from_micros(us)));
        for (share, us) in [(0.001, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = times.quantile_us(share);
            assert!(found >= us && found <= us * (1.0 + 1.0 / 31.0), "{share}: {found}");
        }
        let beyond = times.share_beyond(Duration::from_micros(750));
        assert!((0.22..=0.25).contains(&beyond), "{beyond}");
    }

    #[test]
    fn a_reply_is_whole_when_its_body_is() {
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\nok";
        for cut in 0..reply.len() {
            assert_eq!(body_of(&reply[..cut]).unwrap(), None);
        }
        assert_eq!(body_of(reply).unwrap(), Some(reply.len() - 2));
        let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(body_of(&chunks[..chunks.len() - 1]).unwrap(), None);
        assert_eq!(body_of(chunks).unwrap(), Some(chunks.len() - 12));
        let refused = body_of(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n").unwrap_err();
        assert!(refused.message().contains("503"));
    }
}
