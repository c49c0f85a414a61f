//! Connections that are found in the middle: whether bytes start where a client opens a stream.
//!
//! Nothing came before that would say that they carry HTTP/2, so the bytes have to: by the header of the
//! frame, the first byte of the header block, and what stands where the frame ends.

use super::{
    ACK, DATA, END_HEADERS, END_STREAM, FRAME_HEADER, GOAWAY, HEADERS, MAX_STREAM, PADDED, PING,
    PRIORITY, PRIORITY_FRAME, RST_STREAM, SAFE_FRAME, SETTINGS, WINDOW_UPDATE,
};

/// Bytes of a frame's header.
type Header = [u8; FRAME_HEADER as usize];

/// A frame that may open a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The stream.
    pub stream: u32,
    /// Where its header block begins, in bytes from the start of the frame.
    pub block_at: u32,
    /// Where the frame ends, likewise.
    pub end: u32,
}

/// Reads the header of a frame that opens a client's stream, and holds all of its header block (RFC 9113
/// §6.2). One that goes on in other frames is not looked for.
#[inline(always)]
pub fn opening(header: &Header) -> Option<Opening> {
    let (len, kind, flags, stream) = parts(header);
    let padded = flags & PADDED != 0;
    let block_at = FRAME_HEADER + padded as u32 + if flags & PRIORITY != 0 { 5 } else { 0 };
    let is_legal = kind == HEADERS
        && flags & !(END_STREAM | END_HEADERS | PADDED | PRIORITY) == 0
        && flags & END_HEADERS != 0
        && stream % 2 == 1
        && stream <= MAX_STREAM
        && len <= SAFE_FRAME
        && FRAME_HEADER + len > block_at;
    is_legal.then_some(Opening { stream, block_at, end: FRAME_HEADER + len })
}

/// Whether a request's header block begins with these bytes: with a pseudo-header field, which stand before all
/// others (§8.3), or with an entry of the dynamic table, of which nothing is known. (A block of two bytes or less
/// has what comes behind it here as well.)
#[inline(always)]
pub fn begins_request(start: [u8; 3]) -> bool {
    /// `:authority`, `:method`, `:path` and `:scheme` come first (RFC 7541 Appendix A).
    const LAST_OF_REQUESTS: u8 = 7;
    const STATIC_ENTRIES: u8 = 61;
    let [first, name_len, name] = start;
    // RFC 7541 §6: indexed, with incremental indexing, without, and never indexed.
    let index = if first & 0x80 != 0 {
        if first & 0x7f > STATIC_ENTRIES {
            return true;
        }
        first & 0x7f
    } else if first & 0xc0 == 0x40 {
        first & 0x3f
    } else if first & 0xe0 == 0 {
        first & 0x0f
    } else {
        return false;
    };
    if index != 0 || first & 0x80 != 0 {
        return matches!(index, 1..=LAST_OF_REQUESTS);
    }
    // The name is spelt, as gRPC's core does: from `:path` to `:authority`, or Huffman coded.
    match name_len {
        5..=10 => name == b':',
        // A colon is the seven bits 1011100 (Appendix B).
        0x84..=0x88 => name >> 1 == 0b101_1100,
        _ => false,
    }
}

/// How long a frame is with its header, in bytes, if this is one that peers send on a connection that is at work
/// (RFC 9113 §6), of a type that this names.
#[inline(always)]
pub fn frame_len(header: &Header) -> Option<u32> {
    let (len, kind, flags, stream) = parts(header);
    if stream > MAX_STREAM || len > SAFE_FRAME {
        return None;
    }
    let on_stream = stream != 0;
    let (is_legal, known_flags) = match kind {
        DATA => (on_stream, END_STREAM | PADDED),
        HEADERS => (on_stream && len > 0, END_STREAM | END_HEADERS | PADDED | PRIORITY),
        PRIORITY_FRAME => (on_stream && len == 5, 0),
        RST_STREAM => (on_stream && len == 4, 0),
        SETTINGS => (!on_stream && len.is_multiple_of(6) && len <= 64 * 6, ACK),
        PING => (!on_stream && len == 8, ACK),
        GOAWAY => (!on_stream && len >= 8, 0),
        WINDOW_UPDATE => (len == 4, 0),
        _ => (false, 0),
    };
    (is_legal && flags & !known_flags == 0).then_some(FRAME_HEADER + len)
}

