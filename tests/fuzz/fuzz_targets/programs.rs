//! Files of programs and of libraries.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::fuzzing::programs(data));
