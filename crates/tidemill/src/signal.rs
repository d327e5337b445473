//! How other threads reach the thread that learns: "there is something to read", "stop".

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Shared by the learning thread, the server and the signal handler.
#[derive(Default)]
pub struct Signal {
    woken: Mutex<bool>,
    condition: Condvar,
    stopped: AtomicBool,
}

impl Signal {
    /// Ends a wait now; one that has not begun will not wait.
    pub fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.condition.notify_all();
    }

    /// Asks the learning thread to save and end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether [`Signal::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits for a wake, at most this long.
    pub fn wait(&self, at_most: Duration) {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut woken, _) =
            self.condition.wait_timeout_while(woken, at_most, |woken| !*woken).unwrap_or_else(PoisonError::into_inner);
        *woken = false;
    }
}
