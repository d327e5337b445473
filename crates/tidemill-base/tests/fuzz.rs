//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/base.rs"]
mod base;
#[path = "../../../fuzz/rooms/mutate.rs"]
mod mutate;

#[test]
fn log() {
    mutate::drive(1, &base::log_seeds(), 2000, base::log);
}

#[test]
fn commit() {
    mutate::drive(2, &base::commit_seeds(), 20000, base::commit);
}
