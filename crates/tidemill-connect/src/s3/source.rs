//! Objects of a store as partitions of a source.
//!
//! In: a path, and the names of objects that earlier runs opened. Out: a partition for each object, which fetches its bytes in
//! ranges while it is read. Objects that are there when the source is opened are merged by event time, as files are; with
//! `follow` the store is listed again and again on the client's thread, and what has come joins the merge, at most [`OPEN_MAX`]
//! objects at once, the oldest first. Offsets are row numbers; a changed object is told by its ETag, in the listing and again
//! with each range. A known object that is no longer there is missed when a row of it is needed, not before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use object_store::{GetOptions, GetRange, ObjectStore, path::Path as Key};
use tidemill_base::{Error, Kind, Result};
use tidemill_stream::{
    Position,
    source::{
        FileFormat, ObjectSettings, Opened, Partition, Print, Read, SourceSpec,
        object::{Fetch, Object, ObjectPartition, SCHEME, gone},
        push,
    },
};
use tokio::time::Instant;

use super::{
    Client, Place,
    listing::{Found, Wanted},
};
use crate::{AWAY_AT_MOST, client_properties, pause};

/// The partition that says that objects may come: without rows, never at its end.
const LISTING_NAME: &str = "listing";
/// Objects of a followed source that are read at once. Each holds what its first rows take, and more once its turn has come.
const OPEN_MAX: usize = 256;
/// Objects whose beginnings are looked at together when a source is opened.
const CHECKED_AT_ONCE: usize = 16;
/// How long a store that was away is not asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The objects of one source.
pub(crate) struct Bucket {
    shared: Arc<Shared>,
    wanted: Wanted,
    settings: ObjectSettings,
    /// How many are being read.
    open: Arc<AtomicUsize>,
}

/// What the source shares with its objects and with whoever lists.
struct Shared {
    client: Client,
    away: Arc<Away>,
    listed: Mutex<Listed>,
}

/// What the last listing brought.
#[derive(Default)]
struct Listed {
    found: Vec<Found>,
    trouble: Option<String>,
}

/// Since when the store is away, and why.
#[derive(Default)]
struct Away(Mutex<Option<Silence>>);

struct Silence {
    since: Instant,
    last: Instant,
    why: String,
}

impl Bucket {
    /// Makes the client and takes the path apart. Of `environment`, and of the source's own properties before it, the names
    /// that begin with `AWS_` count.
    pub fn connect(settings: &ObjectSettings, environment: &BTreeMap<String, String>) -> Result<Self> {
        let mut environment = environment.clone();
        for (name, value) in client_properties(&settings.properties, settings.properties_file.as_deref())? {
            if !name.starts_with("AWS_") {
                return Err(Error::invalid(format!(
                    "properties: '{name}' is none of a store's; write them as in the environment, AWS_ENDPOINT_URL=..."
                )));
            }
            environment.insert(name, value);
        }
        let wanted = Wanted::parse(&settings.path)?;
        let client = Client::open(&wanted.bucket, format!("{SCHEME}{}", wanted.bucket), "path", environment)?;
        Ok(Self::of(client, wanted, settings))
    }

    fn of(client: Client, wanted: Wanted, settings: &ObjectSettings) -> Self {
        let shared = Shared { client, away: Arc::default(), listed: Mutex::default() };
        Self { shared: Arc::new(shared), wanted, settings: settings.clone(), open: Arc::default() }
    }

    /// The objects earlier runs knew, and those that they did not.
    pub fn open(&mut self, spec: &SourceSpec, known: &[String]) -> Result<Vec<Opened>> {
        let found = self.shared.list(&self.wanted)?;
        let follows = self.settings.follow;
        let ours: BTreeSet<&str> =
            known.iter().map(String::as_str).filter(|k| ![LISTING_NAME, push::PARTITION_NAME].contains(k)).collect();
        if found.is_empty() && ours.is_empty() && !follows {
            return Err(Error::not_found(format!(
                "no object matches '{}' at {}",
                self.settings.path, self.shared.client.place.endpoint
            )));
        }
        let mut opened = Vec::new();
        let there: BTreeMap<String, &Found> = found.iter().map(|f| (self.name(&f.key), f)).collect();
        for name in &ours {
            let object = there.get(*name).map_or_else(|| self.gone(name), |found| self.object(found));
            opened.push(self.partition(spec, object));
        }
        let new = there.iter().filter(|(name, _)| !ours.contains(name.as_str())).map(|(_, found)| *found).cloned();
        let mut new: Vec<ObjectPartition> =
            self.in_turn(new.collect()).iter().map(|found| self.partition(spec, self.object(found))).collect();
        check(&mut new)?;
        opened.extend(new);
        let mut opened: Vec<Opened> = opened.into_iter().map(ordered).collect();
        if follows {
            lock(&self.shared.listed).found = found;
            let every = Duration::from_millis(self.settings.list_interval_ms.max(0) as u64);
            let (client, weak) = (&self.shared.client, Arc::downgrade(&self.shared));
            client.runtime.spawn(watch(weak, client.store.clone(), client.place.clone(), self.wanted.clone(), every));
            let listing = Listing { shared: self.shared.clone(), path: self.settings.path.clone() };
            opened.push(Opened { partition: Box::new(listing), ordered: false });
        }
        Ok(opened)
    }

