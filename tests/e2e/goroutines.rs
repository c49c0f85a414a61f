//! A Go service, whose goroutines move between threads and send on connections that other
//! goroutines write on.

// The same service, clients, backend and judge as those of `cargo xtask causality`.
#[path = "../src/bin/causality/asking.rs"]
mod asking;
#[path = "../src/bin/causality/backend.rs"]
mod backend;
#[expect(dead_code, reason = "the suite's tables need more of it")]
#[path = "../src/bin/causality/load.rs"]
mod load;
#[path = "../src/bin/causality/truth.rs"]
mod truth;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use asking::Clients;
use backend::Backend;
use load::{Load, PATTERNS, Pattern};
use tracewire_tests::golang;
use tracewire_tests::needs::probes;
use tracewire_tests::probes::{await_bytes_changed, bytes_changed};
use tracewire_tests::services::{Service, free_port, start};
use tracewire_tests::world::{World, is_control};
use truth::{Spans, Verdict};

const AT_ONCE: usize = 16;
const REQUESTS: usize = 200;
/// Numbers of requests that count for nothing.
const WARMING: usize = 10_000_000;
/// How long what goes on behind an answer may take.
const AFTERMATH: Duration = Duration::from_millis(400);

/// Probes in the service where TLS is not read: at calls of `net/http`, requests that its server of HTTP/2
/// takes up, and births. Where it is, those at instructions that return are as many as the compiler made.
const PROBES: usize = 3;
const WITHOUT_TLS: [&str; 2] = ["--tls", "off"];

/// Builds the service, with more arguments. `None` where there is no Go.
fn built(world: &World, arguments: &[&str]) -> Option<PathBuf> {
    golang::built(world, "causality/service.go", arguments)
}

fn served(world: &World, program: &Path, backend: &Backend) -> Service {
    let mut command = Command::new(program);
    command.env("NEXT", format!("127.0.0.1:{}", backend.http));
    command.env("STORE", format!("127.0.0.1:{}", backend.store));
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// Asks so often for a pattern, with numbers from `first`.
fn ask(port: u16, pattern: &'static Pattern, first: usize, requests: usize, at_once: usize) {
    Clients::new(port, at_once).ask(&Load::of(pattern, first..first + requests), at_once);
}

/// Asks for each pattern, and judges each.
fn verdicts(world: &mut World, service: &Service) -> Vec<(&'static str, Verdict)> {
    for pattern in PATTERNS {
        ask(service.port, pattern, 0, REQUESTS, AT_ONCE);
        std::thread::sleep(AFTERMATH);
    }
    let Some(outcome) = world.stop_agent() else { return Vec::new() };
    let spans = Spans::new(&outcome.spans);
    PATTERNS.iter().map(|one| (one.name, spans.judge(&Load::of(one, 0..REQUESTS)))).collect()
}

/// Each call has the request as its parent in consequence of which it was made, if that was not
/// answered yet.
fn are_right(verdicts: &[(&str, Verdict)]) {
    for (name, verdict) in verdicts {
        let calls = verdict.right + verdict.missing + verdict.wrong;
        assert_eq!((verdict.wrong, verdict.unseen), (0, 0), "{name}: {verdict:?}");
        if *name == "background" {
            assert_eq!(verdict.right, 0, "{name}: {verdict:?}");
        } else {
            assert!(verdict.right * 100 >= calls * 99, "{name}: {verdict:?}");
        }
    }
}

#[test]
fn calls_of_a_program_without_symbols_have_their_parents() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let Some(program) = built(&world, &["-ldflags=-s -w"]) else { return };
    let backend = Backend::start();
    let service = served(&world, &program, &backend);
    are_right(&verdicts(&mut world, &service));
}

#[test]
fn calls_on_connections_older_than_the_agent_have_their_parents() {
    if !probes() {
        return;
    }
    let mut world = World::new();
    let Some(program) = built(&world, &[]) else { return };
    let backend = Backend::start();
    let service = served(&world, &program, &backend);
    for pattern in PATTERNS {
        ask(service.port, pattern, WARMING, 2 * AT_ONCE, AT_ONCE);
    }
    std::thread::sleep(AFTERMATH);
    world.start_agent(&[]);
    are_right(&verdicts(&mut world, &service));
}

