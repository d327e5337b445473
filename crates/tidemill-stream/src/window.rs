//! Step 2, the window: every event gets its time and its computed columns; the watermark follows.
//!
//! In: a partition's chunks. Out: wider rows with their event times, and for every mini-batch the watermark: no more
//! events with `ts <= watermark` are expected. A partition's watermark is its largest event time less the declared bound,
//! an input's the least of its partitions that are neither idle nor finished (where all are idle it stays), the query's the
//! least of its inputs; it never goes back. Windowed aggregates are not built; SQL refuses them.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch, UInt32Array},
    datatypes::{DataType, Int64Type, TimestampMillisecondType},
};
use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
};

use crate::{Chunk, Position, Refused, Transform, chunk::EXCERPT_BYTES_MAX};

/// The watermark when everything has been seen.
pub const END_OF_TIME: i64 = i64::MAX;
/// The latest event time let in: the end of the year 9999.
pub const EVENT_TIME_MAX_MS: i64 = 253_402_300_799_999;

/// Bytes of an event's id at most.
pub const EVENT_ID_BYTES_MAX: usize = 1_024;

/// How the events of one input are widened.
#[derive(Clone)]
pub struct Window {
    /// Source columns to source columns and computed ones.
    pub computed: Option<Arc<dyn Transform>>,
    /// Column of what `computed` gives that holds the event time; `None`: the order of rows is their time.
    pub event_time: Option<usize>,
    /// Source column that identifies an event, if one does: an event without it is refused.
    pub id: Option<usize>,
    /// Projection and filter of the views over the source.
    pub view: Option<Arc<dyn Transform>>,
}

/// A chunk after widening. Rows that a view's filter dropped still count as events: their offsets and times are here.
#[derive(Debug)]
pub struct WideChunk {
    /// Rows that passed the filter.
    pub rows: RecordBatch,
    /// Event time of every event let in, epoch ms; 0 without an event time.
    pub event_times: Vec<i64>,
    /// Offset of every event let in.
    pub offsets: Vec<u64>,
    /// For each event let in, how many of `rows` stand before it; `None` when all passed.
    pub rows_before: Option<Vec<u32>>,
    /// Where the chunk begins in its partition.
    pub start: Position,
    /// Where it ends.
    pub end: Position,
    /// Events that were not let in, by offset.
    pub refused: Vec<Refused>,
    /// Offsets of those among them that the source could not read.
    pub unreadable: Vec<u64>,
}

impl Window {
    /// Widens a chunk. An event whose id is missing, or whose time is missing or out of range, is refused.
    pub fn widen(&self, chunk: Chunk) -> Result<WideChunk> {
        let mut offsets: Vec<u64> = match chunk.offsets {
            Some(offsets) => offsets,
            None => (chunk.start.offset..chunk.start.offset + chunk.rows.num_rows() as u64).collect(),
        };
        let mut refused = chunk.refused;
        let unreadable = refused.iter().map(|r| r.offset).collect();
        let mut rows = chunk.rows;
        if let Some(computed) = &self.computed {
            let t = computed.apply(&rows)?;
            refuse(&mut refused, &t.refused, &offsets, &rows);
            keep(&mut offsets, t.kept.as_deref());
            rows = t.rows;
        }
        let mut bad = self.id.map_or(Vec::new(), |column| bad_ids(&rows, column));
        let mut event_times = match self.event_time {
            None => vec![0; rows.num_rows()],
            Some(column) => {
                let (times, out_of_range) = event_times(&rows, column)?;
                bad.extend(out_of_range);
                times
            }
        };
        if !bad.is_empty() {
            // The first reason of a row is the one that is told.
            bad.sort_by_key(|b| b.0);
            bad.dedup_by_key(|b| b.0);
            refuse(&mut refused, &bad, &offsets, &rows);
            let kept: Vec<u32> =
                (0..rows.num_rows() as u32).filter(|i| bad.binary_search_by_key(i, |b| b.0).is_err()).collect();
            keep(&mut offsets, Some(&kept));
            event_times = kept.iter().map(|&i| event_times[i as usize]).collect();
            rows = arrow::compute::take_record_batch(&rows, &UInt32Array::from(kept))
                .map_err(|e| Error::internal(format!("window: {e}")))?;
        }
        let mut rows_before = None;
        if let Some(view) = &self.view {
            let t = view.apply(&rows)?;
            refuse(&mut refused, &t.refused, &offsets, &rows);
            if let Some(kept) = &t.kept {
                let mut before = Vec::with_capacity(offsets.len() + 1);
                let mut passed = kept.iter().peekable();
                let mut count = 0;
                for i in 0..offsets.len() as u32 {
                    before.push(count);
                    if passed.next_if_eq(&&i).is_some() {
                        count += 1;
                    }
                }
                before.push(count);
                rows_before = Some(before);
            }
            rows = t.rows;
        }
        refused.sort_by_key(|r| r.offset);
        let (start, end) = (chunk.start, chunk.end);
        Ok(WideChunk { rows, event_times, offsets, rows_before, start, end, refused, unreadable })
    }
}

