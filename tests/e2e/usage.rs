//! What cannot work says so in one sentence, fails, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tracewire_tests::agent;
use tracewire_tests::cgroup::Cgroup;
use tracewire_tests::kernel_programs::{assert_none_left, attached, loaded};
use tracewire_tests::process::{Process, copy_program, patient};
use tracewire_tests::script::Step;
use tracewire_tests::world::{World, is_control, send};

/// The user that owns nothing (`nobody`).
const NOBODY: u32 = 65_534;

/// How long an agent that cannot run may take to say so.
const LIMIT: Duration = Duration::from_secs(10);

/// What the command line itself gets wrong.
const USAGE: &[i32] = &[2];
/// What the machine does not allow.
const CANNOT: &[i32] = &[1];
/// Either may find it first.
const EITHER: &[i32] = &[1, 2];

/// Runs a command that must fail; gives its standard error.
fn fails(command: Command, codes: &[i32], words: &[&str]) -> String {
    let what = format!("{command:?}");
    let mut process = Process::start(command);
    let Some(status) = process.wait_exit(patient(LIMIT)) else {
        panic!("{what} is still running\n{}", process.output());
    };
    let stderr = process.stderr();
    assert!(
        status.code().is_some_and(|code| codes.contains(&code)),
        "{what}: {status}, not one of {codes:?}\n{stderr}"
    );
    let lower = stderr.to_lowercase();
    assert!(!lower.contains("panicked") && !lower.contains("backtrace"), "{what}: {stderr}");
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "{what}: says nothing of {word:?}: {stderr}");
    }
    if status.code() == Some(1) {
        let lines = stderr.lines().filter(|line| !line.trim().is_empty()).count();
        assert_eq!(lines, 1, "{what}: not one sentence: {stderr}");
    }
    stderr
}

fn run(world: &World, flags: &[&str]) -> Command {
    let cgroup = world.cgroup.path().to_string_lossy().into_owned();
    let mut command = agent::command(&["run", "--cgroup", &cgroup]);
    command.args(flags);
    command
}

/// A test that leaves the kernel as it was; nothing to do in a control run.
fn leaving_nothing(test: impl FnOnce(&mut World)) {
    if is_control() {
        return;
    }
    let mut world = World::alone();
    let before = loaded();
    test(&mut world);
    assert_eq!(attached(world.cgroup.path()), 0, "programs attached to the cgroup");
    assert_none_left(&before);
}

#[test]
fn a_new_cgroup_has_nothing_attached() {
    let world = World::alone();
    assert_eq!(attached(world.cgroup.path()), 0);
    assert_none_left(&loaded());
}

#[test]
fn an_unknown_flag_is_refused() {
    leaving_nothing(|world| {
        fails(run(world, &["--no-such-flag"]), USAGE, &["--no-such-flag"]);
        fails(agent::command(&["no-such-command"]), USAGE, &["no-such-command"]);
    });
}

#[test]
fn values_that_make_no_sense_are_refused() {
    leaving_nothing(|world| {
        for (flag, value) in [
            ("--sample-ratio", "2"),
            ("--sample-ratio", "NaN"),
            ("--ring-bytes", "1000"),
            ("--propagate", "carrier-pigeon"),
            ("--propagate", "auto,always"),
            ("--propagate", "off,tcp-option"),
            ("--exporter", "fax"),
            ("--include-port", "70000"),
            ("--exclude-port", "http"),
            ("--log-level", "loud"),
            ("--otlp-timeout", "soon"),
            ("--otlp-headers", "no-equals-sign"),
        ] {
            fails(run(world, &[flag, value]), USAGE, &[flag]);
        }
    });
}

#[test]
fn a_bad_endpoint_is_refused() {
    leaving_nothing(|world| {
        for endpoint in ["not a url", "ftp://collector", "http://", "localhost:port"] {
            let flags = ["--exporter", "otlp", "--otlp-endpoint", endpoint];
            fails(run(world, &flags), EITHER, &["endpoint"]);
        }
    });
}

#[test]
fn a_directory_that_is_no_cgroup_is_refused() {
    leaving_nothing(|world| {
        let directory = world.scratch().to_string_lossy().into_owned();
        for path in [directory.as_str(), "/no/such/directory", "/etc/passwd"] {
            fails(agent::command(&["run", "--cgroup", path]), EITHER, &["cgroup", path]);
        }
    });
}

/// The agent where everyone may execute it.
fn public_copy(world: &World) -> PathBuf {
    let directory = world.scratch();
    let copy = directory.join("tracewire");
    copy_program(&agent::program(), &copy);
    for path in copy.ancestors().take(3) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    copy
}

fn as_nobody(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(public_copy(world));
    command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
    command
}

#[test]
fn without_root_it_says_what_is_missing() {
    leaving_nothing(|world| {
        let cgroup = world.cgroup.path().to_string_lossy().into_owned();
        let stderr = fails(as_nobody(world, &["run", "--cgroup", &cgroup]), CANNOT, &[]);
        let lower = stderr.to_lowercase();
        let told = ["root", "cap_bpf", "privilege", "capabilit"].iter().any(|w| lower.contains(w));
        assert!(told, "says nothing of what is missing: {stderr}");
    });
}

