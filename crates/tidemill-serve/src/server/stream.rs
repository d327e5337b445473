//! The stream below a connection: cut when its other end does not read, or sends what asks for nothing.
//!
//! In: bytes both ways. Out: the same bytes, but for replies that hyper makes by itself, which get a body as all refusals
//! have one.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{connection::raw, frames::Frames, reply::Refusal, waiting::Waiting};

/// What stands for a reply that hyper made by itself, which has no body: ours always have one.
fn instead_of(bare: &[u8]) -> Option<Vec<u8>> {
    if !bare.ends_with(b"\r\n\r\n") {
        return None;
    }
    let text = std::str::from_utf8(bare).ok()?;
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    if !text.to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    let (status, message) = match status {
        "400" => (StatusCode::BAD_REQUEST, "the request is not HTTP/1.1"),
        "414" => (StatusCode::URI_TOO_LONG, "the request's path is too long"),
        "431" => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's headers are too many or too long"),
        _ => return None,
    };
    Some(raw(Refusal::new(status, "invalid", message)))
}

/// A stream that is cut when its other end does not read for too long.
pub(super) struct Guarded<S> {
    stream: S,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Bytes that go out in place of those handed over, and how many have gone.
    instead: Option<(Vec<u8>, usize)>,
    /// Counts what an HTTP/2 caller sends beside its requests.
    frames: Option<Frames>,
    /// Is told when bytes leave.
    waiting: Option<Arc<Waiting>>,
    /// Bytes that came before those of the stream.
    before: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    pub fn new(stream: S, write_timeout: Duration) -> Self {
        Self { stream, write_timeout, stalled: None, instead: None, frames: None, waiting: None, before: Bytes::new() }
    }

    /// The same, telling `waiting` what leaves.
    pub fn waiting(stream: S, write_timeout: Duration, waiting: Arc<Waiting>) -> Self {
        Self { waiting: Some(waiting), ..Self::new(stream, write_timeout) }
    }

    /// The same for HTTP/2: cut as well when its other end floods it with frames that ask for nothing.
    pub fn counting(stream: S, write_timeout: Duration, frames: Frames) -> Self {
        Self { frames: Some(frames), ..Self::new(stream, write_timeout) }
    }

    /// The same, giving these bytes before its own.
    pub fn behind(self, before: Bytes) -> Self {
        Self { before, ..self }
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let wrote = write(Pin::new(&mut self.stream), cx);
        if wrote.is_ready() {
            self.stalled = None;
            self.waiting.iter().for_each(|waiting| waiting.wrote());
            return wrote;
        }
        let deadline = || Box::pin(sleep(self.write_timeout));
        ready!(self.stalled.get_or_insert_with(deadline).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let some = self.before.len().min(buf.remaining());
            buf.put_slice(&self.before.split_to(some));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready()
            && let Some(frames) = &mut self.frames
            && !frames.take(&buf.filled()[before..], Instant::now())
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.instead = instead_of(buf).map(|bytes| (bytes, 0));
        }
        while let Some((bytes, gone)) = self.instead.take() {
            if gone == bytes.len() {
                return Poll::Ready(Ok(buf.len()));
            }
            let wrote = self.watched(cx, |stream, cx| stream.poll_write(cx, &bytes[gone..]));
            let more = if let Poll::Ready(Ok(n)) = wrote { n } else { 0 };
            self.instead = Some((bytes, gone + more));
            ready!(wrote)?;
        }
        self.watched(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A reply without a body comes in one piece.
        match bufs {
            [one] => self.poll_write(cx, one),
            _ => self.watched(cx, |stream, cx| stream.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