impl WideChunk {
    /// The rows of events `from..to` that passed the filter, and their event times.
    pub fn slice(&self, from: usize, to: usize) -> (RecordBatch, Vec<i64>) {
        match &self.rows_before {
            None => (self.rows.slice(from, to - from), self.event_times[from..to].to_vec()),
            Some(before) => {
                let (a, b) = (before[from] as usize, before[to] as usize);
                let times = (from..to).filter(|&i| before[i + 1] > before[i]).map(|i| self.event_times[i]).collect();
                (self.rows.slice(a, b - a), times)
            }
        }
    }

    /// Refuses event `i` for its time, which is beyond `latest`.
    pub fn refuse_ahead(&self, i: usize, latest: i64) -> Refused {
        let row = match &self.rows_before {
            None => Some(i),
            Some(before) => (before[i + 1] > before[i]).then_some(before[i] as usize),
        };
        Refused {
            offset: self.offsets[i],
            reason: ahead_reason(self.event_times[i], latest),
            excerpt: row.map(|row| row_text(&self.rows, row)).unwrap_or_default(),
        }
    }

    /// Events let in.
    pub fn events(&self) -> usize {
        self.offsets.len()
    }
}

/// Why an event beyond the latest time let in is refused.
pub(crate) fn ahead_reason(ts: i64, latest: i64) -> String {
    let seconds = ts.saturating_sub(latest) / 1000;
    format!(
        "event time {ts} is {seconds} s farther ahead of the clock than time.ahead_max allows; \
         is it in another unit, or of another year?"
    )
}

fn refuse(refused: &mut Vec<Refused>, reasons: &[(u32, String)], offsets: &[u64], rows: &RecordBatch) {
    refused.extend(reasons.iter().map(|(i, reason)| Refused {
        offset: offsets[*i as usize],
        reason: reason.clone(),
        excerpt: row_text(rows, *i as usize),
    }));
}

fn row_text(rows: &RecordBatch, i: usize) -> String {
    let mut text = String::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if text.len() > EXCERPT_BYTES_MAX {
            break;
        }
        let value = arrow::util::display::array_value_to_string(column, i).unwrap_or_default();
        text.push_str(&format!("{}={value} ", field.name()));
    }
    crate::chunk::excerpt(text.trim_end().as_bytes())
}

fn keep(offsets: &mut Vec<u64>, kept: Option<&[u32]>) {
    if let Some(kept) = kept {
        *offsets = kept.iter().map(|&i| offsets[i as usize]).collect();
    }
}

/// Rows by index, each with the reason why it is not let in.
type Bad = Vec<(u32, String)>;

/// Rows whose id is missing, or no id.
fn bad_ids(rows: &RecordBatch, column: usize) -> Bad {
    let array = rows.column(column);
    let name = rows.schema_ref().field(column).name();
    let mut bad: Bad = Vec::new();
    if array.null_count() > 0 {
        let missing = (0..array.len()).filter(|&i| array.is_null(i));
        bad.extend(missing.map(|i| (i as u32, format!("event id '{name}' is missing"))));
    }
    if let Some(text) = array.as_string_opt::<i32>() {
        for (i, ends) in text.value_offsets().windows(2).enumerate() {
            match (ends[1] - ends[0]) as usize {
                0 if text.is_valid(i) => bad.push((i as u32, format!("event id '{name}' is empty"))),
                bytes if bytes > EVENT_ID_BYTES_MAX => {
                    bad.push((
                        i as u32,
                        format!("event id '{name}' has {bytes} bytes; at most {EVENT_ID_BYTES_MAX} are taken"),
                    ));
                }
                _ => {}
            }
        }
    }
    bad
}

/// Event times of all rows, and the rows whose time cannot be.
fn event_times(rows: &RecordBatch, column: usize) -> Result<(Vec<i64>, Bad)> {
    let array = rows.column(column);
    let times: Vec<i64> = match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values().to_vec(),
        DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values().to_vec()
        }
        t => {
            return Err(Error::invalid(format!(
                "event time '{}' has type {t}; it must be BIGINT (epoch milliseconds) or TIMESTAMP",
                rows.schema_ref().field(column).name()
            )));
        }
    };
    let name = rows.schema_ref().field(column).name();
    let mut bad = Vec::new();
    for (i, &ts) in times.iter().enumerate() {
        let reason = if array.is_null(i) {
            format!("event time '{name}' is missing")
        } else if ts < 0 {
            format!("event time '{name}' = {ts} is before 1970")
        } else if ts > EVENT_TIME_MAX_MS {
            format!(
                "event time '{name}' = {ts} is after the year 9999; is it in microseconds? milliseconds are expected"
            )
        } else {
            continue;
        };
        bad.push((i as u32, reason));
    }
    Ok((times, bad))
}

