//! What is handed on in Python, between threads and between tasks, leads to the right request, or to none.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tracewire_tests::agent::command;
use tracewire_tests::needs::{Package, lacks, probes};
use tracewire_tests::parents::parents;
use tracewire_tests::probes::bytes_changed;
use tracewire_tests::process::{Process, patient};
use tracewire_tests::script::{Load, Step};
use tracewire_tests::services::{Service, curl, greenlets, handing, nginx};
use tracewire_tests::world::{World, is_control, send};

const REQUESTS: usize = 800;

fn ask(world: &World, service: &Service, kind: &str) {
    let report = world.load(Load {
        to: ([127, 0, 0, 1], service.port).into(),
        path: format!("/{kind}"),
        threads: 16,
        requests: REQUESTS,
        limit_ms: 60_000,
    });
    assert_eq!(report.failures, Vec::<String>::new(), "{report:?}\n{}", service.output());
}

#[test]
fn a_greenlet_works_on_nothing_of_one_that_ended_before_its_answer_had_left() {
    if !probes() {
        return;
    }
    const CALLS: usize = 20;
    if lacks(&[Package::Gevent]) {
        return;
    }
    let mut world = World::traced();
    let leaf = nginx(&world, None, "location / { return 200 ok; }");
    let service = greenlets(&world, leaf.port);
    let to = SocketAddr::from(([127, 0, 0, 1], service.port));
    std::thread::sleep(Duration::from_secs(2));
    let steps = [
        Step::Connect(to),
        Step::send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n"),
        // It does not read, and so the last of the answer stays where it is.
        Step::Gate,
    ];
    let steps = steps.into_iter().map(|step| (0, step)).collect();
    let reader = world.peer(|directory| send(directory, steps));
    reader.wait_gate(0);
    std::thread::sleep(Duration::from_millis(500));
    for number in 0..CALLS {
        assert_eq!(curl(&world, &[&format!("http://{to}/one/{number}")]), "ok");
    }
    drop(reader);
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(parents(&outcome.spans, "one"), (CALLS, 0, 0), "right, none, wrong");
}

/// The file from which the service runs code that has the first of these words in its path of which there is
/// any.
fn mapped(service: &Service, words: &[&str]) -> String {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", service.id())).expect("it runs");
    let runs = maps.lines().filter(|line| line.contains(" r-xp "));
    let paths: Vec<_> = runs.filter_map(|line| line.find('/').map(|at| &line[at..])).collect();
    let with = |word: &&str| paths.iter().find(|path| path.contains(*word));
    words.iter().find_map(with).expect("the service has loaded it").to_string()
}

/// The interpreter: a library or the program itself, as it was built.
const INTERPRETER: &[&str] = &["/libpython", "bin/python"];

/// Waits until the agent has looked at the service: it does so now and then.
fn await_probes(service: &Service) {
    let deadline = Instant::now() + patient(Duration::from_secs(15));
    for words in [INTERPRETER, &["_queue."]] {
        let file = mapped(service, words);
        while !is_control() && bytes_changed(service.id(), &file) == 0 {
            assert!(Instant::now() < deadline, "{file} is not probed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Asks for a kind of request, each of which makes so many calls; none may have a wrong parent, and but one
/// in a hundred the right one.
fn nearly_all_are_right(mut world: World, is_loop: bool, kind: &str, calls: usize) {
    let service = handing(&world, is_loop);
    await_probes(&service);
    ask(&world, &service, kind);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, kind);
        assert_eq!(wrong, 0, "{right} right, {none} without");
        assert!(right >= REQUESTS * calls * 99 / 100, "{right} right, {none} without");
    }
}

#[test]
fn a_resource_that_is_kept_in_a_queue_is_no_job() {
    if !probes() {
        return;
    }
    nearly_all_are_right(World::traced(), false, "resource", 1);
}

#[test]
fn a_thread_that_waits_for_a_job_in_vain_works_on_none() {
    if !probes() {
        return;
    }
    nearly_all_are_right(World::traced(), false, "poll", 1);
}

#[test]
fn the_task_of_a_connection_works_on_what_a_callback_receives_for_it() {
    if !probes() {
        return;
    }
    nearly_all_are_right(World::traced(), true, "task", 2);
}

#[test]
fn tasks_that_are_older_than_the_agent_are_known_by_their_answers() {
    if !probes() {
        return;
    }
    let mut world = World::new();
    let service = handing(&world, true);
    world.start_agent(&[]);
    await_probes(&service);
    ask(&world, &service, "task");
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "task");
        assert_eq!(wrong, 0, "{right} right, {none} without");
        assert!(right >= REQUESTS * 2 * 98 / 100, "{right} right, {none} without");
    }
}

#[test]
fn a_task_that_is_older_than_the_agent_does_not_work_on_what_others_receive() {
    if !probes() {
        return;
    }
    let mut world = World::new();
    let service = handing(&world, true);
    let ask = |world: &World, number: u32| {
        let mut curl = Command::new("curl");
        let url = format!("http://127.0.0.1:{}/held/{number}", service.port);
        curl.args(["--silent", "--fail", "--max-time", "60", "--noproxy", "*"]).arg(url);
        world.start(curl)
    };
    let first = ask(&world, 1);
    let deadline = Instant::now() + patient(Duration::from_secs(15));
    while !service.output().contains("held 1") {
        assert!(Instant::now() < deadline, "{}", service.output());
        std::thread::sleep(Duration::from_millis(20));
    }
    world.start_agent(&[]);
    await_probes(&service);
    let second = ask(&world, 2);
    first.succeed();
    ask(&world, 3).succeed();
    second.succeed();
    if let Some(outcome) = world.stop_agent() {
        // What the first calls for came before the agent.
        assert_eq!(parents(&outcome.spans, "held"), (2, 1, 0));
    }
}

#[test]
fn check_says_what_is_known_of_an_interpreter() {
    if is_control() {
        return;
    }
    let world = World::traced();
    let service = handing(&world, true);
    await_probes(&service);
    let said = Process::start(command(&["check", "--pid", &service.id().to_string()])).succeed();
    let wanted = "a Python whose tasks can be told apart";
    let line = said.lines().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("ok ") && line.ends_with("all are probed now"), "{line}");
    assert!(said.contains("queues by which threads of Python get jobs, 3 places"), "{said}");
}

#[test]
fn without_the_rule_no_interpreter_is_probed() {
    if is_control() {
        return;
    }
    let world = World::traced_with(&["--without-rule", "python-context"]);
    let service = handing(&world, true);
    ask(&world, &service, "task");
    assert_eq!(bytes_changed(service.id(), &mapped(&service, INTERPRETER)), 0);
}
