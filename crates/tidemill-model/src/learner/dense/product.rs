//! Products of matrices, with the same bits whatever the processor and whatever stands beside a row.
//!
//! In: two matrices. Out: their product, added to a third. Every number of it is one sum, begun with what stood there, whose
//! terms come in ascending order: neither the width of registers nor the size of a tile is part of the result. A tile of the
//! result stays in registers while all terms of its sums go by, so memory is read once per tile and not once per term.

use super::widest::{Lanes, Level, Tiled, run_at};

/// Numbers in a line of the cache.
const LINE: usize = 16;
/// So few columns are added up one by one.
const ALONE_MAX: usize = 2;

/// `c[i][j] += sum over k of a(i, k) * b[k][j]`; rows lie one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    /// A row of `terms` for each row of the result; if `a_turned`, a row of `rows` for each term.
    pub(super) a: &'a [f32],
    /// A row of `columns` for each term; if `b_turned`, a row of `terms` for each column.
    pub(super) b: &'a [f32],
    pub(super) rows: usize,
    pub(super) terms: usize,
    pub(super) columns: usize,
    pub(super) a_turned: bool,
    pub(super) b_turned: bool,
}

impl Product<'_> {
    /// Adds the product to `c`, in the widest registers the processor has.
    pub(super) fn add_to(self, c: &mut [f32]) {
        self.add_at(Level::best(), c);
    }

    /// The same in registers of this width: the same bits.
    pub(super) fn add_at(self, level: Level, c: &mut [f32]) {
        assert_eq!(
            (self.a.len(), self.b.len(), c.len()),
            (self.rows * self.terms, self.terms * self.columns, self.rows * self.columns),
            "sizes of the matrices"
        );
        run_at(level, Sum { product: self, c, packed: Vec::new(), columns: Vec::new(), first: 0 });
    }
}

/// A product on its way, with where it is added to.
struct Sum<'a, 'c> {
    product: Product<'a>,
    c: &'c mut [f32],
    /// Rows of `a` by tiles, of each tile its terms one after the other; what remains stands behind, row by row.
    packed: Vec<f32>,
    /// The columns at work, of each term one after the other.
    columns: Vec<f32>,
    /// Where they begin: at a line of the cache.
    first: usize,
}

impl Tiled for Sum<'_, '_> {
    #[inline(always)]
    fn run<V: Lanes, const ROWS: usize, const COLUMNS: usize>(mut self) {
        if !self.product.a_turned {
            self.packed = pack::<ROWS>(self.product.a, self.product.rows, self.product.terms);
        }
        let columns = self.product.columns;
        self.columns = vec![0.0; self.product.terms * COLUMNS + LINE];
        self.first = self.columns.as_ptr().align_offset(4 * LINE).min(LINE);
        let mut j = 0;
        while j + COLUMNS <= columns {
            self.panel::<V, ROWS, COLUMNS>(j);
            j += COLUMNS;
        }
        if columns - j > ALONE_MAX {
            return self.edge::<V, ROWS, COLUMNS>(j);
        }
        while j < columns {
            self.panel::<f32, ROWS, 1>(j);
            j += 1;
        }
    }
}

impl Sum<'_, '_> {
    /// The last columns, fewer than a tile has: as a matrix of their own, with columns of zeros behind them.
    #[inline(always)]
    fn edge<V: Lanes, const ROWS: usize, const COLUMNS: usize>(&mut self, j: usize) {
        let Product { a, b, rows, terms, columns, a_turned, b_turned } = self.product;
        let wanted = columns - j;
        let mut few = vec![0.0; terms * COLUMNS];
        if b_turned {
            few[..wanted * terms].copy_from_slice(&b[j * terms..]);
        } else {
            let of_terms = few.chunks_exact_mut(COLUMNS).zip(b.chunks_exact(columns));
            of_terms.for_each(|(few, b)| few[..wanted].copy_from_slice(&b[j..]));
        }
        let mut c = vec![0.0; rows * COLUMNS];
        let of_rows = |c: &mut [f32], few: &mut [f32], take: fn(&mut [f32], &mut [f32])| {
            let both = c.chunks_exact_mut(columns).zip(few.chunks_exact_mut(COLUMNS));
            both.for_each(|(c, few)| take(&mut c[j..], &mut few[..wanted]));
        };
        of_rows(self.c, &mut c, |c, few| few.copy_from_slice(c));
        let product = Product { a, b: &few, rows, terms, columns: COLUMNS, a_turned, b_turned };
        let (packed, columns) = (std::mem::take(&mut self.packed), std::mem::take(&mut self.columns));
        let mut sum = Sum { product, c: &mut c, packed, columns, first: self.first };
        sum.panel::<V, ROWS, COLUMNS>(0);
        of_rows(self.c, &mut c, |c, few| c.copy_from_slice(few));
    }

    /// Some columns, all rows.
    #[inline(always)]
    fn panel<V: Lanes, const ROWS: usize, const COLUMNS: usize>(&mut self, j: usize) {
        self.pack_columns::<COLUMNS>(j);
        let mut i = 0;
        while i + ROWS <= self.product.rows {
            self.tile::<V, ROWS, COLUMNS>(i, j);
            i += ROWS;
        }
        while i < self.product.rows {
            self.tile::<V, 1, COLUMNS>(i, j);
            i += 1;
        }
    }

