//! What both halves say to one another about TLS libraries.

use crate::connection::Connection;

/// A session of a TLS library, by the library's own pointer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SessionKey {
    /// The process.
    pub tgid: u64,
    /// The address of the session, as an `SSL *`.
    pub session: u64,
}

/// What is probed of a library: the cookie of a probe says which function it is at.
///
/// `int SSL_read(SSL *, void *buffer, int len)` and `SSL_write` answer the bytes that were
/// taken; their other forms, with a `size_t *` for these as the last argument, answer 1 or 0. GnuTLS's
/// `ssize_t gnutls_record_recv(gnutls_session_t, void *data, size_t size)` is as the former.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// `SSL_read`.
    Read = 0,
    /// `SSL_read_ex`.
    ReadEx = 1,
    /// `SSL_write`.
    Write = 2,
    /// `SSL_write_ex`.
    WriteEx = 3,
    /// `SSL_do_handshake`.
    Handshake = 4,
    /// `SSL_sendfile`: plaintext goes in that is in no buffer.
    SendFile = 5,
    /// `SSL_new`, of which the end is of interest.
    New = 6,
    /// `SSL_free`, after which there is no session.
    Free = 7,
    /// `SSL_clear`, after which the session is used for another connection.
    Clear = 8,
}

/// Sessions that are followed at once.
pub const MAX_SESSIONS: usize = 65_536;

/// A session of a TLS library. All zero is one about which nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Session {
    /// What is read of it; its cookie is that of the session's socket, 0 while that is not known.
    pub connection: Connection,
    /// Where the next byte that the process writes is in its stream.
    pub written: u32,
    /// Where the next byte that the process reads is in its stream.
    pub read: u32,
    /// Non-zero while no plaintext has gone by that was not read.
    pub is_whole: u32,
    /// Non-zero once there was plaintext.
    pub has_text: u32,
}
