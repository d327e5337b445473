//! What replicas are sent: the deltas and versions of one model, in their order, for as long as there is room.
//!
//! In: deltas and versions from one writer. Out: frames behind a position, once the journal they stand on is durable. The
//! writer never waits: encoding a delta is all it does here. At most [`KEPT_BYTES_MAX`] are kept; whoever needs an older
//! delta begins with the whole model. As long as nobody has ever followed, only as much is kept as a replica needs that was
//! following before the process was started again ([`UNASKED_BYTES_MAX`]); then nothing.

use std::{
    collections::VecDeque,
    ops::RangeInclusive,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tidemill_base::Result;
use tidemill_model::{delta::Delta, snapshot::Snapshot, weights::WeightTable};
use tidemill_stream::aggregate::ViewDelta;
use tokio::sync::{Semaphore, watch};

use super::{
    Ask, Mark, Start, first_position,
    frame::{Frame, Hello, Views},
};
use crate::live_views::LiveViews;

/// Bytes of frames kept for replicas that are away.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// The same while nobody has followed since the process began.
pub const UNASKED_BYTES_MAX: usize = 64 << 20;

/// Whose deltas these are.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The model's name.
    pub model: String,
    /// Which history its parameters are of; not 0.
    pub lineage: u64,
    /// How often the job was started, this time included.
    pub starts: u64,
    /// Of the program.
    pub fingerprint: u64,
    /// The program.
    pub program: String,
}

/// What changed while the job was restored, for replicas that followed before it ended.
pub struct Base {
    /// The mini-batch it was restored at.
    pub from_mini_batch: u64,
    /// The mini-batch it had come to when it began to serve.
    pub mini_batch: u64,
    /// The last version published by then.
    pub version: u64,
    /// Parameters that changed between the two.
    pub delta: Delta,
    /// An earlier mini-batch, and what changed between it and `from_mini_batch`, where that is known.
    pub earlier: Option<(u64, Delta)>,
}

impl Base {
    /// For ranges of mini-batches, what leads from them to the position behind `begin`.
    fn frames(self, begin: u64) -> Vec<(RangeInclusive<u64>, Bytes)> {
        let mark = Mark { position: begin + 1, mini_batch: self.mini_batch, version: self.version };
        let frame = |delta: &Delta| {
            let delta = Delta { from: begin, to: begin + 1, ..delta.clone() };
            Bytes::from(Frame::Delta(mark, delta).encode())
        };
        let mut bases = vec![(self.from_mini_batch..=self.mini_batch, frame(&self.delta))];
        if let Some((from, mut earlier)) = self.earlier
            && from < self.from_mini_batch
        {
            earlier.append(self.delta);
            bases.push((from..=self.from_mini_batch - 1, frame(&earlier)));
        }
        bases.retain(|(_, frame)| frame.len() <= UNASKED_BYTES_MAX);
        bases
    }
}

/// The frames of one model.
pub struct Feed {
    origin: Origin,
    /// What a snapshot has beside its parameters.
    shell: Snapshot,
    /// Ranges of mini-batches, and what brings who is in one to the first position.
    bases: Vec<(RangeInclusive<u64>, Bytes)>,
    kept: Mutex<Kept>,
    /// Bytes of frames kept.
    kept_bytes_max: usize,
    /// Tells [`Feed::release`] that there is something to do.
    news: Condvar,
    /// Items before this number may leave.
    released: watch::Sender<u64>,
    /// One whole model is written at a time.
    pub(super) exporting: Semaphore,
    /// What feature views hold, where the model reads some.
    has_views: bool,
    views: OnceLock<Arc<LiveViews>>,
}

struct Kept {
    items: VecDeque<Item>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    /// Deltas behind this position are kept, all of them; `None`: nothing is.
    since: Option<u64>,
    asked: bool,
    mark: Mark,
    /// Where the last version of this start stands, and its manifest.
    version: Option<(Mark, String)>,
}

struct Item {
    position: u64,
    is_delta: bool,
    /// Changes of feature views: whoever is at the position may lack them.
    is_views: bool,
    bytes: Bytes,
}

