//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/mutate.rs"]
mod mutate;
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
