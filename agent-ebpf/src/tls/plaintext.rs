//! Plaintext in a process's memory, as a source of bytes.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracewire_common::config::WINDOW;
use tracewire_common::outcome::Outcome;
use tracewire_common::stream::Stream;

use crate::bounds::filling;
use crate::socket::drive::{Drive, Source};
use crate::socket::{exchange, handover};
use crate::tcp_option;

/// Copies bytes of a buffer into the window.
///
/// # Safety
///
/// `drive.source` must be the buffer's address in the process at work.
#[inline(always)]
unsafe fn load_buffer(drive: &mut Drive, at: u32, len: u32) -> bool {
    let Some(len) = filling::<{ WINDOW as u32 }>(len) else { return false };
    // SAFETY: the helper checks the address; the window is that long.
    unsafe {
        bpf_probe_read_user(
            (&raw mut (*drive.scratch).window).cast(),
            len,
            drive.source.cast::<u8>().wrapping_add(at as usize).cast(),
        ) == 0
    }
}

/// Plaintext of a process that asks.
pub(crate) struct ClientText;

impl Source for ClientText {
    const SENDS: bool = false;

    #[inline(always)]
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool {
        // SAFETY: the trait's promise.
        unsafe { load_buffer(drive, at, len) }
    }

    #[inline(always)]
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, _end_len: u32) {
        stream.http1.confirm();
        let (mut origin, own) = exchange::origin_and_own_header(drive, stream);
        let mut outcome = Outcome::Encrypted;
        // SAFETY: live state, and the claimed buffer: the stack is short of room.
        unsafe {
            if !exchange::is_full(&*drive.connection) {
                let (context, start) = (handover::room(drive), handover::head_start(drive, stream));
                context.write(origin.context);
                outcome = tcp_option::send_beside(drive.connection, context, own, start);
                origin.context.span_id = (*context).span_id;
            }
        }
        exchange::open_client(drive, stream, &origin, outcome as u8, own);
    }
}

/// Plaintext of a process that answers.
pub(crate) struct ServerText;

impl Source for ServerText {
    const SENDS: bool = false;

    #[inline(always)]
    unsafe fn load(drive: &mut Drive, at: u32, len: u32) -> bool {
        // SAFETY: the trait's promise.
        unsafe { load_buffer(drive, at, len) }
    }

    #[inline(always)]
    unsafe fn request_head(drive: &mut Drive, stream: &mut Stream, _end_len: u32) {
        stream.http1.confirm();
        exchange::open_server(drive, stream);
    }
}
