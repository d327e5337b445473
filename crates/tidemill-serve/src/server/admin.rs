//! Administration: the page and what it shows, figures, versions and what operators change about them. axum finds the
//! handler; what predicts, learns or follows does not pass here.
//!
//! In: a request whose path is not one of the data. Out: its reply. A handler sees nothing of the server until a [`Door`]
//! lets its caller in, which wants to know the need and the name of the route first.

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{FromRequest, Path},
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use hyper::{Method, Request, StatusCode, body::Incoming, http::request::Parts};
use serde_json::{Value, json};
use tidemill_base::Error;
use tokio::time::{Instant, timeout_at};
use tonic::codegen::Service;

use super::{
    Shared,
    access::{Grant, Need, Role},
    assets, body, contained,
    host::ServedModel,
    load::{Deadline, Verdict},
    our_mistake,
    reply::{self, Refusal, Reply, ReplyBody},
    route::{ModelName, READ, SEND, no_route, percent_decoded},
    router::{self, find},
    versions::{self, Act},
};
use crate::{live::Which, versions::version_metrics};

/// The methods of what is kept under a name.
const KEEP: &str = "GET, HEAD, PUT, DELETE";

/// What axum passes on.
type Answer = axum::response::Response;
type Answered = Result<Reply, Refusal>;

/// The name in metrics of the route that answered.
#[derive(Clone, Copy)]
struct Label(&'static str);

/// What a request brings to its handler.
#[derive(Clone)]
struct Asked {
    shared: Arc<Shared>,
    /// Whether there is a place for it among those that are being answered.
    has_place: bool,
}

/// All paths of it.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/", only("page", READ, get(page)))
        .route("/assets/{*file}", only("page", READ, get(page)))
        .route("/healthz", reads("healthz", Need::Nothing, health))
        .route("/metrics", reads("metrics", Need::Everything("read metrics"), metrics))
        .route("/v1/status", reads("status", Need::Everything("read status"), status))
        .route("/v1/events", reads("events", Need::Everything("read status"), events))
        .route("/v1/feed", reads("feed", Need::Everything("read feed"), feed))
        .route("/v1/models", reads("models", Need::Token, models))
        .route("/v1/models/{target}", get(model).post(act).fallback(neither))
        .route("/v1/models/{model}/rankings", only("rankings", READ, get(rankings)))
        .route(
            "/v1/models/{model}/rankings/{name}",
            only("rankings", KEEP, get(ranking).put(put_ranking).delete(remove_ranking)),
        )
        .fallback(async |door: Door| door.refuse("none", no_route).await)
}

/// Answers one request, and tells the name of its route in metrics.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>, has_place: bool) -> (&'static str, Reply) {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Asked { shared: shared.clone(), has_place });
    let Ok(answer) = shared.admin.clone().call(request).await;
    let (mut head, body) = answer.into_parts();
    let label = head.extensions.remove().map_or("none", |Label(label)| label);
    (label, Reply::from_parts(head, ReplyBody::Boxed(body)))
}

/// A route that is only read.
fn reads<F>(label: &'static str, need: Need<'static>, run: fn(Open) -> F) -> MethodRouter
where
    F: Future<Output = Answered> + Send + 'static,
{
    only(label, READ, get(async move |door: Door| door.answer(label, need, run).await))
}

/// Refuses all other methods.
fn only(label: &'static str, allow: &'static str, methods: MethodRouter) -> MethodRouter {
    methods.fallback(async move |door: Door| door.refuse_method(label, allow).await)
}

/// A request that nobody has let in yet.
struct Door {
    asked: Asked,
    head: Parts,
    body: Body,
}

/// A request that is let in.
struct Open {
    shared: Arc<Shared>,
    caller: Option<Arc<Grant>>,
    body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for Door {
    type Rejection = StatusCode;

    async fn from_request(request: axum::extract::Request, _: &S) -> Result<Self, StatusCode> {
        let (mut head, body) = request.into_parts();
        let asked = head.extensions.remove().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Self { asked, head, body })
    }
}

