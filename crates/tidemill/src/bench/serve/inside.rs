//! Scoring without any server around it, on the core that this process is on.
//!
//! In: models of random parameters, whose speed is that of learned ones. Out: how fast a ranking expression goes over columns;
//! look-ups of 39 keys beside the shortest loop that looks up as many; a network of two layers of 400 over 26 embeddings of
//! 16 and 13 numbers, one sample at a time and 64 at once.

use tidemill_base::{Clock, Result, Rng, SystemClock};
use tidemill_model::{
    Snapshot,
    entries::Entries,
    feature::Features,
    loss::Loss,
    math::sigmoid,
    model::{Deep, LearnerSpec, ModelSpec},
    weights::{ScoreScratch, WeightTable},
};
use tidemill_serve::rank::{Column, ColumnType, Config, Known, Output, Program, RunScratch};

use super::{
    super::{Case, ceiling::FlatTable, load::Times},
    FLOATS, Group, Stage,
    over_http::TURNS,
};

pub(super) const GROUP: Group = Group { cases: &CASES, usual: CASES.len(), measure };

const CASES: [(&str, &str); 4] = [
    ("ranking expression, in process", "items/s"),
    ("score in process, 39 keys of a large table", "samples/s"),
    ("mlp 400-400 in process, one sample, p50", "us"),
    ("mlp 400-400 in process, 64 at once", "samples/s"),
];

const IN_MEMORY: &str = "a table in memory has nothing to wait for";
/// What is popular, as long as it is new: a gauss of the age times the popularity.
const EXPRESSION: &str = r#"{"functions": {"simple_gauss": {"base": "decay_gauss", "scale": "5d", "offset": "1d",
    "decay": 0.3}}, "defaults": {"popularity": 1}, "score": "simple_gauss(time) * popularity"}"#;
const ITEMS: usize = 1_000;
const NOW_MS: i64 = 1_795_000_000_000;

/// Entries of the large table: as many as fit where the ceiling's flat one has 2^22 cells.
const ENTRIES: usize = 2_900_000;
/// Samples with keys of their own, so that no two passes find them in a cache.
const SAMPLES: usize = 65_536;
/// Samples that are extracted and scored together elsewhere.
const BATCH: usize = 1_024;

const EMBEDDINGS: u16 = 26;
const EMBEDDING: usize = 16;
const NUMBERS: u64 = 13;
const UNITS: usize = 400;
/// Values of each embedded column.
const VALUES: u64 = 10_000;
const MLP_BATCH: usize = 64;
/// Samples to choose from.
const MLP_SAMPLES: usize = 256;

fn measure(stage: &Stage, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    tell("making models to score by in process");
    let seconds = stage.plan.seconds / TURNS as f64;
    let mut rng = Rng::seeded(7);
    let mut cases = GROUP.empty();
    let ranking = stage.wanted[0].then(|| Ranking::new(&mut rng)).transpose()?;
    let look_ups = stage.wanted[1].then(|| LookUps::new(&mut rng));
    let mlp = stage.wants(2..4).then(|| Mlp::new(&mut rng));
    for round in 1..=stage.plan.rounds {
        stage.say(tell, round, "scoring in process");
        if let Some(ranking) = &ranking {
            cases[0].values.push(ranking.per_second(stage.plan.seconds));
        }
        if let Some(look_ups) = &look_ups {
            let (ours, ceiling) = look_ups.per_second(seconds);
            cases[1].put(ours, ceiling);
        }
        if let Some(mlp) = &mlp {
            cases[2].values.push(mlp.one_by_one(stage.plan.seconds).quantile_us(0.5));
            cases[3].values.push(mlp.at_once(stage.plan.seconds));
        }
    }
    Ok(cases)
}

/// Repeats `work` for so long; how often a second.
fn per_second(seconds: f64, mut work: impl FnMut()) -> f64 {
    let clock = SystemClock::new();
    let mut times = 0u64;
    loop {
        work();
        times += 1;
        let elapsed = clock.elapsed().as_secs_f64();
        if elapsed >= seconds {
            return times as f64 / elapsed;
        }
    }
}

