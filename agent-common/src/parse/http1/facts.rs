//! What is learnt from a head, as bits.

/// `Content-Length` is there.
pub const FACT_LENGTH: u16 = 1;
/// The last transfer coding is `chunked`.
pub const FACT_CHUNKED: u16 = 2;
/// There is a transfer coding.
pub const FACT_CODING: u16 = 4;
/// There is an `Upgrade` header.
pub const FACT_UPGRADE: u16 = 8;
/// Two readers could disagree about this head: it is read, but never touched. It may
/// still come up in a body of chunks: then the start of the next message is uncertain.
pub const FACT_AMBIGUOUS: u16 = 16;
/// The body's length cannot be known.
pub const FACT_BROKEN: u16 = 32;
/// There is a `traceparent` header.
pub const FACT_TRACEPARENT: u16 = 64;
/// There is more than one.
pub const FACT_TRACEPARENT_REPEATED: u16 = 128;
/// The method is `HEAD`.
pub const FACT_HEAD: u16 = 256;
/// The method is `CONNECT`.
pub const FACT_CONNECT: u16 = 512;
/// The message comes in records of FastCGI.
pub const FACT_FASTCGI: u16 = 1024;
