//! From a request to its reply: who may ask, what is asked, the body, the handler.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde_json::{Map, Value, json};
use tidemill_base::{Error, Result};
use tokio::time::{Instant, timeout_at};

use super::{
    Shared,
    access::{Grant, Need, no_source, refuse_token_in_url},
    body, contained, guard, headers,
    host::{PushReply, ServedModel, no_model},
    idempotency::Begun,
    load::{Deadline, Verdict},
    metrics::Reason,
    oip, our_mistake,
    reply::{self, Refusal, Reply, shown},
    route::{ModelName, Route, no_route, percent_decoded},
    versions,
};
use crate::{
    follow::{Ask, stream},
    live::Which,
    predict::ARROW_STREAM,
    versions::rollout_metrics,
};

/// Refused lines that a reply lists at most; all are counted.
const REFUSED_LISTED_MAX: usize = 100;
/// What `curl -d` sends when nobody says otherwise counts as JSON: people type that.
const JSON_TYPES: [&str; 2] = [reply::JSON, "application/x-www-form-urlencoded"];
const LINES_TYPES: [&str; 8] = [
    reply::JSON,
    "application/x-www-form-urlencoded",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/octet-stream",
    "text/plain",
];
/// JSON is UTF-8 (RFC 8259, 8.1), of which ASCII is a part.
const UTF_8: [&str; 3] = ["utf-8", "utf8", "us-ascii"];

/// Answers one request, whatever it is.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let path = percent_decoded(head.uri.path());
    let route = match &path {
        Some(path) => Route::parse(path),
        None => Err(no_route(head.uri.path())),
    };
    let label = route.as_ref().map_or("none", Route::label);
    // Where there was a length as well, a proxy may have taken what follows for another request than we do: nothing follows.
    let chunked = headers::find(&head.headers, &header::TRANSFER_ENCODING).is_some();
    let mut reply = match dispatch(shared, route, &head, body).await {
        Ok(reply) => reply,
        Err(refusal) => {
            shared.metrics.refusal(refusal.status.as_u16(), refusal.code);
            let refusal = refusal.within(shared.host.home());
            match oip::is_oip(head.uri.path()) {
                true => refusal.into_oip_reply(),
                false => refusal.into_reply(),
            }
        }
    };
    shared.metrics.request(label, reply.status().as_u16());
    if chunked {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

async fn dispatch(
    shared: &Arc<Shared>,
    route: Result<Route<'_>, Refusal>,
    head: &Parts,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let place = shared.load.enter(shared.limits.requests_max);
    let entry = match &place {
        Some(_) => let_in(shared, route, head),
        None => Err(too_many(shared)),
    };
    let Entry { route, caller, deadline } = match entry {
        Ok(entry) => entry,
        // A body nobody wants is not read, unless it is small enough to keep the connection.
        Err(refusal) if head.method == Method::GET || head.method == Method::HEAD => return Err(refusal),
        Err(refusal) => return Err(body::discard(&head.headers, body, refusal)),
    };
    if matches!(head.method, Method::GET | Method::HEAD) {
        load(shared, &route).await?;
        if let (Route::Follow(model), &Method::GET) = (&route, &head.method) {
            return follow(shared, *model, head.uri.query().unwrap_or_default());
        }
        if matches!(route, Route::Status | Route::Metrics | Route::Events)
            && let Some(renewed) = contained(|| shared.host.renewed())?
        {
            renewed.await;
        }
        return read_only(shared, route, caller.as_deref());
    }
    let Some(deadline) = deadline else {
        let (body, _held) = body::read(&head.headers, body, shared).await?;
        load(shared, &route).await?;
        return handle(shared, route, caller, head, body).await;
    };
    // In a box: most requests have no deadline, and their future stays as small as it was.
    Box::pin(async move {
        let late = || deadline.refusal(Verdict::Past, Duration::ZERO).closing();
        let ready = async {
            let body = body::read(&head.headers, body, shared).await?;
            load(shared, &route).await.map(|()| body)
        };
        let (body, _held) = timeout_at(deadline.at, ready).await.map_err(|_| late())??;
        let bytes = if costs(&route) { body.len() } else { 0 };
        let began = Instant::now();
        match shared.load.judge(deadline, bytes, began) {
            Verdict::Enough => {}
            verdict => return Err(deadline.refusal(verdict, shared.load.expected(bytes))),
        }
        let reply = handle(shared, route, caller, head, body).await;
        if bytes > 0 && reply.is_ok() {
            shared.load.took(bytes, began.elapsed());
        }
        reply
    })
    .await
}

/// Whether what a request takes depends on its body, and is learned.
fn costs(route: &Route<'_>) -> bool {
    matches!(route, Route::Predict(_) | Route::Rank(_) | Route::Oip(oip::Oip::Infer(_)))
}

pub(super) fn too_many(shared: &Shared) -> Refusal {
    shared.metrics.refused(Reason::Requests);
    let message = format!("{} requests are being answered, which is the limit", shared.limits.requests_max);
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "exhausted", message).hint("nothing was taken; try again")
}

