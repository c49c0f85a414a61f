//! The parsers that run in the kernel, in the tests and under the fuzzer.
//!
//! Each is a state machine over scalars: it takes what bytes there are, and
//! carries on where it was when the next ones come.

pub mod http1;
pub mod http2;
pub mod traceparent;
