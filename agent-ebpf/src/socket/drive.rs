//! Drives a stream's machine over bytes, wherever they come from.
//!
//! The machine is the one of `tracewire_common::parse::http1`. The loop is
//! `bpf_loop`, so that a head of any length is followed with a program of a
//! fixed size; its callback takes one step: it makes sure that the bytes at the
//! present position are in the window, and lets the machine take some.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use tracewire_common::config::{HEAD_CAPTURE, WINDOW};
use tracewire_common::connection::{CONN_DISTRUSTED, CONN_TLS, Connection};
use tracewire_common::counter::Counter;
use tracewire_common::parse::http1::{Event, Http1, Window};
use tracewire_common::stream::{MAX_GUESSES, Placement, Stream, TRUSTED, UNREAD};

use crate::bounds::masked;
use crate::emit;
use crate::scratch::{Scratch, claim, forgotten, release, try_lock, unlock};
use crate::socket::{ending, exchange};
use crate::state::count;

/// Steps spent on one packet or send; a step takes some bytes of a line, the name or
/// the value of a header that matters, or a whole body; one byte where it must. Past it the position is given up.
const MAX_STEPS: u32 = 1 << 15;

/// In [`Drive::stop`]: nothing of the connection can be told any more.
const GIVE_UP: u32 = 2;

/// Where bytes come from, and what can be done to them there.
pub(crate) trait Source {
    /// Copies `len` (1 to [`WINDOW`]) bytes at `at` into the window.
    ///
    /// # Safety
    ///
    /// `drive.source` must be what this source expects.
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool;

    /// Whether the bytes are on their way into the socket, where they can be changed.
    const SENDS: bool;

    /// A request's head ended at `drive.at`, of whose last line end `end_len` (1 or 2)
    /// bytes are there. Opens the exchange.
    ///
    /// # Safety
    ///
    /// As for [`Source::load`].
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, end_len: u32);
}

/// Bytes being read, and how far that is.
#[repr(C)]
pub(crate) struct Drive {
    pub(crate) connection: *mut Connection,
    pub(crate) scratch: *mut Scratch,
    pub(crate) source: *mut c_void,
    pub(crate) now: u64,
    /// `bpf_get_current_pid_tgid`, or 0 where the current task says nothing.
    pub(crate) task: u64,
    /// Where the bytes start in the source.
    pub(crate) base: u32,
    /// The present position, from there.
    pub(crate) at: u32,
    /// How many bytes there are.
    pub(crate) end: u32,
    /// What the window holds.
    pub(crate) window_start: u32,
    pub(crate) window_end: u32,
    /// The sequence number of the first byte.
    pub(crate) seq: u32,
    /// Non-zero: stop after this step. [`GIVE_UP`]: and look at the connection no more.
    pub(crate) stop: u32,
    pad: u32,
}

impl Drive {
    /// A piece, of which the first `skip` bytes are not new. To be made before `scratch` is written to.
    #[inline(always)]
    pub(crate) fn over(
        connection: *mut Connection,
        scratch: *mut Scratch,
        piece: &Piece,
        skip: u32,
    ) -> Self {
        // What the loop changes, the verifier may not know. Before Linux 6.7 it looks at the function that
        // `bpf_loop` calls as if it were called once, and what cannot be reached then is taken out of the program:
        // that a window was left behind, whose bytes are to be sent.
        // SAFETY: the claimed buffer.
        let none = unsafe { forgotten(scratch, 0) } as u32;
        Self {
            connection,
            scratch,
            source: piece.source,
            now: piece.now,
            task: piece.task,
            base: piece.base,
            at: skip,
            end: piece.len,
            window_start: none,
            window_end: none,
            seq: piece.seq,
            stop: none,
            pad: 0,
        }
    }
}

/// The stream that carries requests, or the one that carries responses.
#[inline(always)]
pub(crate) fn stream_of<const REQUESTS: bool>(connection: *mut Connection) -> *mut Stream {
    // SAFETY: only the address of a field is taken.
    unsafe {
        if REQUESTS { &raw mut (*connection).requests } else { &raw mut (*connection).responses }
    }
}

