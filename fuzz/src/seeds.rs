//! Writes the seeds of every target to `corpus/TARGET`, where `cargo fuzz run TARGET` begins.

#[path = "../rooms/model.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod model;
#[path = "../rooms/serve.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod serve;
#[cfg(feature = "sql")]
#[path = "../rooms/sql.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod sql;
#[path = "../rooms/stream.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod stream;

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    for (target, seeds) in [
        ("infer_json", serve::infer_seeds()),
        ("tensor", serve::tensor_seeds()),
        ("predict_json", serve::predict_seeds()),
        ("rank_json", serve::rank_seeds()),
        ("arrow_stream", serve::arrow_seeds()),
        ("border", serve::border_seeds()),
        ("snapshot", model::snapshots()),
        ("delta", model::deltas()),
        ("json_lines", stream::json_seeds()),
        ("csv", stream::csv_seeds()),
        ("libsvm", stream::sparse_seeds()),
        ("vw", stream::sparse_seeds()),
        #[cfg(feature = "sql")]
        ("sql", sql::seeds()),
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&dir)?;
        for (i, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
