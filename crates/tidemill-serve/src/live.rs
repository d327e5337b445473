//! What requests read while the trainer goes on: step 8's living half.
//!
//! In: deltas, in sequence, from one writer. Out: a [`ServedVersion`] for each request, whole and unchanging. Two weight
//! tables stand side by side (left-right): a delta goes into the one that no request holds, that one is swapped in, and the
//! other gets the same delta later. Where a request still holds the other, or it is not there yet, deltas are collected: neither side
//! ever waits for the other. A version pinned by an operator hides the newest, which goes on learning behind it. Labels, the split of
//! traffic and trials of versions stand in one value of their own, which a request reads once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use arc_swap::ArcSwap;
use tidemill_base::{Error, Result};
use tidemill_model::{delta::Delta, snapshot::Snapshot, weights::WeightTable};
use tidemill_stream::aggregate::ViewDelta;

use crate::{
    follow::{Mark, feed::Feed, frame::Views},
    split::Split,
    trial::Trial,
};

/// Collected entries beyond which they are merged to one per key: a request that never ends makes the writer keep a few
/// entries for each key, and no more.
const BACKLOG_ENTRIES_MAX: usize = 1 << 20;

/// The weights one request sees, and what they are called.
#[derive(Clone)]
pub struct ServedVersion {
    /// The weights.
    pub weights: WeightTable,
    /// The last version published into them; 0 before the first.
    pub version: u64,
    /// Mini-batches learned from.
    pub mini_batch: u64,
    /// The moment the last delta in them led to.
    pub sequence: u64,
}

impl ServedVersion {
    /// How far they have come.
    pub fn mark(&self) -> Mark {
        Mark { position: self.sequence, mini_batch: self.mini_batch, version: self.version }
    }
}

/// Which weights a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// The live ones.
    Live,
    /// Those of a version that is loaded: live, newest, or under a label.
    Version(u64),
    /// Those that a label points at.
    Label(&'a str),
    /// Those that the split of traffic gives this routing key; the live ones while there is no split.
    Key(&'a [u8]),
}

impl Which<'_> {
    /// The version, where one is asked for by its number.
    pub fn version(&self) -> Option<u64> {
        match self {
            Which::Version(version) => Some(*version),
            _ => None,
        }
    }

    /// Whether the caller left it to the server: only such requests speak about versions, for nobody chose who asks which.
    pub fn is_open(&self) -> bool {
        matches!(self, Which::Live | Which::Key(_))
    }
}

impl From<Option<u64>> for Which<'_> {
    fn from(version: Option<u64>) -> Self {
        version.map_or(Which::Live, Which::Version)
    }
}

/// Which weights answer whom, beside the newest.
#[derive(Clone, Default)]
pub struct Routes {
    /// Live in place of the newest.
    pub pinned: Option<Arc<ServedVersion>>,
    /// Loaded versions by label; `live` is not among them.
    pub labels: BTreeMap<String, Arc<ServedVersion>>,
    /// Who gets what, when not all get the live version.
    pub split: Option<Split>,
    /// Versions that are watched beside the live one.
    pub trials: Vec<Arc<Trial>>,
}

/// The model as requests see it.
pub struct LiveModel {
    newest: ArcSwap<ServedVersion>,
    routes: ArcSwap<Routes>,
    /// Versions that somebody asked for by number, the latest first.
    asked: ArcSwap<Vec<Arc<ServedVersion>>>,
    behind: Mutex<Behind>,
    /// Where replicas read what is published here, if they may.
    feed: OnceLock<Arc<Feed>>,
}

/// Versions kept beside the newest and the pinned one because they were asked for.
const ASKED_MAX: usize = 4;

/// The writer's side.
struct Behind {
    /// The table that is not served; `None` while it is made. Requests that began before the last swap may hold it still.
    spare: Option<Arc<ServedVersion>>,
    /// Deltas the spare table lacks, oldest first; the first `served` of them are in the served one.
    owed: Vec<Delta>,
    served: usize,
    /// What the tables are called once all that is owed is in.
    version: u64,
    mini_batch: u64,
    /// The moment the last delta led to.
    to: u64,
}

