//! The TCP option by which a context goes beside ciphertext.
//!
//! It is an experimental one (kind 253), told from others by the two bytes after its length, as RFC
//! 6994 §3 asks. One of four bytes says that its sender reads contexts ([`ANNOUNCEMENT`]); one of 28
//! carries a trace id and a span id. That is all for which there is room beside time stamps, so that
//! the sampled flag is in those two bytes.
//!
//! Which request a context is for is in the span id itself: its lower 24 bits say where in the
//! plaintext that the client sends the request begins. It does not matter on which segment it comes,
//! and a context that does not fit exactly is nobody's.

use crate::context::{FLAG_SAMPLED, TraceContext};

/// The kind (RFC 4727 §3).
pub const KIND: u8 = 253;

/// What tells a context of a sampled trace, and an announcement.
pub const SAMPLED: [u8; 2] = *b"TW";

/// What tells a context of a trace that is not sampled.
pub const UNSAMPLED: [u8; 2] = *b"Tw";

/// Says that this end reads contexts.
pub const ANNOUNCEMENT: [u8; 4] = [KIND, 4, SAMPLED[0], SAMPLED[1]];

/// The length of a context, in bytes.
pub const LENGTH: usize = 28;

/// The bits of a span id that say which request it is of.
const TAG: u64 = (1 << 24) - 1;

/// What tells a request, from how many bytes of plaintext were sent before it.
#[inline(always)]
pub const fn tag(position: u32) -> u32 {
    position & TAG as u32
}

/// The tag in a span id.
#[inline(always)]
pub const fn tag_of(span_id: u64) -> u32 {
    (span_id & TAG) as u32
}

/// A span id with the tag in it; never 0 (W3C Trace Context §3.2.2.4).
#[inline(always)]
pub const fn tagged(span_id: u64, tag: u32) -> u64 {
    let random = span_id & !TAG;
    let random = if random == 0 { 1 << 24 } else { random };
    random | tag as u64
}

/// The option that carries a context.
#[inline(always)]
pub const fn encode(context: &TraceContext) -> [u64; 4] {
    // In words of the wire's order, the first four bytes of the first unused: what is copied byte by
    // byte is long for the verifier.
    let id = if context.is_sampled() { SAMPLED } else { UNSAMPLED };
    let head = [0, 0, 0, 0, KIND, LENGTH as u8, id[0], id[1]];
    [
        u64::from_ne_bytes(head),
        context.trace_id_hi.to_be(),
        context.trace_id_lo.to_be(),
        context.span_id.to_be(),
    ]
}

/// The context in an option, as [`encode`] makes it; `None` if it is none that is valid (W3C Trace
/// Context §3.2.2).
#[inline(always)]
pub const fn decode(option: &[u64; 4]) -> Option<TraceContext> {
    let [_, _, _, _, kind, length, first, second] = option[0].to_ne_bytes();
    let is_sampled = second == SAMPLED[1];
    if kind != KIND || length as usize != LENGTH || first != SAMPLED[0] {
        return None;
    }
    if !is_sampled && second != UNSAMPLED[1] {
        return None;
    }
    let context = TraceContext {
        trace_id_hi: u64::from_be(option[1]),
        trace_id_lo: u64::from_be(option[2]),
        span_id: u64::from_be(option[3]),
        flags: if is_sampled { FLAG_SAMPLED } else { 0 },
        pad: [0; 7],
    };
    if context.is_valid() { Some(context) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: TraceContext = TraceContext {
        trace_id_hi: 0x0af7_6519_16cd_43dd,
        trace_id_lo: 0x8448_eb21_1c80_319c,
        span_id: 0xb7ad_6b71_6920_3331,
        flags: FLAG_SAMPLED,
        pad: [0; 7],
    };

    fn bytes(option: [u64; 4]) -> Vec<u8> {
        option.iter().flat_map(|word| word.to_ne_bytes()).skip(4).collect()
    }

    #[test]
    fn a_context_is_28_bytes_of_which_the_ids_are_in_the_order_of_the_wire() {
        let wire = bytes(encode(&CONTEXT));
        assert_eq!(wire.len(), LENGTH);
        assert_eq!(&wire[..4], [253, 28, b'T', b'W']);
        assert_eq!(wire[4..20], CONTEXT.trace_id());
        assert_eq!(wire[20..], CONTEXT.span_id.to_be_bytes());
    }

    #[test]
    fn a_context_comes_back_with_its_flag() {
        for flags in [0, FLAG_SAMPLED] {
            let context = TraceContext { flags, ..CONTEXT };
            assert_eq!(decode(&encode(&context)), Some(context));
        }
    }

    #[test]
    fn what_is_no_context_of_ours_is_none() {
        let good = encode(&CONTEXT);
        for (at, byte) in [(4, 254), (5, 27), (6, b'X'), (7, b'X')] {
            let mut head = good[0].to_ne_bytes();
            head[at] = byte;
            assert_eq!(decode(&[u64::from_ne_bytes(head), good[1], good[2], good[3]]), None);
        }
        assert_eq!(decode(&[good[0], 0, 0, good[3]]), None);
        assert_eq!(decode(&[good[0], good[1], good[2], 0]), None);
    }

    #[test]
    fn a_span_id_says_where_its_request_begins_and_is_never_zero() {
        for span_id in [0, 1, CONTEXT.span_id, u64::MAX] {
            for position in [0, 1, 0xff_ffff, 0x100_0000, u32::MAX] {
                let tagged = tagged(span_id, tag(position));
                assert_ne!(tagged, 0);
                assert_eq!(tag_of(tagged), position & 0xff_ffff);
            }
        }
        assert_eq!(tagged(CONTEXT.span_id, 0) >> 24, CONTEXT.span_id >> 24);
    }
}
