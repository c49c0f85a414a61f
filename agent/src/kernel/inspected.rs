//! What files were found to be that processes have mapped to run them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::tls::mapped::{FileNumber, Identity, Mapped};

/// Files whose inspection is remembered. When there are more all are forgotten.
const REMEMBERED: usize = 4096;
/// For how long a file is taken for nothing of interest by its number alone, which may be another's
/// after that.
const PLAIN: Duration = Duration::from_secs(60);

/// What files are, as far as they are of interest.
pub(super) struct Inspected<T> {
    remembered: HashMap<Identity, Option<Arc<T>>>,
    /// Files that are of no interest, since some time.
    plain: HashSet<FileNumber>,
    plain_since: Instant,
}

/// A file of interest.
pub(super) struct Found<T> {
    pub(super) file: File,
    pub(super) what: Arc<T>,
    /// Whether it is the first time that it was found.
    pub(super) is_new: bool,
}

impl<T> Inspected<T> {
    pub(super) fn new() -> Self {
        Self { remembered: HashMap::new(), plain: HashSet::new(), plain_since: Instant::now() }
    }

    /// Numbers are used again. To be called now and then.
    pub(super) fn forget_old(&mut self) {
        if self.plain_since.elapsed() > PLAIN {
            self.plain.clear();
            self.plain_since = Instant::now();
        }
    }

    /// Whether the file is of no interest, as was found lately.
    pub(super) fn is_plain(&self, number: FileNumber) -> bool {
        self.plain.contains(&number)
    }

    /// What the file is that the process has mapped, if that is of interest. It is inspected once.
    pub(super) fn look_into(
        &mut self,
        pid: u32,
        mapped: &Mapped<'_>,
        inspect: impl FnOnce(&File) -> Option<T>,
    ) -> Option<Found<T>> {
        let (file, identity) = mapped.open(pid)?;
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        let is_new = !self.remembered.contains_key(&identity);
        let what =
            self.remembered.entry(identity).or_insert_with(|| inspect(&file).map(Arc::new)).clone();
        let Some(what) = what else {
            if self.plain.len() >= REMEMBERED {
                self.plain.clear();
            }
            self.plain.insert(mapped.number);
            return None;
        };
        Some(Found { file, what, is_new })
    }
}
