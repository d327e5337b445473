//! One connection to the process that learns: frames in, a model that changes out.
//!
//! A link ends with an error, always: the other side is away, a frame is damaged, what it says cannot be used. Whatever was
//! applied before stays. A delta is applied only if it is of parameters like those served and follows the last one.

use std::{sync::Arc, time::Duration};

use tidemill_base::{Error, Kind, Result};
use tidemill_model::{delta::Delta, snapshot::Snapshot, weights::WeightTable};
use tidemill_serve::{
    follow::{
        Mark, Start,
        client::Connection,
        first_position,
        frame::{Frame, Hello, Views},
        start_of,
    },
    live::LiveModel,
    live_views::LiveViews,
    predict::Predictor,
    registry::Registry,
    server::ServedModel,
};
use tidemill_sql::TrainJob;
use tidemill_stream::aggregate::ViewDelta;

use super::{Inner, kept};
use crate::program;

/// A trainer that is there says something at least four times a second.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often the link looks whether the process is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A connection, and what it has said.
pub(super) struct Link<'a> {
    inner: &'a Inner,
    name: &'a str,
    connection: Connection,
    hello: Hello,
    /// The program that learns the model, where it is not the one served.
    job: Option<TrainJob>,
    /// The model served is the one that the frames are of.
    begun: bool,
    /// Bytes of a snapshot that is coming, and the feature views that come with it.
    parts: Vec<u8>,
    views: Views,
    whole_views: Vec<Vec<ViewDelta>>,
    saver: kept::Saver,
}

impl<'a> Link<'a> {
    pub fn open(inner: &'a Inner, name: &'a str) -> Result<Self> {
        let ask = inner.following(name).ask();
        let mut connection = Connection::open(&inner.upstream, name, ask)?;
        let hello = match connection.next(SILENCE_MAX)? {
            Some(Frame::Hello(hello)) => hello,
            Some(_) => {
                return Err(Error::corrupt(format!(
                    "{}: the stream does not begin with a hello",
                    inner.upstream.address()
                )));
            }
            None => return Err(Error::unavailable(format!("{} did not answer in time", inner.upstream.address()))),
        };
        if hello.model != name {
            return Err(Error::conflict(format!(
                "{} sends model '{}', not '{name}'",
                inner.upstream.address(),
                hello.model
            )));
        }
        let same = hello.lineage == ask.lineage;
        if same && start_of(hello.position) < start_of(ask.position) {
            return Err(Error::conflict(format!(
                "{} is an older start of this job ({}) than the one followed before ({}); it is not followed",
                inner.upstream.address(),
                start_of(hello.position),
                start_of(ask.position)
            )));
        }
        if !same && hello.start != Start::Snapshot {
            return Err(Error::corrupt(format!(
                "{}: another model's stream cannot be gone on with",
                inner.upstream.address()
            )));
        }
        let job = match inner.following(name).served.is_some() && inner.following(name).fingerprint == hello.fingerprint
        {
            true => None,
            false => Some(bind(&hello)?),
        };
        let (saver, views) = (kept::Saver::default(), Views::default());
        let begun = hello.start != Start::Snapshot;
        Ok(Self {
            inner,
            name,
            connection,
            hello,
            job,
            begun,
            parts: Vec::new(),
            views,
            whole_views: Vec::new(),
            saver,
        })
    }

