//! Fuzzes `memkv_settings::fuzzing::fuzz_yaml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_settings::fuzzing::fuzz_yaml(data));
