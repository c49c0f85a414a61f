//! Messages read off the packets of a connection (`cgroup_skb`).

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_fullsock, bpf_skb_load_bytes,
};
use aya_ebpf::programs::SkBuffContext;
use tracewire_common::config::{PROPAGATE_HTTP1, WINDOW};
use tracewire_common::connection::{
    CONN_ADOPTED, CONN_ENROLLED, CONN_HTTP2, CONN_OPAQUE, CONN_SPARED, CONN_SWITCHED, CONN_TLS,
    Connection,
};
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{EndReason, HeadKind, Outcome, Role};
use tracewire_common::stream::{MAX_GUESSES, Stream, UNREAD};

use crate::bounds::{filling, masked};
use crate::http2::connections;
use crate::http2::older::{self, Found};
use crate::socket::drive::{self, Drive, Piece, Source};
use crate::socket::early::keep_early_data;
use crate::socket::opaque::opaque_sent;
use crate::socket::{ending, exchange, track};
use crate::state::{self, config, count};
use crate::tls;

const IPPROTO_TCP: u32 = 6;
/// `TCP_LISTEN` (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;
/// `TCP_SYN_RECV`, likewise.
const TCP_SYN_RECV: u32 = 3;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;

/// What is needed of the headers of a packet.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) payload_at: u32,
    pub(crate) payload_len: u32,
    pub(crate) seq: u32,
    pub(crate) flags: u8,
}

/// A packet leaves (`EGRESS`) or arrives at a socket.
#[inline(always)]
pub(crate) fn on_packet<const EGRESS: bool>(ctx: &SkBuffContext) {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context; sockets are checked for null.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() || (*sk).protocol != IPPROTO_TCP {
            return;
        }
        if (*sk).state == TCP_LISTEN {
            if !EGRESS {
                keep_early_data(skb, sk);
            }
            return;
        }
        if !EGRESS && is_being_established(sk) {
            // The packet that completes the handshake is at work on another CPU, and sets up
            // the state: it reads what is kept here.
            keep_early_data(skb, sk);
            if is_being_established(sk) {
                return;
            }
        }
        let mut connection = state::connection(sk.cast());
        if !connection.is_null() && (*connection).flags & CONN_OPAQUE != 0 {
            if EGRESS && (*connection).role == Role::Client as u8 {
                let task = state::task_of_packet(connection, sk.cast());
                let is_own = (task >> 32) as u32 == (*connection).tgid;
                let is_read = (*connection).flags & CONN_TLS != 0
                    && is_own
                    && tls::socket::is_read(&*connection);
                if is_own && !is_read && segment(skb).is_some_and(|segment| segment.payload_len > 0)
                {
                    opaque_sent(connection, task);
                }
            }
            return;
        }
        let Some(segment) = segment(skb) else { return };
        if segment.payload_len == 0 && segment.flags & (FIN | RST) == 0 {
            return;
        }
        if connection.is_null() || (*connection).cookie == 0 {
            if segment.payload_len == 0 || segment.flags & SYN != 0 {
                return;
            }
            connection = adopt(skb, sk);
            if connection.is_null() {
                return;
            }
        }
        let mut is_frames = false;
        if (*connection).flags & CONN_ADOPTED != 0 && (*connection).flags & CONN_HTTP2 == 0 {
            is_frames = may_be_older_http2::<EGRESS>(skb, sk.cast(), connection, &segment);
        }
        if (*connection).flags & CONN_HTTP2 != 0
            || recognise::<EGRESS>(skb, sk.cast(), connection, &segment)
        {
            return connections::call_reader::<EGRESS>(ctx);
        }
        let now = bpf_ktime_get_ns();
        if (*connection).flags & CONN_SWITCHED != 0 {
            // To something else.
            return ending::make_opaque(&mut *connection);
        }
        if segment.payload_len > 0 && !is_frames {
            read_payload::<EGRESS>(skb, sk.cast(), connection, &segment, now);
            if (*connection).flags & CONN_SWITCHED != 0 && goes_on_with_http2(skb, connection) {
                return connections::call_reader::<EGRESS>(ctx);
            }
        }
        if segment.flags & (FIN | RST) != 0 {
            on_end::<EGRESS>(connection, &segment, now);
        }
    }
}

/// Whether this is where a connection turns out to carry HTTP/2.
///
/// # Safety
///
/// `skb` and `sk` must be the program's, `connection` live.
#[inline(always)]
unsafe fn recognise<const EGRESS: bool>(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    connection: *mut Connection,
    segment: &Segment,
) -> bool {
    let payload = (segment.payload_at, segment.payload_len);
    // SAFETY: the caller's promise.
    unsafe {
        if (*connection).opened != 0 && (*connection).flags & CONN_SWITCHED == 0 {
            return false;
        }
        if ((*connection).role == Role::Client as u8) == EGRESS {
            connections::recognise::<true>(skb, sk, connection, segment.seq, payload)
        } else {
            connections::recognise::<false>(skb, sk, connection, segment.seq, payload)
        }
    }
}

