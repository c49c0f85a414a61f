//! What both halves say to one another about processes of Python.

/// How the context at work is found in a process of CPython. Userspace knows the layout by the
/// version, the kernel half learns the rest from the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PyProcess {
    /// Where a thread keeps the address of its `PyThreadState`, as a distance in bytes from its fs
    /// base; 0 until the kernel half has found it, [`NO_SLOT`] if it is none of the places that are known.
    pub state_slot: u64,
    /// The address of `PyContext_Type`.
    pub context_type: u64,
    /// Offset of `PyThreadState.thread_id`, in bytes: what `pthread_self` said, which is the fs base.
    pub off_thread_id: u32,
    /// Offset of `PyThreadState.context`, in bytes.
    pub off_context: u32,
    /// What the probes cost so far: a context that is entered 1, one that is copied and each end of a job
    /// [`PY_COST_OF_COPY`].
    pub cost: u64,
    /// When the first context was seen to be made, `CLOCK_MONOTONIC` ns; 0 if none was.
    pub first_ns: u64,
    /// How often a thread that runs Python looked for the slot in vain.
    pub attempts: u16,
    /// How often another thread did, of which that is not known.
    pub searches: u16,
    /// [`PY_PROCESS_THREADS_HAVE_CONTEXTS`], or 0.
    pub flags: u16,
    /// Offset of `PyThreadState.datastack_chunk`, in bytes, where greenlets are told apart, and not contexts; else 0.
    pub off_stack: u16,
}

/// In [`PyProcess::cost`]: a context that is copied, and each end of a job.
pub const PY_COST_OF_COPY: u64 = 3;

/// Each thread but the first starts in a context of its own, as from CPython 3.14 on.
pub const PY_PROCESS_THREADS_HAVE_CONTEXTS: u16 = 1;

/// [`PyProcess::state_slot`]: not found, and not looked for any more.
pub const NO_SLOT: u64 = u64::MAX;

/// Something of one process, by its address there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PyObject {
    /// The process.
    pub tgid: u64,
    /// The address.
    pub address: u64,
}

/// Contexts that a context remembers to be a copy of a copy of.
pub const ANCESTORS: usize = 6;

/// What is known of a `contextvars.Context`: of an asyncio task, a callback, a call in a thread; or, in
/// processes that are told apart by them, of a greenlet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PyContext {
    /// When it was made, `CLOCK_MONOTONIC` ns and even, by which it is told from others that had its
    /// address; odd if that was not seen, and then when it was first come across.
    pub born_ns: u64,
    /// The activity; 0 for none, [`SEVERAL`] if it is one of several. It may be over.
    pub activity: u64,
    /// How the activity came to be known: [`RECEIVED`], [`RECEIVED_BEFORE`] or [`MADE_FOR`].
    pub known_by: u64,
    /// When those were made of which it is a copy, the nearest first; 0 for none.
    pub ancestors: [u64; ANCESTORS],
}

/// [`PyContext::known_by`]: it was received last in the context.
pub const RECEIVED: u64 = 0;
/// [`PyContext::known_by`]: it was received just before the context was entered, or in it, and the
/// context is at work for it until it is entered again.
pub const RECEIVED_BEFORE: u64 = 1;
/// [`PyContext::known_by`]: the context was made for it, and no other will follow.
pub const MADE_FOR: u64 = 2;

impl PyContext {
    /// Whether a context with that time was seen to be made.
    #[inline(always)]
    pub const fn birth_was_seen(born_ns: u64) -> bool {
        born_ns != 0 && born_ns & 1 == 0
    }
}

/// In [`PyContext`] and [`PyScope`]: several, so none.
pub const SEVERAL: u64 = u64::MAX;

/// A context of which those that serve one connection are copies, or that is one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PyScope {
    /// The cookie of the connection; [`SEVERAL`] if there are several.
    pub cookie: u64,
    /// The request that was last received on it; 0 for none.
    pub activity: u64,
}

/// What a thread does that is in no context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PyThread {
    /// The process.
    pub tgid: u32,
    /// `PY_THREAD_` bits.
    pub flags: u32,
    /// The activity for which the job was put in the queue that it took last, or that it received
    /// since; 0 for none.
    pub job: u64,
    /// A request that it received, and has not gone into a context for since; 0 for none.
    pub received: u64,
    /// The cookie of the connection on which it did.
    pub cookie: u64,
    /// When that was established, `CLOCK_MONOTONIC` ns.
    pub established_ns: u64,
}

/// The thread takes jobs out of a queue: what it works on is the last of them, or what it has received
/// since.
pub const PY_THREAD_TAKES_JOBS: u32 = 1;
/// The thread receives first, and goes into a context afterwards.
pub const PY_THREAD_IS_LOOP: u32 = 2;
/// [`PyThread::job`] is a request that the thread received itself.
pub const PY_THREAD_HAS_RECEIVED: u32 = 4;
/// The thread is seen to enter contexts.
pub const PY_THREAD_ENTERS: u32 = 8;

/// At which function a probe is: its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PyPlace {
    /// `PyContext_CopyCurrent` returns.
    Copied = 0,
    /// `_queue.SimpleQueue.get` or `get_nowait` returns.
    Taken = 1,
    /// `PyContext_Enter` was entered.
    Enters = 2,
    /// `_queue.SimpleQueue.put` was entered.
    Put = 3,
    /// A function returns that makes a context which is no copy of the one at work.
    Made = 4,
}