impl LiveModel {
    /// Serves these weights as they are: no delta will come, so one table is enough.
    pub fn fixed(weights: WeightTable, version: u64, mini_batch: u64) -> Self {
        let only = Arc::new(ServedVersion { weights, version, mini_batch, sequence: 0 });
        Self::with_tables(only.clone(), Some(only), 0)
    }

    /// Begins with these weights.
    pub fn open(snapshot: &Snapshot, version: u64, mini_batch: u64) -> Self {
        let table = || Arc::new(ServedVersion::of(snapshot, version, mini_batch));
        Self::with_tables(table(), Some(table()), snapshot.sequence)
    }

    /// Begins with these weights as of `sequence`. The second table is made on another thread meanwhile; until it is there,
    /// deltas are collected.
    pub fn begin(weights: WeightTable, sequence: u64, version: u64, mini_batch: u64) -> Result<Arc<Self>> {
        let newest = Arc::new(ServedVersion { weights, version, mini_batch, sequence });
        let live = Arc::new(Self::with_tables(newest.clone(), None, sequence));
        let to = live.clone();
        let copy = move || {
            let spare = Arc::new(ServedVersion::clone(&newest));
            let mut behind = to.behind();
            // Unless the model was replaced meanwhile: then both tables are others.
            if behind.spare.is_none() && Arc::ptr_eq(&to.newest.load(), &newest) {
                drop(newest);
                behind.spare = Some(spare);
                to.swap(&mut behind);
            }
        };
        let started = std::thread::Builder::new().name("second table".into()).spawn(copy);
        started.map_err(|e| Error::unavailable(format!("cannot start a thread: {e}")))?;
        Ok(live)
    }

    fn with_tables(newest: Arc<ServedVersion>, spare: Option<Arc<ServedVersion>>, to: u64) -> Self {
        let (version, mini_batch) = (newest.version, newest.mini_batch);
        Self {
            newest: ArcSwap::new(newest),
            routes: ArcSwap::default(),
            asked: ArcSwap::default(),
            behind: Mutex::new(Behind { spare, owed: Vec::new(), served: 0, version, mini_batch, to }),
            feed: OnceLock::new(),
        }
    }

    /// Begins again with these weights, in place of whatever was learned or published so far. Requests see the old ones
    /// until the new ones are complete.
    pub fn replace(&self, snapshot: &Snapshot, version: u64, mini_batch: u64) {
        let table = || Arc::new(ServedVersion::of(snapshot, version, mini_batch));
        let (newest, spare) = (table(), table());
        let mut behind = self.behind();
        *behind =
            Behind { spare: Some(spare), owed: Vec::new(), served: 0, version, mini_batch, to: snapshot.sequence };
        self.newest.store(newest);
    }

    /// Lets replicas read what is published from now on.
    pub fn feed_to(&self, feed: Arc<Feed>) {
        let _ = self.feed.set(feed);
    }