/// Whether what a packet holds behind the 101 with which the connection left HTTP/1.x is HTTP/2. If it holds
/// nothing there, that is not known yet.
///
/// # Safety
///
/// As for [`recognise`].
// Inlined it is too much for the stack: `combined stack size of 5 calls is 528. Too large`.
#[inline(never)]
unsafe fn goes_on_with_http2(skb: *mut __sk_buff, connection: *mut Connection) -> bool {
    // SAFETY: the caller's promise. Both were found before.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        let sk: *mut c_void = bpf_sk_fullsock(sk).cast();
        if sk.is_null() {
            return false;
        }
        let Some(segment) = segment(skb) else { return false };
        let next_seq = (*connection).responses.next_seq;
        (*connection).responses.flags |= UNREAD;
        let read = next_seq.wrapping_sub(segment.seq);
        if read >= segment.payload_len {
            return false;
        }
        let rest = (segment.payload_at.wrapping_add(read), segment.payload_len - read);
        let is_http2 = connections::recognise::<false>(skb, sk, connection, next_seq, rest);
        if !is_http2 {
            ending::make_opaque(&mut *connection);
        }
        is_http2
    }
}

/// Whether a packet of a connection that is older than the agent holds frames of HTTP/2. If one of them opens a
/// stream, the connection carries HTTP/2 from here on.
///
/// # Safety
///
/// As for [`recognise`].
#[inline(always)]
unsafe fn may_be_older_http2<const EGRESS: bool>(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    connection: *mut Connection,
    segment: &Segment,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let requests = &raw mut (*connection).requests;
        if segment.payload_len == 0
            || (*connection).opened != 0
            || (*requests).guesses >= MAX_GUESSES
        {
            return false;
        }
        let payload = (segment.payload_at as u64) << 32 | segment.payload_len as u64;
        if older::recognise::<EGRESS>(skb, sk, connection, segment.seq, payload) == Found::Nothing {
            return false;
        }
        // For ever it is not waited for a stream.
        (*requests).guesses += 1;
        true
    }
}

/// Whether the socket was made, but its connection is not set up yet.
///
/// # Safety
///
/// `sk` must be the program's.
#[inline(always)]
unsafe fn is_being_established(sk: *mut bpf_sock) -> bool {
    // SAFETY: the caller's promise; volatile, since another CPU may change it meanwhile.
    unsafe { (&raw const (*sk).state).read_volatile() == TCP_SYN_RECV }
}

/// Reads the headers of a packet, which starts with the network header.
///
/// # Safety
///
/// `skb` must be the program's context.
#[inline(always)]
pub(crate) unsafe fn segment(skb: *mut __sk_buff) -> Option<Segment> {
    // SAFETY: the caller's promise; what is read lies below the packet's end.
    unsafe {
        let start = (*skb).data as usize as *const u8;
        let end = (*skb).data_end as usize as *const u8;
        if start.wrapping_add(40) > end {
            return segment_in_pieces(skb);
        }
        let first = *start;
        let tcp_at = if first >> 4 == 4 {
            ((first & 0x0f) as u32) * 4
        } else if first >> 4 == 6 && *start.add(6) as u32 == IPPROTO_TCP {
            // Extension headers are not followed: such packets count as a gap.
            40
        } else {
            return None;
        };
        let tcp = start.wrapping_add(masked::<64>(tcp_at) as usize);
        if tcp.wrapping_add(16) > end {
            return segment_in_pieces(skb);
        }
        let seq = [*tcp.add(4), *tcp.add(5), *tcp.add(6), *tcp.add(7)];
        segment_of(skb, tcp_at, seq, *tcp.add(12), *tcp.add(13))
    }
}

/// What the fields of the TCP header say.
///
/// # Safety
///
/// `skb` must be the program's context.
#[inline(always)]
unsafe fn segment_of(
    skb: *mut __sk_buff,
    tcp_at: u32,
    seq: [u8; 4],
    data_offset: u8,
    flags: u8,
) -> Option<Segment> {
    let payload_at = tcp_at + ((data_offset >> 4) as u32) * 4;
    // `len` counts from the network header; a large packet of several segments says
    // nothing reliable in its own length field.
    // SAFETY: the caller's promise.
    let len = unsafe { (*skb).len };
    if len < payload_at {
        return None;
    }
    Some(Segment { payload_at, payload_len: len - payload_at, seq: u32::from_be_bytes(seq), flags })
}

