//! Drives a direction's machine over bytes, wherever they come from, and does what comes of them.
//!
//! As `socket::drive` does for HTTP/1.x, with the same sources of bytes.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use tracewire_common::config::{BLOCK_CAPTURE, WINDOW};
use tracewire_common::connection::Connection;
use tracewire_common::counter::Counter;
use tracewire_common::outcome::{EndReason, HeadKind, Role};
use tracewire_common::parse::http1::Window;
use tracewire_common::parse::http2::{Event, Http2};
use tracewire_common::records::{BLOCK_END, BLOCK_END_STREAM};
use tracewire_common::stream::{Placement, place};

use crate::activities;
use crate::bounds::masked;
use crate::emit;
use crate::http2::connections::{Direction, Http2Connection};
use crate::http2::streams::{self, End, StreamKey, close_stream};
use crate::scratch::{claim, release, try_lock, unlock};
use crate::socket::drive::{Drive, Piece, Source, load};
use crate::state::count;
use crate::task::work;

/// Steps spent on one packet or send.
const MAX_STEPS: u32 = 1 << 14;

/// Where frames come from.
pub(crate) trait Carrier: Source {
    /// A header block that opens a stream ended at `drive.at`.
    ///
    /// # Safety
    ///
    /// `work.drive.source` must be what this source expects, the pointers live.
    unsafe fn request_block(work: &mut Work, number: u32);

    /// All of the piece was read.
    ///
    /// # Safety
    ///
    /// As above.
    #[inline(always)]
    unsafe fn finish(_work: &Work) {}
}

/// Bytes being read, and of what.
#[repr(C)]
pub(crate) struct Work {
    pub(crate) drive: Drive,
    pub(crate) http2: *mut Http2Connection,
}

/// One of the two directions.
#[inline(always)]
fn direction_of<const REQUESTS: bool>(http2: *mut Http2Connection) -> *mut Direction {
    // SAFETY: only the address of a field is taken.
    unsafe { if REQUESTS { &raw mut (*http2).requests } else { &raw mut (*http2).responses } }
}

/// Reads a piece: what of it is new.
///
/// # Safety
///
/// The pointers must be live state, `piece.source` what `S` expects.
#[inline(always)]
pub(crate) unsafe fn read<S: Carrier, const REQUESTS: bool>(
    connection: *mut Connection,
    http2: *mut Http2Connection,
    piece: &Piece,
) {
    let direction = direction_of::<REQUESTS>(http2);
    let (seq, len) = (piece.seq, piece.len);
    let mut turn = Turn { direction, seq, len, outcome: MISSED, pad: 0 };
    // SAFETY: the caller's promise; the lock keeps others off the direction.
    unsafe {
        bpf_loop(PATIENCE, await_turn as *mut c_void, (&raw mut turn).cast(), 0);
        if turn.outcome == SEEN {
            return;
        }
        if turn.outcome != TAKEN && !try_lock(&raw mut (*direction).busy) {
            count(Counter::StreamGaps);
            return;
        }
        read_locked::<S, REQUESTS>(connection, http2, direction, piece);
        unlock(&raw mut (*direction).busy);
    }
}

/// How often is looked whether it is a piece's turn while somebody reads what comes before it: some
/// hundreds of microseconds. Packets of one connection are read on two processors at once where the
/// sender changes its own, and then the second may come before the first was read. Reading a packet
/// takes about a microsecond a request in it, and it may hold a hundred: with 200 calls at once up
/// to 9,400 looks were seen to be needed.
const PATIENCE: u32 = 1 << 16;

/// How often while nobody does: then what comes before it is mostly lost, or late, on its way here.
const SHORT_PATIENCE: u32 = 64;

/// What [`await_turn`] waits for, and what came of it.
#[repr(C)]
struct Turn {
    direction: *mut Direction,
    seq: u32,
    len: u32,
    outcome: u32,
    pad: u32,
}

/// [`Turn::outcome`]: what comes before the piece was not read, or somebody is at it still.
const MISSED: u32 = 0;
/// [`Turn::outcome`]: all of the piece was read.
const SEEN: u32 = 1;
/// [`Turn::outcome`]: the piece comes next, and the direction is locked for it.
const TAKEN: u32 = 2;

