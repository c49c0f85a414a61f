//! What the machine comes upon, and what it is told in turn.

/// What a step came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// Nothing of note; call again.
    None = 0,
    /// The last byte taken ended a head: call [`super::Http1::begin_body`] next.
    HeadEnd = 1,
    /// The message is over: call [`super::Http1::next_message`] next.
    MessageEnd = 2,
    /// The bytes are not HTTP/1.x, or the position in them was lost.
    NotHttp = 3,
    /// Bytes came while the fate of an `Upgrade` or `CONNECT` was open.
    Held = 4,
}

impl Event {
    /// The event that a number stands for.
    #[inline(always)]
    pub fn of(number: u32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::HeadEnd,
            2 => Self::MessageEnd,
            4 => Self::Held,
            _ => Self::NotHttp,
        }
    }
}

/// What follows a head, decided by who knows the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// As the head says (RFC 9112 §6.3).
    Framed,
    /// None, whatever the head says: `HEAD`, 1xx, 204, 304.
    None,
    /// Another protocol: 101, or `CONNECT` that succeeded.
    Switched,
}
