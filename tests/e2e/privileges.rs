//! The agent asks for little, gives back most of that, and touches nothing.

use std::collections::BTreeSet;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tracewire_tests::agent;
use tracewire_tests::confine::{self, CAP_BPF, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_PERFMON};
use tracewire_tests::confine::{CAP_SETPCAP, CAP_SYS_ADMIN, CAP_SYS_PTRACE};
use tracewire_tests::expect;
use tracewire_tests::peer::{Peer, program};
use tracewire_tests::process::{Process, copy_program};
use tracewire_tests::script::{Step, fill};
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::{World, is_control, send};

const HEAD: &str = "GET /request HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The user that owns nothing (`nobody`).
const NOBODY: u32 = 65_534;

/// What `check` says that the agent does not start without.
const NEEDED: &[u32] = &[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN];

/// How long an agent that cannot run may take to say so.
const LIMIT: Duration = Duration::from_secs(10);

fn answer(times: usize) -> Vec<Step> {
    let mut steps = vec![[Step::heads(1), Step::send(OK)]; times].concat();
    steps.push(Step::UntilClosed);
    steps
}

fn ask(times: usize) -> Vec<Step> {
    vec![[Step::send(HEAD), Step::until("\r\n\r\nok")]; times].concat()
}

fn on_first(steps: Vec<Step>) -> Vec<(usize, Step)> {
    steps.into_iter().map(|step| (0, step)).collect()
}

/// Two requests under the running agent, each with its header and its two spans.
fn two_requests(world: &mut World, what: &str) {
    let server = world.server(answer(2));
    world.client(1, on_first([vec![Step::Connect(server.address())], ask(2)].concat()));
    let found = compare(what, &vec![Part::head(HEAD); 2], &server.received(0));
    if is_control() {
        return;
    }
    let headers = expect::all_injected(what, found);
    let limit = Duration::from_secs(10);
    world.sink.wait_for(what, limit, |spans| (spans.len() >= 4).then_some(()));
    expect::exactly_pairs(what, &world.sink.spans(), &headers);
}

fn proc_file(pid: u32, path: &str) -> String {
    let path = format!("/proc/{pid}/{path}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A field of a `status` file, as a number in hexadecimal digits.
fn status_field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let value = value.unwrap_or_else(|| panic!("no {name} in {status}"));
    u64::from_str_radix(value, 16).unwrap_or_else(|error| panic!("{name} is {value}: {error}"))
}

#[test]
fn a_running_agent_has_let_go_of_all_but_two_capabilities() {
    let mut world = World::traced();
    two_requests(&mut world, "few capabilities");
    if let Some(pid) = world.agent().map(|agent| agent.id()) {
        let own = status_field(&proc_file(std::process::id(), "status"), "CapPrm");
        let kept = own & (1 << CAP_SYS_PTRACE | 1 << CAP_DAC_READ_SEARCH);
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        let tasks: Vec<_> = tasks.map(|t| t.flatten().collect()).unwrap_or_default();
        assert!(tasks.len() >= 2, "the thread that reads is missing");
        for task in tasks {
            let task = task.file_name();
            let status = proc_file(pid, &format!("task/{}/status", task.to_string_lossy()));
            for (set, expected) in
                [("CapPrm", kept), ("CapEff", kept), ("CapInh", 0), ("CapBnd", 0), ("CapAmb", 0)]
            {
                let found = status_field(&status, set);
                assert_eq!(found, expected, "{set} is {found:x}, not {expected:x}: {status}");
            }
            assert_eq!(status_field(&status, "NoNewPrivs"), 1);
        }
    }
    world.stop_agent();
}

#[test]
fn the_capabilities_called_needed_are_enough() {
    let mut world = World::new();
    let mut command = world.agent_command(&[]);
    confine::capabilities(&mut command, NEEDED);
    if !is_control() {
        world.start_agent_by(command);
    }
    two_requests(&mut world, "the three capabilities");
    if let Some(log) = world.agent().map(|agent| agent.log()) {
        for name in ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"] {
            assert!(log.contains(&format!("without {name}")), "says nothing of {name}: {log}");
        }
    }
    world.stop_agent();
}

