//! What both halves say to one another about processes of Go programs.

/// How the goroutine at work is found in a process. Userspace reads it off the executable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoProcess {
    /// Where the address of the running goroutine's `runtime.g` is kept, as a distance in bytes
    /// from the thread's fs base. It is negative, in two's complement.
    pub g_slot: u64,
    /// Offset of `runtime.g.goid`, in bytes; 0 if it is not known, and then no parent is either.
    pub off_goid: u32,
    /// Offset of `runtime.m.curg`, in bytes; 0 if births of goroutines are not seen.
    pub off_curg: u32,
    /// Offset of `runtime.g.gopc`, in bytes.
    pub off_gopc: u32,
    /// Explicit padding.
    pub pad: u32,
    /// Births that were seen.
    pub births: u64,
}

/// A goroutine of one process. Its number is not given to another while the process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoroutineId {
    /// The process.
    pub tgid: u64,
    /// `runtime.g.goid`; never 0 for a goroutine of the application's.
    pub goid: u64,
}

/// What a goroutine works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Goroutine {
    /// The activity; 0 for none. It may be over.
    pub activity: u64,
    /// [`crate::outcome::Correlation`]: the rule that says so.
    pub rule: u32,
    /// Calls that it made, if it was made for the activity.
    pub calls: u16,
    /// Of these, those that it made when that was over.
    pub late_calls: u16,
}

/// Of a `go` statement: a goroutine that it made for a request has ended.
pub const GOROUTINES_END: u32 = 1;
/// Of a `go` statement: a goroutine that it made for a request goes on and on after that.
pub const GOROUTINES_STAY: u32 = 2;

/// A `go` statement of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoStatement {
    /// The process.
    pub tgid: u64,
    /// `runtime.g.gopc`: the address behind the statement.
    pub pc: u64,
}

/// Where in a client a goroutine is: the cookie of a probe says which place it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GoPlace {
    /// `net/http.(*persistConn).roundTrip` was entered.
    RoundTrip = 0,
    /// grpc-go's `(*http2Client).createHeaderFields` returns.
    GrpcFields = 1,
    /// grpc-go's `(*loopyWriter).originateStream` was entered.
    GrpcStream = 2,
    /// grpc-go's `(*http2Server).operateHeaders` was entered.
    GrpcServed = 3,
    /// `processHeaders` was entered, of the server of golang.org/x/net/http2 or of its copy in net/http.
    Http2Served = 4,
}

/// A request that a goroutine has handed to the goroutine that writes on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoCall {
    /// The activity for which it is sent; 0 for none.
    pub activity: u64,
    /// [`crate::outcome::Correlation`]: the rule that found it; 0 when the request was sent.
    pub rule: u64,
}

/// Where fields of kernel structs are that lead from a task to a socket of its process, and
/// to its thread's fs base: offsets in bytes, from the kernel's BTF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GoOffsets {
    /// `task_struct.thread.fsbase`.
    pub task_fsbase: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `files_struct.fdt`.
    pub files_fdt: u32,
    /// `fdtable.max_fds`.
    pub fdt_max_fds: u32,
    /// `fdtable.fd`.
    pub fdt_fd: u32,
    /// `file.private_data`.
    pub file_private_data: u32,
    /// `socket.file`.
    pub socket_file: u32,
    /// `socket.sk`.
    pub socket_sk: u32,
    /// `sock.__sk_common.skc_cookie`.
    pub sock_cookie: u32,
    /// Explicit padding.
    pub pad: u32,
}
