use std::fs::File;
use std::process::Command;

use super::*;

fn inspected(path: &str) -> Option<PyBinary> {
    inspect(&File::open(path).expect("the file is there"))
}

/// What Debian's Python says of itself.
fn said_by_python(expression: &str) -> String {
    let output = Command::new("/usr/bin/python3")
        .args(["-c", &format!("import sys, _queue; print({expression})")])
        .output()
        .expect("every Debian has python3");
    String::from_utf8(output.stdout).expect("a line").trim().to_owned()
}

#[test]
fn an_interpreter_is_known_by_its_version() {
    let binary = inspected(&said_by_python("sys.executable")).expect("an interpreter");
    let minor: u32 = said_by_python("sys.version_info.minor").parse().expect("a number");
    let known = LAYOUTS.iter().find(|(version, _)| *version == minor).expect("a known one");
    let interpreter = binary.interpreter.and_then(Result::ok).expect("all of it is found");
    assert_eq!(interpreter.layout, known.1);
    assert_eq!(interpreter.threads_have_contexts, minor >= 14);
    let places = |place| binary.returns.iter().filter(|one| one.1 == place).count();
    assert_eq!(places(PyPlace::Copied), 1);
    assert!((3..=4).contains(&places(PyPlace::Made)), "Context(), its method copy, and two for C");
    assert_eq!(binary.enters.len(), 2, "PyContext_Enter and Context.run");
}

#[test]
fn the_queues_of_a_stripped_module_are_found() {
    let binary = inspected(&said_by_python("_queue.__file__")).expect("the module");
    assert_eq!(binary.interpreter, None);
    let put: Vec<_> = binary.entries.iter().map(|(_, place)| *place).collect();
    assert_eq!(put, [PyPlace::Put]);
    assert_eq!(binary.returns.len(), 2);
    let mut places: Vec<_> =
        binary.entries.iter().chain(&binary.returns).map(|(at, _)| *at).collect();
    places.dedup();
    assert_eq!(places.len(), 3, "three functions");
}

#[test]
fn other_programs_are_not_taken_for_python() {
    assert_eq!(inspected("/bin/sh"), None);
    assert_eq!(inspected("/etc/hostname"), None);
}
