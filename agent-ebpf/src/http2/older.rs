//! Connections of HTTP/2 that are older than the agent. They are known by a packet in which a client opens a
//! stream. What their tables hold is not known, and nothing is ever written into them.

use aya_ebpf::bindings::{__sk_buff, sk_msg_md};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_msg_pull_data, bpf_skb_load_bytes, bpf_tcp_sock};
use tracewire_common::connection::{CONN_ADOPTED, Connection};
use tracewire_common::outcome::Role;
use tracewire_common::parse::http2::older::{begins_request, frame_len, opening};

use crate::http2::connections;
use crate::socket::rewrite::first_piece;

/// Types of frames go up to that one (RFC 9113 §6).
const LAST_TYPE: u8 = 9;

/// Whether a process may be sending frames of HTTP/2 on a connection of which nothing is known. They are read
/// when they leave, where it is told what they are; here they would be taken for what is no HTTP at all.
///
/// # Safety
///
/// `msg` must be the program's, `connection` live.
// Inlined it is too much for the stack: `combined stack size of 6 calls is 528. Too large`.
#[inline(never)]
pub(crate) unsafe fn may_be_sent(msg: *mut sk_msg_md, connection: *const Connection) -> bool {
    // SAFETY: the caller's promise; what is read lies before the end of the first piece.
    unsafe {
        if (*connection).flags & CONN_ADOPTED == 0 || (*connection).opened != 0 {
            return false;
        }
        if bpf_msg_pull_data(msg, 0, 4, 0) != 0 {
            return false;
        }
        let (data, data_end) = first_piece(msg);
        if data.wrapping_add(4) > data_end {
            return false;
        }
        // The first of three bytes of its length, and its type.
        *data == 0 && *data.add(3) <= LAST_TYPE
    }
}

/// What the first bytes of a packet tell of a connection of which nothing was seen before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It does not carry HTTP/2, as far as this tells.
    Nothing,
    /// It may: these are frames, of which none opens a stream.
    Frames,
    /// It does, and is set up.
    Http2,
}

/// Frames of a packet that are looked at.
const MOST_FRAMES: u32 = 8;

/// Looks whether a packet that leaves (`EGRESS`) or arrives opens a stream, on a connection of which the bytes
/// before it were not seen. The upper half of `payload` says where in the packet its bytes begin, the lower half how
/// many there are: five arguments are all that a function may have, and a pointer to a [`Segment`] takes more of
/// the caller's stack than older verifiers have left (`combined stack size of 4 calls is 544. Too large`).
///
/// [`Segment`]: crate::socket::packets::Segment
///
/// # Safety
///
/// `skb` and `sk` must be the program's, `connection` live.
#[inline(never)]
pub(crate) unsafe fn recognise<const EGRESS: bool>(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    connection: *mut Connection,
    seq: u32,
    payload: u64,
) -> Found {
    let sender = if EGRESS { Role::Client } else { Role::Server };
    let mut found = Found::Nothing;
    // SAFETY: the caller's promise; each destination is a local of the length given.
    unsafe {
        let role = (*connection).role;
        let may_ask = role == sender as u8 || role == Role::Unknown as u8;
        let (mut at, mut left) = ((payload >> 32) as u32, payload as u32);
        let mut frames = 0;
        while frames < MOST_FRAMES {
            let mut header = [0u8; 9];
            if bpf_skb_load_bytes(skb.cast(), at, header.as_mut_ptr().cast(), 9) != 0 {
                return Found::Nothing;
            }
            if may_ask
                && let Some(opening) = opening(&header)
                && opening.end <= left
                && begins_request(start_of_block(skb, at.wrapping_add(opening.block_at)))
                && (opening.end == left || is_frame_at(skb, at.wrapping_add(opening.end)))
            {
                (*connection).role = sender as u8;
                return begin::<EGRESS>(sk, connection, seq, opening.stream);
            }
            let Some(len) = frame_len(&header) else { return Found::Nothing };
            found = Found::Frames;
            if len >= left {
                break;
            }
            left -= len;
            at = at.wrapping_add(len);
            frames += 1;
        }
    }
    found
}

/// Three bytes of the packet; zeroes, with which nothing begins, if there are none.
///
/// # Safety
///
/// `skb` must be the program's.
#[inline(always)]
unsafe fn start_of_block(skb: *mut __sk_buff, at: u32) -> [u8; 3] {
    let mut start = [0u8; 3];
    // SAFETY: the caller's promise; a local of that length, which the kernel empties if there is not as much.
    unsafe {
        let _none = bpf_skb_load_bytes(skb.cast(), at, start.as_mut_ptr().cast(), 3);
    }
    start
}

/// Whether a frame of a client begins there.
///
/// # Safety
///
/// As for [`start_of_block`].
#[inline(always)]
unsafe fn is_frame_at(skb: *mut __sk_buff, at: u32) -> bool {
    let mut header = [0u8; 9];
    // SAFETY: as there.
    let loaded = unsafe { bpf_skb_load_bytes(skb.cast(), at, header.as_mut_ptr().cast(), 9) };
    loaded == 0 && frame_len(&header).is_some()
}

/// The connection carries HTTP/2; a packet whose first byte has that sequence number opens the stream.
///
/// # Safety
///
/// As for [`recognise`].
#[inline(always)]
unsafe fn begin<const EGRESS: bool>(
    sk: *mut c_void,
    connection: *mut Connection,
    seq: u32,
    stream: u32,
) -> Found {
    // SAFETY: the caller's promise.
    unsafe {
        let tcp = bpf_tcp_sock(sk.cast());
        if tcp.is_null() {
            return Found::Frames;
        }
        // What the other direction goes on with.
        let answers_at = if EGRESS { (*tcp).rcv_nxt } else { (*tcp).snd_nxt };
        if connections::begin_in_the_middle(sk, connection, (seq, answers_at), stream) {
            Found::Http2
        } else {
            Found::Frames
        }
    }
}
