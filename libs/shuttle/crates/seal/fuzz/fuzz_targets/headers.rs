//! `cargo +nightly fuzz run headers`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_seal::fuzz::headers(bytes));
