//! Fuzzes `memkv_server::fuzzing::fuzz_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_server::fuzzing::fuzz_config(data));
