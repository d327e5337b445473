//! What a checkpoint and a journal hold of streams: records, positions, who waits, entries of feature views. All of it lies
//! behind checksums; what passes them and was still not written so is refused.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::DataType,
};
use tidemill_base::{
    Result,
    codec::{Decoder, Encoder},
};
use tidemill_stream::{
    aggregate::{AggregateSpec, Feed, Function, ViewSpec, Views, WindowSpec},
    join::{Correction, Emit, FeedbackSpec, JoinSpec, LabelJoin, Take, WhenFull},
    journal::{CutRecord, PartitionId, Record},
    sequencer::{self, Sequencer},
    source::{Partition, Print, Read},
    window::Window,
};

/// A record of the journal.
pub fn journal(bytes: &[u8]) -> bool {
    let Ok(record) = Record::decode(bytes) else { return false };
    assert_eq!(Record::decode(&record.encode()).expect("what was read can be written"), record);
    true
}

/// Pieces of bytes, each behind its length in two bytes; what a length says beyond the end is not there.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(piece)
    })
}

fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    let length = |piece: &Vec<u8>| u16::try_from(piece.len()).expect("small seeds").to_le_bytes();
    pieces.iter().flat_map(|piece| [&length(piece)[..], piece].concat()).collect()
}

fn rows() -> RecordBatch {
    let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
    let times: ArrayRef = Arc::new(Int64Array::from(vec![5, 6, 7]));
    RecordBatch::try_from_iter_with_nullable([("key", keys, true), ("ts", times, true)]).expect("columns alike")
}

fn join() -> LabelJoin {
    let takes = vec![Take::First, Take::Last];
    let spec = JoinSpec {
        feedback: vec![FeedbackSpec { left_key: 0, right_key: 0, window_ms: 600, takes }],
        emit: Emit::Early { delay_ms: 10 },
        correction: Correction::Retract,
        sample: None,
        label_is_match: true,
        correction_ttl_ms: 1000,
        allowed_lateness_ms: 0,
        pending_count_max: usize::MAX,
        pending_bytes_max: usize::MAX,
        when_full: WhenFull::Release,
        dedup: Some(0),
    };
    LabelJoin::new(spec, &rows().schema(), &[rows().schema()]).expect("columns that are there")
}

/// The label join: the body, a part's head, and its blocks. What could be read can be written.
pub fn label_join(bytes: &[u8]) -> bool {
    let mut pieces = pieces(bytes);
    let (body, head) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
    let mut join = join();
    let mut parts = join.restoring();
    let restore = || -> Result<()> {
        parts.begin(head)?;
        pieces.try_for_each(|block| parts.take(block))?;
        let mut d = Decoder::new(body, "fuzz");
        join.restore(&mut d)?;
        join.restore_rows(&mut d, parts)?;
        d.end()
    };
    let taken = restore().is_ok();
    if taken {
        join.encode(true, &mut Encoder::new()).encode(&mut Encoder::new());
    }
    taken
}

fn views() -> Views {
    let aggregate = |name: &str, function, column, window| AggregateSpec {
        name: name.into(),
        function,
        feed: 0,
        column,
        ty: if column.is_some() { DataType::Float64 } else { DataType::Null },
        window,
    };
    let tumble = || WindowSpec::tumble(60_000).expect("a length");
    let aggregates = vec![
        aggregate("n", Function::Count, None, tumble()),
        aggregate("s", Function::Sum, Some(1), WindowSpec::sawtooth(3_600_000, 300_000).expect("lengths")),
        aggregate("d", Function::Distinct { registers: 64 }, Some(1), WindowSpec::Session { gap_ms: 1000 }),
        aggregate("m", Function::Mean, Some(1), WindowSpec::Decay { half_life_ms: 1000 }),
        aggregate("l", Function::Last { kept: 3, back: 1 }, Some(1), WindowSpec::Lifetime),
    ];
    let feeds = vec![Feed { input: 0, key: 0, passes: None }];
    let spec = ViewSpec { name: "v".into(), feeds, aggregates, read_key: 0, ttl_ms: 36_000_000, keys_max: 1 << 10 };
    Views::new(&[spec]).expect("a view")
}