#[test]
fn without_one_that_is_needed_run_and_check_name_it() {
    if is_control() {
        return;
    }
    let world = World::new();
    for (left_out, name) in
        [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")]
    {
        let few: Vec<u32> = NEEDED.iter().copied().filter(|one| *one != left_out).collect();
        let cgroup = world.cgroup.path().to_string_lossy().into_owned();
        for what in ["run", "check"] {
            let mut command = agent::command(&[what, "--cgroup", &cgroup]);
            confine::capabilities(&mut command, &few);
            let mut process = Process::start(command);
            let status = process.wait_exit(LIMIT).and_then(|status| status.code());
            assert_eq!(status, Some(1), "{what} without {name}: {}", process.output());
            let told = if what == "run" { process.stderr() } else { process.stdout() };
            let line = told.lines().find(|line| line.contains(name));
            assert!(line.is_some_and(|l| l.contains("lacks") || l.contains("MISSING")), "{told}");
            assert!(told.contains("sudo"), "{what} does not say what to do: {told}");
        }
    }
}

#[test]
fn in_a_user_namespace_it_says_why_it_cannot_work_there() {
    if is_control() {
        return;
    }
    let world = World::new();
    let cgroup = world.cgroup.path().to_string_lossy().into_owned();
    let mut command = agent::command(&["run", "--cgroup", &cgroup]);
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        command.pre_exec(|| match libc::unshare(libc::CLONE_NEWUSER) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut process = Process::start(command);
    let status = process.wait_exit(LIMIT).and_then(|status| status.code());
    assert_eq!(status, Some(1), "{}", process.output());
    assert!(process.stderr().contains("user namespace"), "{}", process.output());
}

#[test]
fn the_general_capability_stands_for_those_that_were_made_of_it() {
    let mut world = World::new();
    let mut command = world.agent_command(&[]);
    confine::capabilities(&mut command, &[CAP_SYS_ADMIN, CAP_NET_ADMIN]);
    if !is_control() {
        world.start_agent_by(command);
    }
    two_requests(&mut world, "CAP_SYS_ADMIN for CAP_BPF and CAP_PERFMON");
    world.stop_agent();
}

/// A `peer` of another user's, with a service name in its environment.
fn as_nobody(world: &World, name: &str, steps: Vec<(usize, Step)>) -> Peer {
    let home = world.scratch();
    let copy = home.join("peer");
    copy_program(&program(), &copy);
    world.peer_by(
        &copy,
        |directory| {
            for path in [directory, &home].iter().flat_map(|path| path.ancestors().take(2)) {
                open_to_all(path);
            }
            send(directory, steps)
        },
        |command| {
            command.env("OTEL_SERVICE_NAME", name).uid(NOBODY).gid(NOBODY);
        },
    )
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn processes_of_other_users_are_named_and_their_old_connections_given_headers() {
    let mut world = World::new();
    let server = world.server(answer(2));
    let gate = vec![Step::Gate];
    let steps = [vec![Step::Connect(server.address())], ask(1), gate.clone(), ask(1), gate];
    let mut client = as_nobody(&world, "somebody-else", on_first(steps.concat()));
    client.wait_gate(0);
    world.start_agent(&[]);
    client.open_gate();
    client.wait_gate(1);
    if !is_control() {
        // It is older than the agent: what names it is read at its first span.
        world.sink.wait_for("spans", LIMIT, |spans| (spans.len() >= 2).then_some(()));
    }
    client.open_gate();
    client.finish(1);
    let found = compare("another user", &vec![Part::head(HEAD); 2], &server.received(0));
    let Some(outcome) = world.stop_agent() else { return };
    assert!(found[0].is_none() && found[1].is_some(), "headers: {found:?}");
    let names: BTreeSet<&str> = outcome.spans.iter().map(|span| span.service()).collect();
    assert!(names.contains("somebody-else"), "services: {names:?}");
}

#[test]
fn no_port_is_opened() {
    let mut world = World::traced();
    two_requests(&mut world, "no port");
    let Some(pid) = world.agent().map(|agent| agent.id()) else { return };
    let own = sockets(pid);
    let mut to_the_collector = 0;
    for (file, local, state) in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"]
        .iter()
        .flat_map(|file| entries(pid, file))
        .filter(|(_, _, _, inode)| own.contains(inode))
        .map(|(file, local, state, _)| (file, local, state))
    {
        // A connected TCP socket, TCP_ESTABLISHED in include/net/tcp_states.h.
        assert!(file.starts_with("tcp") && state == "01", "{file} {local} in state {state}");
        to_the_collector += 1;
    }
    assert_eq!(to_the_collector, 1, "connections of the agent, of sockets {own:?}");
    // `Num RefCount Protocol Flags Type St Inode Path`; 10000 is __SO_ACCEPTCON.
    let listening = proc_file(pid, "net/unix").lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(3) == Some(&"00010000") && fields.get(6).is_some_and(|i| own.contains(*i))
    });
    assert!(!listening, "the agent listens on a Unix socket");
    world.stop_agent();
}

/// The inodes of the sockets that a process has open.
fn sockets(pid: u32) -> BTreeSet<String> {
    descriptors(pid)
        .filter_map(|(_, target)| {
            let inode = target.to_string_lossy();
            Some(inode.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect()
}

/// The open descriptors of a process: the entry of `fd`, and what it is.
fn descriptors(pid: u32) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = directory.unwrap_or_else(|error| panic!("descriptors of {pid}: {error}"));
    entries.flatten().filter_map(|e| Some((e.path(), std::fs::read_link(e.path()).ok()?)))
}

/// The sockets in a file of `/proc/PID/net`: the file, address, state and inode of each.
fn entries(pid: u32, file: &str) -> Vec<(String, String, String, String)> {
    // A kernel without IPv6 has no such files.
    let path = format!("/proc/{pid}/net/{file}");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter_map(|f| {
            let field = |at: usize| f.get(at).map(|text| (*text).to_owned());
            Some((file.to_owned(), field(1)?, field(3)?, field(9)?))
        })
        .collect()
}

/// Where programs like to write, as seen by an agent whose other file systems cannot be
/// written to.
const WRITABLE: &[&str] = &["/run", "/var/tmp", "/dev/shm"];

/// Everything is read-only, but for some directories that are empty and stay so.
fn on_read_only_root(command: &mut Command) {
    let writable: Vec<&Path> = WRITABLE.iter().map(Path::new).collect();
    for name in ["HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env(name, "/run");
    }
    confine::read_only(command, &writable);
}

fn assert_nothing_written(pid: u32) {
    for path in WRITABLE {
        let path = format!("/proc/{pid}/root{path}");
        let entries = std::fs::read_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        assert!(names.is_empty(), "the agent wrote {names:?} into {path}");
    }
    for (descriptor, target) in descriptors(pid) {
        let is_file = std::fs::metadata(&descriptor).is_ok_and(|m| m.is_file());
        let info = descriptor.to_string_lossy().replace("/fd/", "/fdinfo/");
        let info = std::fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t"));
        let flags = flags.and_then(|octal| i32::from_str_radix(octal, 8).ok()).unwrap_or(0);
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        assert!(!(is_file && writes), "{} is open for writing", target.display());
    }
}

/// An agent that prints its traces.
fn console(world: &World, flags: &[&str]) -> Command {
    let cgroup = world.cgroup.path().to_string_lossy().into_owned();
    let mut command = agent::command(&["run", "--cgroup", &cgroup, "--exporter", "console"]);
    command.args(["--log-format", "json", "--nice", "0"]).args(flags);
    command
}

#[test]
fn a_read_only_root_is_enough_and_nothing_is_written_elsewhere() {
    let mut world = World::new();
    for exporter in ["otlp", "console"] {
        let trace = ["--log-level", "trace"];
        let mut command = match exporter {
            "console" => console(&world, &trace),
            _ => world.agent_command(&trace),
        };
        on_read_only_root(&mut command);
        if !is_control() {
            world.start_agent_by(command);
        }
        if exporter == "otlp" {
            two_requests(&mut world, "read-only root");
        } else {
            let server = world.server(answer(1));
            world.client(1, on_first([vec![Step::Connect(server.address())], ask(1)].concat()));
            std::thread::sleep(Duration::from_secs(2));
        }
        let Some(agent) = world.agent() else { return };
        assert!(agent.is_running(), "{}", agent.log());
        assert_nothing_written(agent.id());
        world.stop_agent();
    }
}

/// The capabilities that the Kubernetes manifest gives, as numbers.
fn of_the_manifest() -> Vec<u32> {
    let manifest = include_str!("../../deploy/daemonset.yaml");
    let (_, list) = manifest.split_once("add:\n").unwrap_or_else(|| panic!("no list of them"));
    list.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .map_while(|line| line.strip_prefix("- "))
        .map(|name| match name {
            "BPF" => CAP_BPF,
            "PERFMON" => CAP_PERFMON,
            "NET_ADMIN" => CAP_NET_ADMIN,
            "SYS_ADMIN" => CAP_SYS_ADMIN,
            "SETPCAP" => CAP_SETPCAP,
            "SYS_PTRACE" => CAP_SYS_PTRACE,
            "DAC_READ_SEARCH" => CAP_DAC_READ_SEARCH,
            other => panic!("the manifest gives {other}, which nothing needs"),
        })
        .collect()
}

#[test]
fn the_manifests_capabilities_are_enough_on_a_read_only_root() {
    let mut world = World::new();
    let given = of_the_manifest();
    assert!(NEEDED.iter().all(|needed| given.contains(needed)), "{given:?}");
    let mut command = world.agent_command(&[]);
    confine::read_only(&mut command, &[]);
    confine::capabilities(&mut command, &given);
    if !is_control() {
        world.start_agent_by(command);
    }
    two_requests(&mut world, "the manifest's capabilities");
    if let Some(agent) = world.agent() {
        assert!(!agent.log().contains("without CAP_"), "{}", agent.log());
    }
    world.stop_agent();
}

#[test]
fn connections_of_a_killed_agent_are_taken_over_on_a_read_only_root() {
    let mut world = World::traced();
    let server = world.server(answer(2));
    let steps = [vec![Step::Connect(server.address())], ask(1), vec![Step::Gate], ask(1)];
    let mut client = world.peer(|directory| send(directory, on_first(steps.concat())));
    client.wait_gate(0);
    world.kill_agent();
    // The kernel clears the program array in work that it puts off a little.
    std::thread::sleep(Duration::from_millis(300));
    let mut command = world.agent_command(&[]);
    on_read_only_root(&mut command);
    if !is_control() {
        world.start_agent_by(command);
    }
    client.open_gate();
    client.finish(1);
    let found = compare("taken over", &vec![Part::head(HEAD); 2], &server.received(0));
    let Some(outcome) = world.stop_agent() else { return };
    assert!(found[0].is_some() && found[1].is_some(), "headers: {found:?}");
    assert!(outcome.counters.get("propagation_injected") == Some(&1), "{:?}", outcome.counters);
}

#[test]
fn no_core_dump_has_its_memory() {
    if is_control() {
        return;
    }
    let world = World::new();
    let directory = world.scratch();
    let dumping = |command: &mut Command| {
        command.current_dir(&directory);
        // SAFETY: between fork and exec the closure only calls `setrlimit`.
        unsafe {
            command.pre_exec(|| {
                let all =
                    libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
                // Past a hard limit this fails, and there is nothing to see then.
                libc::setrlimit(libc::RLIMIT_CORE, &raw const all);
                Ok(())
            });
        }
    };
    let mut command = world.agent_command(&[]);
    dumping(&mut command);
    let mut process = Process::start(command);
    assert!(process.wait_stderr(LIMIT, |line| line.contains("ready")).is_some());
    process.signal(libc::SIGABRT);
    let status = process.wait_exit(LIMIT).unwrap_or_else(|| panic!("{}", process.output()));
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(!status.core_dumped(), "the kernel wrote a core dump of the agent");
    let written = std::fs::read_dir(&directory).map_or(0, Iterator::count);
    assert_eq!(written, 0, "files beside the agent");
}

#[test]
fn the_runs_of_the_programs_are_counted_when_asked_for() {
    let mut world = World::traced_with(&["--program-times"]);
    let body = fill(100_000);
    let server = world.server(vec![Step::UntilMore(body.len()), Step::send(OK), Step::UntilClosed]);
    let head = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let steps = vec![
        Step::Connect(server.address()),
        Step::send(head),
        Step::send(&body),
        Step::until("\r\n\r\nok"),
    ];
    world.client(1, on_first(steps));
    let Some(outcome) = world.stop_agent() else { return };
    for program in ["track_connection", "rewrite_request", "read_egress", "read_ingress"] {
        let counter = |what: &str| outcome.counters.get(&format!("program_{program}_{what}"));
        let (runs, time) = (counter("runs"), counter("ns"));
        assert!(runs.is_some_and(|&n| n > 0), "{program}: {:?}", outcome.counters);
        // A run takes more than a nanosecond, and here not a millisecond each.
        assert!(time.is_some_and(|&ns| Some(&ns) > runs && ns < 1_000_000_000), "{program}");
    }
}

#[test]
fn runs_are_not_counted_unasked() {
    let switch = std::fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").unwrap_or_default();
    assert_eq!(switch.trim(), "0", "kernel.bpf_stats_enabled is set: this cannot be tested");
    let mut world = World::alone();
    world.start_agent(&[]);
    two_requests(&mut world, "not counted");
    let Some(outcome) = world.stop_agent() else { return };
    let counted: Vec<_> = outcome.counters.keys().filter(|k| k.starts_with("program_")).collect();
    assert!(counted.is_empty(), "{counted:?}");
}

#[test]
fn a_confined_process_is_confined() {
    let mut command = Command::new("cat");
    command.arg("/proc/self/status");
    confine::capabilities(&mut command, &[CAP_SYS_PTRACE]);
    let status = Process::start(command).succeed();
    let own = status_field(&proc_file(std::process::id(), "status"), "CapPrm");
    assert_eq!(status_field(&status, "CapPrm"), own & 1 << CAP_SYS_PTRACE);
    let mut command = Command::new("touch");
    command.args(["/dev/shm/tracewire-can-write", "/etc/tracewire-can-write"]);
    confine::read_only(&mut command, &[Path::new("/dev/shm")]);
    let mut process = Process::start(command);
    assert!(process.wait_exit(LIMIT).is_some_and(|status| !status.success()));
    assert!(process.stderr().contains("Read-only file system"), "{}", process.stderr());
    assert!(!Path::new("/etc/tracewire-can-write").exists());
    assert!(!Path::new("/dev/shm/tracewire-can-write").exists());
}
