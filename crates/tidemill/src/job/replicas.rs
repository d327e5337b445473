//! The job's side of replicas: which history its parameters are of, and when what is published may leave.
//!
//! In: the job's directory, and the journal. Out: the numbers of this start, on disk before anybody is told them: a start
//! from scratch begins a new lineage, every other one only counts on, so that positions of a later start are larger than
//! all earlier ones. And a thread that makes the journal durable before a replica is sent what stands on it.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tidemill_base::{
    Clock, Error, Result, hash64,
    store::{atomic_file, log::LogSync},
};
use tidemill_model::{delta::Delta, snapshot::Snapshot};
use tidemill_serve::follow::feed::{Base, Feed, Origin, UNASKED_BYTES_MAX};
use tidemill_sql::TrainJob;

use crate::engine::Engine;

/// Of one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The history; not 0.
    pub id: u64,
    /// Starts in it, this one included.
    pub starts: u64,
}

impl Lineage {
    /// Counts a start of the job in this directory.
    pub fn begin(job_dir: &Path, clock: &dyn Clock) -> Result<Self> {
        Self::count(job_dir, clock, 1)
    }

    /// The lineage of the job in this directory, which begins now where there was none.
    pub fn id(job_dir: &Path, clock: &dyn Clock) -> Result<u64> {
        Self::count(job_dir, clock, 0).map(|lineage| lineage.id)
    }

    fn count(job_dir: &Path, clock: &dyn Clock, starts: u64) -> Result<Self> {
        let path = job_dir.join("lineage");
        let lineage = match fs::read_to_string(&path) {
            Ok(text) => {
                let earlier = parse(&text).ok_or_else(|| {
                    Error::corrupt(format!(
                        "{}: '{}' is not a lineage and a number of starts; remove the file, and replicas begin with the \
                         whole model",
                        path.display(),
                        text.trim().escape_default()
                    ))
                })?;
                Self { starts: earlier.starts + starts, ..earlier }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                // Different wherever and whenever it is drawn; nothing that is learned depends on it.
                let drawn = format!("{} {:?} {} {job_dir:?}", clock.wall_ms(), clock.elapsed(), std::process::id());
                Self { id: hash64(drawn.as_bytes(), 0).max(1), starts }
            }
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        atomic_file::replace(&path, format!("{:016x} {}\n", lineage.id, lineage.starts).as_bytes())?;
        Ok(lineage)
    }
}

/// Where a job was restored, for replicas that followed it before.
pub(super) struct Restored {
    /// The mini-batch of the checkpoint.
    pub at: u64,
    /// The mini-batch of the whole one behind which only changes were written, and these.
    pub earlier: Option<(u64, Delta)>,
}

impl Restored {
    /// Of an engine that has just been restored from a checkpoint whose entries were all written at `whole_at`, last.
    pub fn new(engine: &Engine, whole_at: Option<u64>) -> Self {
        let mut trainer = engine.line.learning.trainer();
        let entry_bytes = size_of::<u64>() + trainer.entry_widths().0 * size_of::<f32>();
        let changed = trainer.take_restored(UNASKED_BYTES_MAX / entry_bytes);
        Self { at: engine.mini_batch_number(), earlier: whole_at.zip(changed) }
    }
}

/// What replicas of a model read. `shell` is what a snapshot of it has beside its entries.
pub(super) fn feed(
    bound: &TrainJob,
    lineage: Lineage,
    shell: Snapshot,
    base: Option<Base>,
    journal: LogSync,
) -> Result<Arc<Feed>> {
    let origin = Origin {
        model: bound.model.clone(),
        lineage: lineage.id,
        starts: lineage.starts,
        fingerprint: bound.fingerprint,
        program: bound.text.clone(),
    };
    let feed = Feed::open(origin, shell, base);
    let feed = Arc::new(if bound.pipeline.views.is_some() { feed.with_views() } else { feed });
    release_beside(&feed, journal)?;
    Ok(feed)
}

/// Lets replicas have what is published, once the journal that it stands on is durable. Ends with the feed.
fn release_beside(feed: &Arc<Feed>, journal: LogSync) -> Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    let (feed, name) = (Arc::downgrade(feed), "replicas".to_string());
    let release = move || {
        while let Some(feed) = feed.upgrade() {
            if feed.release(LOOK_EVERY, &|| journal.sync()).is_err() {
                // The job ends by the same failure; until then replicas stay where they are.
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
    };
    let started = std::thread::Builder::new().name(name).spawn(release);
    started.map(drop).map_err(|e| Error::unavailable(format!("cannot start the thread for replicas: {e}")))
}

fn parse(text: &str) -> Option<Lineage> {
    let (id, starts) = text.trim().split_once(' ')?;
    let lineage = Lineage { id: u64::from_str_radix(id, 16).ok()?, starts: starts.parse().ok()? };
    (lineage.id != 0 && lineage.starts < 1 << 23).then_some(lineage)
}

#[cfg(test)]
mod tests {
    use tidemill_base::SystemClock;

    use super::*;

    #[test]
    fn starts_are_counted_and_a_new_directory_is_a_new_history() {
        let dir = std::env::temp_dir().join(format!("tidemill-lineage-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let [a, b] = ["a", "b"].map(|name| dir.join(name));
        [&a, &b].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let clock = SystemClock::new();
        let first = Lineage::begin(&a, &clock).unwrap();
        let second = Lineage::begin(&a, &clock).unwrap();
        assert_eq!((first.starts, second), (1, Lineage { starts: 2, ..first }));
        assert_ne!(Lineage::begin(&b, &clock).unwrap().id, first.id);
        fs::write(a.join("lineage"), "x").unwrap();
        let message = Lineage::begin(&a, &clock).unwrap_err();
        assert!(message.message().contains("remove the file"), "{message}");
        fs::remove_dir_all(dir).unwrap();
    }
}
