//! Clicks to train on: a file that is there, or one made here, always the same.
//!
//! Made clicks have the shape of display advertising logs: 13 heavy-tailed numbers and 26 categories with a popular head
//! and a long tail, a label that depends on them, rows in the order of time.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use tidemill_base::{Error, Result, Rng, rng::mix64};
use tidemill_model::math::sigmoid;

const NUMBERS: u64 = 13;
const CATEGORIES: u64 = 26;

/// Where the data lies.
pub struct Clicks {
    /// To learn from.
    pub train: PathBuf,
    /// Later rows, for the test.
    pub test: PathBuf,
}

impl Clicks {
    /// The files `NAME.train.csv` and `NAME.test.csv` in `dir`.
    pub fn find(dir: &Path, name: &str) -> Result<Self> {
        let file = |part: &str| {
            let path = dir.join(format!("{name}.{part}.csv"));
            match path.is_file() {
                true => Ok(path),
                false => Err(Error::not_found(format!(
                    "{} is not there; leave --data out to bench on made clicks",
                    path.display()
                ))),
            }
        };
        Ok(Self { train: file("train")?, test: file("test")? })
    }

    /// Makes so many rows in `dir`, a tenth of them for the test.
    pub fn make(dir: &Path, rows: u64) -> Result<Self> {
        let clicks = Self { train: dir.join("made.train.csv"), test: dir.join("made.test.csv") };
        let mut rng = Rng::seeded(7);
        write(&clicks.train, rows - rows / 10, &mut rng)?;
        write(&clicks.test, rows / 10, &mut rng)?;
        Ok(clicks)
    }

    /// The program that learns them, with these settings, then scores the test rows.
    pub fn program(&self, learner: &str, settings: &str) -> String {
        let training = self.training(learner, settings);
        format!("{training}{}\nSELECT * FROM later TO EVALUATE bench LABEL label;\n", source("later", &self.test))
    }

    /// The program that only learns.
    pub fn training(&self, learner: &str, settings: &str) -> String {
        let boundaries = boundaries().iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let columns: Vec<String> =
            numbers().map(|n| format!("BUCKET({n}, [{boundaries}])")).chain(categories()).collect();
        format!(
            "{}\nSELECT * FROM clicks TO TRAIN {learner} WITH {settings} COLUMN {} LABEL label INTO bench;\n",
            source("clicks", &self.train),
            columns.join(", ")
        )
    }
}

fn numbers() -> impl Iterator<Item = String> {
    (1..=NUMBERS).map(|i| format!("\"I{i}\""))
}

fn categories() -> impl Iterator<Item = String> {
    (1..=CATEGORIES).map(|i| format!("\"C{i}\""))
}

fn source(name: &str, path: &Path) -> String {
    let declared: Vec<String> =
        numbers().map(|n| format!("{n} BIGINT")).chain(categories().map(|c| format!("{c} STRING"))).collect();
    format!(
        "CREATE SOURCE {name} (label BIGINT, ts BIGINT, {}) WITH (connector = 'file', path = '{}', format = 'csv');",
        declared.join(", "),
        path.display()
    )
}

/// Where floor(ln(x)^2) grows by one, for whole x: the usual buckets of such numbers.
fn boundaries() -> Vec<u64> {
    let mut all = vec![0, 1, 2];
    for k in 1..210 {
        let next = f64::from(k).sqrt().exp().ceil() as u64;
        if all.last().is_some_and(|last| *last < next) {
            all.push(next);
        }
    }
    all
}

fn write(path: &Path, rows: u64, rng: &mut Rng) -> Result<()> {
    let file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    let mut out = BufWriter::new(file);
    let names: Vec<String> =
        (1..=NUMBERS).map(|i| format!("I{i}")).chain((1..=CATEGORIES).map(|i| format!("C{i}"))).collect();
    let mut text = format!("label,ts,{}\n", names.join(","));
    for row in 0..rows {
        let mut score = -1.2f32;
        let mut fields = String::new();
        for i in 0..NUMBERS {
            fields.push(',');
            if rng.below(5) > 0 {
                let x = (rng.normal() * 1.4 + 1.5).exp() as u64;
                score += weight(i, x.min(20)) * 0.5;
                fields.push_str(&x.to_string());
            }
        }
        for i in 0..CATEGORIES {
            // The square of a square: half the rows share a few values, the rest is spread over up to a million.
            let share = rng.next_f64();
            let value = (share * share * share * share * (1u64 << (2 + i * 3 / 4)) as f64) as u64;
            score += weight(100 + i, value) * 0.35;
            fields.push_str(&format!(",{:08x}", mix64(value << 8 | i) as u32));
        }
        let label = (rng.next_f64() < f64::from(sigmoid(score))) as u8;
        text.push_str(&format!("{label},{}{fields}\n", 1_700_000_000_000 + row * 200));
        if text.len() > 1 << 20 || row + 1 == rows {
            out.write_all(text.as_bytes()).map_err(|e| Error::io("write", path, e))?;
            text.clear();
        }
    }
    out.flush().map_err(|e| Error::io("write", path, e))
}

fn weight(slot: u64, value: u64) -> f32 {
    (mix64(slot << 40 | value) % 2_000) as f32 / 1_000.0 - 1.0
}
