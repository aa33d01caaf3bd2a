//! Fuzzes `memkv_client::fuzzing::fuzz_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_client::fuzzing::fuzz_config(data));
