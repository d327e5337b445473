//! The program behind TLS and tokens: what it refuses to start with, what it lets in, what it reads again while running.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::{Value, json};

use super::support::{Scratch, Serving, eventually, tidemill};

const PROGRAM: &str = "CREATE SOURCE shown (user STRING, label BIGINT) WITH (connector = 'http');
     SELECT * FROM shown TO TRAIN LogisticRegression WITH publish.interval = '100ms' COLUMN user LABEL label INTO ctr;";

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

    /// Status and body, or nothing where this certificate is not the server's.
    fn ask(&self, s: &Serving, request: &str, token: &str, body: &str) -> Option<(u16, String)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let connection = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        let stream = TcpStream::connect(&s.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let length = body.len();
        let head =
            format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n");
        let text = format!("{head}Authorization: Bearer {token}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let status = reply.split(' ').nth(1)?.parse().ok()?;
        Some((status, reply.split_once("\r\n\r\n")?.1.to_string()))
    }
}

/// A token and its entry, as the program makes them.
fn token(name: &str, roles: &str) -> (String, Value) {
    let out = tidemill().args(["token", name, "--tenant", "shop", "--roles", roles]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let mut lines = text.lines();
    let secret = lines.next().unwrap().to_string();
    (secret, serde_json::from_str(lines.next().unwrap()).unwrap())
}

fn file(entries: &[&Value]) -> String {
    json!({"tenants": [{"name": "shop", "models": ["*"], "sources": ["*"]}], "tokens": entries}).to_string()
}

/// The weights go to those only who may have them, and encrypted where the trainer encrypts.
#[test]
fn a_replica_follows_a_guarded_trainer_with_a_token_of_the_role_admin() {
    let scratch = Scratch::new("border-follow");
    let identity = Identity::new();
    let (cert, key) = (scratch.write("cert.pem", &identity.chain), scratch.write("key.pem", &identity.key));
    let ((ops, ops_entry), (web, web_entry)) = (token("ops", "admin,ingest"), token("web", "predict"));
    let tokens = scratch.write("tokens.json", file(&[&ops_entry, &web_entry]));
    let (ops_file, web_file) = (scratch.write("ops.token", format!("{ops}\n")), scratch.write("web.token", web));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_string();
    let (trainer_data, replica_data) = (text(&scratch.path("trainer")), text(&scratch.path("replica")));
    let (cert, key, tokens) = (text(&cert), text(&key), text(&tokens));
    let guard = ["--tls-cert", &cert, "--tls-key", &key, "--tokens", &tokens];
    let mut args = vec!["run", "-e", PROGRAM, "--data-dir", &trainer_data];
    args.extend(guard);
    let trainer = Serving::start(&args);
    let address = format!("localhost:{}", trainer.address.rsplit_once(':').unwrap().1);
    let follow = ["serve", "--follow", &address, "--model", "ctr", "--data-dir", &replica_data];
    let fails = |more: &[&str]| {
        let out = tidemill().args(follow).args(["--port", "0"]).args(more).output().unwrap();
        assert_eq!(out.status.code(), Some(4), "{more:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let plain = fails(&[]);
    assert!(plain.contains("--follow-ca"), "{plain}");
    let (ops_file, web_file) = (text(&ops_file), text(&web_file));
    assert!(fails(&["--follow-ca", &cert]).contains("--follow-token"));
    assert!(fails(&["--follow-ca", &cert, "--follow-token", &web_file]).contains("needs verb follow on 'ctr'"));
    let mut args = follow.to_vec();
    args.extend(["--follow-ca", &cert, "--follow-token", &ops_file]);
    let replica = Serving::start(&args);
    let event = "{\"user\":\"ann\",\"label\":1}\n".repeat(20);
    assert_eq!(identity.ask(&trainer, "POST /v1/sources/shown", &ops, &event).unwrap().0, 200);
    eventually("what was learned is at the replica", || {
        let (status, body) = replica.post("/v1/models/ctr:predict", r#"{"rows":[{"user":"ann"}]}"#);
        let reply: Value = (status == 200).then(|| serde_json::from_str(&body).ok()).flatten()?;
        (reply["predictions"][0]["probability"].as_f64() > Some(0.6)).then_some(())
    });
}

/// B80, F46, and the command line beside it: encrypted, with tokens, both exchanged without a restart.
#[test]
fn a_server_behind_tls_and_tokens_reads_its_files_again() {
    let scratch = Scratch::new("border");
    let (first, second) = (Identity::new(), Identity::new());
    let (cert, key) = (scratch.write("cert.pem", &first.chain), scratch.write("key.pem", &first.key));
    let ((web, web_entry), (pipe, pipe_entry)) = (token("web", "predict,ingest"), token("pipe", "ingest"));
    let tokens = scratch.write("tokens.json", file(&[&web_entry]));
    let data = scratch.path("data");
    let text = |path: &std::path::Path| path.to_str().unwrap().to_string();
    let s = Serving::start(&[
        "run",
        "-e",
        PROGRAM,
        "--data-dir",
        &text(&data),
        "--listen",
        "0.0.0.0",
        "--tls-cert",
        &text(&cert),
        "--tls-key",
        &text(&key),
        "--tokens",
        &text(&tokens),
        "--limit",
        "body=1KiB",
        "--limit",
        "connections=500",
    ]);
    let rows = r#"{"rows":[{"user":"ann"}]}"#;
    let predict = "POST /v1/models/ctr:predict";
    assert_eq!(first.ask(&s, predict, &web, rows).unwrap().0, 200);
    assert_eq!(first.ask(&s, predict, "wrong", rows).unwrap().0, 401);
    assert_eq!(first.ask(&s, predict, &web, &" ".repeat(1025)).unwrap().0, 413);
    let event = r#"{"user":"ann","label":1}"#;
    assert_eq!(first.ask(&s, "POST /v1/sources/shown", &pipe, event).unwrap().0, 401);
    assert_eq!(first.ask(&s, "POST /v1/sources/shown", &web, event).unwrap().0, 200);
    // The owner of the data directory needs no token of his own.
    let versions = || {
        let body = first.ask(&s, "GET /v1/models/ctr", &web, "").unwrap().1;
        serde_json::from_str::<Value>(&body).unwrap()["versions"].as_array().unwrap().len()
    };
    eventually("a version", || (versions() == 1).then_some(()));
    assert_eq!(first.ask(&s, "POST /v1/sources/shown", &web, event).unwrap().0, 200);
    eventually("a second one", || (versions() == 2).then_some(()));
    let out = tidemill().args(["models", "rollback", "ctr@1", "--data-dir", &text(&data)]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(first.ask(&s, "GET /v1/models/ctr", &web, "").unwrap().1.contains(r#""live":"pinned 1""#));
    // What cannot be read changes nothing; what can is in effect within seconds.
    scratch.write("tokens.json", "{");
    scratch.write("tokens.json", file(&[&web_entry, &pipe_entry]));
    eventually("the new token", || {
        (first.ask(&s, "POST /v1/sources/shown", &pipe, event).unwrap().0 == 200).then_some(())
    });
    scratch.write("cert.pem", &second.chain);
    scratch.write("key.pem", &second.key);
    eventually("the new certificate", || second.ask(&s, predict, &web, rows).filter(|reply| reply.0 == 200));
    assert!(first.ask(&s, predict, &web, rows).is_none());
    let (code, _) = s.end("-TERM");
    assert_eq!(code, Some(0));
}

/// What a server cannot be started with is said at once, with the file and the way out.
#[test]
fn what_is_wrong_with_a_border_is_said_at_the_start() {
    let scratch = Scratch::new("border-start");
    let (one, other) = (Identity::new(), Identity::new());
    let write = |name: &str, text: &str| scratch.write(name, text).to_str().unwrap().to_string();
    let (cert, key) = (write("cert.pem", &one.chain), write("key.pem", &other.key));
    let tokens = write("tokens.json", r#"{"tenants": [], "tokens": [{"name": "web"}]}"#);
    let refused = |args: &[&str]| {
        let mut command = tidemill();
        command.args(["run", "-e", PROGRAM, "--port", "0", "--data-dir"]).arg(scratch.path("data")).args(args);
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let missing = scratch.path("missing.pem").to_str().unwrap().to_string();
    for (args, code, message) in [
        (vec!["--listen", "0.0.0.0"], 2, "error[invalid]: refusing to listen on 0.0.0.0:0 without TLS and tokens; use --tls-cert, --tls-key and --tokens, listen on 127.0.0.1, or say --open-to-everyone".to_string()),
        (vec!["--tls-cert", &cert], 2, "--tls-key <FILE>".to_string()),
        (vec!["--tls-cert", &missing, "--tls-key", &key], 3, format!("error[not_found]: open {missing}: No such file")),
        (vec!["--tls-cert", &cert, "--tls-key", &key], 2, format!("error[invalid]: {key} is not the key of the certificate in {cert}")),
        (vec!["--tls-cert", &key, "--tls-key", &key], 2, format!("error[invalid]: {key}: no certificate in it")),
        (vec!["--tokens", &tokens], 2, format!("error[invalid]: {tokens}: tokens[0].tenant: expected a text")),
        (vec!["--limit", "size=1"], 2, "error[invalid]: --limit: no limit 'size'; limits are body (".to_string()),
    ] {
        let (found, text) = refused(&args);
        assert_eq!(found, Some(code), "{args:?}: {text}");
        assert!(text.contains(&message), "{args:?}: {text}");
    }
}
