//! What a feature view keeps for each key: plain values, told apart from how they are kept.

use arrow::datatypes::DataType;
use tidemill_base::{
    Error, Result,
    attribute::{Attribute, Type},
};

use super::sketch::REGISTERS_MAX;

/// Columns that a view may give: a bit of a word says which of them are NULL.
pub const OUTPUTS_MAX: usize = 64;
/// Panes of a window at most (STREAMS.md asks for 288: five minutes of a day).
pub const PANES_MAX: i64 = 1440;
/// Values that `LAST` keeps at most.
pub const LAST_MAX: usize = 32;
/// Words (of four bytes) that one key may take.
pub const WORDS_MAX: usize = 1 << 16;

/// A feature view: aggregates of one key's events, read as of another event.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewSpec {
    /// Its name, for errors and figures.
    pub name: String,
    /// The streams that change it.
    pub feeds: Vec<Feed>,
    /// What it gives, column by column.
    pub aggregates: Vec<AggregateSpec>,
    /// Of the impressions (input 0): the column with the key under which they read.
    pub read_key: usize,
    /// A key without an event for longer than this begins anew.
    pub ttl_ms: i64,
    /// Keys kept; beyond it the one that has been silent longest leaves, and is counted.
    pub keys_max: usize,
}

/// One stream of events that change a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The pipeline's input: 0 the impressions, 1 the feedback.
    pub input: u32,
    /// Column of its rows with the key.
    pub key: usize,
    /// BOOLEAN column that says whether the row counts; `None`: all do.
    pub passes: Option<usize>,
}

/// One column of a view.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateSpec {
    /// The column's name.
    pub name: String,
    /// What is computed.
    pub function: Function,
    /// Of which of the view's feeds.
    pub feed: usize,
    /// Column of that feed's rows; `None`: of the events themselves.
    pub column: Option<usize>,
    /// The column's type; `Null` without one.
    pub ty: DataType,
    /// Over which stretch of event time.
    pub window: WindowSpec,
}

/// What is computed of a key's events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// How many; of a column, how many that are not NULL. Up to 2^32 - 1 in one window.
    Count,
    /// Their sum; 0 of none.
    Sum,
    /// Their mean; NULL of none.
    Mean,
    /// The least; NULL of none.
    Min,
    /// The greatest; NULL of none.
    Max,
    /// About how many different ones.
    Distinct {
        /// Bytes of the sketch: a power of two.
        registers: u32,
    },
    /// One of the last values that were not NULL, in the order in which they came.
    Last {
        /// How many are kept.
        kept: usize,
        /// Which of them: 0 is the last.
        back: usize,
    },
    /// `(a + alpha * prior) / (b + alpha)`; NULL where that divides by zero.
    Ratio {
        /// Place of a among the aggregates.
        of: usize,
        /// Place of b.
        to: usize,
        /// How many events the prior is worth.
        alpha: f64,
        /// What the ratio is without any.
        prior: f64,
    },
}

/// A stretch of event time that ends with the event that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowSpec {
    /// The pane that the event falls in and those before it: exact at its head, cut at a pane's border at its tail.
    Paned {
        /// Event milliseconds.
        pane_ms: i64,
        /// How many, that of the event included.
        panes: u32,
    },
    /// Everything since the key was last silent for longer than this.
    Session {
        /// Event milliseconds.
        gap_ms: i64,
    },
    /// Everything, where an event counts half for every half-life that has passed since.
    Decay {
        /// Event milliseconds.
        half_life_ms: i64,
    },
    /// Everything since the key was first seen.
    Lifetime,
}

impl WindowSpec {
    /// At least the last `length_ms`, and at most a pane more: the sawtooth.
    pub fn sawtooth(length_ms: i64, pane_ms: i64) -> Result<Self> {
        let panes = whole(length_ms, pane_ms, "SAWTOOTH", "pane")? + 1;
        Ok(Self::Paned { pane_ms, panes: panes as u32 })
    }

    /// The tumbling window that the event falls in, up to the event.
    pub fn tumble(length_ms: i64) -> Result<Self> {
        whole(length_ms, length_ms, "TUMBLE", "window")?;
        Ok(Self::Paned { pane_ms: length_ms, panes: 1 })
    }

    /// The oldest of the hopping windows that the event falls in, up to the event.
    pub fn hop(slide_ms: i64, length_ms: i64) -> Result<Self> {
        let panes = whole(length_ms, slide_ms, "HOP", "slide")?;
        Ok(Self::Paned { pane_ms: slide_ms, panes: panes as u32 })
    }

    /// How long an event can matter, if there is an end.
    pub fn reach_ms(&self) -> Option<i64> {
        match *self {
            Self::Paned { pane_ms, panes } => Some(pane_ms * i64::from(panes)),
            Self::Session { gap_ms } => Some(gap_ms),
            // By then an event counts less than a millionth.
            Self::Decay { half_life_ms } => Some(half_life_ms.saturating_mul(20)),
            Self::Lifetime => None,
        }
    }
}

