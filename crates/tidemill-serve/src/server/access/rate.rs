//! So many requests a second, and for a moment more.
//!
//! In: a request. Out: whether it is let in, or how long to wait. A bucket for each tenant and each token, so that one
//! that asks too often costs nobody else anything.

use std::{fmt, num::NonZeroU32, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

/// A bucket that fills at a steady pace.
pub(super) struct Rate {
    per_second: f64,
    burst: u32,
    bucket: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl Rate {
    /// Nothing where the numbers make no sense: below one request in an hour, or beyond a million a second.
    pub fn new(per_second: f64, burst: u32) -> Option<Self> {
        if !(1.0 / 3600.0..=1e6).contains(&per_second) {
            return None;
        }
        let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second))?;
        let bucket = RateLimiter::direct(quota.allow_burst(NonZeroU32::new(burst)?));
        Some(Self { per_second, burst, bucket, clock: DefaultClock::default() })
    }

    /// Whether it is the same rate, whose bucket may go on.
    pub fn is(&self, per_second: f64, burst: u32) -> bool {
        (self.per_second, self.burst) == (per_second, burst)
    }

    /// Takes one request, or says how many seconds until there is one again.
    pub fn take(&self) -> Result<(), u64> {
        self.bucket.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            wait.as_secs() + u64::from(wait.subsec_nanos() > 0 || wait.is_zero())
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} times a second, {} at once", self.per_second, self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_burst_in_and_then_says_how_long_to_wait() {
        let rate = Rate::new(0.25, 3).unwrap();
        assert_eq!([rate.take(), rate.take(), rate.take(), rate.take()], [Ok(()), Ok(()), Ok(()), Err(4)]);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 2e6] {
            assert!(Rate::new(wrong, 1).is_none());
        }
        assert!(Rate::new(1.0, 0).is_none());
    }
}
