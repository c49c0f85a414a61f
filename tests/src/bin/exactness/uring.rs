//! Sends and receives by io_uring, one at a time.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::sys;
use crate::ways::Way;

/// A ring that carries one operation at a time.
pub(crate) struct Ring {
    ring: IoUring,
}

/// What an operation answered, and whole seconds that it kept its caller waiting.
pub(crate) struct Answer {
    /// Bytes, or the error.
    pub(crate) result: Result<usize>,
    /// Seconds in which nothing happened.
    pub(crate) idle: u32,
}

impl Ring {
    /// A new ring.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { ring: IoUring::new(8)? })
    }

    /// Sends `bytes` by one operation.
    pub(crate) fn send(&mut self, fd: RawFd, bytes: &[u8], way: Way) -> Answer {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (to, from) = (Fd(fd), bytes.as_ptr());
        let mut vectors = sys::vectors(bytes);
        let message = sys::message(&mut vectors);
        let entry = match way {
            Way::UringWrite => opcode::Write::new(to, from, len).build(),
            Way::UringWritev => opcode::Writev::new(to, vectors.as_ptr(), 4).build(),
            Way::UringSendmsg => opcode::SendMsg::new(to, &raw const message).build(),
            Way::UringZeroCopy => opcode::SendZc::new(to, from, len).build(),
            _ => opcode::Send::new(to, from, len).flags(libc::MSG_NOSIGNAL).build(),
        };
        // SAFETY: bytes, vectors and message live until `run` returns, which is when the
        // kernel is done with them.
        unsafe { self.run(&entry) }
    }

    /// Receives into `into` by one operation.
    pub(crate) fn receive(&mut self, fd: RawFd, into: &mut [u8], as_read: bool) -> Answer {
        let len = u32::try_from(into.len()).unwrap_or(u32::MAX);
        let entry = if as_read {
            opcode::Read::new(Fd(fd), into.as_mut_ptr(), len).build()
        } else {
            opcode::Recv::new(Fd(fd), into.as_mut_ptr(), len).build()
        };
        // SAFETY: the buffer is exclusively borrowed until `run` returns.
        unsafe { self.run(&entry) }
    }

    /// Runs one operation until the kernel is done with its memory.
    ///
    /// # Safety
    ///
    /// What the entry points to must be live, and for the kernel alone, during the call.
    unsafe fn run(&mut self, entry: &squeue::Entry) -> Answer {
        let mut idle = 0;
        // SAFETY: the caller's promise.
        if unsafe { self.ring.submission().push(entry) }.is_err() {
            return Answer { result: Err(Error::other("the ring is full")), idle };
        }
        let mut result = None;
        let mut cancelled = false;
        loop {
            while let Some(completion) = self.ring.completion().next() {
                if !cqueue::notif(completion.flags()) {
                    let code = completion.result();
                    result =
                        Some(usize::try_from(code).map_err(|_| Error::from_raw_os_error(-code)));
                }
                if !cqueue::more(completion.flags()) {
                    let stalled = || Err(Error::from(ErrorKind::TimedOut));
                    return Answer { result: result.unwrap_or_else(stalled), idle };
                }
            }
            let second = Timespec::new().sec(1);
            let waited =
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&second));
            match waited {
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => idle += 1,
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    // Nothing sane is left to do: the operation may still use the memory.
                    eprintln!("exactness: io_uring_enter: {error}");
                    std::process::abort();
                }
                _ => {}
            }
            if idle >= crate::socket::PATIENCE && !cancelled {
                cancelled = true;
                // If there is nothing to cancel any more its completion is there.
                let _gone = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
            }
        }
    }
}
