//! Records out of the ring buffer.

use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};

/// The ring buffer's reading end.
pub(crate) struct Records {
    ring: RingBuf<MapData>,
}

impl Records {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Waits until much is there, or until `patience` is over. The kernel half does not
    /// wake the agent for each record: that would cost more than the record.
    pub(crate) fn wait(&self, patience: Duration) {
        let mut poll = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = i32::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: one entry, which lives through the call. An interruption by a signal
        // only ends the wait early.
        unsafe { libc::poll(&raw mut poll, 1, timeout) };
    }

    /// Hands what is there to `take`, at most `most` records. Answers how many there were.
    pub(crate) fn drain(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < most {
            let Some(item) = self.ring.next() else { break };
            take(&item);
            count += 1;
        }
        count
    }
}
