//! What is kept on each socket (`sk_storage`), and what tasks and activities hold.

use crate::config::PIPELINE_DEPTH;
use crate::stream::Stream;

/// Nothing of this connection is looked at (any more).
pub const CONN_OPAQUE: u16 = 1;
/// The socket is in the socket map: its sends pass the rewriting program.
pub const CONN_ENROLLED: u16 = 2;
/// Older than the agent.
pub const CONN_ADOPTED: u16 = 4;
/// The framing of a request was ambiguous: where the next one starts is not certain.
pub const CONN_DISTRUSTED: u16 = 8;
/// Userspace was told that the connection is opaque.
pub const CONN_REPORTED: u16 = 16;

/// The connection carries HTTP/2.
pub const CONN_HTTP2: u16 = 32;

/// The socket carries TLS; of a session of a TLS library, that it is one.
pub const CONN_TLS: u16 = 64;

/// Of a session of a TLS library: it was seen from its start.
pub const CONN_WHOLE: u16 = 128;

/// The socket is to leave the socket map.
pub const CONN_SPARED: u16 = 256;

/// The connection has left HTTP/1.x (101), and nothing was seen of what it carries since.
pub const CONN_SWITCHED: u16 = 512;

/// The exchange's trace is sampled: its records are wanted.
pub const EXCHANGE_SAMPLED: u16 = 1;
/// The application traces this exchange itself.
pub const EXCHANGE_OWN_TRACING: u16 = 2;
/// The method is `HEAD`.
pub const EXCHANGE_HEAD: u16 = 4;
/// The method is `CONNECT`.
pub const EXCHANGE_CONNECT: u16 = 8;
/// The request, body included, was seen to its end.
pub const EXCHANGE_REQUEST_DONE: u16 = 16;

/// One request in flight on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exchange {
    /// The span's id; on a server also the id of the activity.
    pub span_id: u64,
    /// On a client: the activity that sent the request; 0 for none.
    pub activity: u64,
    /// When the final response started, `CLOCK_MONOTONIC` ns; 0 if it did not.
    pub response_ns: u64,
    /// Bytes of the request's content.
    pub request_bytes: u64,
    /// `EXCHANGE_` bits.
    pub flags: u16,
    /// The number that its records bear, and those of its answer; 0 if it came in none.
    pub request_id: u16,
    /// Explicit padding.
    pub pad: [u16; 2],
}

/// What is kept on a socket. All zero is a connection about which nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Connection {
    /// The socket's cookie; 0 while the state is not set up.
    pub cookie: u64,
    /// On a client: the activity whose request is being, or was last, answered; 0 for none. On a
    /// server: when the connection was established, see [`Connection::established_ns`]. (The state
    /// has no more room: a socket's storage goes to the next power of two.)
    pub reply_activity: u64,
    /// The cgroup of the process that last used the socket; 0 if not known.
    pub cgroup_id: u64,
    /// This end's address, as in [`crate::records::ExchangeOpened`].
    pub local_addr: [u8; 16],
    /// The peer's address.
    pub remote_addr: [u8; 16],
    /// This end's port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// `CONN_` bits.
    pub flags: u16,
    /// 4 or 6.
    pub ip_version: u8,
    /// [`crate::outcome::Role`].
    pub role: u8,
    /// The process that last used the socket; 0 if not known.
    pub tgid: u32,
    /// The task that last used the socket.
    pub tid: u32,
    /// Requests seen: the sequence number of the next one.
    pub opened: u32,
    /// Requests answered: the sequence number of the oldest in flight.
    pub answered: u32,
    /// Requests in flight that are not followed, younger than all that are.
    pub overflow: u32,
    /// The sequence number of the request at place 0.
    pub base: u32,
    /// The activity for which the connection was opened, or the last request sent, until its
    /// response was received; 0 for none, [`UNKNOWN_ACTIVITY`] if it was one of several.
    pub awaited_for: u64,
    /// The kernel's address of the socket, for reads of its fields; never leaves the kernel.
    pub sock: u64,
    /// The direction that carries requests.
    pub requests: Stream,
    /// The direction that carries responses.
    pub responses: Stream,
    /// The requests in flight, at [`Connection::place_of`] their sequence number.
    pub exchanges: [Exchange; PIPELINE_DEPTH],
}

impl Connection {
    /// When the connection was established, of a server, `CLOCK_MONOTONIC` ns; 0 if that was not seen.
    #[inline(always)]
    pub fn established_ns(&self) -> u64 {
        if self.role == crate::outcome::Role::Server as u8 { self.reply_activity } else { 0 }
    }

    /// Where in `exchanges` a request in flight is. A connection that was idle starts over
    /// at the first place, so that one that never pipelines stays in few cache lines.
    #[inline(always)]
    pub fn place_of(&self, sequence: u32) -> usize {
        sequence.wrapping_sub(self.base) as usize & (PIPELINE_DEPTH - 1)
    }
}

