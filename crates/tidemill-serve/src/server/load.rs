//! What the server holds and how late it is: requests that are being answered, bytes of bodies, and deadlines that can
//! still be met.
//!
//! In: a request when it comes, its bytes as they come, its deadline. Out: a place for as long as it is answered, or a
//! refusal before any work is spent. What a request costs is learned from those that had a deadline too; how long one
//! waited before it was seen, from a clock that ticks on the same threads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{HeaderMap, StatusCode, header::HeaderName};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{
    headers,
    reply::{Refusal, shown},
    turns::Turns,
};

/// The header with which a request over HTTP says how many milliseconds it is worth waiting for.
const TIMEOUT: HeaderName = HeaderName::from_static("request-timeout-ms");
/// Nobody waits longer than a day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;
/// How often it looks.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// What a timer is late by on a server that is not busy.
const LATENESS_USUAL: Duration = Duration::from_millis(2);
/// Below this length a body costs what this length costs.
const BODY_BYTES_MIN: usize = 256;

/// What all requests share.
#[derive(Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    bodies_bytes: AtomicUsize,
    /// How long what is ready waits for a thread, microseconds.
    lateness_us: AtomicU64,
    /// Picoseconds for a byte of body.
    cost: AtomicU64,
    /// Milliseconds from the server's start to the last tick.
    clock_ms: AtomicU64,
}

/// A request that is being answered, given back when dropped.
pub(super) struct InFlight(Arc<Load>);

/// Bytes that wait for the rest of their body, given back when dropped.
pub(super) struct Held {
    load: Arc<Load>,
    bytes: usize,
}

/// Until when an answer is worth anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub at: Instant,
    pub allowed: Duration,
}

/// Whether there is time for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Enough,
    /// Something is left, and less than it takes.
    Short,
    Past,
}

impl Load {
    /// Asks for a place among `max`.
    pub fn enter(self: &Arc<Self>, max: usize) -> Option<InFlight> {
        let place = InFlight(self.clone());
        (self.requests.fetch_add(1, Relaxed) < max).then_some(place)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    pub fn bodies_bytes(&self) -> usize {
        self.bodies_bytes.load(Relaxed)
    }

    pub fn lateness(&self) -> Duration {
        Duration::from_micros(self.lateness_us.load(Relaxed))
    }

    pub fn hold(self: &Arc<Self>) -> Held {
        Held { load: self.clone(), bytes: 0 }
    }

    /// Measures how late a timer is, and lets `turns` see who takes too much, for as long as the server runs.
    pub async fn watch(self: Arc<Self>, turns: Arc<Turns>) {
        let began = Instant::now();
        let mut before = began;
        let mut tick = interval_at(began + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (due, now) = (tick.tick().await, Instant::now());
            let late = now.saturating_duration_since(due).saturating_sub(LATENESS_USUAL);
            self.lateness_us.store(late.as_micros() as u64, Relaxed);
            self.set_clock_ms((now - began).as_millis() as u64);
            turns.look(now - before);
            before = now;
        }
    }

    /// A clock that costs nothing to read and is up to [`TICK`] late.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms.load(Relaxed)
    }

    pub(super) fn set_clock_ms(&self, ms: u64) {
        self.clock_ms.store(ms, Relaxed);
    }

    /// Whether a request with so long a body makes its deadline.
    pub fn judge(&self, deadline: Deadline, body_bytes: usize, now: Instant) -> Verdict {
        let left = deadline.at.saturating_duration_since(now);
        let verdict = judge(left, self.lateness(), self.expected(body_bytes));
        if verdict == Verdict::Short {
            // Who is never let through never shows that it has become cheaper.
            self.cost.store(self.cost.load(Relaxed) / 16 * 15, Relaxed);
        }
        verdict
    }

    /// What a request with so long a body takes, as far as is known.
    pub fn expected(&self, body_bytes: usize) -> Duration {
        Duration::from_nanos(self.cost.load(Relaxed).saturating_mul(body_bytes.max(BODY_BYTES_MIN) as u64) / 1000)
    }

    /// Learns what one took. Two at once may forget one of them, and no harm is done.
    pub fn took(&self, body_bytes: usize, took: Duration) {
        let each = took.as_nanos() as u64 * 1000 / body_bytes.max(BODY_BYTES_MIN) as u64;
        let known = self.cost.load(Relaxed);
        let next = match known {
            0 => each,
            // One that was interrupted for long says little about the others.
            known => known - known / 16 + each.min(known * 4) / 16,
        };
        self.cost.store(next.max(1), Relaxed);
    }
}

