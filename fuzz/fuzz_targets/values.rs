//! Values of checkpoints, for libFuzzer.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::values(input));
