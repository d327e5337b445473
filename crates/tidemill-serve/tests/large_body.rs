//! A body far too long, in a process of its own: its memory is measured.

mod support;

use std::io::Write;

use support::site::{connect, open, read_answer};

fn resident_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// 100 MB are refused without being held, whether their length is told or not, and the caller gets to read it.
#[test]
fn a_body_of_a_hundred_megabytes_is_refused_and_not_held() {
    let site = open("large");
    let before = resident_peak_kib();
    let piece = vec![b' '; 1 << 20];
    for chunked in [false, true] {
        let mut stream = connect(site.server.address());
        let length =
            if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {}", 100 << 20) };
        let head =
            format!("POST /v1/models/ctr:predict HTTP/1.1\r\nHost: {}\r\n{length}\r\n\r\n", site.server.address());
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..100 {
            if chunked {
                stream.write_all(b"100000\r\n").unwrap();
            }
            stream.write_all(&piece).unwrap();
            if chunked {
                stream.write_all(b"\r\n").unwrap();
            }
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").unwrap();
        }
        let answer = read_answer(&mut stream);
        assert_eq!((answer.status, answer.header("connection")), (413, Some("close")), "{answer:?}");
        assert_eq!(answer.json()["error"]["message"], "request body is longer than 4194304 bytes");
    }
    let grown = resident_peak_kib() - before;
    assert!(grown < 40 << 10, "{grown} KiB");
    assert_eq!(site.post("/v1/models/ctr:predict", r#"{"rows":[{}]}"#).status, 200);
}
