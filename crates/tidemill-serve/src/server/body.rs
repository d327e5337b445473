//! Request bodies: read up to a bound, in a bounded time; what is beyond is never held.

use std::{
    fmt::Display,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header,
};

use super::{Limits, Shared, headers, load::Held, metrics::Reason, reply::Refusal, waiting::AwaitedBody};

/// How much of a body that is too long is read and thrown away, and for how long, so that a caller who sends everything
/// before it listens gets to see the refusal.
const DISCARD_BYTES_MAX: usize = 256 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// The whole body, and the place it has for as long as it is needed.
pub(super) async fn read<B>(headers: &HeaderMap, mut body: B, shared: &Shared) -> Result<(Bytes, Held), Refusal>
where
    B: Body<Data = Bytes, Error: Display + Send> + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    if let Some(encoding) = headers::find(headers, &header::CONTENT_ENCODING).filter(|v| v.as_bytes() != b"identity") {
        let encoding = super::reply::shown(&String::from_utf8_lossy(encoding.as_bytes()));
        let refusal = Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("Content-Encoding '{encoding}' is not understood; send the body as it is"),
        );
        return Err(discard(headers, body, refusal));
    }
    if body.size_hint().lower() > limits.body_bytes_max as u64 {
        return Err(discard(headers, body, too_large(limits)));
    }
    let mut held = shared.load.hold();
    let collected = {
        let mut collecting = pin!(collect(&mut body, limits, &mut held));
        // Most bodies are there already, and need no clock.
        match poll_fn(|cx| Poll::Ready(collecting.as_mut().poll(cx))).await {
            Poll::Ready(collected) => Ok(collected),
            Poll::Pending => {
                let _awaited = AwaitedBody::begins();
                tokio::time::timeout(limits.body_timeout, collecting).await
            }
        }
    };
    match collected {
        Ok(Ok(Collected::Whole(bytes))) => Ok((bytes, held)),
        Ok(Ok(Collected::TooLong)) => Err(discard(headers, body, too_large(limits))),
        Ok(Ok(Collected::TooMuch)) => {
            shared.metrics.refused(Reason::Bodies);
            let message = format!("{} bytes of other requests wait here already", limits.bodies_bytes_max);
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "exhausted", message);
            Err(discard(headers, body, refusal.hint("nothing was taken; try again")))
        }
        Ok(Err(e)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid", format!("request body: {e}")).closing()),
        Err(_) => {
            let message = format!("the request body did not arrive within {:?}", limits.body_timeout);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).closing())
        }
    }
}

enum Collected {
    Whole(Bytes),
    /// Longer than one body may be.
    TooLong,
    /// More than all bodies may hold together.
    TooMuch,
}

async fn collect<B>(body: &mut B, limits: &Limits, held: &mut Held) -> Result<Collected, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + all.len() + data.len() > limits.body_bytes_max {
            return Ok(Collected::TooLong);
        }
        // Most bodies come in one piece and are not copied.
        if all.is_empty() && first.is_empty() {
            first = data;
            // What is not whole yet takes room for as long as its sender likes.
            if !body.is_end_stream() && !held.add(first.len(), limits.bodies_bytes_max) {
                return Ok(Collected::TooMuch);
            }
            continue;
        }
        if !held.add(data.len(), limits.bodies_bytes_max) {
            return Ok(Collected::TooMuch);
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(Collected::Whole(if all.is_empty() { first } else { all.freeze() }))
}

/// A body that is read elsewhere, counted while it is held.
pub(super) struct Counted {
    body: Incoming,
    held: Held,
    shared: Arc<Shared>,
}

impl Counted {
    pub fn new(body: Incoming, shared: Arc<Shared>) -> Self {
        Self { body, held: shared.load.hold(), shared }
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        let max = self.shared.limits.bodies_bytes_max;
        if bytes > 0 && !self.held.add(bytes, max) {
            self.shared.metrics.refused(Reason::Bodies);
            let text = format!("{max} bytes of other requests wait here already; nothing was taken; try again");
            return Poll::Ready(Some(Err(tonic::Status::resource_exhausted(text).into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn too_large(limits: &Limits) -> Refusal {
    let message = format!("request body is longer than {} bytes", limits.body_bytes_max);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).hint("send it in several requests")
}

/// The refusal, with the rest of the body thrown away beside it.
pub(super) fn discard<B>(headers: &HeaderMap, mut body: B, refusal: Refusal) -> Refusal
where
    B: Body<Data = Bytes, Error: Send> + Unpin + Send + 'static,
{
    // A caller that waits for `100 Continue` has sent nothing, and is told not to.
    if !body.is_end_stream() && !headers.contains_key(header::EXPECT) {
        tokio::spawn(tokio::time::timeout(DISCARD_TIME_MAX, async move {
            let mut discarded = 0;
            while let Some(Ok(frame)) = body.frame().await {
                discarded += frame.data_ref().map_or(0, Bytes::len);
                if discarded > DISCARD_BYTES_MAX {
                    break;
                }
            }
        }));
    }
    refusal.closing()
}
