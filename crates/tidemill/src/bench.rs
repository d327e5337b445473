//! Benchmarks: what this machine allows, what tidemill reaches on it, and the ratio, measured in turns in one run.
//!
//! In: which cases, how many rounds, where the data lies (without any it is made). Out: figures with their spread. A figure
//! of another minute means little on a shared machine; a ratio of two that were taken in turns means something.

pub mod bare;
pub mod ceiling;
pub mod clicks;
pub mod events;
pub mod ingest;
pub mod join;
pub mod load;
pub mod serve;
pub mod train;
pub mod window;

use serde_json::{Value, json};

/// One case's figures over the rounds.
#[derive(Clone, Debug)]
pub struct Case {
    /// What was measured.
    pub name: String,
    /// Of the figures.
    pub unit: &'static str,
    /// One figure a round.
    pub values: Vec<f64>,
    /// What the machine allows, measured in the same rounds.
    pub ceilings: Vec<f64>,
    /// Whether the ratio is that of the medians, and not the median of each round's own.
    pub compares_medians: bool,
}

impl Case {
    /// A case without figures yet.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), unit, values: Vec::new(), ceilings: Vec::new(), compares_medians: false }
    }

    /// The median of each round's figure over that round's ceiling, or the median of the figures over that of the ceilings.
    pub fn ratio(&self) -> Option<f64> {
        if self.compares_medians && !self.ceilings.is_empty() {
            return Some(median(&self.values) / median(&self.ceilings));
        }
        let ratios: Vec<f64> = self.values.iter().zip(&self.ceilings).map(|(value, ceiling)| value / ceiling).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// A line of `--json`.
    pub fn to_json(&self, bench: &str) -> Value {
        json!({
            "bench": bench,
            "case": self.name,
            "value": median(&self.values),
            "unit": self.unit,
            "ceiling": (!self.ceilings.is_empty()).then(|| median(&self.ceilings)),
            "ratio": self.ratio(),
            "min": self.values.iter().copied().fold(f64::INFINITY, f64::min),
            "max": self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            "rounds": self.values.len(),
        })
    }

    /// A line of the table.
    pub fn to_text(&self) -> String {
        let number = |x: f64| match x.abs() >= 1000.0 {
            true => tidemill_base::thousands(x as u64),
            false => format!("{x:.5}"),
        };
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let spread = if least < most { format!(" ({} to {})", number(least), number(most)) } else { String::new() };
        let ceiling = self.ratio().map_or(String::new(), |ratio| {
            format!("   {:.0}% of the ceiling, {}", ratio * 100.0, number(median(&self.ceilings)))
        });
        format!("{:<38} {:>12} {}{spread}{ceiling}", self.name, number(median(&self.values)), self.unit)
    }
}

/// The middle of some figures; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}
