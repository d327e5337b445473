//! The token file: JSON with `tenants` and `tokens`; docs/0005-border-of-the-server.md describes it.
//!
//! In: the file's text, and the list that was in use. Out: the new list. Every name that is not known, every value that
//! cannot be meant is refused with its place, because a rule that is misread lets in the wrong people.

use std::sync::Arc;

use serde_json::{Map, Value};
use tidemill_base::{Error, Result};

use super::{
    Grant, Pattern, Role, Tenant, Tokens,
    jwt::{Issuer, Key},
    rate::Rate,
    shown,
};
use crate::{moment, strict_json};

/// Tokens in a file; each costs every request a comparison.
const TOKENS_MAX: usize = 1_024;
const FILE_BYTES_MAX: usize = 4 << 20;
const TENANT_KEYS: [&str; 5] = ["name", "models", "sources", "requests_per_second", "burst"];
const TOKEN_KEYS: [&str; 10] =
    ["name", "tenant", "sha256", "roles", "models", "sources", "not_before", "expires", "requests_per_second", "burst"];

const ISSUER_KEYS: [&str; 10] =
    ["name", "tenant", "issuer", "audience", "keys", "roles", "models", "sources", "requests_per_second", "burst"];
const ISSUERS_MAX: usize = 64;

type Object = Map<String, Value>;