/// A ranking and candidates for it, as columns.
struct Ranking {
    program: Program,
    given: Vec<f64>,
    columns: Vec<Vec<f64>>,
    items: Vec<u64>,
}

impl Ranking {
    fn new(rng: &mut Rng) -> Result<Self> {
        let columns = vec![("time".into(), ColumnType::Time), ("popularity".into(), ColumnType::Number)];
        let known = Known { columns, model: "bench".into(), output: Output::Probability, open: false };
        let program = Program::compile(&Config::from_json(EXPRESSION.as_bytes())?, &known)?;
        let given = program.given(NOW_MS, &serde_json::Value::Null)?;
        let month_ms = 30.0 * 86_400_000.0;
        let mut number = |column: &Column| match column {
            Column::Number { path, .. } if path == "time" => NOW_MS as f64 - (rng.next_f64() * month_ms).floor(),
            _ => (rng.next_f64() * 1000.0).floor(),
        };
        let columns = program.columns().iter().map(|c| (0..ITEMS).map(|_| number(c)).collect()).collect();
        Ok(Self { program, given, columns, items: (0..ITEMS as u64).collect() })
    }

    fn per_second(&self, seconds: f64) -> f64 {
        let columns: Vec<&[f64]> = self.columns.iter().map(Vec::as_slice).collect();
        let (mut scratch, mut scores) = (RunScratch::default(), vec![0.0; ITEMS]);
        let pages = per_second(seconds, || {
            self.program.run(&columns, &self.given, &self.items, 7, &mut scratch, &mut scores);
            std::hint::black_box(&scores);
        });
        pages * ITEMS as f64
    }
}

/// A linear model whose table is in no cache, and samples of random keys of it.
struct LookUps {
    weights: WeightTable,
    samples: Vec<Features>,
    flat: FlatTable,
}

impl LookUps {
    fn new(rng: &mut Rng) -> Self {
        let mut keys: Vec<u64> = (0..ENTRIES).map(|_| rng.next_u64() | 1).collect();
        keys.sort_unstable();
        keys.dedup();
        let params: Vec<f32> = keys.iter().map(|_| (rng.next_f64() - 0.5) as f32).collect();
        let mut samples = vec![Features::new(); SAMPLES / BATCH];
        for features in &mut samples {
            for _ in 0..BATCH {
                let mut sample = [(0, 0, 1.0); FLOATS];
                for (slot, feature) in sample.iter_mut().enumerate() {
                    *feature = (slot as u16, keys[rng.below(keys.len() as u64) as usize], 1.0);
                }
                features.push(&sample);
            }
        }
        let flat = FlatTable::new(&keys, &params);
        let slots = (0..FLOATS).map(|i| format!("f{i}")).collect();
        let entries = Entries { width: 1, keys, params };
        let weights = WeightTable::from_snapshot(&Snapshot { slots, entries, ..Snapshot::default() });
        Self { weights, samples, flat }
    }

    /// Samples a second, ours and the ceiling's, in turns.
    fn per_second(&self, seconds: f64) -> (f64, f64) {
        let (mut scratch, mut scores) = (ScoreScratch::default(), Vec::new());
        let mut rates = [Vec::new(), Vec::new()];
        let mut at = 0;
        for _ in 0..TURNS {
            for (which, rates) in rates.iter_mut().enumerate() {
                let batches = per_second(seconds / 2.0, || {
                    let features = &self.samples[at % self.samples.len()];
                    at += 1;
                    scores.clear();
                    match which {
                        0 => self.weights.score(features, &mut scratch, &mut scores).expect(IN_MEMORY),
                        _ => self.flat.score(features, &mut scores),
                    }
                    scores.iter_mut().for_each(|score| *score = sigmoid(*score));
                    std::hint::black_box(&scores);
                });
                rates.push(batches * BATCH as f64);
            }
        }
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        (mean(&rates[0]), mean(&rates[1]))
    }
}