unsafe extern "C" fn await_turn(index: u32, turn: *mut Turn) -> i64 {
    // SAFETY: `read` passes its own `turn`, whose direction is live.
    unsafe {
        let turn = &mut *turn;
        let next_seq = &raw const (*turn.direction).next_seq;
        match place(next_seq.read_volatile(), turn.seq, turn.len) {
            Placement::Seen | Placement::Alien => {
                turn.outcome = SEEN;
                return 1;
            }
            Placement::Gap(_) => {
                let is_read = (&raw const (*turn.direction).busy).read_volatile() != 0;
                return (!is_read && index >= SHORT_PATIENCE) as i64;
            }
            Placement::New(_) => {}
        }
        if !try_lock(&raw mut (*turn.direction).busy) {
            return 0;
        }
        turn.outcome = TAKEN;
        1
    }
}

/// # Safety
///
/// As for [`read`]; the direction is locked.
#[inline(always)]
unsafe fn read_locked<S: Carrier, const REQUESTS: bool>(
    connection: *mut Connection,
    http2: *mut Http2Connection,
    direction: *mut Direction,
    piece: &Piece,
) {
    // SAFETY: locked, live.
    let direction = unsafe { &mut *direction };
    let skip = match place(direction.next_seq, piece.seq, piece.len) {
        Placement::Seen | Placement::Alien => return,
        Placement::New(seen) => seen,
        Placement::Gap(missing) => {
            count(Counter::StreamGaps);
            if !direction.http2.pass_over(missing) {
                lose(direction);
                if !REQUESTS {
                    streams::end_all(connection, http2, piece.now, EndReason::Lost);
                }
            }
            0
        }
    };
    direction.next_seq = piece.seq.wrapping_add(piece.len);
    if direction.http2.is_opaque() {
        return;
    }
    if direction.http2.is_lost() {
        count(Counter::StreamResyncs);
        direction.http2.guess_frame();
    }
    let Some(claim) = claim() else {
        lose(direction);
        return;
    };
    let drive = Drive::over(connection, claim.scratch, piece, skip);
    let mut work = Work { drive, http2 };
    if S::SENDS {
        // SAFETY: live while the program runs.
        unsafe { (*http2).inserted = 0 };
    }
    // SAFETY: the callback gets the `work` that it expects.
    unsafe {
        bpf_loop(MAX_STEPS, step::<S, REQUESTS> as *mut c_void, (&raw mut work).cast(), 0);
    }
    if work.drive.stop == 0 && work.drive.at < work.drive.end {
        // Out of steps.
        count(Counter::StreamGaps);
        lose(direction);
    }
    if direction.http2.is_in_block() {
        capture::<REQUESTS>(&mut work, direction, 0);
    }
    // SAFETY: live, and the source's.
    unsafe { S::finish(&work) };
    if !REQUESTS && direction.http2.is_lost() {
        // Of what is open it is not known when it ends, as with HTTP/1.x.
        streams::end_all(connection, http2, piece.now, EndReason::Lost);
    }
    // A source may have grown the bytes, or left some for its next run.
    direction.next_seq = piece.seq.wrapping_add(work.drive.end);
    release(claim);
}

/// The position in the direction is gone.
#[inline(always)]
fn lose(direction: &mut Direction) {
    direction.http2.lose();
    direction.is_trusted = 0;
}

/// One step. Answers 0 to go on, 1 to stop.
unsafe extern "C" fn step<S: Carrier, const REQUESTS: bool>(_index: u32, work: *mut Work) -> i64 {
    // SAFETY: `read_locked` passes its own `work`, whose pointers are live.
    let stops = unsafe { advance::<S, REQUESTS>(&mut *work) };
    // As in `socket::drive::step`.
    masked::<2>(stops) as i64
}

