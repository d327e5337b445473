//! What was acknowledged is there, what was not is not, and both for any reader.

use std::{fs, path::PathBuf, sync::Arc};

use arrow::{
    datatypes::{Field, Schema},
    util::pretty::pretty_format_batches,
};
use expect_test::expect;

use super::*;

fn dir(name: &str) -> PathBuf {
    let d = std::env::temp_dir().join(format!("tidemill-push-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&d);
    fs::create_dir_all(&d).unwrap();
    d
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("ts", DataType::Int64, true)]))
}

fn ids(partition: &mut PushPartition) -> Vec<(u64, String)> {
    let mut out = Vec::new();
    while let Read::Chunk(chunk) = partition.read().unwrap() {
        for i in 0..chunk.rows.num_rows() {
            let value = |c: usize| arrow::util::display::array_value_to_string(chunk.rows.column(c), i).unwrap();
            out.push((chunk.offset(i), format!("{} at {}", value(0), value(1))));
        }
        out.extend(chunk.refused.iter().map(|r| (r.offset, r.reason.clone())));
    }
    out.sort();
    out
}

/// Good lines of a body are taken, bad ones are told by number; in a log that has no door, as early ones, an event without
/// a time gets that of its arrival.
#[test]
fn a_body_is_taken_line_by_line() {
    let mut log = PushLog::open(&dir("body"), schema(), Some(1)).unwrap();
    let body = b"{\"id\":1,\"ts\":5}\r\n\n{\"id\":\"x\"}\n{\"id\":2}\n{\"id\":3,\"ts\":null}\n{\"id\":";
    let pushed = log.push(body, 1000).unwrap();
    assert_eq!((pushed.first_offset, pushed.accepted), (0, 3));
    assert_eq!(
        pushed.refused,
        [(3, "column 'id': expected number, found string".to_string()), (6, "unexpected end at byte 6".to_string())]
    );
    assert_eq!(log.push(b"{\"id\":4}", 2000).unwrap().first_offset, 3);
    let mut reader = log.reader("clicks").unwrap();
    let Read::Chunk(chunk) = reader.read().unwrap() else { panic!("nothing to read") };
    expect![[r#"
        +----+------+
        | id | ts   |
        +----+------+
        | 1  | 5    |
        | 2  | 1000 |
        | 3  | 1000 |
        | 4  | 2000 |
        +----+------+"#]]
    .assert_eq(&pretty_format_batches(&[chunk.rows]).unwrap().to_string());
    assert!(matches!(reader.read().unwrap(), Read::Pending));
}

/// What has no time, or one that is far ahead of the clock, is turned away by number; what is let in was let in for good,
/// also when the clock says something else later.
#[test]
fn events_without_a_time_or_far_ahead_of_the_clock_are_turned_away() {
    let door = Door {
        window: Window { computed: None, event_time: Some(1), id: None, view: None },
        ahead_max_ms: Some(1_000),
    };
    let mut log = PushLog::open(&dir("door"), schema(), Some(1)).unwrap().with_door(door);
    let body =
        b"{\"id\":1,\"ts\":6000}\n{\"id\":2}\n{\"id\":3,\"ts\":6001}\n{\"id\":4,\"ts\":null}\nx\n{\"id\":5,\"ts\":0}";
    let pushed = log.push(body, 5_000).unwrap();
    let numbers: Vec<u64> = pushed.refused.iter().map(|r| r.0).collect();
    assert_eq!((pushed.accepted, numbers), (2, vec![2, 3, 4, 5]));
    assert_eq!(pushed.refused[0].1, "event time 'ts' is missing");
    assert!(pushed.refused[1].1.starts_with("event time 6001 is 0 s farther ahead of the clock"), "{pushed:?}");
    assert_eq!(log.append_at(b"{\"id\":6,\"ts\":9999999}", 5_000, None).unwrap().accepted, 1, "nobody knows the time");
    log.sync().unwrap();
    assert_eq!(ids(&mut log.reader("clicks").unwrap()).len(), 3);
}

/// A reader that saw an event which a crash then took back would have trained on what never happened.
#[test]
fn a_reader_sees_only_what_is_durable() {
    let mut log = PushLog::open(&dir("durable"), schema(), None).unwrap();
    let mut reader = log.reader("clicks").unwrap();
    log.append(b"{\"id\":1}\n{\"id\":2}", 0).unwrap();
    assert!(matches!(reader.read().unwrap(), Read::Pending));
    log.sync().unwrap();
    assert_eq!(ids(&mut reader).len(), 2);
    log.push(b"{\"id\":3}", 0).unwrap();
    assert_eq!(ids(&mut reader), [(2, "3 at ".to_string())]);
}

/// Restart: offsets go on where they ended, and any place is reached again.
#[test]
fn the_log_goes_on_after_a_restart() {
    let d = dir("restart");
    let mut log = PushLog::open(&d, schema(), None).unwrap();
    log.push(b"{\"id\":1,\"ts\":1}\n{\"id\":2,\"ts\":1}", 0).unwrap();
    drop(log);
    let mut log = PushLog::open(&d, schema(), None).unwrap();
    assert_eq!(log.push(b"{\"id\":3,\"ts\":1}", 0).unwrap().first_offset, 2);
    let mut reader = log.reader("clicks").unwrap();
    let Read::Chunk(first) = reader.read().unwrap() else { panic!("nothing to read") };
    assert_eq!((first.start.offset, first.end.offset), (0, 3));
    log.push(b"{\"id\":4,\"ts\":1}", 0).unwrap();
    assert_eq!(ids(&mut reader), [(3, "4 at 1".to_string())]);
    for place in [first.end, Position { offset: 3, bytes: 0 }] {
        reader.seek(place).unwrap();
        assert_eq!(ids(&mut reader), [(3, "4 at 1".to_string())]);
    }
    reader.seek(first.start).unwrap();
    assert_eq!(ids(&mut reader).len(), 4);
    for beyond in [Position { offset: 5, bytes: 0 }, Position { offset: 5, bytes: 1 << 20 }] {
        let e = reader.seek(beyond).unwrap_err();
        assert!(e.message().starts_with("source clicks partition 'push': offset 5 no longer available"), "{e}");
    }
}

/// The declared columns may change between runs; an event that no longer fits is refused, not lost.
#[test]
fn an_event_that_no_longer_fits_is_refused_by_row() {
    let d = dir("changed");
    PushLog::open(&d, schema(), None).unwrap().push(b"{\"id\":1}\n{\"id\":2,\"ts\":7}", 0).unwrap();
    let text = vec![Field::new("id", DataType::Int64, true), Field::new("ts", DataType::Utf8, true)];
    let log = PushLog::open(&d, Arc::new(Schema::new(text)), None).unwrap();
    let rows = ids(&mut log.reader("clicks").unwrap());
    assert_eq!(rows[0], (0, "1 at ".to_string()));
    assert_eq!(rows[1], (1, "row 2: column 'ts': expected string, found number".to_string()));
}

#[test]
fn an_event_time_that_is_no_time_is_refused_when_the_log_is_opened() {
    let text = Arc::new(Schema::new(vec![Field::new("at", DataType::Utf8, true)]));
    let e = PushLog::open(&dir("time"), text, Some(0)).err().unwrap();
    assert!(e.message().starts_with("event time column 'at' is STRING"), "{e}");
}
