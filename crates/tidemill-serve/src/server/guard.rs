//! Which requests are let in at all: not those that another web site makes a browser send.
//!
//! A browser on this machine reaches 127.0.0.1 for any page it shows. Two ways are closed: a page elsewhere that posts here
//! (its `Origin` is not this host), and a page whose name was made to point here (its `Host` is a name while the server
//! listens to this machine only).

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
};

use super::{
    headers,
    reply::{Refusal, shown},
};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what comes from another site, and what does not say once to whom it speaks (RFC 9112, 3.2). `loopback`: only this
/// machine can reach the server.
pub(super) fn check(version: Version, method: &Method, headers: &HeaderMap, loopback: bool) -> Result<(), Refusal> {
    if version == Version::HTTP_11 && count(headers, &header::HOST) != 1 {
        let message = "a request of HTTP/1.1 has one Host header";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid", message).closing());
    }
    // As bytes: every request comes through here, and hardly one is refused.
    let bytes = |name| headers::find(headers, &name).map(HeaderValue::as_bytes);
    let text = |bytes| shown(&String::from_utf8_lossy(bytes));
    let host = bytes(header::HOST).unwrap_or_default();
    if loopback && !host.is_empty() && !names_this_machine(host) {
        return Err(forbidden(format!("Host '{}' is not this machine", text(host)))
            .hint("use http://127.0.0.1 or http://localhost with the port"));
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    match bytes(header::ORIGIN) {
        Some(origin) if !is_origin_of(origin, host) => {
            Err(forbidden(format!("requests from '{}' are not taken here", text(origin))))
        }
        None if bytes(FETCH_SITE).is_some_and(|site| site == b"cross-site") => {
            Err(forbidden("requests from another site are not taken here".into()))
        }
        _ => Ok(()),
    }
}

fn count(headers: &HeaderMap, name: &HeaderName) -> usize {
    headers.iter().filter(|(other, _)| *other == name).count()
}

fn is_origin_of(origin: &[u8], host: &[u8]) -> bool {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    !host.is_empty() && authority.is_some_and(|a| a.eq_ignore_ascii_case(host))
}

/// Whether a `Host` is an address, or the name of this machine.
pub(super) fn names_this_machine(host: &[u8]) -> bool {
    let name = match host.strip_prefix(b"[") {
        Some(v6) => v6.split(|b| *b == b']').next().unwrap_or_default(),
        None => host.iter().rposition(|b| *b == b':').map_or(host, |colon| &host[..colon]),
    };
    let is_address = || std::str::from_utf8(name).is_ok_and(|name| name.parse::<IpAddr>().is_ok());
    name == b"127.0.0.1" || name.eq_ignore_ascii_case(b"localhost") || is_address()
}

fn forbidden(message: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "forbidden", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, loopback: bool, headers: &[(HeaderName, &'static str)]) -> u16 {
        let headers: HeaderMap = headers.iter().map(|(n, v)| (n.clone(), v.parse().unwrap())).collect();
        check(Version::HTTP_10, &method, &headers, loopback).map_or_else(|r| r.status.as_u16(), |_| 200)
    }

    #[test]
    fn a_request_says_once_to_whom_it_speaks() {
        let host = (header::HOST, HeaderValue::from_static("127.0.0.1"));
        let status = |version, headers: &[(HeaderName, HeaderValue)]| {
            let mut map = HeaderMap::new();
            headers.iter().for_each(|(name, value)| _ = map.append(name, value.clone()));
            check(version, &Method::GET, &map, true).map_or_else(|r| r.status.as_u16(), |()| 200)
        };
        assert_eq!(status(Version::HTTP_11, std::slice::from_ref(&host)), 200);
        assert_eq!(status(Version::HTTP_11, &[host.clone(), host.clone()]), 400);
        assert_eq!(status(Version::HTTP_11, &[]), 400);
        assert_eq!((status(Version::HTTP_10, &[]), status(Version::HTTP_2, &[])), (200, 200));
    }

    /// A page elsewhere must not be able to push events, roll back, or read what is served here.
    #[test]
    fn requests_of_other_sites_are_refused() {
        let host = (header::HOST, "127.0.0.1:8470");
        let from = |origin| (header::ORIGIN, origin);
        for (expected, method, loopback, headers) in [
            (200, Method::POST, true, vec![host.clone()]),
            (200, Method::POST, true, vec![host.clone(), from("http://127.0.0.1:8470")]),
            (200, Method::POST, true, vec![(header::HOST, "LocalHost:8470"), from("http://localhost:8470")]),
            (200, Method::POST, true, vec![(header::HOST, "[::1]:8470"), from("http://[::1]:8470")]),
            (403, Method::POST, true, vec![host.clone(), from("http://evil.example")]),
            (403, Method::POST, true, vec![host.clone(), from("http://127.0.0.1:9999")]),
            (403, Method::POST, true, vec![host.clone(), from("null")]),
            (403, Method::POST, true, vec![from("http://127.0.0.1:8470")]),
            (403, Method::POST, true, vec![host.clone(), (FETCH_SITE, "cross-site")]),
            (200, Method::GET, true, vec![host.clone(), from("http://evil.example")]),
            (403, Method::GET, true, vec![(header::HOST, "evil.example:8470")]),
            (403, Method::POST, true, vec![(header::HOST, "evil.example"), from("http://evil.example")]),
            (200, Method::GET, false, vec![(header::HOST, "trainer.internal:8470")]),
            (200, Method::GET, true, vec![]),
        ] {
            assert_eq!(status(method, loopback, &headers), expected, "{headers:?}");
        }
    }
}
