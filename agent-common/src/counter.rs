//! What the kernel half counts, by reason. Nothing is lost without a number.

/// Declares the counters and their names.
macro_rules! counters {
    ($($(#[$meta:meta])* $variant:ident = $value:literal => $text:literal,)+) => {
        /// An index into the kernel's counter array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$meta])* $variant = $value,)+
        }

        impl Counter {
            /// Every counter, in the order of the integers.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];

            /// The name in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Counter::$variant => $text,)+
                }
            }
        }
    };
}

counters! {
    /// Sampled requests whose head was read to its end.
    ExchangesOpened = 0 => "exchanges_opened",
    /// Sampled exchanges that ended, in whatever way.
    ExchangesClosed = 1 => "exchanges_closed",
    /// Exchanges not recorded since their trace is not sampled.
    ExchangesUnsampled = 2 => "exchanges_unsampled",
    /// Records that found the ring buffer full.
    DropRingFull = 3 => "drop_ring_full",
    /// Programs that found every scratch buffer of their CPU in use.
    DropScratchBusy = 4 => "drop_scratch_busy",
    /// Requests past the number followed on one connection.
    DropPipelineFull = 5 => "drop_pipeline_full",
    /// Connections for which no state could be kept.
    DropNoState = 6 => "drop_no_state",
    /// Activities that found their map full.
    DropActivitiesFull = 7 => "drop_activities_full",
    /// Task associations that found their map full.
    DropTasksFull = 8 => "drop_tasks_full",
    /// Gaps in a byte stream: bytes that no program saw.
    StreamGaps = 9 => "stream_gaps",
    /// Messages whose start had to be found again.
    StreamResyncs = 10 => "stream_resyncs",
    /// Connections that turned out not to be HTTP/1.x.
    ConnectionsOpaque = 11 => "connections_opaque",
    /// Connections followed.
    ConnectionsTracked = 12 => "connections_tracked",
    /// Client sockets put in the socket map.
    SocketsEnrolled = 13 => "sockets_enrolled",
    /// Client sockets that the socket map refused.
    EnrolFailed = 14 => "enrol_failed",
    /// Exchanges closed without a complete response.
    ExchangesBroken = 15 => "exchanges_broken",
    /// Requests with an application's own context, whose spans are the application's.
    ExchangesOwnContext = 16 => "exchanges_own_context",
    /// Request heads that were kept from a handshake packet (`TCP_DEFER_ACCEPT`).
    EarlyHeadsKept = 17 => "early_heads_kept",
    /// Bytes of an early head past what is kept.
    EarlyHeadsTruncated = 18 => "early_heads_truncated",
    /// Of the records that found the ring buffer full: beginnings of exchanges.
    DropRingOpened = 19 => "drop_ring_full_opened",
    /// Responses whose request is not known: sent before the agent started, or not read.
    ResponsesUnpaired = 20 => "responses_unpaired",
    /// Of the records that found the ring buffer full: ends of exchanges.
    DropRingClosed = 21 => "drop_ring_full_closed",
    /// Requests without a header whose context the server's end got from the client's, on
    /// this host.
    ContextsHandedOver = 22 => "contexts_handed_over",
    /// Connections that turned out to carry HTTP/2.
    ConnectionsHttp2 = 23 => "connections_http2",
    /// Streams of HTTP/2 that found their map full.
    DropStreamsFull = 24 => "drop_streams_full",
    /// Of the records that found the ring buffer full: parts of header blocks.
    DropRingBlocks = 25 => "drop_ring_full_blocks",
    /// Sessions of TLS libraries whose socket became known: their plaintext is read.
    TlsSessions = 26 => "tls_sessions",
    /// Sessions of TLS libraries that found their map full.
    DropTlsSessions = 27 => "drop_tls_sessions_full",
    /// Calls of TLS libraries that found their map full.
    DropTlsCalls = 28 => "drop_tls_calls_full",
    /// Client sockets whose server's end said that it reads contexts in a TCP option.
    OptionConnections = 29 => "option_connections",
    /// Of these, those that found their map full.
    DropOptionConnections = 30 => "drop_option_connections_full",
    /// Contexts that left in a TCP option.
    OptionsSent = 31 => "options_sent",
    /// Contexts that did not: no room beside other options or in the segment, or no segment.
    OptionsNoRoom = 32 => "options_no_room",
    /// Contexts that came in a TCP option.
    OptionsReceived = 33 => "options_received",
    /// Of these, those whose request came too.
    OptionsTaken = 34 => "options_taken",
    /// Connections on which contexts are sent no more, since segments with them did not arrive.
    OptionsGivenUp = 35 => "options_given_up",
    /// Client sockets that were to leave the socket map, since a blocking process sends more on them than
    /// fits in the send buffer.
    SocketsSpared = 36 => "sockets_spared",
}

/// Counters kept for each [`crate::outcome::Outcome`], after the plain ones.
pub const OUTCOME_BASE: u32 = 64;

/// The length of the kernel's counter array.
pub const COUNTERS: u32 = 96;
