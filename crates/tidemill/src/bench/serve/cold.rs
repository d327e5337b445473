//! How soon a process answers: from its start to the first prediction, by a model that lies on disk.
//!
//! In: a directory to write models in. Out: times from the start of `tidemill serve` to its first reply, where the model's
//! pages are in the system's memory, and where they have been forgotten and must come from the disk.

use std::{path::Path, process::Command};

use tidemill_base::{Clock, Error, Result, Rng};

use super::{
    super::{
        Case,
        load::{Load, post},
    },
    Group, Stage,
    large::{self, grow},
    process::Server,
    requests::infer_body,
};

pub(super) const GROUP: Group = Group { cases: &CASES, usual: 2, measure };

const CASES: [(&str, &str); 4] = [
    ("first reply of a process, model of 100 MB", "ms"),
    ("first reply of a process, model of 100 MB from disk", "ms"),
    ("first reply of a process, model of 4 GiB", "ms"),
    ("first reply of a process, model of 4 GiB from disk", "ms"),
];
/// Bytes of the models, two cases each.
const BYTES: [u64; 2] = [100_000_000, 4 << 30];

fn measure(stage: &Stage, tell: &mut dyn FnMut(&str)) -> Result<Vec<Case>> {
    let mut cases = GROUP.empty();
    for (i, bytes) in BYTES.into_iter().enumerate() {
        let (first, wanted) = (2 * i, &stage.wanted[2 * i..][..2]);
        if !wanted.contains(&true) {
            continue;
        }
        tell(&format!("writing a model of {} MB", bytes / 1_000_000));
        let dir = stage.dir(&format!("cold{i}"))?;
        let data = large::train(&dir, &["cold"])?;
        grow(&data, &["cold"], bytes)?;
        let snapshot = data.join("models/cold/versions/000002.snapshot");
        for round in 1..=stage.plan.rounds {
            stage.say(tell, round, "starting processes");
            if wanted[0] {
                cases[first].values.push(first_reply(&data)?);
            }
            if wanted[1] && forget(&snapshot) {
                cases[first + 1].values.push(first_reply(&data)?);
            }
        }
        std::fs::remove_dir_all(&dir).map_err(|e| Error::io("remove", &dir, e))?;
    }
    Ok(cases)
}

/// Milliseconds from the start of a process to its first reply.
fn first_reply(data: &Path) -> Result<f64> {
    let server = Server::start(&["serve", "--data-dir", &data.display().to_string(), "--port", "0"])?;
    let body = infer_body(&mut Rng::seeded(7));
    let infer = post(server.address, "/v2/models/cold/infer", body.as_bytes());
    Load::open(server.address, 0)?.ask(&infer)?;
    Ok(server.clock.elapsed().as_secs_f64() * 1e3)
}

/// Lets the system forget the pages of a file that is on disk; `false` where nobody can.
fn forget(file: &Path) -> bool {
    let told = Command::new("dd").arg(format!("if={}", file.display())).args(["iflag=nocache", "count=0"]).output();
    told.is_ok_and(|told| told.status.success())
}
