//! The short form of the fuzz targets of SQL, and of what a job or a replica finds on its disk; the long form is in `fuzz/`.

#[path = "../../../../fuzz/rooms/base.rs"]
#[allow(dead_code, reason = "its own short form drives the rest")]
mod base;
#[path = "../../../../fuzz/rooms/job.rs"]
mod job;
#[path = "../../../../fuzz/rooms/mutate.rs"]
mod mutate;
#[path = "../../../../fuzz/rooms/sql.rs"]
mod sql;

#[test]
fn programs() {
    mutate::drive(1, &sql::seeds(), 1500, sql::program);
}

#[test]
fn checkpoint() {
    mutate::drive(2, &job::checkpoint_seeds(), 100, job::checkpoint);
}

#[test]
fn part() {
    mutate::drive(3, &job::part_seeds(), 100, job::part_of);
}

#[test]
fn lessons() {
    mutate::drive(4, &job::lesson_seeds(), 150, job::lessons);
}

#[test]
fn replay() {
    mutate::drive(5, &job::replay_seeds(), 100, job::replay);
}

#[test]
fn kept() {
    mutate::drive(6, &job::kept_seeds(), 400, job::kept_file);
}
