//! One direction of a TCP connection: an [`Http1`] machine at a sequence number.
//!
//! Bytes reach the programs more than once and not always in order: a packet may
//! be sent again, and what an `sk_msg` program has read leaves as packets later.
//! The next sequence number expected says which bytes are new.

use crate::outcome::HeadKind;
use crate::parse::http1::Http1;

/// The next sequence number is not known: the first bytes seen set it.
pub const UNANCHORED: u8 = 1;
/// The byte position can be trusted: requests here may be given a header.
pub const TRUSTED: u8 = 2;
/// No byte has been seen since the connection was made.
pub const UNREAD: u8 = 4;

/// The program for TCP options asked to be called for the socket's segments.
pub const OPTION_WRITES: u8 = 1;
/// This end has said that it reads contexts in TCP options.
pub const OPTION_ANNOUNCED: u8 = 2;

/// Packets without the start of a message after which a stream found in the
/// middle is given up.
pub const MAX_GUESSES: u16 = 256;

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// The machine.
    pub http1: Http1,
    /// When the present message's first byte passed, `CLOCK_MONOTONIC` ns.
    pub started_ns: u64,
    /// Non-zero while a program works on the stream.
    pub busy: u64,
    /// The sequence number of the next byte that was not seen.
    pub next_seq: u32,
    /// Guesses at the start of a message that failed in a row.
    pub guesses: u16,
    /// [`UNANCHORED`], [`TRUSTED`], [`UNREAD`].
    pub flags: u8,
    /// Of a connection's responses: `OPTION_` bits. (Here, since the state of a connection with what the
    /// kernel puts before it is as large as an allocation of 1 KiB can be.)
    pub options: u8,
}

/// Where new bytes stand against what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All of them were seen.
    Seen,
    /// The first so many were seen, the rest continues the stream.
    New(u32),
    /// So many bytes before them were never seen.
    Gap(u32),
    /// Too far away to belong to this stream.
    Alien,
}

/// The widest jump that is taken for a gap: the largest window that TCP can have (RFC 7323 §2.3).
const MAX_JUMP: u32 = 1 << 30;

impl Stream {
    /// A stream whose first byte will have sequence number `next_seq`.
    pub fn at_start(kind: HeadKind, next_seq: u32) -> Self {
        Self { http1: Http1::new(kind), next_seq, flags: TRUSTED | UNREAD, ..Self::default() }
    }

    /// A stream found in the middle.
    pub fn in_the_middle(kind: HeadKind) -> Self {
        let mut http1 = Http1::new(kind);
        http1.lose();
        Self { http1, flags: UNANCHORED, ..Self::default() }
    }

    /// Whether requests of this stream may be given a header.
    #[inline(always)]
    pub fn is_trusted(&self) -> bool {
        self.flags & TRUSTED != 0
    }

    /// Whether the stream's first byte is yet to come.
    #[inline(always)]
    pub fn is_unread(&self) -> bool {
        self.flags & UNREAD != 0
    }

    /// Places `len` bytes that start at `seq`. The first bytes of an unanchored
    /// stream anchor it.
    #[inline(always)]
    pub fn place(&mut self, seq: u32, len: u32) -> Placement {
        if self.flags & UNANCHORED != 0 {
            self.flags &= !UNANCHORED;
            self.next_seq = seq;
        }
        place(self.next_seq, seq, len)
    }
}

/// Places `len` bytes that start at `seq` against the next that is expected.
#[inline(always)]
pub fn place(next_seq: u32, seq: u32, len: u32) -> Placement {
    let ahead = seq.wrapping_sub(next_seq);
    if ahead == 0 {
        return Placement::New(0);
    }
    if ahead < MAX_JUMP {
        return Placement::Gap(ahead);
    }
    let behind = next_seq.wrapping_sub(seq);
    if behind >= MAX_JUMP {
        return Placement::Alien;
    }
    if behind >= len { Placement::Seen } else { Placement::New(behind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_placed_by_sequence_number_across_the_wrap() {
        let mut stream = Stream::at_start(HeadKind::Request, u32::MAX - 9);
        assert_eq!(stream.place(u32::MAX - 9, 20), Placement::New(0));
        assert_eq!(stream.place(u32::MAX - 19, 10), Placement::Seen);
        assert_eq!(stream.place(u32::MAX - 19, 30), Placement::New(10));
        assert_eq!(stream.place(5, 1), Placement::Gap(15));
        assert_eq!(stream.place(1 << 30, 1), Placement::Alien);
    }

    #[test]
    fn the_first_bytes_anchor_a_stream_found_in_the_middle() {
        let mut stream = Stream::in_the_middle(HeadKind::Response);
        assert_eq!(stream.place(77, 5), Placement::New(0));
        assert_eq!(stream.place(78, 5), Placement::Gap(1));
    }
}
