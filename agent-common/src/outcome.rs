//! Why things happened: enums that cross the kernel boundary as integers.
//!
//! Each converts back with `TryFrom`, never by a cast, since the integer came
//! from memory that another program wrote.

/// Declares an enum that crosses the kernel boundary as a `u8`, with its names.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vmeta])* $variant = $value,)+
        }

        impl $name {
            /// Every value, in the order of the integers.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The name in metrics, logs and span attributes.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = u8;

            fn try_from(value: u8) -> Result<Self, u8> {
                match value {
                    $($value => Ok($name::$variant),)+
                    other => Err(other),
                }
            }
        }
    };
}

wire_enum! {
    /// Which end of the connection the monitored process is.
    Role {
        /// Not known yet: the connection is older than the agent.
        Unknown = 0 => "unknown",
        /// The process opened the connection and sends requests.
        Client = 1 => "client",
        /// The process accepted the connection and answers requests.
        Server = 2 => "server",
    }
}

wire_enum! {
    /// The rule that found the parent of a span (`tracewire.correlation`).
    Correlation {
        /// No rule found a parent: the span is the root of a new trace.
        None = 0 => "none",
        /// The parent came over the wire, in a `traceparent` header.
        Wire = 1 => "wire",
        /// The task last received bytes of the parent's request.
        Receive = 2 => "receive",
        /// The task last received the response of a request of the parent's activity.
        Reply = 3 => "reply",
        /// The connection was opened by the parent's activity.
        Connect = 4 => "connect",
        /// The task was started by a task that worked on the parent's activity.
        Birth = 5 => "birth",
        /// The next of several pipelined requests on one connection.
        Pipeline = 6 => "pipeline",
        /// The client's end of the connection is on this host, and said so.
        Local = 7 => "local",
        /// Several requests could be the parent: none was taken.
        Ambiguous = 8 => "ambiguous",
        /// The task is an event loop, and did so far at once what it had to do about each thing
        /// that it received: the parent is what it received last.
        Turn = 9 => "turn",
        /// The goroutine that made the call received the parent's request.
        Goroutine = 11 => "goroutine",
        /// The parent came in a TCP option, beside the request's ciphertext.
        TcpOption = 12 => "tcp_option",
        /// The Python context that made the call (an asyncio task, a callback) is at work for the
        /// parent's request, or was made by one that was.
        PythonContext = 13 => "python_context",
        /// The thread of a pool took a job that was put in a queue for the parent.
        Queue = 14 => "queue",
        /// The tokio task that made the call, or woke the one that writes it, received the parent's
        /// request.
        TokioTask = 15 => "tokio_task",
        /// The request carries the context that the parent's request was seen to carry: it was passed on.
        PassedOn = 16 => "passed_on",
        /// The thread was seen to take the parent's request up, whoever received it.
        TakenUp = 17 => "taken_up",
    }
}

impl Correlation {
    /// This rule's bit in [`crate::config::KernelConfig::rules_off`].
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

wire_enum! {
    /// Why a request was, or was not, given a trace context (`tracewire.propagation`).
    Outcome {
        /// Not a request that this end sends: nothing to propagate.
        NotApplicable = 0 => "not_applicable",
        /// A header was inserted before the empty line that ends the head.
        Injected = 1 => "injected",
        /// A pass-through header had its parent id rewritten in place.
        Rewritten = 2 => "rewritten",
        /// The application wrote a header that is no valid context, or several; left alone.
        /// (One of its own tracing gives no span, and is counted as such.)
        OwnContext = 3 => "own_context",
        /// Propagation is switched off.
        Off = 4 => "off",
        /// The socket is not in the socket map (map full, kernel refused, or older than the agent).
        NotEnrolled = 5 => "not_enrolled",
        /// The head is longer than the limit.
        HeadTooLong = 6 => "head_too_long",
        /// The framing is ambiguous (both lengths, bare line feeds, folded headers).
        Ambiguous = 7 => "ambiguous",
        /// The send buffer had no room for the header.
        NoRoom = 8 => "no_room",
        /// The position in the byte stream is not certain.
        Unsynchronised = 9 => "unsynchronised",
        /// The kernel refused to grow or to move the message.
        KernelRefused = 10 => "kernel_refused",
        /// The header to rewrite had already been sent, in part or whole.
        HeaderAlreadySent = 12 => "header_already_sent",
        /// The process is excluded, or its verdict is not known yet.
        ProcessExcluded = 13 => "process_excluded",
        /// The bytes went past the program (retry after a failed send).
        Missed = 14 => "missed",
        /// HTTP/2: the last frame of the header block would be larger than every peer accepts.
        FrameFull = 15 => "frame_full",
        /// HTTP/2: a field of the head is not known, and may be a trace context.
        UnknownField = 16 => "unknown_field",
        /// HTTP/2: a context that is passed on goes into the receiver's table, where what is written
        /// over it would be taken for that of later requests.
        Indexed = 17 => "indexed",
        /// TLS: nothing can be written into ciphertext.
        Encrypted = 18 => "encrypted",
        /// TLS: the context goes in a TCP option, beside the ciphertext.
        TcpOption = 19 => "tcp_option",
        /// FastCGI: a context that is passed on is rewritten, none is inserted.
        FastCgi = 20 => "fastcgi",
    }
}

wire_enum! {
    /// How an exchange ended.
    EndReason {
        /// The response was seen to its end.
        Complete = 0 => "complete",
        /// The connection was reset before the response was complete.
        Reset = 1 => "connection_reset",
        /// The connection was closed before the response was complete, or, of FastCGI, the request ended
        /// before the response's head.
        Closed = 2 => "connection_closed",
        /// The socket went away without a packet (time-out, local abort).
        Aborted = 3 => "connection_aborted",
        /// Bytes were missed, so the end of the response is not known.
        Lost = 4 => "lost",
        /// The connection left HTTP/1.x (`101`, or `CONNECT` that succeeded).
        Switched = 5 => "switched",
        /// The stream was reset (HTTP/2 `RST_STREAM`) before it was complete.
        StreamReset = 6 => "stream_reset",
    }
}

wire_enum! {
    /// Bytes seen by a direction's state machine belong to this half of an exchange.
    HeadKind {
        /// The head of a request.
        Request = 0 => "request",
        /// The head of a response.
        Response = 1 => "response",
    }
}