/// As [`segment`], where the headers do not lie in the packet's first piece.
///
/// # Safety
///
/// `skb` must be the program's context.
#[inline(always)]
unsafe fn segment_in_pieces(skb: *mut __sk_buff) -> Option<Segment> {
    let mut ip = [0u8; 8];
    // SAFETY: the caller's promise; each destination is a local of the length given.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), 0, ip.as_mut_ptr().cast(), 8) != 0 {
            return None;
        }
        let tcp_at = if ip[0] >> 4 == 4 {
            ((ip[0] & 0x0f) as u32) * 4
        } else if ip[0] >> 4 == 6 && ip[6] as u32 == IPPROTO_TCP {
            40
        } else {
            return None;
        };
        let mut tcp = [0u8; 16];
        if bpf_skb_load_bytes(skb.cast(), tcp_at, tcp.as_mut_ptr().cast(), 16) != 0 {
            return None;
        }
        segment_of(skb, tcp_at, [tcp[4], tcp[5], tcp[6], tcp[7]], tcp[12], tcp[13])
    }
}

/// A connection older than the agent, seen for the first time.
///
/// # Safety
///
/// `skb` and `sk` must be the program's.
#[inline(never)]
unsafe fn adopt(skb: *mut __sk_buff, sk: *mut bpf_sock) -> *mut Connection {
    let Some(config) = config() else { return core::ptr::null_mut() };
    // SAFETY: the caller's promise.
    unsafe {
        let connection = state::connection_or_new(sk.cast());
        if connection.is_null() {
            count(Counter::DropNoState);
            return core::ptr::null_mut();
        }
        let local_port = (*sk).src_port as u16;
        let remote_port = u16::from_be((*sk).dst_port);
        if state::ports_are_left_alone(config, local_port, remote_port) {
            (*connection).flags |= CONN_OPAQUE;
            return core::ptr::null_mut();
        }
        (*connection).cookie = bpf_get_socket_cookie(skb.cast());
        (*connection).flags |= CONN_ADOPTED;
        (*connection).local_port = local_port;
        (*connection).remote_port = remote_port;
        if (*skb).family == 2 {
            track::set_ip4(&mut *connection, (*sk).src_ip4, (*sk).dst_ip4);
        } else {
            let l = [(*sk).src_ip6[0], (*sk).src_ip6[1], (*sk).src_ip6[2], (*sk).src_ip6[3]];
            let r = [(*sk).dst_ip6[0], (*sk).dst_ip6[1], (*sk).dst_ip6[2], (*sk).dst_ip6[3]];
            track::set_ip6(&mut *connection, l, r);
        }
        (*connection).requests = Stream::in_the_middle(HeadKind::Request);
        (*connection).responses = Stream::in_the_middle(HeadKind::Response);
        count(Counter::ConnectionsTracked);
        connection
    }
}

/// Feeds the payload to the direction that it belongs to.
///
/// # Safety
///
/// `skb` and `sk` must be the program's, `connection` live.
#[inline(always)]
unsafe fn read_payload<const EGRESS: bool>(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    connection: *mut Connection,
    segment: &Segment,
    now: u64,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let piece = Piece {
            source: skb.cast(),
            base: segment.payload_at,
            len: segment.payload_len,
            seq: segment.seq,
            now,
            // What arrives interrupts any task.
            task: if EGRESS { state::task_of_packet(connection, sk) } else { 0 },
        };
        if (*connection).role == Role::Unknown as u8 {
            guess_role::<EGRESS>(skb, connection, segment);
        }
        let role = (*connection).role;
        if role == Role::Client as u8 {
            if EGRESS {
                drive::read::<ClientPacket, true>(connection, &piece);
            } else {
                drive::read::<ClientPacket, false>(connection, &piece);
            }
        } else if role == Role::Server as u8 {
            if EGRESS {
                drive::read::<ServerPacket, false>(connection, &piece);
            } else {
                drive::read::<ServerPacket, true>(connection, &piece);
            }
        }
    }
}

/// The role of an end of a connection older than the agent.
///
/// # Safety
///
/// As for [`read_payload`].
#[inline(always)]
unsafe fn guess_role<const EGRESS: bool>(
    skb: *mut __sk_buff,
    connection: *mut Connection,
    segment: &Segment,
) {
    let mut front = [0u8; 8];
    if segment.payload_len < 8 {
        return;
    }
    // SAFETY: the caller's promise; the destination is a local of that length.
    unsafe {
        if bpf_skb_load_bytes(skb.cast(), segment.payload_at, front.as_mut_ptr().cast(), 8) != 0 {
            return;
        }
        let front = u64::from_le_bytes(front);
        if drive::is_tls_front(front) {
            (*connection).flags |= CONN_TLS | CONN_OPAQUE;
        }
        (*connection).role = role_by_front(front, EGRESS) as u8;
    }
}

