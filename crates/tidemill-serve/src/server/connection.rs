//! Connections: accepted up to a bound, served one request after another, and closed in order. Beyond the bound, one without a
//! request makes room for the next.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use hyper::{Request, StatusCode, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use super::{
    Shared,
    frames::Frames,
    grpc, http1,
    metrics::Reason,
    places::Places,
    reply::Refusal,
    router, stopped,
    stream::Guarded,
    tls::Tls,
    waiting::{Streams, Waiting},
};

/// Callers told at once that there are too many; more than these are hung up on.
const TURNED_AWAY_MAX: usize = 64;
/// How long a connection that ended badly may go on sending before it is cut.
const LINGER: Duration = Duration::from_secs(1);
/// Open files that are not for connections.
const FILES_KEPT: usize = 32;

/// Accepts connections until the server stops, then waits for those that are open.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut stop = shared.stop.clone();
    let mut connections = JoinSet::new();
    let mut turned_away = JoinSet::new();
    // Whoever learns and saves beside this opens files, and must find some however many call.
    let files = files_max().map_or(usize::MAX, |max| max.saturating_sub(FILES_KEPT).max(8));
    let connections_max = shared.limits.connections_max.min(files);
    let turned_away_max = TURNED_AWAY_MAX.min(files);
    let mut places = Places::default();
    {
        let broadcast = shared.clone();
        let stop = shared.stop.clone();
        connections.spawn(async move { broadcast.events.run(broadcast.host.clone(), stop).await });
    }
    loop {
        tokio::select! {
            _ = stopped(&mut stop) => break,
            Some(ended) = connections.join_next_with_id() => {
                places.leave(ended.map_or_else(|e| e.id(), |(task, ())| task));
            }
            Some(_) = turned_away.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, caller)) if places.len() < connections_max || made_room(&mut places, &shared) => {
                    let waiting = Arc::new(Waiting::new(shared.load.clone()));
                    let task = connections.spawn(waiting.clone().during(serve(stream, shared.clone(), waiting.clone())));
                    places.take(caller.ip(), waiting, task);
                }
                Ok((stream, _)) => {
                    shared.metrics.turned_away();
                    if turned_away.len() < turned_away_max {
                        turned_away.spawn(turn_away(stream));
                    }
                }
                // Out of file descriptors, or the caller is gone again. Others may be served meanwhile.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether a connection without a request was closed for one that has come.
fn made_room(places: &mut Places, shared: &Shared) -> bool {
    let made = places.make_room();
    if made {
        shared.metrics.made_room();
    }
    made
}

/// Files that this process may have open, where the system tells.
fn files_max() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, waiting: Arc<Waiting>) {
    // Replies are written whole: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let _open = shared.metrics.connection();
    if let Some(tls) = &shared.border.tls {
        // In boxes: what a connection without TLS holds stays small.
        let Some(stream) = Box::pin(encrypted(stream, tls, &shared)).await else { return };
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Box::pin(serve_http2(stream, shared, waiting)).await,
            _ => Box::pin(http1::serve(stream, shared, waiting)).await,
        }
        return;
    }
    match begins_http2(&stream, &shared).await {
        Some(true) => serve_http2(stream, shared, waiting).await,
        Some(false) => http1::serve(stream, shared, waiting).await,
        None => {}
    }
}

/// The stream once both ends have agreed on how to encrypt it; `None` when they did not.
async fn encrypted(mut stream: TcpStream, tls: &Tls, shared: &Shared) -> Option<TlsStream<TcpStream>> {
    let mut stop = shared.stop.clone();
    let handshake = timeout(shared.limits.header_timeout, async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_BEGINS {
            let _ = stream.write_all(&raw(plain_text())).await;
            linger(&mut stream).await;
            return Err(io::ErrorKind::InvalidData.into());
        }
        tls.acceptor().accept(stream).await
    });
    let agreed = tokio::select! {
        agreed = handshake => agreed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        _ = stopped(&mut stop) => return None,
    };
    if let Err(why) = &agreed {
        shared.metrics.refused(Reason::Tls);
        tls.refused(why);
    }
    agreed.ok()
}

/// The first byte of a connection that wants TLS.
const TLS_BEGINS: u8 = 0x16;

fn plain_text() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid", "this port speaks TLS; use https://")
}

/// How a connection of HTTP/2 begins when nobody negotiated.
const HTTP2_BEGINS: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Whether the first bytes are those of HTTP/2, without taking them; `None` when none came in time.
async fn begins_http2(stream: &TcpStream, shared: &Shared) -> Option<bool> {
    let mut stop = shared.stop.clone();
    let looked = async {
        let mut first = [0; HTTP2_BEGINS.len()];
        loop {
            match stream.peek(&mut first).await {
                Ok(n) if n == first.len() && first == HTTP2_BEGINS => return true,
                // What comes byte by byte is looked at again a little later; peeking does not wait for more.
                Ok(n) if n > 0 && n < first.len() && HTTP2_BEGINS.starts_with(&first[..n]) => {
                    sleep(Duration::from_millis(5)).await;
                }
                _ => return false,
            }
        }
    };
    tokio::select! {
        looked = timeout(shared.limits.header_timeout, looked) => looked.ok(),
        _ = stopped(&mut stop) => None,
    }
}

/// HTTP/2 is what gRPC speaks; everything else is answered on it as well.
async fn serve_http2(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>, waiting: Arc<Waiting>) {
    let streams = Arc::new(Streams::of(waiting));
    let limits = &shared.limits;
    let flooded = shared.clone();
    let frames = Frames::new(Instant::now(), move || flooded.metrics.refused(Reason::Flood));
    let io = TokioIo::new(Guarded::counting(stream, limits.write_timeout, frames));
    let answering = shared.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, streams) = (answering.clone(), streams.clone());
        async move {
            let answering = streams.begins();
            if grpc::is_grpc(&request) {
                return Ok::<_, Infallible>(grpc::answer(&shared, request).await);
            }
            let reply = router::answer(&shared, request).await;
            if !reply.body().is_whole() {
                answering.goes_on();
            }
            Ok(reply.map(tonic::body::Body::new))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max.max(8192) as u32)
        // A connection whose other end is gone holds its place no longer than an idle one.
        .keep_alive_interval(limits.header_timeout)
        .keep_alive_timeout(limits.header_timeout)
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let mut stop = shared.stop.clone();
    tokio::select! {
        _ = &mut connection => {}
        _ = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Says 503 without reading the request.
async fn turn_away(mut stream: TcpStream) {
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "exhausted", "too many connections; try again");
    let _ = timeout(LINGER, stream.write_all(&raw(refusal))).await;
    linger(&mut stream).await;
}

/// A reply for where hyper has no say.
pub(super) fn raw(refusal: Refusal) -> Vec<u8> {
    let body = refusal.body();
    let mut out = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        refusal.status,
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(&body);
    out
}

/// Closing while bytes of the caller lie unread would take the reply away from them as well: those are read first.
pub(super) async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let _ = timeout(LINGER, async {
        stream.shutdown().await?;
        let mut sink = [0; 8192];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}
