//! Compiling the same tiles for the registers at hand.
//!
//! In: work on tiles. Out: it is done, with tiles as large as the registers of the processor hold. A multiplication and an
//! addition stay two instructions everywhere ("fma" is never asked for), so the bits are those of the plain code.

/// Numbers of one register. Written out, because what a compiler makes registers of changes with its settings.
pub(super) trait Lanes: Copy {
    /// How many.
    const LANES: usize;

    /// Registers half as wide, for what is left over.
    type Half: Lanes;

    fn splat(x: f32) -> Self;

    /// The first numbers of a slice.
    fn load(from: &[f32]) -> Self;

    fn store(self, to: &mut [f32]);

    /// Lane by lane `self + a * b`, rounded twice.
    fn add_product(self, a: Self, b: Self) -> Self;

    /// Turns eight rows, `from_row` apart, so that number k of each stands in row k of the result, rows `to_row` apart.
    #[inline(always)]
    fn turn_eight((from, from_row): (&[f32], usize), (to, to_row): (&mut [f32], usize)) {
        for k in 0..EIGHT {
            let to = &mut to[k * to_row..][..EIGHT];
            for (r, to) in to.iter_mut().enumerate() {
                *to = from[r * from_row + k];
            }
        }
    }
}

impl Lanes for f32 {
    const LANES: usize = 1;
    type Half = f32;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        from[0]
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[0] = self;
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }
}

impl Lanes for [f32; 4] {
    const LANES: usize = 4;
    type Half = f32;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; 4]
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        *from.first_chunk().expect("a register's numbers are there")
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        *to.first_chunk_mut().expect("there is room for a register") = self;
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        [self[0] + a[0] * b[0], self[1] + a[1] * b[1], self[2] + a[2] * b[2], self[3] + a[3] * b[3]]
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! lanes_of_register {
    ($register:ty, $half:ty, $lanes:literal, $splat:ident, $add:ident, $mul:ident, $load:ident, $store:ident) => {
        impl Lanes for $register {
            const LANES: usize = $lanes;
            type Half = $half;

            #[inline(always)]
            fn splat(x: f32) -> Self {
                // SAFETY: only work that was compiled for this feature, and runs where it is, has such registers.
                unsafe { std::arch::x86_64::$splat(x) }
            }

            #[inline(always)]
            fn load(from: &[f32]) -> Self {
                let numbers: &[f32; $lanes] = from.first_chunk().expect("a register's numbers are there");
                // SAFETY: as above, and so many numbers are there.
                unsafe { std::arch::x86_64::$load(numbers.as_ptr()) }
            }

            #[inline(always)]
            fn store(self, to: &mut [f32]) {
                let room: &mut [f32; $lanes] = to.first_chunk_mut().expect("there is room for a register");
                // SAFETY: as above, and there is room for so many numbers.
                unsafe { std::arch::x86_64::$store(room.as_mut_ptr(), self) }
            }

            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$add(self, std::arch::x86_64::$mul(a, b)) }
            }

            #[inline(always)]
            fn turn_eight((from, from_row): (&[f32], usize), (to, to_row): (&mut [f32], usize)) {
                assert!(from.len() >= 7 * from_row + EIGHT && to.len() >= 7 * to_row + EIGHT);
                // SAFETY: as above (AVX has what is needed), and the last of the eight rows is whole on either side.
                unsafe { turn_eight(from.as_ptr(), from_row, to.as_mut_ptr(), to_row) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes_of_register!(
    std::arch::x86_64::__m256,
    [f32; 4],
    8,
    _mm256_set1_ps,
    _mm256_add_ps,
    _mm256_mul_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps
);
#[cfg(target_arch = "x86_64")]
lanes_of_register!(
    std::arch::x86_64::__m512,
    std::arch::x86_64::__m256,
    16,
    _mm512_set1_ps,
    _mm512_add_ps,
    _mm512_mul_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps
);

/// Turns eight rows of eight numbers: pairs, then fours, then halves change places.
///
/// # Safety
/// The processor has AVX; eight numbers can be read and written at each of eight rows.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn_eight(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    use std::arch::x86_64::*;
    // SAFETY: as the caller promises.
    unsafe {
        for at in [0, 4] {
            let rows = from.add(at);
            let (a, b) = (two_halves(rows, from_row), two_halves(rows.add(from_row), from_row));
            let (c, d) = (two_halves(rows.add(2 * from_row), from_row), two_halves(rows.add(3 * from_row), from_row));
            let (ab, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            _mm256_storeu_ps(to.add(at * to_row), _mm256_shuffle_ps::<0x44>(ab, cd));
            _mm256_storeu_ps(to.add((at + 1) * to_row), _mm256_shuffle_ps::<0xee>(ab, cd));
            _mm256_storeu_ps(to.add((at + 2) * to_row), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
            _mm256_storeu_ps(to.add((at + 3) * to_row), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
        }
    }
}

/// Four numbers of a row in the lower half, four of the fourth row behind it in the upper one. No closure: that would be
/// compiled for narrower registers.
///
/// # Safety
/// The processor has AVX; four numbers can be read in both rows.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn two_halves(from: *const f32, row: usize) -> std::arch::x86_64::__m256 {
    use std::arch::x86_64::*;
    // SAFETY: as the caller promises.
    unsafe {
        let low = _mm256_castps128_ps256(_mm_loadu_ps(from));
        _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add(4 * row)))
    }
}

/// Rows that are turned at once.
pub(super) const EIGHT: usize = 8;

/// Work that is cut into tiles of so many rows, and columns of so many registers. `run` and what it calls in its loops should be
/// `#[inline(always)]`: only what is inlined is compiled again.
pub(super) trait Tiled {
    fn run<V: Lanes, const ROWS: usize, const REGISTERS: usize>(self);
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
        Level::Plain => work.run::<[f32; 4], 2, 2>(),
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
    work.run::<std::arch::x86_64::__m256, 6, 2>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<W: Tiled>(work: W) {
    // Twenty-eight sums, two registers of columns, one factor: as many as there are. Two columns to each factor, because
    // fewer numbers can be read in a cycle than multiplied.
    work.run::<std::arch::x86_64::__m512, 14, 2>();
}
