//! Frames read off the packets of a connection (`cgroup_skb`).

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_fullsock};
use aya_ebpf::programs::SkBuffContext;
use tracewire_common::connection::Connection;
use tracewire_common::outcome::{EndReason, Role};

use crate::http2::connections::{self, Http2Connection};
use crate::http2::{drive, streams};
use crate::socket::drive::Piece;
use crate::socket::packets::{ClientPacket, FIN, RST, Segment, ServerPacket, segment};
use crate::state;

/// A packet of such a connection leaves (`EGRESS`) or arrives.
#[inline(always)]
pub(crate) fn on_packet<const EGRESS: bool>(ctx: &SkBuffContext) {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context; sockets and their state are checked for null.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return;
        }
        let connection = state::connection(sk.cast());
        let http2 = connections::of(sk.cast());
        if connection.is_null() || http2.is_null() {
            return;
        }
        let Some(segment) = segment(skb) else { return };
        let now = bpf_ktime_get_ns();
        if segment.payload_len > 0 {
            let piece = Piece {
                source: skb.cast(),
                base: segment.payload_at,
                len: segment.payload_len,
                seq: segment.seq,
                now,
                task: if EGRESS { state::task_of_packet(connection, sk.cast()) } else { 0 },
            };
            let is_client = (*connection).role == Role::Client as u8;
            match (is_client, EGRESS) {
                (true, true) => drive::read::<ClientPacket, true>(connection, http2, &piece),
                (true, false) => drive::read::<ClientPacket, false>(connection, http2, &piece),
                (false, true) => drive::read::<ServerPacket, false>(connection, http2, &piece),
                (false, false) => drive::read::<ServerPacket, true>(connection, http2, &piece),
            }
        }
        if segment.flags & (FIN | RST) != 0 {
            on_end::<EGRESS>(connection, http2, &segment, now);
        }
    }
}

/// One end finished (FIN) or broke (RST) the connection.
///
/// # Safety
///
/// The pointers must be live.
#[inline(always)]
unsafe fn on_end<const EGRESS: bool>(
    connection: *mut Connection,
    http2: *mut Http2Connection,
    segment: &Segment,
    now: u64,
) {
    // SAFETY: the caller's promise.
    let is_server = unsafe { (*connection).role == Role::Server as u8 };
    if segment.flags & RST != 0 {
        streams::end_all(connection, http2, now, EndReason::Reset);
    } else if is_server == EGRESS {
        // From the end that answers; from the other it says that no more requests come.
        streams::end_all(connection, http2, now, EndReason::Closed);
    }
}