impl Door {
    /// Lets in who may, takes the body, and runs.
    async fn answer<F>(self, label: &'static str, need: Need<'_>, run: impl FnOnce(Open) -> F) -> Answer
    where
        F: Future<Output = Answered>,
    {
        let shared = self.asked.shared.clone();
        let answered = async {
            let (caller, deadline) = match self.let_in(&need) {
                Ok(let_in) => let_in,
                Err(refusal) => return Err(self.close(refusal)),
            };
            let Self { asked: Asked { shared, .. }, head, body } = self;
            let is_read = matches!(head.method, Method::GET | Method::HEAD);
            let ready = async {
                let taken = if is_read { None } else { Some(body::read(&head.headers, body, &shared).await?) };
                if let Some(model) = need.model() {
                    router::load(&shared, model, None).await?;
                }
                Ok::<_, Refusal>(taken)
            };
            let taken = match deadline.filter(|_| !is_read) {
                None => ready.await?,
                Some(deadline) => {
                    let taken = timeout_at(deadline.at, ready).await.map_err(|_| deadline.late())??;
                    match shared.load.judge(deadline, 0, Instant::now()) {
                        Verdict::Enough => taken,
                        verdict => return Err(deadline.refusal(verdict, shared.load.expected(0))),
                    }
                }
            };
            let (body, _held) = taken.unzip();
            run(Open { shared, caller, body: body.unwrap_or_default() }).await
        };
        let answered = answered.await;
        labelled(label, router::replied(&shared, answered))
    }

    fn let_in(&self, need: &Need<'_>) -> Result<(Option<Arc<Grant>>, Option<Deadline>), Refusal> {
        router::let_near(&self.asked.shared, self.asked.has_place, &self.head)?;
        let caller = router::let_in(&self.asked.shared, &self.head.headers, need)?;
        if matches!(self.head.method, Method::POST | Method::PUT) {
            router::check_json_type(&self.head.headers, "")?;
        }
        Ok((caller, Deadline::of(&self.head.headers)?))
    }

    /// Refuses a request, whoever asks.
    async fn refuse(self, label: &'static str, because: impl FnOnce(&str) -> Refusal) -> Answer {
        let shared = self.asked.shared.clone();
        let refusal = match router::let_near(&shared, self.asked.has_place, &self.head) {
            Ok(()) => because(&percent_decoded(self.head.uri.path()).unwrap_or_default()),
            Err(refusal) => refusal,
        };
        labelled(label, router::replied(&shared, Err(self.close(refusal))))
    }

    async fn refuse_method(self, label: &'static str, allow: &'static str) -> Answer {
        let method = self.head.method.clone();
        self.refuse(label, |_| router::not_taken(&method, allow)).await
    }

    /// What is sent with a request that is refused is not read, unless it is small enough to keep the connection.
    fn close(self, refusal: Refusal) -> Refusal {
        match self.head.method {
            Method::GET | Method::HEAD => refusal,
            _ => body::discard(&self.head.headers, self.body, refusal),
        }
    }
}

fn labelled(label: &'static str, reply: Reply) -> Answer {
    let mut answer = reply.map(Body::new);
    answer.extensions_mut().insert(Label(label));
    answer
}

async fn page(door: Door) -> Answer {
    match assets::find(door.head.uri.path()) {
        Some(asset) => door.answer("page", Need::Nothing, async |_| Ok(asset.reply())).await,
        None => door.refuse("none", no_route).await,
    }
}