    /// Objects that have come since.
    pub fn open_new(&mut self, spec: &SourceSpec, known: &[String]) -> Vec<Opened> {
        if !self.settings.follow {
            return Vec::new();
        }
        let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
        let mut new = lock(&self.shared.listed).found.clone();
        new.retain(|found| !known.contains(self.name(&found.key).as_str()));
        let new = self.in_turn(new);
        new.iter().map(|found| ordered(self.partition(spec, self.object(found)))).collect()
    }

    /// Those whose turn it is: of a followed source the oldest, as many as there is room for.
    fn in_turn(&self, mut new: Vec<Found>) -> Vec<Found> {
        if self.settings.follow {
            new.sort_by(|a, b| (a.came_ms, &a.key).cmp(&(b.came_ms, &b.key)));
            new.truncate(OPEN_MAX.saturating_sub(self.open.load(Ordering::Relaxed)));
        }
        new
    }

    fn name(&self, key: &str) -> String {
        format!("{SCHEME}{}/{key}", self.wanted.bucket)
    }

    fn partition(&self, spec: &SourceSpec, object: StoredObject) -> ObjectPartition {
        let format: &FileFormat = &self.settings.format;
        ObjectPartition::new(spec, Arc::new(object), format, self.settings.follow, self.open.clone())
    }

    fn object(&self, found: &Found) -> StoredObject {
        StoredObject { name: self.name(&found.key), shared: self.shared.clone(), found: Some(found.clone()) }
    }

    fn gone(&self, name: &str) -> StoredObject {
        StoredObject { name: name.to_string(), shared: self.shared.clone(), found: None }
    }
}

impl Shared {
    /// The objects that are there now.
    fn list(&self, wanted: &Wanted) -> Result<Vec<Found>> {
        let (wanted, store) = (wanted.clone(), self.client.store.clone());
        self.client.wait("list", async move { wanted.list(store).await })
    }

    /// Keeps what a listing has brought.
    fn note(&self, listed: Result<Vec<Found>>) {
        let mut latest = lock(&self.listed);
        match listed {
            Ok(found) => *latest = Listed { found, trouble: None },
            Err(e) => latest.trouble = Some(e.message().to_string()),
        }
    }
}

fn ordered(partition: ObjectPartition) -> Opened {
    Opened { partition: Box::new(partition), ordered: true }
}

/// Looks at the beginnings of new objects, so that what was declared wrong is known before anything is read.
fn check(new: &mut [ObjectPartition]) -> Result<()> {
    for some in new.chunks_mut(CHECKED_AT_ONCE) {
        std::thread::scope(|scope| {
            let checks: Vec<_> = some.iter_mut().map(|one| scope.spawn(move || one.check())).collect();
            let panicked = |_| Err(Error::internal("a thread that looks at objects panicked"));
            checks.into_iter().try_for_each(|check| check.join().unwrap_or_else(panicked))
        })?;
    }
    Ok(())
}

/// Lists every so often, until the source is gone; while the store is away, more often.
async fn watch(shared: Weak<Shared>, store: Arc<dyn ObjectStore>, place: Arc<Place>, wanted: Wanted, every: Duration) {
    let mut wait = every;
    loop {
        tokio::time::sleep(wait).await;
        let listed = wanted.list(store.clone()).await.map_err(|e| place.error("list", &e));
        wait = if listed.is_ok() { every } else { ASK_AGAIN };
        let Some(shared) = shared.upgrade() else { return };
        shared.note(listed);
        // A runtime cannot be ended by one of its own threads: where this is the last hold of it, another one ends it.
        if let Some(shared) = Arc::into_inner(shared) {
            std::thread::spawn(move || drop(shared));
        }
    }
}