/// Length of the payload, type, flags, and stream with the bit before it, which is reserved.
#[inline(always)]
fn parts(header: &Header) -> (u32, u8, u8, u32) {
    let len = (header[0] as u32) << 16 | (header[1] as u32) << 8 | header[2] as u32;
    let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    (len, header[3], header[4], stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a frame.
    fn header(len: u32, kind: u8, flags: u8, stream: u32) -> Header {
        let [_, l @ ..] = len.to_be_bytes();
        let s = stream.to_be_bytes();
        [l[0], l[1], l[2], kind, flags, s[0], s[1], s[2], s[3]]
    }

    #[test]
    fn a_stream_is_opened_by_a_frame_with_all_of_its_header_block() {
        let of = |len, flags, stream| opening(&header(len, HEADERS, flags, stream));
        assert_eq!(of(20, END_HEADERS, 1), Some(Opening { stream: 1, block_at: 9, end: 29 }));
        let padded = END_HEADERS | END_STREAM | PADDED | PRIORITY;
        assert_eq!(of(20, padded, 7).map(|one| one.block_at), Some(15));
        for (len, flags, stream) in [
            (20, 0, 1),
            (20, END_HEADERS | 0x40, 1),
            (20, END_HEADERS, 2),
            (20, END_HEADERS, 0),
            (20, END_HEADERS, 1 << 31 | 1),
            (0, END_HEADERS, 1),
            (5, END_HEADERS | PRIORITY, 1),
            (SAFE_FRAME + 1, END_HEADERS, 1),
        ] {
            assert_eq!(of(len, flags, stream), None, "{len} {flags} {stream}");
        }
        assert_eq!(opening(&header(20, DATA, END_HEADERS, 1)), None);
    }

    #[test]
    fn a_request_begins_with_a_pseudo_header_field_or_what_the_dynamic_table_holds() {
        for byte in [0x82, 0x83, 0x84, 0x86, 0x87, 0x41, 0x44, 0x04, 0x14, 0xbe, 0xff] {
            assert!(begins_request([byte, 0, 0]), "{byte:#x}");
        }
        // `:path`, as it is and Huffman coded, and `:authority`.
        for start in [*b"\x40\x05:", *b"\x00\x05:", *b"\x10\x0a:", *b"\x40\x84\xb9"] {
            assert!(begins_request(start), "{start:x?}");
        }
        // Of a response, of other fields, and of sizes of the table.
        for byte in [0x88, 0x8e, 0x48, 0x08, 0x5f, 0x7f, 0x0f, 0x20, 0x3f, 0xbd, 0x80] {
            assert!(!begins_request([byte, 5, b':']), "{byte:#x}");
        }
        // A field that is spelt.
        for start in [*b"\x40\x05h", *b"\x00\x84\xf2", *b"\x40\x00:", *b"\x40\x7f:"] {
            assert!(!begins_request(start), "{start:x?}");
        }
    }

    #[test]
    fn what_no_peer_sends_is_no_frame() {
        let of = |len, kind, flags, stream| frame_len(&header(len, kind, flags, stream));
        assert_eq!(of(5, DATA, END_STREAM, 1), Some(14));
        assert_eq!(of(0, DATA, END_STREAM, 1), Some(9));
        assert_eq!(of(4, WINDOW_UPDATE, 0, 0), Some(13));
        assert_eq!(of(8, PING, ACK, 0), Some(17));
        assert_eq!(of(30, HEADERS, END_HEADERS, 3), Some(39));
        assert_eq!(of(5, DATA, END_STREAM, 0), None);
        assert_eq!(of(5, DATA, END_HEADERS, 1), None);
        assert_eq!(of(5, WINDOW_UPDATE, 0, 0), None);
        assert_eq!(of(5, 9, END_HEADERS, 1), None);
        assert_eq!(of(5, 0x20, 0, 1), None);
        assert_eq!(of(5, DATA, END_STREAM, 1 << 31 | 1), None);
        // HTTP/1.1, FastCGI and TLS.
        for other in [
            b"GET / HTT",
            b"HTTP/1.1 ",
            b"\x01\x01\x00\x01\x00\x08\x00\x00\x00",
            b"\x17\x03\x03\x00\x40abcd",
        ] {
            assert_eq!(frame_len(other), None, "{other:?}");
        }
    }
}