/// Reads a file; what of `before` is the same goes on.
pub(super) fn read(json: &[u8], before: Option<&Tokens>) -> Result<Tokens> {
    if json.len() > FILE_BYTES_MAX {
        return Err(Error::invalid(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let value = strict_json::from_slice(json).map_err(|e| e.at("not JSON"))?;
    let file = object(&value, "the file", &["tenants", "tokens", "issuers"])?;
    let mut tokens = Tokens { hashes: Vec::new(), grants: Vec::new(), tenants: Vec::new(), issuers: Vec::new() };
    for (i, value) in list(file, "tenants", "")?.iter().enumerate() {
        let place = format!("tenants[{i}]");
        let tenant = tenant(value, &place, before)?;
        if tokens.tenants.iter().any(|t| t.name == tenant.name) {
            return Err(Error::invalid(format!("{place}.name: '{}' is there twice", tenant.name)));
        }
        tokens.tenants.push(Arc::new(tenant));
    }
    // With issuers, nobody needs a token of the list.
    let (issuers, none) = (file.contains_key("issuers"), Vec::new());
    let listed = if issuers && !file.contains_key("tokens") { &none[..] } else { list(file, "tokens", "")? };
    for (i, value) in listed.iter().enumerate() {
        let place = format!("tokens[{i}]");
        if i == TOKENS_MAX {
            return Err(Error::invalid(format!("{place}: a file holds {TOKENS_MAX} tokens at most")));
        }
        let (hash, grant) = token(value, &place, &tokens.tenants, before)?;
        if let Some(other) = tokens.hashes.iter().position(|h| *h == hash) {
            return Err(Error::invalid(format!("{place}.sha256: the same token as tokens[{other}]")));
        }
        if tokens.grants.iter().any(|g| g.name == grant.name) {
            return Err(Error::invalid(format!("{place}.name: '{}' is there twice", grant.name)));
        }
        tokens.hashes.push(hash);
        tokens.grants.push(Arc::new(grant));
    }
    for (i, value) in if issuers { list(file, "issuers", "")? } else { &[] }.iter().enumerate() {
        let place = format!("issuers[{i}]");
        if i == ISSUERS_MAX {
            return Err(Error::invalid(format!("{place}: a file holds {ISSUERS_MAX} issuers at most")));
        }
        let issuer = issuer(value, &place, &tokens.tenants, before)?;
        if tokens.grants.iter().chain(tokens.issuers.iter().map(|i| &i.grant)).any(|g| g.name == issuer.grant.name) {
            return Err(Error::invalid(format!("{place}.name: '{}' is there twice", issuer.grant.name)));
        }
        tokens.issuers.push(issuer);
    }
    if tokens.grants.is_empty() && tokens.issuers.is_empty() {
        return Err(Error::invalid("no tokens in it: nobody would be let in; `tidemill token` makes one"));
    }
    Ok(tokens)
}

fn tenant(value: &Value, place: &str, before: Option<&Tokens>) -> Result<Tenant> {
    let tenant = object(value, place, &TENANT_KEYS)?;
    let name = name(tenant, place)?;
    let before = before.and_then(|b| b.tenants.iter().find(|t| t.name == name));
    Ok(Tenant {
        models: patterns(tenant, "models", place, false)?,
        sources: patterns(tenant, "sources", place, false)?,
        rate: rate(tenant, place, before.and_then(|t| t.rate.as_ref()))?,
        requests: before.map_or(0, |t| t.requests.load(super::Relaxed)).into(),
        limited: before.map_or(0, |t| t.limited.load(super::Relaxed)).into(),
        name,
    })
}

fn token(value: &Value, place: &str, tenants: &[Arc<Tenant>], before: Option<&Tokens>) -> Result<([u8; 32], Grant)> {
    let token = object(value, place, &TOKEN_KEYS)?;
    let name = name(token, place)?;
    let tenant = owner(token, place, tenants)?;
    let hash = text(token, "sha256", place)?;
    let hash = hex32(hash).ok_or_else(|| {
        let advice = "64 hexadecimal digits, as sha256sum prints them for the token without a newline";
        Error::invalid(format!("{place}.sha256: expected {advice}"))
    })?;
    let before = before.and_then(|b| b.grants.iter().find(|g| g.name == name));
    let grant = Grant {
        tenant,
        roles: roles(token, place)?,
        models: patterns(token, "models", place, true)?,
        sources: patterns(token, "sources", place, true)?,
        not_before_ms: time(token, "not_before", place)?.unwrap_or(i64::MIN),
        expires_ms: time(token, "expires", place)?.unwrap_or(i64::MAX),
        rate: rate(token, place, before.and_then(|g| g.rate.as_ref()))?,
        name,
    };
    Ok((hash, grant))
}

fn owner(object: &Object, place: &str, tenants: &[Arc<Tenant>]) -> Result<Arc<Tenant>> {
    let owner = text(object, "tenant", place)?;
    tenants.iter().find(|t| t.name == owner).cloned().ok_or_else(|| {
        let known: Vec<&str> = tenants.iter().map(|t| t.name.as_str()).collect();
        Error::invalid(format!("{place}.tenant: no tenant '{}' (have {})", shown(owner), known.join(", ")))
    })
}

/// Who signs tokens, and what these allow at most.
fn issuer(value: &Value, place: &str, tenants: &[Arc<Tenant>], before: Option<&Tokens>) -> Result<Issuer> {
    let fields = object(value, place, &ISSUER_KEYS)?;
    let name = name(fields, place)?;
    let before = before.and_then(|b| b.issuers.iter().find(|i| i.grant.name == name));
    let keys = list(fields, "keys", place)?.iter().enumerate();
    let keys = keys.map(|(i, key)| Key::read(key, &format!("{place}.keys[{i}]"))).collect::<Result<Vec<_>>>()?;
    if keys.is_empty() {
        return Err(Error::invalid(format!("{place}.keys is empty; it wants keys as JWK has them")));
    }
    let grant = Grant {
        tenant: owner(fields, place, tenants)?,
        roles: roles(fields, place)?,
        models: patterns(fields, "models", place, true)?,
        sources: patterns(fields, "sources", place, true)?,
        not_before_ms: i64::MIN,
        expires_ms: i64::MAX,
        rate: rate(fields, place, before.and_then(|i| i.grant.rate.as_ref()))?,
        name,
    };
    let (issuer, audience) = (text(fields, "issuer", place)?.to_string(), text(fields, "audience", place)?.to_string());
    Ok(Issuer { issuer, audience, keys, grant: Arc::new(grant) })
}

fn object<'a>(value: &'a Value, place: &str, known: &[&str]) -> Result<&'a Object> {
    let object = value.as_object().ok_or_else(|| Error::invalid(format!("{place} is not an object")))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(object),
        Some(key) => {
            let known = known.join(", ");
            Err(Error::invalid(format!("{place}: unknown name '{}'; names are {known}", shown(key))))
        }
    }
}

fn list<'a>(object: &'a Object, key: &str, place: &str) -> Result<&'a [Value]> {
    let place = if place.is_empty() { key.to_string() } else { format!("{place}.{key}") };
    match object.get(key) {
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(Error::invalid(format!("{place} is not a list"))),
        None => Err(Error::invalid(format!("{place} is missing"))),
    }
}

fn text<'a>(object: &'a Object, key: &str, place: &str) -> Result<&'a str> {
    let text = object.get(key).and_then(Value::as_str);
    text.ok_or_else(|| Error::invalid(format!("{place}.{key}: expected a text")))
}

