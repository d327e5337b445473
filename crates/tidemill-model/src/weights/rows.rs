//! Rows of parameters, all of one width, behind one another.
//!
//! In: rows, in the order in which their keys came. Out: each by its number. Where they are many they are memory of their
//! own, in pages of 2 MiB where the kernel gives them: a table is made in a fraction of the time, and read in no order.

use std::ops::Deref;

use crate::params::memory::Memory;

/// From here on rows are memory of their own; that costs system calls, and a process may have a thousand small tables.
const OWN_FLOATS: usize = 1 << 19;

enum Floats {
    Few(Vec<f32>),
    Many(Memory<f32>),
}

/// Rows of one width; row 0 holds zeros.
pub(super) struct Rows {
    width: usize,
    floats: Floats,
    /// Floats in use.
    used: usize,
}

impl Rows {
    /// Row 0 alone, with room for so many more.
    pub(super) fn with_room(width: usize, rows: usize) -> Self {
        Self { width, floats: Floats::with_room((rows + 1) * width), used: 0 }.zeros()
    }

    fn zeros(mut self) -> Self {
        self.push(&vec![0.0; self.width]);
        self
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.used / self.width
    }

    /// One more.
    pub(super) fn push(&mut self, row: &[f32]) {
        let end = self.used + self.width;
        if end > self.floats.room() {
            let mut larger = Floats::with_room(end.max(self.used * 2));
            larger.put(0, self);
            self.floats = larger;
        }
        self.floats.put(self.used, row);
        self.used = end;
    }

    /// Sets one that is there.
    pub(super) fn set(&mut self, number: usize, row: &[f32]) {
        self.floats.put(number * self.width, row);
    }

    /// Leaves row 0 alone.
    pub(super) fn clear(&mut self) {
        self.used = self.width;
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<f32>()
            * match &self.floats {
                Floats::Few(floats) => floats.capacity(),
                Floats::Many(_) => self.used,
            }
    }
}

impl Floats {
    fn with_room(floats: usize) -> Self {
        match floats < OWN_FLOATS {
            true => Self::Few(vec![0.0; floats]),
            false => {
                Self::Many(Memory::reserve(floats, 0).expect("there are more addresses than any memory has bytes"))
            }
        }
    }

    fn room(&self) -> usize {
        match self {
            Self::Few(floats) => floats.len(),
            Self::Many(floats) => floats.len(),
        }
    }

    fn put(&mut self, at: usize, values: &[f32]) {
        let end = at + values.len();
        match self {
            Self::Few(floats) => floats[at..end].copy_from_slice(values),
            Self::Many(floats) => {
                floats.use_to(end);
                floats[at..end].copy_from_slice(values);
            }
        }
    }
}

impl Clone for Rows {
    fn clone(&self) -> Self {
        let mut floats = Floats::with_room(self.floats.room());
        floats.put(0, self);
        Self { floats, ..*self }
    }
}

impl Deref for Rows {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        match &self.floats {
            Floats::Few(floats) => &floats[..self.used],
            Floats::Many(floats) => &floats[..self.used],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows stay what they were while their memory grows into one of its own, and in a copy.
    #[test]
    fn rows_stay_while_their_memory_grows() {
        let width = 17;
        let row = |n: usize| -> Vec<f32> { (0..width).map(|i| (n * width + i) as f32).collect() };
        let (mut rows, count) = (Rows::with_room(width, 3), OWN_FLOATS / width * 3);
        (1..count).for_each(|n| rows.push(&row(n)));
        assert_eq!(rows.count(), count);
        let copy = rows.clone();
        rows.set(5, &row(6));
        for n in [1, 2, 4, 5, 6, OWN_FLOATS / width, count - 1] {
            assert_eq!(copy[n * width..][..width], row(n), "{n}");
        }
        assert_eq!((&rows[..width], &rows[5 * width..][..width]), (&vec![0.0; width][..], &row(6)[..]));
        rows.clear();
        rows.push(&row(9));
        assert_eq!((rows.count(), &rows[width..]), (2, &row(9)[..]));
    }
}
