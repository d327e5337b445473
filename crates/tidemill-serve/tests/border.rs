//! The border of the server: TLS on both protocols, tokens with roles, rates, deadlines. Who is not let in is told why, and
//! the others go on.

#[path = "../src/server/grpc/inference.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod inference;
mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelReadyRequest, ServerLiveRequest,
    model_infer_request::InferInputTensor,
};
use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CertifiedKey, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd, generate_simple_self_signed,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use serde_json::{Value, json};
use support::{
    call::{CallAnswer, Client, OK, framed},
    row,
    site::{Answer, Site, connect, open, open_behind, read_answer},
};
use tidemill_serve::server::{Access, Border, Limits, Pem, Tls, start_behind, token_hash};

const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAUTHENTICATED: i32 = 16;
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const YEAR_2027_MS: i64 = 1_798_761_600_000;

/// A certificate for localhost, with what a client needs to trust it.
struct Identity {
    chain: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
        Self { chain: cert.pem(), key: signing_key.serialize_pem(), der: cert.der().clone() }
    }

    fn tls(&self) -> Arc<Tls> {
        let (chain, key) = self.pem();
        Arc::new(Tls::new(chain, key, YEAR_2027_MS).unwrap())
    }

    fn pem(&self) -> (Pem<'_>, Pem<'_>) {
        let chain = Pem { name: "cert.pem", bytes: self.chain.as_bytes() };
        (chain, Pem { name: "key.pem", bytes: self.key.as_bytes() })
    }

    fn client(&self, protocol: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Arc::new(config)
    }

    /// One request over HTTPS, as a client that trusts this certificate sends it.
    fn ask(&self, address: SocketAddr, request: &str) -> std::io::Result<String> {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(self.client("http/1.1"), name).unwrap();
        let mut stream = StreamOwned::new(connection, connect(address));
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// An authority that signs certificates of clients.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client's certificate by an authority, until the end of a year.
fn signed(by: &CertifiedIssuer<'static, KeyPair>, usage: ExtendedKeyUsagePurpose, until: i32) -> ClientIdentity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["client".to_string()]).unwrap();
    params.extended_key_usages = vec![usage];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 12, 31));
    let certificate = params.signed_by(&key, by).unwrap();
    (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

/// B76: where clients show certificates, one without, one of another authority, one that has expired and one for another use
/// end in the handshake, with a reason for the log; the others go on.
#[test]
fn b76_clients_show_a_certificate_of_the_authority() {
    let (identity, ours, others) = (Identity::new(), authority("ours"), authority("others"));
    let (chain, key) = identity.pem();
    let pem = ours.pem();
    let clients = Pem { name: "clients.pem", bytes: pem.as_bytes() };
    let tls = Arc::new(Tls::for_clients_of(Some(clients), chain, key, YEAR_2027_MS).unwrap());
    let site = open_behind("clients", Limits::default(), Border { tls: Some(tls.clone()), ..Border::default() });
    let ask = |client: Option<ClientIdentity>| -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(identity.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(connection, connect(site.server.address()));
        stream.write_all(get("/healthz").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let good = || signed(&ours, ExtendedKeyUsagePurpose::ClientAuth, 2098);
    assert!(ask(Some(good())).unwrap().starts_with("HTTP/1.1 200 OK"));
    assert_eq!(tls.take_refused(), None);
    for (client, why) in [
        (None, "peer sent no certificates"),
        (Some(signed(&others, ExtendedKeyUsagePurpose::ClientAuth, 2098)), "UnknownIssuer"),
        (Some(signed(&ours, ExtendedKeyUsagePurpose::ClientAuth, 2021)), "expired"),
        (Some(signed(&ours, ExtendedKeyUsagePurpose::ServerAuth, 2098)), "for client authentication"),
    ] {
        let refused = ask(client).unwrap_err().to_string();
        assert!(refused.contains("alert"), "{why}: {refused}");
        // The client may hear of it first.
        let told = (0..1_000).find_map(|_| {
            tls.take_refused().or_else(|| {
                std::thread::park_timeout(Duration::from_millis(5));
                None
            })
        });
        let (times, told) = told.unwrap();
        assert!(times == 1 && told.to_lowercase().contains(&why.to_lowercase()), "{why}: {told}");
    }
    assert!(ask(Some(good())).unwrap().ends_with("ok\n"));
    let wrong = Pem { name: "clients.pem", bytes: b"" };
    let refused = tls.replace(Some(wrong), chain, key, YEAR_2027_MS).unwrap_err();
    assert!(refused.message().starts_with("clients.pem: no certificate in it"), "{refused}");
    tls.replace(None, chain, key, YEAR_2027_MS).unwrap();
    assert!(ask(None).is_ok(), "nobody is asked for one any more");
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn infer_request() -> ModelInferRequest {
    let input = |name: &str, datatype: &str, contents| InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    let text = |t: &str| InferTensorContents { bytes_contents: vec![t.into()], ..InferTensorContents::default() };
    let price = InferTensorContents { fp64_contents: vec![2.0], ..InferTensorContents::default() };
    ModelInferRequest {
        model_name: "ctr".into(),
        inputs: vec![
            input("user", "BYTES", text("u1")),
            input("item", "BYTES", text("i1")),
            input("price", "FP64", price),
        ],
        ..ModelInferRequest::default()
    }
}

/// HTTP/1.1 and gRPC, encrypted, on one port; and one that speaks no TLS is told so.
#[test]
fn both_protocols_are_encrypted_on_one_port() {
    let identity = Identity::new();
    let site = open_behind("tls", Limits::default(), Border { tls: Some(identity.tls()), ..Border::default() });
    let address = site.server.address();
    for _ in 0..3 {
        let reply = identity.ask(address, &get("/v1/models/ctr")).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.ends_with("}\n"), "{reply}");
    }
    let body = json!({"rows": vec![row(); 500]}).to_string();
    let post = format!(
        "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let reply = identity.ask(address, &post).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.matches("probability").count() == 500);
    let client = identity.grpc(&site);
    let reply: ModelInferResponse = client.call("ModelInfer", &infer_request()).read();
    assert_eq!(reply.outputs[0].contents.as_ref().unwrap().fp32_contents.len(), 1);
    let plain = site.raw(&get("/healthz"));
    assert_eq!((plain.status, &plain.json()["error"]["message"]), (400, &json!("this port speaks TLS; use https://")));
    let other = Identity::new();
    assert!(other.ask(address, &get("/healthz")).is_err(), "a client that trusts another certificate");
    assert!(
        identity.ask(address, &get("/metrics")).unwrap().contains(r#"tidemill_http_refused_total{reason="tls"} 2"#)
    );
    assert!(site.server.stop(), "an open connection must not hold up the end");
}

impl Identity {
    fn grpc(&self, site: &Site) -> Client {
        let config = self.client("h2");
        let connect = async |address| {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap()
        };
        Client::over(connect, site)
    }
}

/// F46: a new certificate is for connections that come later; those that are open go on with theirs.
#[test]
fn a_certificate_is_renewed_while_connections_are_open() {
    let (first, second) = (Identity::new(), Identity::new());
    let tls = first.tls();
    let site = open_behind("renewed", Limits::default(), Border { tls: Some(tls.clone()), ..Border::default() });
    let client = first.grpc(&site);
    assert_eq!(client.call("ServerLive", &ServerLiveRequest {}).code, OK);
    let (chain, key) = second.pem();
    let (_, other_key) = first.pem();
    assert!(tls.replace(None, chain, other_key, YEAR_2027_MS).is_err());
    assert!(first.ask(site.server.address(), &get("/healthz")).is_ok(), "what cannot be used changes nothing");
    tls.replace(None, chain, key, YEAR_2027_MS).unwrap();
    assert!(second.ask(site.server.address(), &get("/healthz")).unwrap().ends_with("ok\n"));
    assert!(first.ask(site.server.address(), &get("/healthz")).is_err());
    assert_eq!(client.call("ModelInfer", &infer_request()).code, OK);
}

/// A connection that never gets as far as TLS holds its place for as long as one that sends no headers.
#[test]
fn a_handshake_that_does_not_come_is_cut_off() {
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::default() };
    let site = open_behind("mute", limits, Border { tls: Some(Identity::new().tls()), ..Border::default() });
    let mut mute = connect(site.server.address());
    assert_eq!(mute.read(&mut [0; 16]).unwrap(), 0);
    let mut half = connect(site.server.address());
    half.write_all(&[0x16, 3, 1]).unwrap();
    assert_eq!(half.read(&mut [0; 16]).unwrap(), 0);
}

fn tokens() -> Value {
    let token = |name: &str, tenant: &str, roles: &[&str]| json!({"name": name, "tenant": tenant, "roles": roles, "sha256": token_hash(&format!("secret-{name}"))});
    let mut file = json!({
        "tenants": [
            {"name": "all", "models": ["*"], "sources": ["*"]},
            {"name": "shop", "models": ["ctr*"], "sources": ["clicks"]},
            {"name": "bank", "models": ["risk"], "sources": ["payments"]},
        ],
        "tokens": [
            token("operator", "all", &["admin", "predict", "ingest"]),
            token("web", "shop", &["predict"]),
            token("pipe", "shop", &["ingest"]),
            token("boss", "shop", &["admin"]),
            token("teller", "bank", &["predict", "ingest", "admin"]),
            token("old", "shop", &["predict"]),
            token("early", "shop", &["predict"]),
        ],
    });
    file["tokens"][5]["expires"] = json!("2026-01-31T12:00:00Z");
    file["tokens"][6]["not_before"] = json!("2999-01-01");
    file
}

fn access(file: &Value) -> Arc<Access> {
    Arc::new(Access::read("tokens.json", file.to_string().as_bytes()).unwrap())
}

fn with_tokens(name: &str, file: &Value) -> (Site, Arc<Access>) {
    let access = access(file);
    let border = Border { access: Some(access.clone()), ..Border::default() };
    (open_behind(name, Limits::default(), border), access)
}

fn bearer(name: &str) -> String {
    format!("Authorization: Bearer secret-{name}\r\n")
}

fn good() -> String {
    json!({"rows": [row()]}).to_string()
}

/// What tells or changes something is open to nobody without a token, and to nobody whose role it is not; and each route says
/// which methods it takes.
#[test]
fn every_route_of_the_administration_wants_a_token_and_the_role() {
    let (site, _) = with_tokens("administration", &tokens());
    for path in ["/", "/assets/app.js", "/healthz"] {
        assert_eq!(site.get(path).status, 200, "{path}");
    }
    let told = ["/metrics", "/v1/status", "/v1/events", "/v1/feed", "/v1/models", "/v1/models/ctr", "/v1/models/ctr@1"];
    let rankings = ["/v1/models/ctr/rankings", "/v1/models/ctr/rankings/feed"];
    let verbs = ["rollback", "promote", "label", "split", "rollout"].map(|verb| format!("/v1/models/ctr:{verb}"));
    let read = told.iter().chain(&rankings).map(|path| format!("GET {path}"));
    let changed = verbs.iter().map(|path| format!("POST {path}"));
    let kept = ["PUT", "DELETE"].map(|method| format!("{method} {}", rankings[1]));
    for request in read.chain(changed.clone()).chain(kept.clone()) {
        assert_eq!(site.send(&request, "", "{}").status, 401, "{request}");
    }
    for request in changed.chain(kept) {
        assert_eq!(site.send(&request, &bearer("web"), "{}").status, 403, "{request}");
    }
    for path in &told[..4] {
        assert_eq!(site.send(&format!("GET {path}"), &bearer("boss"), "").status, 403, "{path}");
    }
    let takes = |path: &str, allow: &str| {
        let answer = site.send(&format!("PATCH {path}"), &bearer("operator"), "");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{path}");
    };
    told.iter().chain(&["/", "/assets/app.js", "/healthz", rankings[0]]).for_each(|path| takes(path, "GET, HEAD"));
    verbs.iter().for_each(|path| takes(path, "POST"));
    takes(rankings[1], "GET, HEAD, PUT, DELETE");
    for path in
        ["/assets/nothing.js", "/v1/models/ctr:explode", "/v1/models/", "/v1/models/a/b", "/v1/models/ctr/rankings/a/b"]
    {
        assert_eq!(site.send(&format!("GET {path}"), &bearer("operator"), "").status, 404, "{path}");
    }
}

/// B53, B73, B74, B77, B78, B79: status, sentence, and for 401 how to do it; then the next good request.
#[test]
fn who_may_not_is_told_why_and_no_more() {
    let (site, _) = with_tokens("tokens", &tokens());
    let predict = "POST /v1/models/ctr:predict";
    let none = "no token; send it as 'Authorization: Bearer TOKEN'";
    let hidden = "no model 'ctr'; none is served yet";
    let cases: [(&str, String, &str, u16, &str); 25] = [
        (predict, String::new(), &good(), 401, none),
        ("GET /v1/models", String::new(), "", 401, none),
        ("GET /metrics", String::new(), "", 401, none),
        ("GET /v1/events", String::new(), "", 401, none),
        (
            predict,
            "Authorization: Basic abc\r\n".into(),
            &good(),
            401,
            "Authorization is not of the form 'Bearer TOKEN'",
        ),
        (predict, "Authorization: Bearer\r\n".into(), &good(), 401, "Authorization is not of the form 'Bearer TOKEN'"),
        (predict, bearer("nobody"), &good(), 401, "token not accepted"),
        (predict, format!("Authorization: Bearer {}\r\n", "x".repeat(5000)), &good(), 401, "token not accepted"),
        (predict, bearer("old"), &good(), 401, "token expired at 2026-01-31T12:00:00Z"),
        (predict, bearer("early"), &good(), 401, "token is not valid before 2999-01-01T00:00:00Z"),
        // The same words for a model that is there and one that is not.
        (predict, bearer("teller"), &good(), 404, hidden),
        ("GET /v1/models/ctr", bearer("teller"), "", 404, hidden),
        ("POST /v1/models/ctr:rollback", bearer("teller"), r#"{"version":1}"#, 404, hidden),
        ("POST /v1/models/nope:predict", bearer("teller"), &good(), 404, "no model 'nope'; none is served yet"),
        ("POST /v1/models/nope:predict", bearer("web"), &good(), 404, "no model 'nope' (have ctr)"),
        ("POST /v1/models/ctr:rollback", bearer("web"), r#"{"version":1}"#, 403, "needs verb rollback on 'ctr'"),
        ("POST /v1/models/ctr:promote", bearer("web"), "", 403, "needs verb promote on 'ctr'"),
        ("PUT /v1/models/ctr/rankings/feed", bearer("web"), "{}", 403, "needs verb change rankings on 'ctr'"),
        (predict, bearer("pipe"), &good(), 403, "needs verb predict on 'ctr'"),
        (predict, bearer("boss"), &good(), 403, "needs verb predict on 'ctr'"),
        ("GET /metrics", bearer("boss"), "", 403, "needs verb read metrics on every model"),
        ("POST /v1/sources/clicks", bearer("web"), r#"{"imp_id":1}"#, 403, "needs verb push on 'clicks'"),
        ("POST /v1/sources/impressions", bearer("pipe"), r#"{"imp_id":1}"#, 404, "no source 'impressions'"),
        ("POST /v1/sources/nowhere", bearer("operator"), r#"{"imp_id":1}"#, 404, "no source 'nowhere'"),
        (
            "POST /v1/models/ctr:predict?access_token=secret-web",
            String::new(),
            &good(),
            400,
            "send the token in the Authorization header",
        ),
    ];
    for (request, headers, body, status, message) in cases {
        let answer = site.refuses(request, &headers, body, status, message);
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
        assert!(!answer.body.contains("secret"), "{answer:?}");
        assert_eq!(site.send(predict, &bearer("web"), &good()).status, 200);
    }
    let refused = site.send(predict, &bearer("nobody"), &good());
    assert_eq!(refused.header("www-authenticate"), Some(r#"Bearer realm="tidemill", error="invalid_token""#));
    let forbidden = site.send("POST /v1/models/ctr:promote", &bearer("web"), "");
    assert_eq!(forbidden.json()["error"]["hint"], "role admin has it; token 'web' has predict");
    // The protocol's errors have another form and the same sentences.
    let answer = site.send("POST /v2/models/ctr/infer", "", "{}");
    assert_eq!((answer.status, answer.json()), (401, json!({ "error": none })));
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="tidemill""#));
    let metrics = site.send("GET /metrics", &bearer("operator"), "").body;
    for expected in [
        r#"tidemill_http_refused_total{reason="unauthorized"} 12"#,
        r#"tidemill_http_refused_total{reason="forbidden"} 8"#,
        r#"tidemill_tenant_requests_total{tenant="bank"} 4"#,
    ] {
        assert!(metrics.lines().any(|l| l == expected), "{expected} in\n{metrics}");
    }
}

#[test]
fn roles_allow_what_they_say() {
    let (site, access) = with_tokens("roles", &tokens());
    for (request, token, body, status) in [
        ("GET /healthz", "nobody", "", 200),
        ("GET /", "nobody", "", 200),
        ("GET /v2/health/ready", "nobody", "", 200),
        ("POST /v1/models/ctr@3:predict", "web", &*good(), 200),
        ("POST /v1/models/ctr:rank", "web", r#"{"candidates":[{"id":1,"user":"u1"}],"score":"pctr"}"#, 200),
        ("GET /v2/models/ctr", "web", "", 200),
        ("GET /v1/models/ctr", "pipe", "", 200),
        ("POST /v1/sources/clicks", "pipe", r#"{"imp_id":1}"#, 200),
        ("POST /v1/models/ctr:rollback", "boss", r#"{"version":1}"#, 200),
        ("POST /v1/models/ctr:promote", "boss", "", 200),
        ("GET /metrics", "operator", "", 200),
        ("GET /v1/status", "operator", "", 200),
    ] {
        let answer = site.send(request, &bearer(token), body);
        assert_eq!(answer.status, status, "{request} {answer:?}");
    }
    let listed =
        |token: &str| site.send("GET /v1/models", &bearer(token), "").json()["models"].as_array().unwrap().len();
    assert_eq!((listed("web"), listed("teller")), (1, 0), "a list shows what may be seen");
    // A token that is taken out of the file is out from the next request on, and a file that is wrong changes nothing.
    assert!(access.replace("tokens.json", b"{").is_err());
    assert_eq!(site.send("POST /v1/models/ctr:predict", &bearer("web"), &good()).status, 200);
    let mut fewer = tokens();
    fewer["tokens"].as_array_mut().unwrap().remove(1);
    access.replace("tokens.json", fewer.to_string().as_bytes()).unwrap();
    assert_eq!(site.send("POST /v1/models/ctr:predict", &bearer("web"), &good()).status, 401);
    assert_eq!(site.send("GET /v1/models/ctr", &bearer("pipe"), "").status, 200);
}

#[test]
fn tokens_are_asked_for_over_grpc_too() {
    let (site, _) = with_tokens("grpc-tokens", &tokens());
    let client = Client::open(&site);
    let infer = |token: &str, model: &str| -> CallAnswer {
        let request = ModelInferRequest { model_name: model.into(), ..infer_request() };
        let value = format!("Bearer secret-{token}");
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("authorization", &value)] };
        client.send(INFER, headers, framed(&request.encode_to_vec()))
    };
    assert_eq!(client.call("ServerLive", &ServerLiveRequest {}).code, OK);
    infer("", "ctr").refused(UNAUTHENTICATED, "no token; send it as 'Authorization: Bearer TOKEN'");
    infer("nobody", "ctr").refused(UNAUTHENTICATED, "token not accepted");
    infer("old", "ctr").refused(UNAUTHENTICATED, "token expired at 2026-01-31T12:00:00Z");
    infer("pipe", "ctr").refused(PERMISSION_DENIED, "needs verb infer on 'ctr'");
    infer("teller", "ctr").refused(NOT_FOUND, "no model 'ctr'; none is served yet");
    infer("teller", "nope").refused(NOT_FOUND, "no model 'nope'; none is served yet");
    assert_eq!((infer("web", "ctr").code, infer("web", "ctr@3").code), (OK, OK));
    let ready = ModelReadyRequest { name: "ctr".into(), version: String::new() };
    client.call("ModelReady", &ready).refused(UNAUTHENTICATED, "no token");
}

/// B71: who asks too often is told when to come back; nobody else notices.
#[test]
fn b71_a_rate_that_is_used_up_costs_its_tenant_alone() {
    let mut file = tokens();
    file["tenants"][1]["requests_per_second"] = json!(0.01);
    file["tenants"][1]["burst"] = json!(3);
    let (site, access) = with_tokens("rates", &file);
    let ask = |token: &str| site.send("POST /v1/models/ctr:predict", &bearer(token), &good());
    assert_eq!([0; 3].map(|_| ask("web").status), [200; 3]);
    let message = "tenant 'shop' may ask 0.01 times a second, 3 at once; try again in 100 s";
    let refused = site.refuses("POST /v1/models/ctr:predict", &bearer("web"), &good(), 429, message);
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 99, "{refused:?}");
    assert_eq!(site.send("GET /v1/models/ctr", &bearer("pipe"), "").status, 429, "another token of the tenant");
    assert_eq!(ask("operator").status, 200, "another tenant");
    let client = Client::open(&site);
    let frame = framed(&infer_request().encode_to_vec());
    let answer = client.send(INFER, &[("authorization", "Bearer secret-web")], frame.clone());
    answer.refused(RESOURCE_EXHAUSTED, "tenant 'shop' may ask");
    assert!(answer.pushback.unwrap().parse::<u64>().unwrap() >= 99_000);
    assert_eq!(client.send(INFER, &[("authorization", "Bearer secret-operator")], frame).code, OK);
    // Reading the same file again fills no bucket.
    access.replace("tokens.json", file.to_string().as_bytes()).unwrap();
    assert_eq!(ask("web").status, 429);
    let metrics = site.send("GET /metrics", &bearer("operator"), "").body;
    for expected in [
        r#"tidemill_http_refused_total{reason="rate"} 4"#,
        r#"tidemill_tenant_limited_total{tenant="shop"} 4"#,
        r#"tidemill_tenant_limited_total{tenant="all"} 0"#,
    ] {
        assert!(metrics.lines().any(|l| l == expected), "{expected} in\n{metrics}");
    }
}

/// A request that comes too late for its answer is turned away before anything is done for it.
#[test]
fn a_deadline_that_cannot_be_met_is_refused() {
    let site = open("deadline");
    let predict = "POST /v1/models/ctr:predict";
    let with = |ms: &str| format!("Request-Timeout-Ms: {ms}\r\n");
    for wrong in ["soon", "-1", "1.5", "99999999999", "10s"] {
        let message = format!("request-timeout-ms '{wrong}' is not a number of milliseconds up to 86400000");
        site.refuses(predict, &with(wrong), &good(), 400, &message);
    }
    let refused = site.refuses(predict, &with("0"), &good(), 429, "the deadline of 0ns has passed");
    assert_eq!(
        (refused.header("retry-after"), refused.json()["error"]["code"].as_str()),
        (Some("1"), Some("deadline"))
    );
    assert_eq!(site.send(predict, &with("20000"), &good()).status, 200);
    // A body that does not come in time is not waited for any longer than its answer is worth.
    let late = site.send(predict, &format!("{}Content-Length: 10\r\n", with("30")), "");
    assert_eq!((late.status, &late.json()["error"]["message"]), (429, &json!("the deadline of 30ms has passed")));
    // What a thousand rows take is known after a few of them; a millisecond is not enough once that is known.
    let many = json!({"rows": vec![row(); 1024]}).to_string();
    let learned = (0..5).all(|_| site.send(predict, &with("20000"), &many).status == 200);
    let hasty = site.send(predict, &with("1"), &many);
    assert!(learned && hasty.status == 429 && hasty.body.contains("the deadline of 1ms"), "{hasty:?}");
    assert_eq!(site.send(predict, &with("20000"), &many).status, 200, "others go on");
    let metrics = site.get("/metrics").body;
    assert!(metrics.lines().any(|l| l == r#"tidemill_http_refused_total{reason="deadline"} 3"#), "{metrics}");
}

/// What waits for its rest is held up to a bound that all share, and given back.
#[test]
fn bodies_and_requests_at_once_have_bounds() {
    let limits = Limits { bodies_bytes_max: 1 << 20, requests_max: 2, ..Limits::default() };
    let site = open_behind("held", limits, Border::default());
    let address = site.server.address();
    let begin = |bytes: usize| -> TcpStream {
        let mut stream = connect(address);
        let head = format!(
            "POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes + 10
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b' '; bytes]).unwrap();
        stream
    };
    let held = |wanted: &str| (0..20_000).any(|_| site.get("/metrics").body.lines().any(|l| l == wanted));
    let first = begin(900 << 10);
    assert!(held("tidemill_http_body_bytes 921600"));
    let mut second = begin(200 << 10);
    // It ends where the rest would follow, so that nobody waits for that.
    second.shutdown(std::net::Shutdown::Write).unwrap();
    let Answer { status, body, .. } = read_answer(&mut second);
    assert!(status == 429 && body.contains("1048576 bytes of other requests wait here already"), "{status} {body}");
    assert!(held("tidemill_http_body_bytes 921600"), "what was refused holds nothing");
    drop(first);
    assert!(held("tidemill_http_body_bytes 0"));
    let waiting = [begin(1), begin(1)];
    let refused = (0..20_000).map(|_| site.get("/healthz")).find(|answer| answer.status != 200).unwrap();
    assert!(refused.status == 429 && refused.body.contains("2 requests are being answered, which is the limit"));
    drop(waiting);
    assert!((0..20_000).any(|_| site.get("/healthz").status == 200));
    let metrics = site.get("/metrics").body;
    assert!(metrics.lines().any(|l| l == r#"tidemill_http_refused_total{reason="bodies"} 1"#), "{metrics}");
}

/// B80: the server itself refuses to be open by accident, whoever starts it.
#[test]
fn b80_an_open_server_is_not_started_where_others_reach_it() {
    let site = open("open");
    let host = Arc::new(support::Handle(site.host.clone()));
    let anywhere = "0.0.0.0:0".parse().unwrap();
    let refused = start_behind(anywhere, host.clone(), Limits::default(), Border::default()).err().unwrap();
    assert!(refused.message().starts_with("refusing to listen on 0.0.0.0:0 without TLS and tokens; use --tls-cert"));
    let meant = Border { open_to_everyone: true, ..Border::default() };
    let running = start_behind(anywhere, host.clone(), Limits::default(), meant).unwrap();
    assert!(running.stop());
    let both = Border { tls: Some(Identity::new().tls()), access: Some(access(&tokens())), open_to_everyone: false };
    assert!(start_behind(anywhere, host, Limits::default(), both).is_ok());
}