async fn handle(
    shared: &Arc<Shared>,
    route: Route<'_>,
    caller: Option<Arc<Grant>>,
    head: &Parts,
    body: Bytes,
) -> Result<Reply, Refusal> {
    match route {
        Route::Rankings(model, Some(name)) => {
            let (name, put) = (name.to_string(), head.method == Method::PUT);
            let run = move |model: &ServedModel| match put {
                true => model.put_ranking(&name, &body).and_then(|()| model.rankings_to_json(Some(&name))),
                false => model.remove_ranking(&name).and_then(|()| model.rankings_to_json(None)),
            };
            Box::pin(blocking(shared, model, run)).await
        }
        Route::Predict(model) if is_arrow(&head.headers) => {
            Box::pin(predict_arrow(shared, model, &head.headers, body)).await
        }
        Route::Predict(model) => predict(shared, model, &head.headers, &body),
        Route::Explain(model) => contained(|| {
            let served = find(shared, model.name)?;
            let which = served.by_key(model.which, || versions::routing_key(&head.headers, &body));
            Ok(reply::json(&served.explain(&body, which)?.to_json()))
        })?,
        Route::Rank(model) => rank(shared, model, &head.headers, &body),
        // In boxes, so that they do not make the future of every request as large as theirs.
        Route::Rollback(model) => Box::pin(rollback(shared, model, &body)).await,
        Route::Promote(model) => Box::pin(promote(shared, model, &body)).await,
        Route::Change(model, what) => {
            let asked = shared.clone();
            let run = move |model: &ServedModel| {
                versions::change(model, what, &body)?;
                Ok(reply::within(model.to_json(), asked.host.home()))
            };
            Box::pin(blocking(shared, model, run)).await
        }
        Route::Push(source) => Box::pin(push(shared, source, &head.headers, body)).await.map_err(|refusal| {
            // What sources there are is not for everybody who has a token.
            if caller.is_some() && refusal.status == StatusCode::NOT_FOUND { no_source(source) } else { refusal }
        }),
        Route::Oip(oip::Oip::Infer(model)) => oip::infer(shared, model, &head.headers, &body),
        _ => Err(our_mistake()),
    }
}

/// Waits for the model that a request asks, where it is not in memory.
async fn load(shared: &Shared, route: &Route<'_>) -> Result<(), Refusal> {
    let Some(model) = route.model() else { return Ok(()) };
    // Of a version, what is known of it is on disk and needs no weights.
    let version = if matches!(route, Route::Model(_)) { None } else { model.which.version() };
    match contained(|| shared.host.load(model.name, version))? {
        Some(loading) => Ok(loading.await?),
        None => Ok(()),
    }
}

/// A request that is let in.
struct Entry<'a> {
    route: Route<'a>,
    /// Nobody is asked for a token where there are none.
    caller: Option<Arc<Grant>>,
    deadline: Option<Deadline>,
}

