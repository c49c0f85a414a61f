//! What the machine may do to the agent: threads without number, processors that go.

use std::path::Path;
use std::time::{Duration, Instant};

use tracewire_tests::swarm::{Ask, Swarm};

use crate::scene::{Scene, by_length, say};

/// A process with so many threads, each with a connection that was used once.
fn threads(scene: &Scene) -> Swarm {
    let connections = by_length(4_000, 10_000);
    let ask =
        Ask { connections, at_once: connections, hold: true, threads: true, ..Ask::default() };
    let swarm = scene.ask(ask);
    swarm.wait_held();
    swarm
}

#[test]
fn a_process_with_ten_thousand_threads_is_traced() {
    let mut scene = Scene::traced(&["--ring-bytes", "67108864"]);
    let mut swarm = threads(&scene);
    swarm.go_on();
    scene.finish("threads", swarm);
    scene.collector.wait_quiet();
    if let Some(accounts) = scene.end_complete() {
        accounts.lost_nothing();
    }
}

#[test]
fn an_agent_starts_and_reads_beside_a_process_with_ten_thousand_threads() {
    let mut scene = Scene::new();
    let mut swarm = threads(&scene);
    let started = Instant::now();
    scene.start_agent(&["--ring-bytes", "67108864"]);
    say(&format!("ready beside them after {:?}", started.elapsed()));
    // What is asked now has to be read at once, whatever else the agent has to do.
    let others = scene.gentle_load(3);
    scene.finish_swiftly("others", others);
    swarm.go_on();
    scene.finish("threads", swarm);
    scene.collector.wait_quiet();
    if let Some(accounts) = scene.stop_agent() {
        accounts.lost_nothing();
    }
    scene.end();
}

#[test]
fn a_processor_that_goes_and_comes_back_harms_no_request() {
    let switch = Path::new("/sys/devices/system/cpu/cpu1/online");
    let mut scene = Scene::traced(&["--ring-bytes", "67108864"]);
    let (mut kept, mut short) = (scene.load(600), scene.short_load(600));
    let mut went = 0;
    for _ in 0..by_length(2, 20) {
        std::thread::sleep(Duration::from_millis(300));
        let _back = Back(switch);
        match std::fs::write(switch, "0") {
            Ok(()) => went += 1,
            Err(error) => say(&format!("this machine does not let a processor go: {error}")),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    kept.go_on();
    short.go_on();
    scene.finish_swiftly("kept connections", kept);
    scene.finish_swiftly("short connections", short);
    scene.collector.wait_quiet();
    say(&format!("a processor went and came back {went} times"));
    assert!(
        went > 0 || !switch.exists(),
        "no processor went, though the kernel has a switch for it"
    );
    scene.end_complete();
}

/// Brings the processor back, also when the test fails.
struct Back<'a>(&'a Path);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(self.0, "1")
            && self.0.exists()
        {
            say(&format!("{}: {error}", self.0.display()));
        }
    }
}
