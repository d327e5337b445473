//! Parameters that stay where they lie: in the bytes of a snapshot, which are read when somebody asks for them.
//!
//! In: bytes that do not change, a mapped file mostly. Out: the parameters of a key, after one line of 64 bytes was looked at
//! (and the row, where entries have more than one parameter). Each page is compared with its checksum when it is touched
//! first. One that is not what was written gives nothing, and from then on [`Mapped::damage`] names it, and nothing is scored.
//!
//! To touch a page first takes microseconds, or as long as a disk takes. A thread on which others wait scores within
//! [`here_only`], which gives up instead.

use std::{
    cell::Cell,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tidemill_base::{Error, Result};

use crate::{
    compact::Form,
    lines::{self, Found, LINE_BYTES, Line},
    prefetch::prefetch,
    snapshot::{Layout, PAGE_BYTES},
};

/// Bytes that do not change as long as somebody holds them.
pub type SharedBytes = Arc<dyn SnapshotBytes>;

/// The bytes of a snapshot, some of which may still lie on a disk.
pub trait SnapshotBytes: AsRef<[u8]> + Send + Sync {
    /// Says which bytes will be read next, without waiting for them: a disk brings many pages in the time of one.
    fn will_need(&self, _range: Range<usize>) {}
}

#[derive(Clone, Copy, PartialEq)]
enum Touch {
    /// Pages that nobody has touched are read.
    Any,
    /// They are left alone.
    Seen,
    /// One was left alone that was needed.
    Missed,
}

thread_local! {
    static TOUCH: Cell<Touch> = const { Cell::new(Touch::Any) };
}

/// Runs something that scores, without touching pages of mapped snapshots that were not touched before. `None`: one of them
/// was needed, so that what was scored is worth nothing; it is to be run on a thread that may wait.
pub fn here_only<T>(run: impl FnOnce() -> T) -> Option<T> {
    struct AsBefore(Touch);
    impl Drop for AsBefore {
        fn drop(&mut self) {
            TOUCH.set(self.0);
        }
    }
    let _as_before = AsBefore(TOUCH.replace(Touch::Seen));
    let done = run();
    (TOUCH.get() != Touch::Missed).then_some(done)
}

/// Whether a page may be touched first; that it was needed is remembered.
fn may_touch() -> bool {
    match TOUCH.get() {
        Touch::Any => true,
        Touch::Seen | Touch::Missed => {
            TOUCH.set(Touch::Missed);
            false
        }
    }
}

const LINES_PER_PAGE: usize = PAGE_BYTES / LINE_BYTES;

/// Rows on their way from memory at once.
const ROWS_AHEAD: usize = 64;

pub(super) struct Mapped {
    bytes: SharedBytes,
    layout: Layout,
    homes: u64,
    row_page: usize,
    /// A bit for each page that was found to be what was written.
    seen: Box<[AtomicU64]>,
    damage: OnceLock<String>,
}

impl Mapped {
    /// `None`: the bytes lie in memory as this machine cannot read numbers.
    pub fn open(bytes: SharedBytes, layout: Layout) -> Option<Self> {
        let is_readable = cfg!(target_endian = "little")
            && bytemuck::try_cast_slice::<u8, f32>(&(*bytes).as_ref()[layout.plain_rows()]).is_ok();
        let seen = (0..layout.pages().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (homes, row_page) = (lines::homes(layout.entries as u64), layout.row_page(0));
        is_readable.then(|| Self { bytes, layout, homes, row_page, seen, damage: OnceLock::new() })
    }

    pub fn len(&self) -> usize {
        self.layout.entries
    }

    /// Bytes of pages that were touched.
    pub fn bytes(&self) -> usize {
        let pages: u32 = self.seen.iter().map(|bits| bits.load(Relaxed).count_ones()).sum();
        pages as usize * PAGE_BYTES + size_of_val(&*self.seen)
    }

    /// What is wrong with a page that was touched.
    pub fn damage(&self) -> Option<Error> {
        self.damage.get().map(|why| Error::corrupt(why.clone()))
    }

    /// Refuses where what was read since the table was opened is not all there is.
    pub fn check_read(&self) -> Result<()> {
        if TOUCH.get() == Touch::Missed {
            return Err(Error::unavailable("parameters that this needs are not in memory yet"));
        }
        self.damage().map_or(Ok(()), Err)
    }

    /// All of it, read and checked.
    pub fn read(&self) -> Result<crate::entries::Entries> {
        self.layout.read((*self.bytes).as_ref()).map(|(entries, _)| entries)
    }

    /// Appends the parameters of these keys, `zeros` for those without.
    pub fn gather(&self, keys: &[u64], zeros: &[f32], params: &mut Vec<f32>) {
        let bytes = (*self.bytes).as_ref();
        let (lines, _) = bytes[self.layout.lines.clone()].as_chunks::<LINE_BYTES>();
        for key in keys {
            let home = lines::home(*key, self.homes);
            prefetch(lines, home);
            self.announce(home / LINES_PER_PAGE);
        }
        if self.layout.width == 1 {
            let param = |key: &u64| self.word(bytes, lines, *key).map_or(0.0, f32::from_bits);
            return params.extend(keys.iter().map(param));
        }
        let rows = &bytes[self.layout.rows.clone()];
        for some in keys.chunks(ROWS_AHEAD) {
            let mut words = [None; ROWS_AHEAD];
            for (word, key) in words.iter_mut().zip(some) {
                *word = self.word(bytes, lines, *key);
                if let Some((_, row)) = word.and_then(|word| self.layout.row(word)) {
                    // The processor fetches what follows in a row by itself.
                    prefetch(rows, row.start);
                    self.announce(self.row_page + row.start / PAGE_BYTES);
                }
            }
            for word in &words[..some.len()] {
                if word.and_then(|word| self.read_row(bytes, word, params)).is_none() {
                    params.extend_from_slice(zeros);
                }
            }
        }
    }

    /// The parameter of a key, where entries have one.
    pub fn one(&self, key: u64) -> f32 {
        let bytes = (*self.bytes).as_ref();
        let (lines, _) = bytes[self.layout.lines.clone()].as_chunks::<LINE_BYTES>();
        self.word(bytes, lines, key).map_or(0.0, f32::from_bits)
    }

    /// The parameters of a key, where entries have several.
    pub fn several(&self, key: u64) -> Option<Vec<f32>> {
        let bytes = (*self.bytes).as_ref();
        let (lines, _) = bytes[self.layout.lines.clone()].as_chunks::<LINE_BYTES>();
        let (word, mut params) = (self.word(bytes, lines, key)?, Vec::with_capacity(self.layout.width));
        self.read_row(bytes, word, &mut params).map(|()| params)
    }

    #[inline(always)]
    fn word(&self, bytes: &[u8], lines: &[Line], key: u64) -> Option<u32> {
        if key == 0 {
            return None; // it marks a free place
        }
        let mut at = lines::home(key, self.homes);
        loop {
            let line = lines.get(at)?;
            self.touch(bytes, at / LINES_PER_PAGE)?;
            match lines::find(line, key) {
                Found::Word(word) => return Some(word),
                Found::Absent => return None,
                Found::Behind => at += 1,
            }
        }
    }

    /// Appends the row that a word names.
    #[inline(always)]
    fn read_row(&self, bytes: &[u8], word: u32, params: &mut Vec<f32>) -> Option<()> {
        let (form, place) = self.layout.row(word)?;
        self.touch(bytes, self.row_page + place.start / PAGE_BYTES)?;
        self.touch(bytes, self.row_page + (place.end - 1) / PAGE_BYTES)?;
        let row = &bytes[self.layout.rows.clone()][place];
        match form {
            Form::F32 => params.extend_from_slice(bytemuck::try_cast_slice(row).ok()?),
            smaller => smaller.read(row, self.layout.width, params),
        }
        Some(())
    }

    /// Has a page brought that nobody has touched.
    #[inline(always)]
    fn announce(&self, page: usize) {
        let is_seen = self.seen.get(page / 64).is_none_or(|bits| bits.load(Relaxed) >> (page % 64) & 1 == 1);
        if !is_seen {
            self.bring(page);
        }
    }

    #[cold]
    fn bring(&self, page: usize) {
        if !may_touch() {
            return;
        }
        self.bytes.will_need(self.layout.page(page).1);
    }

    /// Makes sure that a page is what was written.
    #[inline(always)]
    fn touch(&self, bytes: &[u8], page: usize) -> Option<()> {
        match self.seen[page / 64].load(Relaxed) >> (page % 64) & 1 {
            1 => Some(()),
            _ => self.look_at(bytes, page),
        }
    }

    #[cold]
    fn look_at(&self, bytes: &[u8], page: usize) -> Option<()> {
        if !may_touch() {
            return None;
        }
        match self.layout.check(bytes, page) {
            Ok(()) => {
                self.seen[page / 64].fetch_or(1 << (page % 64), Relaxed);
                Some(())
            }
            Err(e) => {
                self.damage.get_or_init(|| e.message().to_string());
                None
            }
        }
    }
}
