//! The label join's values: what to join and how, what comes out, what was counted.
//!
//! Plain values without behaviour, but for the signed weight that follows from a sample's kind.

use arrow::array::RecordBatch;

/// What a sample row is; its signed weight follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SampleKind {
    /// The label is final. Weight 1.
    Final,
    /// The label known so far; may be corrected. Weight 1.
    Early,
    /// Takes an early sample back. Weight -1; its [`SampleKind::Correct`] follows at once.
    Retract,
    /// Replaces what was just retracted. Weight 1.
    Correct,
    /// Says the label of a sample whose earlier row stays, or was never learned. Weight 1, times what
    /// [`Correction`] makes of it.
    Late,
    /// A negative that was sampled out: predicted and scored, so that figures are those of the whole stream. Weight 0.
    Unlearned,
    /// Tells the final label of a sample that left before, for scoring. Weight 0, and no learner sees it.
    Closed,
}

impl SampleKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Final, Self::Early, Self::Retract, Self::Correct, Self::Late, Self::Unlearned, Self::Closed];

    /// The signed weight of such a row, before sampling and corrections change its size.
    pub fn weight(self) -> f32 {
        match self {
            Self::Final | Self::Early | Self::Correct | Self::Late => 1.0,
            Self::Retract => -1.0,
            Self::Unlearned | Self::Closed => 0.0,
        }
    }
}

/// Impression `seq` has its final label.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Matured {
    /// Arrival number of the impression.
    pub seq: u64,
    /// Where the label is whether feedback matched: 1 when it did, else 0. Elsewhere NaN: the program says the label of
    /// the row that left with it, or before it.
    pub label: f32,
}

/// When a sample leaves (the `EMIT` clause).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Emit {
    /// Once the watermark passes the end of the attribution window.
    OnWindowClose,
    /// A positive when its feedback matches, a negative once the watermark passes the window's end. While traffic grows,
    /// positives of many impressions stand beside negatives of few: predictions are too high.
    OnMatch,
    /// `delay_ms` after the impression with the label known so far; a later match corrects.
    Early {
        /// Event milliseconds; 0 emits at once.
        delay_ms: i64,
    },
}

/// What happens when feedback comes after its sample has left (the `CORRECT` word).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Correction {
    /// The earlier row is taken back and replaced.
    #[default]
    Retract,
    /// The earlier negative stays, a positive follows, and all are weighed by the prediction so that both together are
    /// right (Ktena et al., "Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR
    /// Prediction", RecSys 2019, FN weighted).
    Fnw,
    /// The same with the share of feedback that comes late, counted online (Yang et al., "Capturing Delayed Feedback in
    /// Conversion Rate Prediction via Elapsed-Time Sampling", AAAI 2021).
    Elapsed,
    /// It is counted and not learned.
    None,
}

/// How the model is told that negatives were sampled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SamplingMode {
    /// Each that is kept counts for all it stands for: weight `1 / r`.
    Weight,
    /// Scores are learned less `ln r`, and served as they are.
    Logit,
}

/// Negatives that are learned from (`NEGATIVE SAMPLE r`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct NegativeSample {
    /// The share of them.
    pub share: f64,
    /// How it is made good.
    pub mode: SamplingMode,
    /// Another seed chooses others.
    pub seed: u64,
}

/// What happens when more waits than may (`join.when_full`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// The oldest leaves with the label known so far, and is counted.
    #[default]
    Release,
    /// Rows beyond the bytes go to files and come back when they leave; `pending_bytes_max` is that of rows in memory. Beyond
    /// the count the oldest leaves.
    Spill,
    /// The join says so and takes nothing more.
    Stop,
}

/// What an impression takes from a column of the feedback that matches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Take {
    /// The value of the first by event time; NULL without.
    #[default]
    First,
    /// The value of the last by event time; NULL without.
    Last,
    /// How many have a value; a BIGINT, 0 without.
    Count,
    /// The sum of a DOUBLE; NULL without. NULL and NaN do not count.
    Sum,
    /// The largest of a DOUBLE; NULL without. NULL and NaN do not count.
    Max,
}

/// One type of feedback: its key, its attribution window, and what is taken from it.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedbackSpec {
    /// Key column of the impressions.
    pub left_key: usize,
    /// Key column of the feedback; of the same type.
    pub right_key: usize,
    /// Attribution window, event milliseconds.
    pub window_ms: i64,
    /// One for each column of the feedback.
    pub takes: Vec<Take>,
}