/// Takes some bytes, and does what comes of them. Answers 0 to go on, 1 to stop.
///
/// # Safety
///
/// The pointers in `work` must be live.
#[inline(always)]
unsafe fn advance<S: Carrier, const REQUESTS: bool>(work: &mut Work) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        if work.drive.stop != 0 || work.drive.at >= work.drive.end {
            return 1;
        }
        let direction = &mut *direction_of::<REQUESTS>(work.http2);
        if work.drive.at < work.drive.window_start || work.drive.at >= work.drive.window_end {
            if direction.http2.is_in_block() {
                capture::<REQUESTS>(work, direction, 0);
            }
            let at = work.drive.at;
            if !load::<S>(&mut work.drive, at) {
                return 1;
            }
        }
        let in_window = work.drive.at.wrapping_sub(work.drive.window_start);
        let window_len = work.drive.window_end.wrapping_sub(work.drive.window_start);
        if in_window >= WINDOW as u32 || window_len > WINDOW as u32 {
            work.drive.stop = 1;
            return 1;
        }
        let available = work.drive.end.wrapping_sub(work.drive.at);
        let step = take_frame_step(
            &raw mut direction.http2,
            &raw const (*work.drive.scratch).window,
            in_window,
            window_len,
            available,
        );
        work.drive.at = work.drive.at.wrapping_add(step as u32);
        match (step >> 32) as u32 {
            EVENT_NONE => {}
            EVENT_BLOCK_START => {
                if direction.http2.block_len() == 0 {
                    direction.started_ns = work.drive.now;
                }
                // The block is to lie at the front of the window, to be sent from there.
                work.drive.window_end = work.drive.at;
                work.drive.window_start = work.drive.at;
            }
            EVENT_BLOCK_PART => capture::<REQUESTS>(work, direction, 0),
            EVENT_BLOCK_END => {
                let number = direction.http2.stream();
                let last = (*work.http2).last_stream;
                if direction.is_trusted == 0 && number.wrapping_sub(last) as i32 > FARTHEST {
                    // At a position that was guessed: rather no frame.
                    work.drive.stop = 1;
                    lose(direction);
                    return 1;
                }
                if REQUESTS && number > last {
                    S::request_block(work, number);
                    // Who receives on another processor looks for the stream from now on: it has to be there.
                    (*work.http2).last_stream = number;
                } else {
                    block_end::<REQUESTS>(work, direction, number);
                }
                direction.http2.next_block();
                work.drive.window_end = work.drive.at;
                work.drive.window_start = work.drive.at;
            }
            EVENT_DATA => data::<REQUESTS>(work, direction),
            EVENT_RESET => {
                let end = End {
                    now: work.drive.now,
                    reason: EndReason::StreamReset as u32,
                    error_code: direction.http2.error_code(),
                    by_client: REQUESTS as u32,
                    pad: 0,
                };
                let number = direction.http2.stream();
                close_stream(work.drive.connection, work.http2, number, &raw const end);
            }
            _ => {
                work.drive.stop = 1;
                lose(direction);
                return 1;
            }
        }
    }
    0
}

/// How far beyond the newest stream another one's id may be where the position was lost before.
const FARTHEST: i32 = 1 << 16;

const EVENT_NONE: u32 = Event::None as u32;
const EVENT_BLOCK_START: u32 = Event::BlockStart as u32;
const EVENT_BLOCK_PART: u32 = Event::BlockPart as u32;
const EVENT_BLOCK_END: u32 = Event::BlockEnd as u32;
const EVENT_DATA: u32 = Event::Data as u32;
const EVENT_RESET: u32 = Event::Reset as u32;

/// [`Http2::step`], as a global function: verified once, by itself. Answers the bytes taken, and in
/// the upper half the event.
///
/// # Safety
///
/// The pointers must be null or valid: the verifier asks for no more.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) unsafe extern "C" fn take_frame_step(
    http2: *mut Http2,
    window: *const Window,
    at: u32,
    end: u32,
    available: u32,
) -> u64 {
    if http2.is_null() || window.is_null() {
        return (Event::NotHttp2 as u64) << 32;
    }
    // SAFETY: checked for null, and valid by the caller's promise.
    let (taken, event) = unsafe { (*http2).step(&*window, at, end, available) };
    taken as u64 | ((event as u64) << 32)
}

