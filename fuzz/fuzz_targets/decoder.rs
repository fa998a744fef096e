//! The one fuzz target there is, under the name of each decoder.

#![no_main]

#[path = "../src/decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _decoded = decoders::check(env!("CARGO_BIN_NAME"), bytes);
});
