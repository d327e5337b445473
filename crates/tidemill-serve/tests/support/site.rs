//! A server on a free port, and the few bytes of HTTP it takes to talk to it.

use std::{
    fmt::Debug,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tidemill_serve::server::{Border, Limits, Running, start_behind};

use super::{FakeHost, Handle};

const ANY: &str = "127.0.0.1:0";

pub struct Site {
    pub host: Arc<FakeHost>,
    pub server: Running,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.body)
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let line = |l: &&str| l.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(line).map(|l| l.split_once(':').unwrap().1.trim())
    }
}

pub fn open(name: &str) -> Site {
    open_with(name, Limits::default())
}

pub fn open_with(name: &str, limits: Limits) -> Site {
    open_behind(name, limits, Border::default())
}

pub fn open_behind(name: &str, limits: Limits, border: Border) -> Site {
    of(FakeHost::open(name), limits, border)
}

pub fn of(host: Arc<FakeHost>, limits: Limits, border: Border) -> Site {
    let server = start_behind(ANY.parse().unwrap(), Arc::new(Handle(host.clone())), limits, border).unwrap();
    Site { host, server }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Reads one reply to the end of the connection.
pub fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no reply: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap();
    Answer { status, head: head.to_string(), body: body.to_string() }
}

impl Site {
    pub fn raw(&self, request: &str) -> Answer {
        let mut stream = connect(self.server.address());
        stream.write_all(request.as_bytes()).unwrap();
        read_answer(&mut stream)
    }

    /// `request` is `METHOD PATH`; `headers` end in `\r\n` each.
    pub fn send(&self, request: &str, headers: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.raw(&format!(
            "{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}{length}\r\n{body}",
            self.server.address()
        ))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), "", "")
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        self.send(&format!("POST {path}"), "", body)
    }

    /// The reply is an error of this status, and its message is this.
    pub fn refuses(&self, request: &str, headers: &str, body: &str, status: u16, message: &str) -> Answer {
        let answer = self.send(request, headers, body);
        let case = format!("{request} {headers}{body}: {answer:?}");
        assert_eq!(answer.status, status, "{case}");
        assert_eq!(answer.json()["error"]["message"], message, "{case}");
        assert!(answer.json()["error"]["code"].is_string(), "{case}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{case}");
        answer
    }
}