#[test]
fn a_second_agent_on_one_cgroup_is_refused_and_the_first_goes_on() {
    leaving_nothing(|world| {
        world.start_agent(&[]);
        fails(run(world, &[]), CANNOT, &["cgroup"]);
        assert!(attached(world.cgroup.path()) > 0, "the first agent's programs are gone");
        let server = world.server(vec![Step::heads(1), Step::send("HTTP/1.1 204 X\r\n\r\n")]);
        let steps = [
            Step::Connect(server.address()),
            Step::send("GET / HTTP/1.1\r\n\r\n"),
            Step::heads(1),
            Step::Close,
        ];
        world.client(1, steps.into_iter().map(|step| (0, step)).collect());
        let spans = world.stop_agent().map_or(0, |outcome| outcome.spans.len());
        assert_eq!(spans, 2, "spans of the first agent");
    });
}

#[test]
fn a_second_agent_may_run_on_another_cgroup() {
    leaving_nothing(|world| {
        let other = Cgroup::new();
        world.start_agent(&[]);
        let path = other.path().to_string_lossy().into_owned();
        let command = agent::command(&["run", "--cgroup", &path, "--log-format", "json"]);
        agent::Agent::start(command).stop();
        assert_eq!(attached(other.path()), 0, "programs attached to the other cgroup");
        assert!(attached(world.cgroup.path()) > 0, "the first agent's programs are gone");
        world.stop_agent();
    });
}

#[test]
fn a_stopped_agent_leaves_nothing() {
    leaving_nothing(|world| {
        world.start_agent(&[]);
        assert!(attached(world.cgroup.path()) > 0, "nothing is attached to the cgroup");
        world.stop_agent();
    });
}

#[test]
fn an_agent_that_stops_by_itself_leaves_no_program_on_open_connections_either() {
    leaving_nothing(|world| {
        let before = loaded();
        let answer = Step::send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let server = world.server(vec![Step::heads(1), answer, Step::UntilClosed]);
        // With the verdict program that other kernels need sockets stay in the map.
        world.start_agent(&["--propagate", "auto"]);
        let steps = [
            Step::Connect(server.address()),
            Step::send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Step::until("\r\n\r\nok"),
            Step::Gate,
        ];
        let mut client =
            world.peer(|directory| send(directory, steps.map(|step| (0, step)).to_vec()));
        client.wait_gate(0);
        world.stop_agent();
        assert_none_left(&before);
        client.open_gate();
        client.finish(1);
    });
}

#[test]
fn a_killed_agent_leaves_nothing() {
    leaving_nothing(|world| {
        world.start_agent(&[]);
        world.kill_agent();
        // The kernel detaches when the last descriptor is closed, a little later.
        std::thread::sleep(Duration::from_millis(500));
    });
}

#[test]
fn an_interrupted_agent_leaves_nothing() {
    leaving_nothing(|world| {
        let mut process = Process::start(world.agent_command(&[]));
        let ready = process.wait_stderr(patient(LIMIT), |line| line.contains("ready"));
        assert!(ready.is_some(), "{}", process.output());
        process.signal(libc::SIGINT);
        let status = process.wait_exit(patient(LIMIT));
        assert!(status.is_some_and(|status| status.success()), "{status:?} {}", process.output());
    });
}

#[test]
fn a_signal_while_starting_leaves_nothing() {
    leaving_nothing(|world| {
        for milliseconds in [0, 10, 50, 150] {
            let mut process = Process::start(world.agent_command(&[]));
            std::thread::sleep(Duration::from_millis(milliseconds));
            process.signal(libc::SIGTERM);
            assert!(
                process.wait_exit(patient(LIMIT)).is_some(),
                "still running: {}",
                process.output()
            );
        }
    });
}

#[test]
fn check_says_whether_run_can_work() {
    leaving_nothing(|world| {
        let cgroup = world.cgroup.path().to_string_lossy().into_owned();
        let told = Process::start(agent::command(&["check", "--cgroup", &cgroup])).succeed();
        assert!(told.lines().count() > 3, "says too little: {told}");
        let mut denied = Process::start(as_nobody(world, &["check", "--cgroup", &cgroup]));
        let status = denied.wait_exit(patient(LIMIT));
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", denied.output());
        assert!(!denied.output().contains("panicked"), "{}", denied.output());
    });
}

#[test]
fn help_and_version_are_there() {
    if is_control() {
        return;
    }
    let help = Process::start(agent::command(&["run", "--help"])).succeed();
    for flag in ["--cgroup", "--exclude-exe", "--otlp-endpoint", "--sample-ratio", "--ring-bytes"] {
        assert!(help.contains(flag), "no {flag} in {help}");
    }
    assert!(Process::start(agent::command(&["--version"])).succeed().starts_with("tracewire "));
}
