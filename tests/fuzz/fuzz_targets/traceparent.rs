//! A traceparent value against the reference reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::bodies::traceparent(data));
