//! The way of plain requests: answered from the bytes that came, before hyper makes anything of them.
//!
//! In: the stream of a connection over HTTP/1.1. Out: replies, until something comes that is not plain: the stream then goes to
//! hyper for good, what was read in front, as if nothing had looked at it. Plain is a POST to a model, whole within some KiB,
//! of whose headers each is known and says nothing that would change the answer. A request that is to be refused is not plain
//! either, so refusals are made in one place, and this way can do nothing that the other does not do.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use httparse::Status;
use hyper::{HeaderMap, StatusCode};
use tidemill_model::weights::here_only;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Shared, contained, guard,
    oip::Oip,
    reply::{self, Reply, ReplyBody},
    route::Route,
    router::{find, score},
    stream::Guarded,
    waiting::Waiting,
};

/// Headers of a plain request.
const HEADERS_MAX: usize = 16;
/// Of its line and headers; also what is read at once, as hyper does.
const HEAD_BYTES_MAX: usize = 8 << 10;
const BODY_BYTES_MAX: usize = 16 << 10;
/// Room that is kept for later replies.
const REPLY_BYTES_KEPT: usize = 16 << 10;

/// A connection of whose requests all have been plain.
pub(super) struct FastPath<'a, S> {
    shared: &'a Arc<Shared>,
    waiting: &'a Waiting,
    stream: Guarded<S>,
    /// What came and is not answered.
    buffer: Vec<u8>,
    /// Replies, and how much of them has left.
    out: Vec<u8>,
    sent: usize,
    /// Whether a head is there whose body is not.
    awaits_body: bool,
    date: Date,
}

/// What has come so far.
#[derive(Debug, PartialEq, Eq)]
enum Came<'a> {
    Plain {
        path: &'a str,
        head_bytes: usize,
        body_bytes: usize,
    },
    /// A beginning, which may become a plain request.
    Some,
    Other,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> FastPath<'a, S> {
    pub fn new(stream: Guarded<S>, shared: &'a Arc<Shared>, waiting: &'a Waiting) -> Self {
        let (buffer, out) = (Vec::with_capacity(HEAD_BYTES_MAX), Vec::new());
        Self { shared, waiting, stream, buffer, out, sent: 0, awaits_body: false, date: Date::default() }
    }

    /// Whether all replies have left.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether a head is there whose body has not come.
    pub fn awaits_body(&self) -> bool {
        self.awaits_body
    }

    /// Whether something of a request is there.
    pub fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The stream, which gives once more what was read and not answered.
    pub fn into_stream(self) -> Guarded<S> {
        self.stream.behind(self.buffer.into())
    }

    /// Answers plain requests, until there is something else. The error says that a reply could not be sent to its end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.answer_next() {
                // Who sends several at once reads several at once.
                Step::Answered if self.out.len() < REPLY_BYTES_KEPT => continue,
                Step::Answered => ready!(self.poll_send(cx))?,
                Step::Other => {
                    ready!(self.poll_send(cx))?;
                    return Poll::Ready(Ok(()));
                }
                Step::More(room) => {
                    ready!(self.poll_send(cx))?;
                    // Hyper is told of an end as of all else that is not plain.
                    if !matches!(ready!(self.poll_read(cx, room)), Ok(1..)) {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.sent < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.sent = 0;
        self.out.clear();
        self.out.shrink_to(REPLY_BYTES_KEPT);
        Poll::Ready(Ok(()))
    }

    /// Reads what is there; how many bytes.
    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        let before = self.buffer.len();
        self.buffer.reserve(room);
        let mut read = ReadBuf::uninit(self.buffer.spare_capacity_mut());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let came = read.filled().len();
        // SAFETY: these bytes of the spare room were just filled.
        unsafe { self.buffer.set_len(before + came) };
        Poll::Ready(Ok(came))
    }

    fn answer_next(&mut self) -> Step {
        self.awaits_body = false;
        if self.buffer.is_empty() {
            return Step::More(HEAD_BYTES_MAX);
        }
        let shared = self.shared;
        match plain(&self.buffer, shared.loopback, shared.limits.body_bytes_max.min(BODY_BYTES_MAX)) {
            Came::Plain { path, head_bytes, body_bytes } => {
                let whole = head_bytes + body_bytes;
                self.waiting.ends();
                let Some(body) = self.buffer.get(head_bytes..whole) else {
                    self.awaits_body = true;
                    return Step::More(whole - self.buffer.len());
                };
                let Some(reply) = answer(shared, path, body) else { return Step::Other };
                self.waiting.begins();
                let ReplyBody::Whole(body) = reply.body() else { return Step::Other };
                write(reply.headers(), body, self.date.now(shared), &mut self.out);
                self.buffer.drain(..whole);
                Step::Answered
            }
            Came::Some if self.buffer.len() < HEAD_BYTES_MAX => Step::More(HEAD_BYTES_MAX - self.buffer.len()),
            Came::Some | Came::Other => Step::Other,
        }
    }
}

