//! Sockets that an earlier agent enrolled, and that outlived it.
//!
//! An enrolled socket keeps its entry program, which keeps the socket map and the
//! program array (agent-ebpf/src/state.rs). Both are found again by their ids; with
//! the new agent's program in the array the old sockets are at work again, without
//! ever having been taken out of the map.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, MapInfo, SockHash};
use aya::programs::loaded_programs;

/// The program that enrolled sockets keep.
const ENTRY: &str = "rewrite_request";
/// Where a bpf file system is mounted, in a mount namespace of the agent's own.
const MOUNT_POINT: &CStr = c"/sys/fs/bpf";

/// The maps of an agent that is gone.
pub(super) struct Predecessor {
    enrolled: u32,
    stages: u32,
    /// The cookies of its sockets.
    pub(super) sockets: HashSet<u64>,
}

/// The agent that is gone and left the most sockets of those given.
pub(super) fn find(sockets_in_scope: &HashSet<u64>) -> Option<Predecessor> {
    if sockets_in_scope.is_empty() {
        return None;
    }
    let mut seen = HashSet::new();
    loaded_programs()
        .flatten()
        .filter(|program| program.name_as_str() == Some(ENTRY))
        .filter_map(|program| predecessor(&program.map_ids().ok()??))
        .filter(|found| seen.insert(found.enrolled))
        .map(|found| (found.sockets.intersection(sockets_in_scope).count(), found))
        .filter(|(shared, _)| *shared > 0)
        .max_by_key(|(shared, _)| *shared)
        .map(|(_, found)| found)
}

fn predecessor(maps: &[u32]) -> Option<Predecessor> {
    let named = |name: &str| {
        maps.iter()
            .copied()
            .find(|&id| MapInfo::from_id(id).is_ok_and(|info| info.name_as_str() == Some(name)))
    };
    let (enrolled, stages) = (named("ENROLLED")?, named("STAGES")?);
    if has_a_stage(stages) {
        // Its agent lives.
        return None;
    }
    let map = SockHash::<_, u64>::try_from(Map::SockHash(MapData::from_id(enrolled).ok()?)).ok()?;
    let sockets = map.keys().flatten().collect();
    Some(Predecessor { enrolled, stages, sockets })
}

/// Whether the program array has its program.
fn has_a_stage(stages: u32) -> bool {
    let Ok(map) = MapData::from_id(stages) else { return false };
    lookup_u32(&map, 0).is_some()
}

/// `BPF_MAP_LOOKUP_ELEM` on a map from u32 to u32; aya has none for program arrays.
fn lookup_u32(map: &MapData, key: u32) -> Option<u32> {
    use std::os::fd::{AsFd, AsRawFd};
    /// The fields of `union bpf_attr` for element commands (include/uapi/linux/bpf.h).
    #[repr(C)]
    struct Element {
        map_fd: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
    let mut value = 0u32;
    let attr = Element {
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        pad: 0,
        key: (&raw const key) as u64,
        value: (&raw mut value) as u64,
        flags: 0,
    };
    // SAFETY: the attribute, the key and the value live through the call, and the sizes
    // of the latter two are those of the map.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_ELEM, &raw const attr, size_of::<Element>())
    };
    (result == 0).then_some(value)
}

/// A predecessor's maps under names that the loader can take them from.
pub(super) struct Pinned {
    directory: PathBuf,
}

impl Pinned {
    /// Gives the maps names, in a bpf file system that nobody else sees.
    ///
    /// # Errors
    ///
    /// If that cannot be mounted, or the maps are gone by now.
    pub(super) fn new(predecessor: &Predecessor) -> Result<Self> {
        mount().context("cannot mount a bpf file system in a namespace of the agent's own")?;
        let pinned = Self { directory: PathBuf::from(MOUNT_POINT.to_string_lossy().as_ref()) };
        for (id, path) in
            [(predecessor.enrolled, pinned.enrolled()), (predecessor.stages, pinned.stages())]
        {
            MapData::from_id(id)
                .context("a map of the earlier agent is gone")?
                .pin(&path)
                .context("cannot name a map of the earlier agent")?;
        }
        Ok(pinned)
    }

    /// The socket map.
    pub(super) fn enrolled(&self) -> PathBuf {
        self.directory.join("enrolled")
    }

    /// The program array.
    pub(super) fn stages(&self) -> PathBuf {
        self.directory.join("stages")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The names go with the file system; the maps stay with who has them open.
        // SAFETY: a constant path.
        unsafe { libc::umount2(MOUNT_POINT.as_ptr(), libc::MNT_DETACH) };
    }
}

fn mount() -> io::Result<()> {
    let check = |result: libc::c_int| {
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let none = std::ptr::null();
    // SAFETY: constant strings; the namespace is this thread's, from which the agent's
    // other threads are made later.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none.cast()))?;
        check(libc::mount(c"bpf".as_ptr(), MOUNT_POINT.as_ptr(), c"bpf".as_ptr(), 0, none.cast()))
    }
}

/// Whether the mount point is there at all.
pub(super) fn is_possible() -> bool {
    Path::new(MOUNT_POINT.to_string_lossy().as_ref()).is_dir()
}
