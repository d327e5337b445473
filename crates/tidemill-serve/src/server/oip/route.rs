//! Paths of the Open Inference Protocol to what they ask for: a pure function, as for all other paths.

use super::super::{
    reply::{Refusal, shown},
    route::{ModelName, no_route, which},
};
use crate::live::Which;

/// What a path below `/v2` asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::server) enum Oip<'a> {
    Server,
    Live,
    Ready,
    Model(ModelName<'a>),
    ModelReady(ModelName<'a>),
    Infer(ModelName<'a>),
}

/// Whether a path belongs to the protocol, whose errors have a form of their own.
pub(in crate::server) fn is_oip(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl<'a> Oip<'a> {
    /// The meaning of a path of which [`is_oip`] is true.
    pub fn parse(path: &'a str) -> Result<Self, Refusal> {
        let rest = path.strip_prefix("/v2").unwrap_or_default();
        match rest {
            "" | "/" => return Ok(Self::Server),
            "/health/live" => return Ok(Self::Live),
            "/health/ready" => return Ok(Self::Ready),
            _ => {}
        }
        let unknown = || {
            let hint = "routes: /v2, /v2/health/live, /v2/health/ready, \
                        /v2/models/NAME[/versions/VERSION], and behind it /ready and /infer";
            Refusal { hint: Some(hint.into()), ..no_route(path) }
        };
        let rest = rest.strip_prefix("/models/").ok_or_else(unknown)?;
        let (name, rest) = rest.split_once('/').map_or((rest, None), |(name, rest)| (name, Some(rest)));
        if name.is_empty() {
            return Err(unknown());
        }
        let mut model = ModelName::parse(name)?;
        let verb = match rest.and_then(|rest| rest.strip_prefix("versions/")) {
            None => rest,
            Some(rest) => {
                let (version, verb) = rest.split_once('/').map_or((rest, None), |(v, verb)| (v, Some(verb)));
                model = with_version(model, version)?;
                verb
            }
        };
        match verb {
            None => Ok(Self::Model(model)),
            Some("ready") => Ok(Self::ModelReady(model)),
            Some("infer") => Ok(Self::Infer(model)),
            Some(_) => Err(unknown()),
        }
    }

    /// The method it takes.
    pub fn is_post(&self) -> bool {
        matches!(self, Self::Infer(_))
    }
}

/// A name and the version or label that the protocol says beside it.
pub(in crate::server) fn with_version<'a>(model: ModelName<'a>, version: &'a str) -> Result<ModelName<'a>, Refusal> {
    let Some(which) = which(version) else {
        let message = format!("'{}' is neither a version nor a label", shown(version));
        return Err(tidemill_base::Error::not_found(message).into());
    };
    let words = |which| match which {
        Which::Version(version) => format!("version {version}"),
        Which::Label(label) => format!("label {label}"),
        Which::Live | Which::Key(_) => "none".into(),
    };
    match model.which {
        Which::Live => Ok(ModelName { which, ..model }),
        other if other == which => Ok(model),
        other => {
            let message = format!("{} in the name and {} beside it; send one of them", words(other), words(which));
            Err(tidemill_base::Error::invalid(message).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_meaning() {
        let ctr = ModelName { name: "ctr", which: Which::Live };
        let third = ModelName { name: "ctr", which: Which::Version(3) };
        for (path, route) in [
            ("/v2", Some(Oip::Server)),
            ("/v2/", Some(Oip::Server)),
            ("/v2/health/live", Some(Oip::Live)),
            ("/v2/health/ready", Some(Oip::Ready)),
            ("/v2/models/ctr", Some(Oip::Model(ctr))),
            ("/v2/models/ctr/ready", Some(Oip::ModelReady(ctr))),
            ("/v2/models/ctr/infer", Some(Oip::Infer(ctr))),
            ("/v2/models/ctr@3/infer", Some(Oip::Infer(third))),
            ("/v2/models/ctr/versions/3", Some(Oip::Model(third))),
            ("/v2/models/ctr/versions/3/ready", Some(Oip::ModelReady(third))),
            ("/v2/models/ctr/versions/3/infer", Some(Oip::Infer(third))),
            ("/v2/models/ctr@3/versions/3/infer", Some(Oip::Infer(third))),
            ("/v2/models/ctr@2/versions/3/infer", None),
            (
                "/v2/models/ctr/versions/new/infer",
                Some(Oip::Infer(ModelName { name: "ctr", which: Which::Label("new") })),
            ),
            ("/v2/models/ctr/versions/-1/infer", None),
            ("/v2/models/ctr/versions/03/infer", None),
            ("/v2/models/ctr/versions", None),
            ("/v2/models//infer", None),
            ("/v2/models", None),
            ("/v2/models/ctr/explode", None),
            ("/v2/models/ctr/infer/more", None),
            ("/v2/health", None),
        ] {
            assert_eq!(Oip::parse(path).ok(), route, "{path}");
        }
        assert_eq!([is_oip("/v2"), is_oip("/v2/x"), is_oip("/v20"), is_oip("/v1/v2")], [true, true, false, false]);
    }
}