/// A request that a process received and has not finished answering, in the slot that the
/// low bits of its id name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Activity {
    /// Non-zero while the slot is taken.
    pub taken: u64,
    /// The id, which is that of the server span; 0 while the slot is being filled.
    pub id: u64,
    /// The upper half of the trace id.
    pub trace_id_hi: u64,
    /// The lower half of the trace id.
    pub trace_id_lo: u64,
    /// The parent id in the request's header, as the application sees it; 0 for none.
    pub shown_parent: u64,
    /// The trace flags.
    pub flags: u8,
    /// `ACTIVITY_` bits.
    pub marks: u8,
    /// Requests that were sent for it, and whose response was not received yet.
    pub in_flight: u16,
    /// The task that received the request first; 0 if none has yet, [`RECEIVER_ANSWERS`] once
    /// the response has begun.
    pub receiver: u32,
}

/// The task was seen to work on two requests at once.
pub const TASK_MULTIPLEXES: u8 = 1;
/// The task has several things to do, and which comes first is not known.
pub const TASK_AMBIGUOUS: u8 = 2;
/// The task sent a request, since it last received something, of which it is not known for what.
pub const TASK_SENT_UNKNOWN: u8 = 4;
/// The thread has what it works on from its birth.
pub const TASK_BORN: u8 = 8;
/// On a process's first thread: threads outlive what they were made for.
pub const TASK_HAS_POOLS: u8 = 16;
/// The event loop sent something since it last received something.
pub const TASK_ACTED: u8 = 32;
/// The event loop slept since it last received something.
pub const TASK_SLEPT: u8 = 64;
/// The requests that the task receives are counted among the open ones of its process.
pub const TASK_COUNTED: u8 = 128;
/// In [`TaskState::receivers`]: several.
pub const SEVERAL_RECEIVERS: u32 = u32::MAX;
/// In [`Activity::marks`]: the application was seen to continue the trace with spans of its own.
pub const ACTIVITY_OWN_TRACING: u8 = 1;
/// In [`Activity::marks`]: requests may have been sent for it of which that is not known.
pub const ACTIVITY_SENT_UNKNOWN: u8 = 2;
/// In [`Activity::marks`]: counted among the open requests of a process whose requests move
/// between threads.
pub const ACTIVITY_SCATTERED: u8 = 4;
/// In [`Activity::marks`]: the request came on a stream of HTTP/2, by a connection that is shared.
pub const ACTIVITY_STREAM: u8 = 8;
/// In [`Activity::marks`]: it is known to which process its context was shown.
pub const ACTIVITY_SHOWN: u8 = 16;
/// In [`Activity::receiver`]: the response has begun.
pub const RECEIVER_ANSWERS: u32 = u32::MAX;
/// In [`Connection::awaited_for`]: for one of several activities.
pub const UNKNOWN_ACTIVITY: u64 = u64::MAX;
/// In [`Connection::awaited_for`]: likewise, but not counted among those that wait.
pub const UNKNOWN_UNCOUNTED: u64 = u64::MAX - 1;
/// Things that a task which works on several requests can have to do at once, and be told apart.
pub const PENDING: usize = 3;

/// What a task works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskState {
    /// The activity; 0 for none. It may be over.
    pub activity: u64,
    /// How often the task had slept when that was found.
    pub sleeps: u64,
    /// Requests that the task received first, and that are not answered yet.
    pub open: u32,
    /// Of these, those that wait for a response.
    pub waiting: u32,
    /// If the task multiplexes: what it received since it slept, and that has not led to
    /// anything yet.
    pub pending: [u64; PENDING],
    /// If the task multiplexes: the activity of what it received last; 0 if that is not known.
    pub last: u64,
    /// If the task multiplexes: things in a row of which it did something at once.
    pub prompt: u32,
    /// How often it was believed to do so, and did not.
    pub losses: u8,
    /// [`crate::outcome::Correlation`]: the rule that says so.
    pub correlation: u8,
    /// `TASK_` bits.
    pub flags: u8,
    /// On a process's first thread: threads that ended before the request that they were made for.
    pub ended: u8,
    /// Requests that the task received and that were answered, of late.
    pub answered: u32,
    /// Of these, those that another task of the process answered.
    pub moved: u32,
    /// The process, once the task received a request.
    pub tgid: u32,
    /// On a process's first thread: the thread that receives requests, or [`SEVERAL_RECEIVERS`]; 0
    /// for none.
    pub receivers: u32,
    /// 1 while the thread, of Node, runs what timers are due; else 0.
    pub runs_timers: u32,
    /// Explicit padding: no byte is left to chance.
    pub pad: u32,
    /// What the thread was seen to take up last, whoever received it; 0 for none. It may be over.
    pub taken: u64,
}
