//! Who may ask for what: bearer tokens, each of a tenant, with roles on models and sources.
//!
//! In: the `Authorization` of a request and what its route needs. Out: nothing, or a refusal: 401 where no token or none
//! that holds, 403 with the verb where the role is missing, 404 in the same words for a model that is not there and for
//! one that this caller may not see, 429 where tenant or token asks too often. Only SHA-256 of a token is ever held, and
//! every one is compared in the same time. Tokens may also be signed by an issuer that the file names (`jwt.rs`). The list can be replaced while requests go on.

mod file;
mod jwt;
mod rate;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use hyper::{HeaderMap, StatusCode, Uri, header};
use ring::digest::{SHA256, digest};
use tidemill_base::{Error, Result};

use self::rate::Rate;
use super::{
    host::{Host, no_model_of},
    oip::Oip,
    reply::{Refusal, shown},
    route::Route,
};
use crate::moment;

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 512;
/// The same of those that somebody signed.
const JWT_BYTES_MAX: usize = 8 << 10;
/// Names under which clients put tokens into URLs.
const TOKEN_NAMES: [&str; 6] = ["token", "access_token", "api_key", "apikey", "bearer", "authorization"];

/// The tokens that are let in.
pub struct Access {
    tokens: ArcSwap<Tokens>,
}

struct Tokens {
    hashes: Vec<[u8; 32]>,
    /// In the order of the hashes.
    grants: Vec<Arc<Grant>>,
    tenants: Vec<Arc<Tenant>>,
    /// Who signs tokens that are not in the list.
    issuers: Vec<jwt::Issuer>,
}

/// What a token allows.
pub(super) struct Grant {
    name: String,
    tenant: Arc<Tenant>,
    roles: Vec<Role>,
    models: Vec<Pattern>,
    sources: Vec<Pattern>,
    not_before_ms: i64,
    expires_ms: i64,
    rate: Option<Arc<Rate>>,
}

/// Who owns models and sources.
struct Tenant {
    name: String,
    models: Vec<Pattern>,
    sources: Vec<Pattern>,
    rate: Option<Arc<Rate>>,
    requests: AtomicU64,
    limited: AtomicU64,
}

/// A role is a set of verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Ingest,
    Predict,
    Admin,
}

/// `ctr`, `ctr*` or `*`.
#[derive(Clone, Debug, PartialEq)]
struct Pattern {
    begin: String,
    whole: bool,
}

/// What a request needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Need<'a> {
    /// Anybody may ask.
    Nothing,
    /// Any token that holds; the answer shows what it may see.
    Token,
    /// Any role on the model.
    See(&'a str),
    /// This role on the model, for this verb.
    Model(Role, &'static str, &'a str),
    /// To push events into the source.
    Ingest(&'a str),
    /// What is about all models at once.
    Everything(&'static str),
}

impl Access {
    /// Reads a token file. `name` is the file's, for messages.
    pub fn read(name: &str, json: &[u8]) -> Result<Self> {
        let tokens = file::read(json, None).map_err(|e| e.at(name))?;
        Ok(Self { tokens: ArcSwap::from_pointee(tokens) })
    }

    /// Reads it again. Where it cannot be used, nothing changes; where a rate stays as it was, so does what is left of it.
    pub fn replace(&self, name: &str, json: &[u8]) -> Result<()> {
        let tokens = file::read(json, Some(&self.tokens.load())).map_err(|e| e.at(name))?;
        self.tokens.store(Arc::new(tokens));
        Ok(())
    }

    /// How many tokens and issuers of tokens there are.
    pub fn len(&self) -> usize {
        let tokens = self.tokens.load();
        tokens.grants.len() + tokens.issuers.len()
    }

    /// Whether nobody is let in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who sends these headers.
    pub(super) fn caller(&self, headers: &HeaderMap, now_ms: i64) -> Result<Arc<Grant>, Refusal> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(unauthorized("no token; send it as 'Authorization: Bearer TOKEN'", NO_TOKEN));
        };
        let value = value.as_bytes();
        let token = match value.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
            _ => return Err(unauthorized("Authorization is not of the form 'Bearer TOKEN'", BAD_TOKEN)),
        };
        if jwt::is_jwt(token) {
            return self.caller_of_jwt(token, now_ms);
        }
        let hash = if token.len() <= TOKEN_BYTES_MAX { sha256(token) } else { [0; 32] };
        let tokens = self.tokens.load();
        let grant = tokens.find(&hash).ok_or_else(|| unauthorized("token not accepted", BAD_TOKEN))?;
        if now_ms >= grant.expires_ms {
            let message = format!("token expired at {}", moment::written(grant.expires_ms));
            return Err(unauthorized(&message, BAD_TOKEN));
        }
        if now_ms < grant.not_before_ms {
            let message = format!("token is not valid before {}", moment::written(grant.not_before_ms));
            return Err(unauthorized(&message, BAD_TOKEN));
        }
        Ok(grant.clone())
    }

    /// Who sends a token that an issuer signed.
    fn caller_of_jwt(&self, token: &[u8], now_ms: i64) -> Result<Arc<Grant>, Refusal> {
        let tokens = self.tokens.load();
        if tokens.issuers.is_empty() || token.len() > JWT_BYTES_MAX {
            return Err(unauthorized("token not accepted", BAD_TOKEN));
        }
        jwt::caller(&tokens.issuers, token, now_ms).map_err(|refused| {
            let message = match refused {
                jwt::Refused::Because(why) => format!("token not accepted: {why}"),
                jwt::Refused::Expired(ms) => format!("token expired at {}", moment::written(ms)),
                jwt::Refused::NotBefore(ms) => format!("token is not valid before {}", moment::written(ms)),
            };
            unauthorized(&message, BAD_TOKEN)
        })
    }

    /// Tenants, their requests and how many of them were refused because there were too many.
    pub(super) fn tenants(&self) -> Vec<(String, u64, u64)> {
        let tokens = self.tokens.load();
        let each = |t: &Arc<Tenant>| (t.name.clone(), t.requests.load(Relaxed), t.limited.load(Relaxed));
        tokens.tenants.iter().map(each).collect()
    }
}

