//! Bodies of requests to the HTTP API.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| earshot::http::api::fuzz::parse(body));
