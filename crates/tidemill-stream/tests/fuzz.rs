//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/base.rs"]
#[allow(dead_code, reason = "its own short form drives the rest")]
mod base;
#[path = "../../../fuzz/rooms/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/rooms/rows.rs"]
mod rows;
#[path = "../../../fuzz/rooms/state.rs"]
mod state;
#[path = "../../../fuzz/rooms/stream.rs"]
mod stream;

#[test]
fn json_lines() {
    mutate::drive(1, &stream::json_seeds(), 20000, stream::json_lines);
}

#[test]
fn csv() {
    mutate::drive(2, &stream::csv_seeds(), 500, stream::csv);
}

#[test]
fn libsvm() {
    mutate::drive(3, &stream::sparse_seeds(), 500, stream::libsvm);
}

#[test]
fn vw() {
    mutate::drive(4, &stream::sparse_seeds(), 500, stream::vw);
}

#[test]
fn parquet() {
    mutate::drive(5, &stream::parquet_seeds(), 500, stream::parquet);
}

#[test]
fn arrow_file() {
    mutate::drive(6, &stream::arrow_seeds(), 1000, stream::arrow_file);
}

#[test]
fn feed() {
    mutate::drive(7, &stream::feed_seeds(), 10000, stream::feed);
}

#[test]
fn journal() {
    mutate::drive(8, &state::journal_seeds(), 20000, state::journal);
}

#[test]
fn label_join() {
    mutate::drive(9, &state::join_seeds(), 2000, state::label_join);
}

#[test]
fn feature_views() {
    mutate::drive(10, &state::view_seeds(), 2000, state::feature_views);
}

#[test]
fn positions() {
    mutate::drive(11, &state::position_seeds(), 10000, state::positions);
}

#[test]
fn compressed() {
    mutate::drive(12, &stream::compressed_seeds(), 1000, stream::compressed);
}

#[test]
fn properties() {
    mutate::drive(13, &stream::property_seeds(), 10000, stream::properties);
}

#[test]
fn push_log() {
    mutate::drive(14, &rows::push_seeds(), 2000, rows::push_log);
}

#[test]
fn sink() {
    mutate::drive(15, &rows::sink_seeds(), 300, rows::sink);
}
