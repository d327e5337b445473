//! A connection over HTTP/1.1: plain requests first ([`FastPath`]), then hyper for all that comes from the first other one on.
//!
//! In: a stream. Out: replies, for as long as requests come in time and the server is not stopped.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use hyper::{StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, sleep},
};

use super::{
    Shared,
    connection::{linger, raw},
    fast_path::FastPath,
    reply::Refusal,
    router, stopped,
    stream::Guarded,
    waiting::Waiting,
};

/// What hyper takes when it is not told.
const HEADERS_MAX_OF_HYPER: usize = 100;
/// How long a plain request's body may come behind its head; then hyper waits for it. Many clients send the two one by one.
const BODY_PATIENCE: Duration = Duration::from_millis(50);

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The head of a request did not come in time.
    TooLate,
    /// What came is no HTTP, or nothing comes any more.
    Badly,
}

pub(super) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>, waiting: Arc<Waiting>) {
    let limits = &shared.limits;
    waiting.begins();
    let stream = Guarded::waiting(stream, limits.write_timeout, waiting.clone());
    let mut stop = shared.stop.clone();
    let (stop, timer) = (std::pin::pin!(stopped(&mut stop)), std::pin::pin!(sleep(limits.header_timeout)));
    let mut end = End { shared: &shared, waiting: &waiting, stop, timer, told: None, stopping: false };
    let mut fast = FastPath::new(stream, &shared, &waiting);
    // Who is asked for a token is looked at by hyper's way alone.
    if shared.border.access.is_none() {
        let ended = poll_fn(|cx| {
            let went_off = end.poll(cx)?;
            let awaited_body = fast.awaits_body();
            match fast.poll(cx) {
                Poll::Ready(sent) => return Poll::Ready(sent.map_err(|_| Ended::Badly)),
                Poll::Pending if fast.awaits_body() && !awaited_body => end.look_again_in(BODY_PATIENCE, cx),
                Poll::Pending if fast.is_idle() && (end.stopping || awaited_body && went_off) => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => {}
            }
            Poll::Pending
        });
        if let Err(ended) = ended.await {
            let some_came = fast.has_begun();
            return cut(&mut fast.into_stream(), ended, some_came).await;
        }
    }
    let (answering, told) = (&shared, &waiting);
    let service = service_fn(move |request| async move {
        told.ends();
        let reply = router::answer(answering, request).await;
        // What goes on has no end to wait from; the connection is closed behind it.
        if reply.body().is_whole() {
            told.begins();
        }
        Ok::<_, Infallible>(reply)
    });
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(limits.header_bytes_max.max(8192))
        // Replies are mostly short: one copy costs less than two places to write from.
        .writev(false);
    // Said out loud, hyper clears room for all of them before each request.
    if limits.headers_max != HEADERS_MAX_OF_HYPER {
        builder.max_headers(limits.headers_max);
    }
    let mut connection = builder.serve_connection(TokioIo::new(fast.into_stream()), service);
    let mut closing = false;
    let ended = poll_fn(|cx| {
        end.poll(cx)?;
        if end.stopping && !closing {
            closing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        Pin::new(&mut connection).poll(cx).map_err(|_| Ended::Badly)
    });
    // Where the connection ended well, hyper has closed it.
    if let Err(ended) = ended.await {
        let parts = connection.into_parts();
        cut(&mut parts.io.into_inner(), ended, !parts.read_buf.is_empty()).await;
    }
}

/// `some_came`: of a request that did not come whole.
async fn cut(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), ended: Ended, some_came: bool) {
    // A connection that was only idle is closed without a word.
    if ended == Ended::TooLate && some_came {
        let refusal =
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request's headers did not arrive in time");
        let _ = stream.write_all(&raw(refusal)).await;
    }
    linger(stream).await;
}

/// What ends a connection from outside: the server's stop, and too long a wait for a request. Unlike `select!`, this looks for
/// the stop once for each waker and not once for each request.
struct End<'a, F> {
    shared: &'a Shared,
    waiting: &'a Waiting,
    stop: Pin<&'a mut F>,
    timer: Pin<&'a mut Sleep>,
    /// Who is told of both.
    told: Option<Waker>,
    stopping: bool,
}

impl<F: Future<Output = ()>> End<'_, F> {
    /// Whether the timer went off, and nobody was too late.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let will_be_told = self.told.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !self.stopping && (!will_be_told || self.shared.stop.has_changed().unwrap_or(true)) {
            self.told = Some(cx.waker().clone());
            self.stopping = self.stop.as_mut().poll(cx).is_ready();
        }
        let mut went_off = false;
        // Set anew for what is left when it goes off, and not for each request.
        while (!will_be_told || self.timer.is_elapsed()) && self.timer.as_mut().poll(cx).is_ready() {
            went_off = true;
            let left = self.waiting.left(self.shared.limits.header_timeout).ok_or(Ended::TooLate)?;
            self.timer.as_mut().reset(Instant::now() + left);
        }
        Ok(went_off)
    }

    fn look_again_in(&mut self, after: Duration, cx: &mut Context<'_>) {
        self.timer.as_mut().reset(Instant::now() + after);
        // Unpolled it would tell nobody. One that is over already tells at once.
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}
