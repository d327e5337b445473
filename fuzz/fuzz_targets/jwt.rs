//! Signed tokens.
#![no_main]

#[path = "../rooms/http.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod http;
#[path = "../rooms/serve.rs"]
#[allow(dead_code, reason = "each target uses a part")]
mod serve;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    http::jwt(bytes);
});
