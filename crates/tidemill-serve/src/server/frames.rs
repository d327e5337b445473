//! What an HTTP/2 caller sends beside its requests: counted by frame, and too much of it ends the connection.
//!
//! In: the bytes of a connection as they come. Out: whether it may go on. Settings and pings must be answered, resets throw
//! work away, and none of them costs the sender anything: a flood of them is an attack (CVE-2019-9512 to -9518,
//! CVE-2023-44487, CVE-2024-27316). Each frame of that kind costs credit; a request and the passing of time give some back.

use std::time::Duration;

use tokio::time::Instant;

/// What HTTP/2 begins with, ahead of its frames.
const PREFACE: usize = 24;
const HEAD: usize = 9;
const CREDIT_MAX: i64 = 4_000;
const CREDIT_PER_SECOND: i64 = 1_000;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// Counts the frames of one connection.
pub(super) struct Frames {
    /// Bytes to pass over: of the preface, or of a frame whose head has been read.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    credit: i64,
    refilled: Instant,
    /// Told once, when it ends.
    flooded: Option<Box<dyn FnOnce() + Send>>,
}

impl Frames {
    pub fn new(now: Instant, flooded: impl FnOnce() + Send + 'static) -> Self {
        let flooded: Option<Box<dyn FnOnce() + Send>> = Some(Box::new(flooded));
        Self { skip: PREFACE, head: [0; HEAD], filled: 0, credit: CREDIT_MAX, refilled: now, flooded }
    }

    /// Takes what came; `false`: it is too much.
    pub fn take(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        self.refill(now);
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let n = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == HEAD {
                let length = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
                (self.skip, self.filled) = (length, 0);
                self.credit = (self.credit + value(self.head[3], length)).min(CREDIT_MAX);
            }
        }
        if self.credit < 0
            && let Some(flooded) = self.flooded.take()
        {
            flooded();
        }
        self.credit >= 0
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).min(Duration::from_secs(60));
        let credit = passed.as_millis() as i64 * CREDIT_PER_SECOND / 1000;
        if credit > 0 {
            self.refilled = now;
            self.credit = (self.credit + credit).min(CREDIT_MAX);
        }
    }
}

/// What a frame gives, or takes where it is negative.
fn value(kind: u8, length: usize) -> i64 {
    match kind {
        // A caller that gives up on half of its requests stays in credit; one that gives up on all of them does not.
        HEADERS => 6,
        RST_STREAM => -10,
        SETTINGS | PING => -8,
        CONTINUATION => -20,
        DATA if length == 0 => -1,
        // Windows are moved for every piece of a reply.
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut out = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 1];
        out.resize(HEAD + length, 7);
        out
    }

    /// How many times a pattern of frames goes through at once, of a thousand times.
    fn passes(pattern: &[(u8, usize)]) -> usize {
        let now = Instant::now();
        let told = Arc::new(AtomicU32::new(0));
        let tell = told.clone();
        let mut frames = Frames::new(now, move || assert_eq!(tell.fetch_add(1, SeqCst), 0));
        assert!(frames.take(&[b'P'; PREFACE], now));
        let bytes: Vec<u8> = pattern.iter().flat_map(|(kind, length)| frame(*kind, *length)).collect();
        let passed = (0..1000).take_while(|_| bytes.chunks(7).all(|piece| frames.take(piece, now))).count();
        assert_eq!(told.load(SeqCst), u32::from(passed < 1000), "told once, when it ends");
        passed
    }

    #[test]
    fn requests_pass_and_floods_do_not() {
        const WINDOW_UPDATE: u8 = 8;
        assert_eq!(passes(&[(HEADERS, 60), (DATA, 400), (WINDOW_UPDATE, 4)]), 1000);
        assert_eq!(
            passes(&[(HEADERS, 60), (DATA, 400), (DATA, 0), (HEADERS, 60), (RST_STREAM, 4)]),
            1000,
            "half given up"
        );
        assert_eq!(passes(&[(HEADERS, 60), (RST_STREAM, 4)]), 998, "all given up: for a moment");
        assert_eq!(passes(&[(SETTINGS, 6)]), 500);
        assert_eq!(passes(&[(PING, 8)]), 500);
        assert_eq!(passes(&[(RST_STREAM, 4)]), 400);
        assert_eq!(passes(&[(CONTINUATION, 4)]), 200);
    }

    #[test]
    fn credit_comes_back_with_time_and_not_beyond_its_bound() {
        let began = Instant::now();
        let mut frames = Frames::new(began, || {});
        assert!(frames.take(&[0; PREFACE], began));
        let pings: Vec<u8> = (0..100).flat_map(|_| frame(PING, 8)).collect();
        // 100 pings a second are a keep-alive that is set far too short, and are let pass for ever.
        for second in 0..100 {
            assert!(frames.take(&pings, began + Duration::from_secs(second)));
        }
        let later = began + Duration::from_secs(100_000);
        assert!((0..5).all(|_| frames.take(&pings, later)) && !frames.take(&pings, later));
    }
}
