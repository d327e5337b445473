//! The Open Inference Protocol, version 2, over HTTP: health, metadata and inference for clients that know nothing of
//! tidemill.
//!
//! In: requests below `/v2`, tensors as JSON or as bytes behind it. Out: replies as the protocol has them, and errors as
//! `{"error":"..."}`. A model's inputs are the columns that its features are made of, one tensor for each; all
//! floating-point ones may come as one tensor `features` of shape [n,k]. The answers are those of `:predict`.

mod eight;
mod json;
mod number;
pub(super) mod reply;
mod route;

use hyper::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tidemill_base::{Error, Result};
use tokio::time::Instant;

use super::{
    Shared, contained, headers,
    host::ServedModel,
    reply::{Refusal, Reply, json as json_reply, shown},
    route::ModelName,
    router::find,
    versions::routing_key,
};
use crate::{
    live::Which,
    predict::{Input, Output},
};
pub(super) use json::{InferRequest, read};
pub(super) use route::{Oip, is_oip, with_version};

/// What the server calls itself.
pub(super) const SERVER: &str = "tidemill";
/// What it can do beyond the protocol.
pub(super) const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

/// Answers what needs no body.
pub(super) fn read_only(shared: &Shared, route: Oip<'_>) -> Result<Reply, Refusal> {
    match route {
        Oip::Server => {
            Ok(json_reply(&json!({"name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS})))
        }
        Oip::Live => Ok(json_reply(&json!({"live": true}))),
        Oip::Ready => {
            let ready = contained(|| is_ready(shared))?;
            Ok(with_readiness(json!({"ready": ready, "live": true}), ready))
        }
        Oip::Model(name) => contained(|| Ok(json_reply(&metadata(shared, name)?.to_json())))?,
        Oip::ModelReady(name) => contained(|| {
            let (model, ready) = model_ready(shared, name)?;
            Ok(with_readiness(json!({"name": model, "ready": ready}), ready))
        })?,
        Oip::Infer(_) => Err(super::our_mistake()),
    }
}

/// Whether there is a model to ask, and there will be one a moment later.
pub(super) fn is_ready(shared: &Shared) -> bool {
    !*shared.stop.borrow() && shared.host.is_ready()
}

/// Whether a model answers under its name, or under a version of it that is there.
pub(super) fn model_ready(shared: &Shared, name: ModelName<'_>) -> Result<(String, bool)> {
    let model = find(shared, name.name)?;
    let loaded = model.predictor().live().pick(name.which).is_ok();
    match name.which {
        Which::Version(version) if !loaded => _ = model.registry().meta(version)?,
        _ if !loaded => model.check_loaded(name.which)?,
        _ => {}
    }
    Ok((model.name().to_string(), loaded && !*shared.stop.borrow()))
}

/// What a model takes and gives.
pub(super) struct Metadata {
    pub name: String,
    pub versions: Vec<String>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<(Output, Vec<i64>)>,
}

/// The metadata of a model, or of a version of it that can be asked.
pub(super) fn metadata(shared: &Shared, name: ModelName<'_>) -> Result<Metadata> {
    let model = find(shared, name.name)?;
    let live = model.predictor().live();
    model.check_loaded(name.which)?;
    let mut versions = match name.which {
        Which::Version(version) => vec![version],
        Which::Label(_) => vec![live.pick(name.which)?.version],
        Which::Live | Which::Key(_) => {
            let labelled = live.routes().labels.values().map(|labelled| labelled.version).collect::<Vec<_>>();
            [vec![live.newest().version, live.read().version], labelled].concat()
        }
    };
    let mut seen = Vec::new();
    versions.retain(|v| {
        !seen.contains(v) && {
            seen.push(*v);
            true
        }
    });
    let (outputs, classes) = model.predictor().outputs();
    let shape = |output: &Output| match output {
        Output::Prediction if classes > 1 => vec![-1, classes as i64],
        _ => vec![-1],
    };
    Ok(Metadata {
        name: model.name().to_string(),
        versions: versions.iter().map(u64::to_string).collect(),
        inputs: model.predictor().inputs().to_vec(),
        outputs: outputs.iter().map(|output| (*output, shape(output))).collect(),
    })
}

impl Metadata {
    fn to_json(&self) -> Value {
        let input = |i: &Input| json!({"name": i.name, "datatype": i.datatype.name(), "shape": [-1]});
        let output = |(output, shape): &(Output, Vec<i64>)| json!({"name": output.name(), "datatype": output.datatype().name(), "shape": shape});
        json!({
            "name": self.name,
            "versions": self.versions,
            "platform": SERVER,
            "inputs": self.inputs.iter().map(input).collect::<Vec<_>>(),
            "outputs": self.outputs.iter().map(output).collect::<Vec<_>>(),
        })
    }
}

fn with_readiness(body: Value, ready: bool) -> Reply {
    let mut reply = json_reply(&body);
    if !ready {
        *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    reply
}

/// Answers an inference request.
pub(super) fn infer(
    shared: &Shared,
    model: &ServedModel,
    which: Which<'_>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Reply, Refusal> {
    let began = Instant::now();
    let (rows, reply) = contained(|| -> Result<_> {
        let (json, bytes) = parts(headers, body)?;
        let request = read(json, bytes)?;
        let which = model.by_key(which, || routing_key(headers, body));
        infer_with(model, which, &request)
    })??;
    shared.metrics.predicted(rows, began.elapsed());
    Ok(reply)
}

fn infer_with(model: &ServedModel, which: Which<'_>, request: &InferRequest<'_>) -> Result<(usize, Reply)> {
    let (outputs, _) = model.predictor().outputs();
    let chosen = reply::chosen(request, model.name(), outputs)?;
    let inferred = model.infer(&request.inputs, which, request.missing_as_null)?;
    Ok((inferred.rows, reply::write(model.name(), request, &inferred, &chosen)))
}

/// Where the JSON of a body ends.
pub(super) fn has_bytes(headers: &HeaderMap) -> bool {
    headers::find(headers, &reply::JSON_LENGTH).is_some()
}

fn parts<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    let Some(length) = headers::find(headers, &reply::JSON_LENGTH) else { return Ok((body, &[])) };
    let text = String::from_utf8_lossy(length.as_bytes());
    let length: usize = text.parse().map_err(|_| {
        Error::invalid(format!("Inference-Header-Content-Length '{}' is not a number of bytes", shown(&text)))
    })?;
    body.split_at_checked(length).ok_or_else(|| {
        Error::invalid(format!("Inference-Header-Content-Length is {length}, and the body has {} bytes", body.len()))
    })
}
