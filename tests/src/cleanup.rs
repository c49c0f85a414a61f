//! What must not outlive the tests, also when they are interrupted.
//!
//! Guards remove what they made when dropped. For SIGINT and SIGTERM, where
//! nothing is dropped, the same things are also listed here and removed by one
//! thread before the process ends.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Something outside this process that it made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Made {
    // The order of the variants is the order of removal.
    /// A process, by id.
    Process(u32),
    /// A cgroup, with every process in it.
    Cgroup(PathBuf),
    /// A named network namespace, with the interfaces in it.
    Netns(String),
    /// A directory of scratch files.
    Directory(PathBuf),
}

static MADE: Mutex<BTreeSet<Made>> = Mutex::new(BTreeSet::new());
static WATCHER: Once = Once::new();

fn made() -> MutexGuard<'static, BTreeSet<Made>> {
    // A poisoned set is still a set, and removing things matters most after a panic.
    MADE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lists a thing for removal on a signal.
pub fn list(thing: Made) {
    WATCHER.call_once(watch_signals);
    made().insert(thing);
}

/// Takes a thing that its guard has removed off the list.
pub fn unlist(thing: &Made) {
    made().remove(thing);
}

fn watch_signals() {
    std::thread::spawn(|| {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!(
                    "no signal watcher, an interrupted run will leave things behind: {error}"
                );
                return;
            }
        };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            remove_all();
            std::process::exit(code);
        });
    });
}

fn remove_all() {
    let things: Vec<Made> = made().iter().cloned().collect();
    for thing in things {
        match thing {
            Made::Process(pid) => crate::process::kill(pid, libc::SIGKILL),
            Made::Cgroup(path) => crate::cgroup::remove(&path),
            Made::Netns(name) => crate::netns::remove(&name),
            Made::Directory(path) => drop(std::fs::remove_dir_all(path)),
        }
    }
}
