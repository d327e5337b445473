//! Tokens that somebody else signed (JWT, RFC 7519): who they are of is said by an issuer whose keys the token file names.
//!
//! In: a token, the issuers, the time. Out: what its caller may do, or one word about why it is not accepted: `algorithm`,
//! `key`, `issuer`, `audience`, `signature`, `form`, `claims`. The key decides the algorithm, never the token alone: HS256,
//! RS256, ES256 and EdDSA (Ed25519), each for keys of its own kind, so `none` and a public key taken for a secret are refused.
//! Nothing a token says is believed before its signature holds; issuer and audience are looked at before only to find the key.

use std::sync::Arc;

use ring::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use serde_json::{Map, Value};
use tidemill_base::{Error, Result};

use super::{Grant, Role};

/// By how much the clocks of issuer and server may differ.
const LEEWAY_MS: i64 = 30_000;
/// Bytes of a shared secret: fewer could be tried out.
const SECRET_BYTES_MIN: usize = 32;

/// Who signs tokens for a tenant.
pub(super) struct Issuer {
    /// What tokens name as `iss`.
    pub issuer: String,
    /// What tokens name as `aud`, or have among it.
    pub audience: String,
    pub keys: Vec<Key>,
    /// What tokens of it allow at most.
    pub grant: Arc<Grant>,
}

/// A key that signatures are checked by.
pub(super) struct Key {
    id: Option<String>,
    kind: Kind,
}

enum Kind {
    Hs256(hmac::Key),
    Rs256(RsaPublicKeyComponents<Vec<u8>>),
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

/// Why a token is not accepted.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// In a word.
    Because(&'static str),
    /// It was, until this moment.
    Expired(i64),
    /// It will be, from this moment on.
    NotBefore(i64),
}

/// Whether this has the form of such a token.
pub(super) fn is_jwt(token: &[u8]) -> bool {
    token.iter().filter(|b| **b == b'.').count() == 2
}

/// What the caller of a token may do.
pub(super) fn caller(issuers: &[Issuer], token: &[u8], now_ms: i64) -> Result<Arc<Grant>, Refused> {
    use Refused::Because;
    let parts: Vec<&[u8]> = token.split(|b| *b == b'.').collect();
    let [header, claims, signature] = parts[..] else { return Err(Because("form")) };
    let object = |part: &[u8]| -> Result<Map<String, Value>, Refused> {
        let bytes = decoded(part).ok_or(Because("form"))?;
        serde_json::from_slice(&bytes).map_err(|_| Because("form"))
    };
    let (head, body) = (object(header)?, object(claims)?);
    let algorithm = head.get("alg").and_then(Value::as_str).unwrap_or_default();
    if !["HS256", "RS256", "ES256", "EdDSA"].contains(&algorithm) {
        return Err(Because("algorithm"));
    }
    // What must be understood, and is not.
    if head.contains_key("crit") {
        return Err(Because("form"));
    }
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let mut of_issuer = issuers.iter().filter(|i| text("iss") == Some(&i.issuer)).peekable();
    if of_issuer.peek().is_none() {
        return Err(Because("issuer"));
    }
    let issuer = of_issuer.find(|i| has(body.get("aud"), &i.audience)).ok_or(Because("audience"))?;
    let key = issuer.key(head.get("kid")).ok_or(Because("key"))?;
    if key.algorithm() != algorithm {
        return Err(Because("algorithm"));
    }
    let signed = &token[..header.len() + 1 + claims.len()];
    let signature = decoded(signature).ok_or(Because("form"))?;
    if !key.holds(signed, &signature) {
        return Err(Because("signature"));
    }
    let moment = |name: &str| match body.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_f64().filter(|s| (0.0..1e12).contains(s)).ok_or(Because("claims"))?;
            Ok(Some((seconds * 1000.0) as i64))
        }
    };
    let expires = moment("exp")?.ok_or(Because("claims"))?;
    if now_ms >= expires + LEEWAY_MS {
        return Err(Refused::Expired(expires));
    }
    if let Some(begins) = moment("nbf")?.filter(|begins| now_ms < begins - LEEWAY_MS) {
        return Err(Refused::NotBefore(begins));
    }
    match body.get("roles") {
        None => Ok(issuer.grant.clone()),
        Some(named) => {
            let roles: Vec<Role> =
                issuer.grant.roles.iter().copied().filter(|role| has(Some(named), role.name())).collect();
            Ok(Arc::new(issuer.grant.with_roles(roles)))
        }
    }
}

/// Whether a claim is this text, or a list with it.
fn has(claim: Option<&Value>, text: &str) -> bool {
    match claim {
        Some(Value::String(one)) => one == text,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(text)),
        _ => false,
    }
}

impl Issuer {
    /// The key that a token names; where it names none, the only one.
    fn key(&self, id: Option<&Value>) -> Option<&Key> {
        match id {
            Some(id) => self.keys.iter().find(|key| key.id.as_deref() == id.as_str() && key.id.is_some()),
            None => {
                if let [only] = &self.keys[..] {
                    Some(only)
                } else {
                    None
                }
            }
        }
    }
}

