//! `tracewire check --pid`: what can be read of one process.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::line;
use crate::golang;
use crate::node;
use crate::python;
use crate::resolve::procfs::ProcFs;
use crate::ruby;
use crate::tls::mapped::{self, Mapped};
use crate::tls::{self, TlsLibrary};
use crate::tokio_tasks;

/// What stands where a probe is (`int3`).
const BREAKPOINT: u8 = 0xcc;

/// Prints what is known of the process. Answers whether it could be looked at.
pub(crate) fn check(pid: u32) -> bool {
    let Some(maps) = mapped::of(pid) else {
        let error = File::open(format!("/proc/{pid}/maps")).err();
        let why = error.map_or_else(String::new, |error| format!(": {error}"));
        line(&format!(
            "MISSING process {pid}: it is not there, or may not be looked at (CAP_SYS_PTRACE){why}"
        ));
        return false;
    };
    let executable = ProcFs::at("/proc").executable(pid);
    line(&format!("ok      process {pid}: runs {}", executable.as_deref().unwrap_or("no program")));
    let pieces: Vec<Mapped<'_>> = maps.lines().filter_map(Mapped::parse).collect();
    let mut seen = Vec::new();
    let mut can_be_read = false;
    let mut hidden = None;
    for piece in &pieces {
        if seen.contains(&piece.number) {
            continue;
        }
        seen.push(piece.number);
        let Some((file, _)) = piece.open(pid) else {
            line(&format!("off     {}: it was replaced on disk, or cannot be opened", piece.path));
            continue;
        };
        say_goroutines(piece.path, &file);
        say_python(pid, piece.path, &file, &pieces);
        say_node(pid, piece.path, &file, &pieces);
        if Some(piece.path) == executable.as_deref() {
            say_tokio(pid, piece.path, &file, &pieces);
        }
        match tls::inspect(&file) {
            Some(Ok(library)) => {
                can_be_read = true;
                say_library(pid, piece.path, &library, &pieces);
            }
            Some(Err(why)) => line(&format!("off     {}: TLS of a Go program: {why}", piece.path)),
            None if Some(piece.path) == executable.as_deref() => hidden = tls::hidden(&file),
            None if piece.path.ends_with("/libjvm.so") => {
                line(&format!("off     {}: TLS of Java is not read", piece.path));
            }
            None => {}
        }
    }
    say_ruby(pid, &pieces);
    if !can_be_read {
        line(&match hidden {
            Some(name) => format!(
                "off     TLS: the program seems to hold {name}, without the symbols by which it could be probed"
            ),
            None => "off     TLS: no library that can be probed is mapped".to_owned(),
        });
    }
    true
}

/// Says whether goroutines can be told apart, if it is a Go program.
fn say_goroutines(path: &str, file: &File) {
    match golang::inspect(file) {
        Some(Ok(binary)) => {
            let calls =
                if binary.calls.is_empty() { "; no client is in it that is known" } else { "" };
            line(&format!(
                "ok      {path}: a Go program whose goroutines can be told apart{calls}"
            ));
        }
        Some(Err(why)) => {
            line(&format!("off     {path}: goroutines cannot be told apart: {why}"));
        }
        None => {}
    }
}

/// Says whether tasks and jobs can be told apart, if the file is of CPython.
fn say_python(pid: u32, path: &str, file: &File, pieces: &[Mapped<'_>]) {
    let Some(binary) = python::inspect(file) else { return };
    let what = match &binary.interpreter {
        Some(Err(why)) => {
            return line(&format!("off     {path}: tasks of Python cannot be told apart: {why}"));
        }
        Some(Ok(_)) => "a Python whose tasks can be told apart",
        None if binary.switches_stacks => {
            return line(&format!(
                "ok      {path}: gevent: greenlets are told apart by their stacks, from CPython 3.11 on"
            ));
        }
        None if binary.enters_contexts => "an event loop for Python",
        None => "queues by which threads of Python get jobs",
    };
    let places = binary.entries.iter().chain(&binary.returns).map(|(place, _)| *place).collect();
    let state = state_of(pid, path, places, pieces);
    line(&format!("ok      {path}: {what}{state}"));
}

/// Says whether timers are seen to run, if the file is of Node.
fn say_node(pid: u32, path: &str, file: &File, pieces: &[Mapped<'_>]) {
    let Some(binary) = node::inspect(file) else { return };
    let state = state_of(pid, path, vec![binary.run_timers], pieces);
    line(&format!("ok      {path}: a Node that is seen to run timers{state}"));
}

/// Says whether it is seen who takes up requests, if the process runs Ruby.
fn say_ruby(pid: u32, pieces: &[Mapped<'_>]) {
    let Some(library) = ruby::c_library(pieces) else { return };
    let Some(options) = library.open(pid).and_then(|(file, _)| ruby::inspect(&file)) else {
        return line(&format!("off     {}: Ruby's calls of it are not found", library.path));
    };
    let state = state_of(pid, library.path, vec![options.getsockopt], pieces);
    line(&format!(
        "ok      {}: a Ruby whose threads are seen to take up requests, as puma's do{state}",
        library.path
    ));
}

/// Says whether tasks can be told apart, if it is a program on tokio.
fn say_tokio(pid: u32, path: &str, file: &File, pieces: &[Mapped<'_>]) {
    let Some(binary) = tokio_tasks::inspect(file) else { return };
    let lacks = match (binary.wakes.is_empty(), binary.makes.is_empty()) {
        (false, false) => "",
        (false, true) => "; who makes one is not seen, for it has no symbols that tell where",
        (true, _) => {
            "; what one has another send is not seen, for it is not found where they are woken"
        }
    };
    let places = binary.entries().map(|(place, _)| place).collect();
    let state = state_of(pid, path, places, pieces);
    line(&format!(
        "ok      {path}: a program on tokio whose tasks can be told apart{lacks}{state}"
    ));
}

fn say_library(pid: u32, path: &str, library: &TlsLibrary, pieces: &[Mapped<'_>]) {
    let places = [&library.entries, &library.returns, &library.ends]
        .into_iter()
        .flatten()
        .map(|(place, _)| *place)
        .collect();
    let state = state_of(pid, path, places, pieces);
    line(&format!("ok      {path}: {}{state}", library.kind));
}

/// How many places there are to probe, and how many of them are probed.
fn state_of(pid: u32, path: &str, mut places: Vec<u64>, pieces: &[Mapped<'_>]) -> String {
    places.sort_unstable();
    places.dedup();
    let wanted = places.len();
    let state = match probed(pid, path, &places, pieces) {
        _ if wanted == 0 => return String::new(),
        Some(0) => "none is probed now".to_owned(),
        Some(probed) if probed == wanted => "all are probed now".to_owned(),
        Some(probed) => format!("{probed} are probed now"),
        None => "whether they are probed now cannot be seen (CAP_SYS_PTRACE)".to_owned(),
    };
    format!(", {wanted} places to probe, {state}")
}

/// How many of these places in the file have a probe, as the process runs it.
fn probed(pid: u32, path: &str, places: &[u64], pieces: &[Mapped<'_>]) -> Option<usize> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let of_file = || pieces.iter().filter(|piece| piece.path == path);
    let mut found = 0;
    for place in places {
        let address = of_file().find_map(|piece| piece.address_of(*place))?;
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address).ok()?;
        found += usize::from(byte[0] == BREAKPOINT);
    }
    Some(found)
}
