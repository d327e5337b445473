//! The sequencer: same cuts whatever the chunks, whatever the restarts; the journal gives back what was decided.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use arrow::{
    array::{AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use tidemill_base::{
    Kind, Result, Rng,
    codec::{Decoder, Encoder},
};
use tidemill_stream::{
    Chunk, Position, Refused,
    flow::{Flow, Lateness},
    journal::{CutRecord, PartitionId},
    sequencer::{Cut, Sequencer},
    source::{Partition, Print, Read},
    window::{END_OF_TIME, Watermarks, Window},
};

/// Rows with these times; every seventh offset is a refused row. Chunks are as long as told.
struct Fake {
    name: String,
    times: Vec<i64>,
    at: usize,
    chunk_rows: usize,
    live: bool,
}

fn is_bad(offset: usize) -> bool {
    offset % 7 == 6
}

impl Partition for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        let start = self.at;
        let end = (start + self.chunk_rows).min(self.times.len());
        if start == end {
            return Ok(if self.live { Read::Pending } else { Read::End });
        }
        self.at = end;
        let good: Vec<usize> = (start..end).filter(|&o| !is_bad(o)).collect();
        let schema = Schema::new(vec![Field::new("ts", DataType::Int64, false)]);
        let times: Int64Array = good.iter().map(|&o| Some(self.times[o])).collect();
        let bad = (start..end).filter(|&o| is_bad(o));
        Ok(Read::Chunk(Chunk {
            rows: RecordBatch::try_new(Arc::new(schema), vec![Arc::new(times)]).unwrap(),
            offsets: Some(good.iter().map(|&o| o as u64).collect()),
            start: Position { offset: start as u64, bytes: 0 },
            end: Position { offset: end as u64, bytes: 0 },
            refused: bad.map(|o| Refused { offset: o as u64, reason: "bad".into(), excerpt: String::new() }).collect(),
        }))
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.at = to.offset as usize;
        Ok(())
    }
}

fn times(seed: u64, n: usize) -> Vec<i64> {
    let mut rng = Rng::seeded(seed);
    (0..n).map(|i| 1_000 + i as i64 * 3 + rng.below(20) as i64).collect()
}

fn sequencer(chunk_rows: usize) -> Sequencer {
    let window = || Window { computed: None, event_time: Some(0), id: None, view: None };
    let mut s = Sequencer::new(vec![(window(), 20), (window(), 20)], 16);
    for (input, seed, n) in [(0, 1, 200), (0, 2, 333), (1, 3, 77), (1, 4, 0)] {
        let fake = Fake { name: format!("p{seed}"), times: times(seed, n), at: 0, chunk_rows, live: false };
        s.add_partition(input, Box::new(fake), true);
    }
    s
}

/// What of a cut decides anything downstream.
type Seen = (CutRecord, Vec<(u32, u32, i64)>, usize, u64, i64, bool);

fn seen(cut: &Cut) -> Seen {
    let mut rows = Vec::new();
    for t in &cut.takes {
        let values = t.rows.column(0).as_primitive::<Int64Type>().values();
        assert_eq!(&t.event_times[..], &values[..]);
        rows.extend(values.iter().map(|v| (t.id.input, t.id.partition, *v)));
    }
    (cut.record.clone(), rows, cut.refused.len(), cut.events, cut.watermark, cut.is_last)
}

fn run(mut s: Sequencer) -> Vec<Seen> {
    std::iter::from_fn(|| s.cut(true, &[]).unwrap().map(|c| seen(&c))).collect()
}

