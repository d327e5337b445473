//! `GET /v1/events`: the status, every quarter of a second, to whoever watches.
//!
//! The status is asked for and written down once per tick, however many watch, and not at all while nobody does. Each
//! watcher holds the latest text only: one that reads slowly misses some and holds up nobody.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    host::Host,
    reply::{self, Refusal},
    stopped,
};

const TICK: Duration = Duration::from_millis(250);
/// Streams at once; each holds a connection for as long as a page is open.
pub(super) const WATCHERS_MAX: usize = 64;

/// The latest status as an event, and who waits for it.
pub(super) struct Broadcast {
    latest: watch::Sender<Bytes>,
    watchers: Arc<AtomicUsize>,
}

impl Broadcast {
    pub fn new() -> Self {
        Self { latest: watch::Sender::new(Bytes::new()), watchers: Arc::default() }
    }

    /// Asks for the status and hands it on until the server stops.
    pub async fn run(&self, host: Arc<dyn Host>, mut stop: watch::Receiver<bool>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stopped(&mut stop) => return,
            }
            if self.latest.receiver_count() == 0 {
                continue;
            }
            if let Ok(Some(renewed)) = super::contained(|| host.renewed()) {
                renewed.await;
            }
            if let Ok(event) = super::contained(|| as_event(&*host)) {
                self.latest.send_replace(event);
            }
        }
    }

    /// A stream that begins with the status as it is now.
    pub fn watch(&self, host: &dyn Host, stop: watch::Receiver<bool>) -> Result<EventStream, Refusal> {
        let place = Place::take(&self.watchers).ok_or_else(|| {
            let message = format!("{WATCHERS_MAX} streams of events are open, which is the limit");
            Refusal::new(hyper::StatusCode::SERVICE_UNAVAILABLE, "exhausted", message)
        })?;
        // Subscribed before the status is asked for, so that no tick falls between.
        let mut latest = self.latest.subscribe();
        latest.mark_unchanged();
        let first = super::contained(|| as_event(host))?;
        let next = Box::pin(async move { (Some(first), latest, stop) });
        Ok(EventStream { next: Some(next), _place: place })
    }
}

type Next = (Option<Bytes>, watch::Receiver<Bytes>, watch::Receiver<bool>);

/// The body of a reply that goes on until the server stops or the watcher leaves.
pub(super) struct EventStream {
    next: Option<Pin<Box<dyn Future<Output = Next> + Send>>>,
    _place: Place,
}

impl EventStream {
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (bytes, latest, stop) = std::task::ready!(next.as_mut().poll(cx));
        self.next = bytes.is_some().then(|| Box::pin(wait(latest, stop)) as _);
        Poll::Ready(bytes)
    }
}

async fn wait(mut latest: watch::Receiver<Bytes>, mut stop: watch::Receiver<bool>) -> Next {
    let changed = tokio::select! {
        changed = latest.changed() => changed.is_ok(),
        _ = stopped(&mut stop) => false,
    };
    let bytes = changed.then(|| latest.borrow_and_update().clone());
    (bytes, latest, stop)
}

/// One of [`WATCHERS_MAX`], given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(watchers: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |n: usize| (n < WATCHERS_MAX).then_some(n + 1);
        watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(watchers.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn as_event(host: &dyn Host) -> Bytes {
    Bytes::from(format!("data: {}\n\n", reply::within(host.status(), host.home())))
}