fn let_in<'a>(shared: &Shared, route: Result<Route<'a>, Refusal>, head: &Parts) -> Result<Entry<'a>, Refusal> {
    let (method, headers) = (&head.method, &head.headers);
    guard::check(head.version, method, headers, shared.loopback)?;
    refuse_token_in_url(&head.uri)?;
    let route = route?;
    let allow = route.allow();
    if allow != method.as_str() && !allow.split(", ").any(|m| m == method.as_str()) {
        let message = format!("{} is not taken here; use {}", shown(method.as_str()), allow.replace(", ", " or "));
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        return Err(Refusal { allow: Some(allow), ..refusal });
    }
    let caller = match Need::of(&route, method) {
        Need::Nothing => None,
        need => caller(shared, headers)?.map(|grant| grant.check(&need, &*shared.host).map(|()| grant)).transpose()?,
    };
    match route {
        Route::Predict(_) if is_arrow(headers) => {}
        Route::Predict(_) => check_json_type(headers, " or application/vnd.apache.arrow.stream")?,
        Route::Explain(_) | Route::Rank(_) => check_json_type(headers, "")?,
        Route::Rollback(_) | Route::Promote(_) | Route::Change(..) => check_json_type(headers, "")?,
        Route::Rankings(..) if *method == Method::PUT => check_json_type(headers, "")?,
        Route::Push(_) => check_lines_type(headers)?,
        // Bytes behind the JSON have a type of their own, which clients name as they like.
        Route::Oip(oip::Oip::Infer(_)) if !oip::has_bytes(headers) => check_json_type(headers, "")?,
        _ => {}
    }
    Ok(Entry { route, caller, deadline: Deadline::of(headers)? })
}

/// Who asks, and may ask now; `None` where nobody is asked for a token.
pub(super) fn caller(shared: &Shared, headers: &HeaderMap) -> Result<Option<Arc<Grant>>, Refusal> {
    let Some(access) = &shared.border.access else { return Ok(None) };
    let grant = access.caller(headers, shared.host.wall_ms())?;
    grant.take()?;
    Ok(Some(grant))
}

fn is_arrow(headers: &HeaderMap) -> bool {
    headers::find(headers, &header::CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().eq_ignore_ascii_case(ARROW_STREAM.as_bytes()))
}

/// `or`: what else is taken there.
fn check_json_type(headers: &HeaderMap, or: &str) -> Result<(), Refusal> {
    check_type(headers, &JSON_TYPES, &format_args!("application/json{or}"))
}

/// JSON, an object a line; many have no name for that.
fn check_lines_type(headers: &HeaderMap) -> Result<(), Refusal> {
    check_type(headers, &LINES_TYPES, &"application/x-ndjson, an object a line")
}

fn check_type(headers: &HeaderMap, types: &[&str], send: &dyn Display) -> Result<(), Refusal> {
    let Some(value) = headers::find(headers, &header::CONTENT_TYPE) else { return Ok(()) };
    if value == reply::JSON {
        return Ok(());
    }
    let value = String::from_utf8_lossy(value.as_bytes());
    let (media_type, parameters) = value.split_once(';').unwrap_or((&value, ""));
    let media_type = media_type.trim();
    let refused = |what: String| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", what));
    if !types.iter().any(|t| t.eq_ignore_ascii_case(media_type)) {
        return refused(format!("Content-Type '{}' is not understood; send {send}", shown(media_type)));
    }
    let charset = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut charset = charset.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    match charset.find(|(_, set)| !UTF_8.iter().any(|utf_8| utf_8.eq_ignore_ascii_case(set.trim().trim_matches('"')))) {
        Some((_, set)) => refused(format!("charset '{}' is not understood; send UTF-8", shown(set.trim()))),
        None => Ok(()),
    }
}