/// What to join and how.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinSpec {
    /// The types of feedback, at least one. A sample leaves by the longest of their windows.
    pub feedback: Vec<FeedbackSpec>,
    /// When a sample leaves.
    pub emit: Emit,
    /// What later feedback does.
    pub correction: Correction,
    /// Which negatives are learned from; `None`: all.
    pub sample: Option<NegativeSample>,
    /// Whether the label is that feedback matched; else every change of what matched may change it.
    pub label_is_match: bool,
    /// Event milliseconds behind the window's end in which feedback still corrects a sample.
    pub correction_ttl_ms: i64,
    /// Event milliseconds behind the watermark in which an impression is still let in.
    pub allowed_lateness_ms: i64,
    /// Impressions that may wait.
    pub pending_count_max: usize,
    /// Bytes that may wait, by [`super::LabelJoin::held_bytes`].
    pub pending_bytes_max: usize,
    /// What happens beyond either.
    pub when_full: WhenFull,
    /// The feedback whose key identifies the impression, if one does: a second impression with that key is a duplicate.
    pub dedup: Option<usize>,
}

impl JoinSpec {
    /// Whether the first match says all: nothing that comes later changes a label.
    pub fn is_fixed_at_match(&self) -> bool {
        let is_first = |f: &FeedbackSpec| f.takes.iter().all(|take| *take == Take::First);
        self.feedback.len() == 1 && is_first(&self.feedback[0])
    }

    /// The window by which a sample leaves: the longest.
    pub fn window_ms(&self) -> i64 {
        self.feedback.iter().map(|f| f.window_ms).max().unwrap_or(0)
    }
}

/// What the join has counted since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinCounts {
    /// Impressions let in.
    pub impressions: u64,
    /// Feedback rows seen.
    pub feedback: u64,
    /// Impressions that matured with feedback.
    pub positives: u64,
    /// Impressions that matured without.
    pub negatives: u64,
    /// Impressions dropped because an equal key was still known.
    pub duplicate_impressions: u64,
    /// Impressions dropped because the watermark had passed them, by more than lateness is allowed.
    pub late_impressions: u64,
    /// Feedback that matched nothing and came after the watermark had passed it.
    pub late_feedback: u64,
    /// Feedback whose impression never came.
    pub unmatched_feedback: u64,
    /// Impressions that left early because too many waited, or too many bytes.
    pub released_early: u64,
    /// Samples corrected after they had left.
    pub corrections: u64,
    /// Those of them that were corrected behind their window's end.
    pub corrected_behind_close: u64,
    /// Matches that came after their sample had left and were not learned (`CORRECT NONE`).
    pub corrections_left_out: u64,
    /// Negatives that were sampled out.
    pub negatives_left_out: u64,
    /// Feedback that waited for its impression and left because too many bytes waited.
    pub feedback_released: u64,
    /// Positives whose window is over.
    pub closed_positives: u64,
    /// Those of them whose feedback came after their sample had left.
    pub closed_late_positives: u64,
    /// Impressions let in although the watermark had passed them.
    pub late_let_in: u64,
    /// Those of `duplicate_impressions` that said something else than the one that was let in.
    pub conflicting_impressions: u64,
}

impl JoinCounts {
    /// The share of positives whose feedback comes after their sample has left, by those whose window is over; one of two
    /// before anything is known.
    pub fn late_share(&self) -> f32 {
        ((self.closed_late_positives + 1) as f64 / (self.closed_positives + 2) as f64) as f32
    }
}

/// What the join holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JoinState {
    /// Impressions whose label is not final.
    pub open: usize,
    /// Samples that may still be corrected, kept with their rows.
    pub remembered: usize,
    /// Keys of impressions that left, kept so that a second one is known as a duplicate.
    pub known: usize,
    /// Feedback that may yet meet its impression.
    pub feedback: usize,
    /// Bytes of the impressions' rows in memory.
    pub impression_bytes: usize,
    /// Bytes of the feedback's rows in memory.
    pub feedback_bytes: usize,
    /// Bytes of rows in spill files.
    pub spilled_bytes: usize,
    /// Bytes of those keys.
    pub known_bytes: usize,
    /// Bytes of slots, indexes and queues beside them.
    pub index_bytes: usize,
}

impl JoinState {
    /// All bytes in memory.
    pub fn bytes(&self) -> usize {
        self.impression_bytes + self.feedback_bytes + self.known_bytes + self.index_bytes
    }
}

/// Samples that left the join in one mini-batch.
#[derive(Debug)]
pub struct JoinOutput {
    /// Left columns, then those of each feedback (NULL where nothing matched).
    pub rows: RecordBatch,
    /// One per row.
    pub kinds: Vec<SampleKind>,
    /// Arrival number of each row's impression.
    pub seqs: Vec<u64>,
    /// The size of each row's weight, where negatives are sampled by weight; its sign follows from the kind.
    pub weights: Option<Vec<f32>>,
    /// Impressions whose label became final.
    pub matured: Vec<Matured>,
}

/// Why an impression was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotLetIn {
    /// The watermark had passed it.
    Late,
    /// An equal key is still known.
    Duplicate,
    /// The same, and the impression that has it says something else: what, in words.
    Conflict(String),
}
