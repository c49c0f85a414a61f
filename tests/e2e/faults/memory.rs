//! The memory limit of the agent's own cgroup, hit.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tracewire_tests::cgroup;
use tracewire_tests::cleanup::{self, Made};
use tracewire_tests::swarm::Ask;
use tracewire_tests::world::is_control;

use crate::scene::{Scene, by_length, say};

/// A cgroup with the memory controller, of version 2 or 1; removed when dropped.
struct Limited {
    path: PathBuf,
    is_v2: bool,
}

impl Limited {
    /// Makes a cgroup below the controller's mount.
    fn new() -> Self {
        let unified = cgroup::mount();
        let name = format!("tracewire-test-{}-memory", std::process::id());
        let controls = read(&unified.join("cgroup.subtree_control"));
        let (parent, is_v2) = if controls.split_whitespace().any(|name| name == "memory") {
            (unified, true)
        } else {
            (first_version(), false)
        };
        let path = parent.join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        cleanup::list(Made::Cgroup(path.clone()));
        Self { path, is_v2 }
    }

    /// Sets the limit, in bytes.
    fn limit(&self, bytes: u64) {
        let files: &[&str] = if self.is_v2 {
            // Without swap, or the limit is none.
            &["memory.swap.max", "memory.max"]
        } else {
            &["memory.limit_in_bytes"]
        };
        for file in files {
            let value = if file.contains("swap") { 0 } else { bytes };
            let result = std::fs::write(self.path.join(file), value.to_string());
            // A kernel without swap accounting has no such file.
            assert!(result.is_ok() || file.contains("swap"), "{file}: {result:?}");
        }
    }

    /// Bytes in use.
    fn usage(&self) -> u64 {
        let file = if self.is_v2 { "memory.current" } else { "memory.usage_in_bytes" };
        let text = read(&self.path.join(file));
        text.trim().parse().unwrap_or_else(|error| panic!("{file}: {text:?}: {error}"))
    }

    /// How often more was asked for than the limit allows.
    fn hits(&self) -> u64 {
        let text = if self.is_v2 {
            let events = read(&self.path.join("memory.events"));
            let mut lines = events.lines();
            lines.find_map(|line| line.strip_prefix("max ")).unwrap_or_default().to_owned()
        } else {
            read(&self.path.join("memory.failcnt"))
        };
        text.trim().parse().unwrap_or_else(|error| panic!("hits: {text:?}: {error}"))
    }

    /// Makes `command` start in it.
    fn place(&self, command: &mut Command) {
        let members = OpenOptions::new().write(true).open(self.path.join("cgroup.procs"));
        let members = Arc::new(members.unwrap_or_else(|error| panic!("cgroup.procs: {error}")));
        // SAFETY: between fork and exec the closure only writes to a file that is open
        // already; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || (&*members).write_all(b"0"));
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // What the agent left charged goes later; without members it can be removed.
        drop(std::fs::remove_dir(&self.path));
        cleanup::unlist(&Made::Cgroup(self.path.clone()));
    }
}

/// Where the memory controller of version 1 is mounted.
fn first_version() -> PathBuf {
    let mounts = read(Path::new("/proc/mounts"));
    let controller = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = controller.into_iter().find_map(|fields| match fields.as_slice() {
        [_, path, "cgroup", options, ..] if options.split(',').any(|option| option == "memory") => {
            Some(PathBuf::from(path))
        }
        _ => None,
    });
    found.unwrap_or_else(|| {
        panic!(
            "no memory controller: enable it for the cgroup v2 root \
             (echo +memory > cgroup.subtree_control)"
        )
    })
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Kernel memory for one end of a connection, in bytes, at most (README, "Memory").
const OF_ONE_END: u64 = 2048;

/// What came of an agent's limit.
struct Ordeal {
    /// The agent was not ended.
    lives: bool,
    /// It came to its limit.
    is_hit: bool,
}

/// Connections held by an agent that may take so many bytes more than it has when it is ready.
fn hold_with_headroom(bytes: u64) -> Ordeal {
    let limited = Limited::new();
    let mut scene = Scene::new();
    let mut ready = 0;
    if !is_control() {
        let mut command = scene.world.agent_command_to(&scene.collector.endpoint(), &[]);
        limited.place(&mut command);
        scene.world.start_agent_by(command);
        ready = limited.usage();
        limited.limit(ready + bytes);
    }
    let connections = by_length(5_000, 18_000);
    let ask = Ask { connections, at_once: 64, requests: 5, hold: true, ..Ask::default() };
    let mut held = scene.ask(ask);
    held.wait_held();
    let open = limited.usage();
    say(&format!(
        "{} KiB charged when ready, {} KiB more is the limit, {} KiB with all connections open",
        ready / 1024,
        bytes / 1024,
        open / 1024
    ));
    held.go_on();
    scene.finish_swiftly("held connections", held);
    let lives = scene.world.agent().is_some_and(|agent| agent.is_running());
    let is_hit = limited.hits() > 0;
    if !lives {
        // As if it had been killed by anybody else.
        drop(scene.world.take_agent());
        scene.end();
        return Ordeal { lives, is_hit };
    }
    let each = open.saturating_sub(ready) / (2 * connections as u64);
    say(&format!("some {each} bytes for each end of a connection"));
    assert!(each < OF_ONE_END, "{each} bytes for each end of a connection");
    scene.end_complete();
    Ordeal { lives, is_hit }
}

#[test]
fn an_agent_that_hits_its_memory_limit_harms_no_request() {
    // Less than what the state of the connections takes. The kernel ends the agent when the agent
    // itself asks for more; what is asked for its maps in softirq may pass the limit
    // (`try_charge_memcg` in mm/memcontrol.c: GFP_ATOMIC). If it asks for nothing, it lives.
    for headroom in [4 << 20, 1 << 20] {
        let ordeal = hold_with_headroom(headroom);
        say(if ordeal.lives { "the agent lives" } else { "the agent was ended" });
        assert!(ordeal.is_hit || is_control(), "the limit was not hit");
    }
}

#[test]
fn an_agent_below_its_memory_limit_takes_what_is_stated_for_each_connection() {
    let ordeal = hold_with_headroom(by_length(64 << 20, 128 << 20));
    assert!(ordeal.lives || is_control(), "the agent is gone");
    assert!(!ordeal.is_hit, "the limit was hit");
}