fn read_only(shared: &Shared, route: Route<'_>, caller: Option<&Grant>) -> Result<Reply, Refusal> {
    let host = &shared.host;
    match route {
        Route::Page(asset) => Ok(asset.reply()),
        Route::Health => Ok(reply::bytes(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")),
        Route::Metrics => {
            let tenants = shared.border.access.as_ref().map_or(Vec::new(), |access| access.tenants());
            let text = contained(|| host.metrics() + &rollout_metrics(&host.models()))?;
            let text = text + &shared.metrics.to_text(&shared.load, &tenants);
            Ok(reply::bytes(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
        }
        Route::Status => Ok(reply::json(&contained(|| reply::within(host.status(), host.home()))?)),
        Route::Events => Ok(reply::events(shared.events.watch(&**host, shared.stop.clone())?)),
        Route::Feed => match contained(|| host.feed())? {
            Some(feed) => Ok(reply::json(&feed)),
            None => Err(Error::not_found("no feed is shown here; the demo has one").into()),
        },
        Route::Models => contained(|| {
            let models: Vec<Value> = host.models_json(&|name| caller.is_none_or(|grant| grant.sees(name)));
            reply::json(&reply::within(json!({ "models": models }), host.home()))
        }),
        Route::Model(ModelName { name, which }) => contained(|| {
            let model = find(shared, name)?;
            let told = match which {
                Which::Version(version) => model.version_to_json(version)?,
                Which::Label(label) => model.label_to_json(label)?,
                Which::Live | Which::Key(_) => model.to_json(),
            };
            Ok(reply::json(&reply::within(told, host.home())))
        })?,
        Route::Rankings(model, name) => contained(|| Ok(reply::json(&find(shared, model)?.rankings_to_json(name)?)))?,
        Route::Oip(route) => oip::read_only(shared, route),
        _ => Err(our_mistake()),
    }
}

/// Begins to send a replica what is learned, for as long as it reads; or one version, to its end.
fn follow(shared: &Shared, ModelName { name, which }: ModelName<'_>, query: &str) -> Result<Reply, Refusal> {
    let model = find(shared, name)?;
    match which {
        Which::Version(version) => return Ok(reply::frames(stream::version(model.registry(), version)?)),
        Which::Label(label) => {
            let message =
                format!("label '{label}' may move; a version is followed by its number, as in {name}@42:follow");
            return Err(Error::invalid(message).into());
        }
        Which::Live | Which::Key(_) => {}
    }
    let ask = Ask::from_query(query)
        .ok_or_else(|| Error::invalid("a follower says lineage (hexadecimal), position and mini_batch (numbers)"))?;
    let feed = model.predictor().live().feed().ok_or_else(|| {
        Error::conflict(format!("model '{}' cannot be followed here: another process learns it", model.name()))
    })?;
    let feed = feed.clone();
    Ok(reply::frames(stream::follow(model, feed, ask, shared.stop.clone())))
}

fn predict(shared: &Shared, name: ModelName<'_>, headers: &HeaderMap, body: &[u8]) -> Result<Reply, Refusal> {
    let began = Instant::now();
    let (rows, text) = contained(|| -> Result<_> {
        let model = find(shared, name.name)?;
        let which = model.by_key(name.which, || versions::routing_key(headers, body));
        let reply = model.predict(body, which)?;
        let mut text = reply.to_json();
        // For the terminal it may be read on.
        text.push(b'\n');
        Ok((reply.predictions.len(), text))
    })??;
    shared.metrics.predicted(rows, began.elapsed());
    Ok(reply::scores(text))
}

/// On a thread where it holds up no other request.
async fn predict_arrow(
    shared: &Shared,
    name: ModelName<'_>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Reply, Refusal> {
    let (began, model) = (Instant::now(), find(shared, name.name)?);
    let key = versions::routing_key(headers, &body).to_vec();
    let (version, label) = match name.which {
        Which::Version(version) => (Some(version), None),
        Which::Label(label) => (None, Some(label.to_string())),
        Which::Live | Which::Key(_) => (None, None),
    };
    let done = tokio::task::spawn_blocking(move || {
        let which = label.as_deref().map_or(version.into(), Which::Label);
        model.predict_arrow(body, model.by_key(which, || &key))
    });
    let reply = done.await.map_err(|_| our_mistake())??;
    shared.metrics.predicted(reply.rows, began.elapsed());
    Ok(reply::bytes(StatusCode::OK, ARROW_STREAM, reply.bytes))
}

fn rank(shared: &Shared, name: ModelName<'_>, headers: &HeaderMap, body: &[u8]) -> Result<Reply, Refusal> {
    let began = Instant::now();
    let (candidates, text) = contained(|| -> Result<_> {
        let model = find(shared, name.name)?;
        let which = model.by_key(name.which, || versions::routing_key(headers, body));
        let reply = model.rank(body, which, shared.host.wall_ms())?;
        let mut text = reply.to_json();
        // For the terminal it may be read on.
        text.push(b'\n');
        Ok((reply.candidates, text))
    })??;
    shared.metrics.ranked(candidates, began.elapsed());
    Ok(reply::bytes(StatusCode::OK, reply::JSON, text))
}

async fn rollback(shared: &Arc<Shared>, model: &str, body: &[u8]) -> Result<Reply, Refusal> {
    let version = versions::rolled_back_to(body)?;
    change(shared, model, move |shared, model| shared.host.rollback(model, version)).await
}

async fn promote(shared: &Arc<Shared>, model: &str, body: &[u8]) -> Result<Reply, Refusal> {
    versions::promoted(body)?;
    change(shared, model, |shared, model| shared.host.promote(model)).await
}

/// Changes what is live; the model as it is then.
async fn change(
    shared: &Arc<Shared>,
    model: &str,
    run: impl FnOnce(&Shared, &str) -> Result<()> + Send + 'static,
) -> Result<Reply, Refusal> {
    let asked = shared.clone();
    blocking(shared, model, move |model| {
        run(&asked, model.name())?;
        Ok(reply::within(find(&asked, model.name())?.to_json(), asked.host.home()))
    })
    .await
}

/// Runs what may wait for the disk on a thread that may; it goes on when the caller is gone.
async fn blocking(
    shared: &Arc<Shared>,
    model: &str,
    run: impl FnOnce(&ServedModel) -> Result<Value> + Send + 'static,
) -> Result<Reply, Refusal> {
    let model = find(shared, model)?;
    let done = tokio::task::spawn_blocking(move || run(&model));
    Ok(reply::json(&done.await.map_err(|_| our_mistake())??))
}

async fn push(shared: &Arc<Shared>, source: &str, headers: &HeaderMap, lines: Bytes) -> Result<Reply, Refusal> {
    if lines.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("request body is empty; send one JSON object a line").into());
    }
    let ticket = match shared.keys.begin(source, headers, &lines)? {
        Some(Begun::Before(text)) => return Ok(pushed_before(text)),
        Some(Begun::New(ticket)) => Some(ticket),
        None => None,
    };
    let pushing = contained(|| shared.host.push(source, lines))?;
    // In a task of its own: it ends even when the caller hangs up, and a panic in it ends it only.
    let pushed = tokio::spawn(async move {
        let pushed = pushing.await?;
        if let (Some(ticket), true) = (ticket, pushed.accepted > 0) {
            ticket.answered(push_text(&pushed));
        }
        Ok::<_, Error>(pushed)
    });
    let pushed = pushed.await.map_err(|_| our_mistake())??;
    if pushed.accepted == 0 {
        let mut fields = push_fields(&pushed);
        let first =
            pushed.refused.first().map_or("there is none".to_string(), |r| format!("line {}: {}", r.line, r.reason));
        let refusal = Refusal::from(Error::invalid(format!("no line was accepted; {first}")));
        fields.remove("first_offset");
        return Err(Refusal { details: Some(Box::new(fields)), ..refusal });
    }
    Ok(reply::bytes(StatusCode::OK, reply::JSON, push_text(&pushed)))
}

/// The reply that a push of the same key had.
fn pushed_before(text: Bytes) -> Reply {
    let mut reply = reply::bytes(StatusCode::OK, reply::JSON, text);
    reply.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    reply
}

fn push_text(pushed: &PushReply) -> Bytes {
    let mut text = Value::Object(push_fields(pushed)).to_string();
    text.push('\n');
    text.into()
}

fn push_fields(pushed: &PushReply) -> Map<String, Value> {
    let listed = pushed.refused.iter().take(REFUSED_LISTED_MAX);
    let listed: Vec<Value> = listed.map(|r| json!({"line": r.line, "reason": r.reason})).collect();
    let mut fields = Map::new();
    fields.insert("accepted".into(), pushed.accepted.into());
    fields.insert("refused".into(), listed.into());
    if pushed.refused.len() > REFUSED_LISTED_MAX {
        fields.insert("refused_count".into(), pushed.refused.len().into());
    }
    fields.insert("first_offset".into(), pushed.first_offset.into());
    fields
}

pub(super) fn find(shared: &Shared, name: &str) -> Result<Arc<ServedModel>> {
    shared.host.model(name).ok_or_else(|| no_model(&*shared.host, name))
}
