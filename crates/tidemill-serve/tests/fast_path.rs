//! Plain requests are answered as hyper answers them, whatever comes before, behind or instead of them.

#![allow(clippy::disallowed_methods, reason = "a pause between two parts of a request is what is tried here")]

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use support::site::{Site, connect, open, open_with};
use tidemill_base::Rng;
use tidemill_serve::server::Limits;

const ROWS: &str = r#"{"rows":[{"user":"u1","item":"i1","price":2.5},{"user":"u2","item":"i1","price":1.0}]}"#;
const TENSORS: &str = r#"{"id":"7","inputs":[{"name":"user","datatype":"BYTES","shape":[1],"data":["u1"]},{"name":"item","datatype":"BYTES","shape":[1],"data":["i1"]},{"name":"price","datatype":"FP64","shape":[1],"data":[2.5]}]}"#;
const CANDIDATES: &str = r#"{"context":{"user":"u1"},"candidates":[{"id":"a","item":"i1"},{"id":"b","item":"i2"}]}"#;

/// Ends a connection, unless what came before takes it for its own end.
const LAST: &[u8] = b"GET /v1/models/none HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
const WAIT: Duration = Duration::from_millis(200);

fn request(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The first so many of [`requests`] are plain.
const PLAIN: usize = 5;

fn requests() -> Vec<String> {
    let json = "Content-Type: application/json\r\nUser-Agent: x\r\nAccept: */*\r\nConnection: keep-alive\r\n";
    vec![
        request("/v1/models/ctr:predict", json, ROWS),
        request("/v1/models/ctr:predict", "", ROWS),
        request("/v1/models/ctr:explain", json, &ROWS.replace(r#","price":2.5"#, "")),
        request("/v1/models/ctr:rank", json, CANDIDATES),
        request("/v2/models/ctr/infer", json, TENSORS),
        request("/v2/models/ctr@9/infer", json, TENSORS),
        request("/v2/models/none/infer", json, TENSORS),
        request("/v1/models/ctr:predict", json, r#"{"rows":[{"price":-1}]}"#),
        request("/v1/models/ctr:predict", json, "{"),
        request("/v1/models/ctr:predict", json, ""),
        request("/v1/models/ctr:predict", "Origin: http://evil.example\r\n", ROWS),
        request("/v1/sources/impressions", json, "{}"),
        "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".to_string(),
    ]
}

/// Requests that took the fast path.
fn plain(site: &Site) -> u64 {
    let metrics = site.get("/metrics").body;
    let count = metrics.lines().find_map(|line| line.strip_prefix("tidemill_http_plain_requests_total "));
    count.unwrap().parse().unwrap()
}

/// One whole reply.
fn read_one(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() == length.unwrap().parse::<usize>().unwrap() {
                return text;
            }
        }
        let mut piece = [0; 2048];
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "{text}");
        text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
    }
}

/// What comes back on a connection on which these parts are sent, a moment between them, and then [`LAST`]; without the day and
/// time. `through_hyper`: the connection has left the fast path before.
fn replies(address: SocketAddr, through_hyper: bool, parts: &[&[u8]]) -> String {
    let mut stream = connect(address);
    stream.set_nodelay(true).unwrap();
    if through_hyper {
        stream.write_all(b"GET /v1/models/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        read_one(&mut stream);
    }
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            thread::sleep(Duration::from_millis(2));
        }
        // A connection that is closed already has said why.
        let _ = stream.write_all(part);
    }
    let _ = stream.write_all(LAST);
    let mut bytes = Vec::new();
    // It may be reset behind its last reply.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let text: String = text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect();
    // A ranking says when it was made.
    let mut parts = text.split(r#""now":"#);
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Sends the same both ways.
fn compare(site: &Site, bytes: &[u8]) -> String {
    let address = site.server.address();
    let [fast, hyper] = [false, true].map(|through_hyper| replies(address, through_hyper, &[bytes]));
    assert_eq!(fast, hyper, "{}", bytes.escape_ascii());
    fast
}

#[test]
fn both_ways_answer_the_same() {
    let site = open("fast-same");
    let requests = requests();
    for (i, request) in requests.iter().enumerate() {
        let (before, reply) = (plain(&site), compare(&site, request.as_bytes()));
        assert!(reply.starts_with("HTTP/1.1 "), "{reply}");
        assert_eq!(plain(&site) - before, u64::from(i < PLAIN), "{request}");
    }
    // One behind the other without waiting, from plain ones to others and back.
    let reply = compare(&site, requests[..6].concat().as_bytes());
    assert_eq!(reply.matches("HTTP/1.1 200 OK").count(), 5, "{reply}");
    compare(&site, [&requests[4], &requests[12], &requests[4]].map(String::as_str).concat().as_bytes());
    compare(&site, (requests[4].clone() + &request("/v1/models/ctr:predict", "", &ROWS.repeat(400))).as_bytes());
}

#[test]
fn where_a_request_is_cut_in_two_changes_nothing() {
    let site = open("fast-cut");
    let address = site.server.address();
    let both = requests()[4].repeat(2);
    let whole = replies(address, true, &[both.as_bytes()]);
    assert_eq!(whole.matches("HTTP/1.1 200 OK").count(), 2, "{whole}");
    thread::scope(|scope| {
        for first in 0..4 {
            let (both, whole) = (&both, &whole);
            scope.spawn(move || {
                for at in (first..both.len()).step_by(4) {
                    let (one, other) = both.as_bytes().split_at(at);
                    assert_eq!(&replies(address, false, &[one, other]), whole, "cut at {at}");
                }
            });
        }
    });
}

/// What a stranger sends: requests with some bytes changed, taken out, put in, or lines said twice.
#[test]
fn what_is_nearly_a_request_is_answered_the_same() {
    let limits = Limits { header_timeout: WAIT, body_timeout: WAIT, ..Limits::default() };
    let site = open_with("fast-mutated", limits);
    let requests = requests();
    thread::scope(|scope| {
        for seed in 0..8 {
            let (site, requests) = (&site, &requests);
            // They wait most of the time, where a length is wrong.
            scope.spawn(move || {
                let mut rng = Rng::seeded(seed);
                (0..200).for_each(|_| _ = compare(site, &nearly(requests, &mut rng)));
            });
        }
    });
}

fn nearly(requests: &[String], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = requests[rng.below(requests.len() as u64) as usize].clone().into_bytes();
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(5) {
            0 => bytes[at] = rng.below(256) as u8,
            1 => _ = bytes.remove(at),
            2 => bytes.insert(at, b" \r\n:,;?%+0\0\x80"[rng.below(12) as usize]),
            3 => bytes.truncate(at.max(1)),
            _ => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let lines: Vec<&str> = text.split_inclusive("\r\n").collect();
                let line = rng.below(lines.len() as u64) as usize;
                bytes = [&lines[..line], &lines[line..=line], &lines[line..]].concat().concat().into_bytes();
            }
        }
    }
    bytes
}

/// A head whose body comes late or never is hyper's to wait for.
#[test]
fn a_body_may_come_late() {
    let site = open_with("fast-late", Limits { body_timeout: Duration::from_millis(400), ..Limits::default() });
    let request = &requests()[4];
    let (head, body) = request.split_at(request.len() - TENSORS.len());
    let mut stream = connect(site.server.address());
    for pause_ms in [0, 5, 150, 0] {
        stream.write_all(head.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(pause_ms));
        stream.write_all(body.as_bytes()).unwrap();
        let text = read_one(&mut stream);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\r\ndate: "), "{text}");
    }
    let answer = site.raw(head);
    assert_eq!(answer.status, 408, "{answer:?}");
}
