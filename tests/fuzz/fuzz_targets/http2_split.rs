//! A direction of an HTTP/2 connection in one piece against the same in many.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::bodies::http2_split(data));