/// What went by is counted once, however rows come in chunks and wherever the run is restored: every row is an event or
/// refused, and each partition's lateness is that of its own order.
#[test]
fn counts_do_not_depend_on_chunks_nor_on_restarts() {
    let flows = |s: &Sequencer| [*s.flow(0), *s.flow(1)];
    let mut whole = sequencer(1_000);
    while whole.cut(true, &[]).unwrap().is_some() {}
    let expected = flows(&whole);
    let good = |n: usize| (0..n).filter(|&o| !is_bad(o)).count() as u64;
    let mut lateness = Lateness::default();
    for (seed, n) in [(1, 200), (2, 333)] {
        let times: Vec<i64> = (0..n).zip(times(seed, n)).filter(|(o, _)| !is_bad(*o)).map(|(_, ts)| ts).collect();
        lateness.observe(&times, &mut None);
    }
    let events = good(200) + good(333);
    let unreadable = 200 + 333 - events;
    assert_eq!(expected[0], Flow { unreadable, events, rows: events, lateness, ..Flow::default() });
    assert_eq!(expected[1].rows_in(), 77);
    assert!(lateness.max_ms() > 0 && lateness.counts()[0] < events, "times are out of order");
    for (chunk_rows, cuts) in [(1, 3), (7, 1), (13, 20), (64, 9)] {
        let mut first = sequencer(chunk_rows);
        for _ in 0..cuts {
            first.cut(true, &[]).unwrap().unwrap();
        }
        let mut saved = Encoder::new();
        first.encode(&mut saved);
        let mut second = sequencer(chunk_rows);
        second.restore(&mut Decoder::new(saved.as_slice(), "saved")).unwrap();
        assert_eq!(flows(&second), flows(&first), "chunks of {chunk_rows}, as saved");
        while second.cut(true, &[]).unwrap().is_some() {}
        assert_eq!(flows(&second), expected, "chunks of {chunk_rows}, restored behind {cuts} cuts");
    }
}

#[test]
fn cuts_do_not_depend_on_how_rows_come_in_chunks() {
    let reference = run(sequencer(1_000));
    for chunk_rows in [1, 2, 7, 13, 64] {
        assert_eq!(run(sequencer(chunk_rows)), reference, "chunks of {chunk_rows}");
    }
    let events: u64 = reference.iter().map(|c| c.3).sum();
    let refused: usize = reference.iter().map(|c| c.2).sum();
    let bad = |n: usize| (0..n).filter(|&o| is_bad(o)).count();
    assert_eq!(refused, bad(200) + bad(333) + bad(77));
    assert_eq!(events as usize + refused, 200 + 333 + 77, "every row is in exactly one cut");
    let full = reference.iter().take_while(|c| c.3 == 16).count();
    assert!(full + 2 >= reference.len(), "all but the last cuts hold exactly the events asked for");
    assert_eq!(reference.last().unwrap().4, END_OF_TIME);
}

/// Rows go in event-time order across partitions, as far as each partition's own order allows.
#[test]
fn partitions_are_merged_by_event_time() {
    let mut last = 0;
    for (_, rows, ..) in run(sequencer(50)) {
        let first = rows.iter().map(|r| r.2).min();
        // Disorder inside a partition is at most 20 ms; a cut of 16 rows covers about 20 ms.
        if let Some(first) = first {
            assert!(first > last - 60, "{first} long after {last}");
            last = last.max(rows.iter().map(|r| r.2).max().unwrap());
        }
    }
}

#[test]
fn restored_behind_any_cut_the_sequencer_goes_on_as_before() {
    let reference = run(sequencer(13));
    for stop in 0..=reference.len() {
        let mut first = sequencer(13);
        let mut got: Vec<Seen> = (0..stop).map(|_| seen(&first.cut(true, &[]).unwrap().unwrap())).collect();
        let mut saved = Encoder::new();
        first.encode(&mut saved);
        let bytes = saved.finish();
        let mut second = sequencer(5);
        let mut d = Decoder::new(&bytes, "sequencer");
        second.restore(&mut d).unwrap();
        d.end().unwrap();
        got.extend(run(second));
        assert_eq!(got, reference, "stopped behind cut {stop}");
    }
}

#[test]
fn the_journal_gives_back_the_cuts_that_were_decided() {
    let reference = run(sequencer(13));
    let mut s = sequencer(4);
    for expected in &reference[..20] {
        assert_eq!(&seen(&s.replay(expected.0.clone()).unwrap()), expected);
    }
    // And behind the journal's end it decides as it would have.
    assert_eq!(run(s), reference[20..]);
}

