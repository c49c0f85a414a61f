use std::fs::File;

use super::*;

fn inspected(path: &str) -> Option<TokioBinary> {
    inspect(&File::open(path).expect("the file is there"))
}

#[test]
fn where_this_program_runs_and_wakes_and_makes_tasks_is_found() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async { tokio::spawn(async {}).await }).expect("the task ends");
    let binary = inspected("/proc/self/exe").expect("tasks");
    assert!(!binary.wakes.is_empty() && !binary.makes.is_empty(), "{binary:?}");
    assert!(binary.runs.len() > 2, "many types: {binary:?}");
    let all: BTreeSet<u64> = binary.entries().map(|(place, _)| place).collect();
    assert_eq!(all.len(), binary.entries().count(), "each has a place of its own");
}

#[test]
fn programs_without_tasks_have_none() {
    assert_eq!(inspected("/bin/sh"), None);
    assert_eq!(inspected("/etc/hostname"), None);
}

#[test]
fn functions_that_were_made_one_are_known_if_all_tasks_are_alike_there() {
    let mut places = BTreeMap::new();
    for (place, id_offset) in [(1, 40), (1, 40), (2, 40), (2, 48), (2, 40)] {
        note(&mut places, place, id_offset);
    }
    assert_eq!(places, BTreeMap::from([(1, Some(40)), (2, None)]));
}
