//! The responses' direction of an HTTP/2 connection against the reference reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::bodies::http2_response(data));
