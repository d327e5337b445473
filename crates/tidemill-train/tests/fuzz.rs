//! The short form of the fuzz targets of this room: seeds, changed a little, over and over, the same in every run. The long
//! form is in `fuzz/`.

#[path = "../../../fuzz/rooms/mutate.rs"]
mod mutate;
#[path = "../../../fuzz/rooms/train.rs"]
mod train;

#[test]
fn trainer() {
    mutate::drive(1, &train::trainer_seeds(), 2000, train::trainer);
}

#[test]
fn entries() {
    mutate::drive(2, &train::entry_seeds(), 2000, train::entries);
}

#[test]
fn settings() {
    mutate::drive(3, &train::settings_seeds(), 10000, train::settings);
}
