//! What operators decide where the model is learned holds here, too: the live version, labels, the split of traffic, rankings.
//!
//! In: the newest of what was decided, from the link. Out: the same for this replica's requests and on its disk, on a thread
//! of its own: deltas do not wait while a version is fetched that the replica has not kept. The last decision counts,
//! whoever made it: what an operator changes at the replica itself stays until something is decided at the trainer, also
//! over a restart of either.
//!
//! ```text
//! models/NAME/job/decided     the text that was taken over last
//! ```

use std::{
    fs,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use tidemill_base::{
    Error, Result,
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

/// Sees to what comes, for as long as the process lives; what cannot be done is told and tried again.
pub(super) fn take_over(inner: &Inner, name: &str) {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    let inbox = &inner.decided[name];
    let mut last = read(&inner.data, name);
    let (mut wanted, mut pause) = (None, PAUSE_MIN);
    while !inner.signal.is_stopped() {
        let wait = if wanted.is_some() { pause } else { LOOK_EVERY };
        match inbox.wait(wait) {
            Some(text) => (wanted, pause) = (Some(text), PAUSE_MIN),
            None => pause = (pause * 2).min(PAUSE_MAX),
        }
        let Some(text) = &wanted else { continue };
        // What was taken over before is so already, or was until somebody changed it here.
        let done = if *text == last { Ok(()) } else { one(inner, name, text, &last) };
        inner.following(name).not_decided = done.as_ref().err().map(|e| e.message().to_string());
        if done.is_ok() {
            last = wanted.take().unwrap_or_default();
        }
    }
}

/// Takes over what was decided; `last` is what was taken over before.
fn one(inner: &Inner, name: &str, text: &str, last: &str) -> Result<()> {
    let served = inner.following(name).served.clone();
    let served = served.ok_or_else(|| Error::unavailable("the model is not here yet"))?;
    let (decided, before) = (Decided::parse(text)?, Decided::parse(last).unwrap_or_default());
    let kept = |version: u64| served.registry().meta(version).is_ok();
    let mut troubles = Vec::new();
    for version in decided.versions().into_iter().filter(|version| !kept(*version)) {
        // One that the trainer has lost, too, does not hold up the others.
        troubles.extend(fetch(inner, name, &served, version).err().map(|e| e.message().to_string()));
    }
    troubles.extend(served.adopt(&decided, &before).err().map(|e| e.message().to_string()));
    if !troubles.is_empty() {
        return Err(Error::unavailable(format!("what was decided is not done here yet: {}", troubles.join("; "))));
    }
    inner.following(name).counts.decisions += 1;
    atomic_file::replace(&inner.data.job(name)?.join("decided"), text.as_bytes())
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

/// What an earlier process took over last. Nothing: nobody had decided anything.
fn read(data: &DataDir, name: &str) -> String {
    let path = data.root().join("models").join(name).join("job/decided");
    fs::read_to_string(path).unwrap_or_else(|_| Decided::default().to_text())
}