/// `left` until the deadline, `lateness` of it gone before the request was seen, `expected` to answer it.
fn judge(left: Duration, lateness: Duration, expected: Duration) -> Verdict {
    match left.checked_sub(lateness) {
        None | Some(Duration::ZERO) => Verdict::Past,
        Some(left) if left < expected => Verdict::Short,
        Some(_) => Verdict::Enough,
    }
}

impl Deadline {
    /// What the header says.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers::find(headers, &TIMEOUT) else { return Ok(None) };
        let text = String::from_utf8_lossy(value.as_bytes());
        let ms = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let ms: u64 = ms.filter(|ms| *ms <= TIMEOUT_MS_MAX).ok_or_else(|| {
            let message =
                format!("{TIMEOUT} '{}' is not a number of milliseconds up to {TIMEOUT_MS_MAX}", shown(&text));
            Refusal::new(StatusCode::BAD_REQUEST, "invalid", message)
        })?;
        let allowed = Duration::from_millis(ms);
        Ok(Some(Self { at: Instant::now() + allowed, allowed }))
    }

    /// The refusal of a request that was not there in time.
    pub fn late(&self) -> Refusal {
        self.refusal(Verdict::Past, Duration::ZERO).closing()
    }

    /// The refusal of a request there is no time for.
    pub fn refusal(&self, verdict: Verdict, expected: Duration) -> Refusal {
        let allowed = self.allowed;
        let message = match verdict {
            Verdict::Short => {
                format!("the deadline of {allowed:?} cannot be met: less is left of it than the {expected:?} it takes")
            }
            _ => format!("the deadline of {allowed:?} has passed"),
        };
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "deadline", message).hint("nothing was done; try again")
    }
}

impl Held {
    /// Takes so many more, of `max` that all may hold.
    pub fn add(&mut self, bytes: usize, max: usize) -> bool {
        self.bytes += bytes;
        self.load.bodies_bytes.fetch_add(bytes, Relaxed) + bytes <= max
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.load.bodies_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn there_is_time_or_there_is_not() {
        for (left, lateness, expected, verdict) in [
            (0, 0, 0, Verdict::Past),
            (5, 5, 0, Verdict::Past),
            (5, 9, 1, Verdict::Past),
            (5, 0, 6, Verdict::Short),
            (5, 3, 3, Verdict::Short),
            (5, 0, 5, Verdict::Enough),
            (5, 2, 3, Verdict::Enough),
        ] {
            assert_eq!(judge(left * MS, lateness * MS, expected * MS), verdict, "{left} {lateness} {expected}");
        }
    }

    /// One that took far too long must not keep all that follow away for good.
    #[test]
    fn what_a_request_takes_is_learned_and_forgotten() {
        let load = Load::default();
        assert_eq!(load.expected(1000), Duration::ZERO, "nothing is known yet");
        (0..100).for_each(|_| load.took(1000, 10 * MS));
        let near = |expected: Duration, of: Duration| expected > of * 9 / 10 && expected < of * 11 / 10;
        assert!(near(load.expected(1000), 10 * MS) && near(load.expected(2000), 20 * MS));
        load.took(1000, Duration::from_secs(100));
        assert!(load.expected(1000) < 13 * MS, "{:?}", load.expected(1000));
        let now = Instant::now();
        let deadline = Deadline { at: now + MS, allowed: MS };
        let tries = (0..1000).take_while(|_| load.judge(deadline, 1000, now) == Verdict::Short).count();
        assert!((10..100).contains(&tries), "{tries}");
    }

    #[test]
    fn places_and_bytes_are_given_back() {
        let load = Arc::new(Load::default());
        let (one, two) = (load.enter(2), load.enter(2));
        assert!(one.is_some() && two.is_some() && load.enter(2).is_none());
        drop(one);
        assert!(load.enter(2).is_some());
        assert_eq!(load.requests(), 1);
        let mut held = load.hold();
        assert!(held.add(60, 100) && !held.add(60, 100));
        drop(held);
        assert_eq!(load.bodies_bytes(), 0);
    }
}