/// Bytes of one packet or send, before they are placed in the stream.
pub(crate) struct Piece {
    pub(crate) source: *mut c_void,
    pub(crate) base: u32,
    pub(crate) len: u32,
    pub(crate) seq: u32,
    pub(crate) now: u64,
    pub(crate) task: u64,
}

/// Reads a piece: what of it is new.
///
/// # Safety
///
/// `connection` must be live state, `piece.source` what `S` expects.
#[inline(always)]
pub(crate) unsafe fn read<S: Source, const REQUESTS: bool>(
    connection: *mut Connection,
    piece: &Piece,
) {
    let stream = stream_of::<REQUESTS>(connection);
    // SAFETY: the caller's promise; the lock keeps others off the stream.
    unsafe {
        if !try_lock(&raw mut (*stream).busy) {
            // Two CPUs at once on one direction: rare, and found again as a gap.
            count(Counter::StreamGaps);
            return;
        }
        read_locked::<S, REQUESTS>(connection, stream, piece);
        unlock(&raw mut (*stream).busy);
    }
}

/// # Safety
///
/// As for [`read`]; the stream is locked.
#[inline(always)]
unsafe fn read_locked<S: Source, const REQUESTS: bool>(
    connection: *mut Connection,
    stream: *mut Stream,
    piece: &Piece,
) {
    // SAFETY: locked, live.
    let stream = unsafe { &mut *stream };
    let skip = match stream.place(piece.seq, piece.len) {
        Placement::Seen | Placement::Alien => return,
        Placement::New(seen) => seen,
        Placement::Gap(missing) => {
            count(Counter::StreamGaps);
            if !stream.http1.pass_over(missing) {
                stream.flags &= !TRUSTED;
                ending::lose::<REQUESTS>(connection, piece.now);
            }
            0
        }
    };
    stream.next_seq = piece.seq.wrapping_add(piece.len);
    stream.flags &= !UNREAD;
    if stream.http1.is_opaque() {
        return;
    }
    if stream.http1.is_lost() {
        // SAFETY: live while the program runs.
        let in_flight = unsafe { (*connection).opened != (*connection).answered };
        if REQUESTS && in_flight {
            // A request may have been missed: were another one found now, it could be
            // paired with the missed one's response.
            return;
        }
        // A guess is never trusted, however the position was lost.
        stream.flags &= !TRUSTED;
        stream.http1.guess_start();
    }
    let Some(claim) = claim() else {
        lose(connection, stream, REQUESTS, piece.now);
        return;
    };
    let mut drive = Drive::over(connection, claim.scratch, piece, skip);
    // SAFETY: the callback gets the `drive` that it expects.
    unsafe {
        bpf_loop(MAX_STEPS, step::<S, REQUESTS> as *mut c_void, (&raw mut drive).cast(), 0);
    }
    if drive.stop == 0 && drive.at < drive.end {
        // Out of steps.
        lose(connection, stream, REQUESTS, piece.now);
    }
    if REQUESTS {
        capture(&mut drive, stream);
    }
    if REQUESTS && drive.stop == GIVE_UP {
        // Here, and not in the loop, which is deeper: `combined stack size of 5 calls is 528. Too large`.
        // SAFETY: live while the program runs.
        ending::give_up(unsafe { &mut *connection }, piece.now);
    }
    // A source may have grown the bytes, or left some for its next run.
    stream.next_seq = piece.seq.wrapping_add(drive.end);
    release(claim);
}

/// The position in the stream is gone.
#[inline(always)]
fn lose(connection: *mut Connection, stream: &mut Stream, requests: bool, now: u64) {
    count(Counter::StreamGaps);
    stream.http1.lose();
    stream.flags &= !TRUSTED;
    if requests {
        ending::lose::<true>(connection, now);
    } else {
        ending::lose::<false>(connection, now);
    }
}

