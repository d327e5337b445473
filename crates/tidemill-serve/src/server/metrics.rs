//! The server's own numbers, as Prometheus text beside the engine's.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Routes as metrics name them; `none` is for requests that no route takes.
const ROUTES: [&str; 22] = [
    "page", "healthz", "metrics", "status", "events", "feed", "models", "model", "predict", "rank", "rankings",
    "rollback", "promote", "label", "split", "rollout", "follow", "push", "oip", "infer", "grpc", "none",
];
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];
/// Upper ends of the buckets of the predict time, microseconds.
const BUCKETS_US: [u64; 9] = [50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000];

/// Counters; each is changed by one instruction.
#[derive(Default)]
pub(super) struct Metrics {
    requests: [[AtomicU64; CLASSES.len()]; ROUTES.len()],
    predict: [AtomicU64; BUCKETS_US.len() + 1],
    predict_us: AtomicU64,
    rows: AtomicU64,
    connections: Arc<AtomicU64>,
    turned_away: AtomicU64,
}

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

    pub fn request(&self, route: &str, status: u16) {
        let route = ROUTES.iter().position(|r| *r == route).unwrap_or(ROUTES.len() - 1);
        let class = match status {
            500.. => 2,
            400.. => 1,
            _ => 0,
        };
        self.requests[route][class].fetch_add(1, Relaxed);
    }

    pub fn predicted(&self, rows: usize, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = BUCKETS_US.iter().position(|&end| us <= end).unwrap_or(BUCKETS_US.len());
        self.predict[bucket].fetch_add(1, Relaxed);
        self.predict_us.fetch_add(us, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    pub fn to_text(&self) -> String {
        let mut out = String::new();
        head(&mut out, "tidemill_http_requests_total", "counter", "Requests answered, by route and class of status.");
        for (route, classes) in ROUTES.iter().zip(&self.requests) {
            for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| count.load(Relaxed) > 0) {
                line(&mut out, &format!("tidemill_http_requests_total{{route=\"{route}\",status=\"{class}\"}}"), count);
            }
        }
        head(&mut out, "tidemill_http_connections", "gauge", "Connections that are open.");
        line(&mut out, "tidemill_http_connections", &self.connections);
        head(
            &mut out,
            "tidemill_http_connections_refused_total",
            "counter",
            "Connections refused because too many were open.",
        );
        line(&mut out, "tidemill_http_connections_refused_total", &self.turned_away);
        head(&mut out, "tidemill_predicted_rows_total", "counter", "Rows predicted over HTTP.");
        line(&mut out, "tidemill_predicted_rows_total", &self.rows);
        self.predict_text(&mut out);
        out
    }

    fn predict_text(&self, out: &mut String) {
        let name = "tidemill_predict_seconds";
        head(out, name, "histogram", "Time to answer a predict request, its body being there.");
        let mut total = 0;
        for (i, count) in self.predict.iter().enumerate() {
            total += count.load(Relaxed);
            let end = BUCKETS_US.get(i).map_or("+Inf".to_string(), |&us| (us as f64 / 1e6).to_string());
            let _ = writeln!(out, "{name}_bucket{{le=\"{end}\"}} {total}");
        }
        let _ = writeln!(out, "{name}_sum {}", self.predict_us.load(Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {total}");
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