/// Bytes of the block that the window holds, and where in the block they start.
#[inline(always)]
pub(crate) fn held_of(drive: &Drive, http2: &Http2) -> (u32, u32) {
    let held = drive.at.wrapping_sub(drive.window_start);
    let held = if held > http2.block_len() || held > WINDOW as u32 { 0 } else { held };
    (held, http2.block_len().wrapping_sub(held))
}

/// Sends what the window holds of a header block to userspace.
#[inline(always)]
pub(crate) fn capture<const REQUESTS: bool>(work: &mut Work, direction: &mut Direction, flags: u8) {
    let (held, offset) = held_of(&work.drive, &direction.http2);
    let wanted = if offset < BLOCK_CAPTURE { held } else { 0 };
    if flags == 0 && wanted == 0 {
        return;
    }
    let kind = if REQUESTS { HeadKind::Request } else { HeadKind::Response };
    // SAFETY: live while the program runs.
    let cookie = unsafe { (*work.drive.connection).cookie };
    emit::header_block(work.drive.scratch, wanted, |record| {
        record.connection = cookie;
        record.time_ns = work.drive.now;
        record.stream = direction.http2.stream();
        record.block = direction.http2.block();
        record.offset = offset;
        record.block_len = direction.http2.block_len();
        record.direction = kind as u8;
        record.flags = flags;
        record.pad = [0; 6];
    });
    work.drive.window_end = work.drive.at;
    work.drive.window_start = work.drive.at;
}

/// A header block ended that opens no stream: of a response, or trailers of either side.
///
/// # Safety
///
/// The pointers in `work` must be live.
#[inline(always)]
unsafe fn block_end<const REQUESTS: bool>(work: &mut Work, direction: &mut Direction, number: u32) {
    let is_end = direction.http2.ends_stream();
    capture::<REQUESTS>(work, direction, BLOCK_END | if is_end { BLOCK_END_STREAM } else { 0 });
    if REQUESTS || direction.http2.is_promise() {
        return;
    }
    // SAFETY: live while the program runs.
    unsafe { note_response(work, number, 0, is_end) };
}

/// A frame of data ended.
///
/// # Safety
///
/// As above.
#[inline(always)]
unsafe fn data<const REQUESTS: bool>(work: &mut Work, direction: &mut Direction) {
    let (number, len) = (direction.http2.stream(), direction.http2.frame_len());
    // SAFETY: the caller's promise.
    unsafe {
        if !REQUESTS {
            return note_response(work, number, len, direction.http2.ends_stream());
        }
        let cookie = (*work.drive.connection).cookie;
        if let Some(state) =
            streams::stream(StreamKey { connection: cookie, stream: number as u64 })
        {
            state.request_bytes = state.request_bytes.wrapping_add(len as u64);
        }
    }
}

/// Something of a response passed: the first of it begins the answer, the last ends the stream.
///
/// # Safety
///
/// As above.
#[inline(always)]
unsafe fn note_response(work: &mut Work, number: u32, len: u32, is_end: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let connection = work.drive.connection;
        let key = StreamKey { connection: (*connection).cookie, stream: number as u64 };
        let Some(state) = streams::stream(key) else { return };
        state.response_bytes = state.response_bytes.wrapping_add(len as u64);
        if (*connection).role == Role::Server as u8 {
            // What streams its answer may go on with the request until the end of it.
            if is_end {
                let is_own = (work.drive.task >> 32) as u32 == (*connection).tgid;
                let task = if is_own { work.drive.task as u32 } else { 0 };
                activities::begin_answer(state.span_id, task);
            }
        } else {
            work::some_has_come(&mut state.awaited, state.tid);
            let http2 = &mut *work.http2;
            if http2.replies == 0 {
                http2.reply_activity = state.activity;
                http2.replies = 1;
            } else if http2.reply_activity != state.activity {
                http2.replies = 2;
            }
        }
        if state.response_ns == 0 {
            state.response_ns = work.drive.now;
        }
        if is_end {
            let end = End {
                now: work.drive.now,
                reason: EndReason::Complete as u32,
                error_code: 0,
                by_client: 0,
                pad: 0,
            };
            close_stream(connection, work.http2, number, &raw const end);
        }
    }
}
