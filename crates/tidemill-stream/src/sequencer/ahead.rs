//! Reading a partition ahead, on a thread of its own: rows are decoded and widened while those before them are joined and
//! learned.
//!
//! In: a partition whose rows are there from the start. Out: the same chunks in the same order, and the same errors behind
//! the same rows. At most [`AHEAD_MAX`] chunks wait for who takes them. A permit says how many partitions are read so at
//! once; one that has none is read by who asks, as before.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use tidemill_base::{Error, Result};

use super::{Pause, wide::Wide};
use crate::{
    Position,
    source::{Print, Read},
    window::WideChunk,
};

/// Chunks that wait.
const AHEAD_MAX: usize = 2;

/// How many more partitions may be read ahead.
#[derive(Clone)]
pub(super) struct Permits(Arc<AtomicUsize>);

/// Given back when dropped.
struct Permit(Permits);

/// A partition that is read ahead while it has a permit.
pub(super) struct Ahead {
    is_plain: bool,
    wide: Arc<Mutex<Wide>>,
    permits: Permits,
    reading: Option<Reading>,
}

struct Reading {
    /// `None` only while it is dropped.
    chunks: Option<Receiver<Result<Read<WideChunk>>>>,
    thread: Option<JoinHandle<()>>,
    _permit: Permit,
}

impl Permits {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    fn take(&self) -> Option<Permit> {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Permit(self.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Ahead {
    /// Of a partition of which [`crate::source::Partition::is_all_there`] is true.
    pub fn new(wide: Wide, permits: Permits) -> Self {
        Self { is_plain: wide.partition.is_plain(), wide: Arc::new(Mutex::new(wide)), permits, reading: None }
    }

    fn wide(&self) -> MutexGuard<'_, Wide> {
        lock(&self.wide)
    }

    /// Pauses where there is no permit, and the rows are read and widened here.
    pub fn read(&mut self, pause: Option<&Pause>) -> Result<Read<WideChunk>> {
        if self.reading.is_none() {
            let Some(permit) = self.permits.take() else { return self.wide().read(pause) };
            self.reading = Some(Reading::start(self.wide.clone(), permit)?);
        }
        let chunks = self.reading.as_ref().and_then(|reading| reading.chunks.as_ref());
        let read = chunks.and_then(|chunks| chunks.recv().ok());
        let read = read.unwrap_or_else(|| Err(Error::internal("a bug in tidemill ended the reading")));
        if !matches!(read, Ok(Read::Chunk(_))) {
            self.reading = None;
        }
        read
    }

    pub fn seek(&mut self, to: Position) -> Result<()> {
        self.reading = None;
        self.wide().partition.seek(to)
    }

    pub fn print(&self, bytes: Option<u64>) -> Result<Option<Print>> {
        self.wide().partition.print(bytes)
    }

    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    pub fn has_more(&self) -> Result<bool> {
        self.wide().has_more()
    }
}

fn lock(wide: &Mutex<Wide>) -> MutexGuard<'_, Wide> {
    wide.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reading {
    /// Reads to the end, or until nobody wants to know.
    fn start(wide: Arc<Mutex<Wide>>, permit: Permit) -> Result<Self> {
        let (send, chunks) = sync_channel(AHEAD_MAX);
        let read = move || {
            loop {
                let read = lock(&wide).read(None);
                let goes_on = matches!(read, Ok(Read::Chunk(_)));
                if send.send(read).is_err() || !goes_on {
                    return;
                }
            }
        };
        let thread = Builder::new().name("reader".into()).spawn(read);
        let thread = thread.map_err(|e| Error::unavailable(format!("cannot start a thread: {e}")))?;
        Ok(Self { chunks: Some(chunks), thread: Some(thread), _permit: permit })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Who reads finds that nobody listens.
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int64Array, RecordBatch},
        datatypes::Int64Type,
    };

    use super::*;
    use crate::{Chunk, source::Partition, window::Window};