/// How a follower begins.
pub(super) struct Begin {
    pub start: Start,
    pub hello: Bytes,
    /// Comes directly behind the hello.
    pub rebase: Option<Bytes>,
    /// The first item to send.
    pub next: u64,
}

/// The items a follower asked for are not kept any more.
#[derive(Debug)]
pub(super) struct Gone;

impl Feed {
    /// A feed that begins at the first position of this start, or one behind it where there is a base. `shell` is what a
    /// snapshot has beside its parameters.
    pub fn open(origin: Origin, shell: Snapshot, base: Option<Base>) -> Self {
        let begin = first_position(origin.starts);
        let bases = base.map_or(Vec::new(), |base| base.frames(begin));
        let since = (!bases.is_empty()).then_some(begin + 1);
        let kept = Kept {
            items: VecDeque::new(),
            first: 0,
            bytes: 0,
            since,
            asked: false,
            mark: Mark::default(),
            version: None,
        };
        Self {
            origin,
            shell,
            bases,
            kept: Mutex::new(kept),
            kept_bytes_max: KEPT_BYTES_MAX,
            news: Condvar::new(),
            released: watch::Sender::new(0),
            exporting: Semaphore::new(1),
            has_views: false,
            views: OnceLock::new(),
        }
    }

    /// The same of a model that reads feature views: whole models are sent with them, as soon as they are known.
    pub fn with_views(self) -> Self {
        Self { has_views: true, ..self }
    }

    /// Whether what is published is kept for somebody.
    pub fn is_kept(&self) -> bool {
        self.kept().since.is_some()
    }

    /// What requests ask about feature views.
    pub fn views_are(&self, views: Arc<LiveViews>) {
        let _ = self.views.set(views);
    }

    /// Everything in the feature views; `None`: it cannot be had just now.
    pub(super) fn whole_views(&self) -> Option<(Vec<ViewDelta>, i64)> {
        match self.has_views {
            true => self.views.get()?.whole(),
            false => Some((Vec::new(), 0)),
        }
    }

    /// The same, with room for so many bytes of frames.
    pub fn with_room(self, kept_bytes_max: usize) -> Self {
        Self { kept_bytes_max, ..self }
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.origin.model
    }

    /// A delta that leads to `mark`; an empty one only moves the mark. `before` is what it changes, where that is known: then
    /// zeros are left out that are zeros there already.
    pub(crate) fn delta(&self, delta: &Delta, mark: Mark, before: Option<&WeightTable>) {
        let mut kept = self.kept();
        let moved = std::mem::replace(&mut kept.mark, mark) != mark;
        if delta.is_empty() || kept.since.is_none() {
            if moved {
                // Followers say where this is, so that a later start knows what they have.
                self.released.send_modify(|_| ());
            }
            return;
        }
        // Encoded under the lock: the writer is alone here, and followers only take copies of handles.
        let sent = before.filter(|_| !delta.anew).map_or_else(|| delta.clone(), |before| delta.needed_by(before));
        let bytes = Bytes::from(Frame::Delta(mark, sent).encode());
        kept.add(Item { position: delta.to, is_delta: true, is_views: false, bytes }, self.kept_bytes_max);
        self.news.notify_one();
    }

    /// What changed in the feature views on the way to `mark`; it leaves behind the delta.
    pub(crate) fn view_deltas(&self, mark: Mark, views: Views) {
        let mut kept = self.kept();
        if kept.since.is_none() {
            return;
        }
        let bytes = Bytes::from(Frame::Views(mark, views).encode());
        let item = Item { position: mark.position, is_delta: false, is_views: true, bytes };
        kept.add(item, self.kept_bytes_max);
        self.news.notify_one();
    }

    /// A version was published of what stands at `mark`.
    pub(crate) fn version(&self, mark: Mark, manifest: String) {
        let mut kept = self.kept();
        kept.mark = mark;
        kept.version = Some((mark, manifest.clone()));
        if kept.since.is_none() {
            return;
        }
        let bytes = Bytes::from(Frame::Version(mark, manifest).encode());
        kept.add(Item { position: mark.position, is_delta: false, is_views: false, bytes }, self.kept_bytes_max);
        self.news.notify_one();
    }