/// A name that can stand in metrics and messages.
fn name(object: &Object, place: &str) -> Result<String> {
    let name = text(object, "name", place)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match (1..=64).contains(&name.len()) && name.chars().all(fits) {
        true => Ok(name.to_string()),
        false => Err(Error::invalid(format!(
            "{place}.name: '{}' is not 1 to 64 letters, digits, '_', '-' and '.'",
            shown(name)
        ))),
    }
}

fn roles(object: &Object, place: &str) -> Result<Vec<Role>> {
    let mut roles = Vec::new();
    for value in list(object, "roles", place)? {
        let role = Role::ALL.into_iter().find(|role| value.as_str() == Some(role.name()));
        roles.push(role.ok_or_else(|| {
            let value = shown(&value.to_string());
            Error::invalid(format!("{place}.roles: {value} is no role; roles are ingest, predict, admin"))
        })?);
    }
    match roles.is_empty() {
        true => Err(Error::invalid(format!("{place}.roles is empty; roles are ingest, predict, admin"))),
        false => Ok(roles),
    }
}

/// `all_if_missing`: of a token it means whatever its tenant has.
fn patterns(object: &Object, key: &str, place: &str, all_if_missing: bool) -> Result<Vec<Pattern>> {
    if !object.contains_key(key) {
        return Ok(if all_if_missing { vec![Pattern { begin: String::new(), whole: false }] } else { Vec::new() });
    }
    let pattern = |value: &Value| {
        let text = value.as_str().filter(|t| !t.is_empty());
        let text = text.ok_or_else(|| Error::invalid(format!("{place}.{key}: expected texts like ctr, ctr* or *")))?;
        let (begin, whole) = text.strip_suffix('*').map_or((text, true), |begin| (begin, false));
        match begin.contains('*') {
            true => Err(Error::invalid(format!("{place}.{key}: '{}' has a * that is not its end", shown(text)))),
            false => Ok(Pattern { begin: begin.to_string(), whole }),
        }
    };
    list(object, key, place)?.iter().map(pattern).collect()
}

fn time(object: &Object, key: &str, place: &str) -> Result<Option<i64>> {
    let Some(value) = object.get(key) else { return Ok(None) };
    match value.as_str().and_then(moment::parse) {
        Some(ms) => Ok(Some(ms as i64)),
        None => {
            let value = shown(&value.to_string());
            Err(Error::invalid(format!("{place}.{key}: {value} is no moment; write \"2027-01-01T00:00:00Z\"")))
        }
    }
}

fn rate(object: &Object, place: &str, before: Option<&Arc<Rate>>) -> Result<Option<Arc<Rate>>> {
    let per_second = match object.get("requests_per_second") {
        None if object.contains_key("burst") => {
            return Err(Error::invalid(format!("{place}.burst: without requests_per_second it means nothing")));
        }
        None => return Ok(None),
        Some(value) => value.as_f64().unwrap_or(f64::NAN),
    };
    let burst = match object.get("burst") {
        None => per_second.ceil().clamp(1.0, 1e6) as u32,
        Some(value) => value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
    };
    if let Some(before) = before.filter(|rate| rate.is(per_second, burst)) {
        return Ok(Some(before.clone()));
    }
    let rate = Rate::new(per_second, burst).ok_or_else(|| {
        Error::invalid(format!("{place}: requests_per_second is from 1/3600 to 1,000,000, burst a whole number from 1"))
    })?;
    Ok(Some(Arc::new(rate)))
}

