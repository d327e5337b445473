//! Threads that walk together through the phases of one call.
//!
//! In: how many threads, how many phases, and what to do for part `i` of a phase; a phase has as many parts as there are
//! threads, or one while the machine is too busy for sharing to pay. Every part of a phase is done before the next phase
//! begins, and what it wrote is seen there; which thread does which part is left open. Each thread prefers its own, and takes another's while that thread is away: on a busy machine
//! a thread that lost its core between two parts holds nobody up. A panic reaches the caller, and nobody waits for ever.
//!
//! The threads live as long as the call: so they may borrow everything, and between calls no core is kept busy. A call
//! worth sharing takes milliseconds, starting a thread a few hundredths of one, and the caller begins meanwhile.

use std::{
    hint,
    sync::atomic::{
        AtomicBool, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    thread,
};

/// More could not be told apart in one word of marks.
pub(crate) const THREADS_MAX: usize = 64;

/// Times a thread looks for work before it lets others have its core: longer than two halves of a phase usually differ.
const LOOKS: usize = 4_000;

/// Calls that go alone after one in which threads kept waiting for threads that had lost their core; doubled each time.
const ALONE_MAX: u32 = 64;

/// How many threads there may be, and how many are worth it at the moment. That follows the machine's load, and so must
/// never matter to what the threads compute.
pub(crate) struct Pool {
    threads: usize,
    /// Calls to make alone before sharing is tried again.
    alone: u32,
    alone_next: u32,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: threads.clamp(1, THREADS_MAX), alone: 0, alone_next: 1 }
    }

    /// Runs `part(phase, i, parts)` for all `i` in `0..parts`, phase by phase; `parts` is 1 or the number of threads. Threads
    /// that wait for another `patience` times as long as usual are no sign of a busy machine: phases are so long.
    pub(crate) fn run(
        &mut self,
        worth_sharing: bool,
        patience: usize,
        phases: usize,
        part: impl Fn(usize, usize, usize) + Sync,
    ) {
        if self.threads == 1 || !worth_sharing || self.alone > 0 {
            self.alone = self.alone.saturating_sub(worth_sharing as u32);
            (0..phases).for_each(|phase| part(phase, 0, 1));
            return;
        }
        let long_waits = share(self.threads, patience, phases, |phase, i| part(phase, i, self.threads));
        if long_waits * 8 > phases {
            self.alone = self.alone_next;
            self.alone_next = (self.alone_next * 2).min(ALONE_MAX);
        } else {
            self.alone_next = 1;
        }
    }
}

/// Runs `part(phase, i)` on this many threads, and tells how often one had to wait long for another.
fn share(threads: usize, patience: usize, phases: usize, part: impl Fn(usize, usize) + Sync) -> usize {
    let walk = &Walk::new(threads, patience, phases);
    let part = &part;
    thread::scope(|scope| {
        let _breaker = Breaker(walk);
        for own in 1..threads {
            scope.spawn(move || walk.join_in(own, part));
        }
        walk.join_in(0, part);
    });
    walk.long_waits.load(Relaxed)
}

/// Where the threads are.
struct Walk {
    parts: usize,
    /// Looks for work before a wait is long.
    looks_max: usize,
    phases: usize,
    phase: AtomicUsize,
    /// A bit for each part of the phase that somebody has taken. Cleared last when a phase begins, so that whoever takes a
    /// part sees the phase it belongs to; and while it is taken, the phase cannot end.
    taken: AtomicU64,
    done: AtomicUsize,
    long_waits: AtomicUsize,
    broken: AtomicBool,
}

impl Walk {
    fn new(parts: usize, patience: usize, phases: usize) -> Self {
        Self {
            parts,
            looks_max: LOOKS * patience,
            phases,
            phase: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            long_waits: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Does parts until there are none left.
    fn join_in(&self, own: usize, part: &(impl Fn(usize, usize) + Sync)) {
        let _breaker = Breaker(self);
        let mut looks = 0;
        while self.phase.load(Acquire) < self.phases {
            if let Some(taken) = self.take(own) {
                looks = 0;
                part(self.phase.load(Acquire), taken);
                self.finish_part();
                continue;
            }
            assert!(!self.broken.load(Relaxed), "another training thread panicked");
            looks += 1;
            if looks < self.looks_max {
                hint::spin_loop();
                continue;
            }
            if looks == self.looks_max {
                self.long_waits.fetch_add(1, Relaxed);
            }
            thread::yield_now();
        }
    }

    /// Takes a part that nobody has: one's own if it is there.
    fn take(&self, own: usize) -> Option<usize> {
        let taken = self.taken.load(Acquire);
        let free = match taken & 1 << own == 0 {
            true => own,
            false => taken.trailing_ones() as usize,
        };
        let is_free = free < self.parts && self.taken.fetch_or(1 << free, AcqRel) & 1 << free == 0;
        is_free.then_some(free)
    }

    fn finish_part(&self) {
        if self.done.fetch_add(1, AcqRel) + 1 == self.parts {
            let ended = self.phase.load(Relaxed);
            self.done.store(0, Relaxed);
            self.phase.store(ended + 1, Release);
            if ended + 1 < self.phases {
                self.taken.store(0, Release);
            }
        }
    }
}

/// Tells the others when its thread unwinds.
struct Breaker<'a>(&'a Walk);

impl Drop for Breaker<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic;

    #[test]
    fn every_part_is_done_once_and_no_phase_begins_before_the_last_has_ended() {
        for threads in [2, 5, 64] {
            let done = AtomicUsize::new(0);
            let seen = AtomicU64::new(0);
            share(threads, 1, 200, |phase, part| {
                let before = done.load(Relaxed);
                assert!((phase * threads..(phase + 1) * threads).contains(&before), "phase {phase}, {before} done");
                let bit = 1 << part;
                assert_eq!(seen.fetch_xor(bit, Relaxed) & bit != 0, phase % 2 == 1, "part {part} of phase {phase}");
                done.fetch_add(1, Relaxed);
            });
            assert_eq!(done.into_inner(), threads * 200);
        }
    }

    #[test]
    fn a_panic_in_one_thread_reaches_the_caller_instead_of_a_deadlock() {
        for culprit in 0..3 {
            let result = panic::catch_unwind(|| {
                share(3, 1, 10, |phase, part| assert!((phase, part) != (4, culprit), "on purpose"));
            });
            assert!(result.is_err());
        }
    }

    #[test]
    fn a_call_not_worth_sharing_is_one_part_on_the_callers_thread() {
        let caller = thread::current().id();
        Pool::new(4).run(false, 1, 3, |_, part, parts| {
            assert_eq!((part, parts, thread::current().id()), (0, 1, caller));
        });
    }
}
