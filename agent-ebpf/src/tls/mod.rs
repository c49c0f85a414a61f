//! Plaintext, read where programs give it to a TLS library and take it from there.
//!
//! A session of the library is followed as a socket is: it has a [`Connection`] of its own, whose
//! streams count plaintext. Which socket is its own is learned from what the task receives in the
//! midst of the library's calls, or just before them.
//!
//! [`Connection`]: tracewire_common::connection::Connection

pub(crate) mod calls;
pub(crate) mod golang;
pub(crate) mod http2;
mod plaintext;
pub(crate) mod sessions;
pub(crate) mod socket;
