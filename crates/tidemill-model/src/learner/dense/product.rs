//! The product of two matrices, added to a third.
//!
//! out_ij += a_i0 b_0j + a_i1 b_1j + .. in this order, whatever the sizes: each element is one sum, in one lane of a
//! register. Blocks of four rows by sixteen columns stay in registers while they are summed up (Goto and van de Geijn,
//! "Anatomy of High-Performance Matrix Multiplication", 2008).

use crate::simd::Kernel;

/// The left matrix, as it lies in memory.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// Row by row, so long each.
    Rows(&'a [f32], usize),
    /// Column by column: the transposed of rows.
    Columns(&'a [f32], usize),
}

/// A matrix that lies row by row, each so long.
pub(super) fn by_row(a: &[f32], length: usize) -> Left<'_> {
    Left::Rows(a, length)
}

/// The transposed of a matrix that lies row by row, each so long.
pub(super) fn by_column(a: &[f32], length: usize) -> Left<'_> {
    Left::Columns(a, length)
}

/// `out` (rows by columns) += `a` (rows by inner) times `b` (inner by columns).
pub(super) struct Product<'a> {
    pub(super) a: Left<'a>,
    pub(super) b: &'a [f32],
    pub(super) out: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let mut j = 0;
        while j + 16 <= self.columns {
            self.strip::<16>(j);
            j += 16;
        }
        while j + 8 <= self.columns {
            self.strip::<8>(j);
            j += 8;
        }
        while j < self.columns {
            self.strip::<1>(j);
            j += 1;
        }
    }
}

impl Product<'_> {
    /// Columns `j` to `j + C`.
    #[inline(always)]
    fn strip<const C: usize>(&mut self, j: usize) {
        let mut i = 0;
        while i + 4 <= self.rows {
            self.block::<4, C>(i, j);
            i += 4;
        }
        while i < self.rows {
            self.block::<1, C>(i, j);
            i += 1;
        }
    }

    #[inline(always)]
    fn block<const R: usize, const C: usize>(&mut self, i: usize, j: usize) {
        let mut sums = [[0.0f32; C]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&self.out[(i + r) * self.columns + j..][..C]);
        }
        let b = self.b[..self.inner * self.columns].chunks_exact(self.columns);
        match self.a {
            Left::Rows(a, length) => {
                let rows: [&[f32]; R] = std::array::from_fn(|r| &a[(i + r) * length..][..self.inner]);
                for (p, b) in b.enumerate() {
                    add::<R, C>(&mut sums, std::array::from_fn(|r| rows[r][p]), &b[j..j + C]);
                }
            }
            Left::Columns(a, length) => {
                for (a, b) in a.chunks_exact(length).zip(b) {
                    let a = &a[i..i + R];
                    add::<R, C>(&mut sums, std::array::from_fn(|r| a[r]), &b[j..j + C]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            self.out[(i + r) * self.columns + j..][..C].copy_from_slice(sums);
        }
    }
}

#[inline(always)]
fn add<const R: usize, const C: usize>(sums: &mut [[f32; C]; R], a: [f32; R], b: &[f32]) {
    for r in 0..R {
        for c in 0..C {
            sums[r][c] += a[r] * b[c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::wide;
    use tidemill_base::Rng;

    /// One element after the other, as the definition has it.
    fn plain(
        a: impl Fn(usize, usize) -> f32,
        b: &[f32],
        out: &mut [f32],
        (rows, inner, columns): (usize, usize, usize),
    ) {
        for i in 0..rows {
            for j in 0..columns {
                out[i * columns + j] =
                    (0..inner).fold(out[i * columns + j], |sum, p| sum + a(i, p) * b[p * columns + j]);
            }
        }
    }

    #[test]
    fn a_product_has_the_bits_of_plain_sums() {
        let mut rng = Rng::seeded(4);
        let mut numbers = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
        for (rows, inner, columns) in [(1, 1, 1), (4, 7, 16), (5, 31, 27), (9, 64, 41), (3, 0, 5), (64, 312, 128)] {
            let (a, b, begin) = (numbers(rows * inner), numbers(inner * columns), numbers(rows * columns));
            for transposed in [false, true] {
                let a_of = |i: usize, p: usize| if transposed { a[p * rows + i] } else { a[i * inner + p] };
                let left = if transposed { by_column(&a, rows) } else { by_row(&a, inner) };
                let (mut expected, mut out, mut narrow) = (begin.clone(), begin.clone(), begin.clone());
                plain(a_of, &b, &mut expected, (rows, inner, columns));
                wide(Product { a: left, b: &b, out: &mut out, rows, inner, columns });
                Product { a: left, b: &b, out: &mut narrow, rows, inner, columns }.run();
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&out), bits(&expected), "{rows} by {inner} by {columns}, transposed: {transposed}");
                assert_eq!(bits(&narrow), bits(&expected));
            }
        }
    }
}
