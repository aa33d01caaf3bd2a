//! Fuzzes `memkv_proto::fuzzing::fuzz_stat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_proto::fuzzing::fuzz_stat(data));
