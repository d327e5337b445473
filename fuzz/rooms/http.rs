//! Requests over a connection of their own: what a server reads of a stranger before any handler sees it, and behind that
//! every handler. And tokens whose signature holds, whatever they say.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use ring::hmac;
use serde_json::{Value, json};
use tidemill_base::{Result, StateHash};
use tidemill_model::{entries::Entries, snapshot::Snapshot};
use tidemill_serve::{
    registry::{Registry, VersionMeta},
    server::{Access, Border, BoxFuture, Host, Limits, PushReply, RefusedLine, Running, ServedModel, start_behind},
};
use tidemill_stream::source::json::JsonDecoder;

use crate::serve;

/// The token whose hash is in [`TOKENS`].
const TOKEN: &str = "abc";
const SECRET: &[u8; 32] = b"a secret that everybody may know";
const TOKENS: &str = r#"{"tenants":[{"name":"a","models":["*"],"sources":["*"]}],
    "tokens":[{"name":"t","tenant":"a","roles":["ingest","predict","admin"],
               "sha256":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}],
    "issuers":[{"name":"id","tenant":"a","issuer":"id","audience":"tidemill","roles":["predict","admin"],
                "keys":[{"kty":"oct","kid":"k","k":"YSBzZWNyZXQgdGhhdCBldmVyeWJvZHkgbWF5IGtub3c"}]}]}"#;
/// The head of any request fits; one that does not is refused.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// One model with two versions, and one source.
struct OneModel(Arc<ServedModel>);

impl Host for OneModel {
    fn models(&self) -> Vec<Arc<ServedModel>> {
        vec![self.0.clone()]
    }

    fn push(&self, source: &str, lines: Bytes) -> BoxFuture<Result<PushReply>> {
        let is_here = source == "shown";
        Box::pin(async move {
            if !is_here {
                return Err(tidemill_base::Error::not_found("no such source"));
            }
            let mut decoder = JsonDecoder::new(serve::schema())?;
            let mut reply = PushReply::default();
            for (i, line) in lines.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
                match decoder.push_line(line) {
                    Ok(()) => reply.accepted += 1,
                    Err(reason) => reply.refused.push(RefusedLine { line: i as u64 + 1, reason }),
                }
            }
            decoder.finish();
            Ok(reply)
        })
    }

    fn status(&self) -> Value {
        json!({"state": "learning"})
    }

    fn metrics(&self) -> String {
        String::new()
    }
}

fn server() -> SocketAddr {
    static SERVER: OnceLock<Running> = OnceLock::new();
    let start = || {
        let registry = Registry::open("m", &serve::dir("http")).expect("an empty registry");
        let entries = || Entries::pairs((1..100u64).map(|key| (key, 0.1)));
        for version in 1..=2u64 {
            let meta = VersionMeta {
                version,
                mini_batch: version,
                state_hash: StateHash(version.into()),
                samples: 9,
                positives: 3,
                logloss: 0.5,
                auc: 0.7,
                created_ms: 0,
                fingerprint: 1,
                entries: 99,
            };
            registry.add(&meta, &Snapshot { entries: entries(), ..Snapshot::default() }).expect("room on the disk");
        }
        let model = ServedModel::open(serve::predictor(), Arc::new(registry)).expect("a model");
        let access = Access::read("tokens", TOKENS.as_bytes()).expect("a token file");
        let border = Border { access: Some(Arc::new(access)), ..Border::default() };
        let limits = Limits { threads: 1, ..Limits::default() };
        start_behind(([127, 0, 0, 1], 0).into(), Arc::new(OneModel(Arc::new(model))), limits, border)
            .expect("a port that is free")
    };
    SERVER.get_or_init(start).address()
}

/// The status of the reply; `None` where the connection ended without one.
fn ask(request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(server()).expect("the server is there");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    // It may have been answered and hung up on before its end.
    let _ = stream.write_all(request);
    let mut reply = Vec::new();
    let mut some = [0; 4096];
    let status = loop {
        let line = reply.split(|b| *b == b'\n').next().filter(|_| reply.contains(&b'\n'));
        if let Some(status) = line.and_then(|line| std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()) {
            break Some(status);
        }
        match stream.read(&mut some) {
            Ok(n) if n > 0 && reply.len() < REPLY_BYTES_MAX => reply.extend_from_slice(&some[..n]),
            _ => break None,
        }
    };
    assert!(status != Some(500), "{}", String::from_utf8_lossy(&reply));
    status
}

