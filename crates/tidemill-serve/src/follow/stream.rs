//! The trainer's end of a stream: frames to one follower, until it leaves or the server stops.
//!
//! In: what the follower has. Out: a hello, the whole model where it is needed, then whatever the feed lets go, and between
//! it a sign of life that says where the trainer stands, and what operators have decided, as soon as they have. Or one
//! version, as it lies on disk. A follower that reads slowly holds up nobody: what it has not read
//! stays in the feed, and where that is too much, its stream ends and it asks again.

use std::{fs::File, io::Read, sync::Arc, time::Duration};

use bytes::Bytes;
use tidemill_base::{Error, Result as Told};
use tidemill_stream::aggregate::ViewDelta;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    Ask, Mark, Start,
    feed::Feed,
    frame::{Frame, Views},
};
use crate::{
    live::{LiveModel, ServedVersion},
    registry::Registry,
    server::ServedModel,
};

/// Without anything to send, a sign of life comes so often.
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);
/// Bytes of a snapshot in one frame.
const PART_BYTES: usize = 1 << 20;
/// Frames on their way to the connection.
const AHEAD: usize = 16;
/// How long the served table may need to come to where deltas are kept from.
const CATCH_UP: Duration = Duration::from_secs(10);

/// The follower is gone, or is to go.
struct Ended;

/// The frames for one follower, as they come.
pub(crate) fn follow(
    model: Arc<ServedModel>,
    feed: Arc<Feed>,
    ask: Ask,
    stop: watch::Receiver<bool>,
) -> mpsc::Receiver<Bytes> {
    let (out, frames) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut stop = stop;
        tokio::select! {
            _ = send(&model, &feed, ask, &out) => {}
            _ = stop.wait_for(|&stop| stop) => {}
            _ = out.closed() => {}
        }
    });
    frames
}

/// The frames of one version: its manifest, its snapshot in parts, and where it stands.
pub(crate) fn version(registry: &Registry, version: u64) -> Told<mpsc::Receiver<Bytes>> {
    let mark = Mark { position: 0, mini_batch: registry.meta(version)?.mini_batch, version };
    let manifest = registry.manifest_text(version)?;
    let (path, bytes) = registry.snapshot_file(version)?;
    let missing = |e: std::io::Error| Error::corrupt(format!("{} cannot be read: {}", path.display(), e.kind()));
    let mut file = File::open(&path).map_err(missing)?;
    let (out, frames) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let put = |frame: Frame| out.blocking_send(frame.encode().into()).map_err(|_| Ended);
        put(Frame::Version(mark, manifest))?;
        let mut left = bytes;
        while left > 0 {
            let mut part = vec![0; left.min(PART_BYTES as u64) as usize];
            if let Err(e) = file.read_exact(&mut part) {
                return put(Frame::End(format!("version {version} cannot be read: {}", e.kind())));
            }
            left -= part.len() as u64;
            put(Frame::Part(part))?;
        }
        put(Frame::Whole(mark))
    });
    Ok(frames)
}

async fn send(model: &Arc<ServedModel>, feed: &Arc<Feed>, ask: Ask, out: &mpsc::Sender<Bytes>) -> Result<(), Ended> {
    let live = model.predictor().live();
    let mut decisions = Decisions::of(model, ask);
    let mut released = feed.watch();
    live.is_followed();
    let begin = feed.begin(&ask);
    put(out, begin.hello).await?;
    decisions.tell(out).await?;
    let mut next = begin.next;
    if let Some(rebase) = begin.rebase {
        put(out, rebase).await?;
    }
    if begin.start == Start::Snapshot {
        match whole(live, feed, out, &mut released).await? {
            Some(position) => next = feed.behind(position),
            None => return end(out, "the model cannot be read whole just now").await,
        }
    }
    loop {
        released.mark_unchanged();
        decisions.tell(out).await?;
        match feed.items(next) {
            Err(_) => return end(out, "fell behind what is kept").await,
            Ok(items) if items.is_empty() => {
                if let Some(mark) = feed.mark_at(next) {
                    put(out, Frame::Here(mark).encode().into()).await?;
                }
                // Woken by more that may leave, by a decision, or by the time.
                let woken = async {
                    tokio::select! {
                        _ = released.changed() => {}
                        _ = decisions.news.changed() => decisions.news.mark_changed(),
                    }
                };
                let _ = timeout(SIGN_OF_LIFE, woken).await;
            }
            Ok(items) => {
                next += items.len() as u64;
                for item in items {
                    put(out, item).await?;
                }
            }
        }
    }
}

