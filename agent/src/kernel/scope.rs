//! The cgroup that the agent looks at, and the claim on it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Why a cgroup cannot be looked at.
#[derive(Debug)]
pub(crate) enum ScopeError {
    /// No cgroup v2 hierarchy is mounted.
    NoCgroup2,
    /// The path cannot be opened.
    Open(PathBuf, io::Error),
    /// The path is not in a cgroup v2 hierarchy.
    NotCgroup2(PathBuf),
    /// Another agent looks at it, at one above it, or at one below it.
    Taken(PathBuf),
    /// The agent is in a pid namespace of its own.
    PidNamespace,
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCgroup2 => f.write_str(
                "no cgroup v2 hierarchy is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with systemd.unified_cgroup_hierarchy=1",
            ),
            Self::Open(path, error) => {
                write!(f, "cannot open the cgroup {}: {error}; pass an existing directory with --cgroup", path.display())
            }
            Self::NotCgroup2(path) => write!(
                f,
                "{} is not in a cgroup v2 hierarchy; pass a directory below the cgroup2 mount with --cgroup",
                path.display()
            ),
            Self::Taken(path) => write!(
                f,
                "another Tracewire agent already works on the cgroup {} or on one above or below it; stop it first, or choose another --cgroup",
                path.display()
            ),
            Self::PidNamespace => f.write_str(
                "the agent is in a pid namespace of its own and could not tell the host's processes apart; run it in the host's (Kubernetes: hostPID: true, Docker: --pid=host)",
            ),
        }
    }
}

impl std::error::Error for ScopeError {}

/// A claimed cgroup. The claim ends with the value, or with the process.
#[derive(Debug)]
pub(crate) struct Scope {
    /// The cgroup's directory.
    pub(crate) path: PathBuf,
    /// The directory, opened.
    pub(crate) directory: File,
    /// The cgroup's id, as the kernel's helpers give it.
    pub(crate) id: u64,
    /// Its depth below the root of the hierarchy.
    pub(crate) level: u32,
    /// Keeps the claims on the cgroups above.
    _ancestors: Vec<File>,
}

/// A mounted cgroup v2 hierarchy.
struct Mount {
    point: PathBuf,
    /// What of the hierarchy is mounted there.
    root: PathBuf,
}

/// `proc_pid_mountinfo(5)`: id, parent, device, root, mount point, …, `-`, type, ….
fn cgroup2_mounts() -> Vec<Mount> {
    let Ok(text) = std::fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    text.lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            kind.starts_with("cgroup2 ")
                .then(|| Mount { point: PathBuf::from(point), root: PathBuf::from(root) })
        })
        .collect()
}

impl Scope {
    /// Claims a cgroup, or the whole hierarchy.
    ///
    /// # Errors
    ///
    /// If it is none, or not free.
    pub(crate) fn claim(path: Option<&Path>) -> Result<Self, ScopeError> {
        if !in_initial_pid_namespace() {
            return Err(ScopeError::PidNamespace);
        }
        let scope = Self::find(path)?;
        if !lock(&scope.directory, libc::LOCK_EX) {
            return Err(ScopeError::Taken(scope.path));
        }
        Ok(scope)
    }

    fn find(path: Option<&Path>) -> Result<Self, ScopeError> {
        let mounts = cgroup2_mounts();
        let first = mounts.first().ok_or(ScopeError::NoCgroup2)?;
        let path = path.unwrap_or(&first.point);
        let path = path.canonicalize().map_err(|e| ScopeError::Open(path.to_path_buf(), e))?;
        let directory = File::open(&path).map_err(|e| ScopeError::Open(path.clone(), e))?;
        let mount = mounts.iter().find(|mount| path.starts_with(&mount.point));
        let (Some(mount), true) = (mount, is_cgroup2(&directory)) else {
            return Err(ScopeError::NotCgroup2(path));
        };
        let id = directory.metadata().map_err(|e| ScopeError::Open(path.clone(), e))?.ino();
        let below = path.strip_prefix(&mount.point).map_or(0, |rest| rest.components().count());
        let above = mount.root.components().filter(|c| c.as_os_str() != "/").count();
        let mut ancestors = Vec::new();
        for ancestor in path.ancestors().skip(1).take(below) {
            if let Ok(file) = File::open(ancestor) {
                if !lock(&file, libc::LOCK_SH) {
                    return Err(ScopeError::Taken(ancestor.to_path_buf()));
                }
                ancestors.push(file);
            }
        }
        let level = u32::try_from(below + above).unwrap_or(u32::MAX);
        Ok(Self { path, directory, id, level, _ancestors: ancestors })
    }

    /// The ids of the processes in the cgroup and in those below it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut pending = vec![self.path.clone()];
        while let Some(path) = pending.pop() {
            if let Ok(text) = std::fs::read_to_string(path.join("cgroup.procs")) {
                found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            }
            let Ok(entries) = std::fs::read_dir(&path) else { continue };
            pending.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        found
    }
}

fn is_cgroup2(directory: &File) -> bool {
    // SAFETY: `statfs` is plain data, valid all zero; the descriptor is open.
    let (result, stat) = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        (libc::fstatfs(directory.as_raw_fd(), &raw mut stat), stat)
    };
    result == 0 && stat.f_type == CGROUP2_MAGIC
}

/// A file lock on a cgroup's directory says that an agent works there (exclusive) or
/// somewhere below (shared). The kernel lets go of it when the agent dies.
fn lock(file: &File, kind: i32) -> bool {
    // SAFETY: the descriptor is open.
    unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) == 0 }
}

/// The inode of the initial pid namespace, `PROC_PID_INIT_INO` (include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

fn in_initial_pid_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == INITIAL_PID_NAMESPACE)
}
