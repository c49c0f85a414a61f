//! A directory for one run, removed with all that is in it.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::leftovers;

/// A directory of one's own below the system's place for temporary files.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes `tracewire-NAME-PID`.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or is there already.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let parent = std::env::temp_dir();
        for old in leftovers::of_dead_runs(&parent, name) {
            // It may be another user's; then it stays.
            let _ = std::fs::remove_dir_all(old);
        }
        let path = parent.join(format!("tracewire-{name}-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self(path))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and returns its path.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            crate::progress::say(format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