/// Sends what the window holds of an unfinished head to userspace.
#[inline(always)]
fn capture(drive: &mut Drive, stream: &mut Stream) {
    if !stream.http1.is_in_head()
        || stream.http1.is_announced()
        || drive.window_end <= drive.window_start
    {
        return;
    }
    let held = drive.at.wrapping_sub(drive.window_start);
    let offset = stream.http1.head_len().wrapping_sub(held);
    if held == 0 || held > WINDOW as u32 || offset >= HEAD_CAPTURE {
        return;
    }
    // SAFETY: live while the program runs.
    let (cookie, sequence) = unsafe { ((*drive.connection).cookie, (*drive.connection).opened) };
    emit::head_fragment(drive.scratch, cookie, sequence, offset, held);
}

/// One step. Answers 0 to go on, 1 to stop.
unsafe extern "C" fn step<S: Source, const REQUESTS: bool>(_index: u32, drive: *mut Drive) -> i64 {
    // SAFETY: `read_locked` passes its own `drive`, whose pointers are live.
    let stops = unsafe { advance::<S, REQUESTS>(&mut *drive) };
    // The compiler takes the answer from whatever register holds the same number, and old
    // verifiers say `At callback return the register R0 has value (0x0; 0xffffffff)`.
    masked::<2>(stops) as i64
}

/// Takes some bytes, and does what comes of them. Answers 0 to go on, 1 to stop.
///
/// # Safety
///
/// The pointers in `drive` must be live.
#[inline(always)]
unsafe fn advance<S: Source, const REQUESTS: bool>(drive: &mut Drive) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        if drive.stop != 0 || drive.at >= drive.end {
            return 1;
        }
        let stream = &mut *stream_of::<REQUESTS>(drive.connection);

        let starts = stream.http1.is_at_start();
        // A head is to lie at the front of the window, to be sent from there.
        let elsewhere = REQUESTS && starts && drive.at != drive.window_start;
        if elsewhere || drive.at < drive.window_start || drive.at >= drive.window_end {
            if REQUESTS {
                capture(drive, stream);
            }
            if !load::<S>(drive, drive.at) {
                return 1;
            }
        }
        let in_window = drive.at.wrapping_sub(drive.window_start);
        let window_len = drive.window_end.wrapping_sub(drive.window_start);
        if in_window >= WINDOW as u32 || window_len > WINDOW as u32 {
            drive.stop = 1;
            return 1;
        }
        let available = drive.end.wrapping_sub(drive.at);
        let step = take_step(
            &raw mut stream.http1,
            &raw const (*drive.scratch).window,
            in_window,
            window_len,
            available,
        );
        drive.at = drive.at.wrapping_add(step as u32);
        let event = Event::of((step >> 32) as u32);
        if starts && !stream.http1.is_at_start() {
            stream.started_ns = drive.now;
        }

        match event {
            Event::None => {
                // A send that ends between the last CR and LF: the place for a header is
                // before that CR, and it leaves now.
                if REQUESTS
                    && S::SENDS
                    && drive.at == drive.end
                    && stream.http1.is_before_last_line_feed()
                    && !stream.http1.is_announced()
                {
                    S::request_head(drive, stream, 1);
                }
            }
            Event::HeadEnd if REQUESTS => {
                if stream.http1.is_tentative()
                    && stream.http1.is_without_body()
                    && drive.at < drive.end
                {
                    // A guess at the start of a request, and more than the request: rather
                    // a body that looks like requests.
                    stream.http1.lose();
                    drive.stop = 1;
                    return 1;
                }
                if ending::is_several_at_once(drive.connection, stream) {
                    not_http::<REQUESTS>(drive, stream);
                    return 1;
                }
                if !stream.http1.is_announced() {
                    S::request_head(drive, stream, 2);
                }
                stream.guesses = 0;
                exchange::request_body(drive.connection, stream);
            }
            Event::HeadEnd => {
                stream.guesses = 0;
                if !ending::response_head(drive, stream) {
                    return 1;
                }
            }
            Event::MessageEnd => {
                if REQUESTS {
                    exchange::request_end(drive.connection, stream);
                } else {
                    ending::response_end(drive, stream);
                }
            }
            Event::NotHttp => {
                not_http::<REQUESTS>(drive, stream);
                return 1;
            }
            Event::Held => {
                // Bytes of the new protocol, or a client in a hurry: not to be told apart.
                stream.http1.lose();
                stream.flags &= !TRUSTED;
                drive.stop = 1;
                return 1;
            }
        }
    }
    0
}