enum Step {
    Answered,
    /// Something must come first, for which this is room.
    More(usize),
    /// What is there is not for this way.
    Other,
}

/// The next request, as far as it has come.
fn plain(bytes: &[u8], loopback: bool, body_bytes_max: usize) -> Came<'_> {
    let mut headers = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let head_bytes = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(head_bytes)) => head_bytes,
        Ok(Status::Partial) => return Came::Some,
        Err(_) => return Came::Other,
    };
    let path = request.path.filter(|path| path.starts_with('/') && !path.contains(['?', '%', '#']));
    let (Some("POST"), Some(1), Some(path)) = (request.method, request.version, path) else { return Came::Other };
    let (mut host, mut length, mut content_type) = (None, None, None);
    for header in &*request.headers {
        let once = match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => &mut host,
            14 if header.name.eq_ignore_ascii_case("content-length") => &mut length,
            12 if header.name.eq_ignore_ascii_case("content-type") => &mut content_type,
            10 if header.name.eq_ignore_ascii_case("connection")
                && header.value.eq_ignore_ascii_case(b"keep-alive") =>
            {
                continue;
            }
            _ if SAYS_NOTHING.iter().any(|name| header.name.eq_ignore_ascii_case(name)) => continue,
            _ => return Came::Other,
        };
        if once.replace(header.value).is_some() {
            return Came::Other;
        }
    }
    let is_json = content_type.is_none_or(|told| told == reply::JSON.as_bytes());
    let is_host = host.is_some_and(|host| !host.is_empty() && (!loopback || guard::names_this_machine(host)));
    match length.and_then(number) {
        Some(body_bytes) if is_json && is_host && body_bytes <= body_bytes_max => {
            Came::Plain { path, head_bytes, body_bytes }
        }
        _ => Came::Other,
    }
}

/// What clients send with every request, and no answer here depends on.
const SAYS_NOTHING: [&str; 4] = ["accept", "user-agent", "accept-encoding", "accept-language"];

/// A few digits.
fn number(text: &[u8]) -> Option<usize> {
    let digits = !text.is_empty() && text.len() < 9 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0')))
}

/// The reply to a plain request; `None` where it is not for this way.
fn answer(shared: &Arc<Shared>, path: &str, body: &[u8]) -> Option<Reply> {
    let _place = shared.load.enter(shared.limits.requests_max)?;
    let route = Route::parse(path).ok()??;
    if !matches!(route, Route::Predict(_) | Route::Rank(_) | Route::Explain(_) | Route::Oip(Oip::Infer(_))) {
        return None;
    }
    let name = route.model()?;
    let model = contained(|| match shared.host.load(name.name, name.which.version()) {
        Some(_) => None,
        None => find(shared, name.name).ok(),
    });
    let model = model.ok()??;
    let reply = here_only(|| score(shared, &model, &route, &HeaderMap::new(), body))?.ok()?;
    if reply.status() != StatusCode::OK {
        return None;
    }
    shared.metrics.request(route.label(), StatusCode::OK.as_u16());
    shared.metrics.plain();
    Some(reply)
}