async fn health(_: Open) -> Answered {
    Ok(reply::bytes(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"))
}

async fn metrics(open: Open) -> Answered {
    open.renewed().await?;
    let Open { shared, .. } = open;
    let tenants = shared.border.access.as_ref().map_or(Vec::new(), |access| access.tenants());
    let text = contained(|| shared.host.metrics() + &version_metrics(&shared.host.models()))?;
    let text = text + &shared.metrics.to_text(&shared.load, &tenants);
    Ok(reply::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
}

async fn status(open: Open) -> Answered {
    open.renewed().await?;
    let host = &open.shared.host;
    Ok(reply::json(&contained(|| reply::within(host.status(), host.home()))?))
}

async fn events(open: Open) -> Answered {
    open.renewed().await?;
    let Open { shared, .. } = open;
    Ok(reply::events(shared.events.watch(&*shared.host, shared.stop.clone())?))
}

async fn feed(open: Open) -> Answered {
    match contained(|| open.shared.host.feed())? {
        Some(feed) => Ok(reply::json(&feed)),
        None => Err(Error::not_found("no feed is shown here; the demo has one").into()),
    }
}

async fn models(open: Open) -> Answered {
    let host = &open.shared.host;
    contained(|| {
        let models: Vec<Value> = host.models_json(&|name| open.caller.as_ref().is_none_or(|grant| grant.sees(name)));
        reply::json(&reply::within(json!({ "models": models }), host.home()))
    })
}

/// `ctr`, `ctr@42` or `ctr@canary`.
async fn model(Path(target): Path<String>, door: Door) -> Answer {
    if let Some((_, verb)) = target.split_once(':') {
        return match Act::parse(verb) {
            Some(act) => door.refuse_method(act.verb(), SEND).await,
            None => door.refuse("none", no_verb).await,
        };
    }
    let ModelName { name, which } = match ModelName::parse(&target) {
        Ok(name) => name,
        Err(refusal) => return door.refuse("none", |_| refusal).await,
    };
    let told = async |open: Open| {
        contained(|| {
            let model = find(&open.shared, name)?;
            let told = match which {
                Which::Version(version) => model.version_to_json(version)?,
                Which::Label(label) => model.label_to_json(label)?,
                Which::Live | Which::Key(_) => model.to_json(),
            };
            Ok(reply::json(&reply::within(told, open.shared.host.home())))
        })?
    };
    door.answer("model", Need::See(name), told).await
}

/// `ctr:rollback` and its like.
async fn act(Path(target): Path<String>, door: Door) -> Answer {
    let Some((name, verb)) = target.split_once(':') else { return door.refuse_method("model", READ).await };
    let Some(act) = Act::parse(verb) else { return door.refuse("none", no_verb).await };
    let need = Need::Model(Role::Admin, act.verb(), name);
    let run = async |open: Open| {
        let Open { shared, body, .. } = open;
        blocking(&shared.clone(), name, move |model| {
            match act {
                Act::Change(change) => versions::change(model, change, &body)?,
                Act::Rollback => shared.host.rollback(model.name(), versions::rolled_back_to(&body)?)?,
                Act::Promote => {
                    versions::promoted(&body)?;
                    shared.host.promote(model.name())?;
                }
            }
            Ok(reply::within(find(&shared, model.name())?.to_json(), shared.host.home()))
        })
        .await
    };
    door.answer(act.verb(), need, run).await
}

/// Other methods for what is read or for what is done.
async fn neither(Path(target): Path<String>, door: Door) -> Answer {
    match target.split_once(':').map(|(_, verb)| Act::parse(verb)) {
        None => door.refuse_method("model", READ).await,
        Some(Some(act)) => door.refuse_method(act.verb(), SEND).await,
        Some(None) => door.refuse("none", no_verb).await,
    }
}

fn no_verb(path: &str) -> Refusal {
    no_route(path).hint("a model knows :predict, :explain, :rank, :rollback, :promote, :label, :split and :rollout")
}

async fn rankings(Path(model): Path<String>, door: Door) -> Answer {
    let told = async |open: Open| contained(|| Ok(reply::json(&find(&open.shared, &model)?.rankings_to_json(None)?)))?;
    door.answer("rankings", Need::See(&model), told).await
}

async fn ranking(Path((model, name)): Path<(String, String)>, door: Door) -> Answer {
    let told =
        async |open: Open| contained(|| Ok(reply::json(&find(&open.shared, &model)?.rankings_to_json(Some(&name))?)))?;
    door.answer("rankings", Need::See(&model), told).await
}

async fn put_ranking(Path((model, name)): Path<(String, String)>, door: Door) -> Answer {
    let need = Need::Model(Role::Admin, "change rankings", &model);
    let put = async |Open { shared, body, .. }: Open| {
        let run = move |model: &ServedModel| {
            model.put_ranking(&name, &body).and_then(|()| model.rankings_to_json(Some(&name)))
        };
        blocking(&shared, &model, run).await
    };
    door.answer("rankings", need, put).await
}

async fn remove_ranking(Path((model, name)): Path<(String, String)>, door: Door) -> Answer {
    let need = Need::Model(Role::Admin, "change rankings", &model);
    let remove = async |Open { shared, .. }: Open| {
        let run = move |model: &ServedModel| model.remove_ranking(&name).and_then(|()| model.rankings_to_json(None));
        blocking(&shared, &model, run).await
    };
    door.answer("rankings", need, remove).await
}

/// Runs what may wait for the disk on a thread that may; it goes on when the caller is gone.
async fn blocking(
    shared: &Shared,
    model: &str,
    run: impl FnOnce(&ServedModel) -> tidemill_base::Result<Value> + Send + 'static,
) -> Answered {
    let model = find(shared, model)?;
    let done = tokio::task::spawn_blocking(move || run(&model));
    Ok(reply::json(&done.await.map_err(|_| our_mistake())??))
}

impl Open {
    /// Waits until what is told is not older than the request, where somebody else has it.
    async fn renewed(&self) -> Result<(), Refusal> {
        if let Some(renewed) = contained(|| self.shared.host.renewed())? {
            renewed.await;
        }
        Ok(())
    }
}
