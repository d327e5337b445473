//! A test: the Rust messages and `inference.proto` have the same names, numbers and types.
//!
//! Both files are read as text and turned into lines `Outer.Inner.name = number type`, which must be equal.

use std::collections::BTreeSet;

const PROTO: &str = include_str!("inference.proto");
const RUST: &str = include_str!("inference.rs");

/// `ModelInferRequest` is a module `model_infer_request`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn of_proto() -> BTreeSet<String> {
    let mut scopes: Vec<String> = Vec::new();
    let mut lines = BTreeSet::new();
    for line in PROTO.lines().map(str::trim).filter(|l| !l.starts_with("//")) {
        if let Some(name) = line.strip_prefix("message ") {
            let empty = name.ends_with("{}");
            scopes.push(name.trim_end_matches(['{', '}', ' ']).to_string());
            lines.insert(format!("{} message", scopes.iter().map(|s| snake(s)).collect::<Vec<_>>().join(".")));
            if empty {
                scopes.pop();
            }
        } else if let Some(name) = line.strip_prefix("oneof ") {
            scopes.push(name.trim_end_matches(['{', ' ']).to_string());
        } else if line == "}" {
            scopes.pop();
        } else if let Some((field, number)) = line.strip_suffix(';').and_then(|l| l.split_once(" = "))
            && !scopes.is_empty()
        {
            let (ty, name) = field.rsplit_once(' ').unwrap();
            let ty = match ty.strip_prefix("repeated ") {
                Some(ty) => format!("{} repeated", plain(ty)),
                None => plain(ty),
            };
            let scope = scopes.iter().map(|s| snake(s)).collect::<Vec<_>>().join(".");
            lines.insert(format!("{scope}.{name} = {number} {ty}"));
        }
    }
    lines
}

/// prost names scalars; everything else is a message, a map or bytes.
fn plain(ty: &str) -> String {
    match ty {
        "map<string, InferParameter>" => "map".into(),
        "bool" | "int32" | "int64" | "uint32" | "uint64" | "float" | "double" | "string" | "bytes" => ty.into(),
        _ => "message".into(),
    }
}

fn of_rust() -> BTreeSet<String> {
    let (mut module, mut holder) = (None::<String>, String::new());
    let mut lines = BTreeSet::new();
    let mut attribute = None::<String>;
    for line in RUST.lines() {
        let inside = line.starts_with("    ") && module.is_some();
        let text = line.trim();
        if let Some(name) = line.strip_prefix("pub mod ") {
            module = Some(name.trim_end_matches([' ', '{']).to_string());
        } else if line == "}" && !holder.is_empty() && module.is_some() {
            module = None;
        }
        let declared = text.strip_prefix("pub struct ").or(text.strip_prefix("pub enum "));
        if let Some(name) = declared {
            let name = snake(name.trim_end_matches([' ', '{', '}']));
            holder = match (&module, inside) {
                (Some(module), true) => format!("{module}.{name}"),
                _ => name,
            };
            if text.starts_with("pub struct ") {
                lines.insert(format!("{holder} message"));
            }
        } else if let Some(said) = text.strip_prefix("#[prost(").and_then(|t| t.strip_suffix(")]")) {
            attribute = Some(said.to_string());
        } else if let Some(said) = attribute.take() {
            let name = text.trim_start_matches("pub ").split([':', '(']).next().unwrap();
            let parts: Vec<&str> = said.split(", ").collect();
            let ty = match parts[0].split([' ', '=']).next().unwrap() {
                // The members of a oneof are listed where it is declared.
                "oneof" => continue,
                "btree_map" => "map".to_string(),
                ty => ty.to_string(),
            };
            let repeated = if parts.contains(&"repeated") { " repeated" } else { "" };
            let tag = parts.iter().find_map(|p| p.strip_prefix("tag = ")).unwrap().trim_matches('"');
            lines.insert(format!("{holder}.{} = {tag} {ty}{repeated}", snake(name)));
        }
    }
    lines
}

#[test]
fn the_messages_are_those_of_the_protocol() {
    let (proto, rust) = (of_proto(), of_rust());
    assert_eq!(rust.len(), proto.len(), "only in one: {:#?}", rust.symmetric_difference(&proto));
    assert_eq!(rust, proto);
    assert!(rust.contains("model_infer_request.raw_input_contents = 7 bytes repeated"), "{rust:#?}");
    assert!(rust.contains("infer_parameter.parameter_choice.double_param = 4 double"), "{rust:#?}");
    for call in PROTO.lines().filter_map(|l| l.trim().strip_prefix("rpc ")) {
        let name = call.split('(').next().unwrap();
        assert!(include_str!("../grpc.rs").contains(&format!("\"{name}\" =>")), "{name} is not answered");
    }
}