fn whole(length_ms: i64, pane_ms: i64, window: &str, pane: &str) -> Result<i64> {
    if length_ms <= 0 || pane_ms <= 0 {
        return Err(Error::invalid(format!("{window}: a window is longer than 0")));
    }
    if length_ms % pane_ms != 0 {
        return Err(Error::invalid(format!(
            "{window}: {length_ms} ms are not a whole number of {pane}s of {pane_ms} ms; write lengths that divide"
        )));
    }
    match length_ms / pane_ms {
        panes if panes <= PANES_MAX => Ok(panes),
        panes => Err(Error::invalid(format!("{window}: {panes} {pane}s, at most {PANES_MAX}; write a longer {pane}"))),
    }
}

impl AggregateSpec {
    /// The type of the column that comes out.
    pub fn output(&self) -> DataType {
        match self.function {
            Function::Count if matches!(self.window, WindowSpec::Decay { .. }) => DataType::Float64,
            Function::Count | Function::Distinct { .. } => DataType::Int64,
            Function::Last { .. } if self.ty.is_floating() => DataType::Float64,
            Function::Last { .. } => DataType::Int64,
            Function::Sum | Function::Mean | Function::Min | Function::Max | Function::Ratio { .. } => {
                DataType::Float64
            }
        }
    }

    /// Refuses what cannot be kept, with what can.
    pub(super) fn check(&self, view: &ViewSpec) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(format!("{}.{}: {why}", view.name, self.name)));
        let number = self.ty.is_numeric() || self.ty == DataType::Boolean;
        match self.function {
            Function::Ratio { of, to, alpha, prior } => {
                let me = view.aggregates.iter().position(|a| a.name == self.name).unwrap_or(0);
                if of >= me || to >= me {
                    return refuse("RATIO takes two columns that stand before it".into());
                }
                let good = alpha >= 0.0 && alpha.is_finite() && prior.is_finite();
                return if good { Ok(()) } else { refuse(format!("RATIO with alpha {alpha} and prior {prior}")) };
            }
            Function::Distinct { registers } if !registers.is_power_of_two() || registers < 16 => {
                return refuse(format!("a sketch has a power of two of registers from 16, got {registers}"));
            }
            Function::Distinct { registers } if registers > REGISTERS_MAX => {
                return refuse(format!("a sketch has at most {REGISTERS_MAX} registers, got {registers}"));
            }
            Function::Last { kept, back } if kept == 0 || kept > LAST_MAX || back >= kept => {
                return refuse(format!("LAST keeps 1 to {LAST_MAX} values, got {kept}"));
            }
            Function::Sum | Function::Mean | Function::Min | Function::Max if !number => {
                return refuse(format!("a number is needed, this column is {}", self.ty));
            }
            _ => {}
        }
        if self.feed >= view.feeds.len() {
            return Err(Error::internal(format!("{}.{}: no feed {}", view.name, self.name, self.feed)));
        }
        let lasts = matches!(self.function, Function::Last { .. });
        match self.window {
            WindowSpec::Decay { .. } if !matches!(self.function, Function::Count | Function::Sum | Function::Mean) => {
                refuse("DECAY goes with COUNT, SUM and MEAN; take SAWTOOTH".into())
            }
            WindowSpec::Lifetime if !lasts => refuse("a window is needed: OVER SAWTOOTH (...)".into()),
            WindowSpec::Lifetime => Ok(()),
            _ if lasts => refuse("LAST keeps a number of values, not a stretch of time: leave out OVER".into()),
            _ => Ok(()),
        }
    }
}

impl ViewSpec {
    /// Refuses what cannot be kept, with what can.
    pub fn check(&self) -> Result<()> {
        if self.aggregates.is_empty() || self.aggregates.len() > OUTPUTS_MAX {
            let n = self.aggregates.len();
            return Err(Error::invalid(format!(
                "{}: a feature view has 1 to {OUTPUTS_MAX} columns, got {n}",
                self.name
            )));
        }
        if self.ttl_ms <= 0 || self.keys_max == 0 {
            return Err(Error::invalid(format!("{}: ttl and keys_max are greater than 0", self.name)));
        }
        self.aggregates.iter().try_for_each(|a| a.check(self))
    }

    /// How long a silent key is kept when nobody says: until nothing of it can matter, or thirty days for its last values.
    pub fn ttl_of(aggregates: &[AggregateSpec]) -> i64 {
        const LAST_TTL_MS: i64 = 30 * 86_400_000;
        let of = |a: &AggregateSpec| match a.function {
            Function::Ratio { .. } => 1,
            _ => a.window.reach_ms().unwrap_or(LAST_TTL_MS),
        };
        aggregates.iter().map(of).max().unwrap_or(LAST_TTL_MS)
    }
}

/// What `CREATE FEATURE VIEW ... WITH (...)` takes.
pub static ATTRIBUTES: [Attribute; 2] = [
    Attribute {
        name: "ttl",
        ty: Type::Duration,
        default: None,
        doc: "a key without an event for longer begins anew; when absent, once nothing of it can matter any more, 30 days \
              with LAST",
    },
    Attribute {
        name: "keys_max",
        ty: Type::Integer { min: 1, max: 1 << 31 },
        default: Some("10000000"),
        doc: "keys kept; beyond it those that have been silent longest leave, and are counted",
    },
];