    /// Where replicas read.
    pub fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.get()
    }

    /// Somebody follows.
    pub(crate) fn is_followed(&self) {
        if let Some(feed) = self.feed() {
            let behind = self.behind();
            feed.asked(behind.mark());
        }
    }

    /// What a request that begins now sees, all through. Takes no lock.
    pub fn read(&self) -> Arc<ServedVersion> {
        let pinned = self.routes.load().pinned.clone();
        pinned.unwrap_or_else(|| self.newest.load_full())
    }

    /// What a request sees that asks for `which`. A version or label that is not loaded is
    /// [`Kind::NotFound`](tidemill_base::Kind::NotFound).
    pub fn pick(&self, which: Which<'_>) -> Result<Arc<ServedVersion>> {
        match which {
            Which::Live => Ok(self.read()),
            Which::Version(version) => self.read_version(version),
            Which::Label("live") => Ok(self.read()),
            Which::Label(label) => {
                let routes = self.routes.load();
                let have = || routes.labels.keys().map(|l| format!(", {l}")).collect::<String>();
                let none = || Error::not_found(format!("no label '{}' (have live{})", crate::shown(label), have()));
                routes.labels.get(label).cloned().ok_or_else(none)
            }
            Which::Key(key) => {
                let routes = self.routes.load();
                let label = routes.split.as_ref().and_then(|split| split.label(split.bucket(key)));
                let labelled = label.and_then(|label| routes.labels.get(label)).or(routes.pinned.as_ref()).cloned();
                Ok(labelled.unwrap_or_else(|| self.newest.load_full()))
            }
        }
    }

    /// Labels, split and trials as they are now.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Versions that are watched beside the live one. Takes no lock.
    pub fn trials(&self) -> Option<Arc<Routes>> {
        let routes = self.routes.load();
        if routes.trials.is_empty() { None } else { Some(routes.clone()) }
    }

    /// Whether requests without a version of their own are told apart by key.
    pub fn is_split(&self) -> bool {
        self.routes.load().split.is_some()
    }

    /// Changes labels, split and trials, all at once for the requests that begin then. The closure may be run again when
    /// somebody else changes them meanwhile.
    pub fn reroute(&self, change: impl Fn(&mut Routes)) {
        self.routes.rcu(|routes| {
            let mut next = Routes::clone(routes);
            change(&mut next);
            next
        });
    }

    /// The newest weights, also while an earlier version is pinned.
    pub fn newest(&self) -> Arc<ServedVersion> {
        self.newest.load_full()
    }

    /// Takes the next delta; after it the model is called `version` at `mini_batch`. `true`: requests that begin now see
    /// it (unless a version is pinned); `false`: a request still holds the other table, and the next
    /// [`LiveModel::publish`] or [`LiveModel::refresh`] shows it. A delta that leaves a gap behind the last is refused.
    pub fn publish(&self, delta: Delta, version: u64, mini_batch: u64) -> Result<bool> {
        let mut behind = self.behind();
        if delta.from > behind.to {
            return Err(Error::conflict(format!(
                "delta {}..{} does not follow {}; load a snapshot",
                delta.from, delta.to, behind.to
            )));
        }
        behind.to = behind.to.max(delta.to);
        (behind.version, behind.mini_batch) = (version, mini_batch);
        if let Some(feed) = self.feed() {
            // Replicas have what the served table has, where nothing else is owed to it.
            let newest = (behind.owed.len() == behind.served).then(|| self.newest.load());
            feed.delta(&delta, behind.mark(), newest.as_ref().map(|newest| &newest.weights));
        }
        if !delta.is_empty() {
            behind.owed.push(delta);
        }
        Ok(self.swap(&mut behind))
    }

    /// What changed in the feature views beside the last delta; for replicas.
    pub fn publish_views(&self, deltas: Vec<ViewDelta>, newest: i64) {
        let behind = self.behind();
        if let Some(feed) = self.feed() {
            feed.view_deltas(behind.mark(), Views { is_whole: false, newest, deltas });
        }
    }

    /// What has been given here is called `version` from now on; replicas are handed its manifest.
    pub fn published(&self, version: u64, manifest: String) {
        let mut behind = self.behind();
        behind.version = version;
        if let Some(feed) = self.feed() {
            feed.version(behind.mark(), manifest);
        }
        self.swap(&mut behind);
    }

    /// Shows what [`LiveModel::publish`] could not; `true` when nothing is left to show. To be called now and then where
    /// deltas may stop coming.
    pub fn refresh(&self) -> bool {
        let mut behind = self.behind();
        let newest = self.newest.load();
        let shown = (newest.version, newest.mini_batch) == (behind.version, behind.mini_batch);
        drop(newest);
        (shown && behind.owed.len() == behind.served) || self.swap(&mut behind)
    }

    /// Makes an earlier version what requests see, until [`LiveModel::promote`].
    pub fn pin(&self, snapshot: &Snapshot, version: u64, mini_batch: u64) {
        self.pin_weights(WeightTable::from_snapshot(snapshot), version, mini_batch);
    }

    /// [`LiveModel::pin`] of weights that are there already.
    pub fn pin_weights(&self, weights: WeightTable, version: u64, mini_batch: u64) {
        let pinned = Arc::new(ServedVersion { weights, version, mini_batch, sequence: 0 });
        self.reroute(|routes| routes.pinned = Some(pinned.clone()));
    }

    /// Makes the newest weights what requests see, at once.
    pub fn promote(&self) {
        self.reroute(|routes| routes.pinned = None);
    }

    /// The version an operator pinned.
    pub fn pinned(&self) -> Option<u64> {
        self.routes.load().pinned.as_ref().map(|p| p.version)
    }

    /// Keeps an earlier version for those who ask for it by its number; of those kept so, the one that was asked for first
    /// leaves when there are too many.
    pub fn keep(&self, weights: WeightTable, version: u64, mini_batch: u64) {
        let kept = Arc::new(ServedVersion { weights, version, mini_batch, sequence: 0 });
        self.asked.rcu(|asked| {
            let others = asked.iter().filter(|other| other.version != version).take(ASKED_MAX - 1);
            std::iter::once(&kept).chain(others).cloned().collect::<Vec<_>>()
        });
    }

    /// The weights called `version`: the served ones, those under a label, the newest, or kept ones. Others are on disk only.
    pub fn read_version(&self, version: u64) -> Result<Arc<ServedVersion>> {
        let routes = self.routes.load();
        let loaded = routes.pinned.iter().chain(routes.labels.values()).find(|l| l.version == version);
        if let Some(loaded) = loaded {
            return Ok(loaded.clone());
        }
        let newest = self.newest();
        if newest.version == version {
            return Ok(newest);
        }
        if let Some(kept) = self.asked.load().iter().find(|kept| kept.version == version) {
            return Ok(kept.clone());
        }
        let served = routes.pinned.as_ref().unwrap_or(&newest).version;
        Err(Error::not_found(format!("version {version} is not loaded (served is {served})")))
    }

    /// Bytes held: both tables, the pinned one, those under labels, and those kept.
    pub fn bytes(&self) -> u64 {
        let (routes, asked) = (self.routes.load(), self.asked.load());
        let labelled = routes.pinned.iter().chain(routes.labels.values());
        let mut others: Vec<&Arc<ServedVersion>> = labelled.chain(asked.iter()).collect();
        others.sort_by_key(|v| Arc::as_ptr(v));
        others.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let others: u64 = others.iter().map(|v| v.weights.bytes() as u64).sum();
        let newest = self.newest.load_full();
        let tables = if self.behind().spare.as_ref().is_none_or(|spare| Arc::ptr_eq(&newest, spare)) { 1 } else { 2 };
        tables * newest.weights.bytes() as u64 + others
    }

    fn swap(&self, behind: &mut Behind) -> bool {
        let Some(spare) = behind.spare.as_mut().and_then(Arc::get_mut) else {
            behind.merge_if_long();
            return false;
        };
        for delta in &behind.owed {
            spare.weights.apply(delta);
        }
        (spare.version, spare.mini_batch, spare.sequence) = (behind.version, behind.mini_batch, behind.to);
        behind.spare = behind.spare.take().map(|free| self.newest.swap(free));
        behind.owed.drain(..behind.served);
        behind.served = behind.owed.len();
        true
    }

    fn behind(&self) -> MutexGuard<'_, Behind> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServedVersion {
    fn of(snapshot: &Snapshot, version: u64, mini_batch: u64) -> Self {
        Self { weights: WeightTable::from_snapshot(snapshot), version, mini_batch, sequence: snapshot.sequence }
    }
}

impl Behind {
    fn mark(&self) -> Mark {
        Mark { position: self.to, mini_batch: self.mini_batch, version: self.version }
    }

    /// Later entries of a key win. What was merged counts as not served: putting a weight that is there already changes
    /// nothing.
    fn merge_if_long(&mut self) {
        let entries: usize = self.owed.iter().map(|d| d.entries.len()).sum();
        if self.owed.len() < 2 || entries < BACKLOG_ENTRIES_MAX.max(2 * self.owed[0].entries.len()) {
            return;
        }
        let mut all = self.owed.remove(0);
        // What is owed came in sequence, so each follows the one before it.
        self.owed.drain(..).for_each(|next| all.append(next));
        self.owed.push(all);
        self.served = 0;
    }
}
