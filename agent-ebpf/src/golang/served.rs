//! Requests on streams of HTTP/2 as servers of Go take them up. One goroutine reads a connection, and maybe
//! many requests at once; it, or another, then makes a goroutine for each. Which one it is about to make
//! it for is asked just before.

use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::ProbeContext;
use tracewire_common::golang::{GoProcess, GoroutineId};

use crate::golang::goroutine::{self, read_user};
use crate::golang::round_trip;
use crate::http2::streams::{StreamKey, stream};

/// The data word of the interface `serverConn.conn`, behind two pointers, or from Go 1.27 on behind one and
/// another interface.
const CONN_DATA: [u64; 2] = [16 + 8, 24 + 8];
/// The front of a `HeadersFrame` of golang.org/x/net/http2, whose header begins with `valid`, which is
/// false once all of its fields were read, and the type, HEADERS.
const HEADERS: u64 = 0x0100;
/// The stream's number in it.
const STREAM: u64 = 8;

/// The connection that a goroutine reads: the cookie of its socket.
#[btf_map]
static GO_READERS: LruHashMap<GoroutineId, u64, 4096> = LruHashMap::new();

/// The goroutine at work has received requests on streams of a connection.
#[inline(always)]
pub(crate) fn note_reader(process: &GoProcess, tgid: u32, cookie: u64) {
    let reader = goroutine::at_work(process, tgid);
    if reader.goid == 0 {
        return;
    }
    match GO_READERS.get_ptr_mut(reader) {
        // SAFETY: map memory, written to on the goroutine's behalf alone.
        Some(known) => unsafe { *known = cookie },
        None => {
            let _no_parent_then = GO_READERS.insert(reader, cookie, 0);
        }
    }
}

/// A request is taken up: by grpc-go (`IS_GRPC`) in the goroutine that reads, else in one that has the
/// connection itself.
#[inline(always)]
pub(crate) fn on_request<const IS_GRPC: bool>(ctx: &ProbeContext) {
    // SAFETY: no arguments.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    let Some(process) = goroutine::process(tgid) else { return };
    // SAFETY: the context of a probe is the registers at it.
    let (server, second, fourth) = unsafe { ((*ctx.regs).rax, (*ctx.regs).rbx, (*ctx.regs).rdi) };
    let connection = if IS_GRPC {
        let reader = goroutine::at_work(process, tgid);
        // SAFETY: one word, read once.
        match unsafe { GO_READERS.get(reader) } {
            Some(cookie) => *cookie,
            None => 0,
        }
    } else {
        let cookie = round_trip::cookie_of(read_user(server.wrapping_add(CONN_DATA[0])));
        if cookie != 0 {
            cookie
        } else {
            round_trip::cookie_of(read_user(server.wrapping_add(CONN_DATA[1])))
        }
    };
    let mut found = request_of(connection, second);
    if found == 0 {
        // In newer versions of grpc-go there is a context before it, which takes two registers.
        found = request_of(connection, fourth);
    }
    // Also where it is not known: it is not what came before.
    goroutine::received(process, tgid, found);
}

/// The request that a `MetaHeadersFrame` is of: it begins with a pointer to the frame. 0 if it is not known.
#[inline(always)]
fn request_of(connection: u64, frame: u64) -> u64 {
    let headers = read_user(frame);
    if connection == 0 || read_user(headers) & 0xffff != HEADERS {
        return 0;
    }
    let number = read_user(headers.wrapping_add(STREAM)) & 0x7fff_ffff;
    match stream(StreamKey { connection, stream: number }) {
        Some(state) => state.span_id,
        None => 0,
    }
}
