//! The short form of the fuzz target of SQL; the long form is in `fuzz/`.

#[path = "../../../../fuzz/rooms/mutate.rs"]
mod mutate;
#[path = "../../../../fuzz/rooms/sql.rs"]
mod sql;

#[test]
fn programs() {
    mutate::drive(1, &sql::seeds(), 1500, sql::program);
}
