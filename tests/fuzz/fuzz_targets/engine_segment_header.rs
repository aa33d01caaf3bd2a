//! Fuzzes `memkv_engine::fuzzing::fuzz_segment_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_engine::fuzzing::fuzz_segment_header(data));
