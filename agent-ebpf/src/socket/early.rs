//! Data that comes before its connection is set up.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use tracewire_common::config::WINDOW;
use tracewire_common::counter::Counter;

use crate::bounds::filling;
use crate::scratch::{claim, release};
use crate::socket::packets::{RST, SYN, segment};
use crate::state::{self, EarlyData, EarlyKey, count};

/// Data on the packet that completes a handshake (`TCP_DEFER_ACCEPT`): the socket seen
/// is the listener, the connection does not exist yet.
///
/// # Safety
///
/// `skb` and `sk` must be the program's.
#[inline(never)]
pub(crate) unsafe fn keep_early_data(skb: *mut __sk_buff, sk: *mut bpf_sock) {
    // SAFETY: the caller's promise; the claimed buffer is this program's, and larger
    // than the data kept.
    unsafe {
        let Some(segment) = segment(skb) else { return };
        if segment.payload_len == 0 || segment.flags & (SYN | RST) != 0 {
            return;
        }
        let Some(key) = early_key(skb, (*sk).src_port as u16) else { return };
        let Some(claim) = claim() else { return };
        let data = claim.scratch.cast::<EarlyData>();
        (*data).seq = segment.seq;
        let mut len = segment.payload_len;
        if len > WINDOW as u32 {
            len = WINDOW as u32;
            count(Counter::EarlyHeadsTruncated);
        }
        (*data).len = len;
        if let Some(len) = filling::<{ WINDOW as u32 }>(len) {
            let to = (&raw mut (*data).bytes).cast();
            if bpf_skb_load_bytes(skb.cast(), segment.payload_at, to, len) == 0 {
                state::keep_early(&key, &*data);
            }
        }
        release(claim);
    }
}

/// The ends of a packet that arrives.
///
/// # Safety
///
/// `skb` must be the program's context.
#[inline(always)]
unsafe fn early_key(skb: *mut __sk_buff, local_port: u16) -> Option<EarlyKey> {
    let mut key =
        EarlyKey { remote_addr: [0; 16], local_addr: [0; 16], remote_port: 0, local_port, pad: 0 };
    let mut port = [0u8; 2];
    // SAFETY: the caller's promise; each destination is as long as the length given.
    unsafe {
        let mut first = 0u8;
        if bpf_skb_load_bytes(skb.cast(), 0, (&raw mut first).cast(), 1) != 0 {
            return None;
        }
        let (port_at, failed) = if first >> 4 == 4 {
            let failed = bpf_skb_load_bytes(skb.cast(), 12, key.remote_addr.as_mut_ptr().cast(), 4)
                | bpf_skb_load_bytes(skb.cast(), 16, key.local_addr.as_mut_ptr().cast(), 4);
            (((first & 0x0f) as u32) * 4, failed)
        } else {
            let failed = bpf_skb_load_bytes(skb.cast(), 8, key.remote_addr.as_mut_ptr().cast(), 16)
                | bpf_skb_load_bytes(skb.cast(), 24, key.local_addr.as_mut_ptr().cast(), 16);
            (40, failed)
        };
        if failed != 0 || bpf_skb_load_bytes(skb.cast(), port_at, port.as_mut_ptr().cast(), 2) != 0
        {
            return None;
        }
    }
    key.remote_port = u16::from_be_bytes(port);
    Some(key)
}
