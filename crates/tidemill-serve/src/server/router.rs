//! From a request to its reply: who may ask, what is asked, the body, the handler. What is not about data goes on to `admin.rs`.

use std::{fmt::Display, sync::Arc};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde_json::{Map, Value, json};
use tidemill_base::{Error, Result};
use tidemill_model::weights::here_only;
use tokio::time::{Instant, timeout_at};

use super::{
    Shared,
    access::{Grant, Need, no_source, refuse_token_in_url},
    admin, body, contained, guard, headers,
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
    // Where there was a length as well, a proxy may have taken what follows for another request than we do: nothing follows.
    let chunked = headers::find(&head.headers, &header::TRANSFER_ENCODING).is_some();
    let place = shared.load.enter(shared.limits.requests_max);
    let path = percent_decoded(head.uri.path());
    let route = match &path {
        Some(path) => Route::parse(path),
        None => Err(no_route(head.uri.path())),
    };
    let (label, mut reply) = match route.transpose() {
        Some(route) => {
            let label = route.as_ref().map_or("none", Route::label);
            let is_oip = oip::is_oip(head.uri.path());
            (label, replied_as(shared, dispatch(shared, place.is_some(), route, &head, body).await, is_oip))
        }
        // In a box, so that it does not make the future of every request as large as its own.
        None => {
            drop(path);
            Box::pin(admin::answer(shared, Request::from_parts(head, body), place.is_some())).await
        }
    };
    shared.metrics.request(label, reply.status().as_u16());
    if chunked {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// The reply, be it a refusal.
pub(super) fn replied(shared: &Shared, answered: Result<Reply, Refusal>) -> Reply {
    replied_as(shared, answered, false)
}

fn replied_as(shared: &Shared, answered: Result<Reply, Refusal>, is_oip: bool) -> Reply {
    answered.unwrap_or_else(|refusal| {
        shared.metrics.refusal(refusal.status.as_u16(), refusal.code);
        let refusal = refusal.within(shared.host.home());
        if is_oip { refusal.into_oip_reply() } else { refusal.into_reply() }
    })
}

async fn dispatch(
    shared: &Arc<Shared>,
    has_place: bool,
    route: Result<Route<'_>, Refusal>,
    head: &Parts,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let Entry { route, caller, deadline } = match enter(shared, has_place, route, head) {
        Ok(entry) => entry,
        // A body nobody wants is not read, unless it is small enough to keep the connection.
        Err(refusal) if head.method == Method::GET || head.method == Method::HEAD => return Err(refusal),
        Err(refusal) => return Err(body::discard(&head.headers, body, refusal)),
    };
    if matches!(head.method, Method::GET | Method::HEAD) {
        load_for(shared, &route).await?;
        return match route {
            Route::Follow(model) if head.method == Method::GET => {
                follow(shared, model, head.uri.query().unwrap_or_default())
            }
            Route::Oip(route) => oip::read_only(shared, route),
            _ => Err(our_mistake()),
        };
    }
    let Some(deadline) = deadline else {
        let (body, _held) = body::read(&head.headers, body, shared).await?;
        load_for(shared, &route).await?;
        return handle(shared, route, caller, head, body, None).await;
    };
    // In a box: most requests have no deadline, and their future stays as small as it was.
    Box::pin(async move {
        let ready = async {
            let body = body::read(&head.headers, body, shared).await?;
            load_for(shared, &route).await.map(|()| body)
        };
        let (body, _held) = timeout_at(deadline.at, ready).await.map_err(|_| deadline.late())??;
        let bytes = if costs(&route) { body.len() } else { 0 };
        match shared.load.judge(deadline, bytes, Instant::now()) {
            Verdict::Enough => {}
            verdict => return Err(deadline.refusal(verdict, shared.load.expected(bytes))),
        }
        handle(shared, route, caller, head, body, Some(deadline)).await
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
    deadline: Option<Deadline>,
) -> Result<Reply, Refusal> {
    if let Route::Push(source) = route {
        // In a box, so that it does not make the future of every request as large as its own.
        return Box::pin(push(shared, source, &head.headers, body)).await.map_err(|refusal| {
            // What sources there are is not for everybody who has a token.
            if caller.is_some() && refusal.status == StatusCode::NOT_FOUND { no_source(source) } else { refusal }
        });
    }
    // Only with a deadline is it asked: what looks at the clock takes time itself.
    let (began, bytes) = (deadline.map(|_| Instant::now()), body.len());
    let reply = match route {
        Route::Predict(model) if is_arrow(&head.headers) => {
            Box::pin(predict_arrow(shared, model, &head.headers, body)).await
        }
        _ => {
            let name = route.model().ok_or_else(our_mistake)?;
            let model = contained(|| find(shared, name.name))??;
            match here_only(|| score(shared, &model, &route, &head.headers, &body)) {
                Some(reply) => reply,
                None => return Box::pin(score_aside(shared, model, head, body, deadline)).await,
            }
        }
    };
    // How long a disk takes says nothing of others.
    if let Some(began) = began
        && costs(&route)
        && reply.is_ok()
    {
        shared.load.took(bytes, began.elapsed());
    }
    reply
}

/// What a model answers from memory.
pub(super) fn score(
    shared: &Shared,
    model: &ServedModel,
    route: &Route<'_>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Reply, Refusal> {
    match route {
        Route::Predict(name) => predict(shared, model, name.which, headers, body),
        Route::Explain(name) => contained(|| {
            let which = model.by_key(name.which, || versions::routing_key(headers, body));
            Ok(reply::json(&model.explain(body, which)?.to_json()))
        })?,
        Route::Rank(name) => rank(shared, model, name.which, headers, body),
        Route::Oip(oip::Oip::Infer(name)) => oip::infer(shared, model, name.which, headers, body),
        _ => Err(our_mistake()),
    }
}

/// The same where it may wait for a disk, by the model that was found: meanwhile it may leave for another.
async fn score_aside(
    shared: &Arc<Shared>,
    model: Arc<ServedModel>,
    head: &Parts,
    body: Bytes,
    deadline: Option<Deadline>,
) -> Result<Reply, Refusal> {
    let (own, uri, headers) = (shared.clone(), head.uri.clone(), head.headers.clone());
    let answer = shared.aside.answer(move || {
        let path = percent_decoded(uri.path()).ok_or_else(our_mistake)?;
        let route = Route::parse(&path)?.ok_or_else(our_mistake)?;
        if let Some(version) = route.model().and_then(|name| name.which.version()) {
            contained(|| model.load_version(version))??;
        }
        score(&own, &model, &route, &headers, &body)
    });
    match deadline {
        Some(deadline) => timeout_at(deadline.at, answer).await.map_err(|_| deadline.late())?,
        None => answer.await,
    }
}

async fn load_for(shared: &Shared, route: &Route<'_>) -> Result<(), Refusal> {
    let Some(model) = route.model() else { return Ok(()) };
    load(shared, model.name, model.which.version()).await
}

/// Waits for the model that a request asks, where it is not in memory, or for a version of it.
pub(super) async fn load(shared: &Shared, model: &str, version: Option<u64>) -> Result<(), Refusal> {
    match contained(|| shared.host.load(model, version))? {
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

fn enter<'a>(
    shared: &Shared,
    has_place: bool,
    route: Result<Route<'a>, Refusal>,
    head: &Parts,
) -> Result<Entry<'a>, Refusal> {
    let_near(shared, has_place, head)?;
    let (method, headers) = (&head.method, &head.headers);
    let route = route?;
    let allow = route.allow();
    if allow != method.as_str() && !allow.split(", ").any(|m| m == method.as_str()) {
        return Err(not_taken(method, allow));
    }
    let caller = let_in(shared, headers, &Need::of(&route))?;
    match route {
        Route::Predict(_) if is_arrow(headers) => {}
        Route::Predict(_) => check_json_type(headers, " or application/vnd.apache.arrow.stream")?,
        Route::Explain(_) | Route::Rank(_) => check_json_type(headers, "")?,
        Route::Push(_) => check_lines_type(headers)?,
        // Bytes behind the JSON have a type of their own, which clients name as they like.
        Route::Oip(oip::Oip::Infer(_)) if !oip::has_bytes(headers) => check_json_type(headers, "")?,
        _ => {}
    }
    Ok(Entry { route, caller, deadline: Deadline::of(headers)? })
}

/// Refuses what is not looked at any further, whatever it asks.
pub(super) fn let_near(shared: &Shared, has_place: bool, head: &Parts) -> Result<(), Refusal> {
    if !has_place {
        return Err(too_many(shared));
    }
    guard::check(head.version, &head.method, &head.headers, shared.loopback)?;
    refuse_token_in_url(&head.uri)
}

/// The caller, who may do what it needs; `None` where nobody is asked for a token.
pub(super) fn let_in(shared: &Shared, headers: &HeaderMap, need: &Need<'_>) -> Result<Option<Arc<Grant>>, Refusal> {
    match need {
        Need::Nothing => Ok(None),
        need => caller(shared, headers)?.map(|grant| grant.check(need, &*shared.host).map(|()| grant)).transpose(),
    }
}

pub(super) fn not_taken(method: &Method, allow: &'static str) -> Refusal {
    let message = format!("{} is not taken here; use {}", shown(method.as_str()), allow.replace(", ", " or "));
    let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    Refusal { allow: Some(allow), ..refusal }
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
pub(super) fn check_json_type(headers: &HeaderMap, or: &str) -> Result<(), Refusal> {
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

fn predict(
    shared: &Shared,
    model: &ServedModel,
    which: Which<'_>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let began = Instant::now();
    let (rows, text) = contained(|| -> Result<_> {
        let which = model.by_key(which, || versions::routing_key(headers, body));
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

fn rank(
    shared: &Shared,
    model: &ServedModel,
    which: Which<'_>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let began = Instant::now();
    let (candidates, text) = contained(|| -> Result<_> {
        let which = model.by_key(which, || versions::routing_key(headers, body));
        let reply = model.rank(body, which, shared.host.wall_ms())?;
        let mut text = reply.to_json();
        // For the terminal it may be read on.
        text.push(b'\n');
        Ok((reply.candidates, text))
    })??;
    shared.metrics.ranked(candidates, began.elapsed());
    Ok(reply::bytes(StatusCode::OK, reply::JSON, text))
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
