//! What operators decide where the model is learned holds here, too: the live version, labels, the split of traffic, rankings.
//!
//! In: the newest of what was decided, from the link. Out: the same for this replica's requests and on its disk, on a thread
//! of its own: deltas do not wait while a version is fetched that the replica has not kept. The last decision counts,
//! whoever made it: what an operator changes at the replica itself stays until something is decided at the trainer, also
//! over a restart of either.
//!
//! ```text
//! models/NAME/job/decided     the text that was taken over last; behind an empty line, what was begun to be
//! ```

use std::{
    fs,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use tidemill_base::{
    Error, Kind, Result,
    store::{atomic_file, data_dir::DataDir},
};
use tidemill_serve::{
    follow::{client::Connection, decided::Decided, frame::Frame},
    server::ServedModel,
};

use super::{Inner, PAUSE_MAX, PAUSE_MIN};

/// The newest of what was decided, until somebody has seen to it.
#[derive(Default)]
pub(super) struct Inbox {
    newest: Mutex<Option<String>>,
    news: Condvar,
}

impl Inbox {
    pub fn put(&self, text: String) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        self.news.notify_one();
    }

    fn wait(&self, wait: Duration) -> Option<String> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.news.wait_timeout_while(newest, wait, |newest| newest.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// What was taken over last.
struct Taken {
    /// As it came, or what stands for it while it is not whole: then it equals nothing that comes.
    text: String,
    /// The same, read: of one that is not whole only rankings, all that may have come with it or before.
    before: Decided,
    is_kept: bool,
}

/// Sees to what comes, for as long as the process lives; what cannot be done is told and tried again.
pub(super) fn take_over(inner: &Inner, name: &str) {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    let inbox = &inner.decided[name];
    let mut taken = Taken::read(&inner.data, name);
    let (mut wanted, mut pause) = (None, PAUSE_MIN);
    // How often something had been decided here, behind the last try.
    let mut counted = None;
    while !inner.signal.is_stopped() {
        let wait = if wanted.is_some() { pause } else { LOOK_EVERY };
        match inbox.wait(wait) {
            Some(text) => (wanted, pause, counted) = (Some(text), PAUSE_MIN, None),
            None => pause = (pause * 2).min(PAUSE_MAX),
        }
        let Some(text) = &wanted else { continue };
        let decided_here = || inner.following(name).served.as_ref().map(|served| served.registry().decided_count());
        if counted.is_some() && counted != decided_here() {
            // An operator has decided something here since, which counts.
            taken.is_whole(text);
        }
        let done = see_to(inner, name, text, &mut taken).and_then(|()| taken.keep(inner, name));
        counted = decided_here();
        inner.following(name).not_decided = done.as_ref().err().map(|e| e.message().to_string());
        if done.is_ok() {
            wanted = None;
        }
    }
}

/// Whether another version answers here than the one that was decided, because that cannot be read.
fn gave_way(served: &ServedModel, text: &str) -> bool {
    let is_decided = || Decided::parse(text).is_ok_and(|decided| decided.live == served.registry().live());
    served.versions().gave_way().is_some() && is_decided()
}

/// Takes over what was decided, where that is not so already.
fn see_to(inner: &Inner, name: &str, text: &str, taken: &mut Taken) -> Result<()> {
    let served = inner.following(name).served.clone();
    let served = served.ok_or_else(|| Error::unavailable("the model is not here yet"))?;
    // What was taken over before is so already, or was until somebody changed it here; or until it was damaged here.
    let is_so = *text == taken.text && !gave_way(&served, text);
    if is_so { Ok(()) } else { one(inner, name, &served, text, taken) }
}

fn one(inner: &Inner, name: &str, served: &ServedModel, text: &str, taken: &mut Taken) -> Result<()> {
    let decided = Decided::parse(text)?;
    taken.begins(&decided);
    taken.keep(inner, name)?;
    let is_here = |version: &u64| {
        let state = decided.states.get(version);
        served.registry().meta(*version).is_ok_and(|meta| state.is_none_or(|state| *state == meta.state_hash))
    };
    let mut troubles = Vec::new();
    let mut fetch_all = |versions: Vec<u64>| {
        // One that the trainer has lost, too, does not hold up the others.
        let failed = versions.into_iter().filter_map(|version| fetch(inner, name, served, version).err());
        troubles.extend(failed.map(|e| e.message().to_string()));
    };
    fetch_all(decided.versions().into_iter().filter(|version| !is_here(version)).collect());
    let mut adopted = served.adopt(&decided, &taken.before);
    if let Err(left_out) = &adopted {
        let damaged = left_out.iter().filter(|left| left.error.kind() == Kind::Corrupt).filter_map(|left| left.version);
        let damaged: Vec<u64> = damaged.collect();
        if !damaged.is_empty() {
            fetch_all(damaged);
            adopted = served.adopt(&decided, &taken.before);
        }
    }
    let left_out = adopted.err().unwrap_or_default();
    troubles.extend(left_out.into_iter().map(|left| left.error.message().to_string()));
    if !troubles.is_empty() {
        return Err(Error::unavailable(format!("what was decided is not done here yet: {}", troubles.join("; "))));
    }
    inner.following(name).counts.decisions += 1;
    taken.is_whole(text);
    Ok(())
}

/// Gets a version that was published while the replica was away, or that it has let go.
fn fetch(inner: &Inner, name: &str, served: &ServedModel, version: u64) -> Result<()> {
    const SILENCE_MAX: Duration = Duration::from_secs(3);
    let mut connection = Connection::open_version(&inner.upstream, name, version)?;
    let address = inner.upstream.address();
    let mut next = || match connection.next(SILENCE_MAX)? {
        Some(frame) if !inner.signal.is_stopped() => Ok(frame),
        Some(_) => Err(Error::unavailable("the process is stopping")),
        None => Err(Error::unavailable(format!("{address} has been silent for 3 s"))),
    };
    let unexpected = || Error::corrupt(format!("{address}: version {version} comes otherwise than it was asked for"));
    let Frame::Version(mark, manifest) = next()? else { return Err(unexpected()) };
    if mark.version != version {
        return Err(unexpected());
    }
    served.registry().add_bytes(&manifest, &mut || match next()? {
        Frame::Part(bytes) => Ok(Some(bytes)),
        Frame::Whole(_) => Ok(None),
        Frame::End(why) => Err(Error::unavailable(format!("{address}: {why}"))),
        _ => Err(unexpected()),
    })
}

impl Taken {
    /// What an earlier process took over last. Nothing: nobody had decided anything.
    fn read(data: &DataDir, name: &str) -> Self {
        let path = data.root().join("models").join(name).join("job/decided");
        let text = fs::read_to_string(path).unwrap_or_else(|_| Decided::default().to_text());
        Self { before: Decided::parse(&text).unwrap_or_default(), text, is_kept: true }
    }

    /// From now on it is not known what of this and of what was before holds.
    fn begins(&mut self, decided: &Decided) {
        let mut rankings = std::mem::take(&mut self.before.rankings);
        rankings.extend(decided.rankings.clone());
        self.before = Decided { rankings, ..Decided::default() };
        let text = format!("{UNFINISHED}{}", self.before.to_text());
        self.is_kept &= self.text == text;
        self.text = text;
    }

    /// All of it holds, or did until somebody decided otherwise here.
    fn is_whole(&mut self, text: &str) {
        self.before = Decided::parse(text).unwrap_or_default();
        self.text = text.to_string();
        self.is_kept = false;
    }

    fn keep(&mut self, inner: &Inner, name: &str) -> Result<()> {
        if !self.is_kept {
            atomic_file::replace(&inner.data.job(name)?.join("decided"), self.text.as_bytes())?;
            self.is_kept = true;
        }
        Ok(())
    }
}

/// Stands in front of what was begun to be taken over; JSON passes over it.
const UNFINISHED: &str = "\n";
