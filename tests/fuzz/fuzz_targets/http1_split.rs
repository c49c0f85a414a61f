//! A stream in one piece against the same stream in many.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::bodies::http1_split(data));
