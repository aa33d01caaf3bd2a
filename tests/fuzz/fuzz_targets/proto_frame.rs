//! Fuzzes `memkv_proto::fuzzing::fuzz_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_proto::fuzzing::fuzz_frame(data));
