//! How long a connection waits for the head of a request: idle, or sent byte by byte.
//!
//! In: when a request is there, when it is answered, when bytes of a reply leave. Out: how long the caller still has. It
//! reads the clock that all connections share: a timer of its own for each request would cost more than the route, the
//! version and the metrics of that request together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::load::{Load, TICK};

/// In place of a time: a request is being answered.
const ANSWERING: u64 = u64::MAX;

tokio::task_local! {
    /// Of the connection that this task serves, where it serves one.
    static OF_CONNECTION: Arc<Waiting>;
}

/// Since when a connection waits.
pub(super) struct Waiting {
    since_ms: AtomicU64,
    /// Since when it waits for the rest of a body.
    body_ms: AtomicU64,
    load: Arc<Load>,
}

/// A body is waited for, until this goes.
pub(super) struct AwaitedBody(Option<Arc<Waiting>>);

impl AwaitedBody {
    /// Of the connection that this task serves; of others nobody knows.
    pub fn begins() -> Self {
        let waiting = OF_CONNECTION.try_with(Arc::clone).ok();
        waiting.iter().for_each(|waiting| waiting.body_ms.store(waiting.load.clock_ms(), Relaxed));
        Self(waiting)
    }
}

impl Drop for AwaitedBody {
    fn drop(&mut self) {
        self.0.iter().for_each(|waiting| waiting.body_ms.store(ANSWERING, Relaxed));
    }
}

impl Waiting {
    /// It waits from now on.
    pub fn new(load: Arc<Load>) -> Self {
        Self { since_ms: AtomicU64::new(load.clock_ms()), body_ms: AtomicU64::new(ANSWERING), load }
    }

    /// Runs what serves the connection.
    pub fn during<F: Future>(self: Arc<Self>, serve: F) -> impl Future<Output = F::Output> {
        OF_CONNECTION.scope(self, serve)
    }

    /// A reply is ready: the next request may come.
    pub fn begins(&self) {
        self.since_ms.store(self.load.clock_ms(), Relaxed);
    }

    /// A request is there.
    pub fn ends(&self) {
        self.since_ms.store(ANSWERING, Relaxed);
    }

    /// Bytes of a reply have left: who still reads it need not send the next request yet.
    pub fn wrote(&self) {
        if self.since_ms.load(Relaxed) != ANSWERING {
            self.begins();
        }
    }

    /// For how long nothing has been asked, as far as the clock tells; `None` while a request is answered.
    pub fn waited(&self) -> Option<Duration> {
        self.since(&self.since_ms)
    }

    /// For how long its caller has owed it something: a request, or the rest of one.
    pub fn owed(&self) -> Option<Duration> {
        self.waited().or_else(|| self.since(&self.body_ms))
    }

    fn since(&self, at_ms: &AtomicU64) -> Option<Duration> {
        let since_ms = Some(at_ms.load(Relaxed)).filter(|since_ms| *since_ms != ANSWERING)?;
        Some(Duration::from_millis(self.load.clock_ms().saturating_sub(since_ms)))
    }

    /// What is left of `allowed`, never less than there is; `None` when it is over.
    pub fn left(&self, allowed: Duration) -> Option<Duration> {
        let Some(waited) = self.waited() else { return Some(allowed) };
        // The clock may have been up to a tick late when it was read.
        (allowed + TICK).checked_sub(waited).filter(|left| !left.is_zero())
    }
}

/// The requests of a connection that has several at once.
pub(super) struct Streams {
    waiting: Arc<Waiting>,
    open: AtomicUsize,
}

/// One of them, until it is answered.
pub(super) struct Answering(Arc<Streams>);

impl Streams {
    pub fn of(waiting: Arc<Waiting>) -> Self {
        Self { waiting, open: AtomicUsize::new(0) }
    }

    /// A request is there.
    pub fn begins(self: &Arc<Self>) -> Answering {
        if self.open.fetch_add(1, Relaxed) == 0 {
            self.waiting.ends();
        }
        Answering(self.clone())
    }
}

impl Answering {
    /// The reply has no end: its connection waits for nothing any more.
    pub fn goes_on(self) {
        self.0.open.fetch_add(1, Relaxed);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.waiting.begins();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_who_is_waited_for_runs_out_of_time() {
        let load = Arc::new(Load::default());
        let waiting = Waiting::new(load.clone());
        let at = |ms| load.set_clock_ms(ms);
        assert_eq!(waiting.left(200 * MS), Some(250 * MS));
        at(150);
        assert_eq!(waiting.left(200 * MS), Some(100 * MS));
        waiting.ends();
        at(10_000);
        assert_eq!(waiting.left(200 * MS), Some(200 * MS));
        waiting.wrote();
        assert_eq!(waiting.left(200 * MS), Some(200 * MS), "what goes on is not waited behind");
        waiting.begins();
        at(10_200);
        waiting.wrote();
        at(10_449);
        assert_eq!(waiting.left(200 * MS), Some(MS));
        at(10_450);
        assert_eq!(waiting.left(200 * MS), None);
    }
}
