//! Requests over TLS as they begin: the context that came beside one, or goes beside it.

use tracewire_common::connection::{CONN_TLS, Connection};
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::{Correlation, Outcome};

use crate::socket::exchange::OwnHeader;
use crate::tcp_option::receiving::take_context;
use crate::tcp_option::sending::offer_context;

/// The context with which a request came to a server, and the [`Correlation`] by which it did: what
/// is in its head, or what came beside it, which goes to `beside`, for the head that starts at `seq`.
/// If both are of one trace, the application passed on what it had received, which is older.
///
/// # Safety
///
/// `connection` must be live, and `beside` be a claimed buffer.
#[inline(always)]
pub(crate) unsafe fn received(
    connection: *const Connection,
    in_head: Option<TraceContext>,
    beside: *mut TraceContext,
    seq: u32,
) -> (Option<TraceContext>, u8) {
    // SAFETY: the caller's promise.
    unsafe {
        if is_session(&*connection) && take_context(connection, beside, seq) != 0 {
            let beside = beside.read();
            let is_of_head = match in_head {
                None => true,
                Some(head) => {
                    head.trace_id_hi == beside.trace_id_hi && head.trace_id_lo == beside.trace_id_lo
                }
            };
            if is_of_head {
                return (Some(beside), Correlation::TcpOption as u8);
            }
        }
    }
    (in_head, Correlation::Wire as u8)
}

/// What came beside a request that has its context already is nobody's any more.
///
/// # Safety
///
/// As for [`received`].
#[inline(always)]
pub(crate) unsafe fn discard(connection: *const Connection, room: *mut TraceContext, seq: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if is_session(&*connection) {
            take_context(connection, room, seq);
        }
    }
}

/// Has the context of a request over TLS sent beside it, if the server's end reads such; the span's
/// id is another then. Answers the [`Outcome`].
///
/// # Safety
///
/// `connection` must be live, and `context` be that of the request whose head starts at `seq`.
#[inline(always)]
pub(crate) unsafe fn send_beside(
    connection: *const Connection,
    context: *mut TraceContext,
    own: OwnHeader,
    seq: u32,
) -> Outcome {
    let is_ours = own == OwnHeader::None || own == OwnHeader::PassedOn;
    // SAFETY: the caller's promise.
    if is_ours && unsafe { offer_context(connection, context, seq) } != 0 {
        return Outcome::TcpOption;
    }
    Outcome::Encrypted
}

/// Whether the connection is a session's of a TLS library: of others the bytes are read as they go
/// over the wire.
#[inline(always)]
fn is_session(connection: &Connection) -> bool {
    connection.flags & CONN_TLS != 0
}
