//! Replies: JSON, text, assets, streams; and refusals, each with its status, a code, a message and perhaps advice.

use std::{
    convert::Infallible,
    path::Path,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{self, HeaderMap, HeaderValue},
};
use serde_json::{Map, Value, json};
use tidemill_base::{Error, Kind};
use tokio::sync::mpsc;

use super::events::EventStream;

/// What nearly all replies are.
pub(super) const JSON: &str = "application/json";

/// What a handler answers with.
pub(super) type Reply = Response<ReplyBody>;

/// Bytes that are there, or a stream of them.
pub(super) enum ReplyBody {
    Whole(Bytes),
    Events(EventStream),
    Frames(mpsc::Receiver<Bytes>),
    /// Any of these, as axum hands it over.
    Boxed(axum::body::Body),
}

impl ReplyBody {
    /// Whether it is all there.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Events(_) | Self::Frames(_) => false,
            Self::Boxed(body) => body.size_hint().exact().is_some(),
        }
    }
}

/// What is told of files is where they lie in `home`, and not where that lies on this machine.
pub(super) fn within(mut told: Value, home: Option<&Path>) -> Value {
    if let Some(outside) = outside(home) {
        hide(&mut told, &outside);
    }
    told
}

fn outside(home: Option<&Path>) -> Option<String> {
    home.filter(|home| !home.as_os_str().is_empty()).map(|home| format!("{}/", home.display()))
}

fn hide(told: &mut Value, outside: &str) {
    match told {
        Value::String(text) if text.contains(outside) => *text = text.replace(outside, ""),
        Value::Array(values) => values.iter_mut().for_each(|value| hide(value, outside)),
        Value::Object(fields) => fields.values_mut().for_each(|value| hide(value, outside)),
        _ => {}
    }
}

/// A request that is not answered as asked.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// Methods the route takes, for 405.
    pub allow: Option<&'static str>,
    /// More about it, beside `error`.
    pub details: Option<Box<Map<String, Value>>>,
    /// What is left of the request is not read: the connection ends with the reply.
    pub close: bool,
    /// What to send to be let in, for 401.
    pub challenge: Option<&'static str>,
    /// How many seconds to wait before the next try, for 429 and 503.
    pub retry_after_s: u64,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            code,
            message,
            hint: None,
            allow: None,
            details: None,
            close: false,
            challenge: None,
            retry_after_s: 1,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with files named by where they lie in `home`.
    pub fn within(mut self, home: Option<&Path>) -> Self {
        if let Some(outside) = outside(home) {
            self.message = self.message.replace(&outside, "");
        }
        self
    }

    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub fn body(&self) -> Vec<u8> {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(hint) = &self.hint {
            error["hint"] = hint.as_str().into();
        }
        let mut body = Map::from_iter([("error".to_string(), error)]);
        body.extend(self.details.iter().flat_map(|details| (**details).clone()));
        let mut text = Value::Object(body).to_string().into_bytes();
        text.push(b'\n');
        text
    }

    pub fn into_reply(self) -> Reply {
        let body = self.body();
        self.with_body(body)
    }

    /// As the Open Inference Protocol has errors: one sentence.
    pub fn into_oip_reply(self) -> Reply {
        let sentence = match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        };
        let mut text = json!({"error": sentence}).to_string().into_bytes();
        text.push(b'\n');
        self.with_body(text)
    }

    fn with_body(self, body: Vec<u8>) -> Reply {
        let mut reply = bytes(self.status, JSON, body);
        let headers = reply.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        reply
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        let status = StatusCode::from_u16(e.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let hint = match e.kind() {
            Kind::Unavailable | Kind::Exhausted => Some("nothing was taken; try again".to_string()),
            _ => None,
        };
        Self { hint, ..Self::new(status, e.kind().word(), e.message()) }
    }
}

/// What a model says, as JSON: the answer to a POST, which no cache keeps, of a type that no browser guesses at. So it needs
/// none of the headers that keep others from it.
pub(super) fn scores(body: impl Into<Bytes>) -> Reply {
    static OF_SCORES: LazyLock<HeaderMap> = LazyLock::new(|| {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        headers
    });
    let mut reply = Response::new(ReplyBody::Whole(body.into()));
    *reply.headers_mut() = OF_SCORES.clone();
    reply
}

/// A reply of these bytes.
pub(super) fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    // Hashing names and growing a map cost more than a copy of the map that most replies have.
    static OF_JSON: LazyLock<HeaderMap> = LazyLock::new(|| usual_headers(JSON));
    let mut reply = Response::new(ReplyBody::Whole(body.into()));
    *reply.status_mut() = status;
    *reply.headers_mut() = if content_type == JSON { OF_JSON.clone() } else { usual_headers(content_type) };
    reply
}

fn usual_headers(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
}

/// A 200 of JSON, ending in a newline for the terminal it may be read on.
pub(super) fn json(value: &Value) -> Reply {
    let mut text = value.to_string().into_bytes();
    text.push(b'\n');
    bytes(StatusCode::OK, JSON, text)
}

/// A 200 whose body goes on.
pub(super) fn events(stream: EventStream) -> Reply {
    going_on(ReplyBody::Events(stream), "text/event-stream")
}

/// A 200 whose body is what a replica reads.
pub(super) fn frames(frames: mpsc::Receiver<Bytes>) -> Reply {
    going_on(ReplyBody::Frames(frames), crate::follow::CONTENT_TYPE)
}

fn going_on(body: ReplyBody, content_type: &'static str) -> Reply {
    let mut reply = Response::new(body);
    *reply.headers_mut() = usual_headers(content_type);
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Text that came from outside, made fit for a message: no control characters, not long.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", short.escape_default())
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Events(stream) => stream.poll_next(cx).map(|next| next.map(|b| Ok(Frame::data(b)))),
            Self::Frames(frames) => frames.poll_recv(cx).map(|next| next.map(|b| Ok(Frame::data(b)))),
            // None of what is in it has errors.
            Self::Boxed(body) => Pin::new(body).poll_frame(cx).map(|next| next.and_then(Result::ok).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Events(_) | Self::Frames(_) => false,
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) | Self::Frames(_) => SizeHint::default(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}
