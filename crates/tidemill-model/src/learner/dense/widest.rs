//! Compiling the same tiles for the registers at hand.
//!
//! In: work on tiles. Out: it is done, with tiles as large as the registers of the processor hold. A multiplication and an
//! addition stay two instructions everywhere ("fma" is never asked for), so the bits are those of the plain code.

/// Work that is cut into tiles of so many rows and columns. `run` and what it calls in its loops should be
/// `#[inline(always)]`: only what is inlined is compiled again.
pub(super) trait Tiled {
    fn run<const ROWS: usize, const COLUMNS: usize>(self);
}

/// How wide the registers are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Level {
    /// What every processor of the kind has.
    Plain,
    /// Sixteen registers of eight numbers.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Thirty-two registers of sixteen numbers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// All this processor has, narrowest first.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
        }
        all
    }

    /// The widest this processor has.
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }
}

/// Does the work in tiles for these registers, which the processor must have.
pub(super) fn run_at<W: Tiled>(level: Level, work: W) {
    match level {
        Level::Plain => work.run::<1, 32>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            assert!(std::arch::is_x86_feature_detected!("avx2"));
            // SAFETY: the processor has AVX2, as was asked just now.
            unsafe { run_avx2(work) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            assert!(std::arch::is_x86_feature_detected!("avx512f"));
            // SAFETY: the processor has AVX-512F, as was asked just now.
            unsafe { run_avx512(work) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<W: Tiled>(work: W) {
    work.run::<2, 32>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<W: Tiled>(work: W) {
    work.run::<8, 32>();
}
