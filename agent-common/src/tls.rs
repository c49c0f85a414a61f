//! What both halves say to one another about TLS libraries.

use crate::connection::Connection;

/// A session of a TLS library, by the library's own pointer to it, or a `crypto/tls.Conn` of Go.
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
    /// `SSL_write_early_data`: what goes in may have to be written once more.
    EarlyData = 6,
    /// `SSL_new`, of which the end is of interest.
    New = 7,
    /// `SSL_free`, after which there is no session.
    Free = 8,
    /// `SSL_clear`, after which the session is used for another connection.
    Clear = 9,
    /// Go's `crypto/tls.(*Conn).Read`, at its start and at each of the instructions that return.
    GoRead = 10,
    /// Go's `crypto/tls.(*Conn).Write`, which takes all or fails for good.
    GoWrite = 11,
    /// Go's `crypto/tls.(*Conn).clientHandshake` or `serverHandshake`: the connection is new.
    GoHandshake = 12,
}

impl Call {
    /// Whether the number of a call is of one in Go, whose arguments are in other registers.
    #[inline(always)]
    pub fn is_go(call: u64) -> bool {
        call >= Self::GoRead as u64
    }

    /// Whether the number of a call is of one that takes plaintext.
    #[inline(always)]
    pub fn writes(call: u64) -> bool {
        call == Self::Write as u64 || call == Self::WriteEx as u64 || call == Self::GoWrite as u64
    }

    /// Whether the number of a call is of one that gives plaintext.
    #[inline(always)]
    pub fn reads(call: u64) -> bool {
        call == Self::Read as u64 || call == Self::ReadEx as u64 || call == Self::GoRead as u64
    }
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
    /// Non-zero of a connection of Go, which nothing frees: it ends with its socket.
    pub is_go: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The `runtime.g` of the goroutine of Go that reads; 0 if none does.
    pub reader: u64,
}
