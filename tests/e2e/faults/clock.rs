//! An agent whose clocks are not those of the kernel's programs.
//!
//! The wall clock belongs to the whole machine and is not stepped here: `clock.rs` of the
//! agent has tests of that.

use std::fs::File;
use std::io::{Error, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracewire_tests::script::Step;
use tracewire_tests::world::{World, is_control};

/// How far the namespace's monotonic clock is ahead: longer than an exchange may be open.
const AHEAD_S: u64 = 40 * 24 * 3600;

/// Makes `command` start in a time namespace of its own.
fn place_in_time_namespace(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes system calls on files that it opens
    // itself; the paths and the text are constants, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            if libc::unshare(libc::CLONE_NEWTIME) != 0 {
                return Err(Error::last_os_error());
            }
            let mut offsets = File::options().write(true).open("/proc/self/timens_offsets")?;
            offsets.write_all(OFFSETS)?;
            let namespace = File::open("/proc/self/ns/time_for_children")?;
            if libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWTIME) != 0 {
                return Err(Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// `time_namespaces(7)`; in seconds, [`AHEAD_S`].
const OFFSETS: &[u8] = b"monotonic 3456000 0\n";

#[test]
fn an_agent_in_a_time_namespace_dates_spans_by_the_calendar() {
    assert_eq!(OFFSETS, format!("monotonic {AHEAD_S} 0\n").as_bytes());
    let mut world = World::new();
    if !is_control() {
        let mut command = world.agent_command(&[]);
        place_in_time_namespace(&mut command);
        world.start_agent_by(command);
    }
    let request = "GET /dated HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let server = world.server(vec![Step::heads(1), Step::send(answer), Step::UntilClosed]);
    let steps = [
        Step::Connect(server.address()),
        Step::send(request),
        Step::until("\r\n\r\nok"),
        Step::Pause(100),
    ];
    world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 2, "{:?}", outcome.counters);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for span in &outcome.spans {
        let age = now.abs_diff(Duration::from_nanos(span.start));
        assert!(age < Duration::from_secs(60), "{span:?} is dated {age:?} away from now");
    }
}