    /// The frame of the version that stands at a position, if one does.
    pub(super) fn version_at(&self, position: u64) -> Option<Bytes> {
        let (mark, manifest) = self.kept().version.clone().filter(|(mark, _)| mark.position == position)?;
        Some(Frame::Version(mark, manifest).encode().into())
    }

    /// Somebody follows: from now on deltas are kept. `mark` is where the writer stands.
    pub(crate) fn asked(&self, mark: Mark) {
        let mut kept = self.kept();
        kept.asked = true;
        kept.mark = mark;
        kept.since.get_or_insert(mark.position);
    }

    /// How a follower begins that has this.
    pub(super) fn begin(&self, ask: &Ask) -> Begin {
        let kept = self.kept();
        let since = kept.since.unwrap_or(u64::MAX);
        let ours = ask.lineage == self.origin.lineage;
        let begin = first_position(self.origin.starts);
        let base = self.bases.iter().find(|(range, _)| range.contains(&ask.mini_batch));
        let (start, rebase, position) = match base {
            _ if ours && (since..=kept.mark.position).contains(&ask.position) => (Start::Resume, None, ask.position),
            Some((_, frame)) if ours && ask.position < begin && since == begin + 1 => {
                (Start::Rebase, Some(frame.clone()), begin + 1)
            }
            _ => (Start::Snapshot, None, u64::MAX),
        };
        let hello = Hello {
            model: self.origin.model.clone(),
            lineage: self.origin.lineage,
            fingerprint: self.origin.fingerprint,
            position: kept.mark.position,
            start,
            program: self.origin.program.clone(),
        };
        Begin { start, hello: Frame::Hello(hello).encode().into(), rebase, next: kept.behind(position) }
    }

    /// The number of the first item behind a position.
    pub(super) fn behind(&self, position: u64) -> u64 {
        self.kept().behind(position)
    }

    /// The position behind which every delta is kept.
    pub(super) fn since(&self) -> u64 {
        self.kept().since.unwrap_or(u64::MAX)
    }

    /// Puts a mark among the items, so that what stands before it is waited for; its number.
    pub(super) fn fence(&self) -> u64 {
        let mut kept = self.kept();
        let mark = kept.mark;
        let bytes = Bytes::from(Frame::Here(mark).encode());
        let number =
            kept.add(Item { position: mark.position, is_delta: false, is_views: false, bytes }, self.kept_bytes_max);
        self.news.notify_one();
        number
    }

    /// Items from `next` on, as far as they may leave; a few at a time.
    pub(super) fn items(&self, next: u64) -> Result<Vec<Bytes>, Gone> {
        const AT_ONCE: usize = 64;
        let kept = self.kept();
        let released = *self.released.borrow();
        let from = next.checked_sub(kept.first).ok_or(Gone)? as usize;
        let to = (released.saturating_sub(kept.first) as usize).min(from + AT_ONCE).max(from);
        Ok(kept
            .items
            .range(from.min(kept.items.len())..to.min(kept.items.len()))
            .map(|item| item.bytes.clone())
            .collect())
    }

    /// The mark, if everything up to it was sent to whoever has everything before `next`.
    pub(super) fn mark_at(&self, next: u64) -> Option<Mark> {
        let kept = self.kept();
        (next == kept.first + kept.items.len() as u64).then_some(kept.mark)
    }

