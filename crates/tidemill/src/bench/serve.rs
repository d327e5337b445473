//! `tidemill bench serve`: requests a second beside bare hyper, how long they take while the model learns, how soon a click
//! shows and a process answers, and how fast rows, candidates and networks are scored in process.
//!
//! In: rounds and seconds. Out: for each case a figure a round. Servers are this very program in a process of its own on core
//! 0; the load, and what is measured in process, is on core 1; where there is no `taskset`, the system places both. Cases of
//! a group take turns, so that a noisy moment meets all of them.

mod against;
mod clicked;
mod cold;
mod file;
mod half_load;
mod inside;
mod large;
mod over_http;
mod process;
mod requests;

use std::path::{Path, PathBuf};

use tidemill_base::{Error, Result};

use super::Case;
pub use against::{Against, run as against};

/// Inputs of the model.
pub const FLOATS: usize = 39;
const CONNECTIONS: usize = 64;

/// What is to be measured.
pub struct Plan {
    /// Times each case is run.
    pub rounds: usize,
    /// How long, in each round.
    pub seconds: f64,
    /// Learned a second while clicks are pushed.
    pub impressions: u32,
    /// Only cases whose names contain this.
    pub only: Option<String>,
    /// Directory with `c3m.train.csv` and `c3m.test.csv` for files to score; without one clicks are made.
    pub data: Option<PathBuf>,
}

type Measure = fn(&Stage, &mut dyn FnMut(&str)) -> Result<Vec<Case>>;

/// Cases that are measured with one another.
struct Group {
    /// Name and unit of each.
    cases: &'static [(&'static str, &'static str)],
    /// So many run without being asked for by their names; the others write gigabytes.
    usual: usize,
    /// Measures at least those that are wanted: figures of all cases, empty where there are none.
    measure: Measure,
}

const GROUPS: [Group; 5] = [over_http::GROUP, clicked::GROUP, cold::GROUP, file::GROUP, inside::GROUP];

/// What a group has to know.
struct Stage<'a> {
    plan: &'a Plan,
    /// For each case.
    wanted: Vec<bool>,
    /// To write in.
    scratch: &'a Path,
}

/// Runs the plan; `tell` hears what is going on.
pub fn run(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let is_wanted = |group: &Group, i: usize, name: &str| match &plan.only {
        Some(only) => name.contains(only.as_str()),
        None => i < group.usual,
    };
    let wanted = |group: &Group| -> Vec<bool> {
        group.cases.iter().enumerate().map(|(i, (name, _))| is_wanted(group, i, name)).collect()
    };
    if !GROUPS.iter().any(|group| wanted(group).contains(&true)) {
        let mut names: Vec<&str> = GROUPS.iter().flat_map(|group| group.cases).map(|case| case.0).collect();
        names.dedup();
        return Err(Error::not_found(format!("no case has that in its name; cases are {}", names.join("; "))));
    }
    process::stay_on_core(1);
    let scratch = std::env::temp_dir().join(format!("tidemill-bench-serve-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| Error::io("create", &scratch, e))?;
    let mut all = Vec::new();
    let measured = GROUPS.iter().try_for_each(|group| {
        let stage = Stage { plan, wanted: wanted(group), scratch: &scratch };
        if stage.wants(0..group.cases.len()) {
            let cases = (group.measure)(&stage, tell)?;
            let kept =
                cases.into_iter().zip(&stage.wanted).filter(|(case, wanted)| **wanted && !case.values.is_empty());
            all.extend(kept.map(|(case, _)| case));
        }
        Ok(())
    });
    let _ = std::fs::remove_dir_all(&scratch);
    measured.map(|()| all)
}

impl Stage<'_> {
    /// Whether any of these cases is wanted.
    fn wants(&self, mut cases: std::ops::Range<usize>) -> bool {
        cases.any(|case| self.wanted[case])
    }

    /// A directory of its own.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch.join(name);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
        Ok(dir)
    }

    /// What a person hears in a round.
    fn say(&self, tell: &mut dyn FnMut(&str), round: usize, what: &str) {
        tell(&format!("round {round} of {}: {what}", self.plan.rounds));
    }
}

impl Group {
    /// Its cases without figures.
    fn empty(&self) -> Vec<Case> {
        self.cases.iter().map(|(name, unit)| Case::new(*name, unit)).collect()
    }
}

impl Case {
    fn put(&mut self, value: f64, ceiling: f64) {
        self.values.push(value);
        self.ceilings.push(ceiling);
    }
}
