//! Impressions and delayed clicks: files that are there, or some made here, always the same.
//!
//! Made ones have the shape of a click log: popular users and items, 3% of the impressions clicked, exponential delays of
//! two minutes on average, and (in the merged files) arrival up to five seconds late, so that a click may come before its
//! impression. The window of the join is ten minutes.

use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use tidemill_base::{Clock, Error, Result, Rng, SystemClock};

use super::join::expected;

const WINDOW_MS: i64 = 600_000;
const LONG_WINDOW_MS: i64 = 3_600_000;
const START_MS: i64 = 1_700_000_000_000;
const HEADER: &str = "imp_id,user_id,item_id,ts,slot,device,geo,campaign,bid,score";

/// Where the events lie, and what a right join gives.
pub struct Events {
    /// The files.
    pub dir: PathBuf,
    /// Impressions: each gives one sample.
    pub impressions: u64,
    /// Those with a click in their window.
    pub positives: u64,
    /// Those with a click within an hour, where that is known.
    pub clicked: Option<u64>,
}

impl Events {
    /// The events in `dir`, with the counts of its `expect.json`.
    pub fn find(dir: &Path) -> Result<Self> {
        let place = dir.join("expect.json");
        let text = fs::read_to_string(&place).map_err(|e| Error::io("read", &place, e))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            impressions: expected(&text, "impressions", &place)?,
            positives: expected(&text, "positives_in_window", &place)?,
            clicked: None,
        })
    }

    /// Makes so many impressions over two hours, as CSV.
    pub fn make(dir: &Path, impressions: u64) -> Result<Self> {
        let mut rng = Rng::seeded(7);
        let mut popular = |n: u64| {
            let share = rng.next_f64();
            (share * share * share * n as f64) as u64
        };
        let mut rows: Vec<(i64, String)> = Vec::new();
        for i in 0..impressions {
            let ts = START_MS + (i * 7_200_000 / impressions.max(1)) as i64;
            let (user, item, slot, geo) = (popular(100_000), popular(20_000), popular(8), popular(200));
            let device = ["ios", "android", "web", "tv", "tablet", "other"][popular(6) as usize];
            let row = format!(
                "{},{user},{item},{ts},{slot},{device},g{geo:03},{},{}.{},0.{}",
                i + 1,
                item % 997,
                slot % 3,
                user % 1000,
                item % 10_000
            );
            rows.push((ts, row));
        }
        let mut positives = 0;
        let mut clicks: Vec<(i64, u64)> = Vec::new();
        for (i, (ts, _)) in rows.iter().enumerate() {
            if rng.next_f64() < 0.03 {
                let delay = (-(1.0 - rng.next_f64()).ln() * 120_000.0) as i64 + 1;
                positives += u64::from(delay <= WINDOW_MS);
                clicks.push((ts + delay, i as u64 + 1));
            }
        }
        let within_an_hour = |(at, id): &&(i64, u64)| at - rows[*id as usize - 1].0 <= LONG_WINDOW_MS;
        let clicked = Some(clicks.iter().filter(within_an_hour).count() as u64);
        clicks.sort_unstable();
        let mut merged: Vec<(i64, String)> = Vec::with_capacity(rows.len() + clicks.len());
        for (i, (ts, row)) in rows.iter().enumerate() {
            merged.push((ts + rng.below(5_000) as i64, format!("0,{i},{row}")));
        }
        for (ts, id) in &clicks {
            merged.push((ts + rng.below(5_000) as i64, format!("1,{},{id},,,{ts},,,,,,", impressions + id)));
        }
        merged.sort();
        write(&dir.join("impressions.csv"), HEADER, rows.into_iter().map(|(_, row)| row))?;
        let clicks = clicks.into_iter().map(|(ts, id)| format!("{id},{},{ts},1.5", id % 1000));
        write(&dir.join("clicks.csv"), "imp_id,user_id,ts,dwell", clicks)?;
        write(&dir.join("events-p0.csv"), &format!("kind,event_id,{HEADER}"), merged.into_iter().map(|(_, row)| row))?;
        Ok(Self { dir: dir.to_path_buf(), impressions, positives, clicked })
    }

    /// Writes what lies there as CSV as JSON lines, too: an object an event, numbers as numbers.
    pub fn add_json_lines(&self) -> Result<()> {
        for name in ["impressions", "clicks"] {
            let from = self.dir.join(format!("{name}.csv"));
            let text = fs::read_to_string(&from).map_err(|e| Error::io("read", &from, e))?;
            let mut lines = text.lines();
            let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
            let mut out = String::with_capacity(text.len() * 3);
            for line in lines {
                for (i, (column, value)) in columns.iter().zip(line.split(',')).enumerate() {
                    let quote = if value.parse::<f64>().is_ok() { "" } else { "\"" };
                    let open = if i == 0 { '{' } else { ',' };
                    out.push_str(&format!("{open}\"{column}\":{quote}{value}{quote}"));
                }
                out.push_str("}\n");
            }
            let to = self.dir.join(format!("{name}.jsonl"));
            fs::write(&to, out).map_err(|e| Error::io("write", &to, e))?;
        }
        Ok(())
    }

    /// Events a second of reading the same files and finding the lines in them. `None` for Parquet, which has
    /// none.
    pub fn lines_per_second(&self, merged: bool, extension: &str) -> Result<Option<f64>> {
        if extension == "parquet" {
            return Ok(None);
        }
        let names: &[&str] = if merged { &["events-p0", "events-p1"] } else { &["impressions", "clicks"] };
        let paths: Vec<PathBuf> = names.iter().map(|name| self.dir.join(format!("{name}.{extension}"))).collect();
        let there: Vec<&Path> = paths.iter().map(PathBuf::as_path).filter(|path| path.is_file()).collect();
        let found = find_lines(&there)?;
        Ok(Some(found.lines as f64 / found.seconds))
    }
}

/// What reading files and finding the lines in them comes to.
pub struct Found {
    /// Of all files.
    pub bytes: u64,
    /// Of all files.
    pub lines: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Reads files and finds the lines in them: the least that anybody has to do who reads text.
pub fn find_lines(paths: &[&Path]) -> Result<Found> {
    let clock = SystemClock::new();
    let begin = clock.elapsed();
    let (mut found, mut block) = (Found { bytes: 0, lines: 0, seconds: 0.0 }, vec![0; 1 << 20]);
    for path in paths {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        loop {
            let n = file.read(&mut block).map_err(|e| Error::io("read", path, e))?;
            if n == 0 {
                break;
            }
            found.bytes += n as u64;
            found.lines += block[..n].iter().map(|b| u64::from(*b == b'\n')).sum::<u64>();
        }
    }
    found.seconds = (clock.elapsed() - begin).as_secs_f64();
    Ok(found)
}

pub(super) fn write(path: &Path, header: &str, rows: impl Iterator<Item = String>) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let mut out = BufWriter::new(File::create(path).map_err(failed)?);
    writeln!(out, "{header}").map_err(failed)?;
    for row in rows {
        writeln!(out, "{row}").map_err(failed)?;
    }
    out.flush().map_err(failed)
}