    /// Changes whenever more may leave.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        let watched = self.released.subscribe();
        self.news.notify_one();
        watched
    }

    /// Lets go what was written until now, once `sync` has made durable what it stands on. Waits for something to do, at
    /// most so long; to be called again and again by a thread of its own. Without a follower nothing is synced.
    pub fn release(&self, wait: Duration, sync: &dyn Fn() -> Result<()>) -> Result<()> {
        let idle = |kept: &mut Kept| {
            self.released.receiver_count() == 0 || kept.first + kept.items.len() as u64 <= *self.released.borrow()
        };
        let (mut kept, waited) =
            self.news.wait_timeout_while(self.kept(), wait, idle).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && idle(&mut kept) {
            return Ok(());
        }
        let end = kept.first + kept.items.len() as u64;
        drop(kept);
        sync()?;
        self.released.send_replace(end);
        Ok(())
    }

    /// A snapshot of these parameters.
    pub(super) fn snapshot(&self, position: u64, weights: &WeightTable) -> Snapshot {
        Snapshot {
            sequence: position,
            entries: weights.entries(),
            dense: weights.dense().to_vec(),
            ..self.shell.clone()
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn add(&mut self, item: Item, bytes_max: usize) -> u64 {
        self.bytes += item.bytes.len();
        self.items.push_back(item);
        if !self.asked && self.bytes > UNASKED_BYTES_MAX {
            self.first += self.items.len() as u64;
            (self.bytes, self.since) = (0, None);
            self.items = VecDeque::new();
        }
        while self.bytes > bytes_max && self.items.len() > 1 {
            let Some(oldest) = self.items.pop_front() else { break };
            self.first += 1;
            self.bytes -= oldest.bytes.len();
            if oldest.is_delta || oldest.is_views {
                self.since = Some(oldest.position + u64::from(oldest.is_views));
            }
        }
        (self.first + self.items.len() as u64).saturating_sub(1)
    }

    fn behind(&self, position: u64) -> u64 {
        let is_behind = |item: &Item| item.position > position || (!item.is_delta && item.position == position);
        let at = self.items.iter().position(is_behind).unwrap_or(self.items.len());
        self.first + at as u64
    }
}

#[cfg(test)]
mod tests {
    use tidemill_model::entries::Entries;

    use super::*;

    const BEGIN: u64 = first_position(3);

    fn origin() -> Origin {
        Origin { model: "ctr".into(), lineage: 7, starts: 3, ..Origin::default() }
    }

    fn delta(to: u64) -> Delta {
        Delta { from: to - 1, to, entries: Entries::pairs([(to, 0.5)]), ..Delta::default() }
    }

    fn mark(position: u64) -> Mark {
        Mark { position, mini_batch: position - BEGIN + 100, version: 1 }
    }

    fn give(feed: &Feed, positions: std::ops::RangeInclusive<u64>) {
        positions.for_each(|n| feed.delta(&delta(BEGIN + n), mark(BEGIN + n), None));
    }

    fn start(feed: &Feed, lineage: u64, position: u64, mini_batch: u64) -> Start {
        feed.begin(&Ask { lineage, position, mini_batch, ..Ask::default() }).start
    }

    fn sent(feed: &Feed, from: u64) -> Vec<u64> {
        let frames = feed.items(feed.behind(from)).unwrap();
        let position = |frame: &Bytes| match Frame::decode(frame).unwrap() {
            Frame::Delta(mark, _) | Frame::Version(mark, _) => mark.position - BEGIN,
            other => panic!("{other:?}"),
        };
        frames.iter().map(position).collect()
    }

    /// A replica that was away goes on from its position while the deltas are kept, and begins anew when they are gone.
    #[test]
    fn a_position_is_gone_on_with_as_long_as_what_follows_it_is_kept() {
        let feed = Feed::open(origin(), Snapshot::default(), None).with_room(1000);
        give(&feed, 1..=3);
        assert_eq!(start(&feed, 7, BEGIN + 2, 102), Start::Snapshot, "nobody had asked, so nothing was kept");
        feed.asked(mark(BEGIN + 3));
        give(&feed, 4..=8);
        let _follower = feed.watch();
        feed.release(Duration::ZERO, &|| Ok(())).unwrap();
        assert_eq!(start(&feed, 7, BEGIN + 3, 103), Start::Resume);
        assert_eq!((sent(&feed, BEGIN + 3), sent(&feed, BEGIN + 6)), (vec![4, 5, 6, 7, 8], vec![7, 8]));
        assert_eq!(start(&feed, 7, BEGIN + 2, 102), Start::Snapshot, "too old");
        assert_eq!(start(&feed, 7, BEGIN + 9, 109), Start::Snapshot, "nobody can be ahead");
        assert_eq!(start(&feed, 8, BEGIN + 6, 106), Start::Snapshot, "another history");
        // Room for a few only.
        give(&feed, 9..=40);
        assert_eq!(start(&feed, 7, BEGIN + 8, 108), Start::Snapshot);
        assert!(feed.items(4).is_err(), "who reads too slowly is told");
        assert_eq!(start(&feed, 7, BEGIN + 38, 138), Start::Resume);
    }

    /// What changed between the checkpoint and the end of the journal is enough for a replica that was between the two.
    #[test]
    fn a_replica_of_an_earlier_start_is_brought_on_by_one_delta() {
        let earlier =
            Some((90, Delta { entries: Entries::pairs([(1, 0.25), (BEGIN + 1, 0.125)]), ..Delta::default() }));
        let base = || Base {
            from_mini_batch: 100,
            mini_batch: 120,
            version: 1,
            delta: delta(BEGIN + 1),
            earlier: earlier.clone(),
        };
        let feed = Feed::open(origin(), Snapshot::default(), Some(base()));
        let earlier = first_position(2) + 50;
        assert_eq!(start(&feed, 7, earlier, 89), Start::Snapshot, "older than the whole checkpoint");
        let far = feed.begin(&Ask { lineage: 7, position: earlier, mini_batch: 99, ..Ask::default() });
        let Frame::Delta(_, sent) = Frame::decode(&far.rebase.unwrap()).unwrap() else { panic!("no delta") };
        assert_eq!(sent.entries, Entries::pairs([(1, 0.25), (BEGIN + 1, 0.5)]), "as of the later one");
        give(&feed, 2..=4);
        for mini_batch in [100, 110, 120] {
            assert_eq!(start(&feed, 7, earlier, mini_batch), Start::Rebase);
        }
        assert_eq!(start(&feed, 7, earlier, 121), Start::Snapshot, "it has what the journal lost");
        assert_eq!(start(&feed, 8, earlier, 110), Start::Snapshot, "another history");
        let begin = feed.begin(&Ask { lineage: 7, position: earlier, mini_batch: 110, ..Ask::default() });
        let Frame::Delta(to, sent) = Frame::decode(&begin.rebase.unwrap()).unwrap() else { panic!("no delta") };
        assert_eq!((to.position, to.mini_batch, sent.from, sent.to), (BEGIN + 1, 120, BEGIN, BEGIN + 1));
        assert_eq!(begin.next, 0, "and then those since");
    }

    /// With L1 most keys of a delta are zeros that nobody has; a zero in place of a weight is a removal and is sent.
    #[test]
    fn zeros_are_sent_only_to_remove_something() {
        let feed = Feed::open(origin(), Snapshot::default(), None);
        feed.asked(mark(BEGIN));
        let _follower = feed.watch();
        let entries = Entries::pairs([(5, 0.0), (6, 0.25), (7, 0.0)]);
        let delta = Delta { from: BEGIN, to: BEGIN + 1, entries, ..Delta::default() };
        let has = Snapshot { entries: Entries::pairs([(6, 1.0), (7, 1.0)]), ..Snapshot::default() };
        feed.delta(&delta, mark(BEGIN + 1), Some(&WeightTable::from_snapshot(&has)));
        feed.release(Duration::ZERO, &|| Ok(())).unwrap();
        let Frame::Delta(_, sent) = Frame::decode(&feed.items(0).unwrap()[0]).unwrap() else { panic!("no delta") };
        assert_eq!(sent, Delta { entries: Entries::pairs([(6, 0.25), (7, 0.0)]), ..delta });
    }

    /// Nothing leaves before the journal is durable.
    #[test]
    fn a_frame_waits_for_the_journal() {
        let feed = Feed::open(origin(), Snapshot::default(), None);
        feed.asked(mark(BEGIN));
        let _follower = feed.watch();
        give(&feed, 1..=2);
        let fails = feed.release(Duration::ZERO, &|| Err(tidemill_base::Error::unavailable("no disk")));
        assert!(fails.is_err() && sent(&feed, BEGIN).is_empty());
        feed.release(Duration::ZERO, &|| Ok(())).unwrap();
        feed.version(mark(BEGIN + 2), "{}".into());
        assert_eq!(sent(&feed, BEGIN), [1, 2]);
        feed.release(Duration::ZERO, &|| Ok(())).unwrap();
        assert_eq!(sent(&feed, BEGIN + 2), [2], "a version is told again to whoever stands at it");
    }
}