impl Tokens {
    /// Looks at every token and at every byte, so that the time tells nothing.
    fn find(&self, hash: &[u8; 32]) -> Option<&Arc<Grant>> {
        let mut found = usize::MAX;
        for (i, known) in self.hashes.iter().enumerate() {
            let differing = known.iter().zip(hash).fold(0, |all, (a, b)| all | (a ^ b));
            found = if std::hint::black_box(differing) == 0 { i } else { found };
        }
        self.grants.get(found)
    }
}

impl Grant {
    /// Takes one request from what token and tenant may ask.
    pub fn take(&self) -> Result<(), Refusal> {
        self.tenant.requests.fetch_add(1, Relaxed);
        let own = self.rate.iter().map(|rate| ("token", &self.name, rate));
        let all = self.tenant.rate.iter().map(|rate| ("tenant", &self.tenant.name, rate));
        for (what, name, rate) in own.chain(all) {
            let Err(wait) = rate.take() else { continue };
            self.tenant.limited.fetch_add(1, Relaxed);
            let message = format!("{what} '{name}' may ask {rate}; try again in {wait} s");
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message);
            return Err(Refusal { retry_after_s: wait, ..refusal });
        }
        Ok(())
    }

    /// The same with these roles only.
    fn with_roles(&self, roles: Vec<Role>) -> Self {
        Self {
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            roles,
            models: self.models.clone(),
            sources: self.sources.clone(),
            not_before_ms: self.not_before_ms,
            expires_ms: self.expires_ms,
            rate: self.rate.clone(),
        }
    }

    /// Whether it may know that a model is there.
    pub fn sees(&self, model: &str) -> bool {
        any(&self.tenant.models, model) && any(&self.models, model)
    }

    /// Whether this token may ask for that.
    pub fn check(&self, need: &Need<'_>, host: &dyn Host) -> Result<(), Refusal> {
        let (role, verb, on) = match need {
            Need::Nothing | Need::Token => return Ok(()),
            Need::See(model) => return self.check_seen(model, host),
            Need::Model(role, verb, model) => {
                self.check_seen(model, host)?;
                (*role, *verb, format!("'{}'", shown(model)))
            }
            Need::Ingest(source) => {
                if !any(&self.tenant.sources, source) || !any(&self.sources, source) {
                    return Err(no_source(source));
                }
                (Role::Ingest, "push", format!("'{}'", shown(source)))
            }
            Need::Everything(verb) => {
                if !self.tenant.models.iter().chain(&self.models).all(Pattern::is_any) {
                    let refusal = self.lacks(verb, "every model", Role::Admin);
                    let hint = format!("token '{}' is for models of tenant '{}' only", self.name, self.tenant.name);
                    return Err(Refusal { hint: Some(hint), ..refusal });
                }
                (Role::Admin, *verb, "every model".to_string())
            }
        };
        match self.roles.contains(&role) {
            true => Ok(()),
            false => Err(self.lacks(verb, &on, role)),
        }
    }

    /// A model that is not there and one that this token may not see are the same to it.
    fn check_seen(&self, model: &str, host: &dyn Host) -> Result<(), Refusal> {
        // A model that is not in memory is there all the same.
        let is_there = || host.model(model).is_some() || host.names().iter().any(|name| name == model);
        if self.sees(model) && is_there() {
            return Ok(());
        }
        let seen: Vec<String> = host.names().into_iter().filter(|name| self.sees(name)).collect();
        Err(no_model_of(&seen, model).into())
    }

    fn lacks(&self, verb: &str, on: &str, role: Role) -> Refusal {
        let roles: Vec<&str> = self.roles.iter().map(|r| r.name()).collect();
        Refusal::new(StatusCode::FORBIDDEN, "forbidden", format!("needs verb {verb} on {on}")).hint(format!(
            "role {} has it; token '{}' has {}",
            role.name(),
            self.name,
            roles.join(", ")
        ))
    }
}

