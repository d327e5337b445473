//! What a partition behind a server makes of what the server does: holes, repetitions, losses, oddities.

use std::collections::VecDeque;

use arrow::{
    array::AsArray,
    datatypes::{DataType, Field, Int64Type, Schema},
};

use super::*;
use crate::source::{Connector, FileSettings};

enum Step {
    Event(u64, Option<Vec<u8>>),
    Say(Fed),
    Fail(&'static str),
}

/// A server that does what the test says.
struct Script {
    steps: VecDeque<Step>,
    sought: Option<u64>,
}

impl Feed for Script {
    fn next(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Fed> {
        if let Some(at) = self.sought.take() {
            self.steps.retain(|step| !matches!(step, Step::Event(number, _) if *number < at));
        }
        match self.steps.pop_front() {
            None => Ok(Fed::End),
            Some(Step::Say(fed)) => Ok(fed),
            Some(Step::Fail(why)) => Err(Error::unavailable(why)),
            Some(Step::Event(number, bytes)) => {
                take(number, bytes.as_deref());
                Ok(Fed::Event)
            }
        }
    }

    fn seek(&mut self, number: u64) -> Result<()> {
        self.sought = Some(number);
        Ok(())
    }

    fn wait(&mut self, _until: u64) -> Result<()> {
        Ok(())
    }

    fn is_behind(&self) -> bool {
        !self.steps.is_empty()
    }
}

fn event(number: u64) -> Step {
    Step::Event(number, Some(format!("{{\"n\": {number}}}\n").into_bytes()))
}

fn partition(steps: Vec<Step>, on_gap: OnGap, first: u64) -> FeedPartition {
    let spec = SourceSpec::new(
        "clicks",
        Schema::new(vec![Field::new("n", DataType::Int64, true)]).into(),
        Connector::File(FileSettings { path: String::new(), format: FileFormat::Json, follow: false }),
    );
    let feed = Box::new(Script { steps: steps.into(), sought: None });
    FeedPartition::open(&spec, format!("clicks/3@{first}"), feed, &FileFormat::Json, on_gap, first, false).unwrap()
}

/// Everything up to the end: (offset, value) of rows, (offset, reason) of refused ones, and the place behind it.
type All = (Vec<(u64, i64)>, Vec<(u64, String)>, u64);

fn read_all(p: &mut FeedPartition) -> Result<All> {
    let (mut rows, mut refused, mut end) = (Vec::new(), Vec::new(), p.at);
    loop {
        match p.read()? {
            Read::End => return Ok((rows, refused, end)),
            Read::Pending => {}
            Read::Chunk(chunk) => {
                assert_eq!(chunk.start.offset, end, "chunks follow one another");
                let values = chunk.rows.column(0).as_primitive::<Int64Type>();
                rows.extend((0..chunk.rows.num_rows()).map(|i| (chunk.offset(i), values.value(i))));
                refused.extend(chunk.refused.into_iter().map(|r| (r.offset, r.reason)));
                end = chunk.end.offset;
            }
        }
    }
}

/// The server's numbers are the offsets, holes and all.
#[test]
fn an_event_keeps_the_number_the_server_gave_it() {
    let steps = [5, 6, 9, 10].map(event).into_iter().collect();
    let (rows, refused, end) = read_all(&mut partition(steps, OnGap::Stop, 5)).unwrap();
    assert_eq!((rows, refused, end), (vec![(5, 5), (6, 6), (9, 9), (10, 10)], vec![], 11));
}

/// F24: the connection is lost and the server hands out again what it had handed out.
#[test]
fn f24_an_event_that_comes_twice_is_taken_once() {
    let steps = vec![event(0), event(1), Step::Say(Fed::Nothing), event(0), event(1), event(2), event(1), event(3)];
    let (rows, _, end) = read_all(&mut partition(steps, OnGap::Stop, 0)).unwrap();
    assert_eq!((rows, end), (vec![(0, 0), (1, 1), (2, 2), (3, 3)], 4));
}

/// F25: the error names source, partition, both offsets, the loss, and the way on.
#[test]
fn f25_events_thrown_away_at_the_source_stop_the_job() {
    let gap = || Step::Say(Fed::Gap { earliest: 90_000 });
    let expected = "source clicks partition 3: offset 81,220 no longer available (earliest 90,000): 8,780 events lost at \
                    the source; set on_gap='continue' to accept";
    let error = partition(vec![gap()], OnGap::Stop, 81_220).read().unwrap_err();
    assert_eq!((error.kind(), error.message()), (tidemill_base::Kind::Conflict, expected));

    // What came before the gap is handed out first.
    let mut p = partition(vec![event(81_219), gap()], OnGap::Stop, 81_219);
    assert!(matches!(p.read(), Ok(Read::Chunk(c)) if c.rows.num_rows() == 1 && c.end.offset == 81_220));
    assert_eq!(p.read().unwrap_err().message(), expected);
}

#[test]
fn f25_with_on_gap_continue_the_loss_is_one_refused_row_and_reading_goes_on() {
    let steps = vec![event(7), Step::Say(Fed::Gap { earliest: 20 }), event(20)];
    let (rows, refused, end) = read_all(&mut partition(steps, OnGap::Continue, 7)).unwrap();
    assert_eq!((rows, end), (vec![(7, 7), (20, 20)], 21));
    let reason = "offset 8 no longer available (earliest 20): 12 events lost at the source";
    assert_eq!(refused, [(8, reason.to_string())]);
}

/// What is no row of the declared columns keeps its offset and is told why.
#[test]
fn tombstones_giants_and_rubbish_are_refused_one_by_one() {
    let giant = format!("{{\"n\": {}1}}", " ".repeat(ROW_BYTES_MAX)).into_bytes();
    let steps = vec![
        event(0),
        Step::Event(1, None),
        Step::Event(2, Some(giant)),
        event(3),
        Step::Event(4, Some(b"{\"n\": ".to_vec())),
        Step::Event(5, Some(Vec::new())),
    ];
    let (rows, refused, end) = read_all(&mut partition(steps, OnGap::Stop, 0)).unwrap();
    assert_eq!((rows, end), (vec![(0, 0), (3, 3)], 6));
    let reasons: Vec<&str> = refused.iter().map(|r| r.1.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "offset 1: no value (a tombstone)",
            "offset 2: 1,048,584 bytes, longer than 1,048,576",
            "offset 4: unexpected end at byte 5",
            "offset 5: unexpected end at byte 0",
        ]
    );
}

#[test]
fn an_error_behind_rows_comes_after_them() {
    let mut p = partition(vec![event(0), Step::Fail("away")], OnGap::Stop, 0);
    assert!(matches!(p.read(), Ok(Read::Chunk(c)) if c.rows.num_rows() == 1));
    assert_eq!(p.read().unwrap_err().message(), "source clicks: away");
}

#[test]
fn a_partition_sought_again_gives_the_same_rows_with_the_same_offsets() {
    let steps = || (10..30).filter(|n| n % 7 != 0).map(event).collect::<Vec<_>>();
    let (all, _, end) = read_all(&mut partition(steps(), OnGap::Stop, 10)).unwrap();
    for from in 0..30 {
        let mut p = partition(steps(), OnGap::Stop, 10);
        p.seek(Position { offset: from, bytes: 0 }).unwrap();
        let (rows, _, now) = read_all(&mut p).unwrap();
        assert_eq!(rows, all.iter().copied().filter(|r| r.0 >= from).collect::<Vec<_>>());
        assert_eq!(now, if rows.is_empty() { from.max(10) } else { end });
    }
}