/// A request: its head, an empty line, its body. How long the body is, and that nothing follows, is said for it.
pub fn http(bytes: &[u8]) -> bool {
    let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap_or(bytes.len());
    let (head, body) = (&bytes[..end], bytes.get(end + 2..).unwrap_or_default());
    let mut request = Vec::new();
    for line in head.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let name = line.split(|b| *b == b':').next().unwrap_or_default().to_ascii_lowercase();
        if ![&b"content-length"[..], b"transfer-encoding", b"connection", b"expect"].contains(&&*name) {
            request.extend_from_slice(line);
            request.extend_from_slice(b"\r\n");
        }
    }
    request.extend_from_slice(format!("Connection: close\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    ask(&request) == Some(200)
}

/// The header of a token and, behind a zero byte, its claims: signed as they are.
pub fn jwt(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let signed = format!("{}.{}", base64(&bytes[..end]), base64(bytes.get(end + 1..).unwrap_or_default()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    let token = format!("{signed}.{}", base64(signature.as_ref()));
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
    let status = ask(request.as_bytes());
    assert!(matches!(status, Some(200 | 401 | 431)), "{status:?}");
    status == Some(200)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |three: &[u8]| -> String {
        let bits = three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        (0..=three.len()).map(|i| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63])).collect()
    };
    bytes.chunks(3).map(digits).collect()
}

pub fn http_seeds() -> Vec<Vec<u8>> {
    let with_token = |first: &str, rest: &str, body: &str| {
        format!("{first} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {TOKEN}\n{rest}\n{body}").into_bytes()
    };
    let json = "Content-Type: application/json\n";
    vec![
        b"GET /healthz HTTP/1.1\nHost: localhost\nAccept: */*\n\n".to_vec(),
        with_token("GET /v1/models/m%402", "Request-Timeout-Ms: 5000\n", ""),
        with_token(
            "POST /v1/models/m@live:predict",
            &format!("{json}Request-Timeout-Ms: 1\n"),
            r#"{"rows":[{"user":"a"}]}"#,
        ),
        with_token(
            "POST /v1/models/m:rank",
            json,
            r#"{"candidates":[{"id":1,"price":1}],"score":"prediction + price"}"#,
        ),
        with_token("POST /v1/models/m:explain", json, r#"{"rows":[{"user":"a","price":1}]}"#),
        with_token("PUT /v1/models/m/rankings/r", json, r#"{"score":"price + 1"}"#),
        with_token("DELETE /v1/models/m/rankings/r", "", ""),
        with_token("POST /v1/models/m:label", json, r#"{"label":"canary","version":1}"#),
        with_token("POST /v1/models/m:split", json, r#"{"live":90,"canary":10}"#),
        with_token("POST /v1/models/m:rollout", json, r#"{"version":1,"stages":"1%, 100%","each":"5s"}"#),
        with_token("POST /v1/models/m:rollback", json, r#"{"version":1}"#),
        with_token("POST /v1/models/m:promote", json, ""),
        with_token("GET /v1/models/m:follow?lineage=0a&position=1&mini_batch=2", "", ""),
        with_token("POST /v1/sources/shown", "Idempotency-Key: k1\n", "{\"user\":\"a\"}\n{\"price\":1}\n"),
        with_token(
            "POST /v2/models/m/versions/2/infer",
            "Inference-Header-Content-Length: 92\nX-Routing-Key: u1\n",
            "{\"inputs\":[{\"name\":\"price\",\"datatype\":\"FP64\",\"shape\":[1],\"parameters\":{\"binary_data_size\":8}}]}12345678",
        ),
    ]
}

pub fn jwt_seeds() -> Vec<Vec<u8>> {
    [
        "{\"alg\":\"HS256\",\"kid\":\"k\",\"typ\":\"JWT\"}\0{\"iss\":\"id\",\"aud\":[\"x\",\"tidemill\"],\"exp\":99999999999,\"nbf\":1.5,\"roles\":[\"admin\"]}",
        "{\"alg\":\"ES256\",\"crit\":[\"b64\"]}\0{\"iss\":\"id\",\"aud\":\"tidemill\",\"exp\":-1e300}",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}