/// Embeddings and two layers of 400. The 13 numbers are one slot of 13 keys: 432 inputs, where embeddings beside bare
/// numbers would be 429.
struct Mlp {
    weights: WeightTable,
    samples: Vec<Features>,
    batches: Vec<Features>,
}

impl Mlp {
    fn new(rng: &mut Rng) -> Self {
        let key = |slot: u16, value: u64| tidemill_base::rng::mix64(u64::from(slot) << 32 | value) | 1;
        let embedded = (0..EMBEDDINGS).flat_map(|slot| (0..VALUES).map(move |value| key(slot, value)));
        let mut keys: Vec<u64> = embedded.chain((0..NUMBERS).map(|i| key(EMBEDDINGS, i))).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut normal =
            |n: usize, spread: f64| -> Vec<f32> { (0..n).map(|_| (rng.normal() * spread) as f32).collect() };
        let params = normal(keys.len() * EMBEDDING, 0.1);
        let inputs = (usize::from(EMBEDDINGS) + 1) * EMBEDDING;
        let mut dense = Vec::new();
        for (inputs, outputs) in [(inputs, UNITS), (UNITS, UNITS), (UNITS, 1)] {
            dense.extend(normal(inputs * outputs, (2.0 / inputs as f64).sqrt()));
            dense.extend(normal(outputs, 0.01));
        }
        let deep = Deep { embedding: EMBEDDING, spread: 0.1, layers: vec![UNITS, UNITS], dropout: 0.0 };
        let model = ModelSpec { learner: LearnerSpec::Mlp(deep), loss: Loss::Logistic };
        let slots = (0..=EMBEDDINGS).map(|slot| format!("s{slot}")).collect();
        let entries = Entries { width: EMBEDDING, keys, params };
        let weights = WeightTable::from_snapshot(&Snapshot { model, slots, entries, dense, ..Snapshot::default() });
        let mut sample = || {
            let mut features: Vec<(u16, u64, f32)> =
                (0..EMBEDDINGS).map(|slot| (slot, key(slot, rng.below(VALUES)), 1.0)).collect();
            features.extend((0..NUMBERS).map(|i| (EMBEDDINGS, key(EMBEDDINGS, i), rng.next_f64() as f32)));
            features
        };
        let mut of = |samples: usize| {
            let mut features = Features::new();
            (0..samples).for_each(|_| features.push(&sample()));
            features
        };
        let samples = (0..MLP_SAMPLES).map(|_| of(1)).collect();
        let batches = (0..MLP_SAMPLES / MLP_BATCH).map(|_| of(MLP_BATCH)).collect();
        Self { weights, samples, batches }
    }

    /// How long one sample takes, one after the other.
    fn one_by_one(&self, seconds: f64) -> Times {
        let (mut scratch, mut scores) = (ScoreScratch::default(), Vec::new());
        let clock = SystemClock::new();
        let mut times = Times::default();
        let mut at = 0;
        per_second(seconds, || {
            let begin = clock.elapsed();
            scores.clear();
            self.weights.score(&self.samples[at % MLP_SAMPLES], &mut scratch, &mut scores).expect(IN_MEMORY);
            std::hint::black_box(sigmoid(scores[0]));
            times.count(clock.elapsed() - begin);
            at += 1;
        });
        times
    }

    /// Samples a second, 64 at once.
    fn at_once(&self, seconds: f64) -> f64 {
        let (mut scratch, mut scores) = (ScoreScratch::default(), Vec::new());
        let mut at = 0;
        let batches = per_second(seconds, || {
            scores.clear();
            self.weights.score(&self.batches[at % self.batches.len()], &mut scratch, &mut scores).expect(IN_MEMORY);
            scores.iter_mut().for_each(|score| *score = sigmoid(*score));
            std::hint::black_box(&scores);
            at += 1;
        });
        batches * MLP_BATCH as f64
    }
}
