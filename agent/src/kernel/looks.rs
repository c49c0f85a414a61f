//! When processes are looked at for libraries that they have loaded.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// When after its start a process is looked at: the loader maps libraries within the first
/// milliseconds, interpreters load theirs when they come to it, and nothing tells when.
const LOOKS: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(1200),
    Duration::from_millis(3000),
];

/// Looks at once; others wait until there is time again.
pub(super) const MOST_LOOKS: usize = 64;

/// Looks that are due: when, at whom, and the how manieth it is.
#[derive(Debug, Default)]
pub(super) struct Looks(BTreeSet<(Instant, u32, usize)>);

/// A process that is to be looked at now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) pid: u32,
    number: usize,
}

impl Looks {
    /// The first look at a process, which is due at once.
    pub(super) fn first(pid: u32) -> Look {
        Look { pid, number: 0 }
    }

    /// The process was looked at, and is there: it will be again, if it was not often enough.
    pub(super) fn done(&mut self, look: Look) {
        let Look { pid, number } = look;
        if let (Some(done), Some(next)) = (LOOKS.get(number), LOOKS.get(number + 1)) {
            self.0.insert((Instant::now() + (*next - *done), pid, number + 1));
        }
    }

    /// How long until a process is to be looked at.
    pub(super) fn until_next(&self) -> Option<Duration> {
        let &(due, ..) = self.0.first()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// A process whose time has come.
    pub(super) fn take_due(&mut self) -> Option<Look> {
        let &(due, pid, number) = self.0.first()?;
        (due <= Instant::now()).then(|| {
            self.0.pop_first();
            Look { pid, number }
        })
    }
}
