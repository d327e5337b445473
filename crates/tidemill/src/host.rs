//! What the server is given of a running program.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill_base::{Error, Result};
use tidemill_serve::{
    live::LiveModel,
    live_views::LiveViews,
    predict::Predictor,
    registry::Registry,
    server::{BoxFuture, Host, PushReply, ServedModel},
};
use tidemill_sql::TrainJob;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{push::PushHub, signal::Signal};

/// What is shown is as of now while it is not older.
const RECENT: Duration = Duration::from_millis(100);
/// How long whoever asks waits for the learning thread to show where it stands; then he gets what it showed last.
const SHOW_TIME_MAX: Duration = Duration::from_millis(100);

/// The host of one process.
pub struct AppHost {
    /// Where the data is.
    home: PathBuf,
    /// Of all models that the program learns, those too that are not served yet.
    names: Vec<String>,
    push: PushHub,
    shown: Mutex<Shown>,
    /// When that was put up; `None` while nobody learns, who would put up something newer.
    shown_at: watch::Sender<Option<Instant>>,
    /// Whether somebody has asked since it was last looked for.
    is_asked: AtomicBool,
    signal: Arc<Signal>,
    feed: Option<Value>,
    /// Why what is to be durable waits for its store, if it has one and does.
    waits: OnceLock<Trouble>,
}

type Trouble = Arc<dyn Fn() -> Option<String> + Send + Sync>;

#[derive(Default)]
struct Shown {
    models: Vec<Arc<ServedModel>>,
    page: Value,
    metrics: String,
}

impl AppHost {
    /// A host without models yet, of the data in `home`; `names` are those it is going to have. `feed` is what the page lets
    /// a person click on, if anything; `signal` reaches the thread that learns.
    pub fn new(home: &Path, names: Vec<String>, push: PushHub, feed: Option<Value>, signal: Arc<Signal>) -> Self {
        let shown = Mutex::new(Shown { page: json!({"state": "starting"}), ..Shown::default() });
        let (shown_at, is_asked) = (watch::Sender::new(None), AtomicBool::new(false));
        Self { home: home.to_path_buf(), names, push, shown, shown_at, is_asked, signal, feed, waits: OnceLock::new() }
    }

    /// Tells from now on what the store of the data is waited for, even while the job stands still because of it.
    pub fn waits_for(&self, trouble: Trouble) {
        let _ = self.waits.set(trouble);
    }

    fn trouble(&self) -> Option<String> {
        self.waits.get().and_then(|trouble| trouble())
    }

    /// The push logs.
    pub fn push_hub(&self) -> &PushHub {
        &self.push
    }

    /// Serves a model from now on, in place of one of the same name. Requests ask `views` what its feature views show.
    pub fn serve(
        &self,
        job: &TrainJob,
        live: Arc<LiveModel>,
        views: Option<Arc<LiveViews>>,
        registry: Arc<Registry>,
    ) -> Result<()> {
        let extractor = job.extractor()?;
        let input = job.pipeline.left.source.columns.clone();
        let request = match views {
            Some(views) => job.pipeline.request_with(views),
            None => job.pipeline.request.clone(),
        };
        let predictor = Predictor::new(&job.model, input, request, extractor, live)?;
        let model = Arc::new(ServedModel::open(predictor, registry)?);
        let mut shown = self.shown();
        shown.models.retain(|m| m.name() != job.model);
        shown.models.push(model);
        Ok(())
    }

    /// Puts up what the page and the metrics show.
    pub fn show(&self, page: Value, metrics: String) {
        let mut shown = self.shown();
        shown.page = page;
        shown.metrics = metrics;
        drop(shown);
        self.shown_at.send_replace(Some(Instant::now()));
    }

    /// What is shown stays: nobody learns any more.
    pub fn rest(&self) {
        self.shown_at.send_replace(None);
    }

    /// Whether somebody has asked for what is shown since this was last asked.
    pub fn take_asked(&self) -> bool {
        self.is_asked.swap(false, Ordering::Relaxed)
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for AppHost {
    fn models(&self) -> Vec<Arc<ServedModel>> {
        self.shown().models.clone()
    }

    fn model(&self, name: &str) -> Option<Arc<ServedModel>> {
        self.shown().models.iter().find(|m| m.name() == name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn is_ready(&self) -> bool {
        !self.shown().models.is_empty()
    }

    fn home(&self) -> Option<&Path> {
        Some(&self.home)
    }

    fn push(&self, source: &str, lines: Bytes) -> BoxFuture<Result<PushReply>> {
        let queued = self.push.push(source, lines);
        Box::pin(async move {
            queued?
                .await
                .unwrap_or_else(|_| Err(Error::unavailable("the process is stopping; the events were not stored")))
        })
    }

    fn renewed(&self) -> Option<BoxFuture<()>> {
        self.is_asked.store(true, Ordering::Relaxed);
        let mut shown_at = self.shown_at.subscribe();
        let at = (*shown_at.borrow_and_update())?;
        (at.elapsed() >= RECENT).then(|| {
            self.signal.wake();
            Box::pin(async move { _ = timeout(SHOW_TIME_MAX, shown_at.changed()).await }) as _
        })
    }

    fn status(&self) -> Value {
        let (mut page, models) = {
            let shown = self.shown();
            (shown.page.clone(), shown.models.clone())
        };
        if let Some(model) = models.iter().find(|m| page["model"] == m.name()) {
            page["rollout"] = model.versions().page_json();
        }
        if let Some(why) = self.trouble() {
            page["state"] = format!("waiting: {why}").into();
        }
        page
    }

    fn metrics(&self) -> String {
        let mut text = self.shown().metrics.clone();
        if self.waits.get().is_some() {
            let is_away = u8::from(self.trouble().is_some());
            text.push_str(&format!("# TYPE tidemill_store_away gauge\ntidemill_store_away {is_away}\n"));
        }
        text
    }

    fn feed(&self) -> Option<Value> {
        self.feed.clone()
    }
}
