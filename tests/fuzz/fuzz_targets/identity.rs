//! Arguments and environment of a process.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::fuzzing::identity(data));
