//! Writes the seeds of every target to `corpus/TARGET`, where `cargo fuzz run TARGET` begins.

#[path = "../rooms/base.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod base;
#[path = "../rooms/http.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod http;
#[cfg(feature = "sql")]
#[path = "../rooms/job.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod job;
#[path = "../rooms/kept.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod kept;
#[path = "../rooms/model.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod model;
#[path = "../rooms/rows.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod rows;
#[path = "../rooms/serve.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod serve;
#[cfg(feature = "sql")]
#[path = "../rooms/sql.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod sql;
#[path = "../rooms/state.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod state;
#[path = "../rooms/stream.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod stream;
#[path = "../rooms/train.rs"]
#[allow(dead_code, reason = "the targets use the rest")]
mod train;

// Built with the targets, it is instrumented as they are, and what counts is in there.
use libfuzzer_sys as _;
use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    for (target, seeds) in [
        ("infer_json", serve::infer_seeds()),
        ("tensor", serve::tensor_seeds()),
        ("predict_json", serve::predict_seeds()),
        ("rank_json", serve::rank_seeds()),
        ("expression", serve::expression_seeds()),
        ("grpc", serve::grpc_seeds()),
        ("arrow_stream", serve::arrow_seeds()),
        ("border", serve::border_seeds()),
        ("http", http::http_seeds()),
        ("jwt", http::jwt_seeds()),
        ("frame", kept::frame_seeds()),
        ("ask", kept::ask_seeds()),
        ("follow", kept::follow_seeds()),
        ("registry", kept::registry_seeds()),
        ("snapshot", model::snapshots()),
        ("delta", model::deltas()),
        ("json_lines", stream::json_seeds()),
        ("csv", stream::csv_seeds()),
        ("libsvm", stream::sparse_seeds()),
        ("vw", stream::sparse_seeds()),
        ("parquet", stream::parquet_seeds()),
        ("arrow_file", stream::arrow_seeds()),
        ("feed", stream::feed_seeds()),
        ("compressed", stream::compressed_seeds()),
        ("properties", stream::property_seeds()),
        ("push_log", rows::push_seeds()),
        ("sink", rows::sink_seeds()),
        ("journal", state::journal_seeds()),
        ("label_join", state::join_seeds()),
        ("feature_views", state::view_seeds()),
        ("positions", state::position_seeds()),
        ("trainer", train::trainer_seeds()),
        ("entries", train::entry_seeds()),
        ("settings", train::settings_seeds()),
        ("log", base::log_seeds()),
        ("commit", base::commit_seeds()),
        #[cfg(feature = "sql")]
        ("sql", sql::seeds()),
        #[cfg(feature = "sql")]
        ("checkpoint", job::checkpoint_seeds()),
        #[cfg(feature = "sql")]
        ("part", job::part_seeds()),
        #[cfg(feature = "sql")]
        ("lessons", job::lesson_seeds()),
        #[cfg(feature = "sql")]
        ("replay", job::replay_seeds()),
        #[cfg(feature = "sql")]
        ("kept", job::kept_seeds()),
    ] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&dir)?;
        for (i, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
