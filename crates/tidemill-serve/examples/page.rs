//! The page with made-up numbers that move, for whoever works on it: `cargo run -p tidemill-serve --example page -- 8471`.
//!
//! The feed is real as far as it goes: clicks raise the weights of what was shown, and predictions follow. The figures in
//! the charts are invented; a drift step comes every 10 seconds.

#[path = "../tests/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use support::{FakeHost, Handle, meta, row, snapshot};
use tidemill_base::{Clock, Rng, SystemClock};
use tidemill_serve::{registry::VersionMeta, server::start};

const POINTS_MAX: usize = 600;
const DRIFT_EVERY_MS: i64 = 10_000;
const START_MS: i64 = 1_700_000_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(8471);
    let (host, clock) = (FakeHost::open("page"), SystemClock::new());
    *host.feed.lock().unwrap() = std::env::args().nth(2).is_none_or(|a| a != "no-feed").then(feed);
    let server = start(([127, 0, 0, 1], port).into(), Arc::new(Handle(host.clone()))).unwrap();
    println!("http://{}/", server.address());
    let mut world = World { rng: Rng::seeded(7), history: Vec::new(), events: 0.0 };
    // As if it had been running for a minute and a half.
    (0..360).for_each(|i| world.step(i * 250));
    let mut version = 3;
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let at_ms = 90_000 + clock.elapsed().as_millis() as i64;
        world.step(at_ms);
        if (at_ms - 90_000) / 6000 > version - 3 {
            version += 1;
            let now = VersionMeta { created_ms: clock.wall_ms(), ..meta(version as u64) };
            host.served.registry().add(&now, &snapshot(&row(), 0.1 * version as f32)).unwrap();
            host.served.registry().retain(8).unwrap();
            host.nudge(&[1], 0.1, version as u64);
        }
        *host.status.lock().unwrap() = world.status(&host.served.to_json());
    }
}

struct World {
    rng: Rng,
    history: Vec<Value>,
    events: f64,
}

impl World {
    fn step(&mut self, at_ms: i64) {
        let since_drift = (at_ms % DRIFT_EVERY_MS) as f64 / 1000.0;
        let excess = 0.01 + 0.07 * (-since_drift / 1.8).exp() + 0.6 * (-(at_ms as f64) / 900.0).exp();
        let best = 0.4012 + 0.002 * self.rng.normal();
        let rate = 41_000.0 + 1500.0 * self.rng.normal();
        self.events += rate / 4.0;
        let staleness = 3.0 + 0.6 * self.rng.exponential(1.0);
        let point =
            json!([START_MS + at_ms, best * (1.0 + excess), best, rate.round(), staleness, 0.77 - excess / 3.0]);
        self.history.push(point);
        if self.history.len() > POINTS_MAX {
            self.history.remove(0);
        }
    }

    fn status(&self, model: &Value) -> Value {
        let last = &self.history[self.history.len() - 1];
        let first_drift = (self.history[0][0].as_i64().unwrap() - START_MS) / DRIFT_EVERY_MS;
        let drift: Vec<i64> = (1..64).map(|i| START_MS + (first_drift + i) * DRIFT_EVERY_MS).collect();
        let calibration: Vec<Value> = (0..10)
            .map(|i| {
                let p = i as f64 / 10.0 + 0.047;
                json!({"count": (60_000.0 * (-p * 6.0).exp()) as u64, "mean_p": p, "mean_label": p + 0.02 * (p * 21.0).sin()})
            })
            .collect();
        json!({
            "state": "learning", "model": "ctr", "version": model["version"], "mini_batch": self.events as u64 / 64,
            "events": self.events as u64, "events_per_s": last[3], "samples": (self.events * 0.83) as u64,
            "positives": (self.events * 0.166) as u64, "logloss": 0.4171, "best_logloss": 0.4013,
            "recent": {"logloss": last[1], "best_logloss": last[2], "auc": last[5], "samples": 100_000},
            "auc": 0.7688, "calibration": calibration, "staleness_ms": last[4], "event_time_ms": last[0],
            "watermark_ms": last[0], "pending": 20_412, "entries": 1_204, "table_bytes": 3_145_728, "rss_bytes": 88_080_384,
            "counters": {"late": 12, "duplicate": 0, "refused": 3, "unmatched": 41},
            "drift_ms": drift, "history": self.history, "versions": model["versions"],
        })
    }
}

fn feed() -> Value {
    let items = [
        "harbour at dawn",
        "tidal mill, 1170",
        "salt marsh birds",
        "bread from the mill",
        "river locks",
        "moon and sea",
        "old water wheels",
        "boats for sale",
        "flour, stone ground",
        "coast path, day 3",
    ];
    let item = |(i, title): (usize, &&str)| {
        let row = json!({"user": "u1", "item": format!("i{i}"), "price": 0.1 * i as f64 - 0.0});
        json!({"title": title, "about": format!("item i{i}"), "row": row})
    };
    json!({
        "model": "ctr", "impressions_source": "impressions", "clicks_source": "clicks", "id_column": "imp_id",
        "time_column": "ts", "user": {"column": "user", "value": "you"},
        "items": items.iter().enumerate().map(item).collect::<Vec<_>>(),
    })
}