    /// Some columns of `b`, of each term one after the other.
    #[inline(always)]
    fn pack_columns<const COLUMNS: usize>(&mut self, j: usize) {
        let Product { b, columns, terms, b_turned, .. } = self.product;
        let packed = &mut self.columns[self.first..][..terms * COLUMNS];
        if !b_turned {
            for (packed, b) in packed.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(b.chunks_exact(columns)) {
                packed.copy_from_slice(&b[j..][..COLUMNS]);
            }
            return;
        }
        let b = &b[j * terms..][..COLUMNS * terms];
        for l in (0..COLUMNS).step_by(8) {
            match COLUMNS.is_multiple_of(8) {
                true if terms > 0 => turn::<8>(&b[l * terms..], terms, &mut packed[l..], COLUMNS),
                true => {}
                false => packed.copy_from_slice(b),
            }
        }
    }

    #[inline(always)]
    fn tile<V: Lanes, const ROWS: usize, const COLUMNS: usize>(&mut self, i: usize, j: usize) {
        let Product { a, rows, columns, terms, a_turned, .. } = self.product;
        let b = self.columns[self.first..][..terms * COLUMNS].as_chunks().0;
        let c = (&mut *self.c, columns, i * columns + j);
        match a_turned {
            true => add_terms::<V, ROWS, COLUMNS>((a, rows, i), b, c),
            false => add_terms::<V, ROWS, COLUMNS>((&self.packed[i * terms..][..ROWS * terms], ROWS, 0), b, c),
        }
    }
}

/// Adds the terms of a tile to its sums, which stand in `c`, rows of `c_row` from `begin` on. Of `a` are given a row for each
/// term, the length of these rows, and where in them the tile begins. A row of the tile is two registers, or one number.
#[inline(always)]
fn add_terms<V: Lanes, const ROWS: usize, const COLUMNS: usize>(
    (a, a_row, i): (&[f32], usize, usize),
    b: &[[f32; COLUMNS]],
    (c, c_row, begin): (&mut [f32], usize, usize),
) {
    let second = COLUMNS - V::LANES;
    // `array::from_fn` is not inlined, and outside of here nothing is compiled for these registers.
    let mut sums = [[V::splat(0.0); 2]; ROWS];
    for (r, sums) in sums.iter_mut().enumerate() {
        let c = &c[begin + r * c_row..][..COLUMNS];
        *sums = [V::load(c), V::load(&c[second..])];
    }
    for (a, b) in a.chunks_exact(a_row).zip(b) {
        let a: &[f32; ROWS] = a[i..].first_chunk().expect("a row is whole");
        let (first, last) = (V::load(b), V::load(&b[second..]));
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = V::splat(*a);
            *sums = [sums[0].add_product(a, first), sums[1].add_product(a, last)];
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c = &mut c[begin + r * c_row..][..COLUMNS];
        sums[0].store(c);
        sums[1].store(&mut c[second..]);
    }
}

/// Tiles of rows with their terms first.
#[inline(always)]
fn pack<const ROWS: usize>(a: &[f32], rows: usize, terms: usize) -> Vec<f32> {
    let whole = rows / ROWS * ROWS * terms;
    let mut packed = vec![0.0; a.len()];
    if terms > 0 {
        let tiles = a[..whole].chunks_exact(ROWS * terms).zip(packed.chunks_exact_mut(ROWS * terms));
        tiles.for_each(|(tile, packed)| turn::<ROWS>(tile, terms, packed, ROWS));
    }
    packed[whole..].copy_from_slice(&a[whole..]);
    packed
}

/// Writes rows of so many terms with their terms first, `stride` apart.
#[inline(always)]
fn turn<const ROWS: usize>(from: &[f32], terms: usize, to: &mut [f32], stride: usize) {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &from[r * terms..][..terms]);
    for (k, to) in (0..terms).zip(to.chunks_mut(stride)) {
        let to: &mut [f32; ROWS] = to.first_chunk_mut().expect("a row is whole");
        for r in 0..ROWS {
            to[r] = rows[r][k];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_base::Rng;

    fn normal(rng: &mut Rng, len: usize) -> Vec<f32> {
        (0..len).map(|_| rng.normal() as f32).collect()
    }

    /// The definition, number by number, against every width of registers: to the bit, as the order is part of it.
    #[test]
    fn every_width_of_registers_gives_the_bits_of_the_definition() {
        let mut rng = Rng::seeded(4);
        for (rows, terms, columns) in
            [(1, 1, 1), (7, 3, 5), (8, 20, 32), (13, 31, 77), (25, 64, 41), (64, 39, 128), (3, 0, 9), (2, 9, 40)]
        {
            for (a_turned, b_turned) in [(false, false), (true, false), (false, true), (true, true)] {
                let (a, b) = (normal(&mut rng, rows * terms), normal(&mut rng, terms * columns));
                let before = normal(&mut rng, rows * columns);
                let product = Product { a: &a, b: &b, rows, terms, columns, a_turned, b_turned };
                let mut expected = before.clone();
                for i in 0..rows {
                    for j in 0..columns {
                        for k in 0..terms {
                            let a = if a_turned { a[k * rows + i] } else { a[i * terms + k] };
                            let b = if b_turned { b[j * terms + k] } else { b[k * columns + j] };
                            expected[i * columns + j] += a * b;
                        }
                    }
                }
                for level in Level::all() {
                    let mut c = before.clone();
                    product.add_at(level, &mut c);
                    let same = c.iter().zip(&expected).all(|(c, e)| c.to_bits() == e.to_bits());
                    assert!(same, "{rows} x {terms} x {columns}, turned {a_turned} {b_turned}, {level:?}");
                }
            }
        }
    }
}
