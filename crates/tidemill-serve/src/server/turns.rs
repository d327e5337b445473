//! How soon the threads that answer get a processor that others compute on.
//!
//! In: a thread of the server, as it starts, and twenty times a second how much of a processor it took. Out: on Linux, where the
//! process may (root, `CAP_SYS_NICE`), it goes before all that compute (`SCHED_RR`), so that a request waits for nobody's turn to
//! end; for as long as it leaves a tenth of the processor to others. One that takes more in two looks running (one may be a
//! pause of the machine, which counts as taken) is one among others for a second at least, three to one before those that compute (a niceness 5 below what it was started with): whoever learns keeps a quarter
//! of a core that answers all the time.
//!
//! Among others it has its share of the processor in the shortest turns there are (from 6.12 on). Whoever asks for short turns is let in as
//! soon as something comes for it, where it has not used up its share; otherwise the thread that learns, or another program,
//! first ends its own turn of some milliseconds. Who answers most of the time would have used up the share of one among equals:
//! hence the niceness. Who has just answered much is not let in before the others have caught up, and Linux looks again only at
//! its next tick, or when the one that computes gives way: so a job that serves does that after each piece of work.
//!
//! Threads that are started from here have none of that. Where the system knows no such turns, nothing happens.

use std::time::Duration;

/// Of a processor, what a thread that goes first may take.
const SHARE_MAX: f64 = 0.9;
/// Below it, it goes first again.
const SHARE_AGAIN: f64 = 0.8;
/// Looks for which a thread that took too much is one among others at least.
const LOOKS: u32 = 20;

/// The threads that answer.
#[derive(Default)]
pub(super) struct Turns {
    #[cfg(target_os = "linux")]
    threads: std::sync::Mutex<Vec<linux::Thread>>,
}

/// Whether a thread goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    /// It does, and took too much in the last look.
    FirstStill,
    /// For so many looks more at least.
    AmongOthers(u32),
}

impl Turn {
    /// What follows where it took this share of a processor.
    fn after(self, share: f64) -> Self {
        match self {
            Turn::First if share > SHARE_MAX => Turn::FirstStill,
            Turn::FirstStill if share > SHARE_MAX => Turn::AmongOthers(LOOKS),
            Turn::AmongOthers(0) if share < SHARE_AGAIN => Turn::First,
            Turn::AmongOthers(looks) => Turn::AmongOthers(looks.saturating_sub(1)),
            Turn::First | Turn::FirstStill => Turn::First,
        }
    }

    fn is_first(self) -> bool {
        !matches!(self, Turn::AmongOthers(_))
    }
}

impl Turns {
    /// Puts the thread that calls this first.
    pub fn come_first(&self) {
        #[cfg(target_os = "linux")]
        if let Some(thread) = linux::come_first() {
            self.threads().push(thread);
        }
    }

    /// Looks what each took in the time that has `passed` since the last look.
    #[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "nobody comes first there"))]
    pub fn look(&self, passed: Duration) {
        #[cfg(target_os = "linux")]
        self.threads().iter_mut().for_each(|thread| thread.look(passed));
    }

    #[cfg(target_os = "linux")]
    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<linux::Thread>> {
        self.threads.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::time::Duration;

    use libc::{
        SCHED_FLAG_RESET_ON_FORK, SCHED_OTHER, SCHED_RR, SYS_sched_getattr, SYS_sched_setattr, clockid_t, pid_t,
        sched_attr, syscall, timespec,
    };

    use super::Turn;

    /// The shortest that Linux gives.
    const TURN_NS: u64 = 100_000;
    /// So far before those that compute: three to one. At twice as many a click showed after 7 ms in place of 0.9, where a client asked in
    /// a loop on the same core.
    const STEPS_AHEAD: i32 = 5;
    const NICE_MIN: i32 = -20;
    const SIZE: u32 = size_of::<sched_attr>() as u32;

    /// One that may go first.
    pub(super) struct Thread {
        id: pid_t,
        clock: clockid_t,
        turn: Turn,
        /// Of its processor's time, until the last look.
        used: Duration,
        first: sched_attr,
        among_others: sched_attr,
    }

    /// Puts the thread that calls this first, where it may go first; or else gives it short turns.
    pub(super) fn come_first() -> Option<Thread> {
        let usual = of_this_thread()?;
        // Whoever runs this under another policy has decided who goes first.
        if usual.sched_policy != SCHED_OTHER as u32 {
            return None;
        }
        let short = sched_attr { size: SIZE, sched_runtime: TURN_NS, ..usual };
        let flags = usual.sched_flags | SCHED_FLAG_RESET_ON_FORK as u64;
        let among_others =
            sched_attr { sched_nice: (usual.sched_nice - STEPS_AHEAD).max(NICE_MIN), sched_flags: flags, ..short };
        if !set(0, &among_others) {
            set(0, &short);
            return None;
        }
        let first = sched_attr {
            sched_policy: SCHED_RR as u32,
            sched_priority: 1,
            sched_nice: 0,
            sched_runtime: 0,
            ..among_others
        };
        let mut clock = 0;
        // SAFETY: the thread is the caller's; `clock` is written and nothing else.
        let has_clock = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } == 0;
        // SAFETY: no argument, no memory.
        let id = unsafe { libc::gettid() };
        (has_clock && set(0, &first)).then(|| Thread {
            id,
            clock,
            turn: Turn::First,
            used: used(clock).unwrap_or_default(),
            first,
            among_others,
        })
    }

