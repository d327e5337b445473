//! The reply to an inference request: JSON, and behind it the outputs that are asked for as bytes.
//!
//! Written by hand into one buffer: it is most of what a small request costs.

use std::io::Write;

use bytes::Bytes;
use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
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
    // Writing into memory does not fail, and a model's name holds nothing that JSON would escape.
    let _ = write!(out, r#"{{"model_name":"{model}","model_version":"{}","#, inferred.version);
    if let Some(id) = &request.id {
        let _ = write!(out, r#""id":{},"#, serde_json::Value::from(id.as_ref()));
    }
    let _ = write!(out, r#""parameters":{{"mini_batch":{}}},"outputs":["#, inferred.mini_batch);
    for (i, (output, binary)) in chosen.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let (name, datatype) = (output.name(), output.datatype().name());
        let _ = write!(out, r#"{comma}{{"name":"{name}","datatype":"{datatype}","shape":["#);
        numbers(&mut out, shape(inferred, *output));
        if *binary {
            let bytes = to_bytes(inferred, *output);
            let _ = write!(out, r#"],"parameters":{{"binary_data_size":{}}}}}"#, bytes.len());
            tail.extend_from_slice(&bytes);
            continue;
        }
        out.extend_from_slice(br#"],"data":["#);
        match output {
            Output::Prediction => floats(&mut out, &inferred.values),
            Output::Class => numbers(&mut out, inferred.classes()),
        }
        out.extend_from_slice(b"]}");
    }
    out.extend_from_slice(b"]}");
    if !chosen.iter().any(|c| c.1) {
        // For the terminal it may be read on.
        out.push(b'\n');
        return reply::bytes(StatusCode::OK, "application/json", out);
    }
    let json_length = HeaderValue::from(out.len());
    out.append(&mut tail);
    let mut reply = reply::bytes(StatusCode::OK, "application/octet-stream", Bytes::from(out));
    reply.headers_mut().insert(JSON_LENGTH, json_length);
    reply
}

fn numbers(out: &mut Vec<u8>, numbers: impl IntoIterator<Item = impl std::fmt::Display>) {
    for (i, number) in numbers.into_iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{number}");
    }
}

/// JSON has no word for what is not finite.
fn floats(out: &mut Vec<u8>, values: &[f32]) {
    for (i, x) in values.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = match x.is_finite() {
            true => write!(out, "{comma}{x}"),
            false => write!(out, "{comma}null"),
        };
    }
}
