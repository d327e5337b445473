//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/model.rs"]
mod model;
#[path = "../../../fuzz/rooms/mutate.rs"]
mod mutate;

#[test]
fn snapshot() {
    mutate::drive(1, &model::snapshots(), 20000, model::snapshot);
}

#[test]
fn delta() {
    mutate::drive(2, &model::deltas(), 20000, model::delta);
}
