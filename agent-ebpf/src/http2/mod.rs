//! HTTP/2: connections that carry it, their frames, and their streams.

pub(crate) mod connections;
pub(crate) mod drive;
pub(crate) mod exchange;
pub(crate) mod older;
pub(crate) mod packets;
pub(crate) mod receive;
pub(crate) mod rewrite;
pub(crate) mod streams;
