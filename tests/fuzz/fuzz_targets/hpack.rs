//! Header blocks of HTTP/2, seen from the start and from the middle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::fuzzing::hpack(data));
