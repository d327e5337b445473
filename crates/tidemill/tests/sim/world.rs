//! What a seed says of the world: the program, its events, when and how often each arrives, and what the clock shows.
//!
//! In: a seed. Out: the same world every time. Events are impressions and clicks; the right answer is counted here, by other
//! means than the engine's.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use tidemill_base::Rng;

/// Where the program's events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pushed over HTTP, and again where no answer came.
    Push,
    /// Appended to files that are followed.
    Follow,
    /// Files that are there from the start.
    Bounded,
}

/// The two sources.
pub const SOURCES: [&str; 2] = ["shown", "clicked"];
/// The attribution window.
const WINDOW_MS: i64 = 500;
/// By how much events may be out of order.
const BOUND_MS: i64 = 100;
const BEGIN_MS: i64 = 1_767_225_600_000;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub source: usize,
    pub id: i64,
    pub ts: i64,
    pub line: String,
    /// When it arrives, milliseconds behind the beginning; a second time for one that is delivered twice.
    pub arrivals: Vec<i64>,
    /// Which file of its source it is in.
    pub file: usize,
}

/// What a seed says.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub kind: Kind,
    pub sql: String,
    pub events: Vec<Event>,
    pub threads: usize,
    /// Milliseconds in which the clock's hands jump, and by how much from then on.
    pub jumps: Vec<(i64, i64)>,
    /// How long a step of the world takes at most.
    pub step_ms_max: u64,
    /// Runs of the program that something happens to.
    pub disturbed: u32,
    pub rng: Rng,
}

impl World {
    /// The world of a seed, with its input in `dir`.
    pub fn of(seed: u64, dir: &Path) -> Self {
        let mut rng = Rng::for_key(seed, 0x5EED);
        let kind = [Kind::Push, Kind::Push, Kind::Follow, Kind::Follow, Kind::Bounded][rng.below(5) as usize];
        let events = events(&mut rng, kind);
        let jumps = (0..rng.below(3))
            .map(|_| {
                let by = [3_600_000, -3_600_000, 86_400_000 + 5, -86_400_000, -BEGIN_MS, 1_000][rng.below(6) as usize];
                (rng.below(4_000) as i64, by)
            })
            .collect();
        Self {
            seed,
            kind,
            sql: sql(&mut rng, &format!("{}{}", bounds(seed), keeps(seed)), kind, dir),
            events,
            threads: 1 + rng.below(2) as usize,
            jumps,
            step_ms_max: [5, 25, 120][rng.below(3) as usize],
            disturbed: 1 + rng.below(5) as u32,
            rng,
        }
    }

    /// What the calendar shows so many milliseconds behind the beginning.
    pub fn wall_ms(&self, now: i64) -> i64 {
        let jumped = self.jumps.iter().filter(|(at, _)| *at <= now).map(|(_, by)| by);
        BEGIN_MS + now + jumped.sum::<i64>()
    }

    /// Files of a source.
    pub fn file(dir: &Path, source: usize, file: usize) -> std::path::PathBuf {
        dir.join(format!("{}-{file}.json", SOURCES[source]))
    }

    /// Writes the files of a bounded source; empty ones where they grow.
    pub fn write_files(&self, dir: &Path) {
        let mut files: BTreeMap<(usize, usize), Vec<(i64, &str)>> = BTreeMap::new();
        (0..2).for_each(|source| (0..2).for_each(|file| _ = files.insert((source, file), Vec::new())));
        for event in &self.events {
            for at in &event.arrivals {
                files.get_mut(&(event.source, event.file)).unwrap().push((*at, &event.line));
            }
        }
        for ((source, file), mut lines) in files {
            lines.sort_by_key(|(at, _)| *at);
            let mut text = String::new();
            if self.kind == Kind::Bounded {
                lines.iter().for_each(|(_, line)| _ = writeln!(text, "{line}"));
            }
            std::fs::write(Self::file(dir, source, file), text).unwrap();
        }
    }

    /// Impressions, and how many of them have a click in their window; each counted once.
    pub fn answer(&self) -> (u64, u64) {
        let mut clicks: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for click in self.events.iter().filter(|e| e.source == 1) {
            clicks.entry(click.id).or_default().push(click.ts);
        }
        let shown: BTreeMap<i64, i64> = self.events.iter().filter(|e| e.source == 0).map(|e| (e.id, e.ts)).collect();
        let clicked = |(id, ts): (&i64, &i64)| {
            clicks.get(id).is_some_and(|all| all.iter().any(|at| (*ts..=*ts + WINDOW_MS).contains(at)))
        };
        (shown.len() as u64, shown.iter().filter(|shown| clicked(*shown)).count() as u64)
    }
}

