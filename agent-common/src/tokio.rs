//! What both halves say to one another about processes of Rust programs on tokio.

/// A process of which the tasks are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioProcess {
    /// How often the probes were come to so far.
    pub cost: u64,
    /// [`TOKIO_PROCESS_STREAMS`], or 0.
    pub flags: u64,
}

/// The process received requests over HTTP/2: of what its tasks do for those nothing is known.
pub const TOKIO_PROCESS_STREAMS: u64 = 1;

/// A task of one process. Its number (`tokio::task::Id`) is not given to another while the process
/// lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioTaskId {
    /// The process.
    pub tgid: u64,
    /// The number; never 0.
    pub id: u64,
}

/// Who wakes a task, whether that is awake already or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioWake {
    /// The activity of who does; 0 if nobody did, [`UNKNOWN_WAKER`] if that has none, or there are several.
    pub activity: u64,
    /// The number of the task that does; 0 if it is none.
    pub by: u64,
}

/// [`TokioWake::activity`]: it is not known for what, as where the kernel has something to tell.
pub const UNKNOWN_WAKER: u64 = u64::MAX;

/// In [`TokioTask`] and [`TokioThread`]: several, so none.
pub const SEVERAL: u64 = u64::MAX;

/// A task that was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioBirth {
    /// As [`TokioTask::kind`].
    pub kind: u64,
    /// The activity for which it was made; 0 for none.
    pub activity: u64,
}

/// What is known of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioTask {
    /// The activity that it received last, or else for which it was made; 0 for none, [`SEVERAL`] if it
    /// received one while another connection's was going on. It may be over.
    pub activity: u64,
    /// The cookie of the connection on which it received it; 0 for none.
    pub received_on: u64,
    /// The cookie of the connection on which it sends; 0 if it has not, [`SEVERAL`] if it does on others, or
    /// opens some itself.
    pub cookie: u64,
    /// Who has woken it since it began to run last.
    pub woken: TokioWake,
    /// The activity for which it sent last what another task asked it for; 0 for none.
    pub asked_for: u64,
    /// How often it was woken for that since then, and since it received what answers it.
    pub asked_again: u64,
    /// Where the stack of who did so last was.
    pub asked_sp: u64,
    /// The address of its table of functions, which those of one type have in common.
    pub kind: u64,
    /// [`crate::outcome::Correlation`]: the rule that says what it works on.
    pub rule: u32,
    /// Calls that it made, if it was made for the activity.
    pub calls: u16,
    /// Of these, those that it made when that was over.
    pub late_calls: u16,
}

/// What a thread does that has run tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioThread {
    /// The process.
    pub tgid: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The number of the task that it runs; 0 between two.
    pub task: u64,
    /// Who had woken that before.
    pub woken: TokioWake,
    /// The activity that it received last while it ran no task: as in [`TokioTask::activity`].
    pub received: u64,
    /// As in [`TokioTask::received_on`].
    pub received_on: u64,
}

/// Something of one process, by its address there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TokioObject {
    /// The process.
    pub tgid: u64,
    /// The address.
    pub address: u64,
}

/// Of a type of tasks: one that was made for a request has ended.
pub const TOKIO_TASKS_END: u32 = 1;
/// Of a type of tasks: one that was made for a request goes on and on after that.
pub const TOKIO_TASKS_STAY: u32 = 2;

/// At which function a probe is: in the lowest byte of its cookie. The other bytes are the distance in
/// bytes from a task's header to its number, if that is the same for all that come there; else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokioPlace {
    /// A task begins or goes on to run (`runtime::task::raw::poll`).
    Runs = 0,
    /// A task is woken (`runtime::task::waker::wake_by_val`, `wake_by_ref`).
    Woken = 1,
    /// A task was made (`OwnedTasks::bind_inner`).
    Made = 2,
}

impl TokioPlace {
    /// The cookie of a probe at such a function.
    pub const fn cookie(self, id_offset: u32) -> u64 {
        self as u64 | (id_offset as u64) << 8
    }
}