/// A live partition joins in as rows arrive, does not hold the watermark before its first event, and holds it then until
/// it is idle.
#[test]
fn a_live_partition_holds_the_watermark_only_while_it_speaks() {
    let mut s = Sequencer::new(vec![(Window { computed: None, event_time: Some(0), id: None, view: None }, 10)], 4);
    let fixed = Fake {
        name: "file".into(),
        times: (0..12).map(|i| 1_000 + i * 10).collect(),
        at: 0,
        chunk_rows: 5,
        live: false,
    };
    s.add_partition(0, Box::new(fixed), true);
    let pushed = Fake { name: "push".into(), times: vec![1_005], at: 0, chunk_rows: 5, live: true };
    let id = s.add_partition(0, Box::new(pushed), false);
    let mut other = Sequencer::new(vec![(Window { computed: None, event_time: Some(0), id: None, view: None }, 10)], 4);
    let fixed = Fake {
        name: "file".into(),
        times: (0..12).map(|i| 1_000 + i * 10).collect(),
        at: 0,
        chunk_rows: 5,
        live: false,
    };
    other.add_partition(0, Box::new(fixed), true);
    let alone = other.cut(true, &[]).unwrap().unwrap();
    assert_eq!(alone.watermark, 1_030 - 10);

    let first = s.cut(true, &[]).unwrap().unwrap();
    assert_eq!(
        (first.events, first.watermark),
        (5, 1_005 - 10),
        "the pushed event woke its partition, which now holds"
    );
    let second = s.cut(true, &[]).unwrap().unwrap();
    assert_eq!(second.watermark, 995);
    let idle = s.cut(false, &[id]).unwrap().unwrap();
    assert_eq!(idle.watermark, second_max(&second) - 10);
    assert_eq!(s.cut(false, &[]).unwrap().map(|c| c.events), None, "nothing to say, no cut");
    while s.cut(true, &[]).unwrap().is_some_and(|c| c.events > 0) {}
    let last = s.finish_live().unwrap();
    assert!(last.is_last && last.watermark == END_OF_TIME);
}

fn second_max(cut: &Cut) -> i64 {
    cut.takes.iter().flat_map(|t| &t.event_times).copied().max().unwrap()
}

/// A source that is silent holds the others where it has come, not where they were: sources that speak by turns, each idle
/// when the other speaks, move the watermark. It does not pass the one that is silent: its events may be under way (F23).
#[test]
fn f23_a_silent_source_holds_the_watermark_where_it_has_come() {
    let window = || Window { computed: None, event_time: Some(0), id: None, view: None };
    let live = |times: &[i64]| Fake { name: "push".into(), times: times.to_vec(), at: 0, chunk_rows: 5, live: true };
    let mut s = Sequencer::new(vec![(window(), 10), (window(), 10)], 4);
    let says = |s: &mut Sequencer, idle: &[PartitionId]| s.cut(false, idle).unwrap().map(|cut| cut.watermark);
    let shown = s.add_partition(0, Box::new(live(&[1_000])), false);
    let (is_let, trouble) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let clicked = s.add_partition(1, Box::new(Slow { rows: live(&[1_050]), is_let: is_let.clone(), trouble }), false);
    assert_eq!(says(&mut s, &[]), Some(i64::MIN), "clicks have not spoken yet");
    assert_eq!(says(&mut s, &[shown]), Some(i64::MIN));
    // Only now, with impressions idle, the clicks come.
    is_let.store(true, Ordering::SeqCst);
    assert_eq!(says(&mut s, &[]), Some(1_000 - 10));
    assert_eq!(says(&mut s, &[clicked]), Some(1_000 - 10), "all are silent: it stays");
    assert!(s.cut(false, &[]).unwrap().is_none(), "and nothing more is said");
}

/// A partition of a server that has said what it has, and has not handed it out yet: rows come when the test lets them.
struct Slow {
    rows: Fake,
    is_let: Arc<AtomicBool>,
    trouble: Arc<AtomicBool>,
}

impl Partition for Slow {
    fn name(&self) -> &str {
        &self.rows.name
    }

    fn read(&mut self) -> Result<Read> {
        if self.is_let.load(Ordering::SeqCst) { self.rows.read() } else { Ok(Read::Pending) }
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.rows.seek(to)
    }

    fn wait(&mut self, _until: u64) -> Result<bool> {
        Ok(!self.is_let.swap(true, Ordering::SeqCst))
    }

    fn is_behind(&self) -> bool {
        self.rows.at < self.rows.times.len()
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.load(Ordering::SeqCst).then(|| "away".to_string())
    }
}

/// A partition with a print, which may change behind its back.
struct Printed(Fake, Arc<Mutex<Printing>>);

#[derive(Clone, Copy)]
struct Printing {
    now: Option<Print>,
    is_gone: bool,
}

impl Partition for Printed {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn read(&mut self) -> Result<Read> {
        self.0.read()
    }

