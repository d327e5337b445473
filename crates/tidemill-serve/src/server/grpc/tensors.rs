//! Tensors of gRPC's messages to those that models take, and predictions back.
//!
//! In: a request whose values stand in typed lists, or as bytes behind one another. Out: the same tensors that JSON
//! brings, and a reply in the form the request had.

use std::collections::BTreeMap;

use tidemill_base::{Error, Result};

use super::{
    super::{oip::reply, shown},
    inference::{infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor, *},
};
use crate::predict::{
    Inferred, Output,
    tensor::{Datatype, RANK_MAX, Shape, Tensor, Texts, Values, datatype_names},
};

/// The inputs of a request.
pub(super) fn inputs(request: &ModelInferRequest) -> Result<Vec<Tensor<'_>>> {
    let raw = &request.raw_input_contents;
    if request.inputs.is_empty() {
        return Err(Error::invalid("inputs is empty"));
    }
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        return Err(Error::invalid(format!(
            "{} inputs and {} raw_input_contents; send one for each input, or none",
            request.inputs.len(),
            raw.len()
        )));
    }
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for (i, input) in request.inputs.iter().enumerate() {
        let (shape, datatype, values) = tensor(input, raw.get(i).map(|bytes| &bytes[..]))
            .map_err(|e| e.at(format_args!("input '{}'", shown(&input.name))))?;
        inputs.push(Tensor { name: input.name.as_str().into(), shape, datatype, values, nulls: Vec::new() });
    }
    Ok(inputs)
}

fn tensor(input: &model_infer_request::InferInputTensor, raw: Option<&[u8]>) -> Result<(Shape, Datatype, Values)> {
    let datatype = Datatype::parse(&input.datatype).ok_or_else(|| {
        let names = datatype_names();
        Error::invalid(format!("unknown datatype '{}'; datatypes are {names}", shown(&input.datatype)))
    })?;
    let mut shape = Shape::default();
    for dim in &input.shape {
        let dim = u64::try_from(*dim).map_err(|_| Error::invalid(format!("shape holds {dim}; none is negative")))?;
        shape.push(dim).ok_or_else(|| {
            Error::invalid(format!("shape has more than {RANK_MAX} dimensions; a model takes one or two"))
        })?;
    }
    if input.parameters.contains_key("shared_memory_region") {
        return Err(Error::invalid("shared memory is not offered; send the data itself"));
    }
    let values = match (raw, &input.contents) {
        (Some(_), Some(_)) => return Err(Error::invalid("both contents and raw_input_contents; send one of them")),
        (Some(bytes), None) => Values::from_bytes(datatype, &shape, bytes)?,
        (None, Some(contents)) => listed(datatype, contents)?,
        (None, None) => return Err(Error::invalid("neither contents nor raw_input_contents")),
    };
    if shape.count() != Some(values.len()) {
        return Err(Error::invalid(format!("{} values; shape {shape} says otherwise", values.len())));
    }
    Ok((shape, datatype, values))
}

/// The list of contents that belongs to a datatype.
fn list_of(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        // The protocol has no list for it.
        Datatype::Fp16 => "raw_input_contents",
    }
}