    impl Thread {
        pub(super) fn look(&mut self, passed: Duration) {
            let Some(used) = used(self.clock) else { return };
            let share = used.saturating_sub(self.used).as_secs_f64() / passed.as_secs_f64().max(1e-3);
            self.used = used;
            let turn = self.turn.after(share);
            if turn.is_first() != self.turn.is_first() {
                set(self.id, if turn.is_first() { &self.first } else { &self.among_others });
            }
            self.turn = turn;
        }
    }

    /// What a thread took of its processor; `None` once it has ended.
    fn used(clock: clockid_t) -> Option<Duration> {
        let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is written and nothing else; a clock that is none is refused.
        let known = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
        known.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
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

    /// Whether the kernel agreed; where it refuses it changes nothing. Thread 0 is the caller's.
    fn set(thread: pid_t, attr: &sched_attr) -> bool {
        // SAFETY: the kernel reads as many bytes as `attr.size` says, which are those of `attr`.
        unsafe { syscall(SYS_sched_setattr, thread, std::ptr::from_ref(attr), 0) == 0 }
    }

    #[cfg(test)]
    mod tests {
        use super::{super::Turns, *};

        /// One that answers goes first or has short turns, or all is as it was; a thread that is started behind it has none of that. One that
        /// takes all of its processor goes first no longer.
        #[test]
        fn who_answers_comes_first_and_what_it_starts_does_not() {
            let scheduled = std::thread::spawn(|| {
                let before = of_this_thread();
                let turns = Turns::default();
                turns.come_first();
                let first = of_this_thread();
                let started = std::thread::spawn(of_this_thread).join().unwrap();
                // As one that has taken all of three milliseconds, twice.
                let [once, twice] = [(); 2].map(|()| {
                    turns.threads().iter_mut().for_each(|thread| {
                        thread.used = used(thread.clock).unwrap();
                        while used(thread.clock).unwrap() < thread.used + Duration::from_millis(3) {
                            std::hint::spin_loop();
                        }
                    });
                    turns.look(Duration::from_millis(3));
                    of_this_thread()
                });
                before.zip(first).zip(once).zip(twice).zip(started)
            });
            // A sandbox may keep both calls from everybody.
            let Some(((((before, first), once), busy), started)) = scheduled.join().unwrap() else { return };
            assert_eq!(once.sched_policy, first.sched_policy, "it may have been a pause of the machine");
            let ahead = (before.sched_nice - STEPS_AHEAD).max(NICE_MIN);
            if first.sched_policy == SCHED_RR as u32 {
                assert_eq!((first.sched_priority, busy.sched_nice), (1, ahead));
            } else {
                assert_eq!((first.sched_policy, first.sched_nice), (before.sched_policy, busy.sched_nice));
            }
            assert_eq!(busy.sched_policy, before.sched_policy);
            assert!([before.sched_runtime, TURN_NS].contains(&busy.sched_runtime), "{}", busy.sched_runtime);
            assert!([before.sched_nice, ahead].contains(&busy.sched_nice), "{}", busy.sched_nice);
            assert_eq!(started.sched_policy, before.sched_policy);
            assert!(started.sched_nice >= before.sched_nice.min(0), "{}", started.sched_nice);
            assert_ne!(started.sched_runtime, TURN_NS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_too_much_is_one_among_others_for_a_while() {
        let mut turn = Turn::First.after(0.89);
        assert_eq!(turn, Turn::First);
        turn = turn.after(0.91);
        assert_eq!((turn.is_first(), turn.after(0.89)), (true, Turn::First), "once may be a pause of the machine");
        turn = turn.after(0.91);
        for left in (0..LOOKS).rev() {
            turn = turn.after(0.1);
            assert_eq!(turn, Turn::AmongOthers(left));
        }
        assert_eq!(turn.after(0.85), Turn::AmongOthers(0));
        assert_eq!(turn.after(0.79), Turn::First);
    }
}
