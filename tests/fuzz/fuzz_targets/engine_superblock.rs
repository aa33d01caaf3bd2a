//! Fuzzes `memkv_engine::fuzzing::fuzz_superblock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| memkv_engine::fuzzing::fuzz_superblock(data));
