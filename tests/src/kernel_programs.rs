//! What is loaded and attached in the kernel, asked of the kernel itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::patient;

// Commands of bpf(2), from `enum bpf_cmd` (include/uapi/linux/bpf.h).
const PROG_GET_NEXT_ID: i32 = 11;
const PROG_QUERY: i32 = 16;

/// `enum bpf_attach_type`: every kind of cgroup hook that the agent uses, and a few more.
const CGROUP_HOOKS: &[u32] = &[0, 1, 2, 3, 8, 9, 10, 11, 14, 15, 19, 20];

/// The kernel frees programs a little after their last user is gone.
const FREED_WITHIN: Duration = Duration::from_secs(5);

#[repr(C, align(8))]
#[derive(Default)]
struct Attributes([u32; 32]);

fn bpf(command: i32, attributes: &mut Attributes) -> Result<(), Error> {
    // SAFETY: the attributes are zeroed beyond what the command reads, large
    // enough for both commands used here, and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// The ids of all programs that are loaded on this machine.
///
/// # Panics
///
/// If the kernel does not say (it needs root).
pub fn loaded() -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    let mut last = 0;
    loop {
        // Read: start_id. Written: next_id.
        let mut attributes = Attributes::default();
        attributes.0[0] = last;
        match bpf(PROG_GET_NEXT_ID, &mut attributes) {
            Ok(()) => last = attributes.0[1],
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return ids,
            Err(error) => panic!("cannot list the kernel's programs: {error}"),
        }
        ids.insert(last);
    }
}

/// How many programs are attached to a cgroup.
///
/// # Panics
///
/// If the cgroup cannot be opened.
pub fn attached(cgroup: &Path) -> usize {
    let directory =
        File::open(cgroup).unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
    let count = |hook: &u32| {
        // Read: target_fd, attach_type, query_flags, attach_flags, prog_ids (64 bits), prog_cnt.
        // Written: prog_cnt, also when there is no room for ids.
        let mut attributes = Attributes::default();
        attributes.0[0] = u32::try_from(directory.as_raw_fd()).unwrap_or(u32::MAX);
        attributes.0[1] = *hook;
        // A kernel that does not know a hook has nothing attached to it.
        bpf(PROG_QUERY, &mut attributes).map_or(0, |()| attributes.0[6] as usize)
    };
    CGROUP_HOOKS.iter().map(count).sum()
}

/// Waits until nothing is loaded that was not there `before`.
///
/// # Panics
///
/// If something stays.
pub fn assert_none_left(before: &BTreeSet<u32>) {
    let deadline = Instant::now() + patient(FREED_WITHIN);
    loop {
        let left: Vec<u32> = loaded().difference(before).copied().collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "programs were left in the kernel, ids {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