fn events() -> Vec<sequencer::Take> {
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(2)]));
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5, 2.5]));
    let rows = RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("x", numbers, true)]).expect("columns");
    vec![sequencer::Take { id: PartitionId { input: 0, partition: 0 }, rows, event_times: vec![1000, 2000, 2500] }]
}

/// Feature views: the body, a part's head, and its blocks.
pub fn feature_views(bytes: &[u8]) -> bool {
    let mut pieces = pieces(bytes);
    let (body, head) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
    let mut views = views();
    let mut parts = views.restoring();
    let restore = || -> Result<()> {
        parts.begin(head)?;
        pieces.try_for_each(|block| parts.take(block))?;
        let mut d = Decoder::new(body, "fuzz");
        views.restore(&mut d, parts)?;
        d.end()
    };
    let taken = restore().is_ok();
    if taken {
        views.encode(true, &mut Encoder::new()).blocks(|_| true);
    }
    taken
}

/// Nothing to read.
struct Empty(&'static str);

impl Partition for Empty {
    fn name(&self) -> &str {
        self.0
    }

    fn read(&mut self) -> Result<Read> {
        Ok(Read::Pending)
    }

    fn seek(&mut self, _: tidemill_stream::Position) -> Result<()> {
        Ok(())
    }
}

fn sequencer() -> Sequencer {
    let window = || Window { computed: None, event_time: Some(0), id: None, view: None };
    let mut sequencer = Sequencer::new(vec![(window(), 20), (window(), 20)], 16);
    for (input, name) in [(0, "a"), (0, "b"), (1, "c")] {
        sequencer.add_partition(input, Box::new(Empty(name)), input == 0);
    }
    sequencer
}

/// Positions and watermarks.
pub fn positions(bytes: &[u8]) -> bool {
    let mut sequencer = sequencer();
    let mut d = Decoder::new(bytes, "fuzz");
    let taken = sequencer.restore(&mut d).and_then(|()| d.end()).is_ok();
    if taken {
        sequencer.encode(&mut Encoder::new());
    }
    taken
}

pub fn journal_seeds() -> Vec<Vec<u8>> {
    let id = |partition| PartitionId { input: 1, partition };
    let cut = CutRecord {
        mini_batch: 300,
        ends: vec![(id(0), 1 << 40), (id(300), 7)],
        idle: vec![(id(0), true)],
        finished: vec![id(2)],
        clock_ms: None,
    };
    let at_clock = CutRecord { clock_ms: Some(-1), ..cut.clone() };
    let records = [
        Record::Partition { input: 0, name: "clicks/3@81220".into(), ordered: true },
        Record::Cut(cut),
        Record::Cut(at_clock),
        Record::Print(id(0), Print { bytes: 4096, hash: 1 << 60 }),
        Record::Opened,
        Record::Base(77),
    ];
    records.iter().map(Record::encode).collect()
}

pub fn join_seeds() -> Vec<Vec<u8>> {
    let mut join = join();
    join.push_impressions(&rows(), &[5, 6, 7]).expect("rows of these columns");
    join.push_feedback(0, &rows(), &[5, 6, 8]).expect("rows of these columns");
    join.push_feedback(0, &rows().slice(0, 1), &[700]).expect("rows of these columns");
    join.advance(15).expect("there is room");
    let mut body = Encoder::new();
    let mut saved = join.encode(true, &mut body);
    saved.encode(&mut body);
    let mut all = vec![body.finish(), saved.head()];
    saved
        .blocks(|block| {
            all.push(block);
            true
        })
        .expect("rows in memory");
    vec![joined(&all), joined(&all[..2])]
}

pub fn view_seeds() -> Vec<Vec<u8>> {
    let mut views = views();
    views.step(&events(), i64::MIN).expect("rows of these columns");
    let mut body = Encoder::new();
    let saved = views.encode(true, &mut body);
    let mut all = vec![body.finish(), saved.head()];
    saved.blocks(|block| {
        all.push(block);
        true
    });
    vec![joined(&all)]
}

pub fn position_seeds() -> Vec<Vec<u8>> {
    let mut out = Encoder::new();
    sequencer().encode(&mut out);
    vec![out.finish()]
}