/// An object of the store.
struct StoredObject {
    name: String,
    shared: Arc<Shared>,
    /// `None`: it is no longer there.
    found: Option<Found>,
}

impl Object for StoredObject {
    fn name(&self) -> &str {
        &self.name
    }

    fn bytes(&self) -> u64 {
        self.found.as_ref().map_or(0, |found| found.bytes)
    }

    fn print(&self) -> Option<Print> {
        self.found.as_ref().map(Found::print)
    }

    fn fetch(&self, at: u64, bytes: usize) -> Fetch {
        let Some(found) = self.found.clone() else { return Fetch::of(Err(gone(&self.name))) };
        if let Some(why) = self.shared.away.why_not_now() {
            return Fetch::of(Err(Error::unavailable(why)));
        }
        let (arrival, fetch) = Fetch::begin();
        let (away, name) = (self.shared.away.clone(), self.name.clone());
        let (store, place) = (self.shared.client.store.clone(), self.shared.client.place.clone());
        self.shared.client.runtime.spawn(async move {
            let got = get(&*store, &place, &name, &found, at, bytes).await;
            away.note(&got);
            // Nobody waits for it any more where the reader has gone elsewhere.
            let _ = arrival.send(got);
        });
        fetch
    }

    fn wait(&self) -> Result<()> {
        self.shared.away.wait()
    }
}

/// A range of an object, if it is still the one that was listed.
async fn get(
    store: &dyn ObjectStore,
    place: &Place,
    name: &str,
    found: &Found,
    at: u64,
    bytes: usize,
) -> Result<Vec<u8>> {
    let key = Key::parse(&found.key).map_err(|e| Error::invalid(format!("{name}: {e}")))?;
    let range = Some(GetRange::Bounded(at..at + bytes as u64));
    let options = GetOptions { if_match: found.tag.clone(), range, ..GetOptions::default() };
    let refused = |e: object_store::Error| match e {
        object_store::Error::NotFound { .. } if !super::words(&e).contains("NoSuchBucket") => gone(name),
        object_store::Error::Precondition { .. } => changed(name),
        e => place.error(&format!("get {}", found.key), &e),
    };
    let got = store.get_opts(&key, options).await.map_err(refused)?;
    // A store that knows no conditions tells at least whose bytes these are.
    if got.meta.size != found.bytes || (found.tag.is_some() && got.meta.e_tag != found.tag) {
        return Err(changed(name));
    }
    got.bytes().await.map(|bytes| bytes.to_vec()).map_err(refused)
}

fn changed(name: &str) -> Error {
    Error::conflict(format!(
        "{name}: the object was replaced while it was read; put the one back that was listed, or start again with \
         --from-scratch"
    ))
}

impl Away {
    /// Why the store is not asked just now.
    fn why_not_now(&self) -> Option<String> {
        lock(&self.0).as_ref().filter(|silence| silence.last.elapsed() < ASK_AGAIN).map(|silence| silence.why.clone())
    }

    fn note<T>(&self, got: &Result<T>) {
        let mut silence = lock(&self.0);
        match got {
            Err(e) if e.kind() == Kind::Unavailable => {
                let now = Instant::now();
                let since = silence.as_ref().map_or(now, |silence| silence.since);
                *silence = Some(Silence { since, last: now, why: e.message().to_string() });
            }
            _ => *silence = None,
        }
    }

    /// Waits a moment while the store is away; fails once it has been for too long.
    fn wait(&self) -> Result<()> {
        match &*lock(&self.0) {
            None => return Ok(()),
            Some(silence) if silence.since.elapsed() > AWAY_AT_MOST => {
                let (why, seconds) = (&silence.why, AWAY_AT_MOST.as_secs());
                return Err(Error::unavailable(format!("{why}; it has been away for {seconds} s")));
            }
            Some(_) => {}
        }
        pause(ASK_AGAIN / 2);
        Ok(())
    }
}

/// Keeps a followed source from ending, and tells what is wrong with listing it.
struct Listing {
    shared: Arc<Shared>,
    path: String,
}

impl Partition for Listing {
    fn name(&self) -> &str {
        LISTING_NAME
    }

    fn read(&mut self) -> Result<Read> {
        Ok(Read::Pending)
    }

    fn seek(&mut self, _to: Position) -> Result<()> {
        Ok(())
    }

    fn trouble(&self) -> Option<String> {
        let listed = lock(&self.shared.listed);
        match &listed.trouble {
            None if listed.found.is_empty() => Some(format!("no object matches '{}' yet", self.path)),
            trouble => trouble.clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