/// [`Http1::step`], as a global function: the verifier looks at it once, by itself, and
/// not again in each place and each state that it is called in. Answers the bytes taken,
/// and in the upper half the event.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn take_step(
    http1: *mut Http1,
    window: *const Window,
    at: u32,
    end: u32,
    available: u32,
) -> u64 {
    if http1.is_null() || window.is_null() {
        return (Event::NotHttp as u64) << 32;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    let (taken, event) = unsafe { (*http1).step(&*window, at, end, available) };
    taken as u64 | ((event as u64) << 32)
}

/// Loads the window at `at`.
///
/// # Safety
///
/// As for [`Source::load`].
#[inline(always)]
pub(crate) unsafe fn load<S: Source>(drive: &mut Drive, at: u32) -> bool {
    let left = drive.end.wrapping_sub(at);
    let len = if left > WINDOW as u32 { WINDOW as u32 } else { left };
    // SAFETY: the caller's promise.
    if len == 0 || !unsafe { S::load(drive, at, len) } {
        drive.window_end = 0;
        drive.window_start = 0;
        return false;
    }
    drive.window_start = at;
    drive.window_end = at.wrapping_add(len);
    true
}

/// Whether the window starts with a record of TLS (RFC 8446 §5.1).
#[inline(always)]
fn is_tls_record(drive: &Drive) -> bool {
    // SAFETY: the claimed buffer; what it holds beyond what was loaded is no secret here.
    is_tls_front(unsafe { (&raw const (*drive.scratch).window).cast::<u64>().read_volatile() })
}

/// Whether bytes, of which the first is the lowest of the number, start as a record of TLS does: a
/// type from 20 to 23, version 3 of SSL, of which all of TLS are revisions, and a length of no more
/// than TLS 1.2 allows.
#[inline(always)]
pub(crate) fn is_tls_front(first: u64) -> bool {
    const LONGEST: u32 = (1 << 14) + 2048;
    let front = (first as u32).swap_bytes();
    let len = (front & 0xff) << 8 | (first >> 32) as u32 & 0xff;
    front >> 26 == 0x14 >> 2
        && (front >> 16) & 0xff == 3
        && (front >> 8) & 0xff <= 4
        && len <= LONGEST
}

/// The bytes are no message of HTTP/1.x.
// Inlined it is too much for the stack: `combined stack size of 5 calls is 528. Too large`.
#[inline(never)]
fn not_http<const REQUESTS: bool>(drive: &mut Drive, stream: &mut Stream) {
    // SAFETY: live while the program runs.
    let connection = unsafe { &mut *drive.connection };
    drive.stop = 1;
    let never_was_http = connection.opened == 0 && connection.overflow == 0;
    if never_was_http && is_tls_record(drive) {
        // Also in the middle: those who look at its plaintext want to know at once.
        connection.flags |= CONN_TLS;
        ending::make_opaque(connection);
        return;
    }
    if REQUESTS && never_was_http && !stream.http1.is_tentative() {
        ending::make_opaque(connection);
        return;
    }
    if REQUESTS && ending::may_be_several(connection, stream) {
        drive.stop = GIVE_UP;
        return;
    }
    let guessing = stream.http1.is_tentative();
    stream.http1.lose();
    stream.flags &= !TRUSTED;
    if guessing {
        stream.guesses = stream.guesses.wrapping_add(1);
        if stream.guesses >= MAX_GUESSES {
            if never_was_http {
                ending::make_opaque(connection);
            } else {
                stream.http1.make_opaque();
            }
        }
        return;
    }
    if REQUESTS {
        // What some reader takes for a request, or for its body, is none here. What is
        // found later may lie inside of it, whatever is answered.
        connection.flags |= CONN_DISTRUSTED;
    }
    count(Counter::StreamResyncs);
    ending::lose::<REQUESTS>(drive.connection, drive.now);
}
