//! Request bodies: read up to a bound, in a bounded time; what is beyond is never held.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, StatusCode,
    body::{Body, Incoming},
    header,
};

use super::{Limits, reply::Refusal};

/// How much of a body that is too long is read and thrown away, and for how long, so that a caller who sends everything
/// before it listens gets to see the refusal.
const DISCARD_BYTES_MAX: usize = 256 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// The whole body.
pub(super) async fn read(headers: &HeaderMap, mut body: Incoming, limits: &Limits) -> Result<Bytes, Refusal> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|v| v.as_bytes() != b"identity") {
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
    let collected = {
        let mut collecting = pin!(collect(&mut body, limits.body_bytes_max));
        // Most bodies are there already, and need no clock.
        match poll_fn(|cx| Poll::Ready(collecting.as_mut().poll(cx))).await {
            Poll::Ready(collected) => Ok(collected),
            Poll::Pending => tokio::time::timeout(limits.body_timeout, collecting).await,
        }
    };
    match collected {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(discard(headers, body, too_large(limits))),
        Ok(Err(e)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid", format!("request body: {e}")).closing()),
        Err(_) => {
            let message = format!("the request body did not arrive within {:?}", limits.body_timeout);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).closing())
        }
    }
}

/// `None`: longer than `bytes_max`.
async fn collect(body: &mut Incoming, bytes_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + all.len() + data.len() > bytes_max {
            return Ok(None);
        }
        // Most bodies come in one piece and are not copied.
        if all.is_empty() && first.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}

fn too_large(limits: &Limits) -> Refusal {
    let message = format!("request body is longer than {} bytes", limits.body_bytes_max);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).hint("send it in several requests")
}

/// The refusal, with the rest of the body thrown away beside it.
pub(super) fn discard(headers: &HeaderMap, mut body: Incoming, refusal: Refusal) -> Refusal {
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
