//! `cargo +nightly fuzz run arrivals`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_seal::fuzz::arrivals(bytes));
