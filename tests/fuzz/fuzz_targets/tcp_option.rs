//! A TCP option that may carry a context.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::bodies::tcp_option(data));