/// The role of an end that sends (`SENDS`) or receives bytes that start so, the first of them the
/// lowest of the number. Who sends `HTTP/1.` answers; who sends anything that starts like a method
/// asks, and so does who begins a request of FastCGI.
#[inline(always)]
pub(crate) fn role_by_front(front: u64, sends: bool) -> Role {
    let bytes = front.to_le_bytes();
    let is_response = front & !(0xff << 56) == u64::from_le_bytes(*b"HTTP/1.\0");
    // Version, type and the length of the content; not the request's id and the padding.
    let begins_fastcgi =
        front & 0x0000_ffff_0000_ffff == u64::from_le_bytes([1, 1, 0, 0, 0, 8, 0, 0]);
    let is_request = begins_fastcgi
        || bytes[0].is_ascii_uppercase()
            && bytes[1].is_ascii_uppercase()
            && bytes[2].is_ascii_uppercase();
    if is_response {
        if sends { Role::Server } else { Role::Client }
    } else if is_request {
        if sends { Role::Client } else { Role::Server }
    } else {
        Role::Unknown
    }
}

/// One end finished (FIN) or broke (RST) the connection.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
unsafe fn on_end<const EGRESS: bool>(connection: *mut Connection, segment: &Segment, now: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if (*connection).opened == (*connection).answered {
            return;
        }
        let responses = &(*connection).responses.http1;
        let (status, content) = if responses.is_at_start() || responses.is_in_head() {
            (0, 0)
        } else {
            (responses.status(), responses.content())
        };
        let until_close = responses.is_until_close();
        let is_server = (*connection).role == Role::Server as u8;
        if segment.flags & RST != 0 {
            ending::end_all(connection, now, EndReason::Reset, status, content);
            return;
        }
        // A FIN ends the responses only if it comes from the end that answers; from
        // the other it says that no more requests come.
        if is_server != EGRESS {
            return;
        }
        let reason = if until_close { EndReason::Complete } else { EndReason::Closed };
        ending::end_all(connection, now, reason, status, content);
    }
}

/// Copies bytes of a packet into the window.
///
/// # Safety
///
/// `drive.source` must be the program's context.
#[inline(always)]
unsafe fn load_packet(drive: &mut Drive, at: u32, len: u32) -> bool {
    let Some(len) = filling::<{ WINDOW as u32 }>(len) else { return false };
    // SAFETY: the caller's promise; the window is that long.
    unsafe {
        bpf_skb_load_bytes(
            drive.source.cast::<c_void>(),
            drive.base.wrapping_add(at),
            (&raw mut (*drive.scratch).window).cast(),
            len,
        ) == 0
    }
}

/// Packets of a connection on which the process answers.
pub(crate) struct ServerPacket;

impl Source for ServerPacket {
    const SENDS: bool = false;

    #[inline(always)]
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool {
        // SAFETY: the trait's promise.
        unsafe { load_packet(drive, at, len) }
    }

    #[inline(always)]
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, _end_len: u32) {
        stream.http1.confirm();
        exchange::open_server(drive, stream);
    }
}

/// Why a request that is read off packets was given no context.
///
/// # Safety
///
/// `connection` must be live.
#[inline(always)]
pub(crate) unsafe fn outcome_of_packet(connection: *const Connection) -> Outcome {
    let propagate = match config() {
        Some(config) => config.propagate & PROPAGATE_HTTP1 != 0,
        None => false,
    };
    if !propagate {
        return Outcome::Off;
    }
    // SAFETY: the caller's promise.
    let flags = unsafe { (*connection).flags };
    let is_enrolled = flags & (CONN_ENROLLED | CONN_SPARED) == CONN_ENROLLED;
    if is_enrolled { Outcome::Missed } else { Outcome::NotEnrolled }
}

/// Packets of a connection on which the process asks, as far as the rewriting
/// program has not seen their bytes.
pub(crate) struct ClientPacket;

impl Source for ClientPacket {
    const SENDS: bool = false;

    #[inline(always)]
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool {
        // SAFETY: the trait's promise.
        unsafe { load_packet(drive, at, len) }
    }

    #[inline(always)]
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, _end_len: u32) {
        stream.http1.confirm();
        // SAFETY: live while the program runs.
        let outcome = unsafe { outcome_of_packet(drive.connection) };
        let (origin, own) = exchange::origin_and_own_header(drive, stream);
        exchange::open_client(drive, stream, &origin, outcome as u8, own);
    }
}
