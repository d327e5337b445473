//! Products of very few rows: what a request of one sample asks for.
//!
//! In: what [`super::product`] takes, with the matrix of weights as it lies. Out: the same bits: every sum begins with
//! what stands there, and its terms come in ascending order. Nothing is copied first, as each weight is read once: many sums
//! are on their way at a time, so that no addition waits for the one before it.

use super::widest::{Lanes, Level, Tiled, run_at};

/// With so many rows weights are read from the caches again for each; with more a copy of them pays.
pub(super) const ROWS_MAX: usize = 3;

/// `c[i][j] += sum over k of a[i][k] * b[k][j]`, in the widest registers the processor has; rows lie one behind the other,
/// those of `b` and `c` have so many `columns`.
pub(super) fn add_to(a: &[f32], b: &[f32], columns: usize, c: &mut [f32]) {
    let terms = b.len() / columns;
    for (i, c) in c.chunks_exact_mut(columns).enumerate() {
        add_row_at(Level::best(), &a[i * terms..][..terms], b, c);
    }
}

/// `c[j] += sum over k of a[k] * b[k][j]`, where `b` has a row of `c.len()` for each term.
fn add_row_at(level: Level, a: &[f32], b: &[f32], c: &mut [f32]) {
    assert_eq!(b.len(), a.len() * c.len(), "sizes of the matrices");
    run_at(level, Row { a, b, c });
}

struct Row<'a, 'c> {
    a: &'a [f32],
    b: &'a [f32],
    c: &'c mut [f32],
}

impl Tiled for Row<'_, '_> {
    #[inline(always)]
    fn run<V: Lanes, const ROWS: usize, const COLUMNS: usize>(mut self) {
        let mut j = 0;
        // As many sums as the registers hold: there are 32 of the widest.
        if V::LANES == 16 {
            j = self.columns::<V, 16>(j);
        }
        j = self.columns::<V, 8>(j);
        j = self.columns::<V, 4>(j);
        j = self.columns::<V, 1>(j);
        self.columns::<f32, 1>(j);
    }
}

impl Row<'_, '_> {
    /// Blocks of so many registers from column `j` on, as long as they are whole; where the next one begins.
    #[inline(always)]
    fn columns<V: Lanes, const REGISTERS: usize>(&mut self, mut j: usize) -> usize {
        let (width, columns) = (REGISTERS * V::LANES, self.c.len());
        while j + width <= columns {
            let mut sums = [V::splat(0.0); REGISTERS];
            let c = &mut self.c[j..][..width];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(&c[r * V::LANES..]);
            }
            for (a, b) in self.a.iter().zip(self.b.chunks_exact(columns)) {
                let (a, b) = (V::splat(*a), &b[j..][..width]);
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add_product(a, V::load(&b[r * V::LANES..]));
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                sum.store(&mut c[r * V::LANES..]);
            }
            j += width;
        }
        j
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    /// The definition, number by number, against every width of registers: to the bit.
    #[test]
    fn one_row_gives_the_bits_of_the_definition() {
        let mut rng = Rng::seeded(5);
        for (terms, columns) in [(1, 1), (20, 7), (0, 5), (31, 16), (9, 33), (40, 131), (17, 400), (3, 517)] {
            let mut normal = |len: usize| -> Vec<f32> { (0..len).map(|_| rng.normal() as f32).collect() };
            let (a, b, before) = (normal(terms), normal(terms * columns), normal(columns));
            let mut expected = before.clone();
            for (j, c) in expected.iter_mut().enumerate() {
                (0..terms).for_each(|k| *c += a[k] * b[k * columns + j]);
            }
            for level in Level::all() {
                let mut c = before.clone();
                add_row_at(level, &a, &b, &mut c);
                let same = c.iter().zip(&expected).all(|(c, e)| c.to_bits() == e.to_bits());
                assert!(same, "{terms} x {columns}, {level:?}");
            }
        }
    }
}
