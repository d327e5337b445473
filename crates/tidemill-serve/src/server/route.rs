//! Paths of the data to routes: a pure function, so that every path is one line of a test. All others are administration.

use std::borrow::Cow;

use super::{
    oip::{Oip, is_oip},
    reply::{Refusal, shown},
};
use crate::{live::Which, registry::check_label};

/// What a path asks for where data comes and predictions go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Route<'a> {
    Predict(ModelName<'a>),
    Rank(ModelName<'a>),
    Explain(ModelName<'a>),
    /// What a replica reads: what is learned, or one version.
    Follow(ModelName<'a>),
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

/// Methods, as `Allow` lists them.
pub(super) const READ: &str = "GET, HEAD";
pub(super) const SEND: &str = "POST";

impl<'a> Route<'a> {
    /// The route of a path without its query, percent-decoded by the caller; `None` for administration.
    pub fn parse(path: &'a str) -> Result<Option<Self>, Refusal> {
        if is_oip(path) {
            return Oip::parse(path).map(|oip| Some(Route::Oip(oip)));
        }
        let one = |prefix| path.strip_prefix(prefix).filter(|name: &&str| !name.is_empty() && !name.contains('/'));
        if let Some(source) = one("/v1/sources/") {
            return Ok(Some(Route::Push(source)));
        }
        let Some((name, verb)) = one("/v1/models/").and_then(|model| model.split_once(':')) else { return Ok(None) };
        let route = match verb {
            "predict" => Route::Predict,
            "explain" => Route::Explain,
            "rank" => Route::Rank,
            "follow" => Route::Follow,
            _ => return Ok(None),
        };
        ModelName::parse(name).map(|name| Some(route(name)))
    }

    /// The methods it takes, as `Allow` lists them.
    pub fn allow(&self) -> &'static str {
        match self {
            Route::Predict(_) | Route::Explain(_) | Route::Rank(_) | Route::Push(_) => SEND,
            Route::Oip(oip) if oip.is_post() => SEND,
            _ => READ,
        }
    }

    /// The model it asks, if any.
    pub fn model(&self) -> Option<ModelName<'a>> {
        match self {
            Route::Predict(model) | Route::Rank(model) | Route::Explain(model) => Some(*model),
            Route::Oip(Oip::Model(model) | Oip::ModelReady(model) | Oip::Infer(model)) => Some(*model),
            _ => None,
        }
    }

    /// Its name in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Route::Predict(_) => "predict",
            Route::Rank(_) => "rank",
            Route::Explain(_) => "explain",
            Route::Follow(_) => "follow",
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
            ("/v1/models/ctr:predict", Route::Predict(ctr)),
            ("/v1/models/ctr@42:predict", Route::Predict(ModelName { name: "ctr", which: Which::Version(42) })),
            ("/v1/models/ctr:explain", Route::Explain(ctr)),
            ("/v1/models/ctr:rank", Route::Rank(ctr)),
            ("/v1/models/ctr@42:rank", Route::Rank(ModelName { name: "ctr", which: Which::Version(42) })),
            ("/v1/models/ctr:follow", Route::Follow(ctr)),
            ("/v1/models/ctr@42:follow", Route::Follow(ModelName { name: "ctr", which: Which::Version(42) })),
            ("/v1/sources/clicks", Route::Push("clicks")),
            ("/v1/models/ctr@new:predict", Route::Predict(ModelName { name: "ctr", which: Which::Label("new") })),
        ] {
            assert_eq!(Route::parse(path).unwrap(), Some(route), "{path}");
        }
        for path in ["/v1/models/ctr@New:predict", "/v1/models/ctr@042:predict", "/v1/models/ctr@+42:rank"] {
            assert!(Route::parse(path).is_err(), "{path}");
        }
        for path in [
            "/healthz",
            "/v1/models",
            "/v1/models/",
            "/v1/models/ctr",
            "/v1/models/ctr@42",
            "/v1/models/ctr:rollback",
            "/v1/models/ctr:explode",
            "/v1/models/a/b:predict",
            "/v1/models/ctr/rankings",
            "/v1/sources/",
            "/v1/modles",
            "",
        ] {
            assert_eq!(Route::parse(path).unwrap(), None, "{path}");
        }
    }

    #[test]
    fn encoded_paths_are_decoded_or_refused() {
        assert_eq!(percent_decoded("/v1/models/ctr%4042%3apredict").as_deref(), Some("/v1/models/ctr@42:predict"));
        for bad in ["/%", "/%4", "/%zz", "/%ff"] {
            assert_eq!(percent_decoded(bad), None, "{bad}");
        }
    }
}