    /// One row a chunk; fails behind row `fails_at`, once.
    struct Rows {
        next: u64,
        end: u64,
        fails_at: Option<u64>,
    }

    impl Partition for Rows {
        fn name(&self) -> &str {
            "rows"
        }

        fn read(&mut self) -> Result<Read> {
            if self.fails_at.take_if(|at| *at == self.next).is_some() {
                return Err(Error::corrupt(format!("behind row {}", self.next)));
            }
            if self.next == self.end {
                return Ok(Read::End);
            }
            let place = |offset| Position { offset, bytes: offset };
            let row: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![self.next as i64]));
            let rows = RecordBatch::try_from_iter([("row", row)]).unwrap();
            let start = place(self.next);
            self.next += 1;
            Ok(Read::Chunk(Chunk { rows, offsets: None, start, end: place(self.next), refused: Vec::new() }))
        }

        fn seek(&mut self, to: Position) -> Result<()> {
            self.next = to.offset;
            Ok(())
        }

        fn print(&self, bytes: Option<u64>) -> Result<Option<Print>> {
            Ok(bytes.map(|bytes| Print { bytes, hash: 7 }))
        }
    }

    fn row(read: Read<WideChunk>) -> Option<i64> {
        match read {
            Read::Chunk(chunk) => {
                Some(arrow::array::AsArray::as_primitive::<Int64Type>(chunk.rows.column(0).as_ref()).value(0))
            }
            Read::End => None,
            Read::Pending => panic!("it is all there"),
        }
    }

    /// Whoever has a permit and whoever has none: rows, errors and the end come in the same order, from any place on, and a
    /// permit is given back at the end.
    #[test]
    fn what_is_read_ahead_is_what_is_read() {
        let permits = Permits::new(1);
        let open = || {
            let window = Window { computed: None, event_time: Some(0), id: None, view: None };
            let rows = Box::new(Rows { next: 0, end: 9, fails_at: Some(5) });
            Ahead::new(Wide { partition: rows, window }, permits.clone())
        };
        let (mut first, mut second) = (open(), open());
        for partition in [&mut first, &mut second] {
            assert_eq!(
                (0..5).map(|_| row(partition.read(None).unwrap()).unwrap()).collect::<Vec<_>>(),
                [0, 1, 2, 3, 4]
            );
        }
        assert!(first.reading.is_some() && second.reading.is_none(), "there was one permit");
        for partition in [&mut first, &mut second] {
            assert_eq!(partition.read(None).unwrap_err().message(), "partition 'rows': behind row 5");
            assert_eq!(row(partition.read(None).unwrap()), Some(5));
            assert_eq!(partition.print(Some(3)).unwrap(), Some(Print { bytes: 3, hash: 7 }));
            partition.seek(Position { offset: 2, bytes: 2 }).unwrap();
            let rows: Vec<i64> = std::iter::from_fn(|| row(partition.read(None).unwrap())).collect();
            assert_eq!(rows, [2, 3, 4, 5, 6, 7, 8]);
            assert!(partition.reading.is_none(), "the end gives the permit back");
            assert_eq!(row(partition.read(None).unwrap()), None, "and stays the end");
        }
        // The first has the permit again: its thread holds up nobody.
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let pause: Pause = Arc::new(move || _ = counted.fetch_add(1, Ordering::Relaxed));
        for (partition, pauses) in [(&mut first, 0), (&mut second, 2)] {
            let before = count.load(Ordering::Relaxed);
            partition.seek(Position::default()).unwrap();
            assert_eq!(row(partition.read(Some(&pause)).unwrap()), Some(0));
            assert_eq!(count.load(Ordering::Relaxed) - before, pauses, "pauses of who asks");
        }
        // One that is let go of while its reader waits for room.
        first.seek(Position::default()).unwrap();
        assert_eq!(row(first.read(None).unwrap()), Some(0));
        drop(first);
        second.seek(Position::default()).unwrap();
        assert_eq!(row(second.read(None).unwrap()), Some(0));
        assert!(second.reading.is_some());
    }
}
