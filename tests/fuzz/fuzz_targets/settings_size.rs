//! Fuzzes `memkv_settings::fuzzing::fuzz_size`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_settings::fuzzing::fuzz_size(data));