/// As hyper writes it.
fn write(headers: &HeaderMap, body: &Bytes, date: &str, out: &mut Vec<u8>) {
    let mut parts = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    parts(&[b"HTTP/1.1 200 OK\r\n"]);
    for (name, value) in headers {
        parts(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    let mut digits = [0; 20];
    parts(&[b"content-length: ", decimal(body.len(), &mut digits), b"\r\ndate: ", date.as_bytes(), b"\r\n\r\n", body]);
}

fn decimal(mut number: usize, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

/// The day and time of replies (RFC 9110, 6.6.1).
#[derive(Default)]
struct Date {
    text: String,
    /// When it was right.
    clock_ms: u64,
}

impl Date {
    /// Made anew when the clock that all connections share has moved on.
    fn now(&mut self, shared: &Shared) -> &str {
        let clock_ms = shared.load.clock_ms();
        if self.text.is_empty() || self.clock_ms != clock_ms {
            let since_1970 = Duration::from_millis(shared.host.wall_ms().max(0) as u64);
            self.text = httpdate::fmt_http_date(UNIX_EPOCH + since_1970);
            self.clock_ms = clock_ms;
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST /v2/models/ctr/infer HTTP/1.1\r\nHost: 127.0.0.1:8470\r\nContent-Length: 2\r\n";

    fn came(text: &str) -> Came<'_> {
        plain(text.as_bytes(), true, 1000)
    }

    #[test]
    fn what_says_nothing_else_is_plain() {
        for headers in [
            "",
            "Content-Type: application/json\r\n",
            "Accept: */*\r\nUser-Agent: x\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n",
        ] {
            let request = format!("{HEAD}{headers}\r\n{{}}");
            let plain = Came::Plain { path: "/v2/models/ctr/infer", head_bytes: request.len() - 2, body_bytes: 2 };
            assert_eq!(came(&request), plain);
            // Its beginnings may become it.
            for end in 0..request.len() - 2 {
                assert_eq!(came(&request[..end]), Came::Some, "{:?}", &request[..end]);
            }
        }
    }

    #[test]
    fn what_says_something_else_is_not_plain() {
        for header in [
            "Content-Type: text/plain",
            "Content-Type: application/json; charset=utf-8",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "Connection: keep-alive, upgrade",
            "Expect: 100-continue",
            "Authorization: Bearer x",
            "Origin: http://evil.example",
            "Sec-Fetch-Site: cross-site",
            "X-Routing-Key: a",
            "Inference-Header-Content-Length: 2",
            "Request-Timeout-Ms: 5",
            "Idempotency-Key: a",
            "Upgrade: h2c",
            "Content-Length: 2",
            "Host: 127.0.0.1",
            "Unknown: 1",
            " folded",
        ] {
            assert_eq!(came(&format!("{HEAD}{header}\r\n\r\n{{}}")), Came::Other, "{header}");
        }
        for (from, to) in [
            ("POST", "GET"),
            ("POST", "post"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("/infer", "/infer?token=a"),
            ("ctr", "c%74r"),
            ("/v2", "http://127.0.0.1/v2"),
            ("127.0.0.1:8470", "evil.example"),
            ("127.0.0.1:8470", ""),
            ("Host: 127.0.0.1:8470\r\n", ""),
            ("Content-Length: 2\r\n", ""),
            ("Length: 2", "Length: +2"),
            ("Length: 2", "Length: 2, 2"),
            ("Length: 2", "Length: 1001"),
            ("Length: 2", "Length: 18446744073709551618"),
            ("Host: ", "Host : "),
        ] {
            assert_eq!(came(&format!("{}\r\n{{}}", HEAD.replace(from, to))), Came::Other, "{to}");
        }
        let many = "Accept: */*\r\n".repeat(HEADERS_MAX);
        assert_eq!(came(&format!("{HEAD}{many}\r\n{{}}")), Came::Other);
        assert!(matches!(
            plain(format!("{HEAD}\r\n").replace("127.0.0.1", "serve.example").as_bytes(), false, 2),
            Came::Plain { .. }
        ));
    }

    #[test]
    fn lengths_are_written_as_they_are_said() {
        for n in [0, 7, 10, 12_345, usize::MAX] {
            assert_eq!(decimal(n, &mut [0; 20]), n.to_string().as_bytes());
        }
    }
}
