//! The server's own numbers, as Prometheus text beside the engine's.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::load::Load;

/// Routes as metrics name them, the busiest first, as they are looked for in this order; `none` is for requests that no
/// route takes.
const ROUTES: [&str; 23] = [
    "infer", "predict", "push", "rank", "grpc", "page", "healthz", "metrics", "status", "events", "feed", "models",
    "model", "explain", "rankings", "rollback", "promote", "label", "split", "rollout", "follow", "oip", "none",
];
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];
/// Upper ends of the buckets of times, microseconds.
const BUCKETS_US: [u64; 9] = [50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000];

/// Counters; each is changed by one instruction.
#[derive(Default)]
pub(super) struct Metrics {
    requests: [[AtomicU64; CLASSES.len()]; ROUTES.len()],
    plain: AtomicU64,
    predict: Times,
    rows: AtomicU64,
    rank: Times,
    candidates: AtomicU64,
    connections: Arc<AtomicU64>,
    turned_away: AtomicU64,
    made_room: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
}

/// How many requests took how long.
#[derive(Default)]
struct Times {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    us: AtomicU64,
}

impl Times {
    fn add(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = BUCKETS_US.iter().position(|&end| us <= end).unwrap_or(BUCKETS_US.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.us.fetch_add(us, Relaxed);
    }

    fn to_text(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        let mut total = 0;
        for (i, count) in self.buckets.iter().enumerate() {
            total += count.load(Relaxed);
            let end = BUCKETS_US.get(i).map_or("+Inf".to_string(), |&us| (us as f64 / 1e6).to_string());
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}", self.us.load(Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {total}");
    }
}

/// Why a request or a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No token, or none that holds.
    Unauthorized,
    /// A token without the role.
    Forbidden,
    /// A tenant or token that asks too often.
    Rate,
    /// A deadline that cannot be met.
    Deadline,
    /// Too many requests at once.
    Requests,
    /// Too many bytes of bodies at once.
    Bodies,
    /// A body that did not come in time.
    Slow,
    /// A connection of HTTP/2 that sent little but control frames.
    Flood,
    /// A connection that could not agree on TLS.
    Tls,
}

const REASONS: [(Reason, &str); 9] = [
    (Reason::Unauthorized, "unauthorized"),
    (Reason::Forbidden, "forbidden"),
    (Reason::Rate, "rate"),
    (Reason::Deadline, "deadline"),
    (Reason::Requests, "requests"),
    (Reason::Bodies, "bodies"),
    (Reason::Slow, "slow"),
    (Reason::Flood, "flood"),
    (Reason::Tls, "tls"),
];

/// A connection that is open.
pub(super) struct OpenConnection(Arc<AtomicU64>);

impl Metrics {
    pub fn connection(&self) -> OpenConnection {
        self.connections.fetch_add(1, Relaxed);
        OpenConnection(self.connections.clone())
    }

    pub fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    pub fn made_room(&self) {
        self.made_room.fetch_add(1, Relaxed);
    }