fn hex32(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect();
    if text.len() == 64 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "tenants": [{"name": "shop", "models": ["ctr*"], "sources": ["clicks"], "requests_per_second": 10}],
            "tokens": [{"name": "web", "tenant": "shop", "sha256": "ab".repeat(32), "roles": ["predict"],
                        "expires": "2027-01-01", "requests_per_second": 2.5, "burst": 7}],
        })
    }

    fn message(file: &Value) -> String {
        read(file.to_string().as_bytes(), None).err().map_or("taken".into(), |e| e.message().to_string())
    }

    #[test]
    fn a_token_has_its_tenants_models_and_its_own_roles() {
        let tokens = read(good().to_string().as_bytes(), None).unwrap();
        let grant = tokens.find(&[0xab; 32]).unwrap();
        assert_eq!(
            (grant.name.as_str(), grant.tenant.name.as_str(), &grant.roles[..]),
            ("web", "shop", &[Role::Predict][..])
        );
        assert_eq!(["ctr", "ctr2", "cvr"].map(|model| grant.sees(model)), [true, true, false]);
        assert_eq!(moment::written(grant.expires_ms), "2027-01-01T00:00:00Z");
        assert!(tokens.find(&[0xac; 32]).is_none());
        assert!(grant.rate.as_ref().unwrap().is(2.5, 7) && grant.tenant.rate.as_ref().unwrap().is(10.0, 10));
    }

    /// A file read again must not fill the buckets of those who have emptied them.
    #[test]
    fn rates_that_stay_keep_their_buckets() {
        let first = read(good().to_string().as_bytes(), None).unwrap();
        let mut changed = good();
        changed["tokens"][0]["burst"] = json!(8);
        let again = read(changed.to_string().as_bytes(), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(first.tenants[0].rate.as_ref().unwrap(), again.tenants[0].rate.as_ref().unwrap()));
        assert!(!Arc::ptr_eq(first.grants[0].rate.as_ref().unwrap(), again.grants[0].rate.as_ref().unwrap()));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_place() {
        assert_eq!(message(&good()), "taken");
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 17] = [
            (|f| f["tokens"] = json!([]), "no tokens in it: nobody would be let in; `tidemill token` makes one"),
            (|f| drop(f.as_object_mut().unwrap().remove("tenants")), "tenants is missing"),
            (|f| f["users"] = json!(1), "the file: unknown name 'users'; names are tenants, tokens, issuers"),
            (
                |f| f["tokens"][0]["role"] = json!(1),
                "tokens[0]: unknown name 'role'; names are name, tenant, sha256, roles, models, sources, not_before, expires, requests_per_second, burst",
            ),
            (|f| f["tokens"][0]["tenant"] = json!("other"), "tokens[0].tenant: no tenant 'other' (have shop)"),
            (
                |f| f["tokens"][0]["sha256"] = json!("secret"),
                "tokens[0].sha256: expected 64 hexadecimal digits, as sha256sum prints them for the token without a newline",
            ),
            (
                |f| f["tokens"][0]["roles"] = json!(["root"]),
                "tokens[0].roles: \\\"root\\\" is no role; roles are ingest, predict, admin",
            ),
            (|f| f["tokens"][0]["roles"] = json!([]), "tokens[0].roles is empty; roles are ingest, predict, admin"),
            (|f| f["tokens"][0]["roles"] = json!("predict"), "tokens[0].roles is not a list"),
            (|f| f["tokens"][0]["models"] = json!(["a*b"]), "tokens[0].models: 'a*b' has a * that is not its end"),
            (
                |f| f["tokens"][0]["expires"] = json!("soon"),
                "tokens[0].expires: \\\"soon\\\" is no moment; write \"2027-01-01T00:00:00Z\"",
            ),
            (
                |f| f["tokens"][0]["burst"] = json!(0),
                "tokens[0]: requests_per_second is from 1/3600 to 1,000,000, burst a whole number from 1",
            ),
            (
                |f| f["tenants"][0]["requests_per_second"] = json!("many"),
                "tenants[0]: requests_per_second is from 1/3600 to 1,000,000, burst a whole number from 1",
            ),
            (
                |f| f["tokens"][0]["name"] = json!("a b"),
                "tokens[0].name: 'a b' is not 1 to 64 letters, digits, '_', '-' and '.'",
            ),
            (
                |f| {
                    let t = f["tokens"][0].clone();
                    f["tokens"].as_array_mut().unwrap().push(t)
                },
                "tokens[1].sha256: the same token as tokens[0]",
            ),
            (
                |f| {
                    let t = f["tenants"][0].clone();
                    f["tenants"].as_array_mut().unwrap().push(t)
                },
                "tenants[1].name: 'shop' is there twice",
            ),
            (
                |f| {
                    f["tenants"][0].as_object_mut().unwrap().remove("requests_per_second");
                    f["tenants"][0]["burst"] = json!(1)
                },
                "tenants[0].burst: without requests_per_second it means nothing",
            ),
        ];
        for (change, expected) in changes {
            let mut file = good();
            change(&mut file);
            assert_eq!(message(&file), expected);
        }
        assert!(read(b"{", None).err().unwrap().message().starts_with("not JSON: "));
    }
}
