//! How soon the threads that answer get a processor that others compute on.
//!
//! In: a thread of the server, as it starts. Out: on Linux from 6.12 on, its share of the processor in the shortest turns there are;
//! and, where the process may (root, `CAP_SYS_NICE`, systemd's `LimitNICE=`), a niceness 5 below what it was started with.
//! Whoever asks for short turns is let in as soon as something comes for it, where it has not used up its share; otherwise the
//! thread that learns, or another program, first ends its own turn of some milliseconds. Who answers most of the time would have
//! used up the share of one among equals: hence the niceness. A thread that learns keeps a quarter of a core that answers all the
//! time. Threads that are started from here have no short turns, and no niceness below 0. Where the system knows no such turns, nothing happens.
//!
//! Who has just answered much is not let in before the others have caught up, and Linux looks again only at its next tick, some
//! milliseconds later, or when the one that computes gives way: so a job that serves does that after each piece of work.

/// Asks for short turns for the thread that calls this.
pub(super) fn take_short_turns() {
    #[cfg(target_os = "linux")]
    linux::take_short_turns();
}

#[cfg(target_os = "linux")]
mod linux {
    use libc::{SCHED_FLAG_RESET_ON_FORK, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall};

    /// The shortest that Linux gives.
    const TURN_NS: u64 = 100_000;
    /// So far before those that compute: three to one. At twice as many a click showed after 7 ms in place of 0.9, where a client asked in
    /// a loop on the same core, and no request was answered sooner.
    const STEPS_AHEAD: i32 = 5;
    const NICE_MIN: i32 = -20;
    const SIZE: u32 = size_of::<sched_attr>() as u32;

    pub(super) fn take_short_turns() {
        let Some(usual) = of_this_thread() else { return };
        // Whoever runs this under another policy has decided who goes first.
        if usual.sched_policy == SCHED_OTHER as u32 {
            let short = sched_attr { size: SIZE, sched_runtime: TURN_NS, ..usual };
            let (nice, flags) = (usual.sched_nice - STEPS_AHEAD, usual.sched_flags | SCHED_FLAG_RESET_ON_FORK as u64);
            if !set(&sched_attr { sched_nice: nice.max(NICE_MIN), sched_flags: flags, ..short }) {
                set(&short);
            }
        }
    }

    /// How this thread is scheduled, where the system tells.
    pub(super) fn of_this_thread() -> Option<sched_attr> {
        let mut attr = sched_attr {
            size: SIZE,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        // SAFETY: thread 0 is the caller's; the kernel writes at most as many bytes as it is told, which are those of `attr`.
        let failed = unsafe { syscall(SYS_sched_getattr, 0, &raw mut attr, SIZE, 0) } != 0;
        (!failed).then_some(attr)
    }

    /// Whether the kernel agreed; where it refuses it changes nothing.
    fn set(attr: &sched_attr) -> bool {
        // SAFETY: thread 0 is the caller's; the kernel reads as many bytes as `attr.size` says, which are those of `attr`.
        unsafe { syscall(SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) == 0 }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Turns get shorter or stay, and so does niceness; a thread that is started behind it does not have one below 0 from it.
        #[test]
        fn who_answers_comes_first_and_what_it_starts_does_not() {
            let scheduled = std::thread::spawn(|| {
                let before = of_this_thread();
                take_short_turns();
                let started = std::thread::spawn(of_this_thread).join().unwrap();
                before.zip(of_this_thread()).zip(started)
            });
            // A sandbox may keep both calls from everybody.
            let Some(((before, after), started)) = scheduled.join().unwrap() else { return };
            assert_eq!(before.sched_policy, after.sched_policy);
            assert!([before.sched_runtime, TURN_NS].contains(&after.sched_runtime), "{}", after.sched_runtime);
            let ahead = (before.sched_nice - STEPS_AHEAD).max(NICE_MIN);
            assert!([before.sched_nice, ahead].contains(&after.sched_nice), "{}", after.sched_nice);
            let inherited = after.sched_nice.max(before.sched_nice.min(0));
            assert_eq!(started.sched_nice, inherited, "behind {}", after.sched_nice);
            assert_ne!(started.sched_runtime, TURN_NS);
        }
    }
}
