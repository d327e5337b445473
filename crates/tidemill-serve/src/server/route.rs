//! Paths to routes: a pure function, so that every path is one line of a test.

use std::borrow::Cow;

use super::{
    assets::{self, Asset},
    oip::{Oip, is_oip},
    reply::{Refusal, shown},
    versions::Change,
};
use crate::{live::Which, registry::check_label};

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Route<'a> {
    Page(&'static Asset),
    Health,
    Metrics,
    Status,
    Events,
    Feed,
    Models,
    Model(ModelName<'a>),
    Predict(ModelName<'a>),
    Rank(ModelName<'a>),
    Explain(ModelName<'a>),
    /// Of a model, all or one.
    Rankings(&'a str, Option<&'a str>),
    Rollback(&'a str),
    Promote(&'a str),
    /// What a replica reads: what is learned, or one version.
    Follow(ModelName<'a>),
    /// Labels, split and rollout.
    Change(&'a str, Change),
    Push(&'a str),
    /// A path of the Open Inference Protocol.
    Oip(Oip<'a>),
}

/// `ctr`, `ctr@42` or `ctr@canary`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ModelName<'a> {
    pub name: &'a str,
    pub which: Which<'a>,
}

const READ: &str = "GET, HEAD";
const SEND: &str = "POST";
const KEEP: &str = "GET, HEAD, PUT, DELETE";

impl<'a> Route<'a> {
    /// The route of a path without its query, percent-decoded by the caller.
    pub fn parse(path: &'a str) -> Result<Self, Refusal> {
        if is_oip(path) {
            return Oip::parse(path).map(Route::Oip);
        }
        let fixed = match path {
            "/healthz" => Some(Route::Health),
            "/metrics" => Some(Route::Metrics),
            "/v1/status" => Some(Route::Status),
            "/v1/events" => Some(Route::Events),
            "/v1/feed" => Some(Route::Feed),
            "/v1/models" => Some(Route::Models),
            _ => assets::find(path).map(Route::Page),
        };
        if let Some(route) = fixed {
            return Ok(route);
        }
        let one = |prefix| path.strip_prefix(prefix).filter(|name: &&str| !name.is_empty() && !name.contains('/'));
        if let Some(source) = one("/v1/sources/") {
            return Ok(Route::Push(source));
        }
        if let Some((model, rankings)) = path.strip_prefix("/v1/models/").and_then(|rest| rest.split_once('/')) {
            let name = rankings.strip_prefix("rankings/").filter(|name| !name.is_empty() && !name.contains('/'));
            return match (rankings, name) {
                ("rankings", _) => Ok(Route::Rankings(model, None)),
                (_, Some(name)) => Ok(Route::Rankings(model, Some(name))),
                _ => Err(no_route(path)),
            };
        }
        let Some(model) = one("/v1/models/") else { return Err(no_route(path)) };
        let (name, verb) = model.split_once(':').map_or((model, None), |(name, verb)| (name, Some(verb)));
        match verb {
            None => Ok(Route::Model(ModelName::parse(name)?)),
            Some("predict") => Ok(Route::Predict(ModelName::parse(name)?)),
            Some("explain") => Ok(Route::Explain(ModelName::parse(name)?)),
            Some("rank") => Ok(Route::Rank(ModelName::parse(name)?)),
            Some("rollback") => Ok(Route::Rollback(name)),
            Some("promote") => Ok(Route::Promote(name)),
            Some("follow") => Ok(Route::Follow(ModelName::parse(name)?)),
            Some("label") => Ok(Route::Change(name, Change::Label)),
            Some("split") => Ok(Route::Change(name, Change::Split)),
            Some("rollout") => Ok(Route::Change(name, Change::Rollout)),
            Some(_) => Err(no_route(path)
                .hint("a model knows :predict, :explain, :rank, :rollback, :promote, :label, :split and :rollout")),
        }
    }

    /// The methods it takes, as `Allow` lists them.
    pub fn allow(&self) -> &'static str {
        match self {
            Route::Predict(_) | Route::Explain(_) | Route::Rank(_) => SEND,
            Route::Rollback(_) | Route::Promote(_) | Route::Push(_) => SEND,
            Route::Change(..) => SEND,
            Route::Rankings(_, Some(_)) => KEEP,
            Route::Oip(oip) if oip.is_post() => SEND,
            _ => READ,
        }
    }

    /// The model it asks, if any.
    pub fn model(&self) -> Option<ModelName<'a>> {
        match self {
            Route::Model(model) | Route::Predict(model) | Route::Rank(model) | Route::Explain(model) => Some(*model),
            Route::Rankings(name, _) | Route::Rollback(name) | Route::Promote(name) | Route::Change(name, _) => {
                Some(ModelName { name, which: Which::Live })
            }
            Route::Oip(Oip::Model(model) | Oip::ModelReady(model) | Oip::Infer(model)) => Some(*model),
            _ => None,
        }
    }

    /// Its name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Route::Page(_) => "page",
            Route::Health => "healthz",
            Route::Metrics => "metrics",
            Route::Status => "status",
            Route::Events => "events",
            Route::Feed => "feed",
            Route::Models => "models",
            Route::Model(_) => "model",
            Route::Predict(_) => "predict",
            Route::Rank(_) => "rank",
            Route::Explain(_) => "explain",
            Route::Rankings(..) => "rankings",
            Route::Rollback(_) => "rollback",
            Route::Promote(_) => "promote",
            Route::Follow(_) => "follow",
            Route::Change(_, Change::Label) => "label",
            Route::Change(_, Change::Split) => "split",
            Route::Change(_, Change::Rollout) => "rollout",
            Route::Push(_) => "push",
            Route::Oip(Oip::Infer(_)) => "infer",
            Route::Oip(_) => "oip",
        }
    }
}

impl<'a> ModelName<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let Some((name, version)) = text.split_once('@') else { return Ok(Self { name: text, which: Which::Live }) };
        match which(version) {
            Some(which) => Ok(Self { name, which }),
            None => Err(tidemill_base::Error::not_found(format!(
                "'{0}' is neither a version nor a label, as in {1}@42 or {1}@canary",
                shown(version),
                shown(name)
            ))
            .into()),
        }
    }
}

/// `42` or `canary`.
pub(super) fn which(text: &str) -> Option<Which<'_>> {
    match text.parse::<u64>() {
        // One version has one name: `042` and `+42` are none.
        Ok(version) => (version.to_string() == text).then_some(Which::Version(version)),
        Err(_) => check_label(text).is_ok().then_some(Which::Label(text)),
    }
}

/// `%40` is `@` and `%3A` is `:`, which some clients encode; `None` for what is not UTF-8 or not hexadecimal.
pub(super) fn percent_decoded(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? << 4 | digit()?) as u8);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

pub(super) fn no_route(path: &str) -> Refusal {
    Refusal::new(hyper::StatusCode::NOT_FOUND, "not_found", format!("no route {}", shown(path))).hint(
        "routes: /, /healthz, /metrics, /v1/status, /v1/events, /v1/feed, /v1/models, /v1/models/NAME, \
         /v1/models/NAME:predict, /v1/models/NAME:explain, /v1/models/NAME:rank, /v1/models/NAME/rankings/NAME, /v1/models/NAME:rollback, \
         /v1/models/NAME:promote, /v1/models/NAME:label, /v1/models/NAME:split, /v1/models/NAME:rollout, \
         /v1/models/NAME:follow, /v1/sources/NAME, /v2 (Open Inference Protocol)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_meaning() {
        let ctr = ModelName { name: "ctr", which: Which::Live };
        for (path, route) in [
            ("/healthz", Some(Route::Health)),
            ("/v1/models", Some(Route::Models)),
            ("/v1/models/ctr", Some(Route::Model(ctr))),
            ("/v1/models/ctr@42", Some(Route::Model(ModelName { name: "ctr", which: Which::Version(42) }))),
            ("/v1/models/ctr:predict", Some(Route::Predict(ctr))),
            ("/v1/models/ctr@42:predict", Some(Route::Predict(ModelName { name: "ctr", which: Which::Version(42) }))),
            ("/v1/models/ctr:explain", Some(Route::Explain(ctr))),
            ("/v1/models/ctr:rank", Some(Route::Rank(ctr))),
            ("/v1/models/ctr@42:rank", Some(Route::Rank(ModelName { name: "ctr", which: Which::Version(42) }))),
            ("/v1/models/ctr:rollback", Some(Route::Rollback("ctr"))),
            ("/v1/models/ctr:promote", Some(Route::Promote("ctr"))),
            ("/v1/models/ctr:follow", Some(Route::Follow(ctr))),
            ("/v1/models/ctr@42:follow", Some(Route::Follow(ModelName { name: "ctr", which: Which::Version(42) }))),
            ("/v1/sources/clicks", Some(Route::Push("clicks"))),
            ("/v1/modles", None),
            ("/v1/models/", None),
            ("/v1/models/a/b", None),
            ("/v1/models/ctr/rankings", Some(Route::Rankings("ctr", None))),
            ("/v1/models/ctr/rankings/feed", Some(Route::Rankings("ctr", Some("feed")))),
            ("/v1/models/ctr/rankings/", None),
            ("/v1/models/ctr/rankings/a/b", None),
            ("/v1/models/ctr:explode", None),
            ("/v1/models/ctr@new:predict", Some(Route::Predict(ModelName { name: "ctr", which: Which::Label("new") }))),
            ("/v1/models/ctr@New:predict", None),
            ("/v1/models/ctr@042:predict", None),
            ("/v1/models/ctr@+42", None),
            ("/v1/models/ctr:label", Some(Route::Change("ctr", Change::Label))),
            ("/v1/models/ctr:split", Some(Route::Change("ctr", Change::Split))),
            ("/v1/models/ctr:rollout", Some(Route::Change("ctr", Change::Rollout))),
            ("/v1/sources/", None),
            ("/assets/../Cargo.toml", None),
            ("", None),
        ] {
            assert_eq!(Route::parse(path).ok(), route, "{path}");
        }
        assert!(matches!(Route::parse("/"), Ok(Route::Page(_))));
        assert_eq!(Route::parse("/v1/modles").unwrap_err().message, "no route /v1/modles");
    }

    #[test]
    fn encoded_paths_are_decoded_or_refused() {
        assert_eq!(percent_decoded("/v1/models/ctr%4042%3apredict").as_deref(), Some("/v1/models/ctr@42:predict"));
        for bad in ["/%", "/%4", "/%zz", "/%ff"] {
            assert_eq!(percent_decoded(bad), None, "{bad}");
        }
    }
}
