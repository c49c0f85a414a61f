use std::collections::BTreeSet;
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

#[test]
fn a_function_is_probed_at_the_first_push_or_jump_that_finds_its_arguments() {
    // push rbx
    assert_eq!(entry::first_cheap(&[0x53, 0x48, 0x8b, 0x07], 0x100), Some(0x100));
    // sub rsp, 24; mov rax, [rdi]; test al, 2; jne
    let jump = [0x48, 0x83, 0xec, 0x18, 0x48, 0x8b, 0x07, 0xa8, 0x02, 0x75, 0x1c];
    assert_eq!(entry::first_cheap(&jump, 0x100), Some(0x109));
    // sub rsp, 24; mov rdi, [rdi]; jne
    let moved = [0x48, 0x83, 0xec, 0x18, 0x48, 0x8b, 0x3f, 0x75, 0x1c];
    assert_eq!(entry::first_cheap(&moved, 0x100), None, "the argument is gone");
    // sub rsp, 24; call
    assert_eq!(entry::first_cheap(&[0x48, 0x83, 0xec, 0x18, 0xe8, 0, 0, 0, 0], 0x100), None);
    assert_eq!(entry::first_cheap(&[], 0x100), None);
}
