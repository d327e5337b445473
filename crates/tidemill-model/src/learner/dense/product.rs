//! Products of matrices, with the same bits whatever the processor and whatever stands beside a row.
//!
//! In: two matrices. Out: their product, or that added to a third. Every number of it is one sum, begun with what stood there
//! or with zero, whose terms come in ascending order: neither the width of registers nor the size of a tile is part of the
//! result. A tile of the result stays in registers while all terms of its sums go by. What a tile reads lies one behind the
//! other, packed once for all the tiles that read it: rows of `a` for all columns, columns of `b` for all rows.

use std::cell::Cell;

use super::widest::{EIGHT, Lanes, Level, Tiled, run_at};

/// Numbers in a line of the cache.
const LINE: usize = 16;

thread_local! {
    /// Where this thread packs rows, and columns: as large as its largest product. Taken anew for each it would be zeroed
    /// each time, which costs as much as packing.
    static ROOM: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

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
        self.run_at(Level::best(), c, true);
    }

    /// Writes the product to `c`: what adding to zeros gives.
    pub(super) fn write_to(self, c: &mut [f32]) {
        self.run_at(Level::best(), c, false);
    }

    /// The same in registers of this width: the same bits.
    fn run_at(self, level: Level, c: &mut [f32], adds: bool) {
        assert_eq!(
            (self.a.len(), self.b.len(), c.len()),
            (self.rows * self.terms, self.terms * self.columns, self.rows * self.columns),
            "sizes of the matrices"
        );
        let [mut packed, mut columns] = ROOM.take();
        run_at(level, Sum { product: self, adds, c, packed: &mut packed, columns: &mut columns, first: 0 });
        ROOM.set([packed, columns]);
    }
}

/// A product on its way, with where it goes.
struct Sum<'a, 'c> {
    product: Product<'a>,
    /// Whether it is added to what stands there.
    adds: bool,
    c: &'c mut [f32],
    /// Rows of `a` by tiles, of each tile its terms one after the other; of no use if they lie like that already.
    packed: &'c mut Vec<f32>,
    /// The columns at work, of each term one after the other.
    columns: &'c mut Vec<f32>,
    /// Where they begin: at a line of the cache.
    first: usize,
}

impl Tiled for Sum<'_, '_> {
    #[inline(always)]
    fn run<V: Lanes, const ROWS: usize, const REGISTERS: usize>(mut self) {
        if !self.product.a_turned {
            let Product { a, rows, terms, .. } = self.product;
            pack::<V, ROWS>(a, rows, terms, at_least(self.packed, a.len()));
        }
        at_least(self.columns, self.product.terms * V::LANES * REGISTERS + LINE);
        self.first = self.columns.as_ptr().align_offset(4 * LINE).min(LINE);
        let mut j = self.panels::<V, ROWS, REGISTERS>(0);
        if REGISTERS > 1 {
            j = self.panels::<V, ROWS, 1>(j);
        }
        j = self.panels::<V::Half, ROWS, 1>(j);
        j = self.panels::<<V::Half as Lanes>::Half, ROWS, 1>(j);
        self.panels::<f32, ROWS, 1>(j);
    }
}

impl Sum<'_, '_> {
    /// Columns from `j` on, as long as there are so many; tells where the next ones begin.
    #[inline(always)]
    fn panels<V: Lanes, const ROWS: usize, const REGISTERS: usize>(&mut self, mut j: usize) -> usize {
        while j + V::LANES * REGISTERS <= self.product.columns {
            self.pack_columns::<V, REGISTERS>(j);
            let mut i = self.tiles::<V, ROWS, REGISTERS>(0, j);
            if ROWS > 8 {
                i = self.tiles::<V, 8, REGISTERS>(i, j);
            }
            if ROWS > 4 {
                i = self.tiles::<V, 4, REGISTERS>(i, j);
            }
            self.tiles::<V, 1, REGISTERS>(i, j);
            j += V::LANES * REGISTERS;
        }
        j
    }

    /// Tiles from row `i` on, as long as there are so many rows; tells where the next ones begin.
    #[inline(always)]
    fn tiles<V: Lanes, const ROWS: usize, const REGISTERS: usize>(&mut self, mut i: usize, j: usize) -> usize {
        let Product { a, rows, columns, terms, a_turned, .. } = self.product;
        let b = &self.columns[self.first..][..terms * V::LANES * REGISTERS];
        while i + ROWS <= rows {
            let a = match a_turned {
                true => (a, rows, i),
                false => (&self.packed[i * terms..][..ROWS * terms], ROWS, 0),
            };
            tile::<V, ROWS, REGISTERS>(a, b, (&mut *self.c, columns, i * columns + j), self.adds);
            i += ROWS;
        }
        i
    }