/// Refuses values in a list that nobody reads.
fn check_lists(datatype: Datatype, contents: &InferTensorContents) -> Result<()> {
    let lists = [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    let own = list_of(datatype);
    match lists.iter().find(|(list, len)| *len > 0 && *list != own) {
        Some((list, _)) => Err(Error::invalid(format!("{list} of datatype {}; send {own}", datatype.name()))),
        None => Ok(()),
    }
}

/// Values from the list that belongs to a datatype.
fn listed(datatype: Datatype, contents: &InferTensorContents) -> Result<Values> {
    check_lists(datatype, contents)?;
    let whole = |values: Vec<i64>| {
        let (least, largest) = datatype.bounds();
        match values.iter().find(|x| **x < least || **x > largest) {
            Some(x) => Err(Error::invalid(format!("{x} is out of range of {}", datatype.name()))),
            None => Ok(Values::Int(values)),
        }
    };
    match datatype {
        Datatype::Fp16 => Err(Error::invalid("contents has no list for FP16; send raw_input_contents")),
        Datatype::Bool => Ok(Values::Bool(contents.bool_contents.clone())),
        Datatype::Fp32 => Ok(Values::Fp32(contents.fp32_contents.clone())),
        Datatype::Fp64 => Ok(Values::Fp64(contents.fp64_contents.clone())),
        Datatype::Int64 => Ok(Values::Int(contents.int64_contents.clone())),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => {
            whole(contents.int_contents.iter().map(|x| i64::from(*x)).collect())
        }
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => {
            whole(contents.uint_contents.iter().map(|x| i64::from(*x)).collect())
        }
        Datatype::Uint64 => {
            let narrow = |x: &u64| i64::try_from(*x).map_err(|_| Error::invalid(format!("{x} is beyond 2^63")));
            whole(contents.uint64_contents.iter().map(narrow).collect::<Result<_>>()?)
        }
        Datatype::Bytes => {
            let mut texts = Texts::default();
            for (i, text) in contents.bytes_contents.iter().enumerate() {
                if let Err(e) = std::str::from_utf8(text) {
                    return Err(Error::invalid(format!("value {i} is not UTF-8 at its byte {}", e.valid_up_to())));
                }
                texts.push(text);
            }
            Ok(Values::Bytes(texts))
        }
    }
}

/// The outputs a request gets, in its order.
pub(super) fn chosen(request: &ModelInferRequest, model: &str, outputs: &[Output]) -> Result<Vec<Output>> {
    if request.outputs.is_empty() {
        return Ok(outputs.to_vec());
    }
    let mut chosen = Vec::new();
    for asked in &request.outputs {
        let output = reply::output_named(&asked.name, model, outputs)?;
        if chosen.contains(&output) {
            return Err(Error::invalid(format!("output '{}' is asked for twice", output.name())));
        }
        if asked.parameters.contains_key("classification") {
            return Err(Error::invalid(format!("output '{}': classification is not offered", output.name())));
        }
        chosen.push(output);
    }
    Ok(chosen)
}

/// A parameter that is true or false, and false when it is not there.
pub(super) fn flag(parameters: &BTreeMap<String, InferParameter>, name: &str) -> Result<bool> {
    match parameters.get(name).map(|p| &p.parameter_choice) {
        None => Ok(false),
        Some(Some(ParameterChoice::BoolParam(value))) => Ok(*value),
        Some(_) => Err(Error::invalid(format!("parameters: {name} is true or false"))),
    }
}

/// The reply; bytes are answered with bytes.
pub(super) fn reply(
    model: &str,
    request: &ModelInferRequest,
    inferred: &Inferred,
    chosen: &[Output],
) -> ModelInferResponse {
    let raw = !request.raw_input_contents.is_empty();
    let output = |output: &Output| InferOutputTensor {
        name: output.name().into(),
        datatype: output.datatype().name().into(),
        shape: reply::shape(inferred, *output).into_iter().map(|n| n as i64).collect(),
        parameters: BTreeMap::new(),
        contents: (!raw).then(|| contents(inferred, *output)),
    };
    let mini_batch = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(inferred.mini_batch as i64)) };
    let raw_output_contents = match raw {
        true => chosen.iter().map(|output| reply::to_bytes(inferred, *output).into()).collect(),
        false => Vec::new(),
    };
    ModelInferResponse {
        model_name: model.into(),
        model_version: inferred.version.to_string(),
        id: request.id.clone(),
        parameters: BTreeMap::from([("mini_batch".to_string(), mini_batch)]),
        outputs: chosen.iter().map(output).collect(),
        raw_output_contents,
    }
}

fn contents(inferred: &Inferred, output: Output) -> InferTensorContents {
    match output {
        Output::Prediction => {
            InferTensorContents { fp32_contents: inferred.values.clone(), ..InferTensorContents::default() }
        }
        Output::Class => {
            InferTensorContents { int64_contents: inferred.classes().collect(), ..InferTensorContents::default() }
        }
    }
}