impl Key {
    /// Reads a key as JWK has it (RFC 7517).
    pub fn read(value: &Value, place: &str) -> Result<Self> {
        let wrong = |what: &str| Error::invalid(format!("{place}: {what}"));
        let fields = value.as_object().ok_or_else(|| wrong("expected a key as JWK has it, an object"))?;
        let bytes = |name: &str| {
            let text = fields.get(name).and_then(Value::as_str).and_then(|text| decoded(text.as_bytes()));
            text.filter(|bytes| !bytes.is_empty()).ok_or_else(|| wrong(&format!("{name}: expected base64url")))
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if fields.contains_key("d") {
            return Err(wrong("d: this is a private key; the server wants the public one"));
        }
        let kind = match (text("kty"), text("crv")) {
            (Some("oct"), _) => {
                let secret = bytes("k")?;
                if secret.len() < SECRET_BYTES_MIN {
                    return Err(wrong(&format!("k: {} bytes; a secret has {SECRET_BYTES_MIN} at least", secret.len())));
                }
                Kind::Hs256(hmac::Key::new(hmac::HMAC_SHA256, &secret))
            }
            (Some("RSA"), _) => Kind::Rs256(RsaPublicKeyComponents { n: bytes("n")?, e: bytes("e")? }),
            (Some("EC"), Some("P-256")) => Kind::Es256([vec![4], bytes("x")?, bytes("y")?].concat()),
            (Some("OKP"), Some("Ed25519")) => Kind::EdDsa(bytes("x")?),
            _ => return Err(wrong("kty: expected oct, RSA, EC with crv P-256, or OKP with crv Ed25519")),
        };
        let key = Self { id: text("kid").map(str::to_string), kind };
        match text("alg") {
            Some(named) if named != key.algorithm() => Err(wrong(&format!(
                "alg: '{}' is not of such a key; it is for {}",
                super::shown(named),
                key.algorithm()
            ))),
            _ => Ok(key),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self.kind {
            Kind::Hs256(_) => "HS256",
            Kind::Rs256(_) => "RS256",
            Kind::Es256(_) => "ES256",
            Kind::EdDsa(_) => "EdDSA",
        }
    }

    fn holds(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Hs256(key) => hmac::verify(key, signed, signature).is_ok(),
            Kind::Rs256(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok(),
            Kind::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
            Kind::EdDsa(point) => UnparsedPublicKey::new(&ED25519, point).verify(signed, signature).is_ok(),
        }
    }
}

/// Base64 as URLs have it, without padding (RFC 4648, section 5).
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.chunks(4) {
        let mut bits = 0u32;
        for c in four {
            let six = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        let spare = 6 * (4 - four.len() as u32);
        let bytes = (bits << spare).to_be_bytes();
        out.extend_from_slice(&bytes[1..four.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::file, *};

    const NOW_MS: i64 = 1_795_000_000_000;
    const SECRET: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

    fn key(jwk: Value) -> Key {
        Key::read(&jwk, "keys[0]").unwrap()
    }

    /// The examples of RFC 7515 (A.1 HS256, A.2 is left out for its length, A.3 ES256) and of RFC 8037 (A.4 EdDSA).
    #[test]
    fn published_signatures_hold_and_changed_ones_do_not() {
        let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        for (jwk, signed, signature) in [
            (
                json!({"kty": "oct", "k": SECRET}),
                format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{claims}"),
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
            (
                json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                       "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
                format!("eyJhbGciOiJFUzI1NiJ9.{claims}"),
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".into(),
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ] {
            let (key, mut signature) = (key(jwk), decoded(signature.as_bytes()).unwrap());
            assert!(key.holds(signed.as_bytes(), &signature), "{}", key.algorithm());
            assert!(!key.holds(&signed.as_bytes()[1..], &signature), "{}", key.algorithm());
            signature[7] ^= 1;
            assert!(!key.holds(signed.as_bytes(), &signature) && !key.holds(signed.as_bytes(), b""));
        }
    }

    fn encoded(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let digits = |three: &[u8]| -> String {
            let bits = three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
            (0..=three.len()).map(|i| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63])).collect()
        };
        bytes.chunks(3).map(digits).collect()
    }

    #[test]
    fn base64_is_read_as_it_is_written() {
        for text in ["", "f", "fo", "foo", "foob", "fooba", "foobar", "\u{3ff}\u{fff}~"] {
            assert_eq!(decoded(encoded(text.as_bytes()).as_bytes()).as_deref(), Some(text.as_bytes()), "{text}");
        }
        // RFC 4648, section 10.
        assert_eq!(decoded(b"Zm9vYg").as_deref(), Some(&b"foob"[..]));
        for bad in [&b"Zm9v=="[..], b"Z", b"Zm9+", b"Zm 9"] {
            assert_eq!(decoded(bad), None);
        }
    }

    fn token(header: Value, claims: Value) -> String {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &decoded(SECRET.as_bytes()).unwrap());
        let signed = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
        let signature = encoded(hmac::sign(&secret, signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }

    fn issuers() -> super::super::Tokens {
        let file = json!({
            "tenants": [{"name": "shop", "models": ["ctr*"]}],
            "issuers": [{"name": "id", "tenant": "shop", "issuer": "https://id.example", "audience": "tidemill",
                         "roles": ["predict", "admin"], "models": ["ctr"],
                         "keys": [{"kty": "oct", "kid": "k1", "k": SECRET},
                                  {"kty": "OKP", "crv": "Ed25519", "kid": "k2", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}],
        });
        file::read(file.to_string().as_bytes(), None).unwrap()
    }

    /// B75: an algorithm that the key is not for, none at all, a key nobody has, another audience or issuer, what has run
    /// out: each refused in its word.
    #[test]
    fn b75_a_token_is_accepted_or_refused_in_a_word() {
        let tokens = issuers();
        let head = || json!({"alg": "HS256", "kid": "k1"});
        let claims = || json!({"iss": "https://id.example", "aud": ["x", "tidemill"], "exp": NOW_MS / 1000 + 60});
        let ask = |token: &str| caller(&tokens.issuers, token.as_bytes(), NOW_MS);
        let good = ask(&token(head(), claims())).ok().unwrap();
        assert!(good.sees("ctr") && !good.sees("ctr2") && good.roles == [Role::Predict, Role::Admin]);
        let mut fewer = claims();
        fewer["roles"] = json!(["predict", "root"]);
        assert_eq!(ask(&token(head(), fewer)).ok().unwrap().roles, [Role::Predict]);
        type Change = fn(&mut Value, &mut Value);
        let changes: [(Change, &str); 13] = [
            (|h, _| h["alg"] = json!("none"), "algorithm"),
            (|h, _| h["alg"] = json!("HS384"), "algorithm"),
            (|h, _| h["alg"] = json!("EdDSA"), "algorithm"),
            (|h, _| h["kid"] = json!("k2"), "algorithm"),
            (|h, _| h["kid"] = json!("k3"), "key"),
            (|h, _| drop(h.as_object_mut().unwrap().remove("kid")), "key"),
            (|h, _| h["crit"] = json!(["b64"]), "form"),
            (|_, c| c["aud"] = json!("other"), "audience"),
            (|_, c| drop(c.as_object_mut().unwrap().remove("aud")), "audience"),
            (|_, c| c["iss"] = json!("https://other.example"), "issuer"),
            (|_, c| drop(c.as_object_mut().unwrap().remove("exp")), "claims"),
            (|_, c| c["exp"] = json!("soon"), "claims"),
            (|_, c| c["nbf"] = json!(-1), "claims"),
        ];
        for (change, why) in changes {
            let (mut h, mut c) = (head(), claims());
            change(&mut h, &mut c);
            assert_eq!(ask(&token(h.clone(), c.clone())).err(), Some(Refused::Because(why)), "{h} {c}");
        }
        let mut old = claims();
        old["exp"] = json!(NOW_MS / 1000 - 31);
        assert_eq!(ask(&token(head(), old)).err(), Some(Refused::Expired(NOW_MS - 31_000)));
        let mut early = claims();
        early["nbf"] = json!(NOW_MS / 1000 + 31);
        assert_eq!(ask(&token(head(), early)).err(), Some(Refused::NotBefore(NOW_MS + 31_000)));
        let whole = token(head(), claims());
        let other = whole.replace(
            whole.split('.').nth(1).unwrap(),
            &encoded(br#"{"iss":"https://id.example","aud":"tidemill","exp":1e11}"#),
        );
        assert_eq!(ask(&other).err(), Some(Refused::Because("signature")));
        for bad in ["..", "a.b.c", "e30.e30.", "e30.W10.", &whole[..whole.len() - 1]] {
            assert!(ask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said() {
        for (jwk, message) in [
            (json!(7), "expected a key as JWK has it, an object"),
            (
                json!({"kty": "EC", "crv": "P-384"}),
                "kty: expected oct, RSA, EC with crv P-256, or OKP with crv Ed25519",
            ),
            (json!({"kty": "oct", "k": "c2hvcnQ"}), "k: 5 bytes; a secret has 32 at least"),
            (json!({"kty": "oct", "k": "!"}), "k: expected base64url"),
            (json!({"kty": "RSA", "n": "AQAB", "e": ""}), "e: expected base64url"),
            (
                json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "d": "AQAB"}),
                "d: this is a private key; the server wants the public one",
            ),
            (
                json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256"}),
                "alg: 'HS256' is not of such a key; it is for RS256",
            ),
        ] {
            let refused = Key::read(&jwk, "issuers[0].keys[0]").err().unwrap();
            assert_eq!(refused.message(), format!("issuers[0].keys[0]: {message}"));
        }
    }

    proptest::proptest! {
        /// Whatever bytes come: an answer and no panic.
        #[test]
        fn any_bytes_are_answered(words in proptest::collection::vec(proptest::sample::select(vec![
            ".", "e30", "eyJhbGciOiJIUzI1NiJ9", "A", "_", "=", "\u{e9}", "W10",
        ]), 0..12)) {
            let tokens = issuers();
            proptest::prop_assert!(caller(&tokens.issuers, words.concat().as_bytes(), 0).is_err());
        }
    }
}
