//! The reply to an inference request: JSON, and behind it the outputs that are asked for as bytes.
//!
//! Written by hand into one buffer: it is most of what a small request costs.

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde_core::Serialize;
use tidemill_base::{Error, Result};

use super::json::InferRequest;
use crate::{
    predict::{Inferred, Output},
    server::reply::{self, Reply, shown},
};

/// Bytes of JSON at the beginning of a body, where more follows.
pub(super) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// The outputs a request gets, in its order, each with whether it comes as bytes.
pub(in crate::server) fn chosen(
    request: &InferRequest<'_>,
    model: &str,
    outputs: &[Output],
) -> Result<Vec<(Output, bool)>> {
    let Some(requested) = &request.outputs else {
        return Ok(outputs.iter().map(|output| (*output, request.binary)).collect());
    };
    let mut chosen: Vec<(Output, bool)> = Vec::new();
    for asked in requested {
        let output = output_named(&asked.name, model, outputs)?;
        if chosen.iter().any(|c| c.0 == output) {
            return Err(Error::invalid(format!("output '{}' is asked for twice", output.name())));
        }
        chosen.push((output, asked.binary.unwrap_or(request.binary)));
    }
    Ok(chosen)
}

/// The output of this name.
pub(in crate::server) fn output_named(name: &str, model: &str, outputs: &[Output]) -> Result<Output> {
    outputs.iter().find(|o| o.name() == name).copied().ok_or_else(|| {
        let known: Vec<&str> = outputs.iter().map(|o| o.name()).collect();
        Error::invalid(format!("model '{model}' has no output '{}' (have {})", shown(name), known.join(", ")))
    })
}

/// The shape of an output.
pub(in crate::server) fn shape(inferred: &Inferred, output: Output) -> Vec<usize> {
    match output {
        Output::Prediction if inferred.width > 1 => vec![inferred.rows, inferred.width],
        _ => vec![inferred.rows],
    }
}

/// An output as little-endian bytes.
pub(in crate::server) fn to_bytes(inferred: &Inferred, output: Output) -> Vec<u8> {
    match output {
        Output::Prediction => inferred.values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Output::Class => inferred.classes().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The reply.
pub(super) fn write(model: &str, request: &InferRequest<'_>, inferred: &Inferred, chosen: &[(Output, bool)]) -> Reply {
    let mut out = Vec::with_capacity(224 + 16 * inferred.values.len());
    let mut tail = Vec::new();
    // A model's name holds nothing that JSON would escape.
    text(&mut out, &[r#"{"model_name":""#, model, r#"","model_version":""#]);
    json(&mut out, inferred.version);
    text(&mut out, &[r#"","#]);
    if let Some(id) = &request.id {
        text(&mut out, &[r#""id":"#]);
        json(&mut out, id);
        text(&mut out, &[","]);
    }
    text(&mut out, &[r#""parameters":{"mini_batch":"#]);
    json(&mut out, inferred.mini_batch);
    text(&mut out, &[r#"},"outputs":["#]);
    for (i, (output, binary)) in chosen.iter().enumerate() {
        let (name, datatype) = (output.name(), output.datatype().name());
        let comma = if i == 0 { "" } else { "," };
        text(&mut out, &[comma, r#"{"name":""#, name, r#"","datatype":""#, datatype, r#"","shape":["#]);
        list(&mut out, shape(inferred, *output));
        if *binary {
            let bytes = to_bytes(inferred, *output);
            text(&mut out, &[r#"],"parameters":{"binary_data_size":"#]);
            json(&mut out, bytes.len());
            text(&mut out, &["}}"]);
            tail.extend_from_slice(&bytes);
            continue;
        }
        text(&mut out, &[r#"],"data":["#]);
        match output {
            // JSON has no word for what is not finite: it becomes null.
            Output::Prediction => list(&mut out, &inferred.values),
            Output::Class => list(&mut out, inferred.classes()),
        }
        text(&mut out, &["]}"]);
    }
    text(&mut out, &["]}"]);
    if !chosen.iter().any(|c| c.1) {
        // For the terminal it may be read on.
        out.push(b'\n');
        return reply::scores(out);
    }
    let json_length = HeaderValue::from(out.len());
    out.append(&mut tail);
    let mut reply = reply::bytes(StatusCode::OK, "application/octet-stream", Bytes::from(out));
    reply.headers_mut().insert(JSON_LENGTH, json_length);
    reply
}

fn text(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

fn json(out: &mut Vec<u8>, value: impl Serialize) {
    // Neither writing into memory fails, nor numbers and texts to become JSON.
    let _ = serde_json::to_writer(out, &value);
}

fn list(out: &mut Vec<u8>, values: impl IntoIterator<Item = impl Serialize>) {
    for (i, value) in values.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json(out, value);
    }
}
