//! What the machine allows: the shortest loops that do the arithmetic and the memory accesses and nothing else.

use std::{path::Path, time::Duration};

use tidemill_base::{Clock, Result, SystemClock};
use tidemill_model::{
    feature::Features,
    math::sigmoid,
    optimizer::{Ftrl, Pair},
};

use crate::engine::{Lesson, LessonReader};

/// Weights of the flat table, as Vowpal Wabbit's `-b 22`.
const TABLE_BITS: u32 = 22;
/// Features ahead for which memory is asked.
const AHEAD: usize = 48;
/// Samples held in memory at most.
const SAMPLES_MAX: usize = 500_000;

/// Samples as places in a flat table.
pub struct HashedSamples {
    places: Vec<u32>,
    ends: Vec<u32>,
    labels: Vec<f32>,
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
struct Cell {
    z: f32,
    n: f32,
    /// So that a cell takes what an entry with its key takes.
    _key: u64,
}

impl HashedSamples {
    /// The first samples of a job's kept features.
    pub fn read(job_dir: &Path) -> Result<Self> {
        let mut samples = Self { places: Vec::new(), ends: Vec::new(), labels: Vec::new() };
        let mut reader = LessonReader::open(job_dir)?;
        let mut lesson = Lesson::default();
        while samples.labels.len() < SAMPLES_MAX && reader.next(&mut lesson)? {
            let before = samples.places.len() as u32;
            samples.places.extend(lesson.features.keys.iter().map(|key| (key >> (64 - TABLE_BITS)) as u32));
            samples.ends.extend(lesson.features.ends.iter().map(|end| before + end));
            samples.labels.extend(&lesson.labels);
        }
        Ok(samples)
    }

    /// Samples a second of FTRL on a flat table that needs no search: predict, step, sample by sample, memory asked for
    /// well ahead. One warm-up pass, then one that counts.
    pub fn ftrl_per_second(&self) -> f64 {
        let mut table = vec![Cell::default(); 1 << TABLE_BITS];
        let rule = Ftrl::new(0.1, 1.0, 0.0, 0.0);
        let clock = SystemClock::new();
        let mut took = Duration::ZERO;
        for _ in 0..2 {
            let begin = clock.elapsed();
            self.pass(&mut table, &rule);
            took = clock.elapsed() - begin;
        }
        self.labels.len() as f64 / took.as_secs_f64()
    }

    fn pass(&self, table: &mut [Cell], rule: &Ftrl) {
        let mut begin = 0;
        for (end, label) in self.ends.iter().zip(&self.labels) {
            let range = begin..*end as usize;
            begin = range.end;
            let mut score = 0.0f32;
            for i in range.clone() {
                if let Some(ahead) = self.places.get(i + AHEAD) {
                    tidemill_model::prefetch(table, *ahead as usize);
                }
                let cell = &table[self.places[i] as usize];
                score += rule.weight(cell.z, cell.n);
            }
            let gradient = sigmoid(score) - label;
            for i in range {
                let cell = &mut table[self.places[i] as usize];
                if let Some((z, n)) = Pair::checked_step(rule, cell.z, cell.n, gradient, 1.0) {
                    (cell.z, cell.n) = (z, n);
                }
            }
        }
    }
}

/// The weights of a linear model where no search is needed to find them.
pub struct FlatTable {
    cells: Vec<Cell>,
}

impl FlatTable {
    /// As many cells as Vowpal Wabbit's `-b 22` has; of keys that share one the last stays.
    pub fn new(keys: &[u64], weights: &[f32]) -> Self {
        let mut cells = vec![Cell::default(); 1 << TABLE_BITS];
        for (key, weight) in keys.iter().zip(weights) {
            cells[place(*key)].z = *weight;
        }
        Self { cells }
    }

    /// Appends the sum of weights of each sample: a cell for each key, memory asked for well ahead, and nothing else.
    pub fn score(&self, features: &Features, scores: &mut Vec<f32>) {
        let keys = &features.keys;
        let mut begin = 0;
        for end in &features.ends {
            let mut score = 0.0f32;
            for i in begin..*end as usize {
                if let Some(ahead) = keys.get(i + AHEAD) {
                    tidemill_model::prefetch(&self.cells, place(*ahead));
                }
                score += self.cells[place(keys[i])].z;
            }
            begin = *end as usize;
            scores.push(score);
        }
    }
}

fn place(key: u64) -> usize {
    (key >> (64 - TABLE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_table_adds_up_weights() {
        let (keys, weights) = ([1 << 42, 5 << 42, 9 << 42], [1.0, 2.0, 4.0]);
        let mut features = Features::new();
        features.push(&[(0, keys[0], 1.0), (1, keys[2], 1.0)]);
        features.push(&[(0, keys[1], 1.0), (1, 7 << 42, 1.0)]);
        let mut scores = Vec::new();
        FlatTable::new(&keys, &weights).score(&features, &mut scores);
        assert_eq!(scores, [5.0, 2.0]);
    }
}
