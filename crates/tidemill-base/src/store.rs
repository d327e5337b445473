//! The ways in which this project touches a disk: files that appear whole, a log that grows, a directory with one owner.
//! All of them go through one door, where tests let disks fail, and behind which a store of objects can keep the files.

pub mod atomic_file;
pub mod bucket;
pub mod data_dir;
pub mod disk;
pub mod log;
pub mod objects;
