//! How a job that serves lets requests on the same core go first.
//!
//! In: the end of a piece of work. Out: a moment in which others run. Linux looks at who comes first when somebody wakes or rests, and
//! else at its next tick, milliseconds later; who has just answered much is not let in when it wakes. So the one that computes
//! yields, and gives up its next turn by that. Where others compute all the time, or requests come without a pause, that would be
//! most of its turns: a yield that took long says so, and then it rests for the shortest time there is instead, which costs no
//! turn.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tidemill_base::Clock;

/// Work that is worth a pause.
const PIECE: Duration = Duration::from_micros(10);
/// A yield that takes longer was not for a few requests.
const LONG: Duration = Duration::from_millis(1);
/// How long no further yield is tried then.
const BUSY_FOR: Duration = Duration::from_millis(100);
/// Some 55 us by the system's timers.
const REST: Duration = Duration::from_micros(1);

/// One thread's way of it.
#[derive(Default)]
pub(super) struct GiveWay(Mutex<Lately>);

/// Since when it has worked, and how it gives way.
#[derive(Clone, Copy, Default)]
struct Lately {
    since: Duration,
    rests_until: Duration,
}

impl GiveWay {
    /// A piece of work has ended `now`.
    #[expect(clippy::disallowed_methods, reason = "it waits for nothing, it lets others go first")]
    pub fn after_a_piece(&self, now: Duration, clock: &dyn Clock) {
        self.give(now, clock, thread::yield_now, || thread::sleep(REST));
    }

    /// Others could run until `now`: what woke it is not put off.
    pub fn after_a_wait(&self, now: Duration) {
        self.lately().since = now;
    }

    fn give(&self, now: Duration, clock: &dyn Clock, yields: impl FnOnce(), rests: impl FnOnce()) {
        let Lately { since, mut rests_until } = *self.lately();
        if now.saturating_sub(since) < PIECE {
            return;
        }
        if now < rests_until {
            rests();
        } else {
            yields();
            if clock.elapsed().saturating_sub(now) > LONG {
                rests_until = clock.elapsed() + BUSY_FOR;
            }
        }
        *self.lately() = Lately { since: clock.elapsed(), rests_until };
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tidemill_base::ManualClock;

    use super::*;

    #[test]
    fn it_yields_until_that_takes_long_and_rests_for_a_while_then() {
        let (clock, way) = (ManualClock::default(), GiveWay::default());
        // What it did after a piece of so many milliseconds, where a yield takes so many.
        let after = |piece: u64, yields: u64| {
            clock.advance(Duration::from_millis(piece));
            let did = std::cell::Cell::new("nothing");
            let slow = || {
                did.set("yielded");
                clock.advance(Duration::from_millis(yields));
            };
            way.give(clock.elapsed(), &clock, slow, || did.set("rested"));
            did.get()
        };
        assert_eq!((after(0, 0), after(1, 1), after(1, 1)), ("nothing", "yielded", "yielded"));
        assert_eq!(after(1, 3), "yielded");
        assert_eq!((after(1, 0), after(0, 0), after(90, 0)), ("rested", "nothing", "rested"));
        assert_eq!(after(20, 0), "yielded");
    }
}