    /// Takes frames until the link ends; without an error only when the process is to stop.
    pub fn run(&mut self) -> Result<()> {
        {
            let mut following = self.inner.following(self.name);
            following.connected = true;
            match self.hello.start {
                Start::Resume => following.counts.resumes += 1,
                Start::Rebase => following.counts.rebases += 1,
                Start::Snapshot => {}
            }
            if self.hello.start != Start::Snapshot {
                following.trouble = None;
            }
        }
        let clock = self.inner.clock.clone();
        let mut heard = clock.elapsed();
        while !self.inner.signal.is_stopped() {
            match self.connection.next(LOOK_EVERY)? {
                Some(frame) => {
                    heard = clock.elapsed();
                    self.take(frame)?;
                }
                None if clock.elapsed() - heard > SILENCE_MAX => {
                    return Err(Error::unavailable(format!(
                        "{} has been silent for 3 s",
                        self.inner.upstream.address()
                    )));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::Hello(_) => Err(self.unexpected("a second hello")),
            Frame::Part(bytes) => {
                self.parts.extend_from_slice(&bytes);
                Ok(())
            }
            Frame::Whole(mark) => self.whole(mark),
            Frame::Delta(mark, delta) => self.delta(mark, delta),
            Frame::Version(mark, manifest) => self.version(mark, &manifest),
            Frame::Here(mark) => self.here(mark),
            Frame::Views(_, views) if views.is_whole => {
                self.whole_views.push(views.deltas);
                self.views.newest = views.newest;
                Ok(())
            }
            Frame::Views(mark, views) => self.changed_views(mark, views),
            Frame::Decided(text) => {
                self.inner.decided[self.name].put(text);
                Ok(())
            }
            Frame::End(why) => {
                Err(Error::unavailable(format!("{} ended the stream: {why}", self.inner.upstream.address())))
            }
        }
    }

    fn whole(&mut self, mark: Mark) -> Result<()> {
        let mut snapshot = Snapshot::decode(&std::mem::take(&mut self.parts), "snapshot")?;
        WeightTable::check_snapshot(&snapshot)?;
        snapshot.sequence = mark.position;
        let shell = Snapshot { entries: Default::default(), dense: Vec::new(), ..snapshot.clone() };
        let (whole_views, newest) = (std::mem::take(&mut self.whole_views), self.views.newest);
        let (served, views) = {
            let following = self.inner.following(self.name);
            (following.served.clone(), following.views.clone())
        };
        let (served, views) = match (self.job.take(), served) {
            (None, Some(served)) => {
                views.iter().try_for_each(|(live, specs)| live.replace(specs, &whole_views, newest))?;
                served.predictor().live().replace(&snapshot, mark.version, mark.mini_batch);
                (served, views)
            }
            (job, _) => {
                let job = job.map_or_else(|| bind(&self.hello), Ok)?;
                let live = LiveModel::open(&snapshot, mark.version, mark.mini_batch);
                let registry = Registry::open(self.name, &self.inner.data.versions(self.name)?)?;
                let views = job.pipeline.views.as_ref().map(|part| -> Result<_> {
                    let live = LiveViews::open(&part.specs)?;
                    live.replace(&part.specs, &whole_views, newest)?;
                    Ok((Arc::new(live), part.specs.clone()))
                });
                let views = views.transpose()?;
                let live_views = views.as_ref().map(|(live, _)| live.clone());
                (serve(&job, self.name, live, registry, live_views)?, views)
            }
        };
        kept::put_program(&self.inner.data, self.name, self.hello.fingerprint, &self.hello.program)?;
        let mut following = self.inner.following(self.name);
        (following.served, following.views) = (Some(served), views);
        (following.lineage, following.fingerprint) = (self.hello.lineage, self.hello.fingerprint);
        following.mark = mark;
        following.shell = shell;
        following.counts.snapshots += 1;
        following.fresh_at = Some(self.inner.clock.elapsed());
        following.trouble = None;
        self.begun = true;
        Ok(())
    }

    fn delta(&mut self, mark: Mark, mut delta: Delta) -> Result<()> {
        let live = self.live().ok_or_else(|| self.unexpected("a delta before the model"))?;
        let mut following = self.inner.following(self.name);
        let rebases = self.hello.start == Start::Rebase && delta.from == first_position(start_of(delta.to));
        if rebases && start_of(following.mark.position) < start_of(delta.to) {
            // Numbers begin anew with the trainer's new start; what it holds is all that changed since the checkpoint.
            delta.from = following.mark.position;
        }
        live.newest().weights.check(&delta)?;
        live.publish(delta, mark.version, mark.mini_batch)?;
        following.mark = mark;
        following.counts.deltas += 1;
        Ok(())
    }

    /// Takes what changed in feature views; where nothing else did, it moves the position too.
    fn changed_views(&mut self, mark: Mark, changed: Views) -> Result<()> {
        let live = self.live().ok_or_else(|| self.unexpected("changes of feature views before the model"))?;
        let mut following = self.inner.following(self.name);
        let Some((views, _)) = following.views.clone() else {
            return Err(self.unexpected("changes of feature views that the model does not read"));
        };
        views.check(&changed.deltas)?;
        views.publish(changed.deltas, changed.newest);
        if mark.position > following.mark.position {
            let moved = Delta { from: following.mark.position, to: mark.position, ..Delta::default() };
            live.publish(moved, mark.version, mark.mini_batch)?;
            following.mark = mark;
        }
        Ok(())
    }

    fn version(&mut self, mark: Mark, manifest: &str) -> Result<()> {
        let live = self.live().ok_or_else(|| self.unexpected("a version before the model"))?;
        if self.inner.following(self.name).mark.position != mark.position {
            return Err(self.unexpected("a version of another moment"));
        }
        self.inner.following(self.name).mark = mark;
        live.publish(
            Delta { from: mark.position, to: mark.position, ..Delta::default() },
            mark.version,
            mark.mini_batch,
        )?;
        self.saver.version(mark, manifest);
        self.save(&live, mark)
    }

    /// Keeps what is served, if it is a version and it is time.
    fn save(&mut self, live: &LiveModel, mark: Mark) -> Result<()> {
        match self.saver.save(self.inner, self.name, live, mark.position) {
            Err(e) if e.kind() == Kind::Corrupt => {
                // The parameters are not the trainer's. The next stream begins with the whole model.
                self.inner.following(self.name).lineage = 0;
                Err(e)
            }
            Err(e) => {
                self.inner.following(self.name).not_kept = Some(format!("not kept on disk: {e}"));
                Ok(())
            }
            Ok(is_kept) => {
                if is_kept {
                    self.inner.following(self.name).not_kept = None;
                }
                Ok(())
            }
        }
    }

    fn here(&mut self, mark: Mark) -> Result<()> {
        let Some(live) = self.live() else { return Ok(()) };
        let mut following = self.inner.following(self.name);
        if mark.position != following.mark.position {
            return Ok(());
        }
        following.mark = mark;
        following.fresh_at = Some(self.inner.clock.elapsed());
        following.views.iter().for_each(|(views, _)| views.refresh());
        drop(following);
        live.publish(
            Delta { from: mark.position, to: mark.position, ..Delta::default() },
            mark.version,
            mark.mini_batch,
        )?;
        self.save(&live, mark)
    }

    /// What frames go into, once it is what they are of.
    fn live(&self) -> Option<Arc<LiveModel>> {
        let following = self.inner.following(self.name);
        following.served.as_ref().filter(|_| self.begun).map(|served| served.predictor().live().clone())
    }

    fn unexpected(&self, what: &str) -> Error {
        Error::corrupt(format!("{}: {what} in the stream", self.inner.upstream.address()))
    }
}

fn bind(hello: &Hello) -> Result<TrainJob> {
    let job = program::train_job(&hello.program, &hello.model)
        .map_err(|e| e.at("the program of the model that is followed"))?;
    job.ok_or_else(|| Error::corrupt("the program of the model that is followed trains nothing"))
}

/// A model as requests meet it.
pub(super) fn serve(
    job: &TrainJob,
    name: &str,
    live: LiveModel,
    registry: Registry,
    views: Option<Arc<LiveViews>>,
) -> Result<Arc<ServedModel>> {
    let extractor = job.extractor()?;
    let input = job.pipeline.left.source.columns.clone();
    let request = match views {
        Some(views) => job.pipeline.request_with(views),
        None => job.pipeline.request.clone(),
    };
    let predictor = Predictor::new(name, input, request, extractor, Arc::new(live))?;
    Ok(Arc::new(ServedModel::open(predictor, Arc::new(registry))?))
}
