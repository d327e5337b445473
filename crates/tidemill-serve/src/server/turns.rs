//! How soon the threads that answer get a processor that others compute on.
//!
//! In: a thread of the server, as it starts. Out: on Linux from 6.12 on, its share of the processor in the shortest turns there are.
//! Whoever asks for short turns is let in as soon as something comes for it, where it has not used up its share; otherwise the
//! thread that learns, or another program, first ends its own turn of some milliseconds. No share changes, no privilege is
//! needed; where the system knows no such turns, nothing happens.

/// Asks for short turns for the thread that calls this.
pub(super) fn take_short_turns() {
    #[cfg(target_os = "linux")]
    linux::take_short_turns();
}

#[cfg(target_os = "linux")]
mod linux {
    use libc::{SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall};

    /// The shortest that Linux gives.
    const TURN_NS: u64 = 100_000;
    const SIZE: u32 = size_of::<sched_attr>() as u32;

    pub(super) fn take_short_turns() {
        let Some(usual) = of_this_thread() else { return };
        // Whoever runs this under another policy has decided who goes first.
        if usual.sched_policy == SCHED_OTHER as u32 {
            set(&sched_attr { size: SIZE, sched_runtime: TURN_NS, ..usual });
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

    fn set(attr: &sched_attr) {
        // SAFETY: thread 0 is the caller's; the kernel reads as many bytes as `attr.size` says, which are those of `attr`. A
        // kernel that refuses changes nothing, and then turns are as long as they were.
        let _ = unsafe { syscall(SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) };
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Turns get shorter or stay; what the thread was started with stays in any case.
        #[test]
        fn short_turns_change_no_share() {
            let scheduled = std::thread::spawn(|| {
                let before = of_this_thread();
                take_short_turns();
                before.zip(of_this_thread())
            });
            // A sandbox may keep both calls from everybody.
            let Some((before, after)) = scheduled.join().unwrap() else { return };
            assert_eq!((before.sched_policy, before.sched_nice), (after.sched_policy, after.sched_nice));
            assert!([before.sched_runtime, TURN_NS].contains(&after.sched_runtime), "{}", after.sched_runtime);
        }
    }
}
