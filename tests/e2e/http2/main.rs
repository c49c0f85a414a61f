//! HTTP/2 and gRPC: real peers in several languages.

#[expect(dead_code, reason = "the tests of faults ask more of it")]
#[path = "../faults/accounting.rs"]
mod accounting;
mod chain;
mod context;
mod foreign;
mod frames;
mod judge;
mod older;
mod plain;
mod rpc;
mod streams;
mod tls;
