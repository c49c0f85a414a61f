//! What happens on sockets.

pub(crate) mod connect;
pub(crate) mod drive;
pub(crate) mod early;
pub(crate) mod ending;
pub(crate) mod exchange;
pub(crate) mod handover;
pub(crate) mod opaque;
pub(crate) mod packets;
pub(crate) mod receive;
pub(crate) mod rewrite;
pub(crate) mod spare;
pub(crate) mod track;
