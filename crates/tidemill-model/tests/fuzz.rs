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

/// Entries without a parameter beside rows without end: lines name a row, and where it stands has no number.
#[test]
fn a_row_that_is_not_there_has_no_place() {
    let zeros = |count: usize| vec![0u8; count];
    let head = |width: u64, entries: u64, lines: u64| [width, entries, 0, lines].map(u64::to_le_bytes).concat();
    for width in [0, 2, (1 << 32) - 1] {
        // Format 4, sequence 0, the simplest model, no slot.
        let mut bytes = [b"TMSNAP\n\0".as_slice(), &4u32.to_le_bytes(), &zeros(8)].concat();
        bytes.extend(zeros(4));
        bytes.extend(head(width, 0, 1));
        bytes.resize(bytes.len().next_multiple_of(64), 0);
        bytes.resize(bytes.len() + 64, 0xff);
        model::snapshot(&bytes);
    }
}