#[test]
fn a_program_that_can_be_moved_has_its_parents() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let Some(program) = built(&world, &["-buildmode=pie", "-ldflags=-s -w"]) else { return };
    let backend = Backend::start();
    let service = served(&world, &program, &backend);
    are_right(&verdicts(&mut world, &service));
}

#[test]
fn a_goroutine_of_a_pool_gives_no_call_the_parent_for_which_it_was_made() {
    if !probes() {
        return;
    }
    for name in ["sequence", "parallel"] {
        let mut world = World::traced();
        let Some(program) = golang::built(&world, "pooled.go", &[]) else { return };
        let backend = Backend::start();
        let service = served(&world, &program, &backend);
        let pattern = PATTERNS.iter().find(|pattern| pattern.name == name);
        let pattern = pattern.expect("these are patterns");
        ask(service.port, pattern, 0, REQUESTS, AT_ONCE);
        std::thread::sleep(AFTERMATH);
        if let Some(outcome) = world.stop_agent() {
            let verdict = Spans::new(&outcome.spans).judge(&Load::of(pattern, 0..REQUESTS));
            assert_eq!((verdict.wrong, verdict.unseen), (0, 0), "{name}: {verdict:?}");
        }
    }
}

#[test]
fn without_the_rule_no_process_is_probed() {
    let world = World::traced_with(&["--without-rule", "goroutine"]);
    let Some(program) = built(&world, &[]) else { return };
    let backend = Backend::start();
    let service = served(&world, &program, &backend);
    ask(service.port, &PATTERNS[0], WARMING, AT_ONCE, AT_ONCE);
    assert_eq!(bytes_changed(process(&world), &program.to_string_lossy()), 0);
}

/// The one process in the world's cgroup.
fn process(world: &World) -> u32 {
    let path = world.cgroup.path().join("cgroup.procs");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let mut pids = text.lines().filter_map(|line| line.parse().ok());
    match (pids.next(), pids.next()) {
        (Some(pid), None) => pid,
        _ => panic!("not one process in {}: {text}", path.display()),
    }
}

#[test]
fn a_process_has_no_probe_left_when_the_agent_stops_or_dies() {
    if !probes() {
        return;
    }
    if is_control() {
        return;
    }
    let mut world = World::new();
    let Some(program) = built(&world, &[]) else { return };
    let code = program.to_string_lossy();
    let backend = Backend::start();
    let service = served(&world, &program, &backend);
    let pid = process(&world);
    assert_eq!(bytes_changed(pid, &code), 0);
    for dies in [false, true] {
        world.start_agent(&WITHOUT_TLS);
        await_bytes_changed(pid, &code, PROBES);
        // In the midst of requests.
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                for _ in 0..3 {
                    ask(service.port, &PATTERNS[1], WARMING, 100, AT_ONCE);
                }
            });
            std::thread::sleep(Duration::from_millis(100));
            if dies {
                world.kill_agent();
            } else {
                drop(world.take_agent().map(|agent| agent.stop_with_log()));
            }
            asking.join().expect("the service answers all the while");
        });
        await_bytes_changed(pid, &code, 0);
        ask(service.port, &PATTERNS[1], WARMING, 100, AT_ONCE);
    }
}

#[test]
fn other_processes_of_the_same_program_are_not_probed() {
    if !probes() {
        return;
    }
    if is_control() {
        return;
    }
    let world = World::traced_with(&WITHOUT_TLS);
    let Some(program) = built(&world, &[]) else { return };
    let code = program.to_string_lossy();
    let backend = Backend::start();
    let elsewhere = World::new();
    let (service, other) =
        (served(&world, &program, &backend), served(&elsewhere, &program, &backend));
    await_bytes_changed(process(&world), &code, PROBES);
    ask(service.port, &PATTERNS[0], WARMING, AT_ONCE, AT_ONCE);
    ask(other.port, &PATTERNS[0], WARMING, AT_ONCE, AT_ONCE);
    assert_eq!(bytes_changed(process(&elsewhere), &code), 0);
}