/// What operators decide about a model, as one follower was told it.
struct Decisions<'a> {
    model: &'a ServedModel,
    news: watch::Receiver<u64>,
    is_wanted: bool,
    told: String,
}

impl<'a> Decisions<'a> {
    fn of(model: &'a ServedModel, ask: Ask) -> Self {
        let mut news = model.registry().decisions();
        news.mark_changed();
        Self { model, news, is_wanted: ask.takes_decisions, told: String::new() }
    }

    /// Tells what is decided now, where that is new to the follower.
    async fn tell(&mut self, out: &mpsc::Sender<Bytes>) -> Result<(), Ended> {
        if !self.news.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.news.mark_unchanged();
        let text = if self.is_wanted { self.model.decided().to_text() } else { String::new() };
        if text == self.told {
            return Ok(());
        }
        put(out, Frame::Decided(text.clone()).encode().into()).await?;
        self.told = text;
        Ok(())
    }
}

/// Sends the whole model; where it stands. `None`: requests hold the tables for too long.
async fn whole(
    live: &Arc<LiveModel>,
    feed: &Arc<Feed>,
    out: &mpsc::Sender<Bytes>,
    released: &mut watch::Receiver<u64>,
) -> Result<Option<u64>, Ended> {
    let Ok(_alone) = feed.exporting.acquire().await else { return Ok(None) };
    let Ok(served) = timeout(CATCH_UP, caught_up(live, feed)).await else { return Ok(None) };
    let exporting = feed.clone();
    let snapshot = tokio::task::spawn_blocking(move || {
        let mark = served.mark();
        // The table is let go before the snapshot is written out, so that the writer can go on with both.
        let snapshot = exporting.snapshot(mark.position, &served.weights);
        drop(served);
        (mark, Bytes::from(snapshot.encode()))
    });
    let Ok((mark, mut bytes)) = snapshot.await else { return Ok(None) };
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(PART_BYTES));
        put(out, Frame::Part(part.to_vec()).encode().into()).await?;
    }
    let exporting = feed.clone();
    let Ok(Some((views, newest))) = tokio::task::spawn_blocking(move || whole_views(&exporting)).await else {
        return Ok(None);
    };
    let count = views.len();
    for (i, view) in views.into_iter().enumerate() {
        for piece in view.split(PART_BYTES) {
            let mut deltas = vec![ViewDelta::default(); count];
            deltas[i] = piece;
            put(out, Frame::Views(mark, Views { is_whole: true, newest, deltas }).encode().into()).await?;
        }
    }
    // What was learned leaves when its journal is durable; the fence is behind all of it.
    let fence = feed.fence();
    while *released.borrow_and_update() <= fence {
        released.changed().await.map_err(|_| Ended)?;
    }
    put(out, Frame::Whole(mark).encode().into()).await?;
    // Nothing may change for a long time: what is whole now is kept as this version.
    if let Some(version) = feed.version_at(mark.position) {
        put(out, version).await?;
    }
    Ok(Some(mark.position))
}

/// The served table, once it has everything that is not kept as a delta.
async fn caught_up(live: &LiveModel, feed: &Feed) -> Arc<ServedVersion> {
    loop {
        let served = live.newest();
        if served.sequence >= feed.since() {
            return served;
        }
        drop(served);
        live.refresh();
        sleep(Duration::from_millis(2)).await;
    }
}

/// Everything in the feature views; waits a moment for requests that hold them.
fn whole_views(feed: &Feed) -> Option<(Vec<ViewDelta>, i64)> {
    const PAUSE: Duration = Duration::from_millis(5);
    let tries = CATCH_UP.as_millis() / PAUSE.as_millis();
    (0..tries).find_map(|_| {
        let whole = feed.whole_views();
        if whole.is_none() {
            std::thread::park_timeout(PAUSE);
        }
        whole
    })
}

async fn put(out: &mpsc::Sender<Bytes>, frame: Bytes) -> Result<(), Ended> {
    out.send(frame).await.map_err(|_| Ended)
}

async fn end(out: &mpsc::Sender<Bytes>, why: &str) -> Result<(), Ended> {
    put(out, Frame::End(why.into()).encode().into()).await?;
    Err(Ended)
}