    fn seek(&mut self, to: Position) -> Result<()> {
        self.0.seek(to)
    }

    fn print(&self, _bytes: Option<u64>) -> Result<Option<Print>> {
        Ok(self.1.lock().unwrap().now)
    }

    fn is_gone(&self) -> bool {
        self.1.lock().unwrap().is_gone
    }
}

/// An end is one only if the file is still what it was; of what is gone, and was allowed to go, nothing is asked.
#[test]
fn an_end_is_refused_where_the_file_is_another_by_then() {
    let print = Print { bytes: 9, hash: 1 };
    let ends = |at_end: Printing| {
        let mut s =
            Sequencer::new(vec![(Window { computed: None, event_time: Some(0), id: None, view: None }, 10)], 64);
        let printing = Arc::new(Mutex::new(Printing { now: Some(print), is_gone: false }));
        let rows = Fake { name: "p.csv".into(), times: times(1, 20), at: 0, chunk_rows: 20, live: false };
        s.add_partition(0, Box::new(Printed(rows, printing.clone())), true);
        let id = PartitionId { input: 0, partition: 0 };
        s.check_print(id, print, "clicks").unwrap();
        *printing.lock().unwrap() = at_end;
        let cuts: Result<Vec<_>> = std::iter::from_fn(|| s.cut(true, &[]).transpose()).take(3).collect();
        cuts.map(|cuts| cuts.last().unwrap().is_last)
    };
    assert!(ends(Printing { now: Some(print), is_gone: false }).unwrap());
    assert!(ends(Printing { now: None, is_gone: true }).unwrap());
    for (now, why) in
        [(Print { bytes: 5, hash: 1 }, "it has 5 bytes, and had 9"), (Print { bytes: 9, hash: 2 }, "first 9 bytes")]
    {
        let e = ends(Printing { now: Some(now), is_gone: false }).unwrap_err();
        assert!(e.kind() == Kind::Conflict && e.message().contains(why), "{e}");
        assert!(e.message().contains("partition 'p.csv': the file has changed"), "{e}");
    }
}

fn fast_and_slow() -> (Sequencer, Arc<AtomicBool>, Arc<AtomicBool>) {
    let live =
        |name: &str, times: &[i64]| Fake { name: name.into(), times: times.to_vec(), at: 0, chunk_rows: 5, live: true };
    let mut s = Sequencer::new(vec![(Window { computed: None, event_time: Some(0), id: None, view: None }, 10)], 4);
    let (is_let, trouble) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    s.add_partition(0, Box::new(live("fast", &[1_000, 5_000, 9_000])), false);
    let slow = Slow { rows: live("slow", &[1_100, 1_200]), is_let: is_let.clone(), trouble: trouble.clone() };
    s.add_partition(0, Box::new(slow), false);
    (s, is_let, trouble)
}

/// F23: what a fast partition brings does not make the rows late that a slow one is known to have.
#[test]
fn f23_a_live_partition_known_to_have_rows_holds_the_watermark_before_they_come() {
    let (mut s, is_let, trouble) = fast_and_slow();
    let slow = PartitionId { input: 0, partition: 1 };
    let first = s.cut(false, &[slow]).unwrap().unwrap();
    assert_eq!((first.events, first.watermark), (3, i64::MIN));
    assert_eq!(first.record.idle.last(), Some(&(slow, false)), "the journal says that it is awaited");
    assert!(s.cut(false, &[slow]).unwrap().is_none(), "it is not idle however long it is silent");
    is_let.store(true, Ordering::SeqCst);
    let second = s.cut(false, &[slow]).unwrap().unwrap();
    assert_eq!((second.events, second.watermark), (2, 1_190));
    // Silent behind its end it is idle, unless its server is away: then nobody knows what it has.
    trouble.store(true, Ordering::SeqCst);
    assert!(s.cut(false, &[slow]).unwrap().is_none());
    assert_eq!(s.trouble(), Some(("away".to_string(), 1)));
    trouble.store(false, Ordering::SeqCst);
    assert_eq!(s.cut(false, &[slow]).unwrap().unwrap().watermark, 8_990);
}

