//! Calls into libraries that panic over what they read.
//!
//! In: a call. Out: what it gives, or that it panicked. Bytes come from strangers, and a panic over them is refused as any other
//! wrong input is: it must not fill the standard error of a server that takes requests from everybody. So whoever runs a program
//! asks once that panics in here are not told.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic over bytes that nobody has checked; `None` where it did. What it worked on is not to be used then.
pub fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    let outer = INSIDE.replace(true);
    let ran = catch_unwind(AssertUnwindSafe(run));
    INSIDE.set(outer);
    ran.ok()
}

/// From now on panics inside [`contained`] are told to nobody but its caller; all others as before.
pub fn keep_contained_panics_quiet() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !INSIDE.get() {
            before(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn only_what_is_contained_is_quiet() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let here = std::thread::current().id();
        panic::set_hook(Box::new(move |_| {
            let counts = std::thread::current().id() == here;
            TOLD.fetch_add(counts.into(), Ordering::SeqCst);
        }));
        keep_contained_panics_quiet();
        let inner = || contained(|| -> u8 { panic!("of a library") });
        assert_eq!(contained(|| (inner(), 7)), Some((None, 7)));
        assert_eq!(inner(), None);
        assert_eq!(TOLD.load(Ordering::SeqCst), 0);
        assert!(catch_unwind(|| panic!("of ours")).is_err());
        assert_eq!(TOLD.load(Ordering::SeqCst), 1);
        let _ = panic::take_hook();
    }
}