/// The watermark of a query with one or more inputs.
#[derive(Clone, Debug)]
pub struct Watermarks {
    inputs: Vec<InputMarks>,
    value: i64,
}

#[derive(Clone, Debug)]
struct InputMarks {
    bound_ms: i64,
    partitions: Vec<PartitionMark>,
}

#[derive(Clone, Copy, Debug)]
struct PartitionMark {
    max_ts: i64,
    idle: bool,
    finished: bool,
}

impl Watermarks {
    /// One entry per input: by how many event milliseconds its events may be out of order.
    pub fn new(bounds_ms: impl IntoIterator<Item = i64>) -> Self {
        let inputs = bounds_ms.into_iter().map(|bound_ms| InputMarks { bound_ms, partitions: Vec::new() }).collect();
        Self { inputs, value: i64::MIN }
    }

    /// Adds a partition that has shown nothing yet. An idle one does not hold the watermark.
    pub fn add_partition(&mut self, input: usize, idle: bool) {
        self.inputs[input].partitions.push(PartitionMark { max_ts: i64::MIN, idle, finished: false });
    }

    /// Events up to `max_ts` were seen.
    pub fn observe(&mut self, input: usize, partition: usize, max_ts: i64) {
        let mark = &mut self.inputs[input].partitions[partition];
        mark.max_ts = mark.max_ts.max(max_ts);
    }

    /// The partition has been silent for its timeout, or is no longer.
    pub fn set_idle(&mut self, input: usize, partition: usize, idle: bool) {
        self.inputs[input].partitions[partition].idle = idle;
    }

    /// Whether the partition is idle.
    pub fn is_idle(&self, input: usize, partition: usize) -> bool {
        self.inputs[input].partitions[partition].idle
    }

    /// The partition's last row was seen.
    pub fn finish(&mut self, input: usize, partition: usize) {
        self.inputs[input].partitions[partition].finished = true;
    }

    /// Whether the partition's last row was seen.
    pub fn is_finished(&self, input: usize, partition: usize) -> bool {
        self.inputs[input].partitions[partition].finished
    }

    /// The latest event time seen.
    pub fn event_time_max(&self) -> Option<i64> {
        let all = self.inputs.iter().flat_map(|i| &i.partitions).map(|p| p.max_ts);
        all.max().filter(|ts| *ts != i64::MIN)
    }

    /// The latest event time seen of one partition.
    pub fn event_time_max_of(&self, input: usize, partition: usize) -> Option<i64> {
        Some(self.inputs[input].partitions[partition].max_ts).filter(|ts| *ts != i64::MIN)
    }

    /// The watermark behind the last mini-batch.
    pub fn value(&self) -> i64 {
        self.value
    }

    /// The watermark of one input alone: the least of its partitions'.
    pub fn of_input(&self, input: usize) -> i64 {
        self.inputs[input].watermark()
    }

    /// The watermark after all that was told so far.
    pub fn advance(&mut self) -> i64 {
        let now = self.inputs.iter().map(InputMarks::watermark).min().unwrap_or(i64::MIN);
        self.value = self.value.max(now);
        self.value
    }

    /// Appends the whole state.
    pub fn encode(&self, out: &mut Encoder) {
        out.put_i64(self.value);
        for input in &self.inputs {
            out.put_varint(input.partitions.len() as u64);
            for p in &input.partitions {
                out.put_i64(p.max_ts).put_u8(p.idle as u8).put_u8(p.finished as u8);
            }
        }
    }

    /// Takes back what [`Watermarks::encode`] wrote; the inputs must be the same, and each have so many partitions.
    pub fn restore(&mut self, d: &mut Decoder, partitions: &[usize]) -> Result<()> {
        self.value = d.i64()?;
        for (input, partitions) in self.inputs.iter_mut().zip(partitions) {
            input.partitions.clear();
            let count = d.count(10)?;
            if count != *partitions {
                return Err(Error::corrupt(format!(
                    "watermarks of {count} partitions, of which there are {partitions}"
                )));
            }
            for _ in 0..count {
                input.partitions.push(PartitionMark { max_ts: d.i64()?, idle: d.u8()? != 0, finished: d.u8()? != 0 });
            }
        }
        Ok(())
    }
}

impl InputMarks {
    /// All finished: nothing more can come. All others idle: it stays where it has come, since a source that is silent is
    /// not a source that has ended; those of its partitions that were behind have left one by one.
    fn watermark(&self) -> i64 {
        if self.partitions.iter().all(|p| p.finished) {
            return END_OF_TIME;
        }
        let active = self.partitions.iter().filter(|p| !p.finished && !p.idle).map(|p| p.max_ts).min();
        let max_ts = active.or_else(|| self.partitions.iter().map(|p| p.max_ts).max());
        max_ts.filter(|ts| *ts != i64::MIN).map_or(i64::MIN, |ts| ts.saturating_sub(self.bound_ms))
    }
}
