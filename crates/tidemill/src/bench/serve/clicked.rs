//! From a click to the prediction that knows it, in one process that learns 50,000 impressions a second (or another number) meanwhile.
//!
//! In: the demo's program at that rate. Out: how long it takes from the push of a click to the first reply that shows it, asked
//! every 0.5 ms on one connection: who asks much more often takes most of the core that learns, and measures that.
//! Each click belongs to an impression of its own with values that nobody else has, so
//! what changes its prediction is the click: what all others teach meanwhile moves it far less than is looked for.

use std::time::Duration;

use serde_json::{Value, json};
use tidemill_base::{Clock, Error, Result, SystemClock};
use tidemill_model::math::ln;

use super::{
    super::{
        Case,
        load::{Load, Times, get, post},
    },
    Group, Stage,
    process::Server,
};

pub(super) const GROUP: Group = Group { cases: &CASES, usual: CASES.len(), measure };

const CASES: [(&str, &str); 3] = [
    ("click to changed prediction, p50", "ms"),
    ("click to changed prediction, p99", "ms"),
    ("click to changed prediction, learned meanwhile", "events/s"),
];

/// By so much the score (the logit of the probability) changes at least once the impression, or the click, is learned.
const CHANGE_MIN: f64 = 0.2;
const CLICKS_PER_SECOND: f64 = 100.0;
const CLICKS_MIN: usize = 3;
/// Between two requests for a prediction.
const ASK_EVERY: Duration = Duration::from_micros(500);
const CATEGORIES: usize = 26;
const CHANGE_TIME_MAX: Duration = Duration::from_secs(30);
/// Ids that the generator does not come to.
const FIRST_ID: u64 = 1 << 40;

fn measure(stage: &Stage, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let plan = stage.plan;
    // Their clicks come on top.
    let rate = plan.impressions.to_string();
    tell(&format!("starting a job that learns {rate} impressions a second"));
    let dir = stage.dir("clicked")?.display().to_string();
    let server = Server::start(&["demo", "--rate", &rate, "--data-dir", &dir, "--port", "0", "--threads", "1"])?;
    let mut bench = Bench { load: Load::open(server.address, 0)?, server, clicks: 0 };
    let clicks = ((plan.seconds * CLICKS_PER_SECOND) as usize).max(CLICKS_MIN);
    let mut cases = GROUP.empty();
    // The first click waits for the stream to be under way.
    bench.click()?;
    for round in 1..=plan.rounds {
        stage.say(tell, round, "clicks, one after the other");
        let (events, began) = (bench.events()?, bench.server.clock.elapsed());
        let mut times = Times::default();
        for _ in 0..clicks {
            times.count(bench.click()?);
        }
        for (i, share) in [0.5, 0.99].into_iter().enumerate() {
            cases[i].values.push(times.quantile_us(share) / 1e3);
        }
        let seconds = (bench.server.clock.elapsed() - began).as_secs_f64();
        cases[2].values.push((bench.events()? - events) / seconds);
    }
    Ok(cases)
}

struct Bench {
    load: Load,
    server: Server,
    clicks: u64,
}

impl Bench {
    /// Shows something new, waits until that is learned, and clicks it; how long until the prediction knows the click.
    fn click(&mut self) -> Result<Duration> {
        self.clicks += 1;
        let (id, ts) = (FIRST_ID + self.clicks, SystemClock::new().wall_ms());
        let mut row = serde_json::Map::new();
        (1..=CATEGORIES).for_each(|i| _ = row.insert(format!("C{i}"), format!("new-{}", self.clicks).into()));
        let ask = self.post("/v1/models/ctr:predict", &json!({"rows": [&row]}));
        row.extend([("imp_id".to_string(), id.into()), ("ts".to_string(), ts.into())]);
        let shown = self.post("/v1/sources/impressions", &Value::Object(row));
        let clicked = self.post("/v1/sources/clicks", &json!({"imp_id": id, "ts": ts}));
        let unseen = self.score(&ask)?;
        self.push_until_changed(&shown, &ask, unseen)?;
        let seen = self.score(&ask)?;
        self.push_until_changed(&clicked, &ask, seen)
    }

    #[expect(clippy::disallowed_methods, reason = "who asks leaves the core to others until the next time")]
    fn push_until_changed(&mut self, push: &[u8], ask: &[u8], before: f64) -> Result<Duration> {
        let began = self.server.clock.elapsed();
        self.load.ask(push)?;
        let mut next = self.server.clock.elapsed();
        while (self.score(ask)? - before).abs() < CHANGE_MIN {
            let now = self.server.clock.elapsed();
            if now - began > CHANGE_TIME_MAX {
                let behind_ms = self.status()?["staleness_ms"].as_f64().unwrap_or_default();
                return Err(Error::unavailable(format!(
                    "what was pushed changed no prediction in {CHANGE_TIME_MAX:?}: the job is {:.1} s behind; where it \
                     cannot learn so much, give a smaller number of --impressions",
                    behind_ms / 1e3
                )));
            }
            next = now.max(next + ASK_EVERY);
            std::thread::sleep(next - now);
        }
        Ok(self.server.clock.elapsed() - began)
    }

    fn score(&mut self, ask: &[u8]) -> Result<f64> {
        let (body, _) = self.load.ask(ask)?;
        let reply: Value = serde_json::from_slice(&body).unwrap_or_default();
        let p = reply["predictions"][0]["probability"].as_f64();
        let p = p.ok_or_else(|| Error::internal(format!("no probability in {}", String::from_utf8_lossy(&body))))?;
        Ok(ln(p) - ln(1.0 - p))
    }

    /// Events that the job has learned so far.
    fn events(&mut self) -> Result<f64> {
        let events = self.status()?["events"].as_f64();
        events.ok_or_else(|| Error::internal("the job does not say how many events it has seen"))
    }

    fn status(&mut self) -> Result<Value> {
        let (body, _) = self.load.ask(&get(self.server.address, "/v1/status"))?;
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    fn post(&self, path: &str, body: &Value) -> Vec<u8> {
        post(self.server.address, path, body.to_string().as_bytes())
    }
}
