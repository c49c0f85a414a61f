//! The parsers, fed as the kernel feeds them.

pub mod bodies;
mod bound;
mod chunks;
mod corpora;
mod fastcgi;
mod gaps;
mod heads;
pub mod http2;
mod lengths;
pub mod machine;
mod protocols;
mod record;
pub mod reference;
pub mod slow;
mod splits;
mod trace_header;