impl Role {
    const ALL: [Self; 3] = [Self::Ingest, Self::Predict, Self::Admin];

    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Predict => "predict",
            Self::Admin => "admin",
        }
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        if self.whole { name == self.begin } else { name.starts_with(&self.begin) }
    }

    fn is_any(&self) -> bool {
        self.begin.is_empty() && !self.whole
    }
}

fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

impl<'a> Need<'a> {
    /// What a route of the data needs.
    pub fn of(route: &Route<'a>) -> Self {
        match *route {
            Route::Oip(Oip::Server | Oip::Live | Oip::Ready) => Self::Nothing,
            Route::Oip(Oip::Model(model) | Oip::ModelReady(model)) => Self::See(model.name),
            Route::Predict(model) => Self::Model(Role::Predict, "predict", model.name),
            Route::Explain(model) => Self::Model(Role::Predict, "explain", model.name),
            Route::Rank(model) => Self::Model(Role::Predict, "rank", model.name),
            Route::Oip(Oip::Infer(model)) => Self::Model(Role::Predict, "infer", model.name),
            // Who follows a model has all its weights.
            Route::Follow(model) => Self::Model(Role::Admin, "follow", model.name),
            Route::Push(source) => Self::Ingest(source),
        }
    }

    /// The model that is asked, if one is.
    pub fn model(&self) -> Option<&'a str> {
        match self {
            Self::See(model) | Self::Model(_, _, model) => Some(model),
            Self::Nothing | Self::Token | Self::Ingest(_) | Self::Everything(_) => None,
        }
    }
}

/// The answer for a source that is not there or that this caller may not push to.
pub(super) fn no_source(source: &str) -> Refusal {
    Error::not_found(format!("no source '{}'", shown(source))).into()
}

/// A token in a URL ends up in logs: it is refused there, whoever would take it.
pub(super) fn refuse_token_in_url(uri: &Uri) -> Result<(), Refusal> {
    let Some(query) = uri.query() else { return Ok(()) };
    let is_token = |part: &str| {
        let name = part.split('=').next().unwrap_or_default();
        TOKEN_NAMES.iter().any(|t| t.eq_ignore_ascii_case(name))
    };
    match query.split('&').any(is_token) {
        true => Err(Error::invalid("send the token in the Authorization header").into()),
        false => Ok(()),
    }
}

/// SHA-256 of a token in lower-case hexadecimal digits, as token files have it.
pub fn token_hash(token: &str) -> String {
    sha256(token.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

const NO_TOKEN: &str = r#"Bearer realm="tidemill""#;
const BAD_TOKEN: &str = r#"Bearer realm="tidemill", error="invalid_token""#;

fn unauthorized(message: &str, challenge: &'static str) -> Refusal {
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message);
    Refusal { challenge: Some(challenge), ..refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What tells something of a model or asks it is not open.
    #[test]
    fn routes_need_roles() {
        let need = |path: &'static str| Need::of(&Route::parse(path).unwrap().unwrap());
        for path in ["/v2", "/v2/health/live", "/v2/health/ready"] {
            assert_eq!(need(path), Need::Nothing, "{path}");
        }
        for path in ["/v2/models/ctr", "/v2/models/ctr/ready"] {
            assert_eq!(need(path), Need::See("ctr"), "{path}");
        }
        assert_eq!(need("/v1/models/ctr@3:predict"), Need::Model(Role::Predict, "predict", "ctr"));
        assert_eq!(need("/v1/models/ctr:explain"), Need::Model(Role::Predict, "explain", "ctr"));
        assert_eq!(need("/v1/models/ctr:rank"), Need::Model(Role::Predict, "rank", "ctr"));
        assert_eq!(need("/v2/models/ctr/infer"), Need::Model(Role::Predict, "infer", "ctr"));
        assert_eq!(need("/v1/models/ctr:follow"), Need::Model(Role::Admin, "follow", "ctr"));
        assert_eq!(need("/v1/sources/clicks"), Need::Ingest("clicks"));
    }

    #[test]
    fn tokens_in_urls_are_seen() {
        for (uri, refused) in [
            ("/v1/models", false),
            ("/v1/models?x=token", false),
            ("/v1/models?token=abc", true),
            ("/v1/models?x=1&Access_Token=abc", true),
            ("/v1/models?api_key", true),
        ] {
            assert_eq!(refuse_token_in_url(&uri.parse().unwrap()).is_err(), refused, "{uri}");
        }
    }

    /// Expected: `printf abc | sha256sum`.
    #[test]
    fn hashes_are_those_of_sha256sum() {
        assert_eq!(token_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
