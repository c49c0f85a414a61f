//! What an earlier run made and, being killed, could not remove.

use std::path::{Path, PathBuf};

/// Entries `tracewire-NAME-PID` of `dir` whose maker, the process PID, is gone.
pub(crate) fn of_dead_runs(dir: &Path, name: &str) -> Vec<PathBuf> {
    let prefix = format!("tracewire-{name}-");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .and_then(|file| file.to_str()?.strip_prefix(&prefix)?.parse::<u32>().ok())
                .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_runs_made_is_left_over() {
        let scratch =
            crate::scratch::ScratchDir::create("leftovers").expect("a temporary directory");
        // Process ids are below 2^22 (PID_MAX_LIMIT).
        let live = std::process::id().to_string();
        for name in ["tracewire-a-9999999", &format!("tracewire-a-{live}"), "tracewire-b-9999998"] {
            scratch.write(name, "").expect("the directory is ours");
        }
        let found = of_dead_runs(scratch.path(), "a");
        assert_eq!(found, [scratch.path().join("tracewire-a-9999999")]);
    }
}
