//! The ceiling of serving: hyper and nothing else, answering one kind of inference request.
//!
//! In: a JSON body with `"data":[` and 39 numbers behind it. Out: what tidemill replies to the same, from 39 weights that
//! never change. No route, no limit, no version: what is left is the price of HTTP and of the numbers themselves.

use std::{
    convert::Infallible,
    io::{Read, Write},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tidemill_base::{Error, Result};
use tidemill_model::math::sigmoid;

use super::serve::FLOATS;

/// Serves until standard input ends; the address is the first line of standard error.
pub fn serve() -> Result<()> {
    let unavailable = |e: std::io::Error| Error::unavailable(format!("the bare server: {e}"));
    std::thread::spawn(|| {
        // Whoever started this is gone when its end of the pipe is.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(unavailable)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        let _ = writeln!(std::io::stderr(), "bare hyper at http://{address}/");
        loop {
            let (stream, _) = listener.accept().await.map_err(unavailable)?;
            let _ = stream.set_nodelay(true);
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let score = score(&body);
    let mut out = Vec::with_capacity(256);
    let _ = write!(
        out,
        "{{\"model_name\":\"bench\",\"model_version\":\"1\",\"parameters\":{{\"mini_batch\":1}},\"outputs\":[{{\"name\":\
         \"prediction\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[{}]}}]}}",
        sigmoid(score)
    );
    let mut reply = Response::new(Full::new(Bytes::from(out)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(reply)
}

/// The weighted sum of the numbers behind `"data":[`.
fn score(body: &[u8]) -> f32 {
    const DATA: &[u8] = b"\"data\":[";
    let at = body.windows(DATA.len()).position(|w| w == DATA).map_or(body.len(), |at| at + DATA.len());
    let numbers = body[at..].split(|b| *b == b',' || *b == b']');
    numbers.take(FLOATS).enumerate().map(|(i, number)| decimal(number) * (i as f32 - 19.0) / 64.0).sum()
}

/// `0.53214`: digits with a point among them.
fn decimal(text: &[u8]) -> f32 {
    let (mut mantissa, mut power) = (0u32, 1f32);
    let mut behind = false;
    for b in text {
        if *b == b'.' {
            behind = true;
            continue;
        }
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u32::from(b.wrapping_sub(b'0')));
        power *= if behind { 10.0 } else { 1.0 };
    }
    mantissa as f32 / power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_weighted_by_their_place() {
        assert_eq!(decimal(b"0.53214"), 0.53214);
        let body = format!("{{\"data\":[1.00000,0.50000{}]}}", ",0.00000".repeat(FLOATS - 2));
        assert_eq!(score(body.as_bytes()), (-19.0 - 0.5 * 18.0) / 64.0);
        assert_eq!(score(b"{}"), 0.0);
    }
}
