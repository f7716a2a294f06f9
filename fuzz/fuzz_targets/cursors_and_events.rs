//! Cursors and stored events, for libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::cursors_and_events(input));
