//! SQL programs.
#![no_main]

#[path = "../rooms/sql.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod sql;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sql::program(bytes);
});