    /// Some columns of `b`, of each term one after the other.
    #[inline(always)]
    fn pack_columns<V: Lanes, const REGISTERS: usize>(&mut self, j: usize) {
        let Product { b, columns, terms, b_turned, .. } = self.product;
        let width = V::LANES * REGISTERS;
        let packed = &mut self.columns[self.first..][..terms * width];
        if b_turned {
            return turn::<V>(&b[j * terms..][..width * terms], (width, terms), packed);
        }
        for (packed, b) in packed.chunks_exact_mut(width).zip(b.chunks_exact(columns)) {
            for l in 0..REGISTERS {
                V::load(&b[j + l * V::LANES..]).store(&mut packed[l * V::LANES..]);
            }
        }
    }
}

/// Adds the terms of a tile to its sums, which stand in `c`, rows of `c_row` from `begin` on, or begin with zero. Of `a` are
/// given a row for each term, the length of these rows, and where in them the tile begins.
#[inline(always)]
fn tile<V: Lanes, const ROWS: usize, const REGISTERS: usize>(
    (a, a_row, i): (&[f32], usize, usize),
    b: &[f32],
    (c, c_row, begin): (&mut [f32], usize, usize),
    adds: bool,
) {
    let width = V::LANES * REGISTERS;
    // `array::from_fn` is not inlined, and outside of here nothing is compiled for these registers.
    let mut sums = [[V::splat(0.0); REGISTERS]; ROWS];
    if adds {
        for (r, sums) in sums.iter_mut().enumerate() {
            let c = &c[begin + r * c_row..][..width];
            for (l, sum) in sums.iter_mut().enumerate() {
                *sum = V::load(&c[l * V::LANES..]);
            }
        }
    }
    for (a, b) in a.chunks_exact(a_row).zip(b.chunks_exact(width)) {
        let a: &[f32; ROWS] = a[i..].first_chunk().expect("a row is whole");
        let mut column = [V::splat(0.0); REGISTERS];
        for (l, column) in column.iter_mut().enumerate() {
            *column = V::load(&b[l * V::LANES..]);
        }
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = V::splat(*a);
            for (sum, column) in sums.iter_mut().zip(column) {
                *sum = sum.add_product(a, column);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c = &mut c[begin + r * c_row..][..width];
        for (l, sum) in sums.iter().enumerate() {
            sum.store(&mut c[l * V::LANES..]);
        }
    }
}

/// Tiles of rows with their terms first, as [`Sum::panels`] goes through them.
#[inline(always)]
fn pack<V: Lanes, const ROWS: usize>(a: &[f32], rows: usize, terms: usize, packed: &mut [f32]) {
    let mut i = 0;
    for tile in [ROWS, 8, 4, 1] {
        while tile <= ROWS && i + tile <= rows {
            turn::<V>(&a[i * terms..][..tile * terms], (tile, terms), &mut packed[i * terms..][..tile * terms]);
            i += tile;
        }
    }
}

/// Room for so many numbers, whatever stands there.
fn at_least(room: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if room.len() < len {
        room.resize(len, 0.0);
    }
    &mut room[..len]
}

/// Writes rows of so many terms with their terms first.
#[inline(always)]
fn turn<V: Lanes>(from: &[f32], (rows, terms): (usize, usize), to: &mut [f32]) {
    let whole = if rows >= EIGHT { terms / EIGHT * EIGHT } else { 0 };
    for k in (0..whole).step_by(EIGHT) {
        for r in (0..rows).step_by(EIGHT) {
            // The last eight rows overlap those before them where there are no whole eights.
            let r = r.min(rows - EIGHT);
            V::turn_eight((&from[r * terms + k..], terms), (&mut to[k * rows + r..], rows));
        }
    }
    for (k, to) in (whole..terms).zip(to[whole * rows..].chunks_exact_mut(rows)) {
        for (r, to) in to.iter_mut().enumerate() {
            *to = from[r * terms + k];
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
        for (rows, terms, columns) in [
            (1, 1, 1),
            (7, 3, 5),
            (8, 20, 32),
            (13, 31, 77),
            (31, 64, 41),
            (64, 39, 128),
            (3, 0, 9),
            (2, 9, 40),
            (45, 17, 63),
        ] {
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
                    product.run_at(level, &mut c, true);
                    let same = c.iter().zip(&expected).all(|(c, e)| c.to_bits() == e.to_bits());
                    assert!(same, "{rows} x {terms} x {columns}, turned {a_turned} {b_turned}, {level:?}");
                    let (mut written, mut added) = (before.clone(), vec![0.0; rows * columns]);
                    product.run_at(level, &mut written, false);
                    product.run_at(level, &mut added, true);
                    let same = written.iter().zip(&added).all(|(w, a)| w.to_bits() == a.to_bits());
                    assert!(same, "{rows} x {terms} x {columns}, turned {a_turned} {b_turned}, {level:?}: written");
                }
            }
        }
    }
}
