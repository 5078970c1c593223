//! `cargo +nightly fuzz run tap_frame`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| weft_seal::fuzz::tap_frame(bytes));