fn events(rng: &mut Rng, kind: Kind) -> Vec<Event> {
    let count = 60 + rng.below(300) as i64;
    let every = 1 + rng.below(12);
    // How far arrival is from event time: within the bound, or far outside of it.
    let delay_max = [5, 40, 90, 2_000][rng.below(4) as usize];
    let twice = [0, 10, 50][rng.below(3) as usize];
    let stall = (rng.below(2) == 0).then(|| (rng.below(2_000) as i64, 200 + rng.below(3_000) as i64, rng.below(2)));
    let mut all = Vec::new();
    let mut ts = 0;
    for id in 0..count {
        ts += rng.below(2 * every) as i64;
        let (item, person) = (rng.below(20), rng.below(40));
        let line = format!(
            "{{\"id\": {id}, \"ts\": {}, \"item\": \"i{item}\", \"person\": {person}, \"price\": {}}}",
            BEGIN_MS + ts,
            rng.below(100)
        );
        all.push(Event { source: 0, id, ts, line, arrivals: vec![], file: rng.below(2) as usize });
        if rng.below(20) < item {
            let at = ts + rng.below(WINDOW_MS as u64 + 80) as i64;
            let line = format!("{{\"id\": {id}, \"ts\": {}}}", BEGIN_MS + at);
            all.push(Event { source: 1, id, ts: at, line, arrivals: vec![], file: rng.below(2) as usize });
        }
    }
    for event in &mut all {
        let times = if rng.below(100) < twice && event.source == 0 { 2 } else { 1 };
        for _ in 0..times {
            let mut at = event.ts + rng.below(delay_max) as i64;
            if let Some((from, long, source)) = stall
                && event.source as u64 == source
                && (from..from + long).contains(&at)
            {
                at = from + long;
            }
            event.arrivals.push(at);
        }
        // An ordered file is read in its order: what is twice in it stands near.
        if kind == Kind::Bounded {
            event.arrivals = vec![event.ts + rng.below(BOUND_MS as u64 / 2) as i64; times];
        }
    }
    all
}

/// Whether the journal is cut, drawn apart as well.
fn keeps(seed: u64) -> &'static str {
    ["", ", journal.keep = 'checkpoints'"][Rng::for_key(seed, 0xC07).below(2) as usize]
}

/// What may wait in the join, drawn apart: seeds of before rows spilled keep their worlds otherwise.
fn bounds(seed: u64) -> &'static str {
    [
        "",
        ", join.when_full = 'spill', join.bytes_max = '0'",
        ", join.when_full = 'spill', join.bytes_max = '4KiB'",
        ", join.when_full = 'stop', join.bytes_max = '1GiB'",
    ][Rng::for_key(seed, 0x5B11).below(4) as usize]
}

fn sql(rng: &mut Rng, bounds: &str, kind: Kind, dir: &Path) -> String {
    let idle = ["1h", "150ms", "2s"][rng.below(3) as usize];
    let with = |source: &str| match kind {
        Kind::Push => format!("connector = 'http', idle_timeout = '{idle}'"),
        Kind::Follow => format!(
            "connector = 'file', path = '{}/{source}-*.json', follow = true, idle_timeout = '{idle}'",
            dir.display()
        ),
        Kind::Bounded => format!("connector = 'file', path = '{}/{source}-*.json'", dir.display()),
    };
    let emit = [
        "EMIT ON WINDOW CLOSE",
        "EMIT EARLY INTERVAL '0.1' SECOND CORRECT RETRACT",
        "EMIT IMMEDIATE CORRECT RETRACT",
        "EMIT EARLY INTERVAL '0.05' SECOND CORRECT ELAPSED",
        "EMIT ON MATCH",
        "EMIT IMMEDIATE CORRECT FNW",
    ][rng.below(6) as usize];
    let (learner, more) = [
        ("FTRLClassifier", ""),
        ("FTRLClassifier", ", train.entries_max = 256"),
        ("LogisticRegression", ", model.optimizer = 'adagrad'"),
        ("FMClassifier", ", model.factors = 4"),
    ][rng.below(4) as usize];
    let every = ["", ", publish.every = 40", ", publish.every = 150"][rng.below(3) as usize];
    let save = ["5ms", "40ms", "300ms"][rng.below(3) as usize];
    let views = rng.below(3) == 0;
    let (view, f, join, column) = match views {
        false => ("", "", "", ""),
        true => (
            "CREATE FEATURE VIEW items KEYED BY item AS
               SELECT COUNT(imp) OVER SAWTOOTH (INTERVAL '1' SECOND, PANE '0.2' SECOND) AS seen,
                 MEAN(imp.price) OVER DECAY (INTERVAL '2' SECOND) AS price_faded FROM shown imp;",
            "f.*, ",
            "LEFT JOIN items FOR SYSTEM_TIME AS OF i.rt f ON f.item = i.item",
            ", seen, price_faded",
        ),
    };
    let time = format!("rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt AS rt - INTERVAL '0.{BOUND_MS}' SECOND");
    format!(
        "CREATE SOURCE shown (id BIGINT PRIMARY KEY, ts BIGINT, item STRING, person BIGINT, price BIGINT, {time}) WITH ({});
         CREATE SOURCE clicked (id BIGINT, ts BIGINT, {time}) WITH ({});
         {view}
         CREATE STREAM samples AS SELECT i.*, {f}(c.id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
           ON i.id = c.id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '0.{WINDOW_MS}' SECOND {join} {emit};
         SELECT * FROM samples TO TRAIN {learner} WITH checkpoint.interval = '{save}', publish.interval = '700ms',
           publish.keep = 1000{every}{more}{bounds} COLUMN item, person, price, CROSS([item, person]){column} LABEL label INTO ctr;",
        with(SOURCES[0]),
        with(SOURCES[1]),
    )
}