/// What the journal says was read is waited for, not given up.
#[test]
fn a_replay_waits_for_rows_that_are_on_their_way() {
    let (mut s, is_let, _) = fast_and_slow();
    is_let.store(true, Ordering::SeqCst);
    let cut = s.cut(false, &[]).unwrap().unwrap();
    let (mut again, ..) = fast_and_slow();
    assert_eq!(seen(&again.replay(cut.record.clone()).unwrap()), seen(&cut));
}

/// Wherever a record names a partition that is not there, it is the record that is wrong.
#[test]
fn a_record_of_partitions_that_are_not_there_is_refused() {
    let there = PartitionId { input: 0, partition: 0 };
    for missing in [PartitionId { input: 0, partition: 9 }, PartitionId { input: 9, partition: 0 }] {
        let record = CutRecord { mini_batch: 1, ends: vec![(there, 1)], ..CutRecord::default() };
        for record in [
            CutRecord { ends: vec![(there, 1), (missing, 1)], ..record.clone() },
            CutRecord { idle: vec![(missing, true)], ..record.clone() },
            CutRecord { finished: vec![missing], ..record },
        ] {
            let mut sequencer = sequencer(7);
            assert_eq!(sequencer.replay(record).unwrap_err().kind(), Kind::Corrupt);
            assert_eq!(sequencer.mini_batch(), 0, "nothing was taken");
        }
    }
}

/// A topic that is replayed from long ago does not let one of today run away: what would be read would only wait.
#[test]
fn a_partition_far_ahead_waits_for_one_that_has_unread_events() {
    let slow = |name: &str, first: i64| {
        let times = (0..30_000).map(|i| first + i).collect();
        let rows = Fake { name: name.into(), times, at: 0, chunk_rows: 100, live: true };
        Slow { rows, is_let: Arc::new(true.into()), trouble: Arc::default() }
    };
    let taken = |cut: &Cut, partition: u32| -> usize {
        cut.takes.iter().filter(|take| take.id.partition == partition).map(|take| take.event_times.len()).sum()
    };
    for drift_max_ms in [Some(60_000), None] {
        let mut s = Sequencer::new(vec![(Window { computed: None, event_time: Some(0), id: None, view: None }, 10)], 4);
        s.bound_drift(0, drift_max_ms);
        let old = s.add_partition(0, Box::new(slow("old", 0)), false);
        let new = s.add_partition(0, Box::new(slow("new", 36_000_000)), false);
        let (mut of_old, mut of_new, mut records) = (0, 0, Vec::new());
        let mut new_at_end_of_old = None;
        while let Some(cut) = s.cut(false, &[new]).unwrap().filter(|cut| cut.events > 0) {
            assert!(cut.record.idle.iter().all(|(_, idle)| !idle), "who waits for others is not idle");
            of_old += taken(&cut, old.partition);
            if of_old >= 25_000 {
                new_at_end_of_old.get_or_insert(of_new);
            }
            of_new += taken(&cut, new.partition);
            records.push(cut.record);
        }
        assert_eq!((of_old, of_new), (25_715, 25_715), "every seventh row is bad");
        match drift_max_ms {
            Some(_) => assert!(new_at_end_of_old < Some(8_500), "{new_at_end_of_old:?}"),
            None => assert!(new_at_end_of_old > Some(14_000), "{new_at_end_of_old:?}"),
        }
        let mut again =
            Sequencer::new(vec![(Window { computed: None, event_time: Some(0), id: None, view: None }, 10)], 4);
        again.add_partition(0, Box::new(slow("old", 0)), false);
        again.add_partition(0, Box::new(slow("new", 36_000_000)), false);
        let replayed: u64 = records.into_iter().map(|record| again.replay(record).unwrap().events).sum();
        assert_eq!(replayed, 2 * 25_715);
    }
}

/// Marks stand in the order of the partitions: one too many or too few, and each would be another's.
#[test]
fn watermarks_of_other_partitions_are_refused() {
    let marks = || {
        let mut marks = Watermarks::new([20, 20]);
        [0, 0, 1].into_iter().for_each(|input| marks.add_partition(input, false));
        marks
    };
    let mut saved = Encoder::new();
    marks().encode(&mut saved);
    let restored = |partitions: &[usize]| marks().restore(&mut Decoder::new(saved.as_slice(), "saved"), partitions);
    restored(&[2, 1]).unwrap();
    for other in [[1, 1], [3, 1], [2, 0]] {
        assert_eq!(restored(&other).unwrap_err().kind(), Kind::Corrupt, "{other:?}");
    }
}
