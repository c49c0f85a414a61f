//! Parts of header blocks, in any order and with holes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tracewire_fuzz::fuzzing::http2_blocks(data));