    pub fn refused(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a refusal that has a reason of its own.
    pub fn refusal(&self, status: u16, code: &str) {
        match (status, code) {
            (401, _) => self.refused(Reason::Unauthorized),
            (403, _) => self.refused(Reason::Forbidden),
            (408, _) => self.refused(Reason::Slow),
            (429, "rate_limited") => self.refused(Reason::Rate),
            (429, "deadline") => self.refused(Reason::Deadline),
            _ => {}
        }
    }

    pub fn request(&self, route: &str, status: u16) {
        let route = ROUTES.iter().position(|r| *r == route).unwrap_or(ROUTES.len() - 1);
        let class = match status {
            500.. => 2,
            400.. => 1,
            _ => 0,
        };
        self.requests[route][class].fetch_add(1, Relaxed);
    }

    /// One of those that were answered was plain.
    pub fn plain(&self) {
        self.plain.fetch_add(1, Relaxed);
    }

    pub fn predicted(&self, rows: usize, took: Duration) {
        self.predict.add(took);
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    pub fn ranked(&self, candidates: usize, took: Duration) {
        self.rank.add(took);
        self.candidates.fetch_add(candidates as u64, Relaxed);
    }

    pub fn to_text(&self, load: &Load, tenants: &[(String, u64, u64)]) -> String {
        let mut out = String::new();
        head(&mut out, "tidemill_http_refused_total", "counter", "Requests and connections not let in, by reason.");
        for (reason, name) in REASONS {
            line(
                &mut out,
                &format!("tidemill_http_refused_total{{reason=\"{name}\"}}"),
                &self.refused[reason as usize],
            );
        }
        let gauges = [
            ("tidemill_http_requests_in_flight", "Requests that are being answered.", load.requests() as f64),
            ("tidemill_http_body_bytes", "Bytes of bodies that have not come whole.", load.bodies_bytes() as f64),
            (
                "tidemill_http_lateness_seconds",
                "How long what is ready waits for a thread.",
                load.lateness().as_secs_f64(),
            ),
        ];
        for (name, help, value) in gauges {
            head(&mut out, name, "gauge", help);
            let _ = writeln!(out, "{name} {value}");
        }
        tenants_text(&mut out, tenants);
        head(&mut out, "tidemill_http_requests_total", "counter", "Requests answered, by route and class of status.");
        for (route, classes) in ROUTES.iter().zip(&self.requests) {
            for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| count.load(Relaxed) > 0) {
                line(&mut out, &format!("tidemill_http_requests_total{{route=\"{route}\",status=\"{class}\"}}"), count);
            }
        }
        let name = "tidemill_http_plain_requests_total";
        head(&mut out, name, "counter", "Requests answered that came whole and said nothing unusual: the fast path.");
        line(&mut out, name, &self.plain);
        head(&mut out, "tidemill_http_connections", "gauge", "Connections that are open.");
        line(&mut out, "tidemill_http_connections", &self.connections);
        head(
            &mut out,
            "tidemill_http_connections_refused_total",
            "counter",
            "Connections refused because too many were open.",
        );
        line(&mut out, "tidemill_http_connections_refused_total", &self.turned_away);
        head(
            &mut out,
            "tidemill_http_connections_closed_for_others_total",
            "counter",
            "Connections without a request that were closed because too many were open.",
        );
        line(&mut out, "tidemill_http_connections_closed_for_others_total", &self.made_room);
        head(&mut out, "tidemill_predicted_rows_total", "counter", "Rows predicted over HTTP.");
        line(&mut out, "tidemill_predicted_rows_total", &self.rows);
        self.predict.to_text(
            &mut out,
            "tidemill_predict_seconds",
            "Time to answer a predict request, its body being there.",
        );
        head(&mut out, "tidemill_ranked_candidates_total", "counter", "Candidates ranked over HTTP.");
        line(&mut out, "tidemill_ranked_candidates_total", &self.candidates);
        self.rank.to_text(&mut out, "tidemill_rank_seconds", "Time to answer a rank request, its body being there.");
        out
    }
}

fn tenants_text(out: &mut String, tenants: &[(String, u64, u64)]) {
    if tenants.is_empty() {
        return;
    }
    let name = "tidemill_tenant_requests_total";
    head(out, name, "counter", "Requests with a token of the tenant.");
    for (tenant, requests, _) in tenants {
        let _ = writeln!(out, "{name}{{tenant=\"{tenant}\"}} {requests}");
    }
    let name = "tidemill_tenant_limited_total";
    head(out, name, "counter", "Requests refused because tenant or token asked too often.");
    for (tenant, _, limited) in tenants {
        let _ = writeln!(out, "{name}{{tenant=\"{tenant}\"}} {limited}");
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, value: &AtomicU64) {
    let _ = writeln!(out, "{name} {}", value.load(Relaxed));
}
