//! For how long the machine did not let this process run, at most.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked.
const NAP: Duration = Duration::from_millis(10);
/// Waits for a processor are added up over so many naps: a second.
const NAPS: usize = 100;

/// Starts a thread that looks; gives the most so far, in milliseconds: by how much a nap of
/// it was late (all was stopped), or how much of a second the main thread waited for a
/// processor (others are at work).
pub(crate) fn watch() -> Arc<AtomicU64> {
    let most = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&most);
    std::thread::spawn(move || {
        let mut waits = VecDeque::with_capacity(NAPS);
        loop {
            let since = Instant::now();
            std::thread::sleep(NAP);
            let late = since.elapsed().saturating_sub(NAP);
            let wait = waited();
            waits.push_back(wait);
            let before =
                if waits.len() > NAPS { waits.pop_front() } else { waits.front().copied() };
            let waiting = wait.saturating_sub(before.unwrap_or(wait));
            let held_up = late.max(waiting);
            most.fetch_max(
                u64::try_from(held_up.as_millis()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
        }
    });
    watched
}

/// How long the main thread has waited for a processor: the second number of
/// `/proc/PID/schedstat`, in ns (Documentation/scheduler/sched-stats.rst).
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let ns = text.split(' ').nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}
